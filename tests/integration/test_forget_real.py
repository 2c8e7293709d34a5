"""What is removed is gone from the raw files of Chroma too, and from those that the service writes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from indexer.client import IndexerClient
from indexer.store import Store, keeper
from tests.unit.test_forget import GONE, KEPT, SECRETS, passage, traces
from tests.unit.test_store import MODEL, put, update


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
