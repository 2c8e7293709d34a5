"""`dragoman models ...`: the commands for choosing, downloading and comparing models."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer import api
from indexer.errors import IndexerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indexer.client import IndexerClient

# The helpers for terminals are in `cli`, which imports this module; so they are imported where they are used.

models_app = typer.Typer(
    help="""List, download, choose, compare and remove models.

    A model is named by its id on the Hugging Face Hub (`Qwen/Qwen3-Embedding-0.6B`, or only its last part
    where that is clear), by the path of a folder or .gguf file, or by `server:NAME` for a server in the
    settings.

    Another model: `dragoman models install NAME`, then `dragoman models use NAME`. Search goes on meanwhile.
    """,
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="FOLDER", help="Use a separate library kept in this folder.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Reference = Annotated[str, typer.Argument(metavar="MODEL", help="Its name, path, or server:NAME.")]
Dimensions = Annotated[
    int,
    typer.Option("--dimensions", min=0, metavar="N", help="Shorter vectors (Matryoshka); 0 for the longest."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@models_app.command("list")
def list_models(context: typer.Context, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List known and installed models: size, languages, licence, memory, measured speed."""
    from rich.table import Table

    from indexer import cli

    with cli._client(context, data_dir) as client:
        found = client.models()
    if as_json:
        typer.echo(cli._json(cli._builtins(found), indent=1))
        return
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for name in ("", "Model", "State", "Languages", "Licence"):
        table.add_column(name, overflow="fold", no_wrap=name == "State")
    for name in ("Size", "Memory", "Dim.", "Tokens", "Speed"):
        table.add_column(name, justify="right", no_wrap=True)
    for model in found:
        size = model.installed_bytes or model.download_bytes
        table.add_row(
            "*" if model.recommended else "",
            cli._safe(cli._one_line(model.reference)),
            model.state,
            cli._safe(cli._one_line(model.languages.removesuffix(" languages"))),
            cli._safe(cli._one_line(model.licence)),
            _bytes(size) if size else "",
            _bytes(model.memory_bytes) if model.memory_bytes else "",
            f"{model.dimensions:,}" if model.dimensions else "",
            f"{model.max_tokens:,}" if model.max_tokens else "",
            _speed(model),
        )
    console = cli._console()
    console.print(table)
    if any(model.recommended for model in found):
        console.print("\n* suits this computer best. Speed in tokens a second, where it was measured.")


@models_app.command()
def info(
    context: typer.Context, reference: Reference, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Show what is known of a model, and what this library has of it."""
    from indexer import cli

    with cli._client(context, data_dir) as client:
        model = _find(client, reference)
    if as_json:
        typer.echo(cli._json(cli._builtins(model), indent=1))
        return
    console = cli._console()
    console.print(f"[bold]{cli._safe(cli._one_line(model.reference))}[/]", highlight=False, soft_wrap=True)
    if model.summary:
        console.print(cli._safe(model.summary), soft_wrap=True)
    choices = f"{model.dimensions:,}" if model.dimensions else ""
    if model.choices:
        choices += " (or " + ", ".join(map(str, model.choices)) + ")"
    size = model.installed_bytes
    rows = {
        "State": model.state + (", recommended for this computer" if model.recommended else ""),
        "Kind": model.kind,
        "Licence": model.licence,
        "Languages": model.languages,
        "Parameters": _count(model.parameters) if model.parameters else "",
        "Download": f"about {_bytes(model.download_bytes)}" if model.download_bytes else "",
        "On this disk": _bytes(size) if size else "",
        "Memory": f"about {_bytes(model.memory_bytes)}" if model.memory_bytes else "",
        "Dimensions": choices,
        "Longest input": f"{model.max_tokens:,} tokens" if model.max_tokens else "",
        "Speed here": _speed(model, long=True) or "not measured: `dragoman models verify` does it",
        "In this library": f"{model.vectors:,} vectors, {_bytes(model.vector_bytes)}"
        if model.vectors
        else "",
    }
    for name, value in rows.items():
        if value:
            console.print(
                f"  {name + ':':<17}{cli._safe(cli._one_line(value))}", highlight=False, soft_wrap=True
            )


@models_app.command()
def install(
    context: typer.Context, reference: Reference, data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Download a model, or check that a folder or .gguf file is one.

    Ctrl-C stops; the next try goes on there. Only safetensors are taken, every file is checked against its
    checksum, and no code of a model is ever run. Models whose licence has to be accepted need a token of the
    Hugging Face Hub in HF_TOKEN, or `hf auth login`.
    """
    from indexer import cli

    with cli._client(context, data_dir) as client:
        reference = _resolve(client, reference)
        try:
            last = _download(client, reference, quiet=as_json)
        except KeyboardInterrupt:
            cli._console(stderr=True).print(
                "Stopped. What was downloaded is kept; the next try goes on there."
            )
            raise typer.Exit(130) from None
    if as_json:
        typer.echo(cli._json({"reference": reference, "bytes": last.done if last else 0}))
        return
    console = cli._console()
    console.print(f"{cli._safe(cli._one_line(reference))} is installed.", soft_wrap=True, highlight=False)
    console.print(
        f"To search with it: dragoman models use {cli._safe(cli._one_line(reference))}",
        soft_wrap=True,
        highlight=False,
    )


@models_app.command()
def plan(
    context: typer.Context,
    reference: Reference,
    data_dir: DataDir = None,
    dimensions: Dimensions = 0,
    as_json: AsJson = False,
) -> None:
    """Say what building the index of an installed model would cost: texts, disk, time."""
    from indexer import cli

    with cli._client(context, data_dir) as client:
        reference = _resolve(client, reference)
        asking(reference)
        found = client.plan_model(reference, dimensions)
    if as_json:
        typer.echo(cli._json(cli._builtins(found), indent=1))
        return
    _show_plan(found)


@models_app.command()
def use(
    context: typer.Context,
    reference: Reference,
    data_dir: DataDir = None,
    dimensions: Dimensions = 0,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Keep the present model's index up to date, too, to compare the two."),
    ] = False,
    yes: Yes = False,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress and return after the switch.")] = False,
) -> None:
    """Search with another model: its index is built beside the present one, which serves meanwhile.

    No file is read again. It goes on in the background, also after a restart; `dragoman status` shows how far
    it is, and `dragoman models cancel` stops it.
    """
    from indexer import cli

    with cli._client(context, data_dir) as client:
        reference = _resolve(client, reference)
        asking(reference)
        cost = client.plan_model(reference, dimensions)
        if cost.texts and not yes:
            _show_plan(cost)
            _confirm("Build it?")
        client.use_model(reference, dimensions, keep=keep)
        if wait:
            _wait_for_switch(client, reference)
        elif cost.texts:
            typer.echo("Building in the background. `dragoman status` shows how far it is.")
        else:
            typer.echo("Its index is complete. It takes over as soon as it is loaded.")


