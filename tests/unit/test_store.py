"""The store's door, with exact search (no Chroma is started here)."""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from indexer.api import Locator
from indexer.document import Chunk
from indexer.embed.space import LanguageSpace
from indexer.errors import FatalError, FileError, IndexerError
from indexer.query import Any, In
from indexer.store import FileUpdate, ModelKey, Store
from indexer.store.database import Database
from indexer.store.matrix import Matrix
from indexer.store.schema import MIGRATIONS, SCHEMA_VERSION

DIM = 16
MODEL = ModelKey("test-model", DIM)
ROOT = "/library"


def chunk(text: str, start: int = 0) -> Chunk:
    return Chunk(start=start, end=start + len(text), text=text, locator=Locator(page=1), lang="en", tokens=3)


def vector(text: str, dim: int = DIM) -> np.ndarray:
    """The same unit vector for the same text."""
    seed = int.from_bytes(chunk(text).text_hash, "big")
    found = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    return found / np.linalg.norm(found)


def update(path: str, *texts: str, root: str = ROOT, content: bytes = b"") -> FileUpdate:
    return FileUpdate(
        path=path,
        root=root,
        size=len(texts),
        mtime_ns=1,
        content=content or path.encode("utf-8", "surrogateescape").ljust(16, b"0")[-16:],
        media="text",
        code_language=None,
        title=path,
        chunks=tuple(chunk(text, at * 100) for at, text in enumerate(texts)),
    )


def put(store: Store, *updates: FileUpdate) -> None:
    texts = {c.text_hash: c.text for u in updates for c in u.chunks}
    store.replace(updates, {h: vector(texts[h]) for h in store.missing(texts)})


def found(store: Store, text: str, k: int = 10, **kwargs: object) -> list[tuple[str, str, float]]:
    candidates = store.nearest(vector(text), k, **kwargs)  # type: ignore[arg-type]
    chunks = store.chunks([c.chunk for c in candidates])
    return [(chunks[c.chunk].path, chunks[c.chunk].text, round(c.cosine, 2)) for c in candidates]


def texts_of(store: Store, path: str) -> list[tuple[int, str]]:
    """Chunk ids and texts of a file, in order."""
    with store._catalog.read() as db:
        rows = db.ask(
            "SELECT chunks.id, text FROM chunks JOIN files ON files.id = file WHERE path = ? ORDER BY slot",
            (os.fsencode(path),),
        )
    return [(row[0], row[1]) for row in rows]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "data")
    opened._use_chroma = False
    opened.use_model(MODEL)
    opened.add_root(ROOT)
    yield opened
    assert opened.check() == []
    opened.close()


def test_replaced_files_are_found_by_their_vectors(store: Store) -> None:
    put(store, update("/library/a", "cat", "dog"), update("/library/b", "whale"))
    assert found(store, "dog", 1) == [("/library/a", "dog", 1.0)]
    assert len(found(store, "dog")) == 3
    stored = store.chunks([store.nearest(vector("dog"), 1)[0].chunk]).popitem()[1]
    assert (stored.start, stored.end, stored.locator.page, stored.online) == (100, 103, 1, True)
    assert stored.root == ROOT
    counts = store.counts()
    assert (counts.files, counts.chunks) == (2, 3)


def test_an_unchanged_chunk_keeps_its_id_wherever_it_moves(store: Store) -> None:
    put(store, update("/library/a", "one", "two", "two", "three"))
    before = texts_of(store, "/library/a")
    put(store, update("/library/a", "three", "new", "two", "one"))
    after = texts_of(store, "/library/a")
    assert [text for _, text in after] == ["three", "new", "two", "one"]
    ids = {text: number for number, text in after}
    assert ids["three"] == before[3][0]
    assert ids["one"] == before[0][0]
    assert ids["two"] in (before[1][0], before[2][0])
    assert ids["new"] not in {number for number, _ in before}
    assert [hit[1] for hit in found(store, "new", 1)] == ["new"]


def test_missing_names_only_texts_without_a_vector(store: Store) -> None:
    put(store, update("/library/a", "one"))
    hashes = [chunk("one").text_hash, chunk("two").text_hash]
    assert store.missing(hashes) == {hashes[1]}
    with pytest.raises(ValueError, match="no vector"):
        store.replace([update("/library/b", "two")], {})
    assert store.file("/library/b") is None
    with pytest.raises(ValueError, match="not finite"):
        store.replace([update("/library/b", "two")], {hashes[1]: np.full(DIM, np.nan, np.float32)})
    with pytest.raises(ValueError, match="shape"):
        store.replace([update("/library/b", "two")], {hashes[1]: np.ones(3, np.float32)})


