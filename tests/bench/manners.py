"""What indexing leaves to others: ``python -m tests.bench.manners``.

A real service indexes real files at each speed in turns. Measured are its share of the processor, the
encoder's rate, and how long searches take meanwhile and with nothing else to do; then its memory without the
model, with it, and after it was let go, and how long the first search after that takes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from indexer import api
from indexer.client import IndexerClient
from indexer.embed.load import bundled_info
from indexer.manners import Governor
from indexer.settings import Settings
from indexer.settings import save as save_settings
from tests.bench.passages import make_library

CORPUS = Path(os.__file__).parent  # Python's own library
QUERIES = ("how to merge two lists", "die Heizung im Keller", "数据整理成表格", "where settings are stored")
SPEEDS: tuple[Literal["full", "balanced", "gentle"], ...] = ("full", "balanced", "gentle")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="folder of real files")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="so many tokens of them")
    parser.add_argument("--seconds", type=float, default=15.0, help="measured at each speed, each time")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    _say(f"load {os.getloadavg()[0]:.1f} on {psutil.cpu_count()} processors")
    with tempfile.TemporaryDirectory(prefix="dragoman-bench-") as scratch:
        work = Path(scratch)
        files = make_library(options.corpus, work / "files", bundled_info(), options.tokens)
        _say(f"{files.files} files, {files.tokens:,} tokens")
        _governor(work)
        _memory(work / "rest")
        _speeds(work / "data", files.folder, options.seconds, options.rounds)


def _governor(folder: Path) -> None:
    """What looking at the machine costs."""
    governor = Governor(Settings, folder)
    begun, rounds = time.process_time(), 500
    for _ in range(rounds):
        governor.look_again()
    each_ms = (time.process_time() - begun) * 1e3 / rounds
    _say(f"a look at the machine: {each_ms:.3f} ms of processor time, {each_ms * 1200:.0f} ms an hour")


def _memory(data: Path) -> None:
    """Memory without, with and after the model, and what the first search takes."""
    save_settings(data, Settings(unload_minutes=0.1))
    with IndexerClient(data, name="bench") as client:
        service = psutil.Process(client.pid)
        _until(client, lambda s: s.state == "watching")
        time.sleep(2)
        _say(f"started, never needed the model ({client.status().encoder.state}): {_use(service)}")
        for times in range(3):
            first = _search_ms(client, QUERIES[times])
            with_model = _use(service)
            warm = statistics.median(_search_ms(client, query) for query in QUERIES)
            _until(client, lambda s: s.encoder.state == "resting")
            time.sleep(1)
            _say(
                f"first search {first:,.0f} ms, next {warm:.0f} ms; with the model {with_model}; "
                f"after it was let go {_use(service)}"
            )
        client.stop()


def _speeds(data: Path, folder: Path, seconds: float, rounds: int) -> None:
    """What each speed takes of the processor while it indexes, and what searches take beside it."""
    found: dict[str, list[tuple[float, float, list[float]]]] = {speed: [] for speed in SPEEDS}
    idle: list[float] = []
    for turn in range(rounds):
        for speed in SPEEDS:
            own = data / f"{turn}-{speed}"
            save_settings(own, Settings(speed=speed))
            with IndexerClient(own, name="bench") as client:
                _search_ms(client, QUERIES[0])
                idle += [_search_ms(client, query) for query in QUERIES * 2]
                client.add_folder(folder)
                _until(client, lambda s: s.tokens_per_s > 0)
                found[speed].append(_watch(client, own, seconds))
                client.stop()
    _say(f"searches with nothing else to do: {_times(idle)}")
    for name, runs in found.items():
        share = statistics.median(run[0] for run in runs)
        rate = statistics.median(run[1] for run in runs)
        searches = _times([one for run in runs for one in run[2]])
        _say(f"{name:9} {share:5.2f} processors, {rate:6.0f} tokens/s; searches beside it {searches}")


def _watch(client: IndexerClient, data: Path, seconds: float) -> tuple[float, float, list[float]]:
    """Processors used and tokens a second without searches, then what searches take."""
    time.sleep(18)  # the searches of before are forgotten
    before, begun = _cpu_s(client.pid), time.monotonic()
    rates = []
    while time.monotonic() - begun < seconds:
        time.sleep(1)
        rates.append((status := client.status()).tokens_per_s)
        if not status.waiting:
            raise RuntimeError("Everything is indexed already; take more tokens.")
    share = (_cpu_s(client.pid) - before) / (time.monotonic() - begun)
    took: list[float] = []
    begun = time.monotonic()
    with IndexerClient(data, start=False, name="bench") as person:
        while time.monotonic() - begun < seconds:
            took.append(_search_ms(person, QUERIES[len(took) % len(QUERIES)]))
            time.sleep(0.2)
    return share, statistics.median(rates), took


def _search_ms(client: IndexerClient, query: str) -> float:
    begun = time.perf_counter()
    found = client.search(query, limit=10)
    if found.by_words and found.final:
        raise RuntimeError("The model cannot be used.")
    return (time.perf_counter() - begun) * 1e3


def _until(client: IndexerClient, condition: Callable[[api.Status], bool], limit_s: float = 180.0) -> None:
    ends = time.monotonic() + limit_s
    while not condition(status := client.status()):
        if time.monotonic() > ends:
            raise RuntimeError(f"It did not come to be: {msgspec.to_builtins(status)}")
        time.sleep(0.1)


def _cpu_s(pid: int) -> float:
    """Processor time of a process and its children, those that ended included."""
    process = psutil.Process(pid)
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        times = one.cpu_times()
        total += times.user + times.system + (times.children_user + times.children_system)
    return total


def _use(process: psutil.Process) -> str:
    full = process.memory_full_info()
    children = sum(one.memory_full_info().uss for one in process.children(recursive=True))
    return f"{full.rss >> 20} MiB ({full.uss >> 20} its own; children {children >> 20})"


def _times(took: list[float]) -> str:
    took = sorted(took)
    return f"p50 {took[len(took) // 2]:.0f} ms, p95 {took[int(len(took) * 0.95)]:.0f} ms ({len(took)})"


def _say(text: str) -> None:
    os.write(1, (text + "\n").encode())


if __name__ == "__main__":
    threading.current_thread().name = "bench"
    main()
