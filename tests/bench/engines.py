"""How fast the engines behind the store's door are, side by side: `python -m tests.bench.engines`.

Random unit vectors in clusters, as embeddings lie; written in batches as the store writes them, then asked
one at a time. Prints a Markdown table: vectors written a second, milliseconds of a query for the 20 nearest
(median and 95th percentile), the share of the true 20 nearest that were found, seconds to open again, and
bytes a vector on disk.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from indexer.settings import ChromaServer
from indexer.store.chroma import OwnChroma
from indexer.store.chroma_server import ServerChroma
from indexer.store.engine import Engines
from indexer.store.faiss_engine import OwnFaiss
from tests.integration.test_chroma_server import Chroma

BATCH = 300
QUERIES = 200
K = 20

Rows = npt.NDArray[np.float32]


def unit(rows: npt.NDArray[np.float64]) -> Rows:
    found: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return found


def clustered(count: int, dim: int) -> tuple[Rows, Rows]:
    """Vectors, and queries that lie among them."""
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((max(1, count // 50), dim)))
    near = centres[rng.integers(0, len(centres), count + QUERIES)]
    rows = unit(near + rng.standard_normal(near.shape) * (0.8 / dim**0.5))
    return rows[:count], rows[count:]


def measure(engines: Engines, folder: Path, rows: Rows, queries: Rows, batch: int) -> list[str]:
    """One row of the table."""
    engine = engines.begin(lambda: None)
    engine.open(1, create=True)
    began = time.perf_counter()
    for first in range(0, len(rows), batch):
        part = rows[first : first + batch]
        engine.upsert(list(range(first, first + len(part))), part)
    rate = len(rows) / (time.perf_counter() - began)
    took, right = [], 0
    for number, query in enumerate(queries):
        began = time.perf_counter()
        found = engine.query(query, K, 60)[0]
        took.append(1000 * (time.perf_counter() - began))
        true = np.argpartition(-(rows @ query), K)[:K] if number % 4 == 0 else found
        right += len(np.intersect1d(found, true)) if number % 4 == 0 else 0
    engine.close()
    began = time.perf_counter()
    again = engines.begin(lambda: None)
    if again.open(1, create=False) != len(rows):
        raise RuntimeError("vectors are missing")
    reopened = time.perf_counter() - began
    again.close()
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    p50, p95 = np.percentile(took, [50, 95])
    recall = right / (K * len(range(0, len(queries), 4)))
    return [
        f"{rate:,.0f}",
        f"{p50:.1f} / {p95:.1f}",
        f"{recall:.3f}",
        f"{reopened:.1f}",
        f"{size / len(rows):,.0f}",
    ]


def engines_below(folder: Path) -> Iterator[tuple[str, Engines, Path]]:
    """Name, engine, and where it keeps its files; a server runs while its row is measured."""
    yield "own child", OwnChroma(folder / "own", "bench"), folder / "own"
    place = folder / "server"
    place.mkdir()
    server = Chroma(place)
    server.start()
    try:
        yield "`chroma run`", ServerChroma(ChromaServer(url=server.url), "0" * 16, "bench"), place
    finally:
        server.kill()
    yield "FAISS child", OwnFaiss(folder / "faiss", "bench"), folder / "faiss"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--batch", type=int, default=BATCH)
    chosen = parser.parse_args()
    write = sys.stdout.write
    write("| vectors | engine | written/s | query ms p50 / p95 | recall@20 | open s | bytes/vector |\n")
    write("|---|---|---|---|---|---|---|\n")
    for count in chosen.vectors:
        rows, queries = clustered(count, chosen.dimensions)
        with tempfile.TemporaryDirectory() as folder:
            for name, engines, place in engines_below(Path(folder)):
                cells = measure(engines, place, rows, queries, chosen.batch)
                write("| " + " | ".join([f"{count:,}", name, *cells]) + " |\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
