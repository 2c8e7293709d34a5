"""What encryption costs: writing, starting, searching, turning it on, for libraries of several sizes.

    python -m tests.bench.vault --sizes 10000 100000 --seed 1

Vectors are random and texts are random words, so nothing here says how good a search is. "Start" is from
nothing to the first answer of the nearest passages, without the model. Plain libraries are searched exactly
here too; what Chroma makes of them is measured in `tests.bench.store`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from indexer.analysis import query_terms
from indexer.api import Locator
from indexer.document import Chunk
from indexer.store import FileUpdate, ModelKey, Store, vault
from indexer.store.cipher import Key

DIM = 384
ROOT = "/library"
_BATCH = 1000
_ASKED = 60
_WORDS = 60


def unit(numbers: np.random.Generator, count: int) -> np.ndarray:
    """Random unit vectors, float32 (count, DIM)."""
    rows = numbers.standard_normal((count, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


@contextmanager
def opened(folder: Path, key: Key | None) -> Iterator[Store]:
    """The store with its model in use and no Chroma."""
    store = Store(folder, key=key)
    store._use_chroma = False
    try:
        store.use_model(ModelKey("bench", DIM))
        yield store
    finally:
        store.close()


def fill(store: Store, first: int, last: int, seed: int) -> float:
    """Put passages into a library; how many a second."""
    numbers = np.random.default_rng((seed, first))
    words = [f"w{number:x}" for number in range(20_000)]
    store.add_root(ROOT)
    took = 0.0
    for low in range(first, last, _BATCH):
        count = min(_BATCH, last - low)
        picked = np.minimum(numbers.zipf(1.2, (count, _WORDS)), len(words)) - 1
        texts = [f"{low + at} " + " ".join(words[w] for w in row) for at, row in enumerate(picked)]
        chunks = tuple(
            Chunk(start=0, end=len(t), text=t, locator=Locator(), lang="en", tokens=_WORDS) for t in texts
        )
        update = FileUpdate(
            path=f"{ROOT}/{low}.txt",
            root=ROOT,
            size=low,
            mtime_ns=1,
            content=low.to_bytes(16, "big"),
            media="text",
            code_language=None,
            title="",
            chunks=chunks,
        )
        vectors = dict(zip((c.text_hash for c in chunks), unit(numbers, count), strict=True))
        began = time.perf_counter()
        store.replace([update], vectors)
        took += time.perf_counter() - began
    return (last - first) / took


def p50_95(work: Callable[[int], object]) -> str:
    """Milliseconds, median and 95th percentile."""
    took = []
    for at in range(_ASKED):
        began = time.perf_counter()
        work(at)
        took.append(1e3 * (time.perf_counter() - began))
    return f"{statistics.median(took):.1f}/{statistics.quantiles(took, n=20)[-1]:.1f}"


def measure(folder: Path, key: Key | None, seed: int, name: str) -> None:
    """Start and search; one line."""
    asked = unit(np.random.default_rng(seed), _ASKED)
    before = psutil.Process().memory_info().rss
    began = time.perf_counter()
    with opened(folder, key) as store:
        store.nearest(asked[0], 10)
        start = time.perf_counter() - began
        near = p50_95(lambda at: store.active.pool(asked[at], asked[at], 200))
        words = p50_95(lambda at: store.bm25(query_terms(f"w{300 + at:x} w{4000 + 7 * at:x}"), 50))
        memory = (psutil.Process().memory_info().rss - before) >> 20
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) >> 20
    say(f"{name:10} start {start:6.2f} s   pool {near:>11} ms   words {words:>10} ms   "
        f"memory +{memory} MiB   disk {size} MiB")  # fmt: skip


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    lock: list[tuple[vault.Header, Key]] = []
    took = timed(lambda: lock.append(vault.new_header("a passphrase of the bench")))
    header, key = lock[0]
    say(f"key from passphrase: {took:.2f} s, {128 * header.cost * header.block >> 20} MiB")
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as base:
            folder = Path(base) / "library"
            say(f"--- {size:,} passages of {_WORDS} words, {DIM} dimensions")
            with opened(folder, None) as store:
                say(f"written, plain: {fill(store, 0, size, options.seed):.0f} passages/s")
            measure(folder, None, options.seed, "plain")
            say(f"turned on in {timed(lambda: vault.convert(folder, None, header, key)):.1f} s")  # noqa: B023
            measure(folder, key, options.seed, "encrypted")
            with opened(folder, key) as store:
                more = fill(store, size, size + min(size, 10_000), options.seed)
                say(f"written, encrypted: {more:.0f} passages/s")
            say(f"turned off in {timed(lambda: vault.convert(folder, key, None, None)):.1f} s")  # noqa: B023


if __name__ == "__main__":
    main()
