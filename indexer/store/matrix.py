"""Exact search: all vectors of the active model as rows of one flat file, mapped into memory.

Row i belongs to text i of the catalog. The file is only a mirror: it is believed when it was closed
in good order for this catalog and this model, and otherwise written again from the catalog.

A reader that took its snapshot of the catalog first and its view of the matrix second finds every
vector of its snapshot: rows are written before the commit that makes them visible, and a row is only
given to another text long after no snapshot can refer to the old one. Which rows count is a hint that
errs on the side of too many; the catalog has the last word.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]

_MAGIC = b"DGMX0001"
_HEADER = 4096
_FIELDS = struct.Struct("<8s16sIQ")  # magic, identity of the catalog, dimensions, rows (0 while open)
_GROW = 1024
_GROW_MOST = 128 << 20  # bytes
# Rows compared at once: few enough to stay in a core's own cache, and to keep BLAS from sharing them out
# among threads that wait for each other (measured: 16,384 rows at once take six times as long).
_BLOCK = 1024
# A row picked out of the file takes as long as so many rows that are read one after the other.
GATHER_COST = 2


class View:
    """What one search sees: the unit vectors of all texts that may be in use."""

    def __init__(self, rows: Rows, wanted: npt.NDArray[np.bool_]) -> None:
        self._rows = rows
        self._wanted = wanted

    def best(self, query: Rows, k: int, among: Ids | None = None) -> Ids:
        """Texts with the largest dot product, best first.

        Args:
            query: float32 (dim,), unit length.
            k: How many; fewer come back when fewer are in use.
            among: Only these texts; None for all.
        """
        if among is not None:
            among = self.wanted(among)
        if among is None or len(among) * GATHER_COST > len(self._rows):
            scores = np.empty(len(self._rows), np.float32)
            for low in range(0, len(scores), _BLOCK):
                np.dot(self._rows[low : low + _BLOCK], query, out=scores[low : low + _BLOCK])
            if among is None:
                scores[~self._wanted[: len(scores)]] = -np.inf
                top = _top(scores, k)
                return top[np.isfinite(scores[top])]
            return among[_top(scores[among], k)]
        return among[_top(self.cosines(query, among), k)]

    def wanted(self, among: Ids) -> Ids:
        """Those of the texts that may be in use."""
        among = among[(among >= 0) & (among < len(self._wanted))]
        return among[self._wanted[among]]

    def cosines(self, query: Rows, texts: Ids) -> Rows:
        """Dot products of texts in use with a query, float32 (len(texts),)."""
        scores = np.empty(len(texts), np.float32)
        picked = np.empty((min(_BLOCK, len(texts)), len(query)), np.float32)
        for low in range(0, len(texts), _BLOCK):
            some = texts[low : low + _BLOCK]
            rows = picked[: len(some)]
            # No index is out of range; with "raise" NumPy would collect into a buffer of its own first.
            np.take(self._rows, some, axis=0, out=rows, mode="clip")
            np.dot(rows, query, out=scores[low : low + _BLOCK])
        return scores

    def rows(self, texts: Ids) -> Rows:
        """The vectors of texts in use, float32 (len(texts), dim)."""
        return self._rows[texts]

    def size(self) -> int:
        """How many texts may be in use."""
        return int(np.count_nonzero(self._wanted))


def _top(scores: npt.NDArray[np.float32], k: int) -> Ids:
    if k < len(scores):
        part = np.argpartition(scores, len(scores) - k)[len(scores) - k :]
    else:
        part = np.arange(len(scores))
    return part[np.argsort(-scores[part], kind="stable")].astype(np.int64)


class Matrix:
    """The mirror. One writer at a time (the catalog's lock sees to that), any number of readers."""

    def __init__(self, file: Path, identity: str, dim: int) -> None:
        self._begin(dim)
        self._file = file
        self._identity = identity.encode()
        self._mapped: mmap.mmap | None = None
        self._intact = self._believable()
        if not self._intact:
            file.unlink(
                missing_ok=True
            )  # not cut short: a reader of an older mirror may still have it mapped
        self._handle = file.open("r+b" if self._intact else "w+b", buffering=0)
        file.chmod(0o600)
        if self._intact:
            self._handle.seek(0)
            rows = _FIELDS.unpack(self._handle.read(_FIELDS.size))[3]
            self._map(rows)
            self._handle.seek(_HEADER + rows * 4 * dim)
            bits = np.frombuffer(self._handle.read(-(-rows // 8)), np.uint8)
            self._present = np.unpackbits(bits, count=rows).astype(np.bool_)
        self._write_header(0)

    def _begin(self, dim: int) -> None:
        self._dim = dim
        self._lock = threading.Lock()
        self._readers = 0
        self._dying: set[int] = set()
        self._capacity = 0
        self._rows: Rows = np.empty((0, dim), np.float32)
        self._live = np.zeros(0, np.bool_)
        self._present = np.zeros(0, np.bool_)
        self._intact = False

    @property
    def intact(self) -> bool:
        """Whether the file was found in good order; otherwise `put` has to be given every vector."""
        return self._intact

    def _believable(self) -> bool:
        try:
            with self._file.open("rb") as handle:
                magic, identity, dim, rows = _FIELDS.unpack(handle.read(_FIELDS.size))
            size = self._file.stat().st_size
        except (OSError, struct.error):
            return False
        fits = size == _HEADER + rows * 4 * self._dim + -(-rows // 8)
        return bool((magic, identity, dim) == (_MAGIC, self._identity, self._dim) and rows and fits)

    def _write_header(self, rows: int) -> None:
        self._handle.seek(0)
        header = _FIELDS.pack(_MAGIC, self._identity, self._dim, rows)
        self._handle.write(header if rows == 0 and self._capacity else header.ljust(_HEADER, b"\0"))

    def _map(self, capacity: int) -> None:
        length = _HEADER + capacity * 4 * self._dim
        self._mapped = mmap.mmap(self._handle.fileno(), length, access=mmap.ACCESS_READ)
        rows: Rows = np.frombuffer(self._mapped, np.float32, offset=_HEADER).reshape(capacity, self._dim)
        self._take(rows)

    def _take(self, rows: Rows) -> None:
        for name in ("_live", "_present"):
            grown = np.zeros(len(rows), np.bool_)
            grown[: self._capacity] = getattr(self, name)
            setattr(self, name, grown)
        self._rows, self._capacity = rows, len(rows)

    def _reserve(self, rows: int) -> None:
        if rows <= self._capacity:
            return
        more = min(self._capacity // 4, _GROW_MOST // (4 * self._dim))
        capacity = -(-max(rows, self._capacity + more) // _GROW) * _GROW
        self._grow(capacity)

    def _grow(self, capacity: int) -> None:
        self._extend(_HEADER + self._capacity * 4 * self._dim, _HEADER + capacity * 4 * self._dim)
        with self._lock:
            self._map(capacity)

    def _extend(self, size: int, wanted: int) -> None:
        """Make the file longer and take the room: a hole the disk cannot fill later kills whoever maps it.

        Raises:
            OSError: The disk is full.
        """
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(self._handle.fileno(), size, wanted - size)
            except OSError as error:
                if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
                    raise
            else:
                return
        self._handle.seek(size)
        zeros = bytes(1 << 20)
        while size < wanted:
            size += self._handle.write(zeros[: wanted - size])

    def put(self, ids: Iterable[int], vectors: Rows) -> None:
        """Write rows (n, dim) of unit length. Call it before the commit that makes them visible.

        Raises:
            OSError: The disk is full; nothing is lost, the catalog has the vectors.
        """
        numbers = np.fromiter(ids, np.int64)
        if not len(numbers):
            return
        self._reserve(int(numbers.max()) + 1)
        breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
        for run, rows in zip(np.split(numbers, breaks), np.split(vectors, breaks), strict=True):
            self._write(int(run[0]), rows)
        self._present[numbers] = True

    def _write(self, first: int, rows: Rows) -> None:
        self._handle.seek(_HEADER + first * 4 * self._dim)
        self._handle.write(np.ascontiguousarray(rows, np.float32).tobytes())

    def enliven(self, ids: Iterable[int]) -> None:
        """These texts are in use from the coming commit on."""
        numbers = np.fromiter(ids, np.int64)
        if len(numbers):
            self._reserve(int(numbers.max()) + 1)
            with self._lock:
                if self._dying:
                    self._dying.difference_update(numbers.tolist())
                self._live[numbers] = True

    def retire(self, ids: Iterable[int]) -> None:
        """These texts are out of use since the last commit; searches under way may still see them."""
        with self._lock:
            self._dying.update(ids)
            self._bury()

    def forget(self, ids: Iterable[int]) -> None:
        """These texts are gone: nothing readable is left of their vectors."""
        numbers = list(ids)
        if numbers:
            held = [n for n in sorted(numbers) if n < self._capacity]
            self.put(held, np.zeros((len(held), self._dim), np.float32))
            with self._lock:
                self._present[held] = False

    def _bury(self) -> None:
        if not self._readers and self._dying:
            self._live[[n for n in self._dying if n < self._capacity]] = False
            self._dying.clear()

    def view(self) -> View:
        """What to search in. Inside `reading`, after the catalog's snapshot was taken."""
        with self._lock:
            return View(self._rows, self._live & self._present)

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """While a search is under way no text goes out of use in its view."""
        with self._lock:
            self._readers += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers -= 1
                self._bury()

    def rest(self) -> None:
        """Give back the memory that searches have mapped; the next one maps what it needs."""
        with self._lock:
            if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
                self._mapped.madvise(mmap.MADV_DONTNEED)

    def differing(self, ids: Ids, vectors: Rows) -> Ids:
        """Those of the texts whose row differs from its vector (n, dim) or is missing."""
        with self._lock:
            rows, present = self._rows, self._present
        there = ids < len(present)
        there[there] = present[ids[there]]
        same = np.zeros(len(ids), np.bool_)
        same[there] = (np.abs(rows[ids[there]] - vectors[there]) <= 1e-5).all(axis=1)
        return ids[~same]

    def surplus(self, ids: Ids) -> Ids:
        """Rows that are there of other texts than these."""
        return np.setdiff1d(np.flatnonzero(self._present), ids)

    def close(self, *, good: bool) -> None:
        """Let go of the file; `good` says that it mirrors the catalog."""
        try:
            if good and self._capacity:
                self._handle.seek(_HEADER + self._capacity * 4 * self._dim)
                self._handle.write(np.packbits(self._present).tobytes())
                self._handle.truncate()
                # Disks write in any order: the header must not say that the rows are there before they are.
                os.fsync(self._handle.fileno())
                self._write_header(self._capacity)
                os.fsync(self._handle.fileno())
        except OSError as error:
            # Only a mirror: without its header it is made anew, and the rest has to be closed all the same.
            log.warning("the file of vectors is made anew at the next start: %s", error.strerror)
        finally:
            with contextlib.suppress(OSError):
                self._handle.close()


class MemoryMatrix(Matrix):
    """The same without a file, for a library whose vectors must not be on the disk as they are."""

    def __init__(self, dim: int, rows: int) -> None:
        """An empty one.

        Args:
            dim: Length of a vector.
            rows: How many texts there are about, so that it need not grow at once.
        """
        self._begin(dim)
        self._reserve(rows)

    def _grow(self, capacity: int) -> None:
        try:
            rows: Rows = np.zeros((capacity, self._dim), np.float32)
        except MemoryError as error:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error
        rows[: self._capacity] = self._rows
        with self._lock:
            self._take(rows)  # who searches at the moment has the old ones, which lack nothing of theirs

    def _write(self, first: int, rows: Rows) -> None:
        self._rows[first : first + len(rows)] = rows

    def rest(self) -> None:
        """Nothing can be given back: there is no file to read it from again."""

    def close(self, *, good: bool) -> None:
        """Let go of the memory."""
        with self._lock:
            self._rows, self._capacity = np.empty((0, self._dim), np.float32), 0
            self._live = self._present = np.zeros(0, np.bool_)
