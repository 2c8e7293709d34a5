"""Saves what can be read of a catalog that SQLite cannot read as a whole any more, into a new one.

`python -m indexer.store.salvage FOLDER` while no service runs. Tables are read row by row, around the damaged
pages. A text is believed that has the hash it should have, a vector that has its checksum, a file whose
passages are all there. Folders are kept, and so are vectors whose file is not: when the file is read again,
its texts are found to be embedded already. Everything else is made again: words, matrix, accelerator.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from indexer.errors import FatalError, IndexerError
from indexer.settings import encrypted, synced
from indexer.store import carve, spare, vault
from indexer.store.catalog import KEEP_AHEAD_S
from indexer.store.check import is_vector
from indexer.store.chroma_child import remove
from indexer.store.cipher import Key
from indexer.store.database import CATALOG_FILE, LOCK_FILE, Database, rewritten, take_lock
from indexer.store.ledger import TEXT_BITS, TEXT_MASK, checksum
from indexer.store.schema import check_version, upgrade

log = logging.getLogger(__name__)

_PAGE = 500
_TOP = (1 << 63) - 1
ASIDE = "catalog.damaged"
# What reading a damaged place may end in: a text may be no UTF-8, a length may be anything.
_UNREADABLE = (apsw.Error, UnicodeDecodeError, MemoryError, OverflowError)
_ALL = "catalog"
# Whose losses are told as numbers, and whose are stretches of unknown length.
_COUNTED = {"files": "files", "passages": "passages", "vectors": "vectors"}
_TORN = {"texts": "the texts", "chunks": "the passages", "problems": "the problems"}
# Damaged rows are felt for one by one at first, as little is lost in most places.
_SINGLE_STEPS = 64


class Saved(NamedTuple):
    """What became of a damaged catalog.

    Attributes:
        kept: Rows that were saved, by table.
        lost: Rows, or stretches of them, that were not, by table, as far as they can be counted.
        aside: The folder of the damaged file; None where there was none.
    """

    kept: Counter[str]
    lost: Counter[str]
    aside: Path | None

    def lines(self) -> list[str]:
        """For people."""
        kept, lost = self.kept, self.lost
        found = [
            f"Saved: {kept['roots']:,} folders, {kept['files']:,} files, {kept['texts']:,} texts"
            f" and {kept['vectors']:,} vectors."
        ]
        parts = [f"{lost[key]:,} {name}" for key, name in _COUNTED.items() if lost[key]]
        parts += [f"parts of {name}" for key, name in _TORN.items() if lost[key]]
        if lost[_ALL]:
            parts = ["the whole catalog"]
        if parts:
            found.append(f"Lost, and made again from your files: {', '.join(parts)}.")
        if not kept["roots"]:
            found.append("The list of your folders could not be read: add them again.")
        if self.aside is not None:
            found.append(f"The damaged file is kept in {self.aside}; delete it when all is well.")
        return found


def salvage(folder: Path, key: Key | None = None) -> Saved:
    """Make a new catalog of what can be read of the one in a data folder.

    The damaged one stays beside it, under another name.

    Args:
        folder: The data folder.
        key: Of an encrypted library; the new catalog is encrypted with it too.

    Raises:
        FatalError: A service works on the folder, or a newer program made it.
        IndexerError: There is no catalog, or no room for another.
    """
    file = folder / CATALOG_FILE
    if encrypted(folder):
        raise IndexerError(
            "An encrypted library cannot be salvaged",
            "What cannot be read of it cannot be told from what is damaged. Put back a copy of the data "
            "folder, or move the folder away and index your files again.",
        )
    owner = take_lock(folder / LOCK_FILE)
    try:
        vault.admit(folder, key)
        if not file.exists() and not spare.folders(file):
            raise IndexerError("There is no catalog", f"{file} does not exist.")
        new = rewritten(file)
        remove(new)
        new.touch(mode=0o600)
        kept: Counter[str] = Counter()
        lost: Counter[str] = Counter()
        target = Database(str(new), key=key)
        try:
            target.pragma("synchronous", "off")  # it is waited for once, at the end
            target.pragma("secure_delete", True)
            upgrade(target)
            with target, _opened(file, key) as source:
                if source is not None:
                    _Copy(file, source, target, kept, lost).run()
                else:
                    lost[_ALL] += 1
                _put_folders(target, spare.folders(file))
                kept["roots"] = target.ask("SELECT count(*) FROM roots")[0][0]
        finally:
            target.close()
        synced(new)
        aside = _put_aside(file)
        new.replace(file)
        synced(folder)
        for mirror in folder.glob("vectors-*.f32"):
            remove(mirror)
        return Saved(kept, lost, aside)
    except apsw.FullError as error:
        raise IndexerError("The disk is full", "Make room for a second copy of the catalog.") from error
    finally:
        owner.close()


@contextlib.contextmanager
def _opened(file: Path, key: Key | None) -> Iterator[Database | None]:
    """The damaged catalog, which stays as it is; None where not even its tables can be told."""
    source, head = _open(file, key), None
    if source is None and (head := spare.restore_head(file)) is not None:
        source = _open(file, key)
    try:
        yield source
    finally:
        if source is not None:
            source.close()
        if head is not None:
            spare.put_back(file, head)


def _open(file: Path, key: Key | None) -> Database | None:
    if not file.is_file() or not file.stat().st_size:
        return None
    source = None
    try:
        source = Database(str(file), key=key)
        source.pragma("writable_schema", True)  # what is wrong with one table is not to hide the others
        check_version(source, file)
        for table in ("sqlite_master", "roots", "files"):
            source.ask(f"SELECT 1 FROM {table} LIMIT 0")
    except (FatalError, *_UNREADABLE) as error:
        if source is not None:
            source.close()
        if isinstance(error, FatalError):
            raise
        log.warning("the catalog cannot be read at all: %s", type(error).__name__)
        return None
    return source


def _put_folders(target: Database, paths: Sequence[str]) -> None:
    """Have the folders that were noted beside the catalog and, where any were, no other: they have no sum."""
    for path in paths:
        target.execute("INSERT OR IGNORE INTO roots(path) VALUES(?)", (os.fsencode(path),))
    if paths:
        noted = json.dumps([os.fsencode(path).hex() for path in paths])
        others = "SELECT id FROM roots WHERE lower(hex(path)) NOT IN (SELECT value FROM json_each(?))"
        for table, column in (("files", "root"), ("volumes", "root"), ("roots", "id")):
            target.execute(f"DELETE FROM {table} WHERE {column} IN ({others})", (noted,))


def _put_aside(file: Path) -> Path | None:
    """Move the damaged catalog with its log to a folder of its own; None where there is nothing to move."""
    if not file.exists():
        return None
    aside = file.with_name(ASIDE)
    remove(aside)
    aside.mkdir(mode=0o700)
    # The log first: a log beside a new file would be taken for that file's.
    for name in (file.name + "-wal", file.name + "-shm", file.name):
        if (file.parent / name).exists():
            (file.parent / name).replace(aside / name)
    synced(file.parent)
    return aside


class _Copy:
    """One run from the damaged catalog to the new one."""

    def __init__(
        self, file: Path, source: Database, target: Database, kept: Counter[str], lost: Counter[str]
    ) -> None:
        self._file, self._source, self._target = file, source, target
        self._kept, self._lost = kept, lost

    def run(self) -> None:
        """Copy what is sound, in the order in which rows refer to one another."""
        self._meta()
        self._plain("roots", "id, path, online, device")
        self._plain("volumes", "root, path, online")
        self._plain("volumes", "id, root, path, online")
        self._plain("models", "id, key, dim, reference, dimensions, name, role, keep")
        hashes = self._texts()
        self._files(hashes)
        self._vectors(hashes)
        db = self._target
        db.execute("DELETE FROM texts WHERE hash IS NULL OR length(hash) != 16")
        db.execute(
            "UPDATE texts SET unused_since = CASE WHEN EXISTS(SELECT 1 FROM chunks WHERE text_id = texts.id)"
            " THEN NULL ELSE ? END",
            (time.time() + KEEP_AHEAD_S,),
        )
        # Ids in between are free again. Whatever an accelerator has under any id is not believed any more.
        db.execute(
            "WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids"
            " WHERE id < (SELECT max(id) FROM texts))"
            " INSERT INTO free_texts SELECT id FROM ids WHERE id NOT IN (SELECT id FROM texts)"
            " AND EXISTS(SELECT 1 FROM texts)"
        )
        db.execute("INSERT OR REPLACE INTO meta VALUES('unanalysed', 1)")

    # --- tables ----------------------------------------------------------------------------

    def _meta(self) -> None:
        try:
            marks = dict(self._source.ask("SELECT key, value FROM meta"))
        except _UNREADABLE:
            self._lost["meta"] += 1
            return
        # Another identity, so that no mirror and no server's copy is taken for this one's.
        kept = [(k, v) for k, v in marks.items() if k in {"residue", "scrubbing", "hurry"}]
        self._target.executemany("INSERT OR REPLACE INTO meta VALUES(?, ?)", kept)

    def _plain(self, table: str, columns: str) -> None:
        marks = ", ".join("?" * (columns.count(",") + 1))
        for row in self._rows(table, columns):
            self._put(table, f"INSERT INTO {table}({columns}) VALUES({marks})", row)

    def _put(self, table: str, statement: str, row: tuple[Any, ...]) -> bool:
        try:
            self._target.execute(statement, row)
        except (apsw.ConstraintError, apsw.MismatchError):
            self._lost[table] += 1
            return False
        self._kept[table] += 1
        return True

    def _texts(self) -> dict[int, bytes]:
        """Save the texts' ids and hashes; they, by id."""
        hashes: dict[int, bytes] = {}
        for text_id, text_hash, lang in self._rows("texts", "id, hash, lang"):
            if isinstance(text_hash, bytes) and len(text_hash) == 16 and 0 < text_id <= TEXT_MASK:
                row = (text_id, text_hash, 0.0, lang if isinstance(lang, str) else "")
                if self._put(
                    "texts", "INSERT INTO texts(id, hash, unused_since, lang) VALUES(?, ?, ?, ?)", row
                ):
                    hashes[text_id] = text_hash
            else:
                self._lost["texts"] += 1
        for number, values in self._carved("texts", 4):
            text_hash = values[1]
            if isinstance(text_hash, bytes) and len(text_hash) == 16 and 0 < number <= TEXT_MASK:
                self._target.execute(
                    "INSERT OR IGNORE INTO texts(id, hash, unused_since) VALUES(?, ?, 0)", (number, text_hash)
                )
                if self._target.changes():
                    self._kept["texts"] += 1
                    hashes[number] = text_hash
        return hashes

    def _carved(self, table: str, columns: int) -> Iterator[tuple[int, list[carve.Value]]]:
        """Rows, of whatever table, that may be some of those that could not be read, with their ids.

        A text's hash says itself whether it holds: its passages have to fit it, and so has its vector.
        """
        if self._lost[table]:
            for number, values in carve.rows(self._file, self._source.pragma("page_size")):
                if len(values) == columns and values[0] is None:  # the id is not kept among them
                    yield number, values

    def _files(self, hashes: dict[int, bytes]) -> None:
        """Save files whose passages are all there and have the texts they should have."""
        columns = "id, path, root, size, mtime_ns, content, status, media, code_language, title, chunks"
        roots = dict(self._target.ask("SELECT id, path FROM roots"))
        marks = ", ".join("?" * 11)
        for row in self._rows("files", columns):
            # One that is not below its folder no sweep would ever see.
            if row[2] in roots and isinstance(row[1], bytes) and row[1].startswith(roots[row[2]]):
                self._put("files", f"INSERT INTO files({columns}) VALUES({marks})", row)
            else:
                self._lost["files"] += 1
        for row in self._rows("problems", "file, kind, title, message, at"):
            self._put("problems", "INSERT INTO problems VALUES(?, ?, ?, ?, ?)", row)
        fields = "id, file, slot, text_id, start, end, lang, locator, context, text"
        for row in self._rows("chunks", fields):
            text, context = row[9], row[8]
            if not isinstance(text, str) or not isinstance(context, str) or row[3] not in hashes:
                self._lost["passages"] += 1
                continue
            embedded = f"{context}\n{text}" if context else text
            now = hashlib.blake2b(embedded.encode(), digest_size=16).digest()
            if now != hashes[row[3]] and "\ufffd" not in embedded:
                self._lost["passages"] += 1
                continue
            self._put("chunks", f"INSERT INTO chunks({fields}) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        db = self._target
        db.execute("DELETE FROM chunks WHERE file NOT IN (SELECT id FROM files)")
        db.execute("DELETE FROM problems WHERE file NOT IN (SELECT id FROM files WHERE status = kind)")
        partly = db.ask(
            "SELECT files.id FROM files LEFT JOIN chunks ON chunks.file = files.id GROUP BY files.id"
            " HAVING files.chunks != count(DISTINCT slot) OR files.chunks != count(slot)"
            " OR files.chunks != coalesce(max(slot) + 1, 0)"
            " OR (status != 'indexed' AND files.id NOT IN (SELECT file FROM problems))"
        )
        db.executemany("DELETE FROM chunks WHERE file = ?", partly)
        db.executemany("DELETE FROM files WHERE id = ?", partly)
        self._kept["files"] -= len(partly)
        if partly:
            self._lost["files"] += len(partly)

    def _vectors(self, hashes: dict[int, bytes]) -> None:
        lengths = {row[0]: 2 * row[1] for row in self._target.ask("SELECT id, dim FROM models")}
        try:
            summed = "crc" in {row[1] for row in self._source.ask("PRAGMA table_info(vectors)")}
        except _UNREADABLE:
            summed = True
        bases = tuple(sorted(number << TEXT_BITS for number in lengths))
        columns = "key, data, crc" if summed else "key, data, NULL"

        def row(key: int, data: object, crc: object) -> tuple[int, bytes, int] | None:
            """What to store; None where it is not the vector of this text."""
            text_hash = hashes.get(key & TEXT_MASK)
            if text_hash is None or not isinstance(data, bytes):
                return None
            if len(data) != lengths.get(key >> TEXT_BITS) or not is_vector(data):
                return None
            now = checksum(text_hash, data)
            return (key, data, now) if crc is None or crc == now else None

        for key, data, crc in self._rows("vectors", columns, bases):
            sound = row(key, data, crc)
            if sound is not None:
                self._put("vectors", "INSERT INTO vectors(key, data, crc) VALUES(?, ?, ?)", sound)
            else:
                self._lost["vectors"] += 1
        for key, (_, data, crc) in self._carved("vectors", 3):
            sound = None if crc is None else row(key, data, crc)
            if sound is not None:
                self._target.execute("INSERT OR IGNORE INTO vectors(key, data, crc) VALUES(?, ?, ?)", sound)
                self._kept["vectors"] += self._target.changes()

    # --- reading around damage ---------------------------------------------------------------

    def _rows(self, table: str, columns: str, bases: Sequence[int] = ()) -> Iterator[tuple[Any, ...]]:
        """The rows of a table in order of their ids, as many as can be read; see `_behind` for `bases`."""
        at = -(1 << 62)
        while True:
            query = (
                f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid >= ? ORDER BY rowid LIMIT ?"
            )
            rows: list[Any] | None
            try:
                rows = self._source.ask(query, (at, _PAGE))
            except _UNREADABLE:
                rows = self._singly(query, at)
            if rows:
                rows = _ascending(rows, at)
            elif rows is not None:
                return
            if not rows:
                self._lost[table] += 1
                following = self._behind(table, at, bases)
                if following is None:
                    return
                at = following
                continue
            for row in rows:
                yield row[1:]
            at = rows[-1][0] + 1

    def _singly(self, query: str, at: int) -> list[Any] | None:
        """The readable rows from an id on, until one is not; None when the first is not."""
        found: list[Any] = []
        while len(found) < _PAGE:
            try:
                rows = self._source.ask(query, (at, 1))
            except _UNREADABLE:
                return found or None
            if not rows:
                break
            if rows[0][0] < at:
                return found or None
            found += rows
            at = rows[0][0] + 1
        return found

    def _behind(self, table: str, at: int, bases: Sequence[int]) -> int | None:
        """The first id after a damaged place at which reading goes on; None where there is none.

        `bases` are the ids with which they begin anew after a gap, ascending.
        """
        query = f"SELECT rowid FROM {table} NOT INDEXED WHERE rowid >= ? ORDER BY rowid LIMIT 1"

        def reads(number: int) -> int | None:
            try:
                rows = self._source.ask(query, (number,))
            except _UNREADABLE:
                return None
            if rows and not number <= rows[0][0] < _TOP:
                return None
            return int(rows[0][0]) if rows else _TOP

        step, low, steps = 1, max(at, 0), 0
        while True:
            base = next((base for base in bases if base > low), None)
            if base is not None and base <= low + step:
                high, step, steps = base, 1, 0
            else:
                high = low + step
            if (found := reads(high)) is not None:
                break
            low, steps = high, steps + 1
            step = step if steps < _SINGLE_STEPS else 2 * step
            if low + step > 1 << 61:
                return None
        while low + 1 < high:
            middle = (low + high) // 2
            here = reads(middle)
            if here is None:
                low = middle
            else:
                high, found = middle, here
        return None if found == _TOP else found


def _ascending(rows: list[Any], at: int) -> list[Any]:
    """The first of the rows, as long as their ids rise from `at` on: damaged pages may lead anywhere."""
    for place, row in enumerate(rows):
        if row[0] < at:
            return rows[:place]
        at = row[0] + 1
    return rows


def main(argv: list[str] | None = None, write: Callable[[str], object] = sys.stdout.write) -> int:
    """Salvage the catalog of a data folder; one line of JSON says how it went.

    The passphrase of an encrypted one is read from standard input.
    """
    parser = argparse.ArgumentParser(prog="python -m indexer.store.salvage", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    try:
        folder: Path = parser.parse_args(argv).folder
        header = vault.header(folder)
        key = None if header is None else vault.key_of(header, sys.stdin.readline().rstrip("\n"))
        saved = salvage(folder, key)
    except IndexerError as error:
        write(json.dumps({"title": error.title, "message": error.message}) + "\n")
        return 1
    write(json.dumps({"lines": saved.lines(), "kept": saved.kept, "lost": saved.lost}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
