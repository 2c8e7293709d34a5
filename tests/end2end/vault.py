"""Kills whoever encrypts, decrypts or rewrites a library, between any two of its steps and at any moment.

    python -m tests.end2end.vault --kills 500 --seed 1

After each kill the library must be as it was or as it was to be, open with the one passphrase that goes with
that, have everything in it, and, where it is encrypted, leave nothing in its folder that can be read.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from indexer.api import Locator
from indexer.document import Chunk
from indexer.errors import IndexerError
from indexer.store import FileUpdate, ModelKey, Store, vault
from indexer.store.cipher import Key
from indexer.store.vault import Header

MODEL = ModelKey("test-model", 32)
ROOT = "/home/somebody/Geheimordner"
NAME = "steuer-erklaerung.txt"
MARKER = "sesamoeffnedichmarker"
CHEAP = 16  # what scrypt costs here; what it costs a person is measured elsewhere
# What Python does to files, just before it does it.
_STEPS = {"open", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.mkdir"}
Lock = tuple[Header, Key] | None


def vector(text: str) -> np.ndarray:
    """The same unit vector for the same text, float32 (32,)."""
    numbers = np.random.default_rng(int.from_bytes(text.encode()[-8:], "big")).standard_normal(MODEL.dim)
    return (numbers / np.linalg.norm(numbers)).astype(np.float32)


def chunk(text: str) -> Chunk:
    """A passage with this text."""
    return Chunk(start=0, end=len(text), text=text, locator=Locator(), lang="en", tokens=3)


@contextlib.contextmanager
def opened(folder: Path, key: Key | None = None) -> Iterator[Store]:
    """A library's store with its model in use, and no Chroma."""
    store = Store(folder, key=key)
    store._use_chroma = False
    try:
        store.use_model(MODEL)
        yield store
    finally:
        store.close()


def text_of(number: int) -> str:
    """What the file with a number says."""
    return f"{MARKER} number {number}"


