"""`dragoman lock`: encrypting the library with a passphrase."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from indexer import api
from indexer.cli_models import DataDir
from indexer.client import IndexerClient
from indexer.errors import FatalError, IndexerError

lock_app = typer.Typer(
    help="""Encrypt the library with a passphrase: its texts, names and vectors on the disk.

    Your own files stay as they are. A forgotten passphrase cannot be recovered; folders can be indexed again.
    """,
    no_args_is_help=True,
)

PassphraseFd = Annotated[
    int | None,
    typer.Option(
        "--passphrase-fd",
        min=0,
        metavar="N",
        help="Read passphrases from this file descriptor, one a line, the present one first.",
        show_default=False,
    ),
]
Remember = Annotated[
    bool, typer.Option("--remember", help="Keep the key in the system's keyring, so that nobody is asked.")
]
_STATES = {
    "off": "The library is not encrypted.",
    "locked": "The library is encrypted and locked.",
    "open": "The library is encrypted and open.",
    "changing": "The library is just being written anew.",
}


class _Source:
    """Where passphrases come from."""

    def __init__(self, descriptor: int | None) -> None:
        self._lines: list[str] | None = None
        if descriptor is not None:
            try:
                with os.fdopen(os.dup(descriptor), encoding="utf-8", errors="surrogateescape") as lines:
                    self._lines = lines.read(1 << 16).splitlines()
            except OSError as error:
                raise IndexerError(
                    "The passphrase cannot be read", f"File descriptor {descriptor}: {error.strerror}."
                ) from error

    def ask(self, what: str) -> str:
        """A passphrase there is already."""
        if self._lines is not None:
            if not self._lines:
                raise IndexerError("A passphrase is missing", f"{what} was expected in another line.")
            return self._lines.pop(0)
        if not sys.stdin.isatty():
            raise IndexerError("There is nobody to ask", "Give the passphrase with --passphrase-fd.")
        return getpass.getpass(f"{what}: ")

    def ask_new(self) -> str:
        """A new one; of a person it is asked twice."""
        first = self.ask("New passphrase")
        if self._lines is None and getpass.getpass("The same again: ") != first:
            raise IndexerError("The two are not the same", "Nothing was changed. Try again.")
        return first


@lock_app.command("status")
def status(context: typer.Context, data_dir: DataDir = None) -> None:
    """Say whether the library is encrypted, and open."""
    with _connected(context, data_dir) as client:
        lock = client.lock()
    typer.echo(_STATES[lock.state])
    if lock.remembered:
        typer.echo(f"Its key is kept in the system's keyring{f' ({lock.keyring})' if lock.keyring else ''}.")
    if not lock.possible:
        typer.echo("This installation cannot encrypt: it has apsw instead of apsw-sqlite3mc.")


@lock_app.command("on")
def turn_on(
    context: typer.Context,
    data_dir: DataDir = None,
    passphrase_fd: PassphraseFd = None,
    remember: Remember = False,
) -> None:
    """Encrypt the library. It is written anew; what could be read before is overwritten and removed."""
    with _connected(context, data_dir) as client:
        if client.lock().state != "off":
            raise IndexerError(
                "The library is encrypted already", "Change its passphrase: dragoman lock passphrase"
            )
        source = _Source(passphrase_fd)
        if passphrase_fd is None:
            typer.echo(
                "Nobody can open the library without the passphrase, Dragoman's makers included. If it is "
                "forgotten, delete the data folder and index your folders again.",
                err=True,
            )
        _change(client.set_lock(new=source.ask_new(), remember=remember))
    typer.echo("The library is encrypted. Copies of before, such as backups, are not.")


@lock_app.command("off")
def turn_off(context: typer.Context, data_dir: DataDir = None, passphrase_fd: PassphraseFd = None) -> None:
    """Decrypt the library."""
    with _connected(context, data_dir) as client:
        if client.lock().state == "off":
            typer.echo(_STATES["off"])
            return
        _change(client.set_lock(_Source(passphrase_fd).ask("Passphrase")))
    typer.echo("The library is not encrypted any more.")


@lock_app.command("passphrase")
def change(
    context: typer.Context,
    data_dir: DataDir = None,
    passphrase_fd: PassphraseFd = None,
    remember: Remember = False,
) -> None:
    """Change the passphrase. The library is written anew; the old one opens nothing any more."""
    with _connected(context, data_dir) as client:
        if client.lock().state == "off":
            raise IndexerError("The library is not encrypted", "Encrypt it: dragoman lock on")
        source = _Source(passphrase_fd)
        present = source.ask("Present passphrase")
        _change(client.set_lock(present, new=source.ask_new(), remember=remember))
    typer.echo("The passphrase was changed.")


@lock_app.command("open")
def unlock(
    context: typer.Context,
    data_dir: DataDir = None,
    passphrase_fd: PassphraseFd = None,
    remember: Remember = False,
) -> None:
    """Open an encrypted library for all programs, until nobody has used it for a while."""
    with _connected(context, data_dir) as client:
        lock = client.lock()
        if lock.state == "locked":
            client.unlock(_Source(passphrase_fd).ask("Passphrase"), remember=remember)
            typer.echo(_STATES["open"])
        else:
            if remember and lock.state == "open":
                client.remember(True)
            typer.echo(_STATES[lock.state])


@lock_app.command("close")
def close(context: typer.Context, data_dir: DataDir = None) -> None:
    """Lock an encrypted library now: the service ends, and its key with it."""
    from indexer import cli

    cli.stop(context, data_dir)


@lock_app.command("forget")
def forget(context: typer.Context, data_dir: DataDir = None) -> None:
    """Take the key out of the system's keyring; the passphrase is asked for from then on."""
    with _connected(context, data_dir) as client:
        client.remember(False)
    typer.echo("The key is not in the keyring any more.")


def let_in(client: IndexerClient) -> None:
    """Have the person open a locked library, where there is a person.

    Raises:
        IndexerError: There is none, or the passphrase is wrong for the third time.
        FatalError: The catalog is damaged.
    """
    try:
        client.folders()
    except IndexerError as error:
        if error.title != api.LOCKED or not sys.stdin.isatty():
            raise
    else:
        return
    for left in (2, 1, 0):
        try:
            client.unlock(getpass.getpass("Passphrase of the library: "))
        except IndexerError as error:
            if error.title == api.DAMAGED:
                raise FatalError(error.title, error.message) from error
            if error.title != api.WRONG_PASSPHRASE or not left:
                raise
            typer.echo(f"{error.title}.", err=True)
        else:
            return


def _connected(context: typer.Context, data_dir: DataDir) -> IndexerClient:
    from indexer import cli

    return IndexerClient(cli._data_dir(context, data_dir), name="cli")


def _change(steps: Iterable[api.Progress], show: Callable[[], bool] = sys.stderr.isatty) -> None:
    """Wait until it is done, with a bar where somebody looks."""
    if not show():
        for _ in steps:
            pass
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("Writing the library anew", total=None)
        for step in steps:
            bars.update(bar, total=step.total, completed=step.done)
