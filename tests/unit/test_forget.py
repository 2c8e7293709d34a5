"""What is removed is gone from the raw files of the data folder, not only from the answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from indexer.errors import IndexerError
from indexer.store import ModelKey, Store, cipher, keeper, vault
from indexer.store.salvage import salvage
from indexer.store.traces import Traces
from tests.unit.test_store import MODEL, put, texts_of, update, vector

SECRET = "Zebrafisch4711"
NAME = "Okapigeheimnis"
KEPT, GONE = "/kept", "/gone"
RNG = np.random.default_rng(1)
WORDS = [f"word{number}" for number in range(2000)]


def passage(secret: str = "") -> str:
    return " ".join([*RNG.choice(WORDS, 40), secret, *RNG.choice(WORDS, 40)])


SECRETS = [passage(SECRET) for _ in range(6)]
OTHERS = [[passage() for _ in range(4)] for _ in range(80)]


def needles(texts: Iterable[str] = SECRETS) -> dict[str, bytes]:
    """What must not be found: the words as they are and as they are indexed, and the vectors."""
    found = {
        "utf-8": SECRET.encode(),
        "lower": SECRET.lower().encode(),
        "utf-16": SECRET.encode("utf-16-le"),
        # Without its first letter, as words are stored without what they begin with in common.
        "word": SECRET[1:10].encode(),
        "name": NAME.encode(),
        "word of the name": NAME[1:].lower().encode(),
    }
    for number, text in enumerate(texts):
        half = vector(text).astype("<f2")
        unit = half.astype("<f4")
        unit /= np.linalg.norm(unit)
        found[f"half {number}"], found[f"single {number}"] = (
            half.tobytes(),
            unit.astype("<f4").tobytes()[8:40],
        )
    return found


def traces(folder: Path, wanted: dict[str, bytes] | None = None) -> dict[str, list[str]]:
    """Which needles are in which of the raw files."""
    files = (file for file in folder.rglob("*") if file.is_file())
    everything = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    found = {
        what: [name for name, data in everything.items() if needle in data]
        for what, needle in (wanted or needles()).items()
    }
    return {what: names for what, names in found.items() if names}


def filled(folder: Path) -> Store:
    store = Store(folder)
    store._use_chroma = False
    store.use_model(MODEL)
    store.add_root(KEPT)
    store.add_root(GONE)
    for number, texts in enumerate(OTHERS):
        put(store, update(f"{KEPT}/{number}", *texts, root=KEPT))
        if number % 14 == 3:
            path = f"{GONE}/{NAME}-{number}.txt"
            put(store, update(path, SECRETS[number // 14], root=GONE))
    return store


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "HURRY_QUIET_S", 0.05)
    monkeypatch.setattr(keeper, "_LOOK_HURRY_S", 0.05)


@pytest.mark.usefixtures("quick")
def test_nothing_is_left_of_a_folder_that_was_removed(tmp_path: Path) -> None:
    store = filled(tmp_path)
    assert set(traces(tmp_path)) == set(needles()) - {"utf-16", "lower"}  # else the test would see nothing
    store.remove_root(GONE)
    assert store.forgetting
    assert "erased" in store.notices()[0].title
    wait(lambda: not store.forgetting)
    assert traces(tmp_path) == {}
    assert store.notices() == []
    assert store.check() == []
    assert len(texts_of(store, f"{KEPT}/3")) == 4
    put(store, update(f"{KEPT}/new", "after it"))
    store.close()
    assert traces(tmp_path) == {}


def test_traces_stay_where_nobody_erases_them(tmp_path: Path) -> None:
    """Why there is a keeper: deleting rows, overwritten as they are, is not enough."""
    store = filled(tmp_path)
    store._keeper.stop()
    store.remove_root(GONE)
    while store._catalog.collect(0.0):
        pass
    store.close()  # the log is gone with it
    left = traces(tmp_path)
    assert {"word of the name"} <= set(left)
    assert not {what for what in left if what.startswith(("half", "single"))}
    store = Store(tmp_path)
    residue = Traces(store._catalog).residue()
    assert residue is not None
    assert residue.hurry  # goes on at the next start
    assert Traces(store._catalog).scrub(everything=True)
    store.close()
    assert traces(tmp_path) == {}


@pytest.mark.usefixtures("quick")
def test_a_file_that_its_owner_deletes_or_edits_is_erased_in_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path)
    paths = [state.path for state in store.files(GONE)]
    store.remove(paths[:3])
    for path in paths[3:]:
        put(store, update(path.replace(NAME, "plain"), "harmless now", root=GONE))
        store.remove([path])
    assert not store.forgetting  # no hurry: a move looks the same at first
    assert store.missing([]) == set()
    assert traces(tmp_path)
    residue = Traces(store._catalog).residue()
    assert residue is not None
    assert not residue.hurry
    while store._catalog.collect(0.0):  # an hour later
        pass
    monkeypatch.setattr(keeper, "LAZY_S", 0.0)
    monkeypatch.setattr(keeper, "LAZY_QUIET_S", 0.0)
    store._keeper._round()
    assert Traces(store._catalog).residue() is None
    assert traces(tmp_path) == {}
    assert store.check() == []
    store.close()


@pytest.mark.usefixtures("quick")
def test_what_the_rules_leave_out_from_now_on_is_erased_soon(tmp_path: Path) -> None:
    store = filled(tmp_path)
    store.forget_soon()
    store.remove_below(GONE)
    wait(lambda: Traces(store._catalog).residue() is None)
    wait(lambda: not store.forgetting)
    assert traces(tmp_path) == {}
    store.close()


@pytest.mark.usefixtures("quick")
def test_the_mirror_of_another_model_forgets_too(tmp_path: Path) -> None:
    store = filled(tmp_path)
    other = ModelKey("other-model", 16)
    index = store.open_index(other, None)
    for texts in iter(lambda: index.ledger.pending(0, 50), []):
        index.ledger.fill(texts, np.stack([-vector(text.text) for text in texts]))
    negative = {"other": (-vector(SECRETS[0]).astype("<f2")).tobytes()}
    file = index.file
    assert traces(tmp_path, negative)
    store.close_index(index)
    assert file is not None
    assert file.exists()
    store.remove_root(GONE)
    wait(lambda: not store.forgetting)
    assert not file.exists()  # it is a mirror, made again when it is wanted
    assert traces(tmp_path, negative) == {}
    store.close()


@pytest.mark.usefixtures("quick")
def test_a_full_disk_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path)
    rewrite = store._catalog.rewrite

    def full() -> None:
        raise IndexerError("The disk is full", "Make room.")

    monkeypatch.setattr(store._catalog, "rewrite", full)
    store.remove_root(GONE)
    wait(lambda: "traces are left" in store.notices()[0].message)
    assert not store.forgetting  # the service need not stay for it
    monkeypatch.setattr(store._catalog, "rewrite", rewrite)
    store._keeper.hurry()
    wait(lambda: not store.notices())
    assert traces(tmp_path) == {}
    store.close()


def test_searches_go_on_while_the_file_is_written_anew(tmp_path: Path) -> None:
    store = filled(tmp_path)
    with store._catalog.read() as db:
        first = db.ask("SELECT count(*) FROM chunks")
        # One who reads is waited for, and reads on in the file as it was.
        thread = threading.Thread(target=store._catalog.rewrite)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        with store._catalog.read() as other:
            assert other.ask("SELECT count(*) FROM chunks") == first
    thread.join(20)
    assert not thread.is_alive()
    assert store.nearest(vector(OTHERS[0][0]), 1)
    assert store.check() == []
    assert not (tmp_path / "catalog.sqlite.new").exists()
    store.close()


@pytest.mark.skipif(not cipher.available(), reason="apsw without ciphers is installed")
def test_an_encrypted_library_stays_so_when_it_is_written_anew(tmp_path: Path) -> None:
    header, key = vault.new_header("eight or more", cost=16)
    filled(tmp_path).close()
    vault.convert(tmp_path, None, header, key)
    store = Store(tmp_path, key=key)
    store._use_chroma = False
    store.use_model(MODEL)
    store.remove_root(GONE)
    assert Traces(store._catalog).scrub(everything=True)
    assert store.check() == []
    put(store, update(f"{KEPT}/new", passage(SECRET)))
    assert b"word1" not in (tmp_path / "catalog.sqlite").read_bytes()
    assert traces(tmp_path) == {}
    store.close()
    with pytest.raises(IndexerError, match="encrypted"):
        salvage(tmp_path)
    again = Store(tmp_path, key=key)
    assert len(texts_of(again, f"{KEPT}/3")) == 4
    again.close()
    assert traces(tmp_path) == {}
