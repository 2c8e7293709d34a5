"""What crosses the store's door."""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from indexer.api import Locator, Media
from indexer.document import Chunk


class ModelKey(msgspec.Struct, frozen=True):
    """A vector space: `key` as in `EncoderInfo.key`, and the length of its vectors."""

    key: str
    dim: int


class FileState(msgspec.Struct, frozen=True):
    """What the catalog knows of a file, enough to see whether it changed.

    Attributes:
        content: 16-byte key of the file's bytes; ``b""`` when they were never read.
    """

    path: str
    root: str
    size: int
    mtime_ns: int
    content: bytes
    status: Literal["indexed", "failed", "skipped"]


class FileUpdate(msgspec.Struct, frozen=True):
    """The new state of one file, which replaces whatever the catalog knew of it."""

    path: str
    root: str
    size: int
    mtime_ns: int
    content: bytes
    media: Media
    code_language: str | None
    title: str
    chunks: tuple[Chunk, ...]


class Candidate(NamedTuple):
    """A chunk and the cosine of its vector with the query's."""

    chunk: int
    cosine: float


class StoredChunk(msgspec.Struct, frozen=True):
    """A chunk as a search result needs it. `start` and `end` are offsets in the file's extracted text."""

    chunk: int
    path: str
    root: str
    online: bool
    media: Media
    code_language: str | None
    title: str
    text: str
    context: str
    start: int
    end: int
    locator: Locator
    lang: str


class Counts(msgspec.Struct, frozen=True):
    """The whole catalog in four numbers."""

    files: int
    chunks: int
    failed: int
    skipped: int


class RootState(msgspec.Struct, frozen=True):
    """One folder of the library.

    Attributes:
        bytes: Size of its indexed files.
        device: Number of the device it lay on when it was last seen online, None while unknown.
    """

    path: str
    online: bool
    files: int
    chunks: int
    bytes: int
    problems: int
    device: int | None = None
