"""Hours of a person's work and of bad luck, then the question whether the index is as good as a new one.

    python -m tests.end2end.soak [--minutes 20] [--seed 0] [--keep DIR]

One thread changes files as people and programs do: writes, edits, safe saves, renames, whole folders moved,
unpacked and thrown away, files that cannot be read for a while, a folder taken out of the library and put
back. Between the changes the service, or a child of it, is killed or stopped for some seconds, files run
full of nonsense, and, where the data folder may lie on a small volume of its own (root is needed), the disk
runs full. Another thread searches all the time. At the end everything is set right, the service has time
to come to rest, and its library is compared with one that a fresh service makes of the same files:

- the visible chunks (path, offsets, text) are the same;
- the store finds nothing wrong with itself: every text has its vector, Chroma has them all and no others;
- the data folder is at most 1.3 times the fresh one's;
- no search failed or hung but for the death of the service, and the service never ended by itself.

A second folder is never touched. After each death and at the end its files and passages must be in the
library as they were, at once and without anything being indexed again, and a question about them must always
find them.

Exits with 1 and says what is wrong when one of them does not hold. The same seed makes the same changes in
the same order; where kills fall in the service's work differs from run to run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from indexer.client import IndexerClient
from indexer.errors import IndexerError
from tests.end2end.kills import index, stop, visible

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "assets/sample-library"
QUESTIONS = (
    "暖气片不热",
    "bread that rises",
    "Wie entlüfte ich die Heizung?",
    "retry with back-off",
    "pasos",
    "炊飯器",
)
ANCHOR, ANCHORED = "anchor.md", "The quexalotl archive of Tlamanca lists seven bronze keys."
# A search may wait for a service that has just been killed and loads its model again.
_PATIENCE_S = 120.0
# Disk of the soaked library against that of a fresh one.
_GROWTH = 1.3
_VOLUME_MB = 400


@dataclass
class Tally:
    """What happened, for the last lines of the report."""

    actions: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    lost_to_kills: int = 0
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list)


class Library:
    """The soaked library: its files, its data folder, and the service that is killed now and then."""

    def __init__(self, files: Path, data: Path, rng: random.Random, tally: Tally) -> None:
        self.files = files
        self.data = data
        self.rng = rng
        self.tally = tally
        self.kills = 0
        self.deaths = 0
        # What is never changed, and what the library acknowledged to have of it.
        self.kept = files.parent / "kept"
        self.acknowledged: tuple[int, int] | None = None
        self._left = False
        # Held while a kill is under way, so that a death that nobody wanted is told from it.
        self.killing = threading.Event()
        self._number = 0
        self._texts = [
            path.read_text(encoding="utf-8", errors="replace")
            for path in sorted(SAMPLE.rglob("*"))
            if path.suffix in {".md", ".txt", ".py", ".rs", ".html"}
        ]

    # Files -------------------------------------------------------------------------------------------

    def all(self) -> list[Path]:
        """Ordinary files, without the giants, which a copy would make real."""
        return sorted(
            path
            for path in self.files.rglob("*")
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 10_000_000
        )

    def some(self) -> Path | None:
        return self.rng.choice(found) if (found := self.all()) else None

    def folders(self) -> list[Path]:
        return sorted(path for path in self.files.rglob("*") if path.is_dir())

    def place(self) -> Path:
        return self.rng.choice([self.files, *self.folders()])

    def text(self) -> str:
        whole = self.rng.choice(self._texts)
        begin = self.rng.randrange(max(1, len(whole) - 400))
        self._number += 1
        return f"Note {self._number}\n\n{whole[begin : begin + self.rng.randrange(100, 4000)]}\n"

    def name(self) -> str:
        self._number += 1
        kind = self.rng.choice(["md", "txt", "py", "html", "rs", "json"])
        stem = self.rng.choice(["note", "bericht", "笔记", "メモ", "no te", "é", "a" * 60])
        return f"{stem}-{self._number}.{kind}"

    def write(self) -> None:
        (self.place() / self.name()).write_text(self.text(), encoding="utf-8")

    def edit(self) -> None:
        if path := self.some():
            how = self.rng.choice(["append", "replace", "cut"])
            if how == "append":
                with path.open("ab") as file:
                    file.write(self.text().encode())
            elif how == "replace":
                path.write_text(self.text(), encoding="utf-8")
            else:
                os.truncate(path, path.stat().st_size // 2)

    def save(self) -> None:
        """As editors do: write beside the file, then put the new one in its place."""
        if path := self.some():
            beside = path.with_name(f".{path.name}.swp")
            beside.write_text(self.text(), encoding="utf-8")
            beside.replace(path)

    def delete(self) -> None:
        if len(self.all()) > 40 and (path := self.some()):
            path.unlink()

    def rename(self) -> None:
        if path := self.some():
            path.rename(self.place() / self.name().replace(".json", path.suffix))

    def move_folder(self) -> None:
        if found := self.folders():
            folder = self.rng.choice(found)
            target = self.place()
            if folder != target and folder not in target.parents:
                folder.rename(target / f"{folder.name}-{self._number}")
                self._number += 1

    def unpack(self) -> None:
        """A few hundred small files at once."""
        self._number += 1
        folder = self.files / f"archive-{self._number}"
        folder.mkdir()
        for number in range(self.rng.randrange(50, 300)):
            (folder / f"part-{number}.txt").write_text(f"{number} {self.text()[:300]}", encoding="utf-8")

    def throw_away(self) -> None:
        if found := [path for path in self.folders() if path.name.startswith("archive-")]:
            shutil.rmtree(self.rng.choice(found))

    def copy(self) -> None:
        if path := self.some():
            shutil.copy2(path, self.place() / self.name().replace(".json", path.suffix))

    def touch(self) -> None:
        if path := self.some():
            path.touch()

    def nonsense(self) -> None:
        """A file that is not what its name says."""
        path = self.place() / self.name().replace(".json", self.rng.choice([".pdf", ".epub", ".md", ".py"]))
        path.write_bytes(self.rng.randbytes(self.rng.randrange(1, 200_000)))

    def strange(self) -> None:
        """What is no ordinary file, or leads out of the folder."""
        self._number += 1
        path = self.place() / f"strange-{self._number}"
        how = self.rng.choice(["fifo", "link", "loop", "sparse"])
        if how == "fifo":
            os.mkfifo(path.with_suffix(".txt"))
        elif how == "link":
            path.symlink_to(ROOT / "docs")
        elif how == "loop":
            path.symlink_to(self.files)
        else:
            with path.with_suffix(".txt").open("wb") as file:
                file.truncate(3 << 30)

    def lock_up(self) -> None:
        """A folder that nobody may enter for a moment (root may all the same)."""
        if found := self.folders():
            folder = self.rng.choice(found)
            mode = folder.stat().st_mode
            folder.chmod(0)
            self.pause(1.0)
            folder.chmod(mode)

    # The service -------------------------------------------------------------------------------------

    def pause(self, longest: float) -> None:
        """Let the service work for a random time; chance, not a condition, is what is wanted here."""
        time.sleep(self.rng.uniform(0, longest))

    def client(self) -> IndexerClient:
        return IndexerClient(self.data, name="soak")

    def leave(self) -> None:
        """Take a folder out of the library and put it back."""
        self._left = True
        with contextlib.suppress(IndexerError), self.client() as client:
            client.remove_folder(self.files)
            self.pause(2.0)
        self.enter()

    def keep(self) -> None:
        """Have the folder that is never touched indexed, and note what was acknowledged."""
        shutil.copytree(SAMPLE, self.kept)
        (self.kept / ANCHOR).write_text(f"# Keys\n\n{ANCHORED}\n", encoding="utf-8")
        with self.client() as client:
            client.add_folder(self.kept)
            for status in client.watch():
                if status.state == "watching" and not status.waiting and status.files:
                    break
        with self.client() as client:
            (folder,) = client.folders()
        self.acknowledged = folder.files, folder.chunks

    def enter(self) -> None:
        """See that the library still has its folders, and add the one that `leave` took out."""
        with self.client() as client:
            there = {folder.path: folder for folder in client.folders()}
            kept = there.get(str(self.kept))
            if kept is None or (kept.files, kept.chunks) != self.acknowledged:
                self.tally.faults.append(f"of {self.acknowledged} acknowledged there is left: {kept}")
            if str(self.files) not in there:
                if not self._left:
                    self.tally.faults.append("the folder is not in the library any more")
                client.add_folder(self.files)
            self._left = False

    def set_paused(self) -> None:
        with contextlib.suppress(IndexerError), self.client() as client:
            client.set_paused(True)
            self.pause(2.0)
        with self.client() as client:
            client.set_paused(False)

    def kill(self) -> None:
        """SIGKILL for the service, or for one or more of its children."""
        try:
            with contextlib.suppress(IndexerError, psutil.NoSuchProcess):
                with self.client() as client:
                    service = psutil.Process(client.pid)
                children = service.children(recursive=True)
                if children and self.rng.random() < 0.4:
                    for victim in self.rng.sample(children, self.rng.randint(1, len(children))):
                        with contextlib.suppress(psutil.NoSuchProcess):
                            victim.kill()
                else:
                    self.killing.set()
                    service.kill()
                    psutil.wait_procs([service, *children], timeout=30)
                    self.deaths += 1
                self.kills += 1
            self.enter()
        finally:
            self.killing.clear()

    def freeze(self) -> None:
        """Stop one process of the service for a while, as a machine that is put to sleep."""
        with contextlib.suppress(IndexerError, psutil.NoSuchProcess):
            with self.client() as client:
                service = psutil.Process(client.pid)
            victim = self.rng.choice([service, *service.children(recursive=True)])
            victim.send_signal(signal.SIGSTOP)
            try:
                self.pause(3.0)
            finally:
                victim.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """An orderly end, and the next start."""
        self.killing.set()
        self.deaths += 1
        try:
            with contextlib.suppress(IndexerError):
                stop(self.data)
            self.enter()
        finally:
            self.killing.clear()

    def fill_disk(self) -> None:
        """No room at all on the data folder's volume for some seconds."""
        ballast = self.data.parent / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 20))
                file.flush()
        self.pause(6.0)
        ballast.unlink()

    def actions(self, volume: bool) -> list[tuple[Callable[[], None], float]]:
        chosen: list[tuple[Callable[[], None], float]] = [
            (self.write, 10), (self.edit, 10), (self.save, 6), (self.delete, 7), (self.rename, 5),
            (self.copy, 3), (self.move_folder, 3), (self.unpack, 1), (self.throw_away, 1.5), (self.touch, 3),
            (self.nonsense, 2), (self.strange, 1), (self.lock_up, 1), (self.leave, 0.5), (self.set_paused, 1),
            (self.kill, 6), (self.freeze, 2), (self.stop, 1),
        ]  # fmt: skip
        if volume:
            chosen.append((self.fill_disk, 1.5))
        return chosen


