"""The watcher on real folders with the kernel's own events."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from indexer.settings import Settings
from indexer.watch import FileChange, Rules, State, Watcher, scan, sweep
from indexer.watch.changes import Event
from indexer.watch.observer import ObserverSource
from indexer.watch.watcher import SourceFactory, system_source
from tests.fuzz import events


class Follower:
    """Applies changes to a model of the index, as the pipeline does, and notes what was reported."""

    def __init__(self, source: SourceFactory = system_source, **times: float) -> None:
        self.changes: list[FileChange] = []
        self.states: list[tuple[str, State, str]] = []
        self.files: dict[str, tuple[int, int]] = {}
        self.rules: dict[str, Rules] = {}
        self.news = threading.Condition()
        quick = {"quiet_s": 0.25, "longest_s": 2.0, "poll_s": 0.1} | times
        self.watcher = Watcher(self.on_changes, self.on_state, source=source, **quick)  # type: ignore[arg-type]

    def add(
        self,
        root: Path,
        *,
        ignore: tuple[str, ...] = (),
        excluded: tuple[Path, ...] = (),
        followed: bool = False,
    ) -> None:
        self.rules[str(root)] = Rules(root, Settings(ignore=ignore), excluded=excluded)
        self.watcher.add(root, self.rules[str(root)], followed=followed)
        self.quiet()

    def on_changes(self, changes: list[FileChange]) -> None:
        with self.news:
            self.changes += changes
            for change in changes:
                self.apply(change)
            self.news.notify_all()

    def on_state(self, root: str, state: State, reason: str) -> None:
        with self.news:
            self.states.append((root, state, reason))
            self.news.notify_all()

    def apply(self, change: FileChange) -> None:
        path = change.path
        if change.kind == "rescan":
            known = sorted(
                (os.fsencode(p), *v)
                for p, v in self.files.items()
                if self.root_of(p) == change.root and (p == path or p.startswith(path + "/"))
            )
            rules = self.rules[change.root]
            for found in sweep(rules, known, path, entering=self.watcher.follow):
                self.apply(found)
            return
        if change.kind == "remove":
            if change.is_dir:
                self.drop(path)
            self.files.pop(path, None)
        elif change.kind == "move":
            assert change.old is not None
            moved = self.drop(change.old)
            self.files.update({path + p[len(change.old) :]: v for p, v in moved.items()})
        if change.size is not None and change.mtime_ns is not None:
            self.files[path] = (change.size, change.mtime_ns)

    def root_of(self, path: str) -> str:
        return max((root for root in self.rules if path.startswith(root + "/")), key=len)

    def drop(self, path: str) -> dict[str, tuple[int, int]]:
        gone = {p: v for p, v in self.files.items() if p == path or p.startswith(path + "/")}
        for below in gone:
            del self.files[below]
        return gone

    def quiet(self) -> None:
        assert self.watcher.flush(20)

    def take(self) -> list[tuple[str, ...]]:
        """What was reported since the last call, once all is quiet: kind, old name if any, name."""
        self.quiet()
        with self.news:
            found, self.changes = self.changes, []
        return sorted((c.kind, *([Path(c.old).name] if c.old else []), Path(c.path).name) for c in found)

    def until(self, true: Callable[[], bool], seconds: float = 20) -> None:
        with self.news:
            assert self.news.wait_for(true, seconds)

    def is_true(self) -> bool:
        """Whether the model of the index equals the disk."""
        return self.files == {e.path: (e.size, e.mtime_ns) for r in self.rules.values() for e in scan(r)}


@pytest.fixture
def followers() -> Iterator[Callable[..., Follower]]:
    made: list[Follower] = []

    def make(source: SourceFactory = system_source, **times: float) -> Follower:
        made.append(Follower(source, **times))
        return made[-1]

    yield make
    for follower in made:
        follower.watcher.close()


Make = Callable[..., Follower]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    for name in ("a.txt", "b.txt", "dir/c.txt", "dir/deep/d.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_each_kind_of_change(followers: Make, root: Path, tmp_path: Path) -> None:
    follower = followers(quiet_s=0.5)
    follower.add(root)
    assert follower.states == [(str(root), "live", "")]
    assert follower.take() == [("rescan", "root")]
    assert follower.is_true()

    # A loaded machine may pause between two steps that belong together: they are read together.
    together = follower.watcher._source._lock  # type: ignore[union-attr]

    def after(*expected: tuple[str, ...]) -> None:
        assert follower.take() == sorted(expected)
        assert follower.is_true()

    (root / "new.txt").write_text("1")
    after(("upsert", "new.txt"))
    with together, (root / "new.txt").open("a") as stream:
        for _ in range(5):
            stream.write("2")
            stream.flush()
    after(("upsert", "new.txt"))
    with together:
        (root / "saved").write_text("new content")
        (root / "saved").replace(root / "a.txt")
    after(("upsert", "a.txt"), ("remove", "saved"))
    (root / "b.txt").rename(root / "dir" / "b2.txt")
    after(("move", "b.txt", "b2.txt"))
    (root / "dir" / "b2.txt").rename(tmp_path / "outside.txt")
    after(("remove", "b2.txt"))
    (tmp_path / "outside.txt").rename(root / "back.txt")
    after(("upsert", "back.txt"))
    (root / "back.txt").unlink()
    after(("remove", "back.txt"))
    with together:
        (root / "a.txt").unlink()
        (root / "a.txt").write_text("again")
    after(("upsert", "a.txt"))
    (root / "dir").rename(root / "folder")
    after(("move", "dir", "folder"), ("rescan", "folder"))
    (root / "folder" / "deep" / "d.txt").write_text("seen below its new name")
    after(("upsert", "d.txt"))
    (root / "folder").rename(tmp_path / "outside")
    after(("remove", "folder"))
    (tmp_path / "outside" / "deep" / "d.txt").write_text("nobody listens here")
    after()
    (tmp_path / "outside").rename(root / "returned")
    after(("rescan", "returned"))
    (root / "returned" / "deep" / "d.txt").write_text("a folder that was moved in is watched")
    after(("upsert", "d.txt"))
    with together:
        shutil.rmtree(root / "returned")
    after(("remove", "returned"))
    with together:
        (root / "x" / "y" / "z").mkdir(parents=True)
        (root / "x" / "y" / "z" / "f.txt").write_text("1")
    after(("rescan", "x"))
    (root / "x" / "y" / "z" / "f.txt").write_text("22")
    after(("upsert", "f.txt"))
    os.utime(root / "x" / "y" / "z" / "f.txt", ns=(1, 1))
    after(("upsert", "f.txt"))


def test_between_two_roots(followers: Make, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    follower = followers()
    follower.add(root)
    follower.add(other)
    follower.take()
    (root / "a.txt").rename(other / "a.txt")
    (root / "dir").rename(other / "dir")
    assert follower.take() == [("move", "a.txt", "a.txt"), ("move", "dir", "dir"), ("rescan", "dir")]
    assert follower.is_true()
    (other / "dir" / "deep" / "d.txt").write_text("followed into the other root")
    assert follower.take() == [("upsert", "d.txt")]
    follower.watcher.remove(other)
    (other / "a.txt").write_text("not any more")
    (root / "b.txt").write_text("still here")
    assert follower.take() == [("upsert", "b.txt")]


def test_a_sweep_has_what_it_enters_watched(followers: Make, root: Path) -> None:
    """So that the tree is walked once at the start, and not once for the watches and once for the files."""
    (root / "venv" / "lib").mkdir(parents=True)
    (root / "venv" / "pyvenv.cfg").write_text("")
    follower = followers()
    follower.add(root, followed=True)
    source = follower.watcher._source
    watched = set(getattr(source, "_wd", ()))
    if watched:
        assert watched == {str(root), str(root / "dir"), str(root / "dir" / "deep")}
    follower.take()
    (root / "dir" / "deep" / "new.txt").write_text("new")
    (root / "later").mkdir()
    (root / "later" / "e.txt").write_text("e")
    (root / "venv" / "f.txt").write_text("f")
    follower.quiet()
    assert follower.is_true()
    assert {Path(change.path).name for change in follower.changes} >= {"new.txt", "later"}
    assert "f.txt" not in {Path(change.path).name for change in follower.changes}


def test_ignored_places_are_not_even_watched(followers: Make, root: Path) -> None:
    (root / "node_modules" / "lib").mkdir(parents=True)
    follower = followers()
    follower.add(root)
    follower.take()
    source = follower.watcher._source
    watched = source._wd  # type: ignore[union-attr]
    assert not [path for path in watched if "node_modules" in path]
    (root / "node_modules" / "lib" / "x.js").write_text("x")
    (root / "~$report.docx").write_text("x")
    (root / "sub").mkdir()
    (root / "sub" / "node_modules").mkdir()
    assert follower.take() == [("rescan", "sub")]
    assert not [path for path in watched if "node_modules" in path]
    # Into and out of what is ignored.
    (root / "a.txt").rename(root / "a.txt~")
    assert follower.take() == [("remove", "a.txt")]
    (root / "a.txt~").rename(root / "a.txt")
    assert follower.take() == [("upsert", "a.txt")]
    (root / "node_modules").rename(root / "modules")
    assert follower.take() == [("rescan", "modules")]
    (root / "modules" / "lib" / "x.js").write_text("watched now")
    assert follower.take() == [("upsert", "x.js")]
    assert follower.is_true()


def test_a_changed_ignore_file_is_followed(followers: Make, root: Path) -> None:
    follower = followers()
    follower.add(root)
    (root / "dir" / ".gitignore").write_text("deep/\n")
    follower.quiet()
    assert str(root / "dir" / "deep" / "d.txt") not in follower.files
    assert follower.is_true()
    (root / "dir" / "deep" / "d.txt").write_text("ignored")
    follower.take()
    (root / "dir" / ".gitignore").write_text("")
    assert follower.take() == [("rescan", "dir")]
    assert follower.is_true()
    (root / "dir" / "deep" / "d.txt").write_text("watched again")
    assert follower.take() == [("upsert", "d.txt")]
    (root / "dir" / "pyvenv.cfg").write_text("")
    assert follower.take() == [("remove", "dir")]
    assert follower.is_true()


def test_a_flood_of_files_is_absorbed(followers: Make, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    follower = followers(limit=1000)
    follower.add(root)
    follower.take()
    count = 20_000
    source = follower.watcher._source
    with source._lock:  # type: ignore[union-attr]  # a reader that is not served for a while
        for number in range(count):
            (root / f"{number}.txt").touch()
        (root / "unseen").mkdir()
    follower.quiet()
    queue = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    assert ("ran over" in caplog.text) is (queue < 2 * count)
    assert len(follower.changes) < 10_000
    assert follower.is_true()
    assert len(follower.files) == count + 4
    (root / "unseen" / "f").write_text("a folder whose making was lost is watched all the same")
    assert ("upsert", "f") in follower.take()
    for file in root.glob("*.txt"):
        file.unlink()
    follower.quiet()
    assert len(follower.changes) < 10_000
    assert follower.is_true()


def test_a_busy_tree_ends_in_the_true_state(followers: Make, root: Path, tmp_path: Path) -> None:
    follower = followers()
    follower.add(root)
    for turn in range(60):
        (root / f"m{turn}" / "n").mkdir(parents=True)
        (root / f"m{turn}" / "n" / "f").write_text("1")
        if turn % 3 == 1:
            (root / f"m{turn - 1}").rename(root / f"m{turn}" / "moved")
            (root / f"m{turn}" / "moved" / "n" / "g").write_text("2")
        if turn % 3 == 2:
            shutil.rmtree(root / f"m{turn - 1}")
            (root / f"m{turn}").rename(root / "dir" / f"kept{turn}")
            (root / "dir" / f"kept{turn}" / "n" / "late").write_text("3")
    follower.quiet()
    assert follower.is_true()
    for file in root.rglob("late"):
        file.write_text("every folder is still watched below its true name")
    follower.quiet()
    assert follower.is_true()


def test_a_root_that_goes_and_comes_back(followers: Make, root: Path, tmp_path: Path) -> None:
    follower = followers()
    follower.add(root)
    before = dict(follower.files)
    root.rename(tmp_path / "away")
    follower.until(lambda: follower.states[-1][1] == "offline")
    assert follower.files == before, "an absent disk is not an empty one"
    (tmp_path / "away" / "a.txt").unlink()
    (tmp_path / "away" / "new.txt").write_text("made elsewhere")
    (tmp_path / "away").rename(root)
    follower.until(lambda: follower.states[-1][1] == "live")
    follower.until(follower.is_true)
    (root / "dir" / "c.txt").write_text("watched again")
    follower.until(follower.is_true)


def test_a_root_that_is_replaced_at_once(followers: Make, root: Path) -> None:
    follower = followers(poll_s=0.5)
    follower.add(root)
    shutil.rmtree(root)
    root.mkdir()
    (root / "other.txt").write_text("a new folder of the same name")
    follower.until(lambda: follower.is_true() and str(root / "other.txt") in follower.files)
    (root / "more.txt").write_text("which is watched")
    follower.until(lambda: str(root / "more.txt") in follower.files)


def test_a_root_that_is_not_there_yet(followers: Make, tmp_path: Path) -> None:
    follower = followers()
    root = tmp_path / "later"
    follower.add(root)
    assert [state for _, state, _ in follower.states] == ["offline"]
    root.mkdir()
    (root / "a").write_text("1")
    follower.until(lambda: follower.is_true() and bool(follower.files))


class Refusing:
    """A system that has no watches left, at first or from some folder on."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.refused: Callable[[str, OSError], None] | None = None
        self.removed: list[str] = []

    def __call__(
        self, on_event: Callable[[Event], None], on_refused: Callable[[str, OSError], None]
    ) -> Refusing:
        self.refused = on_refused
        return self

    def add(self, root: str, rules: Rules, *, deep: bool = True) -> None:
        if self.code:
            raise OSError(self.code, os.strerror(self.code))

    def remove(self, root: str) -> None:
        self.removed.append(root)

    def follow(self, folder: str, wanted: bool) -> None: ...

    def renew(self, folder: str) -> None: ...

    def pending(self) -> bool:
        return False

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "max_user_watches"), (errno.EMFILE, "max_user_instances"), (errno.EIO, "error")],
)
def test_where_the_system_refuses_the_root_is_swept(
    followers: Make, root: Path, code: int, words: str
) -> None:
    source = Refusing(code)
    follower = followers(source, quiet_s=0.05, unwatched_sweep_s=1.0)
    follower.add(root)
    assert [state for _, state, _ in follower.states] == ["sweep"]
    assert words in follower.states[0][2]
    (root / "a.txt").write_text("found by the next sweep")
    follower.until(follower.is_true)
    source.code = 0
    follower.until(lambda: follower.states[-1][1] == "live")


