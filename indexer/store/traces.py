"""What deleted rows leave behind in the catalog's file, and how it is erased.

Rows are overwritten when they are deleted (SQLite's `secure_delete`). Their traces stay in pages whose rows
SQLite moved about, and in the index of words, which marks its entries as deleted and drops them when it
merges its parts: https://sqlite.org/fts5.html#the_merge_command.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from indexer.store import concepts
from indexer.store.catalog import KEEP_UNUSED_S, Catalog
from indexer.store.ledger import TEXT_MASK, checksum

_MERGE_PAGES = 500


class Residue(NamedTuple):
    """What was deleted and may still have traces.

    Attributes:
        since: The oldest of it, seconds since the epoch.
        hurry: Whether a person asked for it.
    """

    since: float
    hurry: bool


class Traces:
    """The marks of what is to be erased, kept in the catalog so that they outlast the process."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def residue(self) -> Residue | None:
        """What was deleted and may still have traces in the catalog's file; None when nothing has."""
        with self._catalog.read() as db:
            marks = dict(db.ask("SELECT key, value FROM meta WHERE key IN ('residue', 'scrubbing', 'hurry')"))
        since = [float(marks[key]) for key in ("residue", "scrubbing") if key in marks]
        return Residue(min(since), "hurry" in marks) if since else None

    def index_residue(self) -> Residue | None:
        """As `residue`, of the accelerator's files."""
        with self._catalog.read() as db:
            marks = dict(
                db.ask(
                    "SELECT key, value FROM meta WHERE key IN ('index residue', 'compacting', 'index hurry')"
                )
            )
        since = [float(marks[key]) for key in ("index residue", "compacting") if key in marks]
        return Residue(min(since), "index hurry" in marks) if since else None

    def begin_index(self) -> float:
        """The accelerator is about to begin anew, without what was deleted until now.

        Returns:
            What `index_is_clean` is to be told when it has.
        """
        with self._catalog.write() as (db, _):
            db.execute(
                "INSERT OR IGNORE INTO meta SELECT 'compacting', value FROM meta WHERE key = 'index residue'"
            )
            db.execute("DELETE FROM meta WHERE key = 'index residue'")
            hurried = db.ask("SELECT value FROM meta WHERE key = 'index hurry'")
        return float(hurried[0][0]) if hurried else 0.0

    def index_is_clean(self, begun: float) -> None:
        """The accelerator has nothing left of what was deleted before `begin_index` returned `begun`."""
        with self._catalog.write() as (db, _):
            db.execute("DELETE FROM meta WHERE key = 'compacting'")
            db.execute("DELETE FROM meta WHERE key = 'index hurry' AND value <= ?", (begun,))

    def scrub(self, *, everything: bool, stop: Callable[[], bool] = lambda: False) -> bool:
        """Leave nothing in the file of what was deleted: not in free pages, not in the index of words.

        Searching goes on; writing waits while the file is written anew, see `Catalog.rewrite`.

        Args:
            everything: Whether texts out of use go too that are kept for a while, for files that were moved.
            stop: Asked now and then whether to leave it for another time.

        Returns:
            Whether it was done.

        Raises:
            IndexerError: The disk is full, or somebody reads for very long; it is to be tried again.
        """
        catalog = self._catalog
        with catalog.write() as (db, _):
            db.execute("INSERT OR IGNORE INTO meta SELECT 'scrubbing', value FROM meta WHERE key = 'residue'")
            hurried = db.ask("SELECT value FROM meta WHERE key = 'hurry'")
            db.execute("DELETE FROM meta WHERE key = 'residue'")
            if everything:
                # Rising, whatever the clock does, so that a later one is told from an earlier one.
                db.execute(
                    "INSERT OR REPLACE INTO meta SELECT 'index hurry',"
                    " 1 + coalesce((SELECT value FROM meta WHERE key = 'index hurry'), 0)"
                )
        while catalog.collect(0.0 if everything else KEEP_UNUSED_S, scrubbed=True):
            if stop():
                return False
        for table in ("text_terms", "file_terms"):
            pages, grown = -_MERGE_PAGES, 2
            while grown >= 2:
                with catalog.write() as (db, _):
                    before = db.total_changes()
                    db.execute(f"INSERT INTO {table}({table}, rank) VALUES('merge', ?)", (pages,))
                    grown = db.total_changes() - before
                pages = _MERGE_PAGES
                if stop():
                    return False
        catalog.rewrite()
        with catalog.write() as (db, _):
            db.execute("DELETE FROM meta WHERE key = 'scrubbing'")
            db.executemany("DELETE FROM meta WHERE key = 'hurry' AND value = ?", hurried)
        return True

    def translate_some(self) -> bool:
        """Make some of the concepts that texts lack; False when there is nothing left to do."""
        with self._catalog.read() as db:
            if not concepts.missing(db):
                return False
        with self._catalog.write() as (db, _):
            return concepts.fill(db)

    def sum_some(self, limit: int) -> bool:
        """Give vectors from before there were checksums theirs, some at a time; False when all have it."""
        query = "SELECT value FROM meta WHERE key = 'unsummed'"
        with self._catalog.read() as db:
            if not db.ask(query):
                return False
        with self._catalog.write() as (db, _):
            last = db.ask(query)[0][0]
            rows = db.ask(
                "SELECT key, data, hash, crc FROM vectors LEFT JOIN texts ON texts.id = key & ?"
                " WHERE key > ? ORDER BY key LIMIT ?",
                (TEXT_MASK, last, limit),
            )
            db.executemany(
                "UPDATE vectors SET crc = ? WHERE key = ?",
                ((checksum(h, data), key) for key, data, h, crc in rows if h is not None and crc is None),
            )
            if len(rows) < limit:
                db.execute("DELETE FROM meta WHERE key = 'unsummed'")
            else:
                db.execute("UPDATE meta SET value = ? WHERE key = 'unsummed'", (rows[-1][0],))
        return len(rows) == limit