def ask(library: Library, over: threading.Event) -> None:
    """Search until all is over, and note what went wrong."""
    rng = random.Random(library.rng.random())
    tally = library.tally
    while not over.is_set():
        began = time.monotonic()
        deaths = library.deaths
        disturbed = library.killing.is_set()
        try:
            with library.client() as client:
                while not over.is_set():
                    began = time.monotonic()
                    if rng.random() < 0.2:
                        found = client.search(ANCHORED, limit=50)
                        if ANCHOR not in {Path(hit.path).name for hit in found.hits}:
                            tally.faults.append("what was never touched is not found")
                    else:
                        client.search(rng.choice(QUESTIONS))
                    tally.asked += 1
                    tally.slowest_s = max(tally.slowest_s, time.monotonic() - began)
                    over.wait(0.2)
        except IndexerError as error:
            if disturbed or library.killing.is_set() or library.deaths != deaths:
                tally.lost_to_kills += 1
            else:
                tally.faults.append(f"a search failed: {error.title}: {error.message}")
        except Exception as error:
            tally.faults.append(f"a search failed: {type(error).__name__}: {error}")
            raise
        if time.monotonic() - began > _PATIENCE_S:
            tally.faults.append(f"a search took {time.monotonic() - began:.0f} s")


def settle(library: Library, longest: float) -> None:
    """Wait until the service has nothing left to do."""
    deadline = time.monotonic() + longest
    library.enter()
    with library.client() as client:
        client.set_paused(False)
        client.retry()
    calm = 0
    while time.monotonic() < deadline and calm < 5:
        with library.client() as client:
            status = client.status()
        calm = calm + 1 if status.state == "watching" and not status.waiting else 0
        time.sleep(1.0)
    if calm < 5:
        library.tally.faults.append(f"the service did not come to rest in {longest:.0f} s: {status.state}")


