"""Trees that change in every way at once, followed by the real watcher.

    python -m tests.fuzz.events [--operations 20000] [--seed 1]

Threads write, rename, swap, replace, link, throw away and put back files and folders in several roots (one
in another), in bursts and with pauses on both sides of the time after which a path counts as quiet. Watchers
live for some rounds each: usual ones, ones that sweep all the time, ones that hold few events, ones that the
system watches nothing for, and ones whose kernel queue runs over. What they report is applied to a model
of the index, with the product's own sweep. When all is quiet, the model must be what a fresh scan finds, and
that must be what a plain walk of the disk finds. Prints figures; ends with 1 at a finding.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import random
import stat
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexer.settings import Settings
from indexer.watch import FileChange, Rules, State, Watcher, scan, sweep
from indexer.watch.changes import Event
from indexer.watch.watcher import Source, SourceFactory, system_source

# Few names, so that the same paths come and go; some that systems write differently, or that mean something.
NAMES = (
    "a",
    "b",
    "c.txt",
    "d.md",
    "B",
    "\u00e9",
    "e\u0301",
    "\udcff",
    ".hidden",
    "x.tmp",
    "node_modules",
    "long" * 40,
)
IGNORING = ("*.tmp\n", "b/\n", "/a\n!c.txt\n", "*\n", "", "d.md\n")
Files = dict[str, tuple[int, int]]
# Nobody may need longer: the watchers here look every second or less.
_PATIENCE_S = 30.0


class Follower:
    """Applies what a watcher reports to a model of the index, as the pipeline does."""

    def __init__(self, roots: dict[str, Rules], source: SourceFactory, times: dict[str, float]) -> None:
        self.files: Files = {}
        self.rules = roots
        self.reported: Counter[str] = Counter()
        self.held = 0
        self._guard = threading.Lock()
        self.watcher = Watcher(self._follow, self._state, source=source, **times)  # type: ignore[arg-type]
        for root, rules in roots.items():
            self.watcher.add(root, rules, followed=len(root) % 2 == 0)

    def _state(self, root: str, state: State, reason: str) -> None:
        self.reported[state] += 1

    def _follow(self, changes: list[FileChange]) -> None:
        with self._guard:
            self.held = max(self.held, len(self.watcher._held))
            for change in changes:
                self.reported[change.kind] += 1
                self._apply(change)

    def _apply(self, change: FileChange) -> None:
        path = change.path
        if change.kind == "rescan":
            known = sorted(
                (os.fsencode(p), *of)
                for p, of in self.files.items()
                if self._root_of(p) == change.root and (p == path or p.startswith(path + "/"))
            )
            for found in sweep(self.rules[change.root], known, path, entering=self.watcher.follow):
                self._apply(found)
            return
        if change.kind == "remove":
            if change.is_dir:
                self._drop(path)
            self.files.pop(path, None)
        elif change.kind == "move":
            assert change.old is not None
            self.files.update({path + p[len(change.old) :]: of for p, of in self._drop(change.old).items()})
        if change.size is not None and change.mtime_ns is not None:
            self.files[path] = (change.size, change.mtime_ns)

    def _root_of(self, path: str) -> str:
        return max((root for root in self.rules if path.startswith(root + "/")), key=len)

    def _drop(self, path: str) -> Files:
        gone = {p: of for p, of in self.files.items() if p == path or p.startswith(path + "/")}
        for below in gone:
            del self.files[below]
        return gone

    def wrong(self) -> list[str]:
        """Paths in which the model and the disk differ, once all is quiet; empty when they agree."""
        deadline = time.monotonic() + _PATIENCE_S
        found = ["the watcher never came to rest"]
        while time.monotonic() < deadline:
            if self.watcher.flush(_PATIENCE_S):
                with self._guard:
                    held = dict(self.files)
                truth = {e.path: (e.size, e.mtime_ns) for rules in self.rules.values() for e in scan(rules)}
                found = sorted(
                    f"{path!r}: held {held.get(path)}, there {truth.get(path)}"
                    for path in held.keys() | truth.keys()
                    # Whether a link is told of hangs on what it points at, of which no event tells the link.
                    if held.get(path) != truth.get(path) and not os.path.islink(path)  # noqa: PTH114
                )
                if not found:
                    plain = self._plain()
                    read = {path for path in truth if stat.S_ISREG(os.lstat(path).st_mode)}
                    return [f"{path!r}: only one of two walks has it" for path in sorted(read ^ plain)]
            # Only a watcher that is told nothing may be behind now, until its next look.
            time.sleep(0.1)
        return found

    def _plain(self) -> set[str]:
        """Files by a walk that knows nothing of the product's own."""
        found = set()
        for root, rules in self.rules.items():
            for folder, folders, files in os.walk(root):
                folders[:] = [
                    name
                    for name in folders
                    if not os.path.islink(f"{folder}/{name}")  # noqa: PTH114
                    and rules.ignored(f"{folder}/{name}", True) is None
                ]
                for path in (f"{folder}/{name}" for name in files):
                    plain = os.path.isfile(path) and not os.path.islink(path)  # noqa: PTH113, PTH114
                    if plain and rules.ignored(path, False) is None:
                        found.add(path)
        return found


