"""Kill the service at random moments of an indexing run; the index must end as if nothing had happened.

    python -m tests.end2end.kills FOLDER [--kills 20] [--seed 0]

Indexes FOLDER twice into libraries of their own: once undisturbed, once with SIGKILL sent to the
service, and now and then to a child of it, at random moments. Compares every visible chunk (path,
offsets, text), asks the store to check itself, and compares Chroma's answers with exact search.
Exits with 1 and says what differs when the two are not equal.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from indexer.client import IndexerClient
from indexer.embed.load import bundled_info
from indexer.embed.space import space_of
from indexer.errors import IndexerError
from indexer.store import ModelKey, Store

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


def kill_once(data: Path, folder: Path, rng: random.Random, longest: float) -> str:
    """Start the service, let it work for a random time, kill it or one of its children."""
    try:
        with IndexerClient(data) as client:
            with contextlib.suppress(IndexerError):
                client.add_folder(folder)
            service = psutil.Process(client.pid)
            deadline = time.monotonic() + rng.uniform(0, longest)
            for status in client.watch():
                if time.monotonic() >= deadline or status.state == "watching":
                    break
            children = service.children(recursive=True)
            if children and rng.random() < 0.25:
                victim = rng.choice(children)
                name = " ".join(victim.cmdline()[1:4])
                victim.kill()
                time.sleep(rng.uniform(0, 0.5))
                service.kill()
            else:
                name = "the service"
                os.kill(client.pid, signal.SIGKILL)
    except (IndexerError, psutil.NoSuchProcess) as error:
        return f"{type(error).__name__}: {error}"
    psutil.wait_procs([service, *children], timeout=30)
    return f"{name} at {status.files} files, {status.chunks} chunks, {status.waiting} waiting"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = options.folder.resolve()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="dragoman-kills-") as base:
        calm, rough = Path(base) / "calm", Path(base) / "rough"
        took = index(calm, folder)
        stop(calm)
        expected, wrong = visible(calm)
        print(f"undisturbed: {len(expected)} chunks in {took:.0f} s; check: {wrong or 'clean'}", flush=True)
        for number in range(1, options.kills + 1):
            print(f"kill {number}: {kill_once(rough, folder, rng, took * 2 / options.kills)}", flush=True)
        again = index(rough, folder)
        stop(rough)
        found, faults = visible(rough)
        print(f"after {options.kills} kills: {len(found)} chunks ({again:.0f} s to finish)")
        print(
            f"missing: {len(expected - found)}, surplus: {len(found - expected)}; check: {faults or 'clean'}"
        )
        for path, start, end, _ in sorted(expected ^ found)[:10]:
            print(f"  differs: {path} [{start}:{end}]")
        return int(bool(wrong or faults or expected != found))


if __name__ == "__main__":
    sys.exit(main())
