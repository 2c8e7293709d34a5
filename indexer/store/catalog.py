"""The catalog: one SQLite database that is the truth about files, chunks and vectors.

Vectors belong to texts, not to chunks: `texts` has one row for every distinct text that was ever
embedded (by hash), and its id is the row of the exact matrix and the id in Chroma. So a copy, a
move or an edit that leaves a passage alone touches no index at all, and a vector never changes
under its id. A text that no chunk uses any more is kept for a while (a move may arrive as a
deletion and a creation), then its id goes to `free_texts` and is given to the next new text, which
overwrites the old vector in place: neither the matrix nor Chroma grows with churn.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec
import numpy as np
import numpy.typing as npt

from indexer import api
from indexer.api import DAMAGED
from indexer.document import Chunk
from indexer.errors import FatalError, FileError, IndexerError
from indexer.manners import COURTESY
from indexer.settings import synced
from indexer.store import cipher, concepts, spare, vault
from indexer.store.cipher import Key
from indexer.store.database import (
    CATALOG_FILE,
    LOCK_FILE,
    Database,
    errors,
    rewritten,
    take_lock,
    trim,
)
from indexer.store.ledger import TEXT_BITS, Ledger, numbers
from indexer.store.lexical import Lexicon
from indexer.store.schema import TOUCHED, check_version, stain, upgrade
from indexer.store.types import (
    Counts,
    FileState,
    FileUpdate,
    ModelKey,
    Role,
    RootState,
    StoredChunk,
    StoredModel,
)

log = logging.getLogger(__name__)

Vector = npt.NDArray[np.float32]

KEEP_UNUSED_S = 3600.0
# A large file takes hours on a slow machine; after a kill its first texts must still be there.
KEEP_AHEAD_S = 86400.0
_PUT_CHUNK = (
    "INSERT INTO chunks(file, text_id, slot, start, end, lang, locator, context, text)"
    " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_PAGE = 1000
_KNOWN_PAGE = 5000
_FIRST_CHUNKS = 8
_READERS_S = 60.0

_locator_decoder = msgspec.json.Decoder(api.Locator)


class Change:
    """What a write transaction means for the indexes; handed to the hooks around the commit.

    Attributes:
        vectors: New vectors, float16, by model and by text id.
        live: Texts that a chunk uses from this commit on.
        dead: Texts that no chunk uses any more.
        freed: Texts that are gone altogether.
        queued: Models whose outbox grew.
    """

    def __init__(self) -> None:
        self.vectors: dict[int, dict[int, npt.NDArray[np.float16]]] = {}
        self.live: list[int] = []
        self.dead: list[int] = []
        self.freed: list[int] = []
        self.queued: set[int] = set()


class Catalog:
    """The database, its one writer and its pool of readers. Every method may be called from any thread."""

    def __init__(self, data_dir: Path, key: Key | None = None) -> None:
        self._file = data_dir / CATALOG_FILE
        self._key = key
        self.active: Ledger | None = None
        self.before_commit: Callable[[Change], None] = lambda _: None
        self.after_commit: Callable[[Change], None] = lambda _: None
        self._lock = threading.RLock()
        self._change: Change | None = None
        self._pool_lock = threading.Condition()
        self._idle: list[Database] = []
        self._reading = 0
        self._closed = False
        self._counts: Counts | None = None
        self._roots: list[RootState] | None = None
        self._version = 0
        self._copying: Database | None = None
        self.lexicon = Lexicon(self.read)
        self._owner = take_lock(data_dir / LOCK_FILE)
        try:
            vault.admit(data_dir, key)
            with errors():
                self._writer = self._open_writer()
                self._recall_folders()
                self._note_folders()
        except BaseException:
            self._owner.close()
            raise

    # --- opening and closing ---------------------------------------------------------------

    def _open_writer(self) -> Database:
        if self._key is None and not self._has_content() and spare.folders(self._file):
            raise FatalError(
                DAMAGED,
                f"{self._file} is gone or empty. `dragoman check --repair` indexes your folders anew.",
            )
        try:
            db = self._connect_writer()
            rows = dict(db.ask("SELECT key, value FROM meta"))
            self.identity = str(rows["identity"])
            self.was_clean = bool(rows["clean"])
            self.lexicon.fill(db)
            self.lexicon.load(db)
            concepts.renew(db)
            if self.was_clean:
                db.execute("UPDATE meta SET value = 0 WHERE key = 'clean'")
            rewritten(self._file).unlink(missing_ok=True)  # what an earlier process did not finish
        except (apsw.NotADBError, apsw.CorruptError, KeyError) as error:
            raise FatalError(
                DAMAGED,
                f"{self._file} cannot be read ({error}). `dragoman check --repair` saves what can be saved.",
            ) from error
        return db

    def _has_content(self) -> bool:
        return self._file.is_file() and self._file.stat().st_size > 0

    def _connect_writer(self) -> Database:
        db = Database(str(self._file), key=self._key)
        try:
            db.set_busy_timeout(5000)
            for name in (self._file.name, self._file.name + "-wal", self._file.name + "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    (self._file.parent / name).chmod(0o600)
            check_version(db, self._file)
            db.pragma("journal_mode", "wal")
            # A commit is on the disk when it returns: with less, a power cut would take it back.
            db.pragma("synchronous", "full")
            db.pragma("foreign_keys", True)
            db.pragma("temp_store", "memory")
            db.pragma("cache_size", -32000)
            db.pragma("journal_size_limit", 64 << 20)
            # What is deleted is overwritten with zeros; see `Traces` for what that leaves.
            db.pragma("secure_delete", True)
            upgrade(db)
            db.execute(TOUCHED)
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Write the clean mark and let go of the files. Waits for readers; later calls do nothing."""
        with self._lock, self._pool_lock:
            if self._closed:
                return
            self._closed = True
            self.lexicon.close()
            self._pool_lock.wait_for(lambda: self._reading == 0, timeout=30)
            for db in self._idle:
                db.close()
            self._idle.clear()
            try:
                with errors():
                    self._writer.execute("UPDATE meta SET value = 1 WHERE key = 'clean'")
            finally:
                self._writer.close()
                try:
                    if self._key is None and not self._file.with_name(self._file.name + "-wal").exists():
                        spare.note_head(self._file)
                finally:
                    self._owner.close()

    def rest(self) -> None:
        """Give back the pages that connections remember; whoever comes next reads them again."""
        with self._pool_lock:
            idle, self._idle = self._idle, []
        for db in idle:
            db.close()
        if self._lock.acquire(blocking=False):
            try:
                if not self._closed and self._change is None:
                    self._writer.pragma("shrink_memory")
            finally:
                self._lock.release()
        trim()

    # --- transactions ----------------------------------------------------------------------

    @property
    def version(self) -> int:
        """A number that grows with every change; ask for it before the state it is to stand for is read."""
        return self._version

    @contextlib.contextmanager
    def read(self) -> Iterator[Database]:
        """A connection that sees one committed state of the catalog until the block ends."""
        with self._pool_lock:
            if self._closed:
                raise FatalError("The library is closed", "The service is ending; start it again.")
            self._reading += 1
            db = self._idle.pop() if self._idle else None
        try:
            with errors():
                if db is None:
                    db = Database(str(self._file), apsw.SQLITE_OPEN_READWRITE, self._key)
                    db.set_busy_timeout(5000)
                    db.pragma("query_only", True)
                    db.pragma("temp_store", "memory")
                    db.pragma("cache_size", -8000)
                db.execute("BEGIN")
                db.ask("SELECT count(*) FROM meta")  # takes the snapshot now, not later
                try:
                    yield db
                finally:
                    db.execute("ROLLBACK")
        except BaseException:
            if db is not None:
                db.close()
                db = None
            raise
        finally:
            with self._pool_lock:
                self._reading -= 1
                if db is not None:
                    if self._closed or len(self._idle) >= 8:
                        db.close()
                    else:
                        self._idle.append(db)
                self._pool_lock.notify_all()

    def _keep(self, version: int, name: str, value: object) -> None:
        """Remember an answer until something changes; not worth waiting for a writer."""
        if self._lock.acquire(blocking=False):
            try:
                if version == self._version:
                    setattr(self, name, value)
            finally:
                self._lock.release()

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """No other thread writes during this block."""
        with self._lock:
            yield

    @contextlib.contextmanager
    def write(self) -> Iterator[tuple[Database, Change]]:
        """The one write transaction: all of the block becomes visible and durable at its end, or nothing.

        Raises:
            IndexerError: The disk is full, or the catalog cannot be written; nothing was changed.
            FatalError: The catalog is damaged or closed.
        """
        with self._lock:
            if self._closed:
                raise FatalError("The library is closed", "The service is ending; start it again.")
            if self._change is not None:
                raise RuntimeError("write transactions do not nest")
            db, change = self._writer, Change()
            self._change = change
            try:
                with errors():
                    db.execute("BEGIN IMMEDIATE")
                    try:
                        yield db, change
                        self._settle(db, change)
                        self.before_commit(change)
                        self.lexicon.enliven(change.live)
                        db.execute("COMMIT")
                    except BaseException:
                        self.lexicon.retire(change.live)
                        if db.in_transaction:
                            db.execute("ROLLBACK")
                        raise
            finally:
                self._change = None
                self._version += 1
                self._counts = self._roots = None
            self.lexicon.retire(change.dead)
            self.after_commit(change)

    def _settle(self, db: Database, change: Change) -> None:
        """Note which of the touched texts came into use and which fell out of it; index names of files."""
        used = "EXISTS(SELECT 1 FROM chunks WHERE text_id = texts.id)"
        dead = db.ask(
            "UPDATE texts SET unused_since = ? WHERE id IN (SELECT id FROM touched)"
            f" AND unused_since IS NULL AND NOT {used} RETURNING id",
            (time.time(),),
        )
        change.dead = [row[0] for row in dead]
        live = db.ask(
            "UPDATE texts SET unused_since = NULL WHERE id IN (SELECT id FROM touched)"
            f" AND unused_since IS NOT NULL AND {used} RETURNING id"
        )
        change.live = [row[0] for row in live]
        db.execute("DELETE FROM touched")
        self.lexicon.put_files(db, [row[0] for row in db.ask("DELETE FROM touched_files RETURNING id")])
        if change.dead:
            stain(db)

    # --- models and texts ------------------------------------------------------------------

    def models(self) -> list[StoredModel]:
        """Every model that has or had an index here, the active one first."""
        with self.read() as db:
            rows = db.ask(
                "SELECT key, dim, reference, dimensions, name, role, keep != 0 FROM models"
                " ORDER BY role != 'active', role != 'building', role != 'kept', id"
            )
        return [StoredModel(*row) for row in rows]

    def ledger(self, model: ModelKey) -> Ledger:
        """What is known for a model; a new one is entered without a role.

        Raises:
            FatalError: The same key was used with another dimension.
        """
        with self.write() as (db, _):
            return self._ledger(db, model)

    def _ledger(self, db: Database, model: ModelKey) -> Ledger:
        db.execute("INSERT OR IGNORE INTO models(key, dim) VALUES(?, ?)", (model.key, model.dim))
        number, dim = db.ask("SELECT id, dim FROM models WHERE key = ?", (model.key,))[0]
        if dim != model.dim:
            raise FatalError(
                "The embedding model changed under its name",
                f"{model.key} gave {dim} dimensions before and gives {model.dim} now.",
            )
        return Ledger(self, model, number)

    def choose(self, model: ModelKey, chosen: StoredModel) -> Ledger:
        """Enter how a model is chosen and what for, in one transaction; see `set_role`.

        Raises:
            FatalError: The same key was used with another dimension.
        """
        with self.write() as (db, _):
            ledger = self._ledger(db, model)
            db.execute(
                "UPDATE models SET reference = ?, dimensions = ?, name = ? WHERE key = ?",
                (chosen.reference, chosen.dimensions, chosen.name, model.key),
            )
            self._give_role(db, model.key, chosen.role, keep=chosen.keep, incomplete=True)
        return ledger

    def set_role(self, key: str, role: Role) -> None:
        """Give a known model a role; there is one active and one building model at most.

        Making a model active is one transaction: the one before becomes ``kept`` when the new one was told to
        keep it, and loses its role otherwise.

        Raises:
            IndexerError: It is to be active in place of another, but texts lack its vector.
        """
        with self.write() as (db, _):
            self._give_role(db, key, role)

    def _give_role(
        self, db: Database, key: str, role: Role, *, keep: bool = False, incomplete: bool = False
    ) -> None:
        for number, kept in db.ask("SELECT id, keep FROM models WHERE key = ?", (key,)):
            if role == "active":
                before = db.ask("SELECT id FROM models WHERE role = 'active' AND key != ?", (key,))
                if before and not incomplete and self._incomplete(db, number):
                    raise IndexerError("Not yet complete", "Some texts were not embedded yet.")
                left = "kept" if kept and not incomplete else ""
                db.execute("UPDATE models SET role = ? WHERE role = 'active' AND key != ?", (left, key))
            elif role == "building":
                db.execute("UPDATE models SET role = '' WHERE role = 'building'")
            db.execute("UPDATE models SET role = ?, keep = ? WHERE key = ?", (role, keep, key))

    @staticmethod
    def _incomplete(db: Database, model: int) -> bool:
        return bool(
            db.ask(
                "SELECT 1 FROM texts WHERE unused_since IS NULL"
                " AND (? << 32 | id) NOT IN (SELECT key FROM vectors) LIMIT 1",
                (model,),
            )
        )

    def _text(self, db: Database, chunk: Chunk, vectors: Mapping[bytes, Vector]) -> int:
        """The id of a chunk's text, which gets its words and its vector if it has none yet."""
        COURTESY.give_way()
        text_hash = chunk.text_hash
        row = db.ask("SELECT id, unused_since FROM texts WHERE hash = ?", (text_hash,))
        if row:
            text_id = int(row[0][0])
        else:
            free = db.ask("SELECT min(id) FROM free_texts")[0][0]
            if free is not None:
                db.execute("DELETE FROM free_texts WHERE id = ?", (free,))
            text_id = int(
                db.ask(
                    "INSERT INTO texts(id, hash, unused_since, lang) VALUES(?, ?, ?, ?) RETURNING id",
                    (free, text_hash, time.time(), _clean(chunk.lang)),
                )[0][0]
            )
        if not row or (row[0][1] is not None and not self.lexicon.has_text(db, text_id)):
            self.lexicon.put_text(db, text_id, _clean(chunk.text), _clean(chunk.context), _clean(chunk.lang))
        if self.active is not None and not (row and self.active.has(db, text_id)):
            vector = vectors.get(text_hash)
            if vector is None:
                raise ValueError(f"no vector for the text with hash {text_hash.hex()}")
            change = self._change
            assert change is not None  # only ever called inside write()
            self.active.put(db, change, text_id, text_hash, vector)
        db.execute("INSERT OR IGNORE INTO touched VALUES(?)", (text_id,))
        return text_id

    @staticmethod
    def texts_of(db: Database, *, path: str, chunk: int) -> npt.NDArray[np.int64]:
        """Texts of a file in order, or of one chunk."""
        if path:
            query = (
                "SELECT text_id FROM chunks WHERE file = (SELECT id FROM files WHERE path = ?) ORDER BY slot"
            )
            rows = db.ask(query, (os.fsencode(path),))
        else:
            rows = db.ask("SELECT text_id FROM chunks WHERE id = ?", (chunk,))
        return np.array([row[0] for row in rows], np.int64)

    @staticmethod
    def texts_by_file(db: Database, files: Sequence[int]) -> dict[int, list[int]]:
        """Texts of some files, each in order."""
        found: dict[int, list[int]] = {}
        source = "FROM chunks WHERE file IN (SELECT value FROM json_each(?))"
        rows = db.ask_at_once(("file", "slot", "text_id"), source, (json.dumps(list(files)),))
        for file, _, text in sorted(rows):
            found.setdefault(file, []).append(text)
        return found

    @staticmethod
    def same_files(db: Database, *, path: str, chunk: int) -> dict[int, str]:
        """Ids and paths of a file (or that of a chunk) and of those with the same content."""
        which = "path = ?" if path else "id = (SELECT file FROM chunks WHERE id = ?)"
        files = db.ask(
            f"SELECT id, path, content FROM files WHERE {which}", (os.fsencode(path) if path else chunk,)
        )
        if files and (content := files[0][2]):
            files += db.ask("SELECT id, path FROM files WHERE content = ? AND status = 'indexed'", (content,))
        return {row[0]: os.fsdecode(row[1]) for row in files}

    @staticmethod
    def rows_of(
        db: Database, texts: npt.NDArray[np.int64], files: npt.NDArray[np.int64], each: int, limit: int
    ) -> list[Any]:
        """The chunks that have one of these texts, and the first chunks of these files.

        Args:
            db: The state that is seen.
            texts: Ids of texts.
            files: Ids of files.
            each: Of a text that more chunks have, only so many.
            limit: No more than this for all texts.

        Returns:
            Id, text, file, how many chunks the file has, and language, of each.
        """
        columns = ("chunks.id", "text_id", "file", "files.chunks", "chunks.lang || ''")
        found = db.ask_at_once(
            columns,
            "FROM json_each(?) AS wanted JOIN chunks ON chunks.id IN"
            " (SELECT copies.id FROM chunks AS copies WHERE copies.text_id = wanted.value"
            " ORDER BY copies.id LIMIT ?) JOIN files ON files.id = file LIMIT ?",
            (json.dumps(texts.tolist()), each, limit),
        )
        if len(files):
            found += db.ask_at_once(
                columns,
                "FROM chunks JOIN files ON files.id = file"
                " WHERE file IN (SELECT value FROM json_each(?)) AND slot < ?",
                (json.dumps(files.tolist()), _FIRST_CHUNKS),
            )
        return found

    @staticmethod
    def text_ids(db: Database) -> npt.NDArray[np.int64]:
        """Ids of all texts that are or were: those in use, out of use, and free for another."""
        return numbers(db, "SELECT id FROM texts UNION SELECT id FROM free_texts")

    def live_texts(self, db: Database) -> npt.NDArray[np.int64]:
        """Ids of all texts that some chunk uses."""
        return numbers(db, "SELECT id FROM texts WHERE unused_since IS NULL")

    def collect(
        self, older_than_s: float = KEEP_UNUSED_S, limit: int = 5000, *, scrubbed: bool = False
    ) -> int:
        """Forget texts that no chunk has used for a while; returns how many.

        Args:
            older_than_s: How long, in seconds.
            limit: At most so many, which is a matter of a second.
            scrubbed: Whether `Traces.scrub` follows in any case.
        """
        with self.write() as (db, change):
            now = time.time()
            # A clock that ran ahead and was set right must not keep anything for years.
            rows = db.ask(
                "SELECT id FROM texts WHERE unused_since <= ? OR unused_since > ? LIMIT ?",
                (now - older_than_s, now + 2 * KEEP_AHEAD_S, limit),
            )
            models = [row[0] for row in db.ask("SELECT id FROM models")]
            change.freed = [row[0] for row in rows]
            db.executemany(
                "DELETE FROM vectors WHERE key = ?",
                ((m << TEXT_BITS | t,) for m in models for t in change.freed),
            )
            self.lexicon.drop_texts(db, change.freed)
            for statement in (
                "DELETE FROM outbox WHERE index_id IN (SELECT id FROM indexes) AND text_id = ?",
                "DELETE FROM texts WHERE id = ?",
                "INSERT INTO free_texts VALUES(?)",
            ):
                db.executemany(statement, ((t,) for t in change.freed))
            if rows:
                db.execute("INSERT OR IGNORE INTO meta VALUES('index residue', unixepoch('subsec'))")
                if not scrubbed:
                    stain(db)
        return len(rows)

    # --- writing the file anew --------------------------------------------------------------

    def interrupt(self) -> None:
        """Break off `rewrite`, which then raises `IndexerError`."""
        copying = self._copying
        if copying is not None:
            with contextlib.suppress(apsw.ConnectionClosedError):  # it ended in this moment
                copying.interrupt()

    def rewrite(self) -> None:
        """Write the file anew, without what is free or left over in it.

        Searching goes on; writing waits, about as long as copying the file takes. It is replaced in one step.

        Raises:
            IndexerError: The disk is full, or somebody reads for very long; it is to be tried again.
        """
        new = rewritten(self._file)
        with self._lock:
            if self._closed:
                raise FatalError("The library is closed", "The service is ending; start it again.")
            with errors():
                new.unlink(missing_ok=True)
                new.touch(mode=0o600)
                try:
                    self._copy(new)
                    synced(new)
                    self._take_over(new)
                finally:
                    new.unlink(missing_ok=True)

    def _copy(self, new: Path) -> None:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI
        db = self._copying = Database(str(self._file), flags, self._key)
        try:
            db.set_busy_timeout(5000)
            db.pragma("temp_store", "memory")
            if self._key is None:
                db.execute("VACUUM INTO ?", (new.absolute().as_uri(),))
            else:
                cipher.copy(db, new, self._key)
        except apsw.InterruptError:
            raise IndexerError("Interrupted", "The service is ending.") from None
        except apsw.FullError:
            raise
        except apsw.Error as error:
            if self._key is None:
                raise
            # Not chained: what SQLite says may quote the name of the new file, to which the key belongs.
            name = type(error).__name__
            raise IndexerError("The library could not be written anew", f"SQLite says {name}.") from None
        finally:
            self._copying = None
            db.close()

    def _take_over(self, new: Path) -> None:
        """Put a file in the place of the catalog's; whoever reads is waited for, nobody waits for us."""
        # So that closing has nothing left to do.
        self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        with self._pool_lock:
            if not self._pool_lock.wait_for(lambda: not self._reading, _READERS_S):
                raise IndexerError(
                    "The library is busy", "Its file could not be replaced. It is tried again."
                )
            for db in self._idle:
                db.close()
            self._idle.clear()
            self._writer.close()
            try:
                # The last one who closes a database removes its log. With a log beside it, the new file would
                # be taken for the one that the log belongs to.
                if not self._file.with_name(self._file.name + "-wal").exists():
                    synced(self._file.parent)
                    new.replace(self._file)
                    synced(self._file.parent)
                    if self._key is None:
                        spare.note_head(self._file)
                else:
                    raise IndexerError("The library is busy", "Another program reads its file.")
            finally:
                self._writer = self._connect_writer()
                self._version += 1

    # --- index generations -----------------------------------------------------------------

    def generations(self) -> list[tuple[str, int]]:
        """Model key and generation of every index that the catalog knows."""
        with self.read() as db:
            query = "SELECT key, generation FROM indexes JOIN models ON models.id = model"
            return [(row[0], row[1]) for row in db.ask(query)]

    def mean_bytes(self) -> float:
        """Bytes of UTF-8 of a text with its context, on average over some; 0 when there is none."""
        with self.read() as db:
            query = (
                "SELECT avg(octet_length(text) + octet_length(context))"
                " FROM (SELECT text, context FROM chunks ORDER BY id DESC LIMIT 2000)"
            )
            return float(db.ask(query)[0][0] or 0.0)

    def text_count(self) -> int:
        """How many texts there are, in use or not."""
        with self.read() as db:
            return int(db.ask("SELECT count(*) FROM texts")[0][0])

    # --- roots -----------------------------------------------------------------------------

    def add_root(self, path: str) -> None:
        """Add a folder; one that is there already stays as it is."""
        with self.write() as (db, _):
            db.execute("INSERT OR IGNORE INTO roots(path) VALUES(?)", (os.fsencode(path),))
        self._note_folders()

    def _recall_folders(self) -> None:
        """Have the folders again that only the note knows: the catalog lost them with its log, or is a copy.

        A folder is noted after it is added, and before it is removed it is so no more.
        """
        noted = spare.folders(self._file) if self._key is None else []
        for path in noted:
            self._writer.execute("INSERT OR IGNORE INTO roots(path) VALUES(?)", (os.fsencode(path),))
            if self._writer.changes():
                log.warning("A folder that the catalog did not know any more is indexed again")

    def _note_folders(self, *, but: str = "") -> None:
        if self._key is not None:
            return
        with self._lock:
            rows = self._writer.ask("SELECT path FROM roots")
            spare.note_folders(self._file, [path for (row,) in rows if (path := os.fsdecode(row)) != but])

    def remove_root(self, path: str) -> None:
        """Forget a folder and all files that were indexed for it; the traces are erased soon."""
        with self.write() as (db, _):
            self._note_folders(but=path)  # before: what is forgotten is not to come back
            root = self._root(db, path)
            if root is not None:
                self._remove(db, "root = ?", (root,))
                db.execute("DELETE FROM roots WHERE id = ?", (root,))
                stain(db)
                db.execute("INSERT OR REPLACE INTO meta VALUES('hurry', ?)", (time.time(),))

    def set_online(self, path: str, online: bool, device: int | None = None) -> None:
        """Note whether a folder is there now and, where it is known, on which device."""
        with self.write() as (db, _):
            db.execute(
                "UPDATE roots SET online = ?, device = coalesce(?, device) WHERE path = ?",
                (online, device, os.fsencode(path)),
            )

    def set_volumes(self, root: str, volumes: Mapping[str, bool]) -> None:
        """Note which disks are mounted inside a folder, or were (False) and are not there now."""
        with self.write() as (db, _):
            number = self._root(db, root)
            if number is not None:
                db.execute("DELETE FROM volumes WHERE root = ?", (number,))
                rows = ((number, os.fsencode(path), online) for path, online in volumes.items())
                db.executemany("INSERT INTO volumes(root, path, online) VALUES(?, ?, ?)", rows)

    def volumes(self, root: str) -> dict[str, bool]:
        """What `set_volumes` noted, in order of path."""
        with self.read() as db:
            rows = db.ask(
                "SELECT volumes.path, volumes.online FROM volumes JOIN roots ON roots.id = root"
                " WHERE roots.path = ? ORDER BY volumes.path",
                (os.fsencode(root),),
            )
        return {os.fsdecode(path): bool(online) for path, online in rows}

    def roots(self) -> list[RootState]:
        """All folders with their counts, in order of path."""
        cached, version = self._roots, self._version
        if cached is not None:
            return list(cached)
        with self.read() as db:
            rows = db.ask(
                "SELECT roots.path, online, device, total(status = 'indexed'), total(chunks),"
                " total(CASE WHEN status = 'indexed' THEN size END),"
                " total(status != 'indexed') FROM roots LEFT JOIN files ON files.root = roots.id"
                " GROUP BY roots.id ORDER BY roots.path"
            )
        states = [
            RootState(
                os.fsdecode(path), bool(online), int(files), int(chunks), int(size), int(problems), device
            )
            for path, online, device, files, chunks, size, problems in rows
        ]
        self._keep(version, "_roots", states)
        return list(states)

    def root_paths(self) -> list[str]:
        """The folders alone, without counting what is in them."""
        with self.read() as db:
            return [os.fsdecode(path) for (path,) in db.ask("SELECT path FROM roots")]

    @staticmethod
    def _root(db: Database, path: str) -> int | None:
        rows = db.ask("SELECT id FROM roots WHERE path = ?", (os.fsencode(path),))
        return int(rows[0][0]) if rows else None

    def counts(self) -> Counts:
        """Totals over all folders."""
        cached, version = self._counts, self._version
        if cached is not None:
            return cached
        with self.read() as db:
            rows = db.ask("SELECT status, count(*), sum(chunks) FROM files GROUP BY status")
        by = {status: (int(number), int(chunks)) for status, number, chunks in rows}
        counts = Counts(
            files=by.get("indexed", (0, 0))[0],
            chunks=by.get("indexed", (0, 0))[1],
            failed=by.get("failed", (0, 0))[0],
            skipped=by.get("skipped", (0, 0))[0],
        )
        self._keep(version, "_counts", counts)
        return counts

    # --- files: reading --------------------------------------------------------------------

    _STATE = (
        "SELECT files.path, roots.path, size, mtime_ns, content, status"
        " FROM files JOIN roots ON roots.id = files.root"
    )

    def files(self, root: str) -> Iterator[FileState]:
        """All files of one folder in byte order of path, a page at a time, so that no snapshot is held."""
        low, high = _range(root)
        where, start = "files.path = ? OR files.path >= ? AND files.path < ?", (os.fsencode(root), low, high)
        with self.read() as db:
            number = self._root(db, root)
        # The plus keeps SQLite from going by root and sorting all of it for each page.
        query = f"{self._STATE} WHERE +files.root = ? AND ({{}}) ORDER BY files.path LIMIT ?"
        while True:
            with self.read() as db:
                rows = db.ask(query.format(where), (number, *start, _PAGE))
            yield from map(_file_state, rows)
            if len(rows) < _PAGE:
                return
            where, start = "files.path > ? AND files.path >= ? AND files.path < ?", (rows[-1][0], low, high)

    def known(self, root: str, below: str) -> Iterator[tuple[bytes, int, int]]:
        """Path, size and time of a folder's files at or below a path, in byte order, a page at a time."""
        with self.read() as db:
            number = self._root(db, root)
            first = "SELECT path, size, mtime_ns FROM files WHERE root = ? AND path = ?"
            rows = db.ask(first, (number, os.fsencode(below)))
        yield from rows
        low, high = _range(below)
        query = (
            "SELECT path, size, mtime_ns FROM files WHERE path > ? AND path < ? AND +root = ?"
            " ORDER BY path LIMIT ?"
        )
        rows = [(low,)]
        while rows:
            with self.read() as db:
                rows = db.ask(query, (rows[-1][0], high, number, _KNOWN_PAGE))
            yield from rows

    def file(self, path: str) -> FileState | None:
        """What is known of one file."""
        with self.read() as db:
            rows = db.ask(f"{self._STATE} WHERE files.path = ?", (os.fsencode(path),))
        return _file_state(rows[0]) if rows else None

    def find_content(self, content: bytes) -> bool:
        """Whether some indexed file has this content key."""
        if not content:
            return False
        with self.read() as db:
            query = "SELECT 1 FROM files WHERE content = ? AND status = 'indexed' LIMIT 1"
            return bool(db.ask(query, (content,)))

    def has_size(self, size: int) -> bool:
        """Whether some indexed file has this size, without which none can have the same content."""
        query = (
            "SELECT 1 FROM roots JOIN files ON files.root = roots.id"
            " WHERE status = 'indexed' AND size = ? LIMIT 1"
        )
        with self.read() as db:
            return bool(db.ask(query, (size,)))

    def problems(
        self, *, kind: Literal["failed", "skipped"] | None, limit: int, offset: int
    ) -> tuple[list[api.Problem], int]:
        """A page of the problems, newest first, and how many there are in all."""
        where, args = ("WHERE problems.kind = ?", (kind,)) if kind else ("", ())
        with self.read() as db:
            total = db.ask(f"SELECT count(*) FROM problems {where}", args)[0][0]
            rows = db.ask(
                "SELECT files.path, kind, problems.title, message, at FROM problems"
                f" JOIN files ON files.id = problems.file {where}"
                " ORDER BY at DESC, problems.file DESC LIMIT ? OFFSET ?",
                (*args, limit, offset),
            )
        found = [
            api.Problem(path=os.fsdecode(path), kind=k, title=title, message=message, at=at)
            for path, k, title, message, at in rows
        ]
        return found, int(total)

    # --- files: writing --------------------------------------------------------------------

    def replace(self, updates: Sequence[FileUpdate], vectors: Mapping[bytes, Vector]) -> None:
        """Give files a new state. A chunk whose text is unchanged keeps its id, wherever it moved to.

        Raises:
            ValueError: A vector is missing, zero, not finite or of the wrong length.
        """
        with self.write() as (db, _):
            for update in updates:
                root = self._root(db, update.root)
                if root is None:
                    log.info("dropped an update for a folder that is no longer in the library")
                    continue
                file = self._put_file(
                    db,
                    update.path,
                    (root, update.size, update.mtime_ns, update.content, "indexed"),
                    (update.media, update.code_language, _clean(update.title), len(update.chunks)),
                )
                self._put_chunks(db, file, update.chunks, vectors)

    @staticmethod
    def _put_file(
        db: Database,
        path: str,
        state: tuple[int, int, int, bytes, str],
        facts: tuple[str | None, str | None, str, int],
    ) -> int:
        rows = db.ask(
            "INSERT INTO files(path, root, size, mtime_ns, content, status,"
            " media, code_language, title, chunks) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(path) DO UPDATE SET root = excluded.root, size = excluded.size,"
            " mtime_ns = excluded.mtime_ns, content = excluded.content, status = excluded.status,"
            " media = excluded.media, code_language = excluded.code_language, title = excluded.title,"
            " chunks = excluded.chunks RETURNING id",
            (os.fsencode(path), *state, *facts),
        )
        db.execute("DELETE FROM problems WHERE file = ?", (rows[0][0],))
        return int(rows[0][0])

    def _put_chunks(
        self, db: Database, file: int, chunks: Sequence[Chunk], vectors: Mapping[bytes, Vector]
    ) -> None:
        # By text and language: what a chunk is filtered by never changes under its id.
        old: dict[tuple[int, str], list[tuple[Any, ...]]] = {}
        for row in db.ask(
            "SELECT text_id, id, slot, start, end, lang, locator, context FROM chunks WHERE file = ?"
            " ORDER BY slot DESC",
            (file,),
        ):
            old.setdefault((row[0], row[5]), []).append(row[1:])
        fresh: list[tuple[Any, ...]] = []
        moved: list[tuple[Any, ...]] = []
        for slot, chunk in enumerate(chunks):
            text_id = self._text(db, chunk, vectors)
            facts = (
                slot,
                chunk.start,
                chunk.end,
                _clean(chunk.lang),
                _locator(chunk.locator),
                _clean(chunk.context),
            )
            same = old.get((text_id, _clean(chunk.lang)))
            if same:
                number, *known = same.pop()
                if tuple(known) != facts:
                    moved.append((*facts, _clean(chunk.text), number))
            else:
                fresh.append((file, text_id, *facts, _clean(chunk.text)))
                if len(fresh) == _PAGE:  # a book's texts are not all held at once
                    db.executemany(_PUT_CHUNK, fresh)
                    fresh.clear()
        gone = [(text_id, row[0]) for (text_id, _), rows in old.items() for row in rows]
        db.executemany("INSERT OR IGNORE INTO touched VALUES(?)", ((text_id,) for text_id, _ in gone))
        db.executemany("DELETE FROM chunks WHERE id = ?", ((number,) for _, number in gone))
        db.executemany(
            "UPDATE chunks SET slot = ?, start = ?, end = ?, lang = ?, locator = ?, context = ?, text = ?"
            " WHERE id = ?",
            moved,
        )
        db.executemany(_PUT_CHUNK, fresh)

    def put_ahead(self, chunks: Sequence[Chunk], vectors: Mapping[bytes, Vector]) -> None:
        """Store texts, their words and vectors before their file; out of use, but kept for a day.

        Raises:
            ValueError: A vector is missing, zero, not finite or of the wrong length.
        """
        until = time.time() + KEEP_AHEAD_S
        with self.write() as (db, _):
            texts = {self._text(db, chunk, vectors) for chunk in chunks}
            db.executemany(
                "UPDATE texts SET unused_since = ? WHERE id = ? AND unused_since IS NOT NULL",
                ((until, text_id) for text_id in texts),
            )

    def adopt(self, path: str, root: str, size: int, mtime_ns: int, content: bytes) -> bool:
        """As `adopt_all`, of one file."""
        return self.adopt_all([(path, root, size, mtime_ns, content)])[0]

    def adopt_all(self, files: Sequence[tuple[str, str, int, int, bytes]]) -> list[bool]:
        """Make each (path, root, size, mtime_ns, content) a copy of an indexed file of that content.

        The suffix has to be the same too, because it decides how a file is read and cut.
        """
        with self.write() as (db, _):
            return [self._adopt(db, *file) for file in files]

    def _adopt(self, db: Database, path: str, root: str, size: int, mtime_ns: int, content: bytes) -> bool:
        root_id = self._root(db, root)
        if root_id is None or not content:
            return False
        suffix = Path(path).suffix.lower()
        rows = db.ask(
            "SELECT id, path, media, code_language, title, chunks FROM files"
            " WHERE content = ? AND status = 'indexed' ORDER BY path != ? LIMIT 100",
            (content, os.fsencode(path)),
        )
        for source, known, *facts in rows:
            if Path(os.fsdecode(known)).suffix.lower() != suffix:
                continue
            texts = db.ask("SELECT DISTINCT text_id FROM chunks WHERE file = ?", (source,))
            if self.active is not None and not all(self.active.has(db, row[0]) for row in texts):
                continue
            media, code_language, title, number = facts
            file = self._put_file(
                db,
                path,
                (root_id, size, mtime_ns, content, "indexed"),
                (media, code_language, title, number),
            )
            if file == source:
                return True
            self._drop_chunks(db, file)
            db.execute(
                "INSERT INTO chunks(file, slot, text_id, start, end, lang, locator, context, text)"
                " SELECT ?, slot, text_id, start, end, lang, locator, context, text FROM chunks"
                " WHERE file = ? ORDER BY slot",
                (file, source),
            )
            db.executemany("INSERT OR IGNORE INTO touched VALUES(?)", texts)
            return True
        return False

    def touch(self, path: str, size: int, mtime_ns: int) -> None:
        """As `touch_all`, of one file."""
        self.touch_all([(path, size, mtime_ns)])

    def touch_all(self, files: Sequence[tuple[str, int, int]]) -> None:
        """Each (path, size, mtime_ns) has the same content with a new size (of a failed file) or time."""
        with self.write() as (db, _):
            db.executemany(
                "UPDATE files SET size = ?, mtime_ns = ? WHERE path = ?",
                ((size, mtime_ns, os.fsencode(path)) for path, size, mtime_ns in files),
            )

    def fail(self, path: str, root: str, size: int, mtime_ns: int, error: FileError) -> None:
        """As `fail_all`, of one file."""
        self.fail_all([(path, root, size, mtime_ns, error)])

    def fail_all(self, files: Sequence[tuple[str, str, int, int, FileError]]) -> None:
        """Keep each (path, root, size, mtime_ns, error) as a problem; what was indexed of it is removed."""
        with self.write() as (db, _):
            for path, root, size, mtime_ns, error in files:
                root_id = self._root(db, root)
                if root_id is None:
                    log.info("dropped a problem of a folder that is no longer in the library")
                    continue
                file = self._put_file(
                    db, path, (root_id, size, mtime_ns, b"", error.kind), (None, None, "", 0)
                )
                self._drop_chunks(db, file)
                db.execute(
                    "INSERT INTO problems VALUES(?, ?, ?, ?, ?)",
                    (file, error.kind, _clean(error.title), _clean(error.message), time.time()),
                )

    @staticmethod
    def _drop_chunks(db: Database, file: int) -> None:
        db.execute("INSERT OR IGNORE INTO touched SELECT text_id FROM chunks WHERE file = ?", (file,))
        db.execute("DELETE FROM chunks WHERE file = ?", (file,))

    @staticmethod
    def _remove(db: Database, where: str, args: tuple[Any, ...]) -> int:
        db.execute(
            "INSERT OR IGNORE INTO touched SELECT text_id FROM chunks"
            f" WHERE file IN (SELECT id FROM files WHERE {where})",
            args,
        )
        db.execute(f"DELETE FROM chunks WHERE file IN (SELECT id FROM files WHERE {where})", args)
        return len(db.ask(f"DELETE FROM files WHERE {where} RETURNING 1", args))

    def remove(self, paths: Sequence[str]) -> None:
        """Forget single files."""
        with self.write() as (db, _):
            for path in paths:
                self._remove(db, "path = ?", (os.fsencode(path),))

    def remove_below(self, folder: str) -> int:
        """Forget all files below a folder (or the file of that name); returns how many."""
        with self.write() as (db, _):
            return self._remove(
                db, "(path = ? OR path >= ? AND path < ?)", (os.fsencode(folder), *_range(folder))
            )

    def move(self, old: str, new: str, new_root: str) -> int:
        """Rename a file, or a folder with everything below it; returns how many files moved."""
        source, target = os.fsencode(old), os.fsencode(new)
        with self.write() as (db, _):
            here = "(path = ? OR path >= ? AND path < ?)"
            rows = db.ask(f"SELECT id, path FROM files WHERE {here}", (source, *_range(old)))
            if not rows:
                return 0
            root = self._root(db, new_root)
            if root is None:
                log.info("files were moved to a folder that is no longer in the library")
                self._remove(db, here, (source, *_range(old)))
                return 0
            moving = json.dumps([row[0] for row in rows])
            self._remove(
                db,
                f"{here} AND id NOT IN (SELECT value FROM json_each(?))",
                (target, *_range(new), moving),
            )
            # Two steps, because one moving file may take the place of another (a/a becomes a).
            db.executemany(
                "UPDATE files SET path = ? WHERE id = ?",
                ((b"\0%d" % number, number) for number, _ in rows),
            )
            db.executemany(
                "UPDATE files SET path = ?, root = ? WHERE id = ?",
                ((target + path[len(source) :], root, number) for number, path in rows),
            )
            return len(rows)

    # --- search ----------------------------------------------------------------------------

    def chunks(self, ids: Sequence[int]) -> dict[int, StoredChunk]:
        """Those of the chunks that exist, by id, all from one state of the catalog."""
        with self.read() as db:
            rows = db.ask(
                "SELECT chunks.id, files.path, roots.path, roots.online AND NOT EXISTS(SELECT 1 FROM volumes"
                " WHERE volumes.root = files.root AND NOT volumes.online"
                " AND files.path > CAST(volumes.path || '/' AS BLOB)"
                " AND files.path < CAST(volumes.path || '0' AS BLOB)),"  # what follows / in order
                " media, code_language, title, text,"
                " context, start, end, locator, lang FROM chunks JOIN files ON files.id = chunks.file"
                " JOIN roots ON roots.id = files.root WHERE chunks.id IN (SELECT value FROM json_each(?))",
                (json.dumps([int(number) for number in ids]),),
            )
        return {
            row[0]: StoredChunk(
                chunk=row[0],
                path=os.fsdecode(row[1]),
                root=os.fsdecode(row[2]),
                online=bool(row[3]),
                media=row[4],
                code_language=row[5],
                title=row[6],
                text=row[7],
                context=row[8],
                start=row[9],
                end=row[10],
                locator=_locator_decoder.decode(row[11]),
                lang=row[12],
            )
            for row in rows
        }

    @staticmethod
    def chunks_of_text(db: Database, text_id: int, limit: int) -> list[int]:
        """At most `limit` chunks with this text (all, when it is below 0), lowest id first."""
        rows = db.ask("SELECT id FROM chunks WHERE text_id = ? ORDER BY id LIMIT ?", (text_id, limit))
        return [row[0] for row in rows]

    def mark_unread(self, files: Sequence[int]) -> list[str]:
        """Have the next look at files see that they are to be read again; their paths."""
        marked = json.dumps(list(files))
        with self.write() as (db, _):
            rows = db.ask(
                "UPDATE files SET content = x'', mtime_ns = -1 WHERE id IN (SELECT value FROM json_each(?))"
                " RETURNING path",
                (marked,),
            )
        return [os.fsdecode(row[0]) for row in rows]


# --- small things --------------------------------------------------------------------------


def _file_state(row: Sequence[Any]) -> FileState:
    return FileState(os.fsdecode(row[0]), os.fsdecode(row[1]), row[2], row[3], row[4], row[5])


def _range(folder: str) -> tuple[bytes, bytes]:
    """All paths below a folder, as a half-open range of bytes."""
    separator = os.fsencode(os.sep)
    low = os.fsencode(folder).rstrip(separator) + separator
    return low, low[:-1] + bytes([low[-1] + 1])


def _clean(text: str) -> str:
    """Text without lone surrogates, which neither SQLite nor JSON can carry; the length stays."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def _locator(locator: api.Locator) -> str:
    try:
        return msgspec.json.encode(locator).decode()
    except UnicodeEncodeError:
        symbol = None if locator.symbol is None else _clean(locator.symbol)
        heading = tuple(map(_clean, locator.heading))
        return msgspec.json.encode(msgspec.structs.replace(locator, symbol=symbol, heading=heading)).decode()
