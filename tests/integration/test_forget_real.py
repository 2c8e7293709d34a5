"""What is removed is gone from the raw files of Chroma too, and from those that the service writes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer.client import IndexerClient
from indexer.store import ModelKey, Store, VectorIndex, accelerator, keeper
from indexer.store.accelerator import Accelerator, Serving
from indexer.store.chroma import Child
from tests.unit.test_forget import GONE, KEPT, SECRETS, passage, traces, wait
from tests.unit.test_store import MODEL, put, update, vector


def test_chroma_keeps_no_vector_of_what_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "HURRY_QUIET_S", 0.05)
    monkeypatch.setattr("indexer.store.chroma._SYNC_THRESHOLD", 100)
    store = Store(tmp_path)
    store.use_model(MODEL)
    store.add_root(KEPT)
    store.add_root(GONE)
    put(store, update(f"{GONE}/a", *SECRETS, root=GONE))
    put(store, update(f"{KEPT}/b", *(passage() for _ in range(300)), root=KEPT))
    assert store.wait_accelerator(60)
    accelerator = store.active._accelerator
    assert accelerator is not None
    held = accelerator.held(np.arange(1, 7))
    assert held is not None
    # As Chroma gives them back, and as they were given to it.
    rows = [*held[1], *next(block for _, block in _all(store))[:6]]
    needles = {str(number): row.astype("<f4").tobytes()[:32] for number, row in enumerate(rows)}
    assert {name for names in traces(tmp_path / "chroma", needles).values() for name in names}
    store.remove_root(GONE)
    deadline = time.monotonic() + 60
    while store.forgetting or store.notices():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert store.wait_accelerator(60)
    assert traces(tmp_path, needles) == {}
    assert store.check() == []
    store.close()
    assert traces(tmp_path, needles) == {}


def _all(store: Store) -> list[tuple[list[int], np.ndarray]]:
    with store._catalog.read() as db:
        return list(store.active.ledger.all_vectors(db))


def test_the_service_forgets_a_folder_to_the_last_byte(tmp_path: Path) -> None:
    kept, gone, data = tmp_path / "kept", tmp_path / "Okapigeheimnis", tmp_path / "data"
    for folder, text in ((kept, "The boat lies in the harbour."), (gone, "Zebrafisch4711 swims in the bay.")):
        folder.mkdir()
        for number in range(3):
            name = f"{folder.name} note {number}.txt"
            (folder / name).write_text(f"{text} It is number {number}.", encoding="utf-8")
    needles = {
        f"{word} in {coding}": form(word).encode(coding)
        for word in ("Zebrafisch", "Okapigeheimnis")
        for form in (str, str.lower)
        for coding in ("utf-8", "utf-16-le")
    }
    with IndexerClient(data) as client:
        client.add_folder(kept)
        client.add_folder(gone)
        for status in client.watch():
            if status.state == "watching" and status.files == 6:
                break
    with IndexerClient(data) as client:
        assert client.search("fish in the bay").hits[0].path.startswith(str(gone))
        assert traces(data, needles)
        client.remove_folder(gone)
        assert [n.title for n in client.status().notices] == ["Removed files are being erased"]
        deadline = time.monotonic() + 60
        while client.status().notices:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert traces(data, needles) == {}
        assert client.search("fish in the bay").hits[0].path.startswith(str(kept))
        client.stop()
    assert traces(data, needles) == {}


def erased(store: Store, timeout: float = 60.0) -> float:
    """Seconds until nobody is told any more that something is being erased."""
    began = time.monotonic()
    while store.forgetting or store.notices():
        assert time.monotonic() < began + timeout, store.notices()
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """One with a folder to remove and one to keep, both in Chroma."""
    monkeypatch.setattr(keeper, "HURRY_QUIET_S", 0.05)
    monkeypatch.setattr(keeper, "_LOOK_HURRY_S", 0.02)
    store = Store(tmp_path)
    store.use_model(MODEL)
    for root in (KEPT, GONE, f"{GONE} too"):
        store.add_root(root)
        put(store, update(f"{root}/a", *(passage() for _ in range(30)), root=root))
    assert store.wait_accelerator(60)
    yield store
    store.close()


def compacting(store: Store) -> None:
    """Wait until the keeper waits for a compaction."""
    wait(lambda: store._keeper._compaction is not None)


def vectors_of(store: Store, path: str) -> dict[str, bytes]:
    """What must not be found in Chroma's files once a file is forgotten."""
    with store._catalog.read() as db:
        texts = store._catalog.texts_of(db, path=path, chunk=0)
        _, rows = store.active.ledger.vectors(db, texts.tolist())
    return {f"{path} {number}": row.tobytes()[:32] for number, row in enumerate(rows)}


