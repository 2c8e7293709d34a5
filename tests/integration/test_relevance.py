"""The relevance benchmark from a small book to its table, with the real model, program and catalog."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from indexer.embed import EncoderInfo
from indexer.store import ModelKey, Store
from tests.relevance import books, large, library, product
from tests.relevance.books import Section
from tests.relevance.methods import Remembering, Usual, passages
from tests.relevance.scores import report

BOOK = [
    Section(
        "bread", "en", "Baking bread", "Knead the dough, let it rise overnight and bake it in a hot oven."
    ),
    Section(
        "bread", "de", "Brot backen", "Den Teig kneten, über Nacht gehen lassen und im heißen Ofen backen."
    ),
    Section("moon", "en", "Phases of the moon", "It waxes until it is full and wanes again within a month."),
    Section("moon", "de", "Mondphasen", "Er nimmt zu, bis er voll ist, und binnen eines Monats wieder ab."),
    Section(
        "chess", "en", "Opening a game of chess", "Bring out the knights early and castle before you attack."
    ),
    Section(
        "chess", "de", "Eine Schachpartie eröffnen", "Springer früh entwickeln und vor dem Angriff rochieren."
    ),
]


def test_a_book_is_indexed_asked_and_scored(tmp_path: Path) -> None:
    questions = library.prepare(tmp_path / "made", "1", lambda target: library.mixed(BOOK, target, seed=1))
    queries = [question.query for question in questions]
    folder, data_dir = tmp_path / "made/library", tmp_path / "index"
    indexed = product.index(folder, data_dir, "1")
    assert indexed.seconds > 0
    assert product.index(folder, data_dir, "1").seconds == 0  # as before

    held = passages(indexed)
    assert held.files == sorted({question.path for question in questions})
    assert held.vectors.shape == (3, 384)
    assert np.linalg.norm(held.vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-3)
    encoder = Remembering()
    try:
        usual = Usual(held, encoder)
        assert report(questions, usual.cosine(queries)).same.hit1 == 1.0
        neutral = usual.neutral(queries)
    finally:
        encoder.stop()
    found = report(questions, product.ask(indexed, queries))
    assert found.same.hit1 == 1.0
    assert found.cross.recall == 1.0
    assert report(questions, neutral).cross.recall == 1.0


def test_the_large_library_is_sound(tmp_path: Path) -> None:
    info = EncoderInfo(key="made-up-1", name="", dim=16, max_tokens=100, tokenizer=tmp_path)
    text = " ".join(f"Sentence number {number} says something." for number in range(30))
    sections = [Section(name, "zh-cn", name, f"{name}. {text}") for name in ("a", "b", "c")]
    assert large.fill(tmp_path / "index", tmp_path / "files", sections, info, 80) == 80
    store = Store(tmp_path / "index")
    try:
        store.use_model(ModelKey(key=info.key, dim=info.dim))
        assert store.check() == []
        states = list(store.files(str(tmp_path / "files")))
        assert len(states) == 3
        for state in states:
            stat = Path(state.path).stat()
            assert (stat.st_size, stat.st_mtime_ns) == (state.size, state.mtime_ns)
    finally:
        store.close()


def test_the_cache_is_beside_the_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRAGOMAN_BENCH_CACHE", raising=False)
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "dragoman"))
    assert books.cache() == tmp_path / "dragoman-relevance"