def test_watches_that_run_out_later(followers: Make, root: Path) -> None:
    source = Refusing(0)
    follower = followers(source)
    follower.add(root)
    source.removed.clear()
    assert source.refused is not None
    source.refused(str(root), OSError(errno.ENOSPC, "no space"))
    follower.until(lambda: follower.states[-1][1] == "sweep")
    assert source.removed == [str(root)]


def test_a_live_root_is_swept_from_time_to_time(followers: Make, root: Path) -> None:
    follower = followers(Refusing(0), quiet_s=0.05, sweep_s=1.0)
    follower.add(root)
    (root / "a.txt").write_text("the system said nothing of this")
    follower.until(follower.is_true)


def test_a_consumer_that_fails_gets_the_root_again(root: Path) -> None:
    calls = []
    done = threading.Event()

    def on_changes(changes: list[FileChange]) -> None:
        calls.append([(c.kind, c.path) for c in changes])
        if len(calls) == 1:
            raise RuntimeError("the disk is full")
        done.set()

    watcher = Watcher(on_changes, lambda *_: None, quiet_s=0.05, poll_s=0.1)
    watcher.add(root, Rules(root, Settings()))
    try:
        assert done.wait(10)
        assert calls[:2] == [[("rescan", str(root))]] * 2
    finally:
        watcher.close()


