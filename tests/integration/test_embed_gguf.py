"""Models in .gguf files, written here, by both engines, against the same weights as a folder."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer.embed import Encoder, ModelChoice, Vectors
from indexer.embed.bundled import ensure_bundled
from indexer.embed.gguf import LlamaEncoder, choose_engine, read_gguf
from indexer.embed.load import info_of, load_encoder
from indexer.embed.thread import CountsTokens
from indexer.embed.transformer import TransformerEncoder, stay_offline
from indexer.errors import FatalError
from indexer.settings import Instructions, Settings, cache_dir
from tests import tiny_models
from tests.tiny_models import WORDS, dequantised, sentence, texts, write_gguf

pytest.importorskip("gguf", reason="writes the files; pip install gguf accelerate")
pytest.importorskip("accelerate", reason="transformers wants it for .gguf files")

ROOT = Path(__file__).parents[2]
BOUND = 0.9999
# llama.cpp multiplies quantised weights with activations rounded to 8 bits.
ROUNDED = 0.998
# A matrix of which K-quants can be made has rows of 256.
WIDE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "head_dim": 64,
}
RAGGED = texts(1, 21)
HAS_LLAMA = importlib.util.find_spec("llama_cpp") is not None
ENGINES = [
    "transformers",
    pytest.param(
        "llama.cpp", marks=pytest.mark.skipif(not HAS_LLAMA, reason="needs pip install llama-cpp-python")
    ),
]
needs_llama = pytest.mark.skipif(not HAS_LLAMA, reason="needs pip install llama-cpp-python")
# As llama.cpp numbers what its quantiser makes.
FILE_TYPES = {"Q4_K_M": 15, "Q5_K_M": 17, "Q8_0": 7}


@pytest.fixture(scope="module", autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, and a cache of our own that has the bundled model of the other."""
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    stay_offline()
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    cache = tmp_path_factory.mktemp("cache")
    ensure_bundled()
    (cache / "models").symlink_to(cache_dir() / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRAGOMAN_CACHE", str(cache))
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    # Weights like those of trained models: much larger ones would make rounding errors grow.
    return sentence("qwen3", root / "folder", initializer_range=0.08, **WIDE)


@pytest.fixture(scope="module")
def files(root: Path, folder: Path) -> dict[str, Path]:
    """One of each kind; the K-quants by llama.cpp's own quantiser, where that is here."""
    made = {
        kind: write_gguf(folder, root / f"tiny-{kind}.gguf", kind) for kind in ("F32", "F16", "Q8_0", "Q4_0")
    }
    if HAS_LLAMA:
        for kind in ("Q4_K_M", "Q5_K_M"):
            made[kind] = quantise(made["F32"], root / f"tiny-{kind}.gguf", kind)
    return made


def quantise(source: Path, target: Path, kind: str) -> Path:
    """By llama.cpp, in a process of its own: it writes to stderr."""
    code = (
        "import sys, llama_cpp as l\n"
        "p = l.llama_model_quantize_default_params(); p.ftype = int(sys.argv[3]); p.nthread = 1\n"
        "sys.exit(l.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), p))"
    )
    run = [sys.executable, "-c", code, str(source), str(target), str(FILE_TYPES[kind])]
    subprocess.run(run, check=True, timeout=60, capture_output=True)
    return target


def load(path: Path, engine: str = "auto", dimensions: int = 0, **more: Any) -> Encoder:
    settings = Settings(device="cpu", encoder_threads=1, gguf_engine=engine, **more)
    choice = ModelChoice(str(path), dimensions)
    encoder = load_encoder(settings, choice)
    assert encoder.info == info_of(settings, choice)
    if engine != "auto":
        assert isinstance(encoder, LlamaEncoder if engine == "llama.cpp" else TransformerEncoder)
    return encoder


def worst(ours: Vectors, others: Vectors) -> float:
    assert ours.shape == others.shape
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    return float((ours * others).sum(1).min())


KINDS = ["F32", "F16", "Q8_0", "Q4_0", *(["Q4_K_M", "Q5_K_M"] if HAS_LLAMA else [])]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_the_same_weights(
    files: dict[str, Path], folder: Path, tmp_path: Path, kind: str, engine: str
) -> None:
    plain = load_encoder(
        Settings(device="cpu"), ModelChoice(str(dequantised(files[kind], folder, tmp_path / "plain")))
    )
    encoder = load(files[kind], engine)
    bound = ROUNDED if engine == "llama.cpp" and kind.startswith("Q") else BOUND
    expected = plain.encode_passages(RAGGED)
    assert 1 - (expected @ expected.T).min() > 0.05, "it must tell texts apart, or this shows nothing"
    assert worst(encoder.encode_passages(RAGGED), expected) >= bound
    for text in RAGGED[:3]:
        assert worst(encoder.encode_passages([text]), plain.encode_passages([text])) >= bound
    # The folder says itself how queries for notes begin; the file does not, so that is said here.
    code = encoder.encode_queries(RAGGED, "code")
    assert worst(code, plain.encode_queries(RAGGED, "code")) >= bound
    assert worst(code, expected) < BOUND
    assert encoder.encode_queries([]).shape == (0, 256)
    if kind == "F16":
        whole = load_encoder(Settings(device="cpu"), ModelChoice(str(folder)))
        assert worst(encoder.encode_passages(RAGGED), whole.encode_passages(RAGGED)) >= BOUND


@needs_llama
@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_K_M", "Q5_K_M"])
def test_both_engines_agree(files: dict[str, Path], kind: str) -> None:
    one, other = load(files[kind], "transformers"), load(files[kind], "llama.cpp")
    assert one.info == other.info
    bound = BOUND if kind == "F16" else ROUNDED
    assert worst(one.encode_passages(RAGGED), other.encode_passages(RAGGED)) >= bound
    for task in ("notes", "question"):
        assert worst(one.encode_queries(RAGGED, task), other.encode_queries(RAGGED, task)) >= bound
    assert isinstance(one, CountsTokens)
    assert isinstance(other, CountsTokens)
    assert one.count_tokens(RAGGED) == other.count_tokens(RAGGED)


@pytest.mark.parametrize("engine", ENGINES)
def test_shorter_vectors_and_instructions(files: dict[str, Path], engine: str) -> None:
    whole, part = load(files["Q8_0"], engine), load(files["Q8_0"], engine, 64)
    assert part.info.dim == 64
    assert part.info.key != whole.info.key
    cut = whole.encode_passages(RAGGED)[:, :64]
    cut /= np.linalg.norm(cut, axis=1, keepdims=True)
    assert worst(part.encode_passages(RAGGED), cut) > 0.99999
    told = load(files["Q8_0"], engine, instructions=Instructions(notes="find the weather"))
    assert told.info.key == whole.info.key
    assert worst(told.encode_queries(RAGGED), whole.encode_queries(RAGGED)) < BOUND


@pytest.mark.parametrize("engine", ENGINES)
def test_a_long_passage_and_odd_texts(files: dict[str, Path], engine: str) -> None:
    encoder = load(files["F16"], engine, context_tokens=64)
    assert isinstance(encoder, CountsTokens)
    long = " ".join(WORDS * 20)
    assert encoder.count_tokens([long])[0] > 64 * 10
    found = encoder.encode_passages(["rain", long, "cold"])
    np.testing.assert_allclose(found[0], encoder.encode_passages(["rain"])[0], atol=1e-3)
    assert found[1] @ encoder.encode_passages([" ".join(WORDS * 18)])[0] > 0.99
    odd = [
        "",
        " ",
        "\n" * 50_000 + "rain",
        "\ud800 rain",
        "雨は古い橋に",
        "🐈" * 9_000,
        "\0",
        "a\0b",
        "the " * 9_000,
    ]
    for vectors in (encoder.encode_passages(odd), encoder.encode_queries(odd)):
        assert vectors.shape == (len(odd), 256)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    trick = encoder.count_tokens(["a<|endoftext|>"])[0]
    assert trick > encoder.count_tokens(["a"])[0] + 5, "a file must not end its own passage"


@needs_llama
@pytest.mark.parametrize(("pooling", "number"), [("mean", 1), ("cls", 2)])
def test_a_model_whose_tokens_see_what_follows(tmp_path: Path, pooling: str, number: int) -> None:
    prompts = {"query": "query: ", "passage": "passage: "}
    folder = sentence(
        "bert", tmp_path / "folder", modules=[("Pooling", {"pooling": pooling})], prompts=prompts
    )
    file = tiny_models.write_bert_gguf(
        folder, tmp_path / "x.gguf", name="Multilingual E5 Small", pooling=number
    )
    plain, encoder = load_encoder(Settings(device="cpu"), ModelChoice(str(folder))), load(file)
    assert isinstance(encoder, LlamaEncoder)
    assert worst(encoder.encode_passages(RAGGED), plain.encode_passages(RAGGED)) >= BOUND
    assert worst(encoder.encode_queries(RAGGED), plain.encode_queries(RAGGED)) >= BOUND
    for text in RAGGED[:3]:
        assert worst(encoder.encode_passages([text]), plain.encode_passages([text])) >= BOUND
    # A long one is embedded in windows of 64 tokens.
    long = " ".join(WORDS * 12)
    assert worst(encoder.encode_passages([long]), plain.encode_passages([long])) > 0.97
    with pytest.raises(FatalError, match=r"llama\.cpp only"):
        load(file, "transformers")


@needs_llama
def test_a_file_that_makes_llama_cpp_end_itself_ends_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = sentence("bert", tmp_path / "folder", modules=[("Pooling", {"pooling": "mean"})])
    file = tiny_models.write_bert_gguf(
        folder, tmp_path / "x.gguf", name="Odd", pooling=1, plain=("embeddings.position_embeddings",)
    )
    with caplog.at_level(logging.ERROR), pytest.raises(FatalError, match="refuses it"):
        load(file)
    assert "SIGABRT" in caplog.text or "unsupported types" in caplog.text


@pytest.mark.parametrize("engine", ENGINES)
def test_the_end_of_text_is_put_there_where_the_file_forgot_it(
    files: dict[str, Path], folder: Path, tmp_path: Path, engine: str
) -> None:
    file = write_gguf(folder, tmp_path / "x.gguf", "F16", pooling=None, tokenizer__ggml__add_eos_token=None)
    expected = load(files["F16"], engine).encode_passages(RAGGED)
    assert worst(load(file, engine).encode_passages(RAGGED), expected) >= BOUND


@needs_llama
def test_a_longer_text_gets_a_larger_context_and_is_read_in_steps(folder: Path, tmp_path: Path) -> None:
    file = write_gguf(folder, tmp_path / "x.gguf", "F16", qwen3__context_length=8192)
    encoder = load(file, "llama.cpp")
    assert isinstance(encoder, LlamaEncoder)
    assert encoder._llama._room == 512
    before = encoder.encode_passages(RAGGED)
    long = " ".join(WORDS * 24)
    assert 1024 < encoder.count_tokens([long])[0] <= 2048
    found = encoder.encode_passages([long])
    assert encoder._llama._room == 2048
    assert worst(encoder.encode_passages(RAGGED), before) > BOUND
    assert worst(load(file, "transformers").encode_passages([long]), found) >= BOUND


@needs_llama
def test_llama_cpp_is_silent(files: dict[str, Path]) -> None:
    code = (
        "import sys\n"
        "from indexer.embed.load import load_encoder\n"
        "from indexer.embed import ModelChoice\n"
        "from indexer.settings import Settings\n"
        "e = load_encoder(Settings(device='cpu', gguf_engine='llama.cpp'), ModelChoice(sys.argv[1]))\n"
        "assert e.encode_passages(['rain', 'cold']).shape == (2, 256)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(files["Q8_0"])], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_llama
def test_what_llama_cpp_refuses_is_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_gguf(folder, tmp_path / "x.gguf", "F16", qwen3__block_count=3)
    with caplog.at_level(logging.ERROR), pytest.raises(FatalError, match="refuses it"):
        load(file, "llama.cpp")
    assert "blk.2" in caplog.text


def test_the_key_is_of_the_contents(files: dict[str, Path], tmp_path: Path, folder: Path) -> None:
    def key(path: Path, **more: Any) -> str:
        return read_gguf(path, ModelChoice(), Settings(**more)).model.key

    keys = {kind: key(path) for kind, path in files.items()}
    assert len(set(keys.values())) == len(keys)
    other = tmp_path / "renamed.gguf"
    other.write_bytes(files["Q8_0"].read_bytes())
    assert key(other) == keys["Q8_0"]
    assert key(other, precision="bfloat16", gguf_engine="transformers", encoder_threads=3) == keys["Q8_0"]
    trained = sentence("qwen3", tmp_path / "other", seed=6, **WIDE)
    assert key(write_gguf(trained, tmp_path / "trained.gguf", "Q8_0")) not in keys.values()
    assert key(other, context_tokens=100) != keys["Q8_0"]


def test_engines_are_chosen_and_what_is_missing_is_told(
    files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_gguf(files["Q8_0"], ModelChoice(), Settings())
    there = {"llama_cpp": True, "gguf": True, "accelerate": True}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there[name] or None)
    assert choose_engine("auto", model) == "llama.cpp"
    assert choose_engine("transformers", model) == "transformers"
    there["llama_cpp"] = False
    assert choose_engine("auto", model) == "transformers"
    with pytest.raises(FatalError, match="pip install llama-cpp-python"):
        choose_engine("llama.cpp", model)
    with pytest.raises(FatalError, match="not known"):
        choose_engine("magic", model)
    there["accelerate"] = False
    with pytest.raises(FatalError, match="pip install"):
        choose_engine("auto", model)


def test_models_are_the_same_in_a_process_without_torch(files: dict[str, Path]) -> None:
    code = (
        "import sys\n"
        "from indexer.embed.load import info_of\n"
        "from indexer.embed import ModelChoice\n"
        "from indexer.settings import Settings\n"
        "print(info_of(Settings(), ModelChoice(sys.argv[1])).key)\n"
        "assert not {'torch', 'transformers', 'llama_cpp', 'gguf'} & set(sys.modules)"
    )
    run = [sys.executable, "-c", code, str(files["F16"])]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == read_gguf(files["F16"], ModelChoice(), Settings()).info.key
    assert tiny_models.QWEN_QUERY