class Hand:
    """One of several who change the trees. What another took away meanwhile is not minded."""

    def __init__(self, roots: list[Path], outside: Path, seed: str) -> None:
        self.roots, self.outside, self.rng = roots, outside, random.Random(seed)
        self.done: Counter[str] = Counter()
        self._ways: list[tuple[int, Callable[[], object]]] = [
            (20, self.write), (6, self.append), (6, self.truncate), (5, self.touch), (10, self.make_folder),
            (14, self.rename), (6, self.replace), (5, self.swap), (6, self.save), (8, self.delete),
            (4, self.throw_away), (4, self.again), (3, self.change_kind), (4, self.leave), (4, self.come),
            (3, self.link), (2, self.pipe), (3, self.modes), (2, self.ignore), (2, self.burst),
            (1, self.root),
        ]  # fmt: skip

    def work(self, operations: int) -> None:
        """Do so many things, in bursts."""
        while operations > 0:
            burst = min(operations, self.rng.randint(1, 60))
            operations -= burst
            for _ in range(burst):
                (way,) = self.rng.choices(*zip(*((way, weight) for weight, way in self._ways), strict=True))
                try:
                    way()
                    self.done[way.__name__] += 1
                except OSError:
                    self.done["came to nothing"] += 1
            time.sleep(self.rng.choice((0.0, 0.0, 0.002, 0.03, 0.15)))

    def place(self, *, folder: bool = False) -> Path:
        """A path in some folder there is; with `folder` that folder."""
        at = self.rng.choice(self.roots)
        while self.rng.random() < 0.6:
            with os.scandir(at) as listing:
                below = [e.name for e in listing if e.is_dir(follow_symlinks=False)]
            if not below or len(str(at)) > 900:
                break
            at = at / self.rng.choice(below)
        return at if folder else at / self.rng.choice(NAMES)

    def there(self) -> Path:
        """Something that is there, as likely as not, and is no root."""
        at = self.place(folder=True)
        names = sorted(name for name in os.listdir(at) if not name.startswith("inner"))  # noqa: PTH208
        if not names:
            raise FileNotFoundError(at)
        return at / self.rng.choice(names)

    def write(self) -> None:
        self._put(self.place(), "x" * self.rng.randint(0, 3), os.O_CREAT | os.O_TRUNC)

    def append(self) -> None:
        self._put(self.there(), "y", os.O_APPEND)

    @staticmethod
    def _put(path: Path, text: str, how: int) -> None:
        # A pipe without a reader would be waited for.
        file = os.open(path, os.O_WRONLY | os.O_NONBLOCK | how)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)

    def truncate(self) -> None:
        os.truncate(self.there(), self.rng.randint(0, 2))

    def touch(self) -> None:
        when = self.rng.randint(0, 2_000_000_000) * 1_000_000_000
        os.utime(self.there(), ns=(when, when), follow_symlinks=False)

    def make_folder(self) -> None:
        self.place().mkdir()

    def rename(self) -> None:
        self.there().rename(self.place())

    def replace(self) -> None:
        self.there().replace(self.there())

    def swap(self) -> None:
        one, other = self.there(), self.there()
        between = one.with_name("between")
        one.rename(between)
        try:
            other.rename(one)
        finally:
            between.rename(other)

    def save(self) -> None:
        path = self.there()
        beside = path.with_name(f".{path.name[:40]}.swp")
        self._put(beside, "saved", os.O_CREAT)
        beside.replace(path)

    def delete(self) -> None:
        self.there().unlink()

    def throw_away(self) -> None:
        self._remove(self.there())

    @staticmethod
    def _remove(path: Path) -> None:
        if path.is_symlink():  # perhaps to a root, which os.walk would follow
            path.unlink()
            return
        # Not shutil.rmtree: it would wait for ever for a pipe that takes the place of a folder meanwhile.
        for folder, folders, files in os.walk(path, topdown=False):
            for name in (*files, *folders):
                at = Path(folder, name)
                if name in files or at.is_symlink():
                    at.unlink()
                else:
                    at.rmdir()
        path.rmdir()

    def again(self) -> None:
        path = self.there()
        info = path.lstat()
        path.unlink()
        self._put(path, "z" * min(info.st_size, 9), os.O_CREAT)
        if self.rng.random() < 0.5:
            os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))

    def change_kind(self) -> None:
        path = self.there()
        if path.is_dir() and not path.is_symlink():
            self._remove(path)
            self._put(path, "was a folder", os.O_CREAT)
        else:
            path.unlink()
            path.mkdir()
            self._put(path / self.rng.choice(NAMES), "was a file", os.O_CREAT)

    def leave(self) -> None:
        self.there().rename(self.outside / f"{self.rng.randrange(40)}")

    def come(self) -> None:
        names = os.listdir(self.outside)  # noqa: PTH208
        if names:
            (self.outside / self.rng.choice(names)).rename(self.place())

    def link(self) -> None:
        to = self.rng.choice((self.outside, self.roots[0], Path(), Path("nowhere"), self.place()))
        # Not hard links: the kernel tells of a change under the name that it was made by, and of no other.
        self.place().symlink_to(to)

    def pipe(self) -> None:
        os.mkfifo(self.place())

    def modes(self) -> None:
        path = self.there()
        if not path.is_symlink():
            path.chmod(self.rng.choice((0o600, 0o700, 0o000)))

    def ignore(self) -> None:
        at = self.place(folder=True) / self.rng.choice((".gitignore", ".ignore"))
        if self.rng.random() < 0.5:
            self._put(at, self.rng.choice(IGNORING), os.O_CREAT | os.O_TRUNC)
        else:
            at.unlink()

    def burst(self) -> None:
        at = self.place()
        at.mkdir()
        for number in range(self.rng.randint(20, 200)):
            folder = at / str(number % 7)
            folder.mkdir(exist_ok=True)
            self._put(folder / f"{number}.txt", str(number), os.O_CREAT)
        at.rename(self.place())

    def root(self) -> None:
        root = self.rng.choice(self.roots[1:])
        aside = root.with_name(root.name + " aside")
        root.rename(aside)
        time.sleep(self.rng.choice((0.0, 0.01, 0.3)))
        aside.rename(root)


