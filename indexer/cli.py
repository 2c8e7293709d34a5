"""The command line: a thin door onto IndexerClient."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import unicodedata
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from indexer import __version__, api
from indexer import settings as settings_module
from indexer.api import local_path
from indexer.cli_check import check
from indexer.cli_lock import let_in, lock_app
from indexer.cli_models import _duration, models_app
from indexer.cli_servers import chroma
from indexer.client import IndexerClient, stop_service
from indexer.errors import FatalError, IndexerError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

_SLOWED = {
    "battery": "Indexing is slower on battery",
    "active": "Indexing is slower while the computer is in use",
    "disk": "Indexing waits for room on the disk",
}


class Speed(StrEnum):
    """As `Settings.speed`."""

    GENTLE = "gentle"
    BALANCED = "balanced"
    FULL = "full"


app = typer.Typer(
    name="dragoman",
    help="""Find your files by meaning, in any language, offline.

    Without a command the window opens. The commands work on the same library, through the same
    indexing service, which starts by itself and ends when nobody needs it.

    A first try: `dragoman index ~/Documents --wait`, then `dragoman search "what did I ask the landlord"`.
    """,
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

app.add_typer(models_app, name="models")
app.add_typer(lock_app, name="lock")
app.command()(chroma)
app.command()(check)

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="FOLDER", help="Use a separate library kept in this folder.", show_default=False
    ),
]


class Task(StrEnum):
    """What is sought; see `api.Task`."""

    notes = "notes"
    code = "code"
    question = "question"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def main() -> None:
    """Run the command line; errors for people go to standard error and end with code 1."""
    try:
        app()
    except IndexerError as error:
        _console(stderr=True).print(
            f"[bold red]{_safe(error.title)}.[/] {_safe(error.message)}", soft_wrap=True
        )
        sys.exit(1)
    except BrokenPipeError:
        # The reader (head, less) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(0)


@app.callback(invoke_without_command=True)
def window(
    context: typer.Context,
    data_dir: DataDir = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Open the window (also: no command at all)."""
    context.obj = data_dir
    if version:
        typer.echo(f"dragoman {__version__}")
        return
    if context.invoked_subcommand is not None:
        return
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        _console().print(
            "There is no display here, so the window cannot open. "
            "The same job follows in this terminal, on the sample library.\n"
        )
        _demo(data_dir)
        return
    command = [sys.executable, "-m", "desktop", *(["--data-dir", str(data_dir)] if data_dir else [])]
    os.execv(sys.executable, command)


@app.command()
def index(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Folders to add to the library.")],
    data_dir: DataDir = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Show progress and return when everything is indexed.")
    ] = False,
) -> None:
    """Add folders to the library and index them, now and whenever something in them changes."""
    with _client(context, data_dir) as client:
        for path in paths:
            client.add_folder(path.expanduser().absolute())
        if wait:
            _wait(client)
        else:
            typer.echo("Indexing in the background. `dragoman status` shows how far it is.")


