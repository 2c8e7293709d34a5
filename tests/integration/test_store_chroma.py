"""The store with a real Chroma process: kept in step, killed, damaged, healed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from indexer.document import Chunk
from indexer.store import FileUpdate, ModelKey, Store, chroma_child
from indexer.store.chroma import Child
from indexer.store.wire import Open, Query, Upsert
from tests.unit.test_store import ROOT, chunk

DIM = 384
MODEL = ModelKey("test-model", DIM)
WAIT_S = 60


def vector(text: str) -> np.ndarray:
    """The same unit vector for the same text."""
    seed = int.from_bytes(chunk(text).text_hash, "big")
    found = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return found / np.linalg.norm(found)


def file(path: str, chunks: tuple[Chunk, ...]) -> FileUpdate:
    return FileUpdate(
        path=path,
        root=ROOT,
        size=1,
        mtime_ns=1,
        content=path.encode().rjust(16, b"0")[-16:],
        media="text",
        code_language=None,
        title="",
        chunks=chunks,
    )


def put(store: Store, path: str, texts: list[str]) -> None:
    chunks = tuple(chunk(text) for text in texts)
    vectors = {c.text_hash: vector(c.text) for c in chunks}
    missing = store.missing(vectors)
    store.replace([file(path, chunks)], {h: v for h, v in vectors.items() if h in missing})


def brute_force(store: Store, query: np.ndarray, k: int) -> list[tuple[int, float]]:
    """The answer straight from the catalog's tables."""
    with store._catalog.read() as db:
        rows = db.ask("SELECT chunks.id, data FROM chunks JOIN vectors ON key = (? | text_id)", (1 << 32,))
    if not rows:
        return []
    vectors = np.array([np.frombuffer(row[1], "<f2") for row in rows]).astype(np.float32)
    cosines = vectors @ query / np.linalg.norm(vectors, axis=1)
    order = sorted(range(len(rows)), key=lambda at: (-cosines[at], rows[at][0]))
    return [(rows[at][0], float(cosines[at])) for at in order[:k]]


def agrees(store: Store, text: str, k: int = 10) -> bool:
    expected = brute_force(store, vector(text), k)
    found = store.nearest(vector(text), k)
    return [c.chunk for c in found] == [number for number, _ in expected] and np.allclose(
        [c.cosine for c in found], [cosine for _, cosine in expected], atol=1e-5
    )


def recall(store: Store, text: str, k: int = 10) -> float:
    """Share of the true nearest that are found: Chroma's graph is not exact on many random vectors."""
    expected = {number for number, _ in brute_force(store, vector(text), k)}
    return len(expected & {c.chunk for c in store.nearest(vector(text), k)}) / len(expected)


def child_of(store: Store) -> psutil.Process:
    accelerator = store.active._accelerator
    assert accelerator is not None
    serving = accelerator.serving()
    assert serving is not None
    assert isinstance(serving.engine, Child)
    return psutil.Process(serving.engine.pid)


def generation(store: Store) -> int:
    index = store.active.ledger.index()
    assert index is not None
    return index.generation


def opened(folder: Path) -> Store:
    store = Store(folder)
    store.use_model(MODEL)
    store.add_root(ROOT)
    return store


def wait_for(condition: Callable[[], bool], store: Store) -> None:
    """Wait on the accelerator's own condition variable."""
    accelerator = store.active._accelerator
    assert accelerator is not None
    with accelerator._change:
        assert accelerator._change.wait_for(condition, WAIT_S)


@pytest.fixture(autouse=True)
def asks_whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library as small as these would be searched exactly, which is quicker."""
    monkeypatch.setattr("indexer.store.vectors._ASKING_US", 0.0)
    monkeypatch.setattr("indexer.store.vectors._CANDIDATE_US", 0.0)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = opened(tmp_path / "data")
    yield store
    assert store.check() == []
    store.close()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed library of 1,500 chunks, enough for Chroma to have written its index files."""
    folder = tmp_path_factory.mktemp("library") / "data"
    store = opened(folder)
    for number in range(15):
        put(store, f"{ROOT}/{number}", [f"{number} {i}" for i in range(100)])
    assert store.wait_accelerator(WAIT_S)
    assert store.check() == []
    store.close()
    return folder


@pytest.fixture
def copy(library: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(library, tmp_path / "copy"))


