"""Heads of .gguf files: what is read from them, and what is refused. No engine is needed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.embed import EncoderInfo, ModelChoice
from indexer.embed import gguf as gguf_module
from indexer.embed.gguf import GgufModel, read_gguf, read_header
from indexer.errors import FatalError
from indexer.settings import Settings

U32, F32, BOOL, STRING, ARRAY, U64 = 4, 6, 7, 8, 9, 10


def string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(of: Any) -> bytes:
    if isinstance(of, bool):
        return struct.pack("<I?", BOOL, of)
    if isinstance(of, int):
        return struct.pack("<II", U32, of)
    if isinstance(of, float):
        return struct.pack("<If", F32, of)
    if isinstance(of, str):
        return struct.pack("<I", STRING) + string(of)
    inner = STRING if isinstance(of[0], str) else U32
    items = b"".join(string(item) if inner == STRING else struct.pack("<I", item) for item in of)
    return struct.pack("<IIQ", ARRAY, inner, len(of)) + items


BERT: dict[str, Any] = {
    "general.architecture": "bert",
    "general.name": "Multilingual E5 Base",
    "bert.embedding_length": 64,
    "bert.context_length": 512,
    "bert.pooling_type": 1,
    "tokenizer.ggml.tokens": ["a", "b", "\u2581c"],
    "tokenizer.ggml.token_type": [1, 1, 3],
    "bert.attention.causal": False,
    "bert.attention.layer_norm_epsilon": 1e-5,
}
QWEN3 = {
    "general.architecture": "qwen3",
    "qwen3.embedding_length": 1024,
    "qwen3.context_length": 32768,
    "qwen3.attention.key_length": 128,
}


def gguf(
    keys: dict[str, Any],
    *,
    data: bytes = b"x" * 256,
    dims: tuple[int, ...] = (8, 8),
    kind: int = 0,
    count: int = 1,
) -> bytes:
    """A file with one tensor."""
    raw = b"GGUF" + struct.pack("<IQQ", 3, count, len(keys))
    raw += b"".join(string(name) + value(of) for name, of in keys.items())
    raw += string("token_embd.weight") + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    raw += struct.pack("<IQ", kind, 0)
    return raw + b"\0" * (-len(raw) % 32) + data


@pytest.fixture(autouse=True)
def no_bundled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The bundled model's tokenizer counts for these; that is not what is tested."""

    class Folder:
        info = EncoderInfo(key="b", name="b", dim=1, max_tokens=1, tokenizer=tmp_path / "tokenizer.json")

    monkeypatch.setattr(gguf_module, "bundled_folder", Folder)


def read(path: Path, raw: bytes, dimensions: int = 0, **more: Any) -> GgufModel:
    path.write_bytes(raw)
    return read_gguf(path, ModelChoice(str(path), dimensions), Settings(**more))


def test_a_bert(tmp_path: Path) -> None:
    found = read(tmp_path / "x.gguf", gguf(BERT))
    model = found.model
    assert (model.dim, model.max_length, model.pooling) == (64, 512, "mean")
    assert (model.query_prefix, model.passage_prefix) == ("query: ", "passage: ")
    assert model.key.startswith("gguf-bert-64-")
    assert found.info.max_tokens <= 508
    assert found.info.tokenizer == tmp_path / "tokenizer.json"
    assert read(tmp_path / "x.gguf", gguf(BERT | {"bert.pooling_type": 2})).model.pooling == "cls"
    plain = read(tmp_path / "x.gguf", gguf(BERT | {"general.name": "Mine"})).model
    assert plain.passage_prefix == ""
    named = read(tmp_path / "multilingual-e5-large-Q4_K_M.gguf", gguf(BERT | {"general.name": "Mine"})).model
    assert named.passage_prefix == "passage: "
    assert named.name == "multilingual-e5-large-Q4_K_M"


def test_a_qwen3(tmp_path: Path) -> None:
    found = read(tmp_path / "x.gguf", gguf(QWEN3))
    model = found.model
    assert (model.pooling, model.append, model.max_length) == ("lasttoken", "<|endoftext|>", 8192)
    assert model.instruction == "Instruct: {}\nQuery:"
    assert model.choices == (768, 512, 256, 128, 64, 32)
    assert found.head_dim == 128
    assert read(tmp_path / "x.gguf", gguf(QWEN3), context_tokens=30_000).model.max_length == 30_000
    assert read(tmp_path / "x.gguf", gguf(QWEN3), 256).model.dim == 256
    with pytest.raises(FatalError, match="32 to 1024"):
        read(tmp_path / "x.gguf", gguf(QWEN3), 2000)