@app.command()
def search(
    context: typer.Context,
    query: Annotated[
        str | None, typer.Argument(help="What you look for, in your own words and language.")
    ] = None,
    data_dir: DataDir = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most this many files.")] = 10,
    batch: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask every line of FILE (- for standard input); with --json only."),
    ] = None,
    below: Annotated[
        list[Path] | None,
        typer.Option("--in", metavar="PATH", help="Only files in this folder; may be repeated."),
    ] = None,
    as_json: AsJson = False,
    why: Annotated[bool, typer.Option("--why", help="Say what each file was found by.")] = False,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold/--no-fold", help="Show copies and translations under one another or by themselves."
        ),
    ] = True,
    rerank: Annotated[
        bool | None,
        typer.Option(
            "--rerank/--no-rerank",
            help="Let the reranker order the first hits; else as set.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(
            help="What you look for, for models that take instructions; else told by the query.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Search the index of this model, built or kept beside the one in use.",
            show_default=False,
        ),
    ] = "",
) -> None:
    """Find files by meaning: ask in one language, find the passage in another.

    A query may hold filters, in any order and any number:

    - `dragoman search 'notice period ext:pdf,docx'`: files that end so; also `type:code`, `type:python`

    - `dragoman search 'lang:german after:2025-01 before:2025-06-30 rent'`: language and time of last change;
      also `after:yesterday`, `after:7d`

    - `dragoman search '"annual report" -draft in:"My Documents"'`: these very words, without that
      one, in a folder

    - `dragoman search 'name:invoice size:>1mb'`: no more than filters: the newest files first

    - `dragoman search '(boat OR ship) type:code -lang:en'`: alternatives; a hyphen excludes

    Put a query with filters in single quotes, and one that begins with a hyphen behind `--`.

    With --json one JSON array is printed; with --batch one array a line, in the order of the questions. What
    in a query was not understood is told on standard error.
    """
    if (query is None) == (batch is None):
        raise typer.BadParameter("Give either a QUERY or --batch FILE.")
    if batch is not None and not as_json:
        raise typer.BadParameter("--batch needs --json.")
    folders = tuple(str(path.expanduser().absolute()) for path in below or ())
    with _client(context, data_dir) as client:
        if batch is not None:
            for line in _lines(batch):
                found = client.search(
                    line,
                    limit=limit,
                    mark=False,
                    folders=folders,
                    fold=fold,
                    rerank=rerank,
                    task=task.value if task else "",
                    model=model,
                )
                sys.stdout.write(_json([_hit_json(hit) for hit in found.hits]) + "\n")
                sys.stdout.flush()
                _print_problems(line, found.problems)
            return
        assert query is not None
        found = client.search(
            query,
            limit=limit,
            folders=folders,
            fold=fold,
            rerank=rerank,
            task=task.value if task else "",
            model=model,
        )
        _print_problems(query, found.problems)
        _print_found(client, found, as_json=as_json, why=why)


