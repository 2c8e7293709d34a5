"""The first moments of a service, and one whose model cannot be used: real processes, real model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from indexer import api
from indexer.client import IndexerClient
from indexer.store import Store, StoredModel

TEXTS = {
    "boiler.md": "# Boiler\n\nIf the radiators stay cold, bleed the air out with the small brass key.\n",
    "kaffee.txt": "Die Kaffeemaschine muss alle drei Monate mit Zitronensäure entkalkt werden.\n",
    "猫.md": "# 猫\n\n我们的猫每年春天都要去兽医那里打疫苗。\n",
    "train.txt": "Le train de nuit pour Vienne part de Paris à dix-neuf heures douze.\n",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of a library that was read; no service runs."""
    base = tmp_path_factory.mktemp("start")
    files = base / "files"
    files.mkdir()
    for name, text in TEXTS.items():
        (files / name).write_text(text, encoding="utf-8")
    with IndexerClient(base / "data") as client:
        client.add_folder(files)
    with IndexerClient(base / "data") as client:
        for status in client.watch():
            if status.state == "watching" and status.files == len(TEXTS):
                break
    stop(base / "data")
    yield base / "data"
    stop(base / "data")


def stop(data: Path) -> None:
    with IndexerClient(data) as client:
        client.stop()


def answers(client: IndexerClient, query: str, **more: object) -> list[api.SearchResult]:
    """Every answer to a search, as they come."""
    client._send(api.Search(id=4711, query=query, **more))  # type: ignore[arg-type]
    found: list[api.SearchResult] = []
    while not found or not found[-1].final:
        message = client._receive()
        assert not isinstance(message, api.Failed), message
        if isinstance(message, api.SearchResult):
            found.append(message)
    return found


def names(result: api.SearchResult) -> list[str]:
    return [Path(hit.path).name for hit in result.hits]


def test_words_are_answered_before_the_model_is_loaded_and_meaning_after(data: Path) -> None:
    with IndexerClient(data) as client:
        first, *others = answers(client, "brass key")
        assert first.by_words
        assert names(first) == ["boiler.md"]
        assert first.hits[0].passages[0].why.words > 0
        assert others
        assert not any(result.by_words for result in others)
        assert names(others[-1])[0] == "boiler.md"
        assert others[-1].hits[0].passages[0].why.meaning > 0.1
        assert client.status().encoder.state == "ready"
        # What no word tells, and once it is loaded the words alone are shown no more.
        (*early, last) = answers(client, "When does the cat get its vaccination?")
        assert names(last)[0] == "猫.md"
        assert not any(result.by_words for result in (*early, last))
    stop(data)


def test_filters_alone_are_answered_for_good_without_the_model(data: Path) -> None:
    with IndexerClient(data) as client:
        (listed,) = answers(client, "ext:md")
        assert sorted(names(listed)) == ["boiler.md", "猫.md"]
        assert not listed.by_words
        assert listed.encode_ms < 1
    stop(data)


def test_a_model_that_cannot_be_loaded_leaves_the_words(data: Path) -> None:
    with IndexerClient(data) as client:
        before = client.settings()
        client.put_settings(msgspec.structs.replace(before, device="cuda:77"))
        client.stop()
    try:
        with IndexerClient(data) as client:
            found = client.search("vaccination OR 疫苗 OR Kaffeemaschine")
            assert found.by_words
            assert set(names(found)) == {"猫.md", "kaffee.txt"}
            assert "cuda:77" in found.problems[-1].message
            status = client.status()
            assert status.encoder.state == "failed"
        command = [sys.executable, "-m", "indexer.cli", "search", "brass", "--data-dir", str(data)]
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert "boiler.md" in told.stdout
        assert "–" in told.stdout
        assert "nly words were compared" in told.stderr
    finally:
        with IndexerClient(data) as client:
            client.put_settings(before)
            client.stop()


def test_a_library_whose_model_is_gone_is_still_searched_by_words(data: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    store = Store(data)
    active = next(model for model in store.models() if model.role == "active")
    store.choose_model(
        StoredModel(
            key="gone-0", dim=8, reference=str(gone), dimensions=0, name="Gone", role="active", keep=False
        )
    )
    store.close()
    try:
        with IndexerClient(data) as client:
            found = client.search("brass key")
            assert found.by_words
            assert names(found) == ["boiler.md"]
            assert found.problems
            assert client.status().notices
    finally:
        stop(data)
        store = Store(data)
        store.choose_model(active)
        store.close()
