"""The reader of the model's data file, on small files made here."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.embed.bundled import convert, read
from indexer.embed.e5s1 import E5S1, FormatError
from indexer.errors import FatalError

HIDDEN, LAYERS, HEADS, WIDE, VOCABULARY, POSITIONS, TYPES = 32, 1, 2, 64, 8, 4, 2
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "语"]


def tensors() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "emb.word": (VOCABULARY, HIDDEN),
        "emb.pos": (POSITIONS, HIDDEN),
        "emb.type": (TYPES, HIDDEN),
        "emb.ln.w": (HIDDEN,),
        "emb.ln.b": (HIDDEN,),
    }
    sizes = {"q": (HIDDEN, HIDDEN), "k": (HIDDEN, HIDDEN), "v": (HIDDEN, HIDDEN), "ao": (HIDDEN, HIDDEN)}
    for name, shape in {**sizes, "fi": (WIDE, HIDDEN), "fo": (HIDDEN, WIDE)}.items():
        shapes |= {f"l0.{name}.w": shape, f"l0.{name}.b": shape[:1]}
    for name in ("aln", "oln"):
        shapes |= {f"l0.{name}.w": (HIDDEN,), f"l0.{name}.b": (HIDDEN,)}
    return shapes


def q4(values: np.ndarray) -> bytes:
    """Blocks of whole numbers from -8 to 7 with scale 0.5."""
    out = b""
    for block in values.reshape(-1, 32).astype(np.int64) + 8:
        out += np.float16(0.5).tobytes() + (block[:16] | block[16:] << 4).astype(np.uint8).tobytes()
    return out


def make() -> tuple[bytes, int, dict[str, np.ndarray]]:
    """A file, the length of what stands before its weights, and the weights."""
    random = np.random.default_rng(7)
    blob = "".join(PIECES).encode()
    ends = np.cumsum([len(piece.encode()) for piece in PIECES])
    head = b"E5S1" + struct.pack(
        "<I7ifi", 1, HIDDEN, LAYERS, HEADS, WIDE, VOCABULARY, POSITIONS, TYPES, 1e-12, 32
    )
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, len(blob))
    head += (
        np.array([0, *ends], "<u4").tobytes() + np.linspace(0, -3, len(PIECES)).astype("<f4").tobytes() + blob
    )
    head += struct.pack("<iI", 1, 9) + struct.pack("<IBI", 0x41, 1, 0x61)
    shapes = tensors()
    start = len(head) + 4 + sum(2 + len(name) + 21 for name in shapes)
    directory, body, weights = struct.pack("<i", len(shapes)), b"", {}
    for name, shape in shapes.items():
        quantised = len(shape) == 2 and name not in ("emb.pos", "emb.type")
        if quantised:
            whole = random.integers(-8, 8, shape)
            weights[name], raw = whole * np.float32(0.5), q4(whole)
        else:
            weights[name] = random.normal(size=shape).astype("<f4")
            raw = weights[name].tobytes()
        entry = struct.pack("<BIQQ", quantised, int(np.prod(shape)), start + len(body), len(raw))
        directory += struct.pack("<H", len(name)) + name.encode() + entry
        body += raw
    return head + directory + body, start, weights


DATA, START, WEIGHTS = make()


def test_weights_come_back_as_they_were_written() -> None:
    source = E5S1(DATA)
    assert source.vocabulary.pieces == PIECES
    assert source.header.intermediate == WIDE
    for name, short in {
        "embeddings.word_embeddings.weight": "emb.word",
        "embeddings.position_embeddings.weight": "emb.pos",
        "encoder.layer.0.attention.self.key.bias": "l0.k.b",
        "encoder.layer.0.intermediate.dense.weight": "l0.fi.w",
        "encoder.layer.0.output.dense.weight": "l0.fo.w",
    }.items():
        np.testing.assert_array_equal(np.concatenate(list(source.rows(name))), WEIGHTS[short])


def test_a_converted_folder_is_read_by_safetensors_and_tokenizers(tmp_path: Path) -> None:
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    convert(E5S1(DATA), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert len(weights) == len(WEIGHTS)
    np.testing.assert_array_equal(weights["encoder.layer.0.output.dense.weight"], WEIGHTS["l0.fo.w"])
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("a\x00a 语").tokens == ["<s>", "▁", "a", "a", "▁", "语", "</s>"]


@pytest.mark.parametrize("end", [0, 3, 4, 40, 70, START - 1, START, len(DATA) - 1])
def test_a_truncated_file_is_refused(end: int) -> None:
    with pytest.raises(FatalError, match="damaged"):
        read(DATA[:end], Path("model.bin"))


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    for name in ("bias", "weight"):
        offset = E5S1(DATA).tensors[f"encoder.layer.0.output.dense.{name}"].offset
        with pytest.raises(FatalError, match="not numbers"):
            convert(E5S1(DATA[:offset] + b"\xff" * 4 + DATA[offset + 4 :]), tmp_path)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.integers(0, START - 1), st.sampled_from([0, 1, 0x7F, 0x80, 0xFE, 0xFF]) | st.integers(0, 255)
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, len(DATA)) | st.just(len(DATA)),
)
def test_a_mutated_file_is_read_or_refused(changes: list[tuple[int, int]], end: int) -> None:
    data = bytearray(DATA)
    for at, value in changes:
        data[at] = value
    # Anything else than these two would fail the test.
    with contextlib.suppress(FatalError, FormatError):
        source = read(bytes(data[:end]), Path("model.bin"))
        for name, tensor in source.tensors.items():
            assert sum(rows.size for rows in source.rows(name)) == np.prod(tensor.shape)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_after_the_magic_are_read_or_refused(tail: bytes) -> None:
    with pytest.raises(FatalError):
        read(b"E5S1" + tail, Path("model.bin"))