def size(folder: Path) -> int:
    """Bytes on the disk of all files below a folder but logs."""
    return sum(
        path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file() and path.suffix != ".log"
    )


def compare(library: Library, base: Path) -> None:
    """What differs between the soaked library and a fresh one of the same files."""
    faults = library.tally.faults
    stop(library.data)
    found, wrong = visible(library.data)
    beside = {chunk for chunk in found if chunk[0].startswith(f"{library.kept}/")}
    found -= beside
    if library.acknowledged is None or len(beside) != library.acknowledged[1]:
        faults.append(f"{len(beside)} passages of {library.acknowledged} that were never touched")
    faults += [f"the soaked library: {line}" for line in wrong]
    fresh = base / "fresh"
    index(fresh, library.files)
    stop(fresh)
    expected, wrong = visible(fresh)
    faults += [f"the fresh library: {line}" for line in wrong]
    sizes = size(library.data), size(fresh)
    print(f"visible chunks: {len(found)} soaked, {len(expected)} fresh", flush=True)
    print(f"missing: {len(expected - found)}, surplus: {len(found - expected)}")
    growth = sizes[0] / sizes[1]
    print(f"disk: {sizes[0] / 1e6:.1f} MB soaked, {sizes[1] / 1e6:.1f} MB fresh: {growth:.2f} times")
    if growth > _GROWTH:
        faults.append(f"the data folder is {growth:.2f} times a fresh one")
    for path, start, end, _ in sorted(expected ^ found)[:10]:
        faults.append(f"differs: {path} [{start}:{end}]")