def test_a_deletion_followed_by_a_creation_needs_no_vector_again(store: Store) -> None:
    put(store, update("/library/a", "one"))
    store.remove(["/library/a"])
    assert found(store, "one") == []
    assert store.missing([chunk("one").text_hash]) == set()
    store.replace([update("/library/b", "one")], {})
    assert found(store, "one") == [("/library/b", "one", 1.0)]


def test_texts_out_of_use_are_collected_and_their_places_used_again(store: Store) -> None:
    for turn in range(5):
        put(store, update("/library/a", *(f"{turn} {i}" for i in range(50))))
        store._catalog.collect(older_than_s=0)
        assert store.check() == []
    with store._catalog.read() as db:
        assert db.ask("SELECT max(id) FROM texts")[0][0] <= 100
        assert db.ask("SELECT count(*) FROM vectors")[0][0] == 50
    assert found(store, "4 7", 1) == [("/library/a", "4 7", 1.0)]
    assert len(found(store, "0 7", 100)) == 50


def test_adopt_copies_an_indexed_file_of_the_same_kind(store: Store) -> None:
    put(store, update("/library/a.txt", "one", "two", content=b"k" * 16))
    assert store.find_content(b"k" * 16)
    assert not store.find_content(b"")
    assert store.adopt("/library/b.txt", ROOT, 5, 6, b"k" * 16)
    assert not store.adopt("/library/b.py", ROOT, 5, 6, b"k" * 16)
    assert not store.adopt("/library/c.txt", ROOT, 5, 6, b"x" * 16)
    assert {hit[0] for hit in found(store, "two", 2)} == {"/library/a.txt", "/library/b.txt"}
    assert store.adopt("/library/b.txt", ROOT, 9, 9, b"k" * 16)
    state = store.file("/library/b.txt")
    assert state is not None
    assert (state.size, state.mtime_ns) == (9, 9)
    store.remove(["/library/a.txt"])
    assert found(store, "two", 1) == [("/library/b.txt", "two", 1.0)]


def test_touch_changes_the_stat_only(store: Store) -> None:
    put(store, update("/library/a", "one"))
    store.touch("/library/a", 7, 8)
    state = store.file("/library/a")
    assert state is not None
    assert (state.size, state.mtime_ns, state.status) == (7, 8, "indexed")
    assert len(found(store, "one")) == 1


def test_a_folder_of_a_thousand_files_moves_onto_another(store: Store) -> None:
    store.add_root("/other")
    put(store, *(update(f"/library/d/{i:04}", f"text {i}") for i in range(1000)))
    put(store, update("/library/dd", "beside"), update("/other/e/0001", "old"), update("/other/e/x", "older"))
    assert store.move("/library/d", "/other/e", "/other") == 1000
    assert [f.path for f in store.files("/library")] == ["/library/dd"]
    assert [f.path for f in store.files("/other")] == [f"/other/e/{i:04}" for i in range(1000)]
    assert found(store, "text 7", 1) == [("/other/e/0007", "text 7", 1.0)]
    assert found(store, "old", 1)[0][1] != "old"
    assert store.move("/library/d", "/other/e", "/other") == 0
    assert store.counts().files == 1001


def test_moving_files_may_take_each_others_places(store: Store) -> None:
    put(store, update("/library/a/a", "inner"), update("/library/a/a/a", "innermost"))
    assert store.move("/library/a/a", "/library/a", ROOT) == 2
    assert [f.path for f in store.files(ROOT)] == ["/library/a", "/library/a/a"]
    assert found(store, "innermost", 1) == [("/library/a/a", "innermost", 1.0)]


def test_names_that_are_not_text_survive(store: Store) -> None:
    name = os.fsdecode(b"/library/\xff\xfe caf\xe9")
    put(store, update(name, "odd"))
    assert [f.path for f in store.files(ROOT)] == [name]
    assert found(store, "odd", 1) == [(name, "odd", 1.0)]
    assert store.move(name, name + "2", ROOT) == 1
    assert store.file(name + "2") is not None