@app.command()
def compare(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="As in `dragoman search`.")],
    data_dir: DataDir = None,
    limit: Annotated[int, typer.Option(min=1, max=50, help="At most this many files of each model.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Ask the model in use and the one that is kept beside it the same, side by side.

    `dragoman models use MODEL --keep` keeps the index that is in use beside the new one.
    """
    with _client(context, data_dir) as client:
        order = {"active": 0, "kept": 1, "building": 2}
        beside = sorted((m for m in client.models() if m.state in order), key=lambda m: order[m.state])
        if len(beside) < 2:
            raise IndexerError(
                "Nothing to compare with",
                "Only one model has an index. `dragoman models use MODEL --keep` builds another beside it.",
            )
        both = beside[:2]
        found = [client.search(query, limit=limit, mark=False, model=model.reference) for model in both]
    if as_json:
        answer = {
            model.reference: [_hit_json(hit) for hit in result.hits]
            for model, result in zip(both, found, strict=True)
        }
        typer.echo(_json(answer, indent=2))
        return
    _print_beside(both, found)


@app.command()
def similar(
    context: typer.Context,
    path: Annotated[
        Path, typer.Argument(help="An indexed file; - for text of any length on standard input.")
    ],
    query: Annotated[
        str, typer.Argument(help="Filters, such as lang:zh or type:pdf.", show_default=False)
    ] = "",
    data_dir: DataDir = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="At most this many files.")] = 10,
    as_json: AsJson = False,
    why: Annotated[bool, typer.Option("--why", help="Say what each file was found by.")] = False,
) -> None:
    """Find what is similar to a file, or to any text."""
    if str(path) == "-":
        like = api.Like(text=sys.stdin.buffer.read().decode("utf-8", "replace"))
    else:
        like = api.Like(path=str(path.expanduser().absolute()))
    with _client(context, data_dir) as client:
        found = client.search(query, limit=limit, like=like)
        _print_problems(query, found.problems)
        _print_found(client, found, as_json=as_json, why=why)


def _print_found(client: IndexerClient, found: api.SearchResult, *, as_json: bool, why: bool) -> None:
    if as_json:
        typer.echo(_json([_hit_json(hit) for hit in found.hits], indent=1))
        return
    _print_hits(found, why=why)
    if not found.hits and client.status().files == 0:
        typer.echo("The library is empty. Add a folder: dragoman index FOLDER --wait")


@app.command()
def status(context: typer.Context, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Show what the library holds and what the service is doing."""
    with _client(context, data_dir) as client:
        now = client.status()
        if as_json:
            typer.echo(json.dumps(_builtins(now), ensure_ascii=False, indent=1))
            return
        console = _console()
        console.print(
            f"[bold]{now.state.capitalize()}[/]: {now.files:,} files, {now.chunks:,} passages",
            highlight=False,
        )
        if now.waiting:
            console.print(f"{now.waiting:,} files wait{_rate(now)}", highlight=False)
        if now.slowed:
            console.print(_SLOWED.get(now.slowed, _safe(now.slowed)))
        if now.failed or now.skipped:
            console.print(
                f"{now.failed:,} could not be read, {now.skipped:,} skipped: `dragoman problems` says why",
                highlight=False,
            )
        encoder = now.encoder
        console.print(
            f"Model: {_safe(_one_line(encoder.model or '-'))} "
            f"({encoder.state}{encoder.device and ', ' + _safe(encoder.device)})"
        )
        if encoder.message:
            console.print(_safe(encoder.message))
        if now.reading:
            console.print(f"Reading files: {_safe(now.reading)}", highlight=False)
        if now.switch is not None:
            console.print(_building(now.switch), highlight=False, soft_wrap=True)
        if now.lock == "open":
            console.print("The library is encrypted, and open: `dragoman lock close` locks it.")
        elif now.index == "exact":
            console.print("The search index is being checked or rebuilt; exact search serves meanwhile.")
        for notice in now.notices:
            console.print(f"[yellow]{_safe(notice.title)}.[/] {_safe(notice.message)}", soft_wrap=True)


@app.command()
def folders(context: typer.Context, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the folders of the library."""
    with _client(context, data_dir) as client:
        found = client.folders()
        if as_json:
            typer.echo(json.dumps(_builtins(found), ensure_ascii=False, indent=1))
            return
        if not found:
            typer.echo("The library is empty. Add a folder: dragoman index FOLDER --wait")
            return
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in ("Folder", "State", "Files", "Passages", "Waiting", "Problems"):
            table.add_column(
                name, justify="left" if name in ("Folder", "State") else "right", overflow="fold"
            )
        for folder in found:
            numbers = (folder.files, folder.chunks, folder.waiting, folder.problems)
            table.add_row(_safe(_one_line(folder.path)), folder.watch, *(f"{n:,}" for n in numbers))
        _console().print(table)


@app.command()
def problems(context: typer.Context, data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List the files that are not in the index, and why."""
    with _client(context, data_dir) as client:
        found = client.problems(limit=10_000)
        if as_json:
            typer.echo(json.dumps(_builtins(found.problems), ensure_ascii=False, indent=1))
            return
        console = _console()
        for problem in found.problems:
            why = f"{problem.kind}: {_safe(problem.title)}. {_safe(problem.message)}"
            console.print(
                f"{_safe(_one_line(problem.path))}\n  {why}",
                soft_wrap=True,
                highlight=False,
            )
        if not found.problems:
            typer.echo("Every file of the library is in the index.")


@app.command()
def retry(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH...]", help="Files; none for all that failed.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Try files again that could not be read."""
    with _client(context, data_dir) as client:
        client.retry(tuple(str(path.absolute()) for path in paths or ()))


@app.command()
def remove(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A folder of the library.")],
    data_dir: DataDir = None,
) -> None:
    """Take a folder out of the library. The files themselves are not touched."""
    with _client(context, data_dir) as client:
        client.remove_folder(path.expanduser().absolute())


@app.command()
def pause(context: typer.Context, data_dir: DataDir = None) -> None:
    """Pause indexing; search goes on."""
    with _client(context, data_dir) as client:
        client.set_paused(True)


@app.command()
def resume(context: typer.Context, data_dir: DataDir = None) -> None:
    """Resume indexing."""
    with _client(context, data_dir) as client:
        client.set_paused(False)


@app.command()
def speed(
    context: typer.Context,
    wanted: Annotated[
        Speed | None, typer.Argument(show_default=False, help="Without it, what is chosen is shown.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Choose how much of the machine indexing may take; searches are never slowed.

    gentle takes about a quarter of the processor; balanced all of it while nobody needs it, and half, with
    breaks, while you search, other programs are busy or the machine runs on battery; full takes all of it.
    """
    with _client(context, data_dir) as client:
        settings = client.settings()
        if wanted is not None and wanted != settings.speed:
            settings = msgspec.structs.replace(settings, speed=wanted.value)
            client.put_settings(settings)
        typer.echo(settings.speed)


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 for all of this machine's.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 for a free one.")] = 8765,
    key: Annotated[
        str,
        typer.Option(
            envvar="DRAGOMAN_SERVE_KEY",
            help="What clients must send as their API key. One is made where other machines can connect.",
            show_default=False,
        ),
    ] = "",
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name that this server may be called by.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="Web pages that may use it, such as https://example.org."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Serve the active model to other programs, as OpenAI's API for embeddings, until Ctrl-C."""
    from indexer import http

    door = http.Door(host, port, key, tuple(allow_host or ()), tuple(allow_origin or ()))
    http.serve(_data_dir(context, data_dir), door, typer.echo)


@app.command()
def stop(context: typer.Context, data_dir: DataDir = None) -> None:
    """Stop the background service; what waits is indexed at the next start."""
    if not stop_service(_data_dir(context, data_dir)):
        typer.echo("Nothing is running.")


@app.command()
def demo(context: typer.Context, data_dir: DataDir = None) -> None:
    """Index the sample library and ask it one question in each of its languages."""
    _demo(data_dir or context.obj)


def _demo(data_dir: Path | None) -> None:
    assets = _assets()
    if assets is None:
        raise FatalError("The sample library is missing", "It is part of the source; install Dragoman again.")
    examples = json.loads((assets / "sample-library-questions.json").read_text(encoding="utf-8"))["examples"]
    console = _console()
    with IndexerClient(data_dir or settings_module.cache_dir() / "demo", name="demo") as client:
        client.add_folder(assets / "sample-library")
        _wait(client)
        for example in examples:
            console.rule(f"[bold]{_safe(example['query'])}", align="left")
            _print_hits(client.search(example["query"], limit=3, passages=1))
    console.print(
        "Index your own files: [bold]dragoman index FOLDER --wait[/], then [bold]dragoman search QUESTION[/]."
    )


def _assets() -> Path | None:
    here = Path(__file__).resolve().parents[1]
    for place in (here / "assets", here / "desktop" / "assets"):
        if (place / "sample-library").is_dir():
            return place
    return None


def _data_dir(context: typer.Context, data_dir: Path | None) -> Path:
    chosen: Path | None = data_dir or context.obj
    return (chosen.expanduser() if chosen else settings_module.default_data_dir()).absolute()


def _client(context: typer.Context, data_dir: Path | None) -> IndexerClient:
    folder = _data_dir(context, data_dir)
    client = IndexerClient(folder, name="cli")
    if settings_module.encrypted(folder):
        try:
            let_in(client)
        except BaseException:
            client.close()
            raise
    return client


def _wait(client: IndexerClient) -> None:
    """Show progress until nothing waits.

    Raises:
        IndexerError: Indexing is paused or cannot go on.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    console = _console(stderr=True)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("Starting", total=None, rate="")
        told: set[str] = set()
        for now in client.watch():
            for notice in now.notices:
                if notice.title not in told:
                    told.add(notice.title)
                    console.print(
                        f"[yellow]{_safe(notice.title)}.[/] {_safe(notice.message)}", soft_wrap=True
                    )
            total = now.done + now.waiting
            bar.update(
                task,
                description=now.state.capitalize(),
                completed=now.done,
                total=total or None,
                rate=_rate(now),
            )
            if now.state == "watching":
                break
            if now.state == "paused":
                raise IndexerError("Indexing is paused", "Run `dragoman resume` to go on.")
            if now.state == "failed":
                raise IndexerError(now.notices[0].title, now.notices[0].message)
            if now.encoder.state == "failed":
                raise IndexerError("The model cannot be used", now.encoder.message)
    console.print(f"{now.files:,} files, {now.chunks:,} passages in the index.", highlight=False)
    if now.failed or now.skipped:
        console.print(
            f"{now.failed:,} could not be read, {now.skipped:,} skipped: `dragoman problems` says why.",
            highlight=False,
        )


def _building(switch: api.SwitchStatus) -> str:
    """How far the index of another model is."""
    name = _safe(switch.reference)
    far = f"{switch.done:,} of {switch.total:,} texts"
    match switch.state:
        case "loading":
            return f"Loading {name}, to build its index beside the one in use"
        case "waiting":
            return (
                f"The index of {name} waits at {far}: {_safe(switch.message)} "
                "(`dragoman models cancel` gives it up)"
            )
        case "paused":
            return f"The index of {name} is paused at {far}"
    left = "" if switch.remaining_s is None else f", about {_duration(switch.remaining_s)} left"
    return f"Building the index of {name}: {far}{left}"


def _rate(now: api.Status) -> str:
    text = f", {now.files_per_s:.1f} files/s" if now.files_per_s else ""
    if now.remaining_s is not None:
        minutes, seconds = divmod(round(now.remaining_s), 60)
        text += f", about {minutes} min {seconds:02d} s left" if minutes else f", about {seconds} s left"
    return text


def _print_problems(query: str, problems: Sequence[api.QueryProblem]) -> None:
    for problem in problems:
        said = _one_line(query[problem.start : problem.end])
        if len(said) > 60:
            said = f"{said[:57]}..."
        typer.echo(f"{said}: {_one_line(problem.message)}" if said else _one_line(problem.message), err=True)


def _print_hits(found: api.SearchResult, *, why: bool = False) -> None:
    from rich.text import Text

    console = _console()
    if not found.hits:
        console.print("Nothing found.")
    elif all(hit.weak for hit in found.hits):
        console.print("Nothing close to this was found. The nearest there is:\n", style="yellow")
    below = False
    for number, hit in enumerate(found.hits, 1):
        if hit.weak and not below and number > 1:
            console.print("Weaker matches:\n", style="dim")
        below = hit.weak
        passage = hit.passages[0]
        place = passage.locator.describe()
        language = hit.code_language or passage.lang
        head = Text(f"{number:2d}  ", style="dim")
        compared = passage.why.cosine or passage.why.meaning or hit.similarity
        similarity = f"{round(hit.similarity * 100):3d}" if compared else "  –"
        head.append(f"{similarity}  ", style="dim" if hit.weak else "bold green")
        head.append(_one_line(local_path(hit.path)), style="bold")
        for part in (place, language, "" if hit.online else "offline"):
            if part:
                head.append(f"  {_one_line(part)}", style="dim")
        console.print(head, soft_wrap=True)
        start, end = passage.mark or (0, 0)
        text = _printable(passage.text)
        shown = Text(text)
        shown.stylize("underline", start, end)
        for first, last in passage.words:
            shown.stylize("bold", first, last)
        lines = [line for line in shown.split("\n", allow_blank=False) if line.plain.strip()]
        for line in lines[:6]:
            console.print(Text("      ") + line, soft_wrap=True)
        if why:
            console.print(Text(f"      {_why(passage)}", style="dim"), soft_wrap=True)
        for variant in hit.variants:
            name = f"{variant.kind}, {variant.code_language or variant.lang}: {local_path(variant.path)}"
            console.print(Text(f"      + {_one_line(name)}", style="dim"), soft_wrap=True)
        console.print()


def _print_beside(models: Sequence[api.Model], found: Sequence[api.SearchResult]) -> None:
    """Two lists of hits side by side; what only one of them has is marked."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for model in models:
        table.add_column("", justify="right")
        table.add_column(f"{escape(_printable(model.name))} ({model.state})", overflow="fold")
    paths = [{hit.path for hit in result.hits} for result in found]
    shared = paths[0] & paths[1]
    for row in range(max(len(result.hits) for result in found)):
        cells: list[str] = []
        for result in found:
            if row < len(result.hits):
                hit = result.hits[row]
                name = escape(_printable(Path(hit.path).name))
                cells += [
                    f"{round(hit.similarity * 100)}",
                    name if hit.path in shared else f"[bold]{name}[/bold] +",
                ]
            else:
                cells += ["", ""]
        table.add_row(*cells)
    console = _console()
    console.print(table)
    console.print(f"{len(shared)} in both; + in one only.")


def _why(passage: api.Passage) -> str:
    why = passage.why
    parts = [f"meaning {why.meaning:+.1f}", f"words {why.words:+.1f}", f"cosine {why.cosine:.3f}"]
    if why.terms:
        parts.append("words that say so: " + ", ".join(map(_one_line, why.terms)))
    if why.reranked is not None:
        parts.append(f"reranker {why.reranked:.2f}")
    return "; ".join(parts)


def _hit_json(hit: api.Hit) -> dict[str, Any]:
    passage = hit.passages[0]
    return {
        "path": local_path(hit.path),
        "similarity": hit.similarity,
        "weak": hit.weak,
        "why": _builtins(passage.why),
        "locator": _builtins(passage.locator),
        "place": passage.locator.describe(),
        "lang": passage.lang,
        "code_language": hit.code_language,
        "text": passage.text,
        "passages": [
            {"similarity": p.similarity, "place": p.locator.describe(), "lang": p.lang, "text": p.text}
            for p in hit.passages[1:]
        ],
        "variants": [
            {
                "kind": variant.kind,
                "path": local_path(variant.path),
                "lang": variant.lang,
                "similarity": variant.similarity,
            }
            for variant in hit.variants
        ],
    }


def _json(value: object, indent: int | None = None) -> str:
    """JSON that UTF-8 can carry; bytes of a file name that is not UTF-8 are lone surrogates, as in Python."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def _builtins(value: object) -> Any:
    import msgspec

    return msgspec.to_builtins(value)


def _lines(path: Path) -> Iterator[str]:
    """Questions, one a line as files have lines: U+2028 and the like are part of a question.

    Bytes that are no UTF-8 are replaced: every line in has a line out.
    """
    try:
        with contextlib.ExitStack() as stack:
            file = sys.stdin.buffer if str(path) == "-" else stack.enter_context(path.open("rb"))
            for number, line in enumerate(file):
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                yield text if number else text.removeprefix("\ufeff")
    except OSError as error:
        raise IndexerError("The questions cannot be read", f"{path}: {error.strerror}.") from error


def _one_line(text: str) -> str:
    """Printable, and without the line breaks that a file name may hold to look like another result."""
    return _printable(text).replace("\n", "\ufffd").replace("\t", " ")


# Embeddings, overrides and isolates: they turn the text around that follows, in file names above all.
_BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def _printable(text: str) -> str:
    """The same text, character for character, with nothing in it that could steer the terminal."""
    return "".join(
        c if c in "\n\t" or not (unicodedata.category(c) in ("Cc", "Cs") or c in _BIDI) else "\ufffd"
        for c in text
    )


def _safe(text: str) -> str:
    """Text for rich: printable, and not read as markup."""
    from rich.markup import escape

    return escape(_printable(text))


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(
        stderr=stderr,
        emoji=False,  # ":m:" in a name is no picture
        width=None if sys.stdout.isatty() else max(100, shutil.get_terminal_size().columns),
    )


if __name__ == "__main__":
    main()