def test_roots_in_one_another(followers: Make, root: Path) -> None:
    follower = followers()
    follower.add(root)
    with pytest.raises(ValueError, match="lie in one another"):
        follower.watcher.add(root / "dir", Rules(root / "dir", Settings()))
    follower.add(root, excluded=(root / "dir",))
    follower.add(root / "dir")
    follower.take()
    assert follower.is_true()
    assert len(follower.files) == 4
    (root / "dir" / "c.txt").write_text("reported once")
    (root / "a.txt").write_text("and once")
    follower.quiet()
    assert sorted((c.root, c.path) for c in follower.changes) == [
        (str(root), str(root / "a.txt")),
        (str(root / "dir"), str(root / "dir" / "c.txt")),
    ]


def test_a_root_within_a_root_that_is_renamed_and_back_is_watched_still(followers: Make, root: Path) -> None:
    follower = followers(poll_s=600.0)
    inner, aside = root / "dir", root / "aside"
    follower.add(root, excluded=(inner,))
    follower.add(inner)
    inner.rename(aside)
    (root / "meanwhile.txt").write_text("1")
    aside.rename(inner)
    follower.quiet()
    assert follower.is_true()
    (inner / "late.txt").write_text("2")
    (root / "b.txt").rename(inner / "deep" / "b.txt")
    assert ("upsert", "late.txt") in follower.take()
    assert follower.is_true()


def test_a_folder_that_gives_way_to_a_link_is_gone(followers: Make, root: Path, tmp_path: Path) -> None:
    follower = followers()
    follower.add(root)
    (root / "dir").rename(tmp_path / "elsewhere")
    (root / "dir").symlink_to(tmp_path / "elsewhere")
    follower.quiet()
    assert {Path(path).name for path in follower.files} == {"a.txt", "b.txt", "dir"}
    assert follower.is_true()


def test_events_that_were_lost_may_have_been_of_ignore_files(followers: Make, root: Path) -> None:
    (root / ".ignore").write_text("dir/\n")
    follower = followers()
    follower.add(root)
    source: Any = follower.watcher._source
    assert str(root / "dir") not in source._wd
    assert follower.rules[str(root)].ignored(str(root / "dir"), True)  # and remembered
    with source._lock:
        (root / ".ignore").unlink()
        os.read(source._fd, 1 << 18)
        source._lost()
        assert str(root / "dir" / "deep") in source._wd
    follower.quiet()
    assert follower.is_true()
    assert len(follower.files) == 4


def test_any_interleaving_of_events_ends_in_the_true_state(tmp_path: Path) -> None:
    figures = events.run(2000, 5, tmp_path, tell=lambda _: None)
    assert figures.findings == []
    assert figures.operations >= 2000
    assert figures.reported["upsert"] > 20