def test_lone_surrogates_in_a_text_are_replaced(store: Store) -> None:
    bad = Chunk(
        start=0,
        end=3,
        text="a\ud800b",
        locator=Locator(heading=("\udfff",)),
        lang="",
        tokens=1,
        context="\ud801",
    )
    whole = update("/library/a")
    store.replace(
        [FileUpdate(whole.path, ROOT, 1, 1, b"c" * 16, "text", None, "\udc80", (bad,))],
        {bad.text_hash: vector("bad")},
    )
    stored = store.chunks([store.nearest(vector("bad"), 1)[0].chunk]).popitem()[1]
    assert (stored.text, stored.context, stored.title) == ("a\ufffdb", "\ufffd", "\ufffd")
    assert stored.locator.heading == ("\ufffd",)


def test_problems_replace_what_was_indexed_and_are_replaced_by_it(store: Store) -> None:
    put(store, update("/library/a", "one"))
    store.fail("/library/a", ROOT, 1, 2, FileError(Path("/library/a"), "Broken", "It is broken."))
    store.fail("/library/b", ROOT, 1, 2, FileError(Path("/library/b"), "Big", "Too big.", kind="skipped"))
    problems, total = store.problems()
    assert [(p.path, p.kind, p.title) for p in problems] == [
        ("/library/b", "skipped", "Big"),
        ("/library/a", "failed", "Broken"),
    ]
    assert total == 2
    assert [p.path for p in store.problems(kind="failed")[0]] == ["/library/a"]
    assert store.problems(limit=1, offset=1)[0][0].path == "/library/a"
    assert found(store, "one") == []
    counts = store.counts()
    assert (counts.files, counts.failed, counts.skipped) == (0, 1, 1)
    put(store, update("/library/a", "one"))
    assert store.problems()[1] == 1
    assert len(found(store, "one")) == 1


def test_roots_count_what_is_theirs_and_take_it_along(store: Store) -> None:
    store.add_root("/other")
    store.add_root("/other")
    put(store, update("/library/a", "one", "two"), update("/other/b", "three", root="/other"))
    store.fail("/other/c", "/other", 1, 2, FileError(Path("/other/c"), "Broken", "It is broken."))
    store.set_online("/other", False)
    first, second = store.roots()
    assert (first.path, first.online, first.files, first.chunks, first.bytes) == (ROOT, True, 1, 2, 2)
    assert (second.path, second.online, second.files, second.problems) == ("/other", False, 1, 1)
    assert not store.chunks([store.nearest(vector("three"), 1)[0].chunk]).popitem()[1].online
    store.remove_root("/other")
    assert [r.path for r in store.roots()] == [ROOT]
    assert {hit[0] for hit in found(store, "three")} == {"/library/a"}
    put(store, update("/other/late", "three", root="/other"))
    assert store.file("/other/late") is None


def test_remove_below_takes_the_folder_and_nothing_beside_it(store: Store) -> None:
    put(
        store,
        *(
            update(p, p)
            for p in ("/library/a", "/library/a/b", "/library/a/c/d", "/library/a-b", "/library/ab")
        ),
    )
    assert store.remove_below("/library/a") == 3
    assert [f.path for f in store.files(ROOT)] == ["/library/a-b", "/library/ab"]


def test_nearest_below_some_paths(store: Store) -> None:
    put(store, *(update(f"/library/{d}/{i}", f"{d}{i}", "same") for d in "abc" for i in range(20)))
    hits = found(store, "a3", 5, where=Any((In("/library/b"), In("/library/c/7"))))
    assert len(hits) == 5
    assert all(path.startswith("/library/b/") or path == "/library/c/7" for path, _, _ in hits)
    assert len(found(store, "same", 100, where=In("/library/c/7"))) == 2
    assert found(store, "a3", 5, where=In("/library/none")) == []
    assert found(store, "same", 5) == [(f"/library/a/{i}", "same", 1.0) for i in range(5)]


def test_files_are_streamed_over_many_pages(store: Store) -> None:
    names = sorted(f"/library/{i}" for i in range(2500))
    put(store, *(update(name) for name in names))
    assert [f.path for f in store.files(ROOT)] == names
    assert list(store.files("/nowhere")) == []


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    for turn in range(3):
        store = Store(tmp_path)
        store._use_chroma = False
        store.use_model(MODEL)
        store.add_root(ROOT)
        if turn == 0:
            put(store, update("/library/a", "one", "two"))
        assert found(store, "two", 1) == [("/library/a", "two", 1.0)]
        assert store.check() == []
        if turn == 1:
            matrix = tmp_path / "vectors-test-model.f32"
            store.close()
            matrix.write_bytes(matrix.read_bytes()[:5000])
        else:
            store.close()