def test_chroma_serves_and_agrees_with_the_catalog(store: Store) -> None:
    for number in range(5):
        put(store, f"{ROOT}/{number}", [f"{number} {i}" for i in range(100)])
    assert store.wait_accelerator(WAIT_S)
    assert store.accelerator == "chroma"
    assert store.notices() == []
    assert all(agrees(store, f"{n} {n * 7}") for n in range(5))
    put(store, f"{ROOT}/0", ["fresh"])
    store.remove([f"{ROOT}/1"])
    assert agrees(store, "fresh")
    assert agrees(store, "1 7")
    assert store.wait_accelerator(WAIT_S)
    assert agrees(store, "fresh")
    serving = store.active._accelerator
    assert serving is not None
    # The query really went to Chroma, and Chroma really has the new text.
    found = serving.query(serving.serving(), vector("fresh"), 1)  # type: ignore[arg-type]
    assert found is not None
    assert len(found) == 1


def test_an_orderly_end_is_believed(copy: Path) -> None:
    store = opened(copy)
    try:
        assert store.wait_accelerator(WAIT_S)
        assert generation(store) == 1
        assert agrees(store, "3 33")
        assert store.check() == []
    finally:
        store.close()
    assert not [p for p in psutil.Process().children() if "chroma_child" in " ".join(p.cmdline())]


