"""What crosses the store's door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from indexer.api import Locator, Media
from indexer.document import Chunk


class ModelKey(msgspec.Struct, frozen=True):
    """A vector space: `key` as in `EncoderInfo.key`, and the length of its vectors."""

    key: str
    dim: int


Role = Literal["", "active", "building", "kept"]


class StoredModel(msgspec.Struct, frozen=True):
    """A model that has or had an index.

    Attributes:
        reference: What it was chosen by; empty for the bundled one of some version.
        dimensions: As chosen; 0 for the model's own.
        role: ``active``: searched and kept complete; ``building``: it becomes active when it is complete;
            ``kept``: brought up to date now and then; empty: what is left is of no use.
        keep: Of one that is built: whether the active one is kept after the switch.
    """

    key: str
    dim: int
    reference: str
    dimensions: int
    name: str
    role: Role
    keep: bool


class Compaction(NamedTuple):
    """A generation of an accelerator that is to take over without what was deleted.

    Attributes:
        model: Key of the model whose vectors it has; empty where there is no accelerator.
        generation: Its number; any later one will do.
    """

    model: str
    generation: int


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
    chunks: Sequence[Chunk]


class Candidate(NamedTuple):
    """A chunk and the cosine of its vector with the query's."""

    chunk: int
    cosine: float


class Pool(msgspec.Struct, frozen=True):
    """Chunks that may answer a query, one row each, all from one committed state of the catalog.

    Attributes:
        chunks: Their ids, int64 (n,).
        texts: Ids of their texts, int64 (n,).
        files: Ids of their files, int64 (n,).
        of_file: How many chunks the file has, int64 (n,).
        langs: Numbers of their languages, int64 (n,).
        names: The languages' codes, by number.
        neutral: Cosines in the space that is searched, float32 (n,).
        plain: Cosines of the vectors as the encoder gave them, float32 (n,).
    """

    chunks: npt.NDArray[np.int64]
    texts: npt.NDArray[np.int64]
    files: npt.NDArray[np.int64]
    of_file: npt.NDArray[np.int64]
    langs: npt.NDArray[np.int64]
    names: tuple[str, ...]
    neutral: npt.NDArray[np.float32]
    plain: npt.NDArray[np.float32]


class Outline(NamedTuple):
    """What a file says, in short.

    Attributes:
        texts: Ids of its chunks' texts, in order.
        vectors: Vectors of some of them at even distances, in the space in use, float32 (n, dim).
    """

    texts: tuple[int, ...]
    vectors: npt.NDArray[np.float32]


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