def test_another_model_has_its_own_vectors(store: Store) -> None:
    put(store, update("/library/a", "one"))
    other = ModelKey("other", 8)
    store.use_model(other)
    assert store.nearest(vector("one", 8), 3) == []
    hashes = [chunk("one").text_hash]
    assert store.missing(hashes) == set(hashes)
    assert not store.adopt("/library/b", ROOT, 1, 1, update("/library/a").content)
    store.replace([update("/library/a", "one")], {hashes[0]: vector("one", 8)})
    assert len(store.nearest(vector("one", 8), 3)) == 1
    store.use_model(MODEL)
    assert found(store, "one", 1) == [("/library/a", "one", 1.0)]
    with pytest.raises(FatalError, match="dimensions"):
        store.use_model(ModelKey("other", 9))
    store.use_model(MODEL)


def test_another_space_compares_anew_and_embeds_nothing(store: Store) -> None:
    texts = [f"text {n}" for n in range(30)]
    put(store, update("/library/a", *texts))
    rng = np.random.default_rng(3)
    means = rng.normal(size=(5, DIM))
    target = io.BytesIO()
    names = ["aa", "bb", "cc", "dd", "code"]
    np.savez(
        target, languages=names, queries=means[:4], passages=means, reference=means[:4], scale=[0.0, 1.0, 0.1]
    )
    space = LanguageSpace(target.getvalue())
    rows = space.passages(np.stack([vector(text) for text in texts]))
    query = rng.normal(size=DIM).astype(np.float32)
    query /= np.linalg.norm(query)
    for _ in range(2):
        store.use_model(MODEL, space)
        assert not store.missing([chunk(text).text_hash for text in texts])
        nearest = store.nearest(query, 30)
        assert [c.cosine for c in nearest] == pytest.approx(sorted(rows @ query, reverse=True), abs=2e-3)
        assert store.check() == []
    put(store, update("/library/b", "one more"))
    assert found(store, "text 3", 1) != []
    store.use_model(MODEL)
    assert found(store, "text 3", 1)[0][1] == "text 3"


def test_readers_see_whole_states_while_writes_run(store: Store) -> None:
    put(store, update("/library/a", *(f"0 {i}" for i in range(20))))
    stop = threading.Event()
    seen: list[str] = []

    def read() -> None:
        while not stop.is_set():
            candidates = store.nearest(vector("0 1"), 100)
            if len(candidates) != 20:
                seen.append(f"{len(candidates)} chunks")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for turn in range(1, 40):
        put(store, update("/library/a", *(f"{turn} {i}" for i in range(20))))
        if turn % 10 == 0:
            store._catalog.collect(older_than_s=0.5)
    stop.set()
    for reader in readers:
        reader.join()
    assert seen == []


def test_a_second_service_is_refused(store: Store) -> None:
    with pytest.raises(FatalError, match="in use"):
        Store(store._dir)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    Store(tmp_path).close()
    db = Database(str(tmp_path / "catalog.sqlite"))
    db.pragma("user_version", SCHEMA_VERSION + 1)
    db.close()
    with pytest.raises(FatalError, match="Upgrade"):
        Store(tmp_path)


def test_a_catalog_of_the_first_schema_is_brought_up_to_date(tmp_path: Path) -> None:
    db = Database(str(tmp_path / "catalog.sqlite"))
    db.execute(MIGRATIONS[0])
    db.execute("INSERT INTO meta VALUES('identity', '0123456789abcdef'), ('clean', 1)")
    db.execute("INSERT INTO roots(path) VALUES(?)", (os.fsencode(ROOT),))
    db.pragma("user_version", 1)
    db.close()
    store = Store(tmp_path)
    assert [(root.path, root.device) for root in store.roots()] == [(ROOT, None)]
    store.set_online(ROOT, True, device=7)
    assert store.roots()[0].device == 7
    store.close()


def test_a_damaged_catalog_is_named(tmp_path: Path) -> None:
    Store(tmp_path).close()
    (tmp_path / "catalog.sqlite").write_bytes(b"garbage" * 1000)
    with pytest.raises(FatalError, match="damaged"):
        Store(tmp_path)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.close()
    store.close()
    with pytest.raises(FatalError, match="closed"):
        store.counts()


