"""Reader of the E5S1 file format: a BERT encoder in 4-bit blocks with its Unigram vocabulary.

All numbers are little-endian:

- ``E5S1``, u32 version 1, i32 hidden size, layers, heads, intermediate size, vocabulary size,
  positions, token types, f32 layer norm epsilon, i32 weights a block (32);
- i32 pieces, i32 ids of bos, eos, pad, unk, u64 bytes of all pieces, u32 offsets (pieces + 1),
  f32 scores, the pieces in UTF-8, then a character table (i32 entries, u32 bytes) that says what
  NFKC and a few replacements say as well and is skipped;
- i32 tensors, each u16 length and name, u8 type (0: f32, 1: Q4_0), u32 values, u64 offset, u64 bytes.

A Q4_0 block is an f16 scale and 16 bytes: byte j holds weight j in its low and weight j + 16 in its
high half, each 8 too large. The file may be damaged: every read is checked against its end and
every size against what the header promises before anything is allocated.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

MAGIC = b"E5S1"
BLOCK = 32
_BLOCK_BYTES = 18
_F32 = 0
_Q4 = 1
_ROWS_AT_A_TIME = 8192

# Far above any small encoder, far below what could hurt.
_LIMITS = {
    "hidden": 4096,
    "layers": 64,
    "heads": 64,
    "intermediate": 16384,
    "vocabulary": 1 << 20,
    "positions": 8192,
    "types": 16,
}


class FormatError(ValueError):
    """The bytes are not an undamaged E5S1 file."""


@dataclass(frozen=True)
class Header:
    """Sizes of the encoder."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    types: int
    epsilon: float


@dataclass(frozen=True)
class Vocabulary:
    """Unigram pieces with their log probabilities, and the ids of the special ones."""

    pieces: list[str]
    scores: list[float]
    bos: int
    eos: int
    pad: int
    unk: int


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in the file, and its shape in transformers' layout."""

    shape: tuple[int, ...]
    quantised: bool
    offset: int
    size: int