def damage_truncate(folder: Path) -> None:
    for name in ("data_level0.bin", "link_lists.bin"):
        (found,) = folder.glob(f"*/{name}")
        os.truncate(found, found.stat().st_size // 2)


def damage_remove(folder: Path) -> None:
    shutil.rmtree(folder)


def damage_garbage(folder: Path) -> None:
    for found in folder.rglob("*"):
        if found.is_file():
            found.write_bytes(b"garbage " * (found.stat().st_size // 8))


def damage_lost_rows(folder: Path) -> None:
    for found in folder.glob("*/*"):
        found.unlink()


@pytest.mark.parametrize("damage", [damage_truncate, damage_remove, damage_garbage, damage_lost_rows])
def test_a_damaged_folder_is_built_anew_while_exact_search_serves(
    copy: Path, damage: Callable[[Path], None]
) -> None:
    damage(copy / "chroma" / "test-model-1")
    store = opened(copy)
    try:
        assert agrees(store, "3 33")
        wait_for(lambda: bool(store.notices()) or store.accelerator == "chroma", store)
        assert store.accelerator == "exact"
        assert "rebuilt" in store.notices()[0].title
        assert agrees(store, "3 33")
        assert store.wait_accelerator(WAIT_S)
        assert (store.accelerator, store.notices(), generation(store)) == ("chroma", [], 2)
        assert np.mean([recall(store, f"{n} {n}") for n in range(15)]) > 0.97
        assert store.check() == []
        assert not (copy / "chroma" / "test-model-1").exists()
    finally:
        store.close()


def test_a_killed_child_comes_back(store: Store) -> None:
    put(store, f"{ROOT}/a", [f"a {i}" for i in range(300)])
    assert store.wait_accelerator(WAIT_S)
    first = child_of(store)
    first.kill()
    wait_for(lambda: store.accelerator == "exact", store)
    assert agrees(store, "a 7")
    put(store, f"{ROOT}/b", ["b"])
    assert store.wait_accelerator(WAIT_S)
    assert child_of(store).pid != first.pid
    assert agrees(store, "b")


def test_a_child_killed_while_it_writes(store: Store) -> None:
    assert store.wait_accelerator(WAIT_S)
    accelerator = store.active._accelerator
    assert accelerator is not None
    for turn in range(2):
        victim = child_of(store)
        for number in range(4):
            put(store, f"{ROOT}/{turn} {number}", [f"{turn} {number} {i}" for i in range(200)])
        victim.kill()
        assert agrees(store, f"{turn} 1 7")
        assert store.wait_accelerator(WAIT_S)
        assert agrees(store, f"{turn} 1 7")
    assert store.counts().chunks == 1600


def test_a_hung_child_costs_a_query_its_deadline_only(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.store.chroma.OwnChroma.patience_s", 0.2)
    put(store, f"{ROOT}/a", [f"a {i}" for i in range(50)])
    assert store.wait_accelerator(WAIT_S)
    child = child_of(store)
    child.suspend()
    try:
        assert agrees(store, "a 7")
    finally:
        child.resume()
    assert agrees(store, "a 8")


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from tests.integration.test_store_chroma import *\n"
        "store = opened(Path(sys.argv[1])); assert store.wait_accelerator(60)\n"
        "sys.stdout.write(f'{child_of(store).pid}\\n'); sys.stdout.flush(); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "data")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    child.wait(WAIT_S)


def test_stale_vectors_are_left_behind_in_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "indexer.store.accelerator.Accelerator._overgrown", lambda self, _: self._orphans > 100
    )
    monkeypatch.setattr("indexer.store.accelerator._HOUSEKEEPING_S", 0.0)
    monkeypatch.setattr(store._catalog, "collect", lambda: type(store._catalog).collect(store._catalog, 0.0))
    put(store, f"{ROOT}/a", [f"a {i}" for i in range(300)])
    assert store.wait_accelerator(WAIT_S)
    put(store, f"{ROOT}/a", [f"a {i}" for i in range(100)])
    wait_for(lambda: generation(store) == 2, store)
    assert store.wait_accelerator(WAIT_S)
    ids = store.active._accelerator.all_ids()  # type: ignore[union-attr]
    assert ids is not None
    assert len(ids) == 100
    assert agrees(store, "a 7")


def test_searches_agree_with_the_catalog_while_files_change(store: Store) -> None:
    for number in range(10):
        put(store, f"{ROOT}/{number}", [f"{number} {i}" for i in range(50)])
    assert store.wait_accelerator(WAIT_S)
    stop = threading.Event()
    wrong: list[int] = []

    def search() -> None:
        while not stop.is_set():
            found = store.nearest(vector("0 7"), 600)
            if len(found) != 500:
                wrong.append(len(found))

    thread = threading.Thread(target=search)
    thread.start()
    for turn in range(30):
        put(store, f"{ROOT}/{turn % 10}", [f"new {turn} {i}" for i in range(50)])
    stop.set()
    thread.join()
    assert wrong == []


WRITER = """
import random, sys
from pathlib import Path
from tests.integration.test_store_chroma import *
store = opened(Path(sys.argv[1]))
rng = random.Random(int(sys.argv[2]))
while True:
    name, count = f"{ROOT}/{rng.randrange(30)}", rng.randrange(1, 40)
    if rng.random() < 0.15:
        store.remove([name])
        count = 0
    else:
        put(store, name, [f"{sys.argv[2]} {rng.randrange(400)}" for _ in range(count)])
    sys.stdout.write(f"{name}\\t{count}\\n")
    sys.stdout.flush()
"""


def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    opened(folder).close()
    rng = np.random.default_rng(7)
    state: dict[str, int] = {}
    for turn in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(turn)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        ) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(int(rng.integers(1, 120)))]
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()
        done = [line.rstrip("\n").split("\t") for line in lines if line.endswith("\n")]
        state.update((name, int(count)) for name, count in done)
        store = Store(folder)
        store._use_chroma = False
        try:
            with store._catalog.read() as db:
                rows = db.ask("SELECT path, chunks FROM files")
            # The write under way when it was killed may or may not have happened.
            now = {os.fsdecode(path): count for path, count in rows}
            differs = [n for n in {*state, *now} if state.get(n, 0) != now.get(n, 0)]
            assert len(differs) <= 1
            state = now
            store.use_model(MODEL)
            assert store.check() == []
            assert agrees(store, f"{turn} 7")
        finally:
            store.close()
    store = opened(folder)
    try:
        assert store.wait_accelerator(WAIT_S)
        assert store.check() == []
        queries = [f"{turn} {n}" for turn in range(10) for n in (7, 77)]
        assert np.mean([recall(store, query) for query in queries]) > 0.9
    finally:
        store.close()


class Gate:
    """Holds back what is written to a new generation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.reached = threading.Event()
        original, upsert = Child.open, Child.upsert
        held: set[Child] = set()

        def opened(child: Child, generation: int, *, create: bool) -> int:
            if create and generation > 1:
                held.add(child)
            return original(child, generation, create=create)

        def gated(child: Child, ids: list[int], vectors: np.ndarray) -> None:
            if child in held:
                self.reached.set()
                assert self.open.wait(WAIT_S)
            upsert(child, ids, vectors)

        monkeypatch.setattr(Child, "open", opened)
        monkeypatch.setattr(Child, "upsert", gated)


def overgrow(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library of 300 texts, 200 of which are gone from the catalog and not from Chroma."""
    monkeypatch.setattr(
        "indexer.store.accelerator.Accelerator._overgrown", lambda self, _: self._orphans > 100
    )
    put(store, f"{ROOT}/a", [f"a {i}" for i in range(300)])
    assert store.wait_accelerator(WAIT_S)
    put(store, f"{ROOT}/a", [f"a {i}" for i in range(100)])
    monkeypatch.setattr("indexer.store.accelerator._HOUSEKEEPING_S", 0.0)
    monkeypatch.setattr(store._catalog, "collect", lambda: type(store._catalog).collect(store._catalog, 0.0))
    accelerator = store.active._accelerator
    assert accelerator is not None
    accelerator.wake()


def test_the_old_generation_serves_while_a_compact_one_is_filled(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    overgrow(store, monkeypatch)
    assert gate.reached.wait(WAIT_S)
    assert generation(store) == 2
    old = child_of(store)
    assert store.accelerator == "chroma"
    assert store.notices() == []
    assert agrees(store, "a 7")
    put(store, f"{ROOT}/b", ["came meanwhile"])
    assert agrees(store, "came meanwhile")
    gate.open.set()
    assert store.wait_accelerator(WAIT_S)
    assert child_of(store).pid != old.pid
    old.wait(WAIT_S)
    assert len(store.active._accelerator.all_ids()) == 101  # type: ignore[union-attr, arg-type]
    assert agrees(store, "a 7")
    assert agrees(store, "came meanwhile")
    assert [entry.name for entry in (store.folder / "chroma").iterdir() if entry.is_dir()] == ["test-model-2"]


def test_a_compaction_that_was_cut_off_goes_on_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path / "data")
    gate = Gate(monkeypatch)
    overgrow(store, monkeypatch)
    assert gate.reached.wait(WAIT_S)
    accelerator = store.active._accelerator
    assert accelerator is not None
    child_of(store).kill()  # the session ends with it, and the next one begins where this one was
    monkeypatch.undo()
    gate.open.set()
    try:
        assert store.wait_accelerator(WAIT_S)
        assert generation(store) == 2
        assert agrees(store, "a 7")
        assert store.check() == []
    finally:
        store.close()
    store = opened(tmp_path / "data")
    try:
        assert store.wait_accelerator(WAIT_S)
        assert generation(store) == 2
        assert agrees(store, "a 7")
    finally:
        store.close()


def test_an_old_generation_that_cannot_be_opened_does_not_hold_up_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path / "data")
    gate = Gate(monkeypatch)
    overgrow(store, monkeypatch)
    assert gate.reached.wait(WAIT_S)
    shutil.rmtree(tmp_path / "data" / "chroma" / "test-model-1")
    child_of(store).kill()
    monkeypatch.undo()
    gate.open.set()
    try:
        assert store.wait_accelerator(WAIT_S)
        assert generation(store) == 2
        assert agrees(store, "a 7")
        assert store.check() == []
    finally:
        store.close()


