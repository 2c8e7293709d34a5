"""What the catalog knows for one model: its vectors, its Chroma generations, and what these lack."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from indexer.store.types import ModelKey

if TYPE_CHECKING:
    from indexer.store.catalog import Catalog, Change
    from indexer.store.database import Database

Vector = npt.NDArray[np.float32]

TEXT_BITS = 32
TEXT_MASK = (1 << TEXT_BITS) - 1
_FORGET = 2000
_READ = 10_000


class Index(msgspec.Struct, frozen=True):
    """One generation of a model's Chroma index."""

    id: int
    generation: int
    state: Literal["building", "active"]


class PendingText(msgspec.Struct, frozen=True):
    """A text that a model has not embedded yet.

    Attributes:
        hash: Tells it from another text that got its id meanwhile.
        text: As `Chunk.embed_text`.
    """

    id: int
    hash: bytes
    text: str


class Ledger:
    """One model's part of the catalog. Every method may be called from any thread.

    Args:
        catalog: Which reads and writes.
        model: The vector space.
        number: The model's row.
    """

    def __init__(self, catalog: Catalog, model: ModelKey, number: int) -> None:
        self._catalog = catalog
        self.model = model
        self.number = number
        # Maps what the encoder gave to what is compared; the database itself keeps what it gave.
        self.to_space: Callable[[Vector], Vector] = lambda rows: rows

    def use_space(self, key: str, to_space: Callable[[Vector], Vector]) -> bool:
        """Compare vectors in this space from now on; False when another was used last time.

        What was put into the matrix and into Chroma for another space is then worth nothing.
        """
        self.to_space = to_space
        name = f"space-{self.number}"
        with self._catalog.write() as (db, _):
            before = db.ask("SELECT value FROM meta WHERE key = ?", (name,))
            db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (name, key))
        same = (before[0][0] if before else "") == key
        if not same and self.index() is not None:
            self.new_index()
        return same

    # --- vectors ---------------------------------------------------------------------------

    def _key(self, text_id: int) -> int:
        return self.number << TEXT_BITS | text_id

    @property
    def _keys(self) -> tuple[int, int]:
        return self._key(0), self._key(TEXT_MASK)

    def has(self, db: Database, text_id: int) -> bool:
        """Whether a text has a vector."""
        return bool(db.ask("SELECT 1 FROM vectors WHERE key = ?", (self._key(text_id),)))

    def missing(self, hashes: Collection[bytes]) -> set[bytes]:
        """Those of the text hashes that have no vector."""
        query = "SELECT 1 FROM texts JOIN vectors ON vectors.key = ? | texts.id WHERE hash = ?"
        with self._catalog.read() as db:
            return {h for h in hashes if not db.ask(query, (self._key(0), h))}

    def lacking(self, db: Database) -> int:
        """How many texts in use have no vector."""
        query = (
            "SELECT count(*) FROM texts WHERE unused_since IS NULL"
            " AND (? | id) NOT IN (SELECT key FROM vectors WHERE key BETWEEN ? AND ?)"
        )
        return int(db.ask(query, (self._key(0), *self._keys))[0][0])

    def counts(self) -> tuple[int, int, int]:
        """Texts with a vector, texts in use without one, and bytes of the vectors in the catalog."""
        with self._catalog.read() as db:
            number = int(db.ask("SELECT count(*) FROM vectors WHERE key BETWEEN ? AND ?", self._keys)[0][0])
            return number, self.lacking(db), number * 2 * self.model.dim

    def pending(self, after: int, limit: int) -> list[PendingText]:
        """At most `limit` texts in use without a vector whose id is above `after`, in order of id."""
        query = (
            "SELECT id, hash, (SELECT CASE context WHEN '' THEN text ELSE context || char(10) || text END"
            " FROM chunks WHERE text_id = texts.id LIMIT 1) FROM texts"
            " WHERE id > ? AND unused_since IS NULL"
            " AND NOT EXISTS(SELECT 1 FROM vectors WHERE key = ? | texts.id) ORDER BY id LIMIT ?"
        )
        with self._catalog.read() as db:
            rows = db.ask(query, (after, self._key(0), limit))
        return [PendingText(number, text_hash, text or "") for number, text_hash, text in rows]

    def put(self, db: Database, change: Change, text_id: int, text_hash: bytes, vector: Vector) -> None:
        """Store a text's vector, float32 (dim,), inside a write transaction.

        Raises:
            ValueError: It is zero, not finite or of the wrong length.
        """
        if vector.shape != (self.model.dim,):
            raise ValueError(f"a vector of shape {vector.shape}, expected ({self.model.dim},)")
        half = np.asarray(vector, dtype="<f2")
        if not np.isfinite(half).all() or not half.any():
            raise ValueError("a vector that is zero or not finite")
        data = half.tobytes()
        db.execute(
            "INSERT INTO vectors(key, data, crc) VALUES(?, ?, ?)",
            (self._key(text_id), data, checksum(text_hash, data)),
        )
        db.execute(
            "INSERT OR REPLACE INTO outbox(index_id, text_id) SELECT id, ? FROM indexes WHERE model = ?",
            (text_id, self.number),
        )
        change.vectors.setdefault(self.number, {})[text_id] = half
        change.queued.add(self.number)

    def fill(self, texts: Sequence[PendingText], vectors: Vector) -> int:
        """Store vectors (n, dim) of pending texts, those that are still wanted, in one transaction.

        Returns:
            How many were stored.

        Raises:
            ValueError: A vector is zero, not finite or of the wrong length.
        """
        stored = 0
        with self._catalog.write() as (db, change):
            for text, vector in zip(texts, vectors, strict=True):
                same = db.ask("SELECT 1 FROM texts WHERE id = ? AND hash = ?", (text.id, text.hash))
                if same and not self.has(db, text.id):
                    self.put(db, change, text.id, text.hash, vector)
                    stored += 1
        return stored

    def vectors(self, db: Database, text_ids: Sequence[int]) -> tuple[list[int], Vector]:
        """Those of `text_ids` that have a vector, and their vectors, float32 (n, dim), unit length."""
        found: list[int] = []
        data: list[bytes] = []
        for text_id in text_ids:
            row = db.ask("SELECT data FROM vectors WHERE key = ?", (self._key(text_id),))
            if row:
                found.append(text_id)
                data.append(row[0][0])
        found, rows = usable_rows(found, data, self.model.dim)
        return found, self.to_space(rows)

    def plain_vectors(self, db: Database, text_ids: npt.NDArray[np.int64]) -> Vector:
        """Vectors as the encoder gave them, float32 (n, dim), unit length; zeros for a text without one."""
        keys = np.array([self._key(text_id) for text_id in text_ids.tolist()], np.int64)
        # One value of all, for the reason that `Database.ask_at_once` has. What a disk damaged is no vector.
        ((found, data),) = db.ask(
            "SELECT group_concat(key, ' '), group_concat(hex(data), '') FROM vectors"
            " WHERE key IN (SELECT value FROM json_each(?)) AND typeof(data) = 'blob' AND length(data) = ?",
            (json.dumps(keys.tolist()), 2 * self.model.dim),
        )
        known = np.fromstring(found or "", np.int64, sep=" ")
        vectors = np.frombuffer(bytes.fromhex(data or ""), "<f2").reshape(len(known), self.model.dim)
        rows = np.zeros((len(keys), self.model.dim), np.float32)
        order = np.argsort(known)
        if len(known):
            place = np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)
            there = known[order[place]] == keys
            rows[there] = vectors[order[place[there]]]
        rows[~np.isfinite(rows).all(axis=1)] = 0.0  # damaged ones say nothing
        unit: Vector = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
        return unit

    def all_vectors(self, db: Database, block: int = 4096) -> Iterator[tuple[list[int], Vector]]:
        """All vectors in blocks, in order of text id."""
        cursor: Iterator[Any] = db.execute(
            "SELECT key, data FROM vectors WHERE key BETWEEN ? AND ? ORDER BY key", self._keys
        )
        while rows := list(itertools.islice(cursor, block)):
            ids, found = usable_rows(
                [row[0] & TEXT_MASK for row in rows], [row[1] for row in rows], self.model.dim
            )
            yield ids, self.to_space(found)

    def all_ids(self, db: Database) -> npt.NDArray[np.int64]:
        """Texts with a vector, sorted."""
        return (
            numbers(db, "SELECT key FROM vectors WHERE key BETWEEN ? AND ? ORDER BY key", self._keys)
            & TEXT_MASK
        )

    def vector_ids(self, index: Index | None = None) -> npt.NDArray[np.int64]:
        """Texts with a vector; of an index, those that Chroma acknowledged."""
        with self._catalog.read() as db:
            ids = self.all_ids(db)
            if index is not None:
                ids = np.setdiff1d(ids, self.outbox_ids(db, index, -1), assume_unique=True)
        return ids

    def forget(self) -> bool:
        """Remove the model and its vectors, some at a time, so that nobody waits long for the catalog.

        Returns:
            False when it got a role (again) meanwhile; what is left of it then stays.
        """
        while True:
            with self._catalog.write() as (db, _):
                if db.ask("SELECT 1 FROM models WHERE id = ? AND role != ''", (self.number,)):
                    return False
                db.execute("DELETE FROM indexes WHERE model = ?", (self.number,))
                gone = db.ask(
                    "DELETE FROM vectors WHERE key IN"
                    " (SELECT key FROM vectors WHERE key BETWEEN ? AND ? LIMIT ?) RETURNING 1",
                    (*self._keys, _FORGET),
                )
                if not gone:
                    db.execute("DELETE FROM models WHERE id = ?", (self.number,))
                    db.execute("DELETE FROM meta WHERE key = ?", (f"space-{self.number}",))
                    return True

    # --- index generations -----------------------------------------------------------------

    def index(self) -> Index | None:
        """The current generation of the model's Chroma index."""
        with self._catalog.read() as db:
            rows = db.ask(
                "SELECT id, generation, state FROM indexes WHERE model = ? ORDER BY generation DESC LIMIT 1",
                (self.number,),
            )
        return Index(*rows[0]) if rows else None

    def older_index(self, index: Index) -> Index | None:
        """The generation that serves while this one is filled, if there is one."""
        with self._catalog.read() as db:
            rows = db.ask(
                "SELECT id, generation, state FROM indexes WHERE model = ? AND id != ? AND state = 'active'"
                " ORDER BY generation DESC LIMIT 1",
                (self.number, index.id),
            )
        return Index(*rows[0]) if rows else None

    def forget_other_indexes(self) -> None:
        """Forget what the accelerator has of all other models; it is filled anew when they are searched."""
        with self._catalog.write() as (db, _):
            db.execute("DELETE FROM indexes WHERE model != ?", (self.number,))

    def forget_index(self, index: Index) -> None:
        """Forget a generation; what it has is worth nothing."""
        with self._catalog.write() as (db, _):
            db.execute("DELETE FROM indexes WHERE id = ?", (index.id,))

    def new_index(self, *, beside: Index | None = None) -> Index:
        """Begin a new generation: everything is in its outbox.

        Args:
            beside: The generation that is kept up to date and serves meanwhile; all others are forgotten.
        """
        with self._catalog.write() as (db, _):
            last = db.ask("SELECT max(generation) FROM indexes WHERE model = ?", (self.number,))
            generation = (last[0][0] or 0) + 1
            kept = 0 if beside is None else beside.id
            db.execute("DELETE FROM indexes WHERE model = ? AND id != ?", (self.number, kept))
            db.execute(
                "INSERT INTO indexes(model, generation, state) VALUES(?, ?, 'building')",
                (self.number, generation),
            )
            number = db.last_insert_rowid()
            db.execute(
                "INSERT INTO outbox(index_id, text_id) SELECT ?, key & ? FROM vectors"
                " WHERE key BETWEEN ? AND ? ORDER BY key",
                (number, TEXT_MASK, *self._keys),
            )
        return Index(number, generation, "building")

    def activate(self, index: Index) -> None:
        """A generation is complete from now on; those before it are forgotten."""
        with self._catalog.write() as (db, _):
            db.execute("UPDATE indexes SET state = 'active' WHERE id = ?", (index.id,))
            db.execute("DELETE FROM indexes WHERE model = ? AND id != ?", (self.number, index.id))

    def generations(self) -> list[tuple[str, int]]:
        """Model key and generation of every index that the catalog knows, of all models."""
        return self._catalog.generations()

    def outbox_batch(self, index: Index, limit: int) -> tuple[list[int], list[int], Vector]:
        """The oldest `limit` entries: sequence numbers, text ids, vectors (n, dim) unit float32."""
        with self._catalog.read() as db:
            rows = db.ask(
                "SELECT seq, text_id FROM outbox WHERE index_id = ? ORDER BY seq LIMIT ?", (index.id, limit)
            )
            found, vectors = self.vectors(db, [row[1] for row in rows])
        return [row[0] for row in rows], found, vectors

    def outbox_done(self, sequence: Iterable[int]) -> None:
        """Chroma has these entries. One that was queued again meanwhile has a new number and stays."""
        with self._catalog.write() as (db, _):
            db.executemany("DELETE FROM outbox WHERE seq = ?", ((s,) for s in sequence))

    def outbox_add(self, index: Index, text_ids: Collection[int]) -> None:
        """Queue texts once more, those that still have a vector."""
        with self._catalog.write() as (db, change):
            db.executemany(
                "INSERT OR REPLACE INTO outbox(index_id, text_id)"
                " SELECT ?, ? WHERE EXISTS(SELECT 1 FROM vectors WHERE key = ?)",
                ((index.id, t, self._key(t)) for t in text_ids),
            )
            change.queued.add(self.number)

    @staticmethod
    def outbox_ids(db: Database, index: Index, limit: int) -> npt.NDArray[np.int64]:
        """At most `limit` (all, when it is below 0) of the texts that Chroma does not have yet, sorted."""
        query = "SELECT text_id FROM outbox WHERE index_id = ? ORDER BY text_id LIMIT ?"
        return numbers(db, query, (index.id, limit))

    def outbox_size(self, index: Index, most: int) -> int:
        """How many texts Chroma does not have yet; `most` when there are more."""
        with self._catalog.read() as db:
            query = "SELECT count(*) FROM (SELECT 1 FROM outbox WHERE index_id = ? LIMIT ?)"
            return int(db.ask(query, (index.id, most))[0][0])

    # --- of the whole catalog, for those who are given only this -----------------------------

    def read(self) -> AbstractContextManager[Database]:
        """As `Catalog.read`."""
        return self._catalog.read()

    def text_count(self) -> int:
        """How many texts there are, in use or not."""
        return self._catalog.text_count()

    def collect(self) -> int:
        """As `Catalog.collect`."""
        return self._catalog.collect()


