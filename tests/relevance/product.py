"""The program as people use it: ``dragoman index``, ``dragoman search --batch``, and its client."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.client import IndexerClient, find_service
from indexer.embed.load import bundled_info
from tests.relevance.scores import DEPTH

ROOT = Path(__file__).resolve().parents[2]
# What decides which passages a file is cut into and what is embedded of them.
_CUTTING = ("indexer/chunk", "indexer/extract", "indexer/segment.py", "indexer/document.py")


@dataclass(frozen=True)
class Indexed:
    """A folder of files that `index` has indexed.

    Attributes:
        data_dir: Where Dragoman keeps the library.
        folder: The files.
        seconds: What indexing took; 0 when an earlier index could be used.
    """

    data_dir: Path
    folder: Path
    seconds: float = 0.0


def _dragoman(*arguments: str) -> str:
    """Run the command line and return what it printed.

    Raises:
        RuntimeError: It failed; its message went to standard error.
    """
    program = str(Path(sys.executable).with_name("dragoman"))
    done = subprocess.run([program, *arguments], cwd=ROOT, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise RuntimeError(f"dragoman {' '.join(arguments)} ended with code {done.returncode}")
    return done.stdout.decode()


def cutting() -> str:
    """Names the present way of cutting files into passages, and the model."""
    digest = hashlib.blake2b(bundled_info().key.encode(), digest_size=8)
    for name in _CUTTING:
        place = ROOT / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


def index(folder: Path, data_dir: Path, content: str) -> Indexed:
    """Index a folder, or use the index that an earlier run made of the same files in the same way.

    Args:
        folder: The files.
        data_dir: Where to keep the library.
        content: Names the files' content, so that it is seen when it has changed.

    Raises:
        RuntimeError: Indexing failed.
    """
    stamp = data_dir.with_name(data_dir.name + ".json")
    before = json.loads(stamp.read_text(encoding="utf-8")) if stamp.exists() else None
    now = {"content": content, "cutting": cutting()}
    if before == now:
        return Indexed(data_dir, folder)
    stamp.unlink(missing_ok=True)
    stop(data_dir)
    if before is None or before["content"] != content:
        shutil.rmtree(data_dir, ignore_errors=True)
    else:
        # Passages that are the same as before keep their vectors for a while, and take no time.
        _dragoman("remove", str(folder), "--data-dir", str(data_dir))
    begun = time.perf_counter()
    _dragoman("index", str(folder), "--wait", "--data-dir", str(data_dir))
    seconds = time.perf_counter() - begun
    stop(data_dir)
    stamp.write_text(json.dumps(now), encoding="utf-8")
    return Indexed(data_dir, folder, seconds)


def stop(data_dir: Path) -> None:
    """End a library's service, so that its catalog can be read and the next one is of the present program."""
    if find_service(data_dir) is not None:
        with IndexerClient(data_dir, start=False, name="bench") as client:
            client.stop()


def ask(library: Indexed, queries: Sequence[str]) -> list[list[str]]:
    """What ``dragoman search --batch`` finds: for each query paths relative to the folder, best first."""
    stop(library.data_dir)
    file = library.data_dir.with_name(library.data_dir.name + ".queries.txt")
    file.write_text("".join(query + "\n" for query in queries), encoding="utf-8")
    try:
        printed = _dragoman(
            *("search", "--batch", str(file), "--json", "--limit", str(DEPTH)),
            *("--data-dir", str(library.data_dir)),
        )
    finally:
        file.unlink()
        stop(library.data_dir)
    folder = library.folder.absolute()
    return [
        [Path(hit["path"]).relative_to(folder).as_posix() for hit in json.loads(line)]
        for line in printed.splitlines()
    ]


@dataclass(frozen=True)
class Times:
    """Milliseconds of each search: all of it, and the part that embedding the query took."""

    took: tuple[float, ...]
    encode: tuple[float, ...]


def _until_ready(data_dir: Path) -> None:
    """Wait until everything is indexed, the model is loaded and Chroma serves.

    Raises:
        RuntimeError: The model cannot be loaded.
    """
    # A connection that watches is good for nothing else.
    with IndexerClient(data_dir, name="bench") as watcher:
        for status in watcher.watch():
            if status.encoder.state == "failed":
                raise RuntimeError(status.encoder.message)
            if status.state == "watching" and status.encoder.state == "ready" and status.index == "chroma":
                return


def clock(data_dir: Path, queries: Sequence[str], rounds: int = 1) -> Times:
    """Search with nothing else to do and note what the service says it took."""
    took, encode = [], []
    stop(data_dir)
    _until_ready(data_dir)
    with IndexerClient(data_dir, name="bench") as client:
        client.search(queries[0], limit=DEPTH, mark=False)  # the model is loaded now
        for _ in range(rounds):
            for query in queries:
                result = client.search(query, limit=DEPTH, mark=False)
                took.append(result.took_ms)
                encode.append(result.encode_ms)
    return Times(tuple(took), tuple(encode))
