"""The child process that owns FAISS: `python -m indexer.store.faiss_child`, requests on stdin.

Its graph (HNSW) is in memory and can neither change nor delete a vector, nor write a part of itself. So a
vector that is overwritten leaves its old place in the graph dead, and what is acknowledged stands in a log
(`rows`, append only). At the end, and each time the log has doubled, the whole is written beside the old
one (`snapshot`) and takes its place in one step, without the dead places when they are many. After a kill
the log is read again; a record that was cut off was never acknowledged.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.store.chroma_child import found, main, take
from indexer.store.wire import AllIds, Fetch, Found, Open, Query, Upsert

LINKS = 24
EF_CONSTRUCTION = 128
EF_SEARCH = 128
SNAPSHOT_ROWS = 10_000
_RECORD = struct.Struct("<4sIII")  # magic, vectors, dimensions, CRC-32 of what follows
_MAGIC = b"rows"
_HEAD = struct.Struct("<8sQ")  # magic, places
_SNAPSHOT = b"faiss-01"
_DIGEST = 32

Rows = npt.NDArray[np.float32]


class Faiss:
    """The open folder."""

    def __init__(self, request: Open) -> None:
        import faiss

        self._faiss: Any = faiss
        faiss.omp_set_num_threads(max(1, (os.cpu_count() or 2) // 2))
        folder = Path(request.folder)
        self._lock = take(folder, request)
        self._snapshot = folder / "snapshot"
        self._log = folder / "rows"
        self._index: Any = None
        self._ids: list[int] = []  # by place in the graph; -1 for a dead one
        self._places: dict[int, int] = {}
        self._logged = 0
        if request.create:
            self._log.touch(mode=0o600)
        if self._snapshot.exists():
            self._load()
        self._replay()

    # --- files -----------------------------------------------------------------------------------

    def _load(self) -> None:
        data = self._snapshot.read_bytes()
        if hashlib.blake2b(data[_DIGEST:], digest_size=_DIGEST).digest() != data[:_DIGEST]:
            raise ValueError("the snapshot is damaged")
        magic, places = _HEAD.unpack_from(data, _DIGEST)
        if magic != _SNAPSHOT:
            raise ValueError("the snapshot is of another version")
        at = _DIGEST + _HEAD.size
        ids = np.frombuffer(data, np.int64, places, at)
        self._index = self._faiss.deserialize_index(np.frombuffer(data, np.uint8, offset=at + ids.nbytes))
        self._ids = ids.tolist()
        self._places = {number: place for place, number in enumerate(self._ids) if number >= 0}

    def _replay(self) -> None:
        data = memoryview(self._log.read_bytes())
        at = 0
        while len(data) - at >= _RECORD.size:
            magic, count, dim, crc = _RECORD.unpack_from(data, at)
            end = at + _RECORD.size + count * (8 + 4 * dim)
            if magic == _MAGIC and end > len(data):
                break
            body = data[at + _RECORD.size : end]
            if magic != _MAGIC or zlib.crc32(body) != crc:
                raise ValueError(f"the log is damaged at byte {at}")
            ids = np.frombuffer(body, np.int64, count)
            self._put(ids, np.frombuffer(body, np.float32, offset=ids.nbytes).reshape(count, dim))
            self._logged += count
            at = end
        if at < len(data):
            os.truncate(self._log, at)

    def _save(self) -> None:
        """Write everything as a snapshot; a log that is left beside it says nothing new."""
        if self._index is None:
            return
        if len(self._ids) > 1.5 * len(self._places):
            self._compact()
        ids = np.array(self._ids, np.int64).tobytes()
        body = (
            _HEAD.pack(_SNAPSHOT, len(self._ids)) + ids + self._faiss.serialize_index(self._index).tobytes()
        )
        new = self._snapshot.with_name("snapshot.new")
        with new.open("wb") as file:
            file.write(hashlib.blake2b(body, digest_size=_DIGEST).digest())
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._snapshot)
        os.truncate(self._log, 0)
        self._logged = 0

    def _compact(self) -> None:
        places = np.array(sorted(self._places.values()), np.int64)
        ids = np.array(self._ids, np.int64)[places]
        rows = np.stack([self._index.reconstruct(int(place)) for place in places])
        self._index, self._ids, self._places = None, [], {}
        self._put(ids, rows)

    # --- vectors ---------------------------------------------------------------------------------

    def _put(self, ids: npt.NDArray[np.int64], rows: Rows) -> None:
        if self._index is None:
            self._index = self._faiss.IndexHNSWFlat(rows.shape[1], LINKS, self._faiss.METRIC_INNER_PRODUCT)
            self._index.hnsw.efConstruction = EF_CONSTRUCTION
        if rows.shape[1] != self._index.d:
            raise ValueError(f"vectors of {rows.shape[1]} dimensions among those of {self._index.d}")
        last = {number: row for row, number in enumerate(ids.tolist())}
        kept = np.array(
            [
                row
                for number, row in last.items()
                # The same once more, as after a kill, costs no place.
                if number not in self._places
                or not np.array_equal(self._index.reconstruct(self._places[number]), rows[row])
            ],
            np.int64,
        )
        if not len(kept):
            return
        first = len(self._ids)
        self._index.add(np.ascontiguousarray(rows[kept]))
        for place, number in enumerate(ids[kept].tolist(), first):
            before = self._places.get(number)
            if before is not None:
                self._ids[before] = -1
            self._ids.append(number)
            self._places[number] = place

    def count(self) -> int:
        """How many vectors there are."""
        return len(self._places)

    def upsert(self, request: Upsert) -> None:
        """Store vectors over what was there under their ids."""
        ids = np.frombuffer(request.ids, np.int64)
        if not len(ids):
            return
        rows = np.frombuffer(request.vectors, np.float32).reshape(len(ids), -1)
        if (ids < 0).any() or not np.isfinite(rows).all():
            raise ValueError("ids below 0, or vectors that are not finite")
        self._put(ids, rows)
        body = request.ids + request.vectors
        with self._log.open("ab") as file:
            file.write(_RECORD.pack(_MAGIC, len(ids), rows.shape[1], zlib.crc32(body)) + body)
        self._logged += len(ids)
        if self._logged >= max(SNAPSHOT_ROWS, len(self._ids) // 2):
            self._save()

    def query(self, request: Query) -> Found:
        """The nearest, nearest first."""
        vector = np.frombuffer(request.vector, np.float32)
        k = min(request.k, len(self._places))
        if k <= 0:
            return found(request.id, [], [])
        chosen = None
        if len(self._places) < len(self._ids):
            live = np.packbits(np.array(self._ids, np.int64) >= 0, bitorder="little")
            chosen = self._faiss.IDSelectorBitmap(live)
        how = self._faiss.SearchParametersHNSW(efSearch=max(EF_SEARCH, k), sel=chosen)
        cosines, places = self._index.search(vector[None, :], k, params=how)
        there = places[0] >= 0
        ids = [self._ids[place] for place in places[0][there].tolist()]
        return found(request.id, ids, 1.0 - cosines[0][there])

    def all_ids(self, request: AllIds) -> Found:
        """Every id."""
        return found(request.id, list(self._places), [])

    def fetch(self, request: Fetch) -> Found:
        """What is held of some ids."""
        ids = [n for n in np.frombuffer(request.ids, np.int64).tolist() if n in self._places]
        return found(request.id, ids, [self._index.reconstruct(self._places[n]) for n in ids])

    def close(self) -> None:
        """Put the folder to rest."""
        if self._logged:
            self._save()
        self._lock.close()


if __name__ == "__main__":
    main(Faiss)