def checksum(text_hash: bytes, data: bytes) -> int:
    """CRC-32 over a text's hash and its vector as stored, so that a vector of another text shows too."""
    return zlib.crc32(data, zlib.crc32(text_hash))


def numbers(db: Database, query: str, args: Sequence[Any] = ()) -> npt.NDArray[np.int64]:
    """The only column of a query, int64 (n,); a million rows as Python objects would take 100 MB."""
    found: list[npt.NDArray[np.int64]] = []
    rows: Iterator[Any] = db.execute(query, args)
    while len(some := np.fromiter((row[0] for row in itertools.islice(rows, _READ)), np.int64)):
        found.append(some)
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def usable_rows(ids: list[int], data: Sequence[bytes], dim: int) -> tuple[list[int], Vector]:
    """As `unit_rows`, of what is a vector at all; what a disk damaged is left out, for the check to find."""
    length = 2 * dim
    if any(len(each) != length for each in data):
        whole = [at for at, each in enumerate(data) if len(each) == length]
        ids, data = [ids[at] for at in whole], [data[at] for at in whole]
    halves = np.frombuffer(b"".join(data), "<f2").reshape(-1, dim)
    good = np.isfinite(halves).all(axis=1) & halves.any(axis=1)
    if not good.all():
        ids, halves = [ids[at] for at in np.flatnonzero(good).tolist()], halves[good]
    return ids, unit_rows(halves.tobytes(), dim)


def unit_rows(data: bytes, dim: int) -> Vector:
    """Stored float16 vectors as float32 rows (n, dim) of unit length (rounding had changed it a little)."""
    rows = np.frombuffer(data, "<f2").reshape(-1, dim).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows
