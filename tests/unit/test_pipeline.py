"""The pipeline's order and honesty, with a real store and stand-ins for the encoder and the children."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

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
from indexer.workers import FileGoneError, Hashed, PoolClosedError, Prepared

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


class FakeEncoder:
    """Vectors out of the texts themselves, at once or when the gate opens."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.texts: list[str] = []
        self.failures: list[Exception] = []
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
        return Prepared(
            media="text",
            key=data[:16].ljust(16, b"\0"),
            size=info.st_size,
            mtime_ns=info.st_mtime_ns,
            chunks=tuple(
                Chunk(start=0, end=len(line), text=line, locator=Locator(), lang="en", tokens=1)
                for line in text.splitlines()
            ),
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