def test_a_full_disk_loses_nothing(store: Store) -> None:
    put(store, update("/library/a", "one"))
    writer = store._catalog._writer
    writer.pragma("max_page_count", writer.pragma("page_count") + 5)
    with pytest.raises(IndexerError, match="disk is full"):
        put(store, update("/library/b", *(f"text {i} " * 50 for i in range(500))))
    assert store.file("/library/b") is None
    assert found(store, "one") == [("/library/a", "one", 1.0)]
    assert store.check() == []
    writer.pragma("max_page_count", 1 << 30)
    put(store, update("/library/b", *(f"text {i} " * 50 for i in range(500))))
    assert store.counts().chunks == 501


def test_only_the_owner_can_read_the_library(store: Store) -> None:
    put(store, update("/library/a", "one"))
    assert stat.S_IMODE(store._dir.stat().st_mode) == 0o700
    modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in store._dir.iterdir() if f.is_file()}
    assert set(modes.values()) == {0o600}, modes


# --- the exact matrix -----------------------------------------------------------------------------


def matrix_of(folder: Path, rows: np.ndarray) -> Matrix:
    made = Matrix(folder / "rows.f32", "0" * 16, rows.shape[1])
    made.put(range(len(rows)), rows)
    made.enliven(range(len(rows)))
    return made


@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 5000])
def test_the_best_are_the_same_whether_rows_are_read_in_turn_or_picked(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(count)
    rows = rng.standard_normal((count, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    matrix = matrix_of(tmp_path, rows)
    try:
        query = rows[count // 2]
        for share in (0.01, 0.3, 1.0):
            among = np.flatnonzero(rng.random(count) < share)
            expected = among[np.argsort(-(rows[among] @ query), kind="stable")][:7]
            with matrix.reading():
                view = matrix.view()
                found = view.best(query, 7, among)
                assert np.allclose(view.cosines(query, found), rows[expected] @ query, atol=1e-6)
                assert np.allclose(view.cosines(query, among), rows[among] @ query, atol=1e-6)
        with matrix.reading():
            assert matrix.view().best(query, 1).tolist() == [count // 2]
    finally:
        matrix.close(good=False)


def test_rows_outlive_growth_rest_and_closing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((9000, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    matrix = Matrix(tmp_path / "rows.f32", "0" * 16, DIM)
    matrix.rest()  # nothing is mapped yet
    for low in range(0, 9000, 1000):
        with matrix.reading():
            before = matrix.view()
            matrix.put(range(low, low + 1000), rows[low : low + 1000])
            matrix.enliven(range(low, low + 1000))
            matrix.rest()
            assert before.best(rows[low - 1], 1).tolist() == ([low - 1] if low else [])
    with matrix.reading():
        assert np.array_equal(matrix.view().rows(np.arange(9000)), rows)
    matrix.close(good=True)
    again = Matrix(tmp_path / "rows.f32", "0" * 16, DIM)
    assert again.intact
    again.enliven(range(9000))
    with again.reading():
        assert np.array_equal(again.view().rows(np.arange(9000)), rows)
    again.close(good=True)


def test_room_is_taken_where_the_system_cannot_reserve_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "posix_fallocate", refuses, raising=False)
    rows = np.eye(DIM, dtype=np.float32)
    matrix = matrix_of(tmp_path, rows)
    with matrix.reading():
        assert matrix.view().best(rows[3], 1).tolist() == [3]
    file = tmp_path / "rows.f32"
    assert file.stat().st_blocks * 512 >= file.stat().st_size > 1024 * 4 * DIM
    matrix.close(good=False)


def test_a_full_disk_is_said_when_room_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    matrix = Matrix(tmp_path / "rows.f32", "0" * 16, DIM)
    with pytest.raises(OSError, match="No space"):
        matrix.put([0], np.eye(1, DIM, dtype=np.float32))
    matrix.close(good=False)


def test_a_rest_costs_no_answer(store: Store) -> None:
    put(store, update(f"{ROOT}/a", "one", "two"), update(f"{ROOT}/b/c", "three"))
    before = found(store, "two", where=In(ROOT)), found(store, "three", where=In(f"{ROOT}/b"))
    store.active.rest()
    assert store._catalog._idle == []
    assert (found(store, "two", where=In(ROOT)), found(store, "three", where=In(f"{ROOT}/b"))) == before
    put(store, update(f"{ROOT}/d", "four"))
    assert found(store, "four", 1)[0][0] == f"{ROOT}/d"