def test_embeddinggemma(tmp_path: Path) -> None:
    keys = {
        f"gemma-embedding.{name}": of for name, of in (("embedding_length", 768), ("context_length", 2048))
    }
    model = read(tmp_path / "x.gguf", gguf(keys | {"general.architecture": "gemma-embedding"})).model
    assert (model.pooling, model.passage_prefix) == ("mean", "title: none | text: ")
    assert model.instruction == "task: {} | query: "
    assert model.choices == (512, 256, 128)


def test_a_change_of_the_weights_is_another_model(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    big = b"x" * 64 * 1024
    keys = {read(path, gguf(BERT, data=big, dims=(128, 128))).model.key}
    for at in (0, 17_000, 33_000, 50_000):
        data = bytearray(big)
        data[at : at + 9_000] = b"y" * 9_000
        keys.add(read(path, gguf(BERT, data=bytes(data), dims=(128, 128))).model.key)
    keys.add(read(path, gguf(BERT | {"bert.pooling_type": 3}, data=big, dims=(128, 128))).model.key)
    assert len(keys) == 6
    # Also where the type of the numbers is one that nobody here knows.
    unknown = {read(path, gguf(BERT, data=data, kind=77)).model.key for data in (b"a" * 99, b"b" * 99)}
    assert len(unknown) == 2


def one_value(raw: bytes) -> bytes:
    """A file with one key, which has this value."""
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + raw


WRONG: list[tuple[str, bytes, str]] = [
    ("empty", b"", "too short"),
    ("another kind", b"PK" + b"\0" * 60, "does not begin"),
    ("old", gguf(BERT).replace(struct.pack("<I", 3), struct.pack("<I", 1), 1), "version is 1"),
    ("big-endian", b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + b"\0" * 30, "version"),
    ("many tensors", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "more than any"),
    ("many keys", b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 63), "more than any"),
    ("a long name", b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 62), "too long"),
    ("a long list", one_value(struct.pack("<IIQ", 9, 8, 1 << 61)), "early"),
    ("lists of lists", one_value(struct.pack("<IIQ", 9, 9, 1)), "unknown kind"),
    ("strange values", one_value(struct.pack("<IQ", 99, 1)), "unknown kind"),
    ("no alignment", gguf(BERT | {"general.alignment": 0}), "alignment"),
    ("cut off", gguf(BERT)[:-1], "ends too early"),
    ("a huge tensor", gguf(BERT, dims=(1 << 40, 1 << 40)), "ends too early"),
    ("many dimensions", gguf(BERT, dims=(1,) * 9), "9 dimensions"),
    ("no sizes", gguf({"general.architecture": "clip"}), "how long"),
    ("nameless", gguf({"a": 1}), "how long"),
    ("a reranker", gguf(BERT | {"bert.pooling_type": 4}), "reranker"),
    ("an adapter", gguf(BERT | {"general.type": "adapter"}), "no model"),
    ("a part", gguf(BERT | {"split.count": 3}), "one part"),
    ("no weights", gguf(BERT, count=0), "no model"),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "why"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path: Path, raw: bytes, why: str) -> None:
    with pytest.raises(FatalError, match=why):
        read(tmp_path / "x.gguf", raw)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="cannot be read"):
        read_gguf(tmp_path / "none.gguf", ModelChoice(), Settings())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=st.integers(0, 600),
    junk=st.binary(min_size=1, max_size=16),
    cut=st.integers(0, 900),
    insert=st.booleans(),
)
def test_a_damaged_head_is_read_or_refused(at: int, junk: bytes, cut: int, insert: bool) -> None:
    raw = gguf(BERT)
    at = min(at, len(raw))
    spoilt = (raw[:at] + junk + raw[at + (0 if insert else len(junk)) :])[: max(24, len(raw) - cut)]
    try:
        header = read_header(spoilt)
    except (ValueError, struct.error):
        return
    assert all(tensor.first + tensor.size <= len(spoilt) for tensor in header.tensors)