def fill(folder: Path, files: int, key: Key | None = None) -> None:
    """Put files into a library; and, where it is not encrypted, what else may lie about there."""
    with opened(folder, key) as store:
        store.add_root(ROOT)
        for first in range(0, files, 500):
            numbers = range(first, min(first + 500, files))
            chunks = [chunk(text_of(number)) for number in numbers]
            updates = [
                FileUpdate(
                    path=f"{ROOT}/{number}/{NAME}",
                    root=ROOT,
                    size=1,
                    mtime_ns=1,
                    content=number.to_bytes(16, "big"),
                    media="text",
                    code_language=None,
                    title=NAME,
                    chunks=(one,),
                )
                for number, one in zip(numbers, chunks, strict=True)
            ]
            store.replace(updates, {one.text_hash: vector(one.text) for one in chunks})
    if key is None:
        for name in ("chroma/x-1/uuid/data_level0.bin", "logs/service.log", "catalog.damaged/catalog.sqlite"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(vector(text_of(0)).tobytes() + MARKER.encode() + NAME.encode())
        (folder / "settings.toml").write_text("paused = true\n")


def secrets_in(folder: Path) -> list[str]:
    """What can be read in a data folder that must not be: where and what."""
    known = vector(text_of(0))
    wanted = {
        "text": MARKER.encode(),
        "name": NAME.encode(),
        "folder": Path(ROOT).name.encode(),
        "vector as stored": known.astype(np.float16).tobytes(),
        "vector": known.tobytes(),
        "word": MARKER[:12].encode(),
    }
    found = []
    for file in folder.rglob("*"):
        data = file.read_bytes() if file.is_file() and not file.is_socket() else b""
        found += [
            f"{what} in {file.relative_to(folder)}" for what, secret in wanted.items() if secret in data
        ]
    return found


def inspect(folder: Path, before: Lock, after: Lock, files: int) -> str:
    """Whether it is ``as before`` or ``as wanted``; anything else is an AssertionError."""
    vault.settle(folder)
    found = vault.header(folder)
    assert not vault.unfinished(folder)
    candidates = {"as before": before, "as wanted": after}
    which = [name for name, lock in candidates.items() if found == (None if lock is None else lock[0])]
    assert len(which) == 1, f"neither: {found}"
    lock = candidates[which[0]]
    with opened(folder, None if lock is None else lock[1]) as store:
        assert store.counts().files == files
        assert store.check() == []
        best = store.nearest(vector(text_of(files - 1)), 1)[0]
        assert best.cosine > 0.99
        assert store.chunks([best.chunk])[best.chunk].text == text_of(files - 1)
        if lock is not None:
            assert secrets_in(folder) == [], "while it is open"
    if lock is not None:
        assert secrets_in(folder) == [], "at rest"
        with contextlib.suppress(vault.LockedError), opened(folder):
            raise AssertionError("it opened without a key")
    left = {file.name for file in folder.iterdir()} & {vault.NEXT_FILE, vault.OLD_FILE, vault.PENDING_FILE}
    assert not left, left
    assert (folder / "settings.toml").read_text() == "paused = true\n"
    return which[0]


def killed(work: Callable[[], None], *, step: int = 0, after_s: float = 0.0) -> tuple[bool, int]:
    """Do something in a process of its own that is killed before its n-th step, or after some time.

    Returns:
        Whether it was killed, and, when it was not, how many steps there were.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        count = 0

        def hook(event: str, _: object) -> None:
            nonlocal count
            if event in _STEPS:
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            sys.addaudithook(hook)
            work()
            os.write(writing, str(count).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    if after_s:
        time.sleep(after_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    if os.WIFSIGNALED(status):
        return True, 0
    assert os.WEXITSTATUS(status) == 0, "the child failed"
    return False, int(told)


def changes() -> Iterator[tuple[str, Lock, Lock]]:
    """Every kind of change."""
    first = vault.new_header("the first passphrase", cost=CHEAP)
    second = vault.new_header("the second passphrase", cost=CHEAP)
    yield "on", None, first
    yield "passphrase", first, second
    yield "off", first, None


def prepare(folder: Path, lock: Lock, files: int) -> None:
    """A library with this lock."""
    fill(folder, files)
    if lock is not None:
        vault.convert(folder, None, *lock)


def change(folder: Path, before: Lock, after: Lock) -> Callable[[], None]:
    """What is killed."""
    key = None if before is None else before[1]
    return lambda: vault.convert(folder, key, *(after or (None, None)))


def run(kills: int, seed: int, many: int, base: Path) -> Counter[str]:
    """Kill so often; a third between steps, a third at any time, a third twice in a row.

    Args:
        kills: How often, about.
        seed: Of what is random.
        many: Files of the larger library.
        base: A folder for it all.
    """
    dice = random.Random(seed)
    told: Counter[str] = Counter()
    tried = 0
    for name, before, after in changes():
        small, large = base / f"{name}-small", base / f"{name}-large"
        prepare(small, before, 20)
        prepare(large, before, many)
        steps, took = 0, 0.0
        for source, files in ((small, 20), (large, many)):
            copy = base / "copy"
            shutil.copytree(source, copy)
            began = time.monotonic()
            _, steps = killed(change(copy, before, after))
            took = time.monotonic() - began
            assert inspect(copy, before, after, files) == "as wanted"
            shutil.rmtree(copy)
        goal = tried + kills // 3
        while tried < goal:
            kind = ("between steps", "at any time", "twice")[tried % 3]
            source, files = (large, many) if kind == "at any time" else (small, 20)
            copy = base / "copy"
            shutil.copytree(source, copy)
            if kind == "at any time":
                died, _ = killed(change(copy, before, after), after_s=dice.uniform(0.001, took))
            else:
                died, _ = killed(change(copy, before, after), step=dice.randint(1, steps))
            if kind == "twice":
                killed(partial(vault.settle, copy), step=dice.randint(1, 20))
            told[f"{name}: {inspect(copy, before, after, files)}"] += died
            told[f"kills {kind}"] += died
            tried += 1
            shutil.rmtree(copy)
    return told


def main() -> int:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--files", type=int, default=3000, help="of the library that is killed at any time")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as base:
        try:
            told = run(options.kills, options.seed, options.files, Path(base))
        except (AssertionError, IndexerError) as error:
            sys.stdout.write(f"FAILED: {error}\n")
            raise
    for what, count in sorted(told.items()):
        sys.stdout.write(f"{count:6d}  {what}\n")
    sys.stdout.write(
        f"nothing lost, nothing to be read; {time.monotonic() - began:.1f} s, seed {options.seed}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