@models_app.command()
def cancel(
    context: typer.Context,
    reference: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="A kept model to drop; none for the one being built.")
    ] = "",
    data_dir: DataDir = None,
) -> None:
    """Stop building an index, or drop one that was kept; what was built of it is removed."""
    from indexer import cli

    with cli._client(context, data_dir) as client:
        client.cancel_switch(_resolve(client, reference) if reference else "")
    typer.echo("Stopped.")


@models_app.command()
def remove(context: typer.Context, reference: Reference, data_dir: DataDir = None, yes: Yes = False) -> None:
    """Remove a downloaded model that is not in use, and its vectors in this library."""
    from indexer import cli

    with cli._client(context, data_dir) as client:
        reference = _resolve(client, reference)
        if not yes:
            _confirm(f"Remove {cli._one_line(reference)} from this computer?")
        client.remove_model(reference)
    cli._console().print(
        f"{cli._safe(cli._one_line(reference))} was removed.", soft_wrap=True, highlight=False
    )


@models_app.command()
def verify(
    context: typer.Context,
    reference: Reference,
    data_dir: DataDir = None,
    dimensions: Dimensions = 0,
    as_json: AsJson = False,
) -> None:
    """Compare the similarities that an installed model gives with published ones, and measure its speed.

    Downloads nothing. The published numbers are of Qwen3-Embedding-0.6B.
    """
    from rich.table import Table

    from indexer import cli

    with cli._client(context, data_dir) as client:
        found = client.verify_model(_resolve(client, reference), dimensions)
    if as_json:
        typer.echo(cli._json(cli._builtins(found), indent=1))
        return
    console = cli._console()
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("First")
    table.add_column("Second")
    table.add_column("Here", justify="right")
    table.add_column("Published", justify="right")
    for pair in found.pairs:
        table.add_row(
            cli._safe(pair.first), cli._safe(pair.second), f"{pair.similarity:.3f}", f"{pair.published:.3f}"
        )
    console.print(table)
    if not found.is_reference:
        console.print(
            "\nThis is another model than the one that the published numbers are of: "
            "compare the order, not the size.",
            soft_wrap=True,
        )
    if found.note:
        console.print(f"\n{cli._safe(found.note)}", soft_wrap=True)
    console.print(f"\n{found.tokens_per_s:,.0f} tokens/s on {cli._safe(found.device)}.", highlight=False)


# --- helpers ----------------------------------------------------------------------------------


def asking(reference: str) -> None:
    """Say what is waited for, where a server is asked."""
    if reference.startswith("server:"):
        typer.echo(f"Asking {reference} for a vector; it has half a minute to answer.", err=True)


