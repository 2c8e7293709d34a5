"""The product, driven as its users drive it: the service's client and the window's own process."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from indexer.client import IndexerClient

_WINDOW_DEADLINE_S = 120.0
_MEMORY_EVERY_S = 0.5
_SEARCH_EVERY_S = 0.5


@dataclass
class Run:
    """One fresh library, indexed and asked.

    Attributes:
        ready_s: From nothing running to an answer about the status.
        index_s: From adding the folder to the last file being searchable.
        first_s: From adding the folder to the first answer with a file in it.
        busy_ms: What searches took while files were indexed, in order.
        idle_ms: The same with nothing to do.
        encode_ms: Of `idle_ms`, embedding the query.
        memory: Most proportional (PSS) and resident (RSS) MB of a process of each role.
    """

    ready_s: float = 0.0
    index_s: float = 0.0
    first_s: float = 0.0
    files: int = 0
    chunks: int = 0
    busy_ms: list[float] = field(default_factory=list)
    idle_ms: list[float] = field(default_factory=list)
    encode_ms: list[float] = field(default_factory=list)
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)


def measure(folder: Path, data_dir: Path, queries: Sequence[str], rounds: int) -> Run:
    """Index a folder into a fresh library, searching all the while, then search with nothing to do.

    Raises:
        RuntimeError: Indexing came to nothing.
    """
    run = Run()
    begun = time.perf_counter()
    with IndexerClient(data_dir, name="bench") as client:
        # Whatever else this machine does, and although it is searched meanwhile.
        client.put_settings(msgspec.structs.replace(client.settings(), speed="full"))
        _until_ready(data_dir)
        run.ready_s = time.perf_counter() - begun
        try:
            with _memory(client.pid, run):
                _index(client, folder, data_dir, queries, run)
                for _ in range(rounds):
                    for query in queries:
                        _search(client, query, run.idle_ms, run.encode_ms)
        finally:
            client.stop()
    return run


def window_s(data_dir: Path) -> float:
    """Seconds from the start of the window's process until its search field can be typed into."""
    environment = {**os.environ, "QT_QPA_PLATFORM": "offscreen"}
    command = [sys.executable, "-m", "tests.bench.window", "--data-dir", str(data_dir)]
    begun = time.monotonic_ns()
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=_WINDOW_DEADLINE_S, check=False
    )
    # The service that the window asked for may only be starting; what is measured next must not share
    # the machine with it.
    with IndexerClient(data_dir, name="bench") as client:
        client.stop()
    stamp = done.stdout.split()
    if not stamp:
        raise RuntimeError(f"The window did not open:\n{done.stderr.strip()}")
    return (int(stamp[0]) - begun) / 1e9


def _until_ready(data_dir: Path) -> None:
    # A connection that watches is good for nothing else.
    with IndexerClient(data_dir, start=False, name="bench") as watcher:
        for status in watcher.watch():
            if status.encoder.state == "failed":
                raise RuntimeError(status.encoder.message)
            if status.encoder.state == "ready" and status.state != "starting":
                return


def _index(client: IndexerClient, folder: Path, data_dir: Path, queries: Sequence[str], run: Run) -> None:
    done = threading.Event()
    begun = time.perf_counter()

    def person() -> None:
        """Search now and then, as a person does while the library grows."""
        with IndexerClient(data_dir, start=False, name="bench") as asking:
            for query in itertools.cycle(queries):
                hits = _search(asking, query, run.busy_ms)
                if hits and not run.first_s:
                    run.first_s = time.perf_counter() - begun
                if done.wait(_SEARCH_EVERY_S):
                    return

    with IndexerClient(data_dir, start=False, name="bench") as watcher, ThreadPoolExecutor(1) as pool:
        client.add_folder(folder)
        searching = pool.submit(person)
        try:
            for status in watcher.watch():
                if status.state == "watching":
                    break
                if searching.done():
                    break
        finally:
            run.index_s = time.perf_counter() - begun
            done.set()
        searching.result()
    run.files, run.chunks = status.files, status.chunks
    if not run.files:
        raise RuntimeError("Nothing was indexed.")


def _search(client: IndexerClient, query: str, took: list[float], encode: list[float] | None = None) -> int:
    begun = time.perf_counter()
    result = client.search(query, limit=10, mark=False)
    took.append((time.perf_counter() - begun) * 1e3)
    if encode is not None:
        encode.append(result.encode_ms)
    return len(result.hits)


@contextlib.contextmanager
def _memory(pid: int, run: Run) -> Iterator[None]:
    """Note, twice a second, the most memory that the service and each of its children take."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(_MEMORY_EVERY_S):
            with contextlib.suppress(psutil.Error):
                service = psutil.Process(pid)
                for process in (service, *service.children(recursive=True)):
                    _note(process, run)

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        try:
            yield
        finally:
            done.set()
            looking.result()


def _note(process: psutil.Process, run: Run) -> None:
    with contextlib.suppress(psutil.Error):
        # Whether it was started with -m or -c, its command line names the module.
        role = next(iter(re.findall(r"indexer[.\w]+", " ".join(process.cmdline()))), process.name())
        used = process.memory_full_info()
        # PSS shares what processes share; only Linux tells it.
        now = (getattr(used, "pss", used.rss) / 1e6, used.rss / 1e6)
        before = run.memory.get(role, (0.0, 0.0))
        run.memory[role] = (max(before[0], now[0]), max(before[1], now[1]))
