"""What every engine behind the store's door keeps to, whoever it is: one contract, three engines."""

from __future__ import annotations

import importlib.util
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest

from indexer.settings import ChromaServer
from indexer.store import Store
from indexer.store.chroma import Child, OwnChroma
from indexer.store.chroma_server import ServerChroma
from indexer.store.engine import Engine, EngineError, Engines
from indexer.store.faiss_engine import OwnFaiss
from tests.integration.test_chroma_server import Chroma
from tests.integration.test_store_chroma import MODEL, agrees, opened, put
from tests.unit.test_store import ROOT

DIM = 48
WAIT_S = 60

Rows = npt.NDArray[np.float32]

faiss_only = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None, reason="FAISS is not installed (pip install faiss-cpu)"
)


def rows(first: int, count: int) -> Rows:
    found = np.random.default_rng(first).standard_normal((count, DIM)).astype(np.float32)
    unit: Rows = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


@pytest.fixture(autouse=True)
def asks_whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library as small as these would be searched exactly, which is quicker."""
    monkeypatch.setattr("indexer.store.vectors._ASKING_US", 0.0)
    monkeypatch.setattr("indexer.store.vectors._CANDIDATE_US", 0.0)


class Kind:
    """A way to reach an engine, and what it can be done to."""

    def __init__(self, make: Callable[[str, str], Engines], server: Chroma | None) -> None:
        self.make = make
        self.server = server
        self._begun: list[Engine] = []
        self.ends = threading.Semaphore(0)

    def begin(self, library: str = "0" * 16, model: str = "model") -> Engine:
        engine = self.make(library, model).begin(self.ends.release)
        self._begun.append(engine)
        return engine

    def kill(self, engine: Engine) -> None:
        """End at once whoever holds the vectors."""
        if self.server is not None:
            self.server.kill()
        else:
            assert isinstance(engine, Child)
            psutil.Process(engine.pid).kill()

    def revive(self) -> None:
        if self.server is not None:
            self.server.start()

    def end(self) -> None:
        for engine in self._begun:
            engine.kill()
        if self.server is not None:
            self.server.kill()


@pytest.fixture(params=["chroma", "chroma-server", pytest.param("faiss", marks=faiss_only)])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kind]:
    if request.param == "chroma-server":
        server = Chroma(tmp_path)
        server.start()
        where = ChromaServer(url=server.url)
        made = Kind(lambda library, model: ServerChroma(where, library, model), server)
    else:
        engines = OwnChroma if request.param == "chroma" else OwnFaiss
        made = Kind(lambda library, model: engines(tmp_path / library, model), None)
    yield made
    made.end()


def nearest(engine: Engine, vector: Rows, k: int) -> list[int]:
    found: list[int] = engine.query(vector, k, 30)[0].tolist()
    return found


def test_what_is_acknowledged_is_found_in_order(kind: Kind) -> None:
    engine = kind.begin()
    assert engine.open(1, create=True) == 0
    assert engine.all_ids().tolist() == []
    assert nearest(engine, rows(0, 1)[0], 5) == []
    vectors = rows(1, 200)
    ids = [3 * n + 7 for n in range(199)] + [(1 << 32) - 1]  # the largest that a text can have
    engine.upsert(ids[:150], vectors[:150])
    engine.upsert(ids[150:], vectors[150:])
    engine.upsert(ids[100:], vectors[100:])  # the same once more
    assert sorted(engine.all_ids().tolist()) == ids
    for at in (0, 120, 199):
        found, distances = engine.query(vectors[at], 10, 30)
        cosines = vectors @ vectors[at]
        assert found.tolist() == [ids[n] for n in np.argsort(-cosines)[:10]]
        np.testing.assert_allclose(distances, 1 - np.sort(cosines)[::-1][:10], atol=1e-5)
    everything = nearest(engine, vectors[0], 1000)
    assert sorted(everything) == ids
    # Over what was there: the new vector is found, the old one is not.
    other = rows(2, 1)
    engine.upsert([ids[5]], other)
    found, distances = engine.query(other[0], 1, 30)
    assert found.tolist() == [ids[5]]
    assert distances[0] == pytest.approx(0, abs=1e-5)
    assert nearest(engine, vectors[5], 1) != [ids[5]]
    assert sorted(engine.all_ids().tolist()) == ids
    assert sorted(nearest(engine, vectors[0], 1000)) == ids
    assert engine.close()
    with pytest.raises(EngineError):
        engine.all_ids()


def test_it_is_all_there_after_an_orderly_end(kind: Kind) -> None:
    engine = kind.begin()
    engine.open(1, create=True)
    vectors = rows(3, 300)
    engine.upsert(list(range(300)), vectors)
    turned = rows(4, 250)
    engine.upsert(list(range(250)), turned)
    assert engine.close()
    engine = kind.begin()
    assert engine.open(1, create=False) == 300
    assert sorted(engine.all_ids().tolist()) == list(range(300))
    assert nearest(engine, turned[17], 1) == [17]
    assert nearest(engine, vectors[280], 1) == [280]
    assert engine.close()
    engine = kind.begin()
    assert engine.open(1, create=True) == 0
    assert engine.all_ids().tolist() == []
    # What was of 48 dimensions may be of another number in a new generation.
    engine.upsert([1], np.eye(1, 7, dtype=np.float32))
    assert nearest(engine, np.eye(1, 7, dtype=np.float32)[0], 3) == [1]


def test_generations_models_and_libraries_are_apart(kind: Kind) -> None:
    places = [("a" * 16, "one", 1), ("a" * 16, "one", 2), ("b" * 16, "one", 1)]
    for number, (library, model, generation) in enumerate(places):
        engine = kind.begin(library, model)
        engine.open(generation, create=True)
        engine.upsert([number], rows(number, 1))
        assert engine.close()
    # One library clears up after itself, and only after itself.
    kind.make("a" * 16, "one").sweep({("one", 2)})
    with pytest.raises(EngineError):
        kind.begin("a" * 16, "one").open(1, create=False)
    for number in (1, 2):
        library, model, generation = places[number]
        engine = kind.begin(library, model)
        assert engine.open(generation, create=False) == 1
        assert engine.all_ids().tolist() == [number]
        assert engine.close()


def test_a_generation_that_never_was_is_an_error(kind: Kind) -> None:
    with pytest.raises(EngineError):
        kind.begin().open(7, create=False)


def test_killed_in_the_middle_of_writing(kind: Kind) -> None:
    engine = kind.begin()
    engine.open(1, create=True)
    acknowledged: list[int] = []
    vectors = rows(5, 20_000)

    def write() -> None:
        try:
            for first in range(0, 20_000, 100):
                engine.upsert(list(range(first, first + 100)), vectors[first : first + 100])
                acknowledged.append(first)
                begun.set()
        except EngineError:
            failed.set()

    begun, failed = threading.Event(), threading.Event()
    thread = threading.Thread(target=write)
    thread.start()
    assert begun.wait(WAIT_S)
    failed.wait(random.uniform(0, 0.1))  # the moment of the kill, not a wait for something
    kind.kill(engine)
    assert failed.wait(WAIT_S)
    thread.join()
    engine.kill()
    kind.revive()
    again = kind.begin()
    try:
        again.open(1, create=False)
    except EngineError:
        return  # to refuse is allowed: the generation is then built anew
    present = set(again.all_ids().tolist())
    missing = {n for first in acknowledged for n in range(first, first + 100)} - present
    # Only a machine that loses power may cost what was acknowledged, and it must then not be listed.
    assert not missing
    for number in sorted(present)[:: max(1, len(present) // 20)]:
        assert number in nearest(again, vectors[number], 10)
    # Doing the work once more, as the outbox does, brings it up to date.
    last = acknowledged[-1] + 200
    for first in range(0, last, 100):
        again.upsert(list(range(first, first + 100)), vectors[first : first + 100])
    assert set(range(last)) <= set(again.all_ids().tolist())
    assert nearest(again, vectors[last - 1], 1) == [last - 1]
    assert again.close()


def test_nothing_is_answered_after_an_abort(kind: Kind) -> None:
    engine = kind.begin()
    engine.open(1, create=True)
    engine.abort()
    assert engine.close() in (True, False)
    with pytest.raises(EngineError):
        engine.all_ids()
    engine.kill()
    engine.kill()


# --- FAISS alone: its files are ours -----------------------------------------------------------


@faiss_only
@pytest.mark.parametrize("name", ["snapshot", "rows"])
def test_faiss_refuses_files_that_were_changed(tmp_path: Path, name: str) -> None:
    engine = OwnFaiss(tmp_path, "model").begin(lambda: None)
    engine.open(1, create=True)
    engine.upsert(list(range(100)), rows(6, 100))
    if name == "snapshot":
        engine.close()
    engine.kill()
    file = tmp_path / "model-1" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    again = OwnFaiss(tmp_path, "model").begin(lambda: None)
    with pytest.raises(EngineError, match="damaged"):
        again.open(1, create=False)
    again.kill()


@faiss_only
def test_faiss_forgets_a_record_that_was_cut_off(tmp_path: Path) -> None:
    engine = OwnFaiss(tmp_path, "model").begin(lambda: None)
    engine.open(1, create=True)
    engine.upsert(list(range(100)), rows(6, 100))
    engine.upsert(list(range(100, 200)), rows(7, 100))
    engine.kill()
    file = tmp_path / "model-1" / "rows"
    os.truncate(file, file.stat().st_size - 5)
    again = OwnFaiss(tmp_path, "model").begin(lambda: None)
    assert again.open(1, create=False) == 100
    again.upsert([100], rows(7, 1))
    again.kill()
    again = OwnFaiss(tmp_path, "model").begin(lambda: None)
    assert again.open(1, create=False) == 101
    assert nearest(again, rows(7, 1)[0], 1) == [100]
    again.kill()


@faiss_only
def test_a_store_searches_with_faiss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "_engines", lambda self, key: OwnFaiss(self.folder / "faiss", key))
    for turn in range(2):
        store = opened(tmp_path / "data")
        try:
            put(store, f"{ROOT}/{turn}", [f"{turn} {i}" for i in range(300)])
            assert store.wait_accelerator(WAIT_S)
            assert all(agrees(store, f"{n} {7 * n}") for n in range(turn + 1))
            assert store.check() == []
            if turn:
                put(store, f"{ROOT}/0", ["other"])
                assert store.wait_accelerator(WAIT_S)
                assert agrees(store, "other")
                assert agrees(store, "0 7")
        finally:
            store.close()
    assert (tmp_path / "data" / "faiss" / f"{MODEL.key}-1" / "snapshot").is_file()
