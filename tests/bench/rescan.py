"""What it costs to look at a tree again: ``python -m tests.bench.rescan [--files 100000] [--flood 20000]``.

A tree of small files, whose few different texts let vectors be used again, is indexed by a real library.
Then, in turns and beside ``find -printf '%p %s %T@'`` on the same tree, which asks the same of the system:

- the sweep alone: the walk against the catalog, nothing changed;
- the start-up scan: watching every folder of the tree and sweeping it, as the service does;
- from the start of a whole library (imports done, model loading beside) until it has nothing to do.

At last, with everything being watched: files that are touched but the same, a branch that is switched (other
contents under the same names), an archive that is unpacked, a folder that is moved; each with the time until
the catalog equals the disk, the work it took, and what was embedded for it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from indexer.library import Library
from indexer.pipeline import Pipeline
from indexer.settings import Settings
from indexer.settings import save as save_settings
from indexer.watch import Rules, Watcher, sweep

TEXTS = 50
A_FOLDER = 20
_LOOK_S = 0.02
_PATIENCE_S = 1800.0


def text(number: int, branch: str = "") -> str:
    """One of few texts; each branch has its own."""
    return f"Note {number % TEXTS}{branch} speaks of harbours, ships and the weather of that day.\n"


def make_tree(root: Path, files: int) -> None:
    """So many files, twenty a folder, a hundred folders a project."""
    for number in range(files):
        folder = root / f"project-{number // 2000:03d}" / f"folder-{number // A_FOLDER % 100:02d}"
        if number % A_FOLDER == 0:
            folder.mkdir(parents=True, exist_ok=True)
        (folder / f"document-{number:06d}.txt").write_text(text(number), encoding="utf-8")


def main() -> None:
    """Measure, and print what was found as it comes."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rescan", description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--flood", type=int, default=20_000, help="files of each flood of events")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dragoman-bench-") as scratch:
        work = Path(scratch)
        root = work / "files"
        make_tree(root, options.files)
        save_settings(work / "data", Settings(speed="full"))
        say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {options.files:,} files")
        with opened(work) as library:
            begun, before = time.perf_counter(), library.encoder.tokens_embedded
            library.add_folder(str(root))
            settled(library, root)
            took = time.perf_counter() - begun
            tokens = library.encoder.tokens_embedded - before
            say(f"first index: {took:.1f} s, {options.files / took:,.0f} files/s, {tokens:,} tokens embedded")
        rescans(work, root, options.turns)
        floods(work, root, options.flood)
        say(f"load {os.getloadavg()[0]:.1f}")


@contextlib.contextmanager
def opened(work: Path) -> Iterator[Library]:
    """A library that is started and closed again."""
    library = Library(work / "data")
    library.start()
    try:
        yield library
    finally:
        library.close()


def settled(library: Library, root: Path) -> None:
    """Wait until nothing waits and the catalog equals the disk."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        if library.pipeline.idle and not differences(library, root):
            return
        time.sleep(_LOOK_S)
    raise RuntimeError(f"The catalog differs from the disk: {differences(library, root)[:5]}")


def differences(library: Library, root: Path) -> list[Any]:
    """What a fresh sweep finds."""
    path = str(root)
    return list(sweep(Rules(path, Settings()), library.store.known(path, path)))


def rescans(work: Path, root: Path, turns: int) -> None:
    """The sweep, the start-up scan and the start, beside find."""
    path = str(root)
    took: dict[str, list[float]] = {"find": [], "sweep": [], "start-up scan": [], "start of a library": []}
    for _ in range(turns):
        with opened(work) as library:
            took["start of a library"].append(timed(lambda: until(lambda: library.pipeline.idle)))
            settled(library, root)
            took["find"].append(timed(lambda: find(root)))
            took["sweep"].append(timed(lambda: differences(library, root)))
            # What the library has of its own would see the same events.
            watcher = library._watcher
            assert watcher is not None
            watcher.remove(path)
            took["start-up scan"].append(timed(lambda: start_up(library, path)))
            took["find"].append(timed(lambda: find(root)))
    limit = statistics.median(took["find"])
    for what, seconds in took.items():
        middle = statistics.median(seconds)
        all_of_them = ", ".join(f"{one:.3f}" for one in seconds)
        say(f"{what:20} {middle:6.3f} s  {middle / limit:5.2f} x find  ({all_of_them})")


def start_up(library: Library, path: str) -> None:
    """Watch and sweep as the library does at its start, with its own store."""
    states: list[str] = []
    pipeline: Pipeline
    watcher = Watcher(lambda changes: pipeline.submit(changes), lambda _, state, __: states.append(state))
    pipeline = Pipeline(
        library.store,
        library.encoder,
        library.pool,
        rules=lambda _: Rules(path, Settings()),
        extractors=1,
        entering=watcher.follow,
    )
    try:
        pipeline._threads[0].start()  # the one that scans: nothing else has anything to do
        watcher.add(path, Rules(path, Settings()), had_files=True, followed=True)
        pipeline.rescan(path, when_watched=True)
        until(lambda: pipeline.idle)
        assert states == ["live"], states
    finally:
        watcher.close()
        pipeline._stopping = True
        with pipeline._state:
            pipeline._state.notify_all()


def floods(work: Path, root: Path, files: int) -> None:
    """Many events at once, and what it takes until the catalog equals the disk."""
    with opened(work) as library:
        settled(library, root)
        chosen = sorted(root.rglob("*.txt"))[:files]
        say(f"floods of {len(chosen):,} files:")
        say(f"{'':28} until settled  after last write        CPU s   + MB   tokens")

        def touch() -> None:
            for file in chosen:
                os.utime(file)

        def switch() -> None:
            for number, file in enumerate(chosen):
                file.write_text(text(number, " of a branch"), encoding="utf-8")

        def unpack() -> None:
            packed = io.BytesIO()
            with tarfile.open(fileobj=packed, mode="w") as archive:
                for number in range(files):
                    member = tarfile.TarInfo(f"unpacked/{number // A_FOLDER:05d}/file-{number:06d}.txt")
                    data = text(number).encode()
                    member.size, member.mtime = len(data), 1_500_000_000
                    archive.addfile(member, io.BytesIO(data))
            packed.seek(0)
            with tarfile.open(fileobj=packed) as archive:
                archive.extractall(root, filter="data")

        def move() -> None:
            (root / "unpacked").rename(root / "moved")

        def remove() -> None:
            shutil.rmtree(root / "moved")

        for name, act in (
            ("touched, the same", touch),
            ("branch switched", switch),
            ("and back", lambda: [f.write_text(text(n), encoding="utf-8") for n, f in enumerate(chosen)]),
            ("archive unpacked", unpack),
            ("its folder moved", move),
            ("and removed", remove),
        ):
            flood(library, root, name, act)


def flood(library: Library, root: Path, name: str, act: Callable[[], Any]) -> None:
    """Do something to the tree and follow it."""
    tokens, cpu, memory = library.encoder.tokens_embedded, cpu_s(), psutil.Process().memory_info().rss
    most = memory
    begun = time.perf_counter()
    act()
    acted = time.perf_counter()
    quiet = False
    deadline = time.monotonic() + _PATIENCE_S
    while not quiet and time.monotonic() < deadline:
        time.sleep(0.25)
        most = max(most, psutil.Process().memory_info().rss)
        quiet = library.pipeline.idle and library._watcher is not None and library._watcher.flush(0.05)
        quiet = quiet and library.pipeline.idle
    took = time.perf_counter() - begun
    used = cpu_s() - cpu
    lost = differences(library, root)
    if lost:
        raise RuntimeError(f"{name}: {len(lost)} changes were lost, such as {lost[0]}")
    say(
        f"{name:28} {took:10.1f} s {begun + took - acted:18.1f} s {used:12.1f} {(most - memory) / 1e6:6.0f}"
        f" {library.encoder.tokens_embedded - tokens:8,}"
    )


def cpu_s() -> float:
    """Processor time of this process and of the children that read files, ended ones included."""
    own = psutil.Process()
    total = sum(own.cpu_times()[:4])
    for child in own.children(recursive=True):
        try:
            total += sum(child.cpu_times()[:2])
        except psutil.Error:
            continue
    return float(total)


def find(root: Path) -> None:
    """The yardstick."""
    command = ["find", str(root), "-printf", "%p %s %T@\n"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def timed(act: Callable[[], Any]) -> float:
    """Seconds that something takes."""
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that takes fractions of a second."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("It does not come to an end.")
        time.sleep(0.002)


def say(line: str) -> None:
    """Tell, at once."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
