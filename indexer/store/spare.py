"""What is kept beside the catalog for the day it cannot be read: the list of folders, and its first page.

Everything else can be made again from a person's files, but which folders those are only the catalog knows.
And a file whose first page is lost cannot be opened by SQLite at all, though nothing else of it be damaged:
that page says where the tables begin. It changes with the schema, and when the file is written anew.

An encrypted library has neither; turning encryption on removes them with whatever else can be read.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from indexer.settings import synced

log = logging.getLogger(__name__)

FOLDERS, HEAD = "-folders", "-head"  # appended to the catalog's name
_MAGIC = b"SQLite format 3\0"


def folders(catalog: Path) -> list[str]:
    """The folders of the library as they were noted last; empty where nothing (usable) was."""
    try:
        noted = json.loads(_beside(catalog, FOLDERS).read_bytes())
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(noted, list):
        return []
    return [path for path in noted if isinstance(path, str) and path.startswith("/") and "\0" not in path]


def note_folders(catalog: Path, paths: Sequence[str]) -> None:
    """Note the folders of the library; where that fails, none are noted, and the log says so."""
    if sorted(paths) != sorted(folders(catalog)):
        _write(_beside(catalog, FOLDERS), json.dumps(sorted(paths)).encode())


def note_head(catalog: Path) -> None:
    """Note the first page of a catalog that nobody has open, and that has no log."""
    try:
        with catalog.open("rb") as file:
            start = file.read(100)
            page = start + file.read(max(0, _page_size(start) - len(start)))
    except OSError as error:
        log.warning("The catalog's first page could not be read: %s", error.strerror)
        return
    noted = _beside(catalog, HEAD)
    try:
        if start.startswith(_MAGIC) and not (noted.is_file() and noted.read_bytes() == page):
            _write(noted, page)
    except OSError as error:
        log.warning("The catalog's first page could not be noted: %s", error.strerror)


def restore_head(catalog: Path) -> bytes | None:
    """Put the first page into its place as it was noted.

    Returns:
        What was there, for `put_back`; None where nothing (else) was noted.
    """
    try:
        page = _beside(catalog, HEAD).read_bytes()
        if not page.startswith(_MAGIC) or len(page) != _page_size(page):
            return None
        with catalog.open("rb") as file:
            before = file.read(len(page))
        if before == page:
            return None
        put_back(catalog, page)
    except OSError:
        return None
    return before


def put_back(catalog: Path, head: bytes) -> None:
    """Write what a catalog begins with."""
    with catalog.open("r+b") as file:
        file.write(head)


def _page_size(start: bytes) -> int:
    """See https://sqlite.org/fileformat2.html#page_size."""
    size = int.from_bytes(start[16:18], "big")
    return 1 << 16 if size == 1 else size


def _beside(catalog: Path, suffix: str) -> Path:
    return catalog.with_name(catalog.name + suffix)


def _write(file: Path, data: bytes) -> None:
    new = file.with_name(file.name + ".new")
    try:
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(data)
        synced(new)
        new.replace(file)
        synced(file.parent)
    except OSError as error:
        log.warning("%s could not be written: %s", file.name, error.strerror)
        # Nothing is better than what is not so any more.
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
            file.unlink(missing_ok=True)
