"""The pipeline's order and honesty, with a real store and stand-ins for the encoder and the children."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from indexer import pipeline as module
from indexer.api import Locator
from indexer.document import Chunk
from indexer.errors import FileError, IndexerError, TextError
from indexer.pipeline import Pipeline
from indexer.settings import Settings
from indexer.store import FileUpdate, ModelKey, Store
from indexer.watch import FileChange, Rules, root_device
from indexer.watch import sweep as real_sweep
from indexer.workers import (
    LARGE_CHUNKS,
    PIECE_CHUNKS,
    ChunkFile,
    FileGoneError,
    Hashed,
    PoolClosedError,
    Prepared,
)

DIM = 8
PATIENCE_S = 20.0


class Gate:
    """Holds threads that come by while it is shut, and says when the first has come."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.reached = threading.Event()

    def shut(self) -> None:
        self._open.clear()
        self.reached.clear()

    def open(self) -> None:
        self._open.set()

    def pass_through(self) -> None:
        self.reached.set()
        assert self._open.wait(PATIENCE_S)


def on_disk(chunks: Sequence[Chunk]) -> ChunkFile:
    """As the pool keeps them."""
    kept = ChunkFile(None)
    for start in range(0, len(chunks), PIECE_CHUNKS):
        piece = chunks[start : start + PIECE_CHUNKS]
        kept.add(msgspec.json.encode({"chunks": piece}), len(piece))
    return kept


def book(name: str, chunks: int = 10 * PIECE_CHUNKS) -> str:
    """The text of a large file."""
    return "".join(f"sentence {number} of {name}\n" for number in range(chunks))


class FakeEncoder:
    """Vectors out of the texts themselves, at once or when the gate opens."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.texts: list[str] = []
        self.failures: list[Exception] = []
        self.largest = 0
        self.before: Callable[[int], None] = lambda _: None  # called with how many batches there were
        self.batches = 0
        self.tokens_embedded = 0
        self.busy_seconds = 0.0

    def passages(self, texts: Sequence[str], *, urgent: bool = False) -> Future[Any]:
        future: Future[Any] = Future()
        self.gate.pass_through()
        if any("poison" in text for text in texts):
            future.set_exception(TextError("A text cannot be embedded", "The server refuses it."))
            return future
        if self.failures:
            future.set_exception(self.failures.pop(0))
            return future
        self.before(self.batches)
        self.batches += 1
        self.largest = max(self.largest, len(texts))
        self.texts += texts
        self.tokens_embedded += len(texts)
        rows = [np.random.default_rng(len(text)).standard_normal(DIM) for text in texts]
        future.set_result(np.array(rows, np.float32).reshape(-1, DIM))
        return future


class FakePool:
    """Reads files here and now: every line is a chunk."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.prepared: list[str] = []
        self.closed = False

    def hash(self, path: Path) -> Hashed:
        data, info = self._read(path)
        return Hashed(key=data[:16].ljust(16, b"\0"), size=info.st_size, mtime_ns=info.st_mtime_ns)

    def prepare(self, path: Path) -> Prepared:
        data, info = self._read(path)
        self.prepared.append(path.name)
        self.gate.pass_through()
        if self.closed:
            raise PoolClosedError("Closed", "The pool was closed.")
        text = data.decode()
        if "broken" in text:
            raise FileError(path, "Damaged", "It cannot be read.")
        if "strange" in text:
            raise ZeroDivisionError
        chunks: Sequence[Chunk] = tuple(
            Chunk(start=0, end=len(line), text=line, locator=Locator(), lang="en", tokens=1)
            for line in text.splitlines()
        )
        if len(chunks) > LARGE_CHUNKS:
            chunks = on_disk(chunks)
        return Prepared(
            media="text",
            key=data[:16].ljust(16, b"\0"),
            size=info.st_size,
            mtime_ns=info.st_mtime_ns,
            chunks=chunks,
            tokens=len(chunks),
        )

    def _read(self, path: Path) -> tuple[bytes, Any]:
        try:
            return path.read_bytes(), path.stat()
        except FileNotFoundError as error:
            raise FileGoneError(path, "Gone", "It is not there.") from error

    def close(self) -> None:
        self.closed = True
        self.gate.open()


