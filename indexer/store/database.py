"""SQLite itself: connections, its errors in a person's words, and who owns a data folder."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import apsw
import msgspec

from indexer.api import DAMAGED
from indexer.errors import FatalError, IndexerError
from indexer.store import cipher

CATALOG_FILE = "catalog.sqlite"
LOCK_FILE = "store.lock"


class Database(apsw.Connection):
    """A connection whose answers come as lists of rows.

    Args:
        file: The database.
        flags: As for SQLite.
        key: What it is encrypted with; None for not at all.
    """

    def __init__(
        self,
        file: str,
        flags: int = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE,
        key: cipher.Key | None = None,
    ) -> None:
        super().__init__(file, flags)
        if key is not None:
            cipher.unlock(self, key)

    def ask(self, query: str, args: Sequence[Any] = ()) -> list[Any]:
        """All rows of one query."""
        return self.execute(query, args).fetchall()

    def ask_at_once(self, columns: Sequence[str], source: str, args: Sequence[Any] = ()) -> list[Any]:
        """As `ask`, for hundreds of rows of numbers and texts, while somebody waits for them.

        SQLite makes one value of them. Between any two rows this thread would let go of Python's lock and,
        beside threads that compute, wait milliseconds until it has it again.

        Args:
            columns: Of the result, as expressions.
            source: What follows on them in the query: FROM and so on.
            args: Of the query.
        """
        names = [f"c{n}" for n in range(len(columns))]
        inner = ", ".join(f"{column} AS {name}" for column, name in zip(columns, names, strict=True))
        query = f"SELECT json_group_array(json_array({', '.join(names)})) FROM (SELECT {inner} {source})"
        rows: list[Any] = msgspec.json.decode(self.ask(query, args)[0][0])
        return rows


def trim() -> None:
    """Hand freed memory to the system: glibc keeps what lies between pieces that are still in use."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """SQLite's errors in a person's words."""
    try:
        yield
    except apsw.FullError as error:
        raise IndexerError(
            "The disk is full", "The library could not be written; nothing was lost. Make room on the disk."
        ) from error
    except (apsw.CorruptError, apsw.NotADBError, UnicodeDecodeError) as error:
        # What a text cannot be decoded for is not told: it would quote the text.
        what = "a text is damaged" if isinstance(error, UnicodeDecodeError) else str(error)
        raise FatalError(DAMAGED, f"{what}. `dragoman check --repair` saves what can be saved.") from error
    except (
        apsw.IOError,
        apsw.CantOpenError,
        apsw.ReadOnlyError,
        apsw.BusyError,
        apsw.PermissionsError,
    ) as error:
        raise IndexerError(
            "The library cannot be read or written", f"{error}. Check the disk that holds the data folder."
        ) from error


def rewritten(file: Path) -> Path:
    """Where a database is written anew before it takes the place of `file`."""
    return file.with_name(file.name + ".new")


def take_lock(file: Path) -> IO[bytes]:
    """Own the data folder until the returned file is closed or the process ends.

    Raises:
        FatalError: Another service owns it.
    """
    handle = file.open("ab")
    file.chmod(0o600)
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        handle.close()
        raise FatalError(
            "The library is in use", f"Another Dragoman service works on {file.parent}. Stop it first."
        ) from error
    return handle