class E5S1:
    """A checked file.

    Attributes:
        header: Sizes.
        vocabulary: The tokenizer's pieces.
        tensors: By transformers' BertModel names, in the order of the model.
    """

    def __init__(self, data: bytes) -> None:
        """Read and check everything but the weights themselves.

        Args:
            data: The whole file.

        Raises:
            FormatError: It is damaged or something else.
        """
        self._data = data
        cursor = _Cursor(data)
        self.header = _read_header(cursor)
        self.vocabulary = _read_vocabulary(cursor, self.header)
        self.tensors = _read_directory(cursor, self.header)

    def rows(self, name: str) -> Iterator[npt.NDArray[np.float32]]:
        """The values of a tensor, some rows at a time so that little memory is needed.

        Args:
            name: Key of `tensors`.

        Yields:
            Float32, (rows, columns) for a matrix, (n,) for a vector; in order.

        Raises:
            FormatError: A value is not finite.
        """
        tensor = self.tensors[name]
        if not tensor.quantised:
            values = np.frombuffer(self._data, "<f4", tensor.size // 4, tensor.offset)
            yield _finite(values.astype(np.float32).reshape(tensor.shape), name)
            return
        height, width = tensor.shape
        block = np.dtype([("scale", "<f2"), ("halves", "u1", (BLOCK // 2,))])
        blocks = np.frombuffer(self._data, block, height * width // BLOCK, tensor.offset)
        step = _ROWS_AT_A_TIME * width // BLOCK
        for first in range(0, len(blocks), step):
            some = blocks[first : first + step]
            values = np.empty((len(some), BLOCK), np.float32)
            values[:, : BLOCK // 2] = some["halves"] & 0x0F
            values[:, BLOCK // 2 :] = some["halves"] >> 4
            values -= 8
            values *= _finite(some["scale"].astype(np.float32), name)[:, None]
            yield values.reshape(-1, width)


def _finite(values: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise FormatError(f"{name} holds values that are not numbers")
    return values


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if size < 0 or end > len(self._data):
            raise FormatError(f"it ends after {len(self._data)} bytes, in the middle of something")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    @property
    def end(self) -> int:
        return len(self._data)


def _read_header(cursor: _Cursor) -> Header:
    if cursor.take(4) != MAGIC:
        raise FormatError("it does not begin with E5S1")
    (version,) = cursor.unpack("I")
    if version != 1:
        raise FormatError(f"its version is {version}, not 1")
    sizes = dict(zip(_LIMITS, cursor.unpack("7i"), strict=True))
    for name, size in sizes.items():
        if not 0 < size <= _LIMITS[name]:
            raise FormatError(f"{name} is {size}")
    epsilon: float
    (epsilon,) = struct.unpack("<f", cursor.take(4))
    (block,) = cursor.unpack("i")
    header = Header(epsilon=epsilon, **sizes)
    if block != BLOCK or header.hidden % BLOCK or header.intermediate % BLOCK or header.hidden % header.heads:
        raise FormatError("its sizes do not divide into blocks and heads")
    if not 0 < epsilon < 1e-2:
        raise FormatError(f"the layer norm epsilon is {epsilon}")
    return header


def _read_vocabulary(cursor: _Cursor, header: Header) -> Vocabulary:
    count, bos, eos, pad, unk = cursor.unpack("5i")
    (size,) = cursor.unpack("Q")
    if not 0 < count <= header.vocabulary:
        raise FormatError(f"it has {count} pieces for {header.vocabulary} embeddings")
    if not all(0 <= special < count for special in (bos, eos, pad, unk)):
        raise FormatError("a special token is not in its vocabulary")
    offsets = np.frombuffer(cursor.take(4 * (count + 1)), "<u4")
    scores = np.frombuffer(cursor.take(4 * count), "<f4")
    blob = cursor.take(size)
    if offsets[0] != 0 or offsets[-1] != size or (offsets[1:] <= offsets[:-1]).any():
        raise FormatError("its pieces do not follow each other")
    if not np.isfinite(scores).all() or (scores > 0).any():
        raise FormatError("a piece's score is not a log probability")
    bounds = offsets.tolist()
    try:
        pieces = [blob[start:end].decode() for start, end in pairwise(bounds)]
    except UnicodeDecodeError as error:
        raise FormatError("a piece is not UTF-8") from error
    if len(set(pieces)) != count:
        raise FormatError("two pieces are the same")
    _, table = cursor.unpack("iI")
    cursor.take(table)
    return Vocabulary(pieces, scores.tolist(), bos, eos, pad, unk)


def _read_directory(cursor: _Cursor, header: Header) -> dict[str, Tensor]:
    expected = _expected(header)
    (count,) = cursor.unpack("i")
    if count != len(expected):
        raise FormatError(f"it has {count} tensors, not {len(expected)}")
    found: dict[str, Tensor] = {}
    for _ in range(count):
        (length,) = cursor.unpack("H")
        short = cursor.take(length).decode("latin-1")
        kind, values, offset, size = cursor.unpack("BIQQ")
        if short not in expected or short in found:
            raise FormatError(f"it has a tensor {short!r} too many")
        _, shape, may_be_q4 = expected[short]
        wanted = int(np.prod(shape, dtype=np.int64))
        if kind not in (_F32, _Q4) or (kind == _Q4 and not may_be_q4):
            raise FormatError(f"tensor {short} has type {kind}")
        bytes_wanted = wanted * 4 if kind == _F32 else wanted // BLOCK * _BLOCK_BYTES
        if values != wanted or size != bytes_wanted or offset + size > cursor.end:
            raise FormatError(f"tensor {short} does not fit")
        found[short] = Tensor(shape, kind == _Q4, offset, size)
    return {name: found[short] for short, (name, _, _) in expected.items()}


def _expected(header: Header) -> dict[str, tuple[str, tuple[int, ...], bool]]:
    """Short name in the file -> name in transformers, shape, whether it may be quantised."""
    hidden, wide = header.hidden, header.intermediate
    tensors: dict[str, tuple[str, tuple[int, ...], bool]] = {
        "emb.word": ("embeddings.word_embeddings.weight", (header.vocabulary, hidden), True),
        "emb.pos": ("embeddings.position_embeddings.weight", (header.positions, hidden), True),
        "emb.type": ("embeddings.token_type_embeddings.weight", (header.types, hidden), True),
        "emb.ln.w": ("embeddings.LayerNorm.weight", (hidden,), False),
        "emb.ln.b": ("embeddings.LayerNorm.bias", (hidden,), False),
    }
    linear = {
        "q": ("attention.self.query", hidden, hidden),
        "k": ("attention.self.key", hidden, hidden),
        "v": ("attention.self.value", hidden, hidden),
        "ao": ("attention.output.dense", hidden, hidden),
        "fi": ("intermediate.dense", wide, hidden),
        "fo": ("output.dense", hidden, wide),
    }
    norms = {"aln": "attention.output.LayerNorm", "oln": "output.LayerNorm"}
    for layer in range(header.layers):
        for short, (name, height, width) in linear.items():
            full = f"encoder.layer.{layer}.{name}"
            tensors[f"l{layer}.{short}.w"] = (f"{full}.weight", (height, width), True)
            tensors[f"l{layer}.{short}.b"] = (f"{full}.bias", (height,), False)
        for short, name in norms.items():
            full = f"encoder.layer.{layer}.{name}"
            tensors[f"l{layer}.{short}.w"] = (f"{full}.weight", (hidden,), False)
            tensors[f"l{layer}.{short}.b"] = (f"{full}.bias", (hidden,), False)
    return tensors
