"""What the store and its Chroma process say to each other.

A frame is four bytes of length (little endian) and a msgpack message; vectors and ids cross as raw
bytes.
"""

from __future__ import annotations

import struct
from typing import IO

import msgspec

LENGTH = struct.Struct("<I")
MAX_FRAME = 1 << 28


class Open(msgspec.Struct, frozen=True, tag=True):
    """Open the folder, or make it anew when `create`, if `parent` still lives. Answered with `Opened`."""

    id: int
    parent: int
    folder: str
    create: bool
    sync_threshold: int


class Upsert(msgspec.Struct, frozen=True, tag=True):
    """Store vectors (float32, row after row) under ids (int64). Answered with `Done`."""

    id: int
    ids: bytes
    vectors: bytes


class Query(msgspec.Struct, frozen=True, tag=True):
    """The `k` nearest of one vector (float32). Answered with `Found`."""

    id: int
    vector: bytes
    k: int


class AllIds(msgspec.Struct, frozen=True, tag=True):
    """Every id there is. Answered with `Found`, without distances."""

    id: int


class Fetch(msgspec.Struct, frozen=True, tag=True):
    """The vectors under ids (int64). Answered with `Found`, vectors (row after row) as distances."""

    id: int
    ids: bytes


class Close(msgspec.Struct, frozen=True, tag=True):
    """Close the folder and end. Answered with `Done` when the folder is at rest."""

    id: int


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The folder is open and its files have the sizes their header promises."""

    id: int
    count: int


class Found(msgspec.Struct, frozen=True, tag=True):
    """Ids (int64) and cosine distances (float32)."""

    id: int
    ids: bytes
    distances: bytes


class Done(msgspec.Struct, frozen=True, tag=True):
    """The request was carried out."""

    id: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The request failed; `reason` is for the log."""

    id: int
    reason: str


Request = Open | Upsert | Query | AllIds | Fetch | Close
Answer = Opened | Found | Done | Refused


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next frame, or None at the end of the stream.

    Raises:
        ValueError: The frame is longer than any that is ever sent.
    """
    head = _read_exactly(stream, LENGTH.size)
    if head is None:
        return None
    (length,) = LENGTH.unpack(head)
    if length > MAX_FRAME:
        raise ValueError(f"a frame of {length} bytes")
    return _read_exactly(stream, length)


def _read_exactly(stream: IO[bytes], length: int) -> bytes | None:
    data = stream.read(length)
    return data if len(data) == length else None
