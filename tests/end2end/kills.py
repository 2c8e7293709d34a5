"""Kill the service, its children and clients at random moments; all must end as if nothing had happened.

    python -m tests.end2end.kills FOLDER [--kills 20] [--seed 0]

Works on a copy of FOLDER. Each round starts the service if need be, begins something, and sends SIGKILL at a
random moment of it:

    index     files are new, changed, renamed and deleted
    forget    another folder is indexed and removed again, which erases it and compacts the search index
    check     `dragoman check --repair`
    switch    another model's index is built and takes over
    upgrade   the data folder is one of an earlier schema
    client    the window, or a command, is the victim; the service must go on

The victim is the service, its Chroma, a child that reads files, or whatever other child it has. Where a child
dies, the service must live on. At the end the folder is indexed once more, undisturbed, into a library of its
own, and every visible chunk (path, offsets, text) is compared; `dragoman check` must find nothing; and the
raw files of the data folder must not hold a word of the folder that was removed. Another folder is never
touched: before each round its files and passages must be in the library as acknowledged, before anything is
indexed again.

Exits with 1 and says what differs, or what went wrong on the way.
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
from collections.abc import Callable
from pathlib import Path

import psutil

from indexer import api
from indexer.client import IndexerClient, find_service
from indexer.embed.bundled import NAME as BUNDLED
from indexer.embed.load import bundled_info
from indexer.embed.space import space_of
from indexer.errors import IndexerError
from indexer.store import ModelKey, Store
from indexer.store.database import CATALOG_FILE, Database
from tests import tiny_models

Chunks = set[tuple[str, int, int, str]]


def index(data: Path, folder: Path) -> float:
    """Index a folder without disturbance; seconds it took."""
    began = time.monotonic()
    with IndexerClient(data) as client:
        client.add_folder(folder)
        for status in client.watch():
            if status.state == "watching":
                break
    return time.monotonic() - began


def stop(data: Path) -> None:
    with IndexerClient(data, start=False) as client:
        client.stop()


def visible(data: Path) -> tuple[Chunks, list[str]]:
    """Every visible chunk of a stopped library, and what the store finds wrong with itself."""
    store = Store(data)
    try:
        info = bundled_info()
        store.use_model(ModelKey(key=info.key, dim=info.dim), space_of(info.key))
        wanted = store.counts().chunks
        found: Chunks = set()
        first = 1
        while len(found) < wanted and first < 10_000_000:
            rows = store.chunks(range(first, first + 1000))
            found |= {(row.path, row.start, row.end, row.text) for row in rows.values()}
            first += 1000
        if not store.wait_accelerator(300):
            return found, ["Chroma did not catch up within 300 s"]
        return found, store.check()
    finally:
        store.close()


# --- one kill ------------------------------------------------------------------------------------

SECRET = "Quastenflosser"
# How a data folder becomes one of an earlier schema again.
UNDO = {
    7: "DROP TABLE volumes",
    6: "ALTER TABLE vectors DROP COLUMN crc; DELETE FROM meta WHERE key = 'unsummed'",
}
# Somebody who waits for so long is told of at the end; for so long, and it is a fault. Erasing may take five
# minutes in a library that never comes to rest.
SLOW_S, STUCK_S = 30.0, 400.0
VICTIMS = ("chroma_child", "workers", "openvino_child")


class Rough:
    """The library that is not left in peace.

    Args:
        base: A folder for everything.
        folder: What is indexed; it is copied.
        model: A second, tiny model.
        rng: What is random.
    """

    def __init__(self, base: Path, folder: Path, model: Path, rng: random.Random) -> None:
        self.data, self.files, self.secret = base / "rough", base / "files", base / "secret"
        self.model, self.rng = model, rng
        self.faults: list[str] = []
        self.slow: list[str] = []
        self.seen = ""  # the last status that somebody waited over
        self.killed: Counter[str] = Counter()
        shutil.copytree(folder, self.files)
        self.kept = base / "kept"
        self.kept.mkdir()
        for number in range(6):
            text = f"Number {number} of what nobody touches is about lamps, boats and bread. " * (5 + number)
            (self.kept / f"{number}.txt").write_text(text, encoding="utf-8")
        self.acknowledged: tuple[int, int] | None = None
        self.secret.mkdir()
        for number in range(8):
            text = f"The {SECRET} number {number} lives in the deep sea. " * 30
            (self.secret / f"{SECRET} {number}.txt").write_text(text, encoding="utf-8")
        self.scenes: dict[str, Callable[[IndexerClient], None]] = {
            "index": self.index,
            "forget": self.forget,
            "check": self.check,
            "switch": self.switch,
            "upgrade": self.index,
            "client": self.index,
        }

    def once(self, number: int) -> str:
        """One round; what happened in it, in words."""
        scene = self.rng.choices(list(self.scenes), (30, 20, 20, 12, 8, 10))[0]
        if scene == "upgrade":
            self.set_back()
        patience = self.rng.choice((0.3, 2.0, 10.0)) * self.rng.random()
        try:
            with IndexerClient(self.data) as client:
                self.lost(client)
                if scene == "client":
                    return f"{number} {scene}: {self.kill_client(client, patience)}"
                beside = threading.Thread(target=self.play, args=(self.scenes[scene],), daemon=True)
                beside.start()
                time.sleep(patience)
                what = self.kill(client)
            for patience_s in (SLOW_S, STUCK_S - SLOW_S):
                beside.join(patience_s)
                if beside.is_alive():
                    self.slow.append(f"{number} {scene}: {what}; still waiting: {self.seen}")
            if beside.is_alive():
                self.faults.append(f"{number} {scene}: whoever asked still waits after {STUCK_S:.0f} s")
        except (IndexerError, psutil.NoSuchProcess) as error:
            self.faults.append(f"{number} {scene}: {type(error).__name__}: {error}")
            return self.faults[-1]
        self.killed[what.split()[0]] += 1
        return f"{number} {scene}: {what} after {patience:.2f} s"

    def keep(self) -> None:
        """Have the folder that nobody touches indexed, and note what was acknowledged of it."""
        index(self.data, self.kept)
        with IndexerClient(self.data) as client:
            (folder,) = client.folders()
        self.acknowledged = folder.files, folder.chunks

    def lost(self, client: IndexerClient) -> None:
        """Note whether a folder is gone, or something of the one that nobody touches."""
        there = {Path(folder.path): folder for folder in client.folders()}
        if self.files not in there:
            self.faults.append("the folder is not in the library any more")
        kept = there.get(self.kept)
        if kept is None or (kept.files, kept.chunks) != self.acknowledged:
            self.faults.append(f"of {self.acknowledged} acknowledged there is left: {kept}")

    def play(self, scene: Callable[[IndexerClient], None]) -> None:
        """Begin something through a connection of its own, which may be cut at any moment."""
        with contextlib.suppress(IndexerError, OSError), IndexerClient(self.data, start=False) as client:
            scene(client)

    def index(self, client: IndexerClient) -> None:
        """Change files in every way, and have them indexed."""
        files = sorted(file for file in self.files.rglob("*") if file.is_file())
        for file in self.rng.sample(files, min(len(files), 6)):
            how = self.rng.random()
            if how < 0.4:
                with file.open("a", encoding="utf-8") as handle:
                    handle.write(f"\nAdded line {self.rng.random()}.\n")
            elif how < 0.6:
                file.rename(file.with_name(f"moved {self.rng.randrange(1000)} {file.name[-40:]}"))
            elif how < 0.8:
                shutil.copy(file, file.with_name(f"copy {self.rng.randrange(1000)} {file.name[-40:]}"))
            elif len(files) > 20:
                file.unlink()
        client.add_folder(self.files)
        for status in client.watch():
            if status.state == "watching":
                return

    def forget(self, client: IndexerClient) -> None:
        """Index another folder and take it out again; wait until it is erased."""
        if any(Path(folder.path) == self.secret for folder in client.folders()):
            client.remove_folder(self.secret)
        client.add_folder(self.secret)
        until = time.monotonic() + self.rng.uniform(0, 4)
        for status in client.watch():
            if status.state == "watching" or time.monotonic() > until:
                break
        with IndexerClient(self.data, start=False) as other:
            other.remove_folder(self.secret)
            for status in other.watch():
                told = "; ".join(notice.title for notice in status.notices)
                self.seen = f"{status.state}, {status.waiting} files wait, {status.index}, {told}"
                if not told:
                    return

    def check(self, client: IndexerClient, *, settled: bool = False) -> None:
        """Check, and repair unless all has settled; no kill may have left anything to repair."""
        with contextlib.closing(client.check(repair=not settled)) as messages:
            for message in messages:
                if isinstance(message, api.Checked):
                    parts = [d for d in message.differences if settled or d.part != "files"]
                    wrong = [d for d in parts if not d.harmless or (settled and d.part == "files")]
                    self.faults += [f"check: {d.count} {d.what}" for d in wrong]

    def switch(self, client: IndexerClient) -> None:
        """Build the index of the other model, and have it take over."""
        active = {model.reference: model.state for model in client.models()}
        other = BUNDLED if active.get(str(self.model)) == "active" else str(self.model)
        client.use_model(other)
        for status in client.watch():
            if status.switch is None:
                return

    def set_back(self) -> None:
        """Make the data folder one of an earlier schema."""
        for _ in range(100):
            if not self.alive():
                break
            with contextlib.suppress(IndexerError):
                stop(self.data)
        file = self.data / CATALOG_FILE
        if file.exists():
            db = Database(str(file))
            for version in range(db.pragma("user_version"), min(UNDO) - 1, -1):
                with db:
                    db.execute(UNDO[version])
                    db.pragma("user_version", version - 1)
            db.close()

    def alive(self) -> bool:
        """Whether a service runs."""
        return find_service(self.data) is not None

    def kill(self, client: IndexerClient) -> str:
        """Kill the service or one of its children; who it was."""
        service = psutil.Process(client.pid)
        children = service.children(recursive=True)
        victims = {_name(child): child for child in children if _name(child)}
        if victims and self.rng.random() < 0.45:
            name = self.rng.choice(sorted(victims))
            victims[name].kill()
            time.sleep(self.rng.uniform(0, 0.5))
            if not service.is_running() or service.status() == psutil.STATUS_ZOMBIE:
                self.faults.append(f"the service died of the loss of its {name}")
            elif self.rng.random() < 0.5:
                return f"{name} child"
            service.kill()
            name += "+service"
        else:
            name = "service"
            os.kill(client.pid, signal.SIGKILL)
        psutil.wait_procs([service, *children], timeout=60)
        return name

    def kill_client(self, client: IndexerClient, patience: float) -> str:
        """Kill a window or a command in the middle of what it does; the service must answer all the same."""
        window = self.rng.random() < 0.5
        words = (
            ["-m", "desktop"] if window else ["-c", "from indexer.cli import main; main()", "search", "sea"]
        )
        victim = subprocess.Popen(
            [sys.executable, *words, "--data-dir", str(self.data)],
            env={**os.environ, "QT_QPA_PLATFORM": "offscreen"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(patience)
        victim.kill()
        victim.wait()
        pid = client.pid
        client.status()
        with IndexerClient(self.data) as other:
            if other.pid != pid:
                self.faults.append("the service ended with its client")
        name = "window" if window else "command"
        self.killed[name] += 1
        return f"{name} after {patience:.2f} s"

    def settle(self) -> None:
        """Let everything be finished, with the bundled model, and without the folder to be forgotten."""
        with IndexerClient(self.data) as client:
            with contextlib.suppress(IndexerError):
                client.remove_folder(self.secret)
            client.add_folder(self.files)
            client.use_model(BUNDLED)
            for status in client.watch():
                if status.state == "watching" and status.switch is None and not status.notices:
                    break
        with IndexerClient(self.data) as client:
            # A service that has just begun says so for a moment before it has looked at the first folder.
            calm = 0
            while calm < 5:
                status = client.status()
                calm = calm + 1 if status.state == "watching" and not status.waiting else 0
                time.sleep(0.5)
            self.lost(client)
            self.check(client, settled=True)

    def traces(self) -> list[str]:
        """Files of the data folder in which the folder that was removed is still to be read."""
        needles = [form.encode() for form in (SECRET, SECRET[1:].lower())]
        files = [file for file in self.data.rglob("*") if file.is_file()]
        return [file.name for file in files if any(needle in file.read_bytes() for needle in needles)]


def _name(process: psutil.Process) -> str:
    """What kind of child it is, by its program; empty for one that is none of ours."""
    with contextlib.suppress(psutil.Error):
        words = " ".join(process.cmdline())
        return next((name for name in VICTIMS if name in words), "child" if words else "")
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dragoman-kills-") as folder:
        base = Path(folder).resolve()
        model = tiny_models.sentence("qwen3", base / "models" / "tiny-qwen3")
        rough = Rough(base, options.folder.resolve(), model, random.Random(options.seed))
        with (
            IndexerClient(rough.data) as client,
            contextlib.closing(client.install_model(str(model))) as installing,
        ):
            for _ in installing:
                pass
        rough.keep()
        with IndexerClient(rough.data) as client:
            client.add_folder(rough.files)
        for number in range(1, options.kills + 1):
            print(rough.once(number), flush=True)
        rough.settle()
        stop(rough.data)
        found, faults = visible(rough.data)
        kept = {chunk for chunk in found if chunk[0].startswith(f"{rough.kept}/")}
        found -= kept
        if len(kept) != (rough.acknowledged or (0, 0))[1]:
            faults.append(f"{len(kept)} passages of {rough.acknowledged} that nobody touched")
        traces = rough.traces()
        calm = base / "calm"
        took = index(calm, rough.files)
        stop(calm)
        expected, wrong = visible(calm)
        print(
            f"{options.kills} kills in {time.monotonic() - began:.0f} s, seed {options.seed}: "
            + ", ".join(f"{count} of {name}" for name, count in sorted(rough.killed.items()))
        )
        print(f"a fresh index: {len(expected)} chunks in {took:.0f} s; check: {wrong or 'clean'}")
        print(
            f"after the kills: {len(found)} chunks; missing: {len(expected - found)}, "
            f"surplus: {len(found - expected)}; check: {faults or 'clean'}"
        )
        print(f"traces of what was removed: {traces or 'none'}")
        for path, start, end, _ in sorted(expected ^ found)[:10]:
            print(f"  differs: {path} [{start}:{end}]")
        for slow in rough.slow:
            print(f"  slow: {slow}")
        for fault in rough.faults:
            print(f"  fault: {fault}")
        return int(bool(wrong or faults or traces or rough.faults or expected != found))


if __name__ == "__main__":
    sys.exit(main())
