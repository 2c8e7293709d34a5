"""Filtered search with a real Chroma process: the same answers as exact search, whoever serves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from indexer.api import Locator
from indexer.document import Chunk
from indexer.query import All, Condition, Ext, Lang, Not
from indexer.store import FileUpdate, ModelKey, Store
from indexer.store import vectors as vectors_module
from indexer.store.accelerator import Accelerator

DIM = 32
FILES = 200
CHUNKS = 10
WAIT_S = 60


def vectors(number: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((number, DIM)).astype(np.float32)
    unit: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def update(number: int) -> FileUpdate:
    lang = "en" if number % 2 else "de" if number % 10 else "yo"
    chunks = tuple(
        Chunk(start=i, end=i + 1, text=f"{number} {i}", locator=Locator(), lang=lang, tokens=1)
        for i in range(CHUNKS)
    )
    return FileUpdate(
        path=f"/library/{number}.{'pdf' if number % 4 else 'txt'}",
        root="/library",
        size=number,
        mtime_ns=number,
        content=number.to_bytes(16, "big"),
        media="text",
        code_language=None,
        title="",
        chunks=chunks,
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = Store(tmp_path_factory.mktemp("library"))
    opened.use_model(ModelKey("test-model", DIM))
    opened.add_root("/library")
    updates = [update(number) for number in range(FILES)]
    hashes = [chunk.text_hash for one in updates for chunk in one.chunks]
    opened.replace(updates, dict(zip(hashes, vectors(len(hashes), 1), strict=True)))
    assert opened.wait_accelerator(WAIT_S)
    yield opened
    assert opened.check() == []
    opened.close()


@pytest.mark.parametrize(
    "where",
    [Ext("pdf"), Lang("de"), Lang("yo"), Not(Lang("yo")), All((Ext("pdf"), Lang("en"))), Ext("none")],
    ids=str,
)
def test_chroma_and_exact_search_agree_under_a_condition(
    library: Store, where: Condition, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    query = Accelerator.query

    def counted(self: Accelerator, serving: object, vector: np.ndarray, k: int, patience_s: float) -> object:
        asked.append(k)
        return query(self, serving, vector, k, patience_s)  # type: ignore[arg-type]

    monkeypatch.setattr(Accelerator, "query", counted)
    found: list[list[list[int]]] = []
    for row_us in (1e9, 0.0):  # comparing costs more than anything, then nothing
        monkeypatch.setattr(vectors_module, "_ROW_US", row_us)
        found.append([[c.chunk for c in library.nearest(v, 5, where=where)] for v in vectors(20, 2)])
        if row_us:
            assert len(asked) == (0 if where == Ext("none") else 20)
            asked.clear()
    assert asked == []
    by_chroma, exact = found
    pairs = [(a, b) for a, b in zip(by_chroma, exact, strict=True)]
    assert all(len(a) == len(b) for a, b in pairs)
    # Chroma's graph is not exact on random vectors.
    same = sum(len(set(a) & set(b)) for a, b in pairs)
    assert same >= 0.9 * sum(len(b) for _, b in pairs)


def test_what_chroma_does_not_have_yet_is_found(library: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors_module, "_ROW_US", 1e9)
    fresh = update(10_000)
    rows = vectors(CHUNKS, 3)
    # No entry leaves the outbox while this holds the writer's lock; reading goes on.
    library.replace([fresh], dict(zip([c.text_hash for c in fresh.chunks], rows, strict=True)))
    with library._catalog.quiet():
        for at, row in enumerate(rows):
            best = library.nearest(row, 3, where=Lang("yo"))[0]
            assert library.chunks([best.chunk])[best.chunk].text == f"10000 {at}"
            missed = library.nearest(row, 3, where=Lang("en"))[0]
            assert library.chunks([missed.chunk])[missed.chunk].lang == "en"
    assert library.wait_accelerator(WAIT_S)