def test_little_is_written_while_somebody_searches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, f"{ROOT}/a", [f"a {i}" for i in range(200)])
    assert store.wait_accelerator(WAIT_S)
    monkeypatch.setattr("indexer.store.accelerator._POSTPONE_S", 3600.0)
    assert agrees(store, "a 7")
    put(store, f"{ROOT}/b", [f"b {i}" for i in range(50)])
    accelerator = store.active._accelerator
    assert accelerator is not None
    index = store.active.ledger.index()
    assert index is not None
    assert agrees(store, "b 7")
    assert store.active.ledger.outbox_size(index, 100) == 50
    # Whoever waits for it is not kept waiting, nor is what would become too much to compare.
    assert store.wait_accelerator(WAIT_S)
    assert store.active.ledger.outbox_size(index, 100) == 0
    monkeypatch.setattr("indexer.store.accelerator._POSTPONED", 20)
    put(store, f"{ROOT}/c", [f"c {i}" for i in range(60)])
    wait_for(lambda: accelerator._drained or store.active.ledger.outbox_size(index, 100) < 20, store)
    assert agrees(store, "c 7")


# Chroma warns of its own way to read back a configuration without an embedding function.
@pytest.mark.filterwarnings("ignore:legacy embedding function config:DeprecationWarning")
def test_a_folder_opens_again_when_it_has_outgrown_how_often_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chroma_child, "_SYNC_SHARE", 1)
    monkeypatch.setattr(chroma_child, "_RETUNE", 200)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((1000, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    folder = chroma_child._Folder(Open(1, os.getppid(), str(tmp_path / "v"), True, 100))
    try:
        for low in range(0, 1000, 100):
            ids = np.arange(low, low + 100)
            folder.upsert(Upsert(2, ids.tobytes(), rows[low : low + 100].tobytes()))
        assert folder._threshold >= 400
        assert folder.count() == 1000
        for number in (0, 150, 999):
            answer = folder.query(Query(3, rows[number].tobytes(), 3))
            assert np.frombuffer(answer.ids, np.int64)[0] == number
    finally:
        folder.close()
        folder._lock.close()
