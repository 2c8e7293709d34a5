"""What comes of a file: its key, its chunks; those of a large file on disk."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import msgspec

from indexer.api import Media
from indexer.document import Chunk

PIECE_CHUNKS = 128
"""How many chunks of a large file are in memory at once."""
LARGE_CHUNKS = 512
"""A file with more comes in pieces."""


class Hashed(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to know whether a file's content was seen before.

    Attributes:
        key: 16 bytes, equal for files whose extraction gives the same.
        size: Of the bytes hashed.
        mtime_ns: Of the file while they were read.
    """

    key: bytes
    size: int
    mtime_ns: int


class ChunkFile(Sequence[Chunk]):
    """The chunks of a large file, on disk. They are read again each time they are asked for.

    Its file has no name (where the system allows that) and goes with this object, or with the process.
    """

    def __init__(self, folder: Path | None) -> None:
        """An empty one.

        Args:
            folder: Where to keep it; None for the system's folder of temporary files.

        Raises:
            OSError: The disk is full or cannot be written.
        """
        self._ends: list[int] = [0]
        self._length = 0
        self._file, name = tempfile.mkstemp(prefix="chunks-", dir=folder)
        self._name: str | None = name
        with contextlib.suppress(OSError):  # Windows removes no open file
            Path(name).unlink()
            self._name = None

    def add(self, piece: bytes, count: int) -> None:
        """Append a piece as the child encoded it; all but the last have PIECE_CHUNKS chunks."""
        view = memoryview(piece)
        while view:
            view = view[os.write(self._file, view) :]
        self._ends.append(self._ends[-1] + len(piece))
        self._length += count

    @property
    def pieces(self) -> int:
        """How many pieces there are."""
        return len(self._ends) - 1

    def piece(self, number: int) -> tuple[Chunk, ...]:
        """The chunks of a piece, from 0. May be called from any thread."""
        start, end = self._ends[number : number + 2]
        return piece_decoder.decode(_read_at(self._file, start, end - start)).chunks

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Chunk]:
        for number in range(self.pieces):
            yield from self.piece(number)

    @overload
    def __getitem__(self, at: int) -> Chunk: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[Chunk, ...]: ...

    def __getitem__(self, at: int | slice) -> Chunk | tuple[Chunk, ...]:
        if isinstance(at, slice):
            return tuple(self[number] for number in range(*at.indices(self._length)))
        number, within = divmod(range(self._length)[at], PIECE_CHUNKS)
        return self.piece(number)[within]

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)
            if self._name is not None:
                Path(self._name).unlink(missing_ok=True)


class ChunkMemory(ChunkFile):
    """The same in memory, as the children encoded them."""

    def __init__(self) -> None:
        """An empty one."""
        self._ends = [0]
        self._length = 0
        self._encoded: list[bytes] = []

    def add(self, piece: bytes, count: int) -> None:
        """Append a piece; see `ChunkFile.add`."""
        self._encoded.append(bytes(piece))
        self._ends.append(self._ends[-1] + len(piece))
        self._length += count

    def piece(self, number: int) -> tuple[Chunk, ...]:
        """The chunks of a piece, from 0. May be called from any thread."""
        return piece_decoder.decode(self._encoded[number]).chunks


def _read_at(file: int, start: int, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        block = os.pread(file, length - len(found), start + len(found))
        if not block:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        found += block
    return bytes(found)


class Prepared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file ready to be embedded. `key`, `size` and `mtime_ns` as in `Hashed`.

    Attributes:
        tokens: Of all chunks.
        chunks: In order; a `ChunkFile` when there are more than LARGE_CHUNKS.
    """

    media: Media
    code_language: str | None = None
    title: str = ""
    key: bytes
    size: int
    mtime_ns: int
    chunks: Sequence[Chunk]
    tokens: int = 0


class Piece(msgspec.Struct, frozen=True):
    """Some of the chunks of a large file."""

    chunks: tuple[Chunk, ...]


piece_decoder = msgspec.json.Decoder(Piece)