def _resolve(client: IndexerClient, text: str) -> str:
    """The reference that a person means: a path made absolute, a short name made whole."""
    if text.startswith(("/", "./", "../", "~")) or text in {".", ".."} or text.lower().endswith(".gguf"):
        return _full(text)
    found = _matching(client.models(), text)
    return found[0].reference if len(found) == 1 else text


def _full(text: str) -> str:
    """The full path that a person means, in the form that models are known by."""
    path = Path(text).expanduser().absolute()
    return str(path.resolve() if ".." in path.parts else path)


def _matching(models: Sequence[api.Model], text: str) -> list[api.Model]:
    wanted = text.casefold()
    exact = [model for model in models if model.reference == text]
    same = exact or [model for model in models if model.reference.casefold() == wanted]
    return same or [model for model in models if model.name.casefold() == wanted]


def _find(client: IndexerClient, text: str) -> api.Model:
    """A listed model.

    Raises:
        IndexerError: It is none, or there are several of that name.
    """
    models = client.models()
    if text.startswith((".", "~")) or text.lower().endswith(".gguf"):
        text = _full(text)
    found = _matching(models, text)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(model.reference for model in found)
        raise IndexerError("Several models have that name", f"Say which one: {names}.")
    raise IndexerError(
        "That model is not known here",
        f"{text} is neither among the known models nor installed. `dragoman models list` names those; any "
        f"other one of the Hugging Face Hub can be installed: dragoman models install {text}",
    )


def _download(client: IndexerClient, reference: str, *, quiet: bool) -> api.Progress | None:
    """Install with a progress bar; the last progress that came."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    from indexer import cli

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    last: api.Progress | None = None
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            Progress(*columns, console=cli._console(stderr=True), transient=True, disable=quiet)
        )
        task = bar.add_task("Asking the Hub", total=None, left="")
        told = stack.enter_context(contextlib.closing(client.install_model(reference)))
        for last in told:
            left = "" if last.remaining_s is None else f"about {_duration(last.remaining_s)} left"
            bar.update(
                task,
                description=cli._safe(cli._one_line(last.current)) or "Downloading",
                completed=last.done,
                total=last.total or None,
                left=left,
            )
    return last


def _show_plan(found: api.Plan) -> None:
    from indexer import cli

    console = cli._console()
    if not found.texts:
        console.print("Its index is complete: the switch costs nothing.")
        return
    time = (
        "unknown; `dragoman models verify` measures the model's speed"
        if found.seconds is None
        else f"about {_duration(found.seconds)}"
    )
    rows = {
        "Texts to embed": f"{found.texts:,}",
        "Disk": f"about {_bytes(found.disk_bytes)} of {_bytes(found.free_bytes)} that are free",
        "Time": time,
    }
    for name, value in rows.items():
        console.print(f"{name + ':':<16}{value}", highlight=False, soft_wrap=True)


def _confirm(question: str) -> None:
    """Ask; anything but yes ends the command."""
    if not typer.confirm(question):
        raise typer.Exit(1)


def _wait_for_switch(client: IndexerClient, reference: str) -> None:
    """Show progress until nothing is being built any more.

    Raises:
        IndexerError: It was cancelled, another model was chosen meanwhile, or it cannot go on.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from indexer import cli

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    console = cli._console(stderr=True)
    told = ""
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Loading", total=None, left="")
        for now in client.watch():
            switch = now.switch
            if switch is None or switch.reference != reference:
                break
            if switch.state == "paused":
                raise IndexerError("Building is paused", "Run `dragoman resume` to go on.")
            if switch.message and switch.message != told:
                told = switch.message
                console.print(f"[yellow]{cli._safe(told)}[/]", soft_wrap=True)
            left = "" if switch.remaining_s is None else f"about {_duration(switch.remaining_s)} left"
            bar.update(
                task,
                description=switch.state.capitalize(),
                completed=switch.done,
                total=switch.total or None,
                left=left,
            )
    if all(model.state != "active" for model in _matching(client.models(), reference)):
        raise IndexerError(
            "The model was not changed",
            "Building its index was cancelled, or another model was chosen meanwhile. Searches use "
            f"{cli._one_line(now.encoder.model) or 'the one'} as before.",
        )
    console.print(
        f"Searches now use {cli._safe(cli._one_line(now.encoder.model or reference))}.", highlight=False
    )


def _speed(model: api.Model, *, long: bool = False) -> str:
    if model.tokens_per_s is None:
        return ""
    return f"{model.tokens_per_s:,.0f} tokens/s on {model.device}" if long else f"{model.tokens_per_s:,.0f}"


def _bytes(count: int) -> str:
    if count >= 10**9:
        return f"{count / 1e9:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 10**6 else f"{count / 1e3:.0f} kB"


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} billion" if parameters >= 10**9 else f"{parameters / 1e6:.0f} million"


def _duration(seconds: float) -> str:
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