@contextlib.contextmanager
def volume(base: Path) -> Iterator[Path | None]:
    """A small volume for the data folder, where this process may mount one."""
    place = base / "volume"
    place.mkdir()
    mounted = (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_VOLUME_MB}m,mode=700", "tmpfs", str(place)],
            check=False,
            capture_output=True,
        ).returncode
        == 0
    )
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=False)


def soak(base: Path, minutes: float, seed: int) -> Tally:
    """Run it; `base` is an empty folder."""
    rng = random.Random(seed)
    tally = Tally()
    files = base / "files"
    shutil.copytree(SAMPLE, files)
    with volume(base) as place:
        if place is None:
            print("no small volume can be mounted here: the disk does not run full in this run", flush=True)
        library = Library(files, (place or base) / "data", rng, tally)
        chosen = library.actions(place is not None)
        over = threading.Event()
        library.keep()
        library.leave()  # nothing to take out yet
        asking = threading.Thread(target=ask, args=(library, over), name="asking", daemon=True)
        asking.start()
        began = time.monotonic()
        said = began
        try:
            while time.monotonic() - began < minutes * 60:
                action = rng.choices([one for one, _ in chosen], [weight for _, weight in chosen])[0]
                with contextlib.suppress(OSError):
                    action()
                tally.actions[action.__name__] += 1
                library.pause(0.6)
                if time.monotonic() - said > 60:
                    said = time.monotonic()
                    print(
                        f"{(said - began) / 60:.0f} min: {sum(tally.actions.values())} actions,"
                        f" {library.kills} kills, {tally.asked} searches, {len(tally.faults)} faults",
                        flush=True,
                    )
        finally:
            over.set()
            asking.join(_PATIENCE_S)
        if asking.is_alive():
            tally.faults.append("a search never ended")
        if tally.asked < minutes:
            tally.faults.append(f"only {tally.asked} searches")
        settle(library, 600)
        compare(library, base)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="an empty folder that stays when something is wrong")
    options = parser.parse_args()
    base = options.keep or Path(tempfile.mkdtemp(prefix="dragoman-soak-"))
    base.mkdir(parents=True, exist_ok=True)
    tally = soak(base, options.minutes, options.seed)
    print(", ".join(f"{name} {count}" for name, count in tally.actions.most_common()))
    print(f"searches: {tally.asked}, lost to kills {tally.lost_to_kills}, slowest {tally.slowest_s:.1f} s")
    for fault in tally.faults:
        print(f"WRONG: {fault}")
    if not options.keep or not tally.faults:
        shutil.rmtree(base, ignore_errors=True)
    print("FAILED" if tally.faults else "all as it should be")
    return int(bool(tally.faults))


if __name__ == "__main__":
    sys.exit(main())
