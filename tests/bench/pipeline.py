"""How close a whole index run comes to the encoder's time alone: ``python -m tests.bench.pipeline``.

In turns: a fresh library indexes real files, everything included (children that read them, cutting, the
catalog, Chroma); then the same encoder, in the same process, embeds the same passages in one go. A run can
take no less than that, so the ratio says what reading, cutting and storing cost on top of embedding.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from indexer.embed.load import bundled_info
from indexer.library import Library
from indexer.settings import Settings
from indexer.settings import save as save_settings
from tests.bench.passages import Library as Files
from tests.bench.passages import make_library
from tests.bench.rescan import cpu_s

ROOT = Path(__file__).resolve().parents[2]
_LOOK_S = 0.05


@dataclass
class Run:
    """One fresh library.

    Attributes:
        wall_s: From adding the folder until nothing waits.
        busy_s: Of it, the encoder at work.
        first_s: Until the encoder had its first text.
        longest_gap_s: Longest time in between in which it had none.
        alone_s: The encoder with all passages in one go.
        cpu_s: Processor time of the run, children included.
        alone_cpu_s: The same of embedding alone. Where others use the machine too, this ratio says more than
            that of the times.
    """

    wall_s: float
    busy_s: float
    first_s: float
    longest_gap_s: float
    alone_s: float
    cpu_s: float
    alone_cpu_s: float
    memory_mb: float


def measure(files: Files, data: Path) -> Run:
    """Index the files into a fresh library, then embed their passages with the same encoder."""
    save_settings(data, Settings(speed="full"))  # whatever else this machine does
    library = Library(data)
    library.start()
    try:
        encoder = library.encoder
        encoder.passages(["Something to load the model for."]).result()
        process = psutil.Process()
        memory, busy_before = 0.0, encoder.busy_seconds
        cpu = cpu_s()
        begun = last = time.perf_counter()
        first = gap = 0.0
        seen = busy_before
        library.add_folder(str(files.folder))
        while not library.pipeline.idle:
            time.sleep(_LOOK_S)
            now, busy = time.perf_counter(), encoder.busy_seconds
            if busy > seen:
                first = first or now - begun
                seen, last = busy, now
            elif first:
                gap = max(gap, now - last)
            memory = max(memory, process.memory_info().rss / 1e6)
        wall, busy = time.perf_counter() - begun, encoder.busy_seconds - busy_before
        cpu_used, counts = cpu_s() - cpu, library.store.counts()
        if busy == 0:
            raise RuntimeError(f"Nothing was embedded: {counts}, {library.store.problems(limit=1)}")
        library.store.wait_accelerator(60)
        begun, cpu = time.perf_counter(), time.process_time()
        encoder.passages(files.texts).result()
        alone = time.perf_counter() - begun
        return Run(wall, busy, first, gap, alone, cpu_used, time.process_time() - cpu, memory)
    finally:
        library.close()


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.pipeline", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--folder", type=Path, default=ROOT, help="where to take files from (this project)")
    parser.add_argument("--tokens", type=int, default=40_000, help="how much of it")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dragoman-bench-") as scratch:
        work = Path(scratch)
        files = make_library(options.folder, work / "files", bundled_info(), options.tokens)
        print(f"{files.files} files, {len(files.texts)} passages, {files.tokens:,} tokens")
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(
            "wall s  encoder busy s  alone s  wall/alone  busy share after the first text  first text s"
            "  longest gap s  CPU s  CPU alone s  CPU/CPU alone  MB"
        )
        runs = []
        for turn in range(options.turns):
            run = measure(files, work / f"data-{turn}")
            runs.append(run)
            print(
                f"{run.wall_s:6.1f}  {run.busy_s:14.1f}  {run.alone_s:7.1f}  {run.wall_s / run.alone_s:10.2f}"
                f"  {run.busy_s / (run.wall_s - run.first_s):31.2f}  {run.first_s:12.2f}"
                f"  {run.longest_gap_s:13.2f}  {run.cpu_s:5.1f}  {run.alone_cpu_s:11.1f}"
                f"  {run.cpu_s / run.alone_cpu_s:13.2f}  {run.memory_mb:.0f}",
                flush=True,
            )
        ratio = statistics.median(run.wall_s / run.alone_s for run in runs)
        cpu = statistics.median(run.cpu_s / run.alone_cpu_s for run in runs)
        print(f"medians: wall/alone {ratio:.2f}, CPU/CPU alone {cpu:.2f}; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
