"""`dragoman check`: compare all parts of the library, and mend them."""

from __future__ import annotations

import contextlib
import getpass
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from indexer import api
from indexer import settings as settings_module
from indexer.cli_lock import let_in
from indexer.client import IndexerClient, stop_service
from indexer.errors import FatalError, IndexerError
from indexer.settings import encrypted

if TYPE_CHECKING:
    from rich.status import Status

# The helpers for terminals are in `cli`, which imports this module; so they are imported where they are used.

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", metavar="FOLDER", help="Use a separate library kept in this folder.", show_default=False
    ),
]


def check(
    context: typer.Context,
    data_dir: DataDir = None,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what differs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Compare files, catalog, words, vectors and search index; say what differs and, with --repair, mend it.

    Searching goes on meanwhile. Nothing is embedded again but what is damaged. The exit code is 0 when all
    agrees or was mended, and 1 otherwise; --json says the same as "ok".
    """
    from indexer import cli

    folder = cli._data_dir(context, data_dir)
    saved: list[str] = []
    folders = True
    console = cli._console(stderr=True)
    with console.status("Checking ...") if console.is_terminal else contextlib.nullcontext() as shown:
        try:
            if repair:
                saved += save_settings(folder)
            try:
                checked = _ask(folder, repair, shown)
            except IndexerError as error:
                # Said by the service as it starts, or by one that found it later.
                if not repair or error.title != api.DAMAGED:
                    raise
                checked = None
            if repair and (checked is None or checked.salvage):
                stop_service(folder)
                lines, folders = salvage(folder)
                saved += lines
                checked = _ask(folder, repair, shown)
        except (KeyboardInterrupt, IndexerError) as error:
            # It is not done again, so this is not told again.
            for line in saved:
                console.print(cli._safe(line), soft_wrap=True, highlight=False)
            if repair and isinstance(error, KeyboardInterrupt):
                console.print("Stopped. What is mended stays so; run it again for the rest.", highlight=False)
            raise
    assert checked is not None
    left = [d for d in checked.differences if not d.harmless and d.mended < d.count]
    ok = not left and not checked.salvage and folders
    if as_json:
        typer.echo(json.dumps(_as_json(checked, saved, ok=ok), ensure_ascii=False, indent=1))
    else:
        _print(checked, saved, repair=repair)
    if not ok:
        raise typer.Exit(1)


def _as_json(checked: api.Checked, saved: list[str], *, ok: bool) -> dict[str, Any]:
    """For programs: every field, whatever its value, and nothing of the protocol."""
    answer = msgspec.structs.asdict(checked)
    del answer["id"]
    differences = [msgspec.structs.asdict(difference) for difference in checked.differences]
    return {"ok": ok, "saved": saved, **answer, "differences": differences}


def _ask(folder: Path, repair: bool, shown: Status | None) -> api.Checked:
    with (
        IndexerClient(folder, name="check") as client,
        contextlib.ExitStack() as stack,
    ):
        if encrypted(folder):
            let_in(client)
        messages = stack.enter_context(contextlib.closing(client.check(repair=repair)))
        for message in messages:
            if isinstance(message, api.Checked):
                return message
            if shown is not None:
                share = f" {100 * message.done // message.total} %" if message.total else ""
                shown.update(f"Checking {message.current} ...{share}")
    raise IndexerError("The check did not end", "Try again.")


def _print(checked: api.Checked, saved: list[str], *, repair: bool) -> None:
    from indexer import cli

    console = cli._console()
    for line in saved:
        console.print(cli._safe(line), soft_wrap=True, highlight=False)
    for difference in checked.differences:
        mark = "[green]mended[/]" if difference.mended >= difference.count else "[yellow]differs[/]"
        if difference.harmless and not difference.mended:
            mark = "harmless"
        advice = f" {cli._safe(difference.advice)}" if difference.advice else ""
        what = cli._safe(f"{difference.count:,} {difference.what}")
        console.print(f"{mark:<10} {what}.{advice}", soft_wrap=True, highlight=False)
    wrong = [d for d in checked.differences if not d.harmless]
    if not wrong:
        console.print(
            f"All agrees: {checked.files:,} files, {checked.texts:,} texts and their vectors"
            f" ({checked.took_s:.1f} s).",
            highlight=False,
        )
    elif repair:
        console.print(f"{checked.embedded:,} texts were embedded again.", highlight=False)
    else:
        console.print("Mend it: dragoman check --repair", highlight=False)
    if not checked.index:
        console.print("The search index is just being built and was not compared; exact search serves.")


def save_settings(folder: Path) -> list[str]:
    """Put settings aside that cannot be read, and keep of them what can be; what was done, in words."""
    try:
        settings_module.load(folder)
    except FatalError:
        kept, lost, aside = settings_module.salvage(folder)
        gone = f", and these were lost: {', '.join(lost)}" if lost else ""
        return [f"Of the settings {kept} could be kept{gone}. The damaged file is {aside}."]
    return []


def salvage(folder: Path) -> tuple[list[str], bool]:
    """Save what can be read of a damaged catalog while no service runs.

    Returns:
        What was saved and lost, in words, and whether the folders are known: all else comes back of itself.

    Raises:
        IndexerError: It cannot be done.
    """
    done = subprocess.run(
        [sys.executable, "-m", "indexer.store.salvage", str(folder)],
        input=f"{getpass.getpass('Passphrase of the library: ')}\n" if encrypted(folder) else "",
        capture_output=True,
        text=True,
        check=False,
        cwd=str(folder),
        env=_environment(),
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise IndexerError(
            "The catalog could not be saved", f"The program for it ended with code {done.returncode}."
        ) from None
    if "title" in answer:
        raise IndexerError(answer["title"], answer["message"])
    return [str(line) for line in answer["lines"]], bool(answer["kept"].get("roots"))


def _environment() -> dict[str, str]:
    import os

    from indexer.client import _import_path

    return {**os.environ, "PYTHONPATH": os.pathsep.join(_import_path())}