def another_model(store: Store) -> VectorIndex:
    """The index of another model, complete."""
    index = store.open_index(ModelKey("other-model", MODEL.dim), None)
    for texts in iter(lambda: index.ledger.pending(0, 50), []):
        index.ledger.fill(texts, np.stack([-vector(text.text) for text in texts]))
    return index


def test_another_model_that_takes_over_ends_no_erasure(library: Store) -> None:
    """The generation that was waited for was the former model's, which nobody fills any more."""
    other = another_model(library)
    for _ in range(3):  # so that the other model's numbers are behind
        library.active.ledger.new_index()
    library.remove_root(GONE)
    compacting(library)
    library.activate(other)
    erased(library)
    assert library.accelerator == "chroma"
    assert library.check() == []


def test_what_a_model_that_is_only_kept_has_in_chroma_is_erased_too(library: Store, tmp_path: Path) -> None:
    needles = vectors_of(library, f"{GONE}/a")
    library.activate(another_model(library))
    assert library.wait_accelerator(60)
    assert traces(tmp_path / "chroma", needles)
    library.remove_root(GONE)
    erased(library)
    assert traces(tmp_path, needles) == {}


def test_what_is_removed_while_the_index_is_compacted_is_erased_too(
    library: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needles = vectors_of(library, f"{GONE} too/a")
    filled, removed = threading.Event(), threading.Event()
    take_over = Accelerator._take_over

    def gated(self: Accelerator, current: Serving, beside: Serving | None) -> Serving:
        filled.set()
        assert removed.wait(60)
        return take_over(self, current, beside)

    monkeypatch.setattr(Accelerator, "_take_over", gated)
    library.remove_root(GONE)
    assert filled.wait(60)  # the new generation has the other folder's vectors
    library.remove_root(f"{GONE} too")
    residue = library._keeper._traces.residue
    while residue() is not None:
        time.sleep(0.01)
    removed.set()
    erased(library)
    assert traces(tmp_path, needles) == {}
    assert library.check() == []


def kill_chroma(store: Store) -> None:
    """Kill Chroma; returns when its loss was noticed."""
    accelerator = store.active._accelerator
    assert accelerator is not None
    (engine,) = (engine for engine in accelerator._alive.values() if isinstance(engine, Child))
    os.kill(engine.pid, signal.SIGKILL)
    wait(lambda: engine not in accelerator._alive.values())


def test_chroma_that_dies_now_and_then_is_back_at_once(
    library: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often: the pauses used to add up to a minute, for which nothing could be erased."""
    monkeypatch.setattr(accelerator, "_SOUND_S", 0.0)
    monkeypatch.setattr(accelerator, "_BACKOFF_GROWTH", 1000.0)
    for _ in range(2):
        kill_chroma(library)
        assert library.wait_accelerator(30)
    library.remove_root(GONE)
    compacting(library)
    erased(library, 30)


def test_a_removal_does_not_wait_for_a_pause_to_end(library: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_SOUND_S", 1000.0)
    monkeypatch.setattr(accelerator, "_BACKOFF_S", 1000.0)
    kill_chroma(library)
    assert library.accelerator == "exact"
    library.remove_root(GONE)
    erased(library, 30)