class Refusing:
    """A system that watches nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def add(self, root: str, rules: Rules, *, deep: bool = True) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def follow(self, folder: str, wanted: bool) -> None:
        pass

    def remove(self, root: str) -> None:
        pass

    def renew(self, folder: str) -> None:
        pass

    def pending(self) -> bool:
        return False

    def close(self) -> None:
        pass


class Deaf:
    """The system's source, which does not read for a while now and then: the kernel's queue runs over."""

    def __init__(self, source: Source, rng: random.Random) -> None:
        self._source, self._rng = source, rng
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._doze, daemon=True)
        self._thread.start()

    def _doze(self) -> None:
        while not self._ending.wait(self._rng.uniform(0.1, 0.5)):
            with self._source._lock:  # type: ignore[attr-defined]
                time.sleep(self._rng.uniform(0.0, 0.4))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def close(self) -> None:
        """Be awake, and stop."""
        self._ending.set()
        self._thread.join()
        self._source.close()


@dataclass
class Figures:
    """What came of it."""

    operations: int = 0
    rounds: int = 0
    watchers: int = 0
    held: int = 0
    overflows: int = 0
    reported: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0


class _Overflows(logging.Handler):
    def __init__(self, figures: Figures) -> None:
        super().__init__()
        self._figures = figures

    def emit(self, record: logging.LogRecord) -> None:
        self._figures.overflows += "ran over" in record.getMessage()


@contextlib.contextmanager
def _small_queue(events: int) -> Iterator[None]:
    """Have the kernel's queue for new watchers hold few events, where that may be set."""
    limit = Path("/proc/sys/fs/inotify/max_queued_events")
    before = limit.read_text() if limit.exists() else ""
    try:
        if before:
            limit.write_text(str(events))
    except OSError:
        before = ""
    try:
        yield
    finally:
        if before:
            limit.write_text(before)