def test_names_that_are_not_utf8(followers: Make, root: Path) -> None:
    follower = followers()
    follower.add(root)
    (root / os.fsdecode(b"\xe4\xf6.txt")).write_text("latin-1")
    follower.quiet()
    assert follower.is_true()


def test_nothing_is_left_behind(root: Path) -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    threads, files = threading.active_count(), open_files()
    for _ in range(3):
        watcher = Watcher(lambda _: None, lambda *_: None, quiet_s=0.05)
        watcher.add(root, Rules(root, Settings()))
        assert watcher.flush(10)
        start = time.monotonic()
        watcher.close()
        assert time.monotonic() - start < 2
    assert (threading.active_count(), open_files()) == (threads, files)


def test_the_source_of_other_systems(followers: Make, root: Path, tmp_path: Path) -> None:
    follower = followers(ObserverSource)
    follower.add(root)
    (root / "new.txt").write_text("1")
    follower.until(follower.is_true)
    (root / "a.txt").write_text("22")
    follower.until(follower.is_true)
    (root / "b.txt").rename(root / "dir" / "b2.txt")
    follower.until(follower.is_true)
    (root / "dir").rename(root / "folder")
    follower.until(follower.is_true)
    (root / "folder" / "deep" / "d.txt").unlink()
    follower.until(follower.is_true)
    (root / "p" / "q").mkdir(parents=True)
    (root / "p" / "q" / "r").write_text("1")
    follower.until(follower.is_true)
    assert ("move", "dir", "folder") in follower.take()
    root.rename(tmp_path / "away")
    follower.until(lambda: follower.states[-1][1] == "offline")
