"""What the system lacks for a while: refused writes, too little memory, too few files and watches."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexer import pipeline
from indexer.embed.thread import EncoderThread
from indexer.errors import FatalError, FileError, IndexerError, ShortageError, away, shortage
from indexer.settings import Settings
from indexer.store import Store
from indexer.watch import Rules, mounted_below, mounts, network_kind, root_online, scan, volumes
from indexer.workers import FileGoneError
from indexer.workers.reading import unreadable
from tests.unit import test_pipeline
from tests.unit.test_store import MODEL, ROOT, put, store, texts_of, update

__all__ = ["store"]
bench = test_pipeline.bench
Bench = test_pipeline.Bench


def limit_pages(store: Store, more: int | None) -> None:
    """Have SQLite say that the disk is full when the catalog would grow by more than so many pages."""
    with store._catalog.write() as (db, _):
        pages = db.pragma("page_count")
        db.pragma("max_page_count", 1 << 30 if more is None else pages + more)


@pytest.mark.parametrize("more", range(16))
def test_a_disk_that_is_full_at_any_page_loses_nothing(store: Store, more: int) -> None:
    old = [f"paragraph {n} of the old text, {'a' * 600}" for n in range(6)]
    new = [f"paragraph {n} of the new text, {'b' * 900}" for n in range(24)]
    put(store, update(f"{ROOT}/file", *old), update(f"{ROOT}/other", *old[:2]))
    limit_pages(store, more)
    told: list[str] = []
    for action in (
        lambda: put(store, update(f"{ROOT}/file", *new)),
        lambda: store.set_volumes(ROOT, {f"{ROOT}/disk": True}),
        lambda: store.move(f"{ROOT}/other", f"{ROOT}/another", ROOT),
    ):
        try:
            action()
        except IndexerError as error:
            told.append(error.title)
        assert store.check() == []
        assert [text for _, text in texts_of(store, f"{ROOT}/file")] in (old, new)
    assert set(told) <= {"The disk is full"}
    assert told or more > 4
    # Forgetting has to work when there is no room: it is what makes some.
    store.remove([f"{ROOT}/other", f"{ROOT}/another"])
    limit_pages(store, None)
    put(store, update(f"{ROOT}/file", *new))
    assert [text for _, text in texts_of(store, f"{ROOT}/file")] == new
    assert store.check() == []


def test_a_clock_that_ran_ahead_keeps_no_text_for_years(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, update(f"{ROOT}/file", "a secret", "and another"))
    with monkeypatch.context() as patch:
        years_ahead = time.time() + 20 * 365 * 86400
        patch.setattr(time, "time", lambda: years_ahead)
        store.remove([f"{ROOT}/file"])
        put(store, update(f"{ROOT}/later", "a text of the future"))
    assert store._catalog.collect(3600.0, 100)
    assert store.check() == []
    assert [text for _, text in texts_of(store, f"{ROOT}/later")] == ["a text of the future"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, ""), "ulimit -n"),
        (OSError(errno.ENFILE, ""), "fs.file-max"),
        (OSError(errno.ENOSPC, ""), "Make room"),
        (BlockingIOError(errno.EAGAIN, ""), "ulimit -u"),
        (MemoryError(), "Close other programs"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"), "Close other"),
        (RuntimeError("std::bad_alloc"), "Close other"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
    ],
)
def test_what_is_short_is_told_with_what_to_do(error: Exception, words: str) -> None:
    short = shortage(error)
    assert short is not None
    assert words in short.message
    assert not short.title.endswith(".")


def test_other_errors_are_no_shortage() -> None:
    assert shortage(OSError(errno.EACCES, "")) is None
    assert shortage(RuntimeError("shape mismatch")) is None
    assert away(OSError(errno.ESTALE, ""))
    assert not away(OSError(errno.ENOENT, ""))


def test_only_the_file_that_the_encoder_fails_at_fails(bench: Bench) -> None:
    passages = bench.encoder.passages

    def failing(texts: Any, **more: Any) -> Any:
        if any("infinite" in text for text in texts):
            bench.encoder.failures.append(ValueError("a vector is not finite"))
        return passages(texts, **more)

    bench.encoder.passages = failing  # type: ignore[method-assign]
    bench.pipeline.paused = True
    bench.pipeline.start()
    bench.changed(*(bench.write(f"good{n}.txt", f"good {n}") for n in range(8)))
    bench.changed(bench.write("bad.txt", "infinite"))
    bench.pipeline.paused = False
    bench.rest()
    assert {name for name, status in bench.known.items() if status == "failed"} == {"bad.txt"}
    assert len(bench.known) == 9


def test_memory_that_is_short_for_a_moment_costs_no_file(bench: Bench) -> None:
    bench.encoder.failures = [MemoryError(), RuntimeError("std::bad_alloc")]
    bench.pipeline.start()
    bench.changed(*(bench.write(f"{n}.txt", f"text {n}") for n in range(3)))
    bench.rest()
    assert set(bench.known.values()) == {"indexed"}
    assert bench.pipeline.progress().trouble is None


def test_a_file_that_memory_never_suffices_for_fails_with_the_reason(bench: Bench) -> None:
    bench.encoder.failures = [MemoryError() for _ in range(9)]
    bench.pipeline.start()
    bench.changed(bench.write("huge.txt", "huge"))
    bench.rest()
    problems, _ = bench.store.problems()
    assert [(p.kind, p.title) for p in problems] == [("failed", "There is too little memory")]
    bench.encoder.failures = []
    bench.pipeline.retry([])
    bench.rest()
    assert bench.known == {"huge.txt": "indexed"}


def test_extraction_that_cannot_open_files_waits(bench: Bench) -> None:
    failures: list[Exception] = [OSError(errno.EMFILE, "Too many open files") for _ in range(3)]
    prepare = bench.pool.prepare

    def failing(path: Path) -> Any:
        if failures:
            raise failures.pop()
        return prepare(path)

    bench.pool.prepare = failing  # type: ignore[method-assign]
    bench.pipeline.start()
    bench.changed(bench.write("a.txt", "a"), bench.write("b.txt", "b"))
    bench.rest()
    assert bench.known == {"a.txt": "indexed", "b.txt": "indexed"}


def test_a_server_that_does_not_answer_takes_no_file_along(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.write("a.txt", "a")
    bench.pipeline.start()
    bench.changed(path)
    bench.rest()
    for code in (errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT):
        assert isinstance(unreadable(path, OSError(code, os.strerror(code))), FileGoneError)

        def stale(self: Any, code: int = code) -> os.stat_result:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "lstat", stale)
            bench.changed(path)
            bench.rest()
        assert bench.known == {"a.txt": "indexed"}
    assert not isinstance(unreadable(path, OSError(errno.EIO, "broken")), FileGoneError)
    assert isinstance(unreadable(path, OSError(errno.EIO, "broken")), FileError)


def test_a_disk_inside_a_folder_that_is_away_keeps_its_files(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [volumes.Mount(str(bench.root / "stick"), "vfat", 7)]
    monkeypatch.setattr(pipeline, "mounts", lambda: there)
    kept, other = bench.write("stick/a.txt", "a boat"), bench.write("b.txt", "b")
    bench.pipeline.start()
    bench.pipeline.rescan(str(bench.root))
    bench.rest()
    assert bench.store.volumes(str(bench.root)) == {str(bench.root / "stick"): True}
    there.clear()
    shutil.rmtree(bench.root / "stick")
    # However it is told: as the folder that went, as its file, by a sweep, or when its turn comes.
    bench.changed(bench.root / "stick", kind="remove")
    bench.pipeline._remove_below(str(bench.root / "stick"))
    bench.changed(kept, kind="remove")
    bench.changed(kept)
    other.unlink()
    bench.pipeline.rescan(str(bench.root))
    bench.rest()
    assert bench.known == {"stick/a.txt": "indexed"}
    assert bench.pipeline.lost_volumes == [str(bench.root / "stick")]
    found = bench.store.nearest(np.ones(test_pipeline.DIM, np.float32), 9)
    assert [c.online for c in bench.store.chunks([f.chunk for f in found]).values()] == [False]
    # Back, and empty: now its files are gone indeed.
    there.append(volumes.Mount(str(bench.root / "stick"), "vfat", 8))
    (bench.root / "stick").mkdir()
    bench.pipeline.rescan(str(bench.root))
    bench.rest()
    assert bench.known == {}
    assert bench.pipeline.lost_volumes == []


def test_what_is_mounted_is_read_from_the_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        b"23 22 0:50 / /home/me/my\\040disk rw shared:1 - vfat /dev/sdb1 rw\n"
        b"24 22 0:51 / /srv rw - nfs4 server:/srv rw\n"
        b"25 22 0:52 / /srv/local rw master:2 - ext4 /dev/sdc1 rw\n"
        b"26 22 0:53 / /far rw - fuse.sshfs me@far: rw\n"
        b"nonsense\n"
    )
    monkeypatch.setattr(volumes, "_MOUNTS", table)
    monkeypatch.setattr(sys, "platform", "linux")
    known = mounts()
    assert known is not None
    assert mounted_below("/home/me", known) == ["/home/me/my disk"]
    assert mounted_below("/home/m", known) == []
    assert mounted_below("/", known)[0] == "/far"
    assert network_kind(Path("/srv/data")) == "nfs4"
    assert network_kind(Path("/srv/local/data")) == ""
    assert network_kind(Path("/far")) == "fuse.sshfs"
    assert network_kind(tmp_path) == ""


def test_a_walk_without_file_descriptors_says_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("a")

    def refuse(path: str) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ShortageError):
        list(scan(Rules(str(tmp_path), Settings())))
    with pytest.raises(ShortageError):
        root_online(str(tmp_path), True, None)


_WATCH = """
import sys, threading
from pathlib import Path
from indexer.settings import Settings
from indexer.watch import Rules, Watcher