def _watcher(kind: str, rng: random.Random) -> tuple[SourceFactory, dict[str, float]]:
    times = {"quiet_s": 0.1, "longest_s": 1.0, "poll_s": 0.1, "sweep_s": 600.0}
    if kind == "refused":
        return Refusing, times | {"unwatched_sweep_s": 0.3}
    if kind == "restless":
        return system_source, times | {"quiet_s": 0.02, "sweep_s": 0.3}
    if kind == "few":
        return system_source, times | {"limit": 40}
    if kind == "deaf":

        def deaf(on_event: Callable[[Event], None], on_refused: Callable[[str, OSError], None]) -> Source:
            with _small_queue(300):
                return Deaf(system_source(on_event, on_refused), random.Random(rng.random()))

        return deaf, times
    return system_source, times


def run(
    operations: int, seed: int, folder: Path, tell: Callable[[str], object], *, at_once: int = 3
) -> Figures:
    """Let several hands change trees below `folder`, and compare again and again.

    Args:
        operations: How many things are done in all.
        seed: Of what is done; how it interleaves differs from run to run.
        folder: An empty folder.
        tell: Takes a line now and then.
        at_once: How many hands there are.
    """
    figures, began, rng = Figures(), time.monotonic(), random.Random(seed)
    roots = [folder / "one", folder / "one" / "inner", folder / "two"]
    outside = folder / "outside"
    for place in (*roots, outside):
        place.mkdir()
    hands = [Hand(roots, outside, f"{seed} {number}") for number in range(at_once)]
    kinds = ("usual", "restless", "few", "deaf", "refused")
    handler = _Overflows(figures)
    log = logging.getLogger("indexer.watch.inotify")
    log.addHandler(handler)
    log.propagate = False
    try:
        while figures.operations < operations and not figures.findings:
            kind = kinds[figures.watchers % len(kinds)]
            figures.watchers += 1
            rules = {
                str(root): Rules(
                    root, Settings(), excluded=[other for other in roots if root in other.parents]
                )
                for root in roots
            }
            source, times = _watcher(kind, rng)
            follower = Follower(rules, source, times)
            try:
                for _ in range(3):
                    share = min(rng.randint(20, 400), max(1, (operations - figures.operations) // at_once))
                    threads = [threading.Thread(target=hand.work, args=(share,)) for hand in hands]
                    for thread in threads:
                        thread.start()
                    for thread in threads:
                        thread.join()
                    figures.rounds += 1
                    figures.operations += share * at_once
                    wrong = follower.wrong()
                    assert all(root.is_dir() for root in roots), "the hands took a root away"
                    figures.findings += [f"round {figures.rounds}, {kind}: {line}" for line in wrong]
                    if wrong or figures.operations >= operations:
                        break
            finally:
                follower.watcher.close()
                figures.reported.update(follower.reported)
                figures.held = max(figures.held, follower.held)
            took = time.monotonic() - began
            tell(f"{figures.operations:,} in {took:.0f} s, {len(figures.findings)} findings\n")
    finally:
        log.removeHandler(handler)
        log.propagate = True
    for hand in hands:
        figures.done.update(hand.done)
    figures.seconds = time.monotonic() - began
    return figures


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--operations", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dragoman-events-") as scratch:
        figures = run(
            options.operations,
            options.seed,
            Path(scratch).resolve(),
            tell=sys.stderr.write,
        )
    tell = sys.stdout.write
    tell(
        f"{figures.operations:,} operations in {figures.rounds} rounds under {figures.watchers} watchers, "
        f"{figures.seconds:.0f} s; at most {figures.held:,} events held, {figures.overflows} overflows\n"
    )
    for what, counts in (("done", figures.done), ("reported", figures.reported)):
        tell(f"{what}: {', '.join(f'{count:,} {name}' for name, count in counts.most_common())}\n")
    tell(f"{len(figures.findings)} findings\n")
    for finding in figures.findings[:40]:
        tell(f"  {finding}\n")
    return 1 if figures.findings else 0


if __name__ == "__main__":
    sys.exit(main())