class Bench:
    """A folder, a store and a pipeline between them."""

    def __init__(self, base: Path) -> None:
        self.root = base / "files"
        self.root.mkdir()
        self.store = Store(base / "data")
        self.store.use_model(ModelKey("fake", DIM))
        self.store.add_root(str(self.root))
        self.encoder, self.pool = FakeEncoder(), FakePool()
        self.rules = Rules(str(self.root), Settings())
        self.pipeline = Pipeline(
            self.store,
            self.encoder,  # type: ignore[arg-type]
            self.pool,  # type: ignore[arg-type]
            rules=lambda _: self.rules,
            extractors=1,
        )

    def again(self) -> None:
        """As after a kill: another pipeline on what the store has."""
        self.encoder, self.pool = FakeEncoder(), FakePool()
        self.pipeline = Pipeline(
            self.store,
            self.encoder,  # type: ignore[arg-type]
            self.pool,  # type: ignore[arg-type]
            rules=lambda _: self.rules,
            extractors=1,
        )

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def changed(self, *paths: Path, kind: Any = "upsert", old: Path | None = None) -> None:
        self.pipeline.submit(
            FileChange(kind=kind, path=str(path), root=str(self.root), old=None if old is None else str(old))
            for path in paths
        )

    def rest(self) -> None:
        self.until(lambda: self.pipeline.idle)

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for a state of the pipeline."""
        deadline = time.monotonic() + PATIENCE_S
        with self.pipeline._state:
            while not condition():
                assert time.monotonic() < deadline
                self.pipeline._state.wait(0.01)

    @property
    def known(self) -> dict[str, str]:
        """Status of each file by its path in the folder."""
        return {
            str(Path(file.path).relative_to(self.root)): file.status
            for file in self.store.files(str(self.root))
        }

    @property
    def texts(self) -> list[str]:
        """The texts that a search can find."""
        found = self.store.nearest(np.ones(DIM, np.float32), 100)
        return sorted(chunk.text for chunk in self.store.chunks([c.chunk for c in found]).values())


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(Store, "_use_chroma", False)
    monkeypatch.setattr(module, "TROUBLE_PAUSE_S", 0.01)
    bench = Bench(tmp_path)
    yield bench
    bench.encoder.gate.open()
    bench.pool.gate.open()
    bench.pipeline.stop()
    bench.store.close()


def test_a_scan_takes_small_files_first_and_live_changes_before_them(bench: Bench) -> None:
    for name, size in {"large.txt": 30, "small.txt": 1, "middle.txt": 10}.items():
        bench.write(name, name + "x" * size)
    bench.pipeline.paused = True
    bench.pipeline.rescan(str(bench.root))
    bench.pipeline.start()
    bench.until(lambda: len(bench.pipeline._pending) == 3)
    bench.changed(bench.write("live.txt", "y" * 500))
    assert bench.pool.prepared == [], "nothing is read while paused"
    assert bench.pipeline.progress().waiting == 4
    bench.pipeline.paused = False
    bench.rest()
    assert bench.pool.prepared == ["live.txt", "small.txt", "middle.txt", "large.txt"]
    assert set(bench.known.values()) == {"indexed"}


def test_a_file_that_is_unreadable_or_strange_is_a_problem_and_no_other_suffers(bench: Bench) -> None:
    bench.pipeline.start()
    bench.changed(
        bench.write("broken.txt", "broken"),
        bench.write("strange.txt", "strange"),
        bench.write("ok.txt", "ok"),
    )
    bench.rest()
    assert bench.known == {"broken.txt": "failed", "strange.txt": "failed", "ok.txt": "indexed"}
    assert {problem.title for problem in bench.store.problems()[0]} == {"Damaged", "Internal error"}
    bench.write("broken.txt", "better")
    bench.pipeline.retry([])
    bench.rest()
    assert bench.known["broken.txt"] == "indexed"


@pytest.mark.parametrize("where", ["pool", "encoder"])
def test_what_is_removed_while_in_hand_is_not_stored(bench: Bench, where: str) -> None:
    gate = bench.pool.gate if where == "pool" else bench.encoder.gate
    gate.shut()
    bench.pipeline.start()
    path = bench.write("a.txt", "one")
    bench.changed(path)
    assert gate.reached.wait(PATIENCE_S)
    path.unlink()
    bench.changed(path, kind="remove")
    gate.open()
    bench.rest()
    assert bench.known == {}
    bench.write("a.txt", "two")
    bench.changed(path)
    bench.rest()
    assert bench.texts == ["two"]


def test_a_file_changed_fifty_times_while_in_hand_is_read_once_more(bench: Bench) -> None:
    bench.encoder.gate.shut()
    bench.pipeline.start()
    path = bench.write("a.txt", "first")
    bench.changed(path)
    assert bench.encoder.gate.reached.wait(PATIENCE_S)
    for number in range(50):
        bench.write("a.txt", f"the text of edit {number}")
        bench.changed(path)
    bench.encoder.gate.open()
    bench.rest()
    assert bench.texts == ["the text of edit 49"]
    assert len(bench.pool.prepared) == 2


def test_a_file_moved_while_in_hand_ends_under_its_new_name(bench: Bench) -> None:
    bench.encoder.gate.shut()
    bench.pipeline.start()
    old = bench.write("old.txt", "one")
    bench.changed(old)
    assert bench.encoder.gate.reached.wait(PATIENCE_S)
    new = old.rename(bench.root / "new.txt")
    bench.changed(new, kind="move", old=old)
    bench.encoder.gate.open()
    bench.rest()
    assert bench.known == {"new.txt": "indexed"}


def test_a_lone_change_is_taken_up_whoever_else_waits(bench: Bench) -> None:
    """The thread that scans waits beside those that read; it must not be woken in their place."""
    bench.pipeline.start()
    bench.pipeline.rescan(str(bench.root))
    bench.rest()
    for number in range(10):
        bench.changed(bench.write(f"{number}.txt", f"text {number}"))
        bench.rest()
        bench.pipeline.rescan(str(bench.root))
        bench.rest()
    assert len(bench.known) == 10


@pytest.mark.parametrize(("before", "after", "read"), [("a.md", "b.html", 2), ("a.md", "b.md", 1)])
def test_a_file_that_gets_the_name_of_another_kind_is_read_as_that(
    bench: Bench, before: str, after: str, read: int
) -> None:
    bench.pipeline.start()
    old = bench.write(before, "one\ntwo")
    bench.changed(old)
    bench.rest()
    new = old.rename(bench.root / after)
    bench.changed(new, kind="move", old=old)
    bench.rest()
    assert bench.known == {after: "indexed"}
    assert bench.pool.prepared == [before, after][:read]
    assert sorted(bench.encoder.texts) == ["one", "two"], "vectors are kept"


def test_moves_and_copies_embed_nothing(bench: Bench) -> None:
    bench.pipeline.start()
    old = bench.write("old.txt", "one\ntwo")
    bench.changed(old)
    bench.rest()
    new = old.rename(bench.root / "new.txt")
    bench.changed(new, kind="move", old=old)
    bench.changed(bench.write("copy.txt", "one\ntwo"))
    bench.changed(bench.write("longer.txt", "one\ntwo\nthree"))
    bench.rest()
    assert sorted(bench.known) == ["copy.txt", "longer.txt", "new.txt"]
    assert sorted(bench.encoder.texts) == ["one", "three", "two"]


def test_a_text_that_cannot_be_embedded_costs_its_own_file_only(bench: Bench) -> None:
    bench.pipeline.paused = True
    for name in ("a", "b", "c"):
        bench.changed(bench.write(f"{name}.txt", f"good {name}"))
    bench.changed(bench.write("bad.txt", "poison"))
    bench.pipeline.start()
    bench.pipeline.paused = False
    bench.rest()
    assert bench.known == {"a.txt": "indexed", "b.txt": "indexed", "c.txt": "indexed", "bad.txt": "failed"}
    problems = bench.store.problems()[0]
    assert [(Path(p.path).name, p.title) for p in problems] == [("bad.txt", "A text cannot be embedded")]


def test_a_full_disk_is_told_and_waited_for_and_nothing_is_embedded_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = bench.store.replace
    told: list[Any] = []

    def full(updates: Sequence[FileUpdate], vectors: Any, *, model: str = "") -> None:
        if len(told) < 3:
            told.append(bench.pipeline.progress().trouble)
            raise IndexerError("The disk is full", "Make room.")
        replace(updates, vectors, model=model)

    monkeypatch.setattr(bench.store, "replace", full)
    bench.pipeline.start()
    bench.changed(bench.write("a.txt", "one"))
    bench.rest()
    assert [notice and notice.title for notice in told] == [None, "The disk is full", "The disk is full"]
    assert bench.pipeline.progress().trouble is None
    assert bench.texts == ["one"]
    assert bench.encoder.texts == ["one"]
    assert bench.pool.prepared == ["a.txt"]


def test_what_is_wrong_is_not_told_any_more_when_nobody_wants_the_files(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def dies(path: Path) -> Prepared:
        told.append(bench.pipeline.progress().trouble)
        if len(told) > 1:
            bench.pipeline.forget(str(bench.root))
        raise IndexerError("Files cannot be read", "The process ended.")

    monkeypatch.setattr(bench.pool, "prepare", dies)
    bench.pipeline.start()
    bench.changed(bench.write("a.txt", "one"))
    bench.rest()
    assert told[0] is None
    assert told[1].title == "Files cannot be read"
    assert bench.pipeline.progress().trouble is None


def test_a_scan_that_meets_a_full_disk_is_made_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.pipeline.start()
    path = bench.write("a.txt", "one")
    bench.changed(path)
    bench.rest()
    remove, calls = bench.store.remove, []

    def full_once(paths: Sequence[str]) -> None:
        calls.append(paths)
        if len(calls) == 1:
            raise IndexerError("The disk is full", "Make room.")
        remove(paths)

    monkeypatch.setattr(bench.store, "remove", full_once)
    path.unlink()
    bench.pipeline.rescan(str(bench.root))
    bench.rest()
    assert bench.known == {}
    assert bench.pipeline.progress().trouble is None


def test_an_encoder_that_fails_once_is_tried_again_and_a_fault_is_named(bench: Bench) -> None:
    bench.encoder.failures = [IndexerError("No memory", "Close something."), RuntimeError("nonsense")]
    bench.pipeline.start()
    bench.changed(bench.write("a.txt", "one"))
    bench.rest()
    assert bench.known == {"a.txt": "failed"}
    problem = bench.store.problems()[0][0]
    assert problem.message.startswith("RuntimeError")
    assert "nonsense" not in problem.message, "an unknown message may quote the file"
    bench.pipeline.retry([str(bench.root / "a.txt")])
    bench.rest()
    assert bench.known == {"a.txt": "indexed"}


def test_a_folder_that_is_forgotten_in_the_middle_of_its_scan_leaves_nothing_behind(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        bench.write(f"{number}.txt", f"text {number}")
    listed, resume = threading.Event(), threading.Event()

    def slow(*args: Any, **more: Any) -> Iterator[FileChange]:
        for number, change in enumerate(real_sweep(*args, **more)):
            if number == 3:
                listed.set()
                assert resume.wait(PATIENCE_S)
            yield change

    monkeypatch.setattr(module, "sweep", slow)
    bench.pipeline.paused = True
    bench.pipeline.start()
    bench.pipeline.rescan(str(bench.root))
    assert listed.wait(PATIENCE_S)
    bench.pipeline.forget(str(bench.root))
    bench.store.remove_root(str(bench.root))
    resume.set()
    bench.rest()
    assert bench.pipeline.progress().waiting_by_root == {}
    assert bench.pool.prepared == []


def test_a_scan_drops_waiting_files_that_went_or_are_ignored_now(bench: Bench) -> None:
    """No event may have told so: the folder was not watched yet when they went."""
    bench.encoder.gate.shut()
    bench.pipeline.start()
    gone, *_ = [bench.write(f"{name}/a.txt", name) for name in ("gone", "ignored", "kept")]
    bench.pipeline.rescan(str(bench.root))
    assert bench.encoder.gate.reached.wait(PATIENCE_S)  # one of them is in hand, the others wait or are read
    gone.parent.rename(bench.root / "new")
    bench.write(".gitignore", "ignored/")
    bench.pipeline.rescan(str(bench.root))
    bench.until(lambda: not (bench.pipeline._scans or bench.pipeline._scanning))
    bench.encoder.gate.open()
    bench.rest()
    assert sorted(bench.known) == ["kept/a.txt", "new/a.txt"]


def test_nothing_of_a_forgotten_folder_is_embedded(bench: Bench) -> None:
    first = bench.write("0.txt", "first")
    bench.encoder.gate.shut()
    bench.pipeline.start()
    bench.changed(first)
    assert bench.encoder.gate.reached.wait(PATIENCE_S)
    bench.changed(*(bench.write(f"{number}.txt", f"text {number}") for number in range(1, 20)))
    bench.until(lambda: len(bench.pool.prepared) == 20)
    bench.pipeline.forget(str(bench.root))
    bench.encoder.gate.open()
    bench.rest()
    assert bench.encoder.texts == ["first"]
    assert bench.known == {}


def test_an_unmounted_disk_takes_no_waiting_file_out_of_the_index(bench: Bench) -> None:
    path = bench.write("a.txt", "one")
    bench.pipeline.start()
    bench.pipeline.rescan(str(bench.root))
    bench.rest()
    # What is left is the empty mount point, which lies on another device.
    path.unlink()
    bench.store.set_online(str(bench.root), True, device=-1)
    bench.changed(path)
    bench.rest()
    assert bench.known == {"a.txt": "indexed"}
    bench.store.set_online(str(bench.root), True, device=root_device(str(bench.root)))
    bench.changed(path)
    bench.rest()
    assert bench.known == {}


def test_the_empty_mount_point_of_a_disk_of_last_time_is_offline_not_emptied(bench: Bench) -> None:
    path = bench.write("a.txt", "one")
    bench.pipeline.start()
    bench.pipeline.rescan(str(bench.root))
    bench.rest()
    assert bench.store.roots()[0].device == root_device(str(bench.root))
    # As the catalog of a library looks whose disk lay elsewhere when the service last ran.
    bench.store.set_online(str(bench.root), True, device=-1)
    path.unlink()
    bench.pipeline.rescan(str(bench.root))
    bench.rest()
    assert bench.known == {"a.txt": "indexed"}
    assert not bench.store.roots()[0].online
    path.write_text("one", encoding="utf-8")
    bench.pipeline.rescan(str(bench.root))
    bench.rest()
    assert bench.store.roots()[0].online


def test_the_count_of_what_waits_follows_every_way_a_file_can_go(bench: Bench) -> None:
    pipeline = bench.pipeline
    pipeline.paused = True
    paths = [bench.write(f"{number}.txt", "x" * 100) for number in range(6)]
    bench.changed(*paths)
    bench.changed(paths[0], paths[0])  # again
    assert pipeline.progress().waiting_by_root == {str(bench.root): 6}
    bench.changed(paths[1], kind="remove")
    paths[2].rename(bench.root / "moved.txt")
    bench.changed(bench.root / "moved.txt", kind="move", old=paths[2])
    paths[3].unlink()
    assert pipeline.progress().waiting_by_root == {str(bench.root): 5}
    pipeline.start()
    pipeline.paused = False
    bench.rest()
    progress = pipeline.progress()
    assert (progress.waiting, progress.waiting_by_root, progress.remaining_s) == (0, {}, None)
    assert pipeline._load._parts == {}


def test_progress_costs_the_same_however_much_waits(bench: Bench) -> None:
    bench.pipeline.paused = True
    took = []
    for many in (1, 20_000):
        bench.pipeline.submit(
            FileChange(kind="upsert", path=f"{bench.root}/{n}.txt", root=str(bench.root), size=9, mtime_ns=n)
            for n in range(many)
        )
        began = time.perf_counter()
        assert bench.pipeline.progress().waiting == many
        took.append(time.perf_counter() - began)
    # 20,000 paths alone cost more than 20 ms to look at; the time of a constant cost is microseconds.
    assert took[1] < 0.01


@pytest.mark.parametrize("where", ["pool", "encoder", "store"])
def test_stopping_while_busy_ends_and_stores_no_half(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "store":
        refused = threading.Event()

        def full(updates: Sequence[FileUpdate], vectors: Any, *, model: str = "") -> None:
            refused.set()
            raise IndexerError("The disk is full", "Make room.")

        monkeypatch.setattr(bench.store, "replace", full)
        monkeypatch.setattr(module, "TROUBLE_PAUSE_S", 1000.0)
        reached = refused
    else:
        gate = bench.pool.gate if where == "pool" else bench.encoder.gate
        gate.shut()
        reached = gate.reached
    bench.pipeline.start()
    bench.changed(*(bench.write(f"{number}.txt", f"text {number}") for number in range(50)))
    assert reached.wait(PATIENCE_S)
    stopper = threading.Thread(target=bench.pipeline.stop)
    stopper.start()
    bench.encoder.gate.open()
    stopper.join(PATIENCE_S)
    assert not stopper.is_alive()
    if where == "store":
        assert bench.known == {}


def test_a_pipeline_that_was_never_started_can_be_stopped(bench: Bench) -> None:
    bench.pipeline.stop()


# --- large files ---------------------------------------------------------------------------


def test_a_large_file_takes_turns_with_others_and_appears_as_a_whole(bench: Bench) -> None:
    large, note = bench.write("book.txt", book("it")), bench.write("note.txt", "a note")
    seen: list[dict[str, str]] = []

    def before(batch: int) -> None:
        if batch == 2:
            bench.changed(note)
            deadline = time.monotonic() + PATIENCE_S
            while not bench.pipeline._prepared._small:  # until it has been read
                assert time.monotonic() < deadline
                time.sleep(0.001)
        seen.append(bench.known)

    bench.encoder.before = before
    bench.pipeline.start()
    bench.changed(large)
    bench.rest()
    assert bench.known == {"book.txt": "indexed", "note.txt": "indexed"}
    assert bench.encoder.texts.index("a note") <= 4 * PIECE_CHUNKS, "it did not wait for the book"
    assert not any("book.txt" in known for known in seen), "nothing of the book was to be seen till its end"
    assert bench.encoder.largest <= PIECE_CHUNKS
    assert len(bench.encoder.texts) == len(set(bench.encoder.texts)) == 10 * PIECE_CHUNKS + 1
    assert bench.store.counts().chunks == 10 * PIECE_CHUNKS + 1
    assert bench.store.check() == []


def test_what_was_embedded_of_a_large_file_survives_a_kill(bench: Bench) -> None:
    large = bench.write("book.txt", book("it"))
    stored = threading.Event()
    put_ahead = bench.store.put_ahead

    def put(*args: Any, **more: Any) -> None:
        put_ahead(*args, **more)
        if len(bench.encoder.texts) >= 5 * PIECE_CHUNKS:
            stored.set()

    bench.store.put_ahead = put  # type: ignore[method-assign]
    bench.encoder.before = lambda batch: bench.encoder.gate.shut() if batch == 4 else None
    bench.pipeline.start()
    bench.changed(large)
    assert stored.wait(PATIENCE_S)
    bench.encoder.gate.open()
    bench.pipeline.stop()
    assert bench.known == {}
    assert bench.texts == [], "nothing of it is found before all of it is"
    assert bench.store._catalog.collect() == 0, "it is kept for longer than other texts out of use"
    first = set(bench.encoder.texts)
    bench.again()
    bench.pipeline.start()
    bench.changed(large)
    bench.rest()
    assert bench.known == {"book.txt": "indexed"}
    assert len(bench.encoder.texts) <= 6 * PIECE_CHUNKS, "what was stored is not embedded again"
    assert len(first | set(bench.encoder.texts)) == 10 * PIECE_CHUNKS
    assert bench.store.check() == []


def test_texts_of_a_large_file_that_went_missing_are_embedded_again(bench: Bench) -> None:
    def before(batch: int) -> None:
        if batch == 6:
            bench.store._catalog.collect(older_than_s=-1e9)

    bench.encoder.before = before
    bench.pipeline.start()
    bench.changed(bench.write("book.txt", book("it")))
    bench.rest()
    assert bench.known == {"book.txt": "indexed"}
    assert len(bench.encoder.texts) > 10 * PIECE_CHUNKS
    assert bench.store.counts().chunks == 10 * PIECE_CHUNKS
    assert bench.store.check() == []


def test_a_large_file_with_a_text_that_cannot_be_embedded_is_one_problem(bench: Bench) -> None:
    bench.pipeline.start()
    bench.changed(bench.write("book.txt", book("it") + "poison\n"), bench.write("other.txt", book("another")))
    bench.rest()
    assert bench.known == {"book.txt": "failed", "other.txt": "indexed"}
    assert bench.pipeline.progress().waiting_by_root == {}


@pytest.mark.parametrize("how", ["remove", "change"])
def test_a_large_file_that_goes_or_changes_while_in_hand(bench: Bench, how: str) -> None:
    path = bench.write("book.txt", book("it"))

    def before(batch: int) -> None:
        if batch == 3:
            if how == "remove":
                path.unlink()
                bench.changed(path, kind="remove")
            else:
                bench.write("book.txt", "a note now")
                bench.changed(path)

    bench.encoder.before = before
    bench.pipeline.start()
    bench.changed(path)
    bench.rest()
    assert bench.texts == ([] if how == "remove" else ["a note now"])
    assert bench.pipeline.progress().waiting_by_root == {}
    assert bench.store.check() == []


def test_more_large_files_than_have_room_take_their_turn(bench: Bench) -> None:
    names = [f"{name}.txt" for name in "abcdef"]
    at_once: list[int] = []
    bench.encoder.before = lambda _: at_once.append(
        sum(job.large for job in bench.pipeline._in_hand.values())
    )
    bench.pipeline.paused = True
    bench.changed(*(bench.write(name, book(name, LARGE_CHUNKS + 1)) for name in names))
    bench.pipeline.start()
    bench.pipeline.paused = False
    bench.rest()
    assert set(bench.known) == set(names)
    assert max(at_once) <= module.LARGE_FILES


# --- what needs no encoder ------------------------------------------------------------------


def test_a_touched_file_that_is_the_same_is_read_but_neither_cut_nor_embedded_nor_counted(
    bench: Bench,
) -> None:
    bench.pipeline.start()
    paths = [bench.write(f"{number}.txt", f"text {number}") for number in range(50)]
    bench.changed(*paths)
    bench.rest()
    writes: list[int] = []
    touch_all = bench.store.touch_all

    def touch(files: Sequence[tuple[str, int, int]]) -> None:
        writes.append(len(files))
        touch_all(files)

    bench.store.touch_all = touch  # type: ignore[method-assign]
    bench.pool.prepared.clear()
    bench.encoder.texts.clear()
    for path in paths:
        os.utime(path, ns=(1, 1_600_000_000_000_000_000))
    bench.pipeline.rescan(str(bench.root))
    bench.rest()
    assert (bench.pool.prepared, bench.encoder.texts) == ([], [])
    assert bench.pipeline.progress().done == 0, "they were only looked at"
    assert sum(writes) == 50
    assert {file.mtime_ns for file in bench.store.files(str(bench.root))} == {1_600_000_000_000_000_000}
    reads: list[Path] = []
    bench.pool.hash = reads.append  # type: ignore[assignment,method-assign]
    bench.pipeline.rescan(str(bench.root))
    bench.rest()
    assert reads == [], "nothing changed: no content is looked at"


def test_problems_and_copies_are_written_many_at_a_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.pipeline.start()
    bench.changed(bench.write("first.txt", "one text"))
    bench.rest()
    transactions: list[int] = []
    before_commit = bench.store._catalog.before_commit

    def count(change: Any) -> None:
        transactions.append(1)
        before_commit(change)

    monkeypatch.setattr(bench.store._catalog, "before_commit", count)
    bench.pipeline.paused = True
    bench.changed(*(bench.write(f"copy {number}.txt", "one text") for number in range(200)))
    bench.changed(*(bench.write(f"broken {number}.txt", "broken") for number in range(200)))
    with bench.pipeline._apply:  # the writer waits, as for a slow disk
        bench.pipeline.paused = False
        bench.until(lambda: len(bench.pipeline._in_hand) == 400)
    bench.rest()
    assert len(bench.known) == 401
    assert len(transactions) < 20
    assert bench.pool.prepared.count("first.txt") == 1
    assert bench.pipeline.progress().done == 400


def test_a_copy_whose_original_went_in_the_same_moment_is_read(bench: Bench) -> None:
    bench.pipeline.start()
    original = bench.write("original.txt", "one text")
    bench.changed(original)
    bench.rest()
    adopt_all = bench.store.adopt_all

    def too_late(files: Any) -> list[bool]:
        bench.store.remove([str(original)])
        return adopt_all(files)

    bench.store.adopt_all = too_late  # type: ignore[method-assign]
    bench.changed(bench.write("copy.txt", "one text"))
    bench.rest()
    assert bench.known == {"copy.txt": "indexed"}


# --- the queue and what is told of it --------------------------------------------------------


def test_small_and_new_files_go_before_large_and_old_ones() -> None:
    now = time.time_ns()
    year = 365 * 86400 * 10**9

    def rank(size: int, age_years: float) -> int:
        return module._rank(size, now - int(age_years * year))

    assert rank(1000, 0) < rank(100_000, 0) < rank(100_000_000, 0)
    assert rank(10_000, 0) < rank(10_000, 1) < rank(10_000, 10)
    assert rank(20_000, 0) < rank(4_000, 10), "what one works on goes before an old note"
    assert rank(2_000, 2) < rank(5_000_000, 0), "but a new video's subtitles do not hold all notes up"
    assert rank(0, -1) == rank(0, 0), "a time in the future is now"
    assert 0 <= rank(0, 0) <= rank(1 << 50, 50) <= 255


def test_a_waiting_file_takes_little_memory(bench: Bench) -> None:
    """There may be a million; half of it is the path."""
    bench.pipeline.paused = True
    path, number = str(bench.root / ("x" * 40)), 20_000
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        bench.pipeline.submit(
            FileChange(kind="upsert", path=f"{path}{n}", root=str(bench.root), size=1000 + n, mtime_ns=n)
            for n in range(number)
        )
        each = (tracemalloc.get_traced_memory()[0] - before) / number
    finally:
        tracemalloc.stop()
    assert each < len(path) + 300


def test_a_file_that_changes_all_the_time_is_in_the_queue_once(bench: Bench) -> None:
    bench.pipeline.paused = True
    path = bench.write("a.txt", "1")
    for _ in range(1000):
        bench.changed(path)
    assert len(bench.pipeline._heap) == 1
    assert bench.pipeline.progress().waiting == 1


def test_files_that_nothing_reads_take_no_time_in_the_estimate() -> None:
    density = module._Density()
    assert density.tokens(".jpg", 10_000_000) == 0
    assert density.tokens(".txt", 1000) > 0


def test_the_estimate_comes_when_it_means_something(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr("indexer.pipeline.time.monotonic", lambda: clock[0])
    bench.pipeline.paused = True
    bench.pipeline.submit(
        FileChange(kind="upsert", path=f"/{name}.txt", root=str(bench.root), size=4000, mtime_ns=0)
        for name in "ab"
    )
    bench.pipeline.paused = False
    encoder, pipeline = bench.encoder, bench.pipeline
    told = []
    for second in range(12):
        clock[0] += 1
        if second >= 3:  # before that, a model is loaded
            encoder.tokens_embedded += 100
            encoder.busy_seconds += 0.5
        told.append(pipeline.progress())
    assert [p.remaining_s is None for p in told] == [True] * 7 + [False] * 5
    expected = 8000 * 0.28 / 100
    assert all(p.remaining_s == pytest.approx(expected, rel=0.01) for p in told[7:])
    assert told[2].encoder_busy == 0
    assert told[-1].encoder_busy == pytest.approx(0.5, abs=0.01)


def test_the_first_sweep_waits_for_the_watcher_but_not_for_ever(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("a.txt", "one")
    bench.pipeline.start()
    bench.pipeline.rescan(str(bench.root), when_watched=True)
    assert not bench.pipeline.idle
    assert bench.pipeline.progress().scanning
    bench.pipeline.submit([FileChange(kind="rescan", path=str(bench.root), root=str(bench.root))])
    bench.rest()
    assert set(bench.known) == {"a.txt"}
    bench.write("b.txt", "two")
    monkeypatch.setattr(module, "WATCH_WAIT_S", 0.05)
    bench.pipeline.rescan(str(bench.root), when_watched=True)
    bench.rest()
    assert set(bench.known) == {"a.txt", "b.txt"}


def test_the_catalog_tells_its_files_in_the_order_of_the_walk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sweep` reads both side by side; a file out of place would be taken for gone."""
    monkeypatch.setattr("indexer.store.catalog._KNOWN_PAGE", 2)
    bench.pipeline.start()
    names = ["a.txt", "b/a.txt", "b-c.txt", "b.txt", "b/é.txt", "文/x.txt", "z.txt", "b/\udcff.txt"]
    paths = [bench.write(name, name.encode("utf-8", "replace").decode()) for name in names]
    bench.changed(*paths)
    bench.rest()
    root = str(bench.root)
    told = list(bench.store.known(root, root))
    assert [path for path, _, _ in told] == sorted(os.fsencode(path) for path in paths)
    assert all((path.stat().st_size, path.stat().st_mtime_ns) in [row[1:] for row in told] for path in paths)
    assert len(list(bench.store.known(root, f"{root}/b"))) == 3
    assert [os.fsdecode(row[0]) for row in bench.store.known(root, str(paths[0]))] == [str(paths[0])]
    assert list(real_sweep(bench.rules, told)) == []
    assert list(bench.store.known("/elsewhere", root)) == []
