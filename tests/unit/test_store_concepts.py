"""What the store knows of what texts are about, through its door."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pytestqt.qtbot import QtBot

from indexer.pivot import pivot
from indexer.store import Store
from indexer.store.database import Database
from tests.unit.test_store_lexical import ROOT, opened, put, update


def about(store: Store, *words: str) -> list[set[str]]:
    """Which of these English words each text in use is about, by id."""
    ids = store._catalog.lexicon.in_use()
    found = store.concepts(ids)
    assert found is not None
    wanted = {int(pivot().query(word, {"en": 1.0}).ids[0]): word for word in words}
    return [
        {wanted[i] for i in found.ids[found.rows == row].tolist() if i in wanted} for row in range(len(ids))
    ]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    store = opened(tmp_path / "data")
    store.add_root(ROOT)
    put(
        store,
        update("/library/a", "Die Datei liegt auf der Festplatte.", lang="de"),
        update("/library/b", "打印机", lang="zh", context="网络"),
        update("/library/c", "def print_file(): pass", lang="code"),
    )
    store.close()
    return tmp_path / "data"


EXPECTED = [{"file", "disk"}, {"printer", "network"}, {"file"}]


def test_texts_are_known_by_what_they_mean(library: Path) -> None:
    store = opened(library)
    assert about(store, "file", "disk", "printer", "network") == EXPECTED
    usage = store.usage(100)
    assert usage is not None
    assert usage.passages == 3
    assert store.check() == []
    store.close()


def test_a_text_twice_among_those_asked_about_is_answered_twice(library: Path) -> None:
    store = opened(library)
    found = store.concepts(np.array([2, 1, 2, 77]))
    assert found is not None
    assert set(found.rows.tolist()) == {0, 1, 2}
    assert found.ids[found.rows == 0].tolist() == found.ids[found.rows == 2].tolist()
    store.close()


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM concepts; DELETE FROM meta WHERE key = 'pivot'",  # as an earlier version leaves it
        "UPDATE concepts SET data = x''; UPDATE meta SET value = 'others' WHERE key = 'pivot'",
    ],
)
def test_a_library_without_todays_concepts_gets_them_at_its_opening(library: Path, change: str) -> None:
    db = Database(str(library / "catalog.sqlite"))
    db.execute(change)
    db.close()
    store = opened(library)
    assert about(store, "file", "disk", "printer", "network") == EXPECTED
    assert store.check() == []
    store.close()


def test_a_large_library_gets_them_in_the_background_and_nobody_is_told_half(
    library: Path, monkeypatch: pytest.MonkeyPatch, qtbot: QtBot
) -> None:
    monkeypatch.setattr("indexer.store.concepts.AT_OPENING_S", 0.0)
    monkeypatch.setattr("indexer.store.concepts._SOME", 1)
    db = Database(str(library / "catalog.sqlite"))
    db.execute("DELETE FROM concepts; DELETE FROM meta WHERE key = 'pivot'")
    db.close()
    store = Store(library)
    try:
        assert store.concepts(np.array([1])) is None
        assert store.usage(10) is None
        # What is missing because it is still being made is not missed.
        assert not [found for found in store.check() if "about" in found]
        store._keeper.start()  # as the first model in use has it
        qtbot.waitUntil(lambda: store.concepts(np.array([1])) is not None, timeout=30_000)
        assert about(store, "file", "disk", "printer", "network") == EXPECTED
    finally:
        store.close()


def test_a_row_of_another_kind_is_seen_and_mended_and_stops_no_search(library: Path) -> None:
    store = opened(library)
    with store._catalog.write() as (db, _):
        db.execute("UPDATE concepts SET data = 'abcd' WHERE text_id = 1")
    assert store.concepts(np.array([1, 2])) is not None
    assert store.check() == ["texts that are about something else than it says: 1"]
    store.examine(repair=True)
    assert about(store, "file", "disk", "printer", "network") == EXPECTED
    store.close()


def test_what_is_forgotten_is_forgotten_here_too(library: Path) -> None:
    store = opened(library)
    store.remove(["/library/a"])
    store._catalog.collect(older_than_s=0)
    with store._catalog.read() as db:
        assert db.ask("SELECT text_id FROM concepts ORDER BY 1") == [(2,), (3,)]
    assert store.check() == []
    store.close()


def test_a_text_that_comes_back_into_use_gets_what_it_lacks(library: Path) -> None:
    store = opened(library)
    store.remove(["/library/a"])
    with store._catalog.write() as (db, _):
        db.execute("DELETE FROM concepts WHERE text_id = 1")
    put(store, update("/library/a", "Die Datei liegt auf der Festplatte.", lang="de"))
    assert about(store, "file", "disk", "printer", "network") == EXPECTED
    assert store.check() == []
    store.close()