root, limit, most = Path(sys.argv[1]), Path("/proc/sys/user") / sys.argv[2], sys.argv[3]
limit.write_text(most)
turn, states, changes = threading.Condition(), [], []
def on_state(root, state, reason):
    with turn:
        states.append((state, reason)); turn.notify_all()
def on_changes(found):
    with turn:
        changes.extend(found); turn.notify_all()
watcher = Watcher(on_changes, on_state, quiet_s=0.05, poll_s=0.1, unwatched_sweep_s=0.3)
watcher.add(root, Rules(str(root), Settings()))
with turn:
    assert turn.wait_for(lambda: states, 20)
    assert states[0][0] == "sweep", states
    assert "sudo tee /etc/sysctl.d/" in states[0][1], states
    assert sys.argv[2].replace("inotify_", "user_") in states[0][1], states
    changes.clear()
    assert turn.wait_for(lambda: any(c.kind == "rescan" for c in changes), 20), "polled meanwhile"
limit.write_text("10000")
with turn:
    assert turn.wait_for(lambda: states[-1][0] == "live", 20), states
watcher.close()
"""


def test_a_full_disk_at_the_end_keeps_nobody_from_opening_the_library_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store._use_chroma = False
    store.use_model(MODEL)
    store.add_root(ROOT)
    put(store, update(f"{ROOT}/file", "a boat", "a train"))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        store.close()
    again = Store(tmp_path)
    try:
        again._use_chroma = False
        again.use_model(MODEL)
        assert again.check() == []
        assert [text for _, text in texts_of(again, f"{ROOT}/file")] == ["a boat", "a train"]
    finally:
        again.close()


@pytest.mark.parametrize(("limit", "most"), [("max_inotify_watches", "5"), ("max_inotify_instances", "0")])
def test_the_systems_own_limits_of_inotify(tmp_path: Path, limit: str, most: str) -> None:
    probe = ["unshare", "-Ur", "sh", "-c", f"echo {most} > /proc/sys/user/{limit}"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("needs Linux with user namespaces")
    for number in range(20):
        (tmp_path / f"folder{number}").mkdir()
    command = ["unshare", "-Ur", sys.executable, "-c", _WATCH, str(tmp_path), limit, most]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0, done.stderr


def test_the_end_does_not_wait_for_a_model_that_is_being_loaded() -> None:
    loading, loaded = threading.Event(), threading.Event()

    def load() -> Any:
        loading.set()
        assert loaded.wait(30)
        raise FatalError("Not needed any more", "It was stopped.")

    encoder = EncoderThread(load)
    encoder.start()
    waiting = encoder.passages(["a text"])
    assert loading.wait(30)
    encoder.stop(loading_s=0.01)
    with pytest.raises(IndexerError, match="stopped"):
        waiting.result(5)
    loaded.set()
    encoder.stop()
    assert not any(thread is encoder._thread for thread in threading.enumerate())
