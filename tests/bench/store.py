"""How the store keeps up as a library grows: ``python -m tests.bench.store --sizes 10000,100000``.

One library grows through the sizes and is measured at each, through `Store` and its own Chroma child, without
a model: vectors are drawn around files and these around topics, texts are words drawn by Zipf's law. A file
has ten passages; its suffix has nothing to do with its topic, its folder has everything to do with it.

With ``--bulk`` what comes before the last ten thousand of a size is written straight into the catalog's
tables, without its words: much faster, and only the catalog's rate is then that of a small full-text index.

With ``--keep`` the library stays in the folder, and a later call goes on where this one ended. What was
measured lies beside it in ``results.json``.

``--upserts DIR DIR`` takes two such libraries and writes to both in turns, a hundred passages at a time:
how many a second are on the disk and found by a search, which they are before Chroma has them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from indexer.api import Locator
from indexer.document import Chunk
from indexer.query import Condition, Ext, In, Not
from indexer.store import FileUpdate, ModelKey, Store, vectors

ROOT = "/library"
BLOCK = 1000  # passages drawn at once
A_FILE = 10
A_COMMIT = 100
LAST = 10_000  # over which rates are taken
CENTRES = 500
TOPICS = 10  # folders
CHURN = 2000
ROUNDS = 4
K = 10
NEAR = 240  # what a search asks its pool for
WAIT_S = 3600.0
_CLOSE = 2e-4  # how far the half precision of the catalog may move a cosine

Rows = npt.NDArray[np.float32]

FILTERS: dict[str, tuple[Condition | None, Callable[[int, int], bool]]] = {
    "all": (None, lambda file, topic: True),
    "0.1 %": (Ext("rare"), lambda file, topic: file % 1000 == 0),
    "1 %": (Ext("few"), lambda file, topic: 1 <= file % 1000 <= 10),
    "10 %": (Ext("ten"), lambda file, topic: 11 <= file % 1000 <= 110),
    "50 %": (Ext("half"), lambda file, topic: 111 <= file % 1000 <= 610),
    "90 %": (Not(Ext("ten")), lambda file, topic: not 11 <= file % 1000 <= 110),
    "10 % by topic": (In(f"{ROOT}/topic0"), lambda file, topic: topic == 0),
}


def _suffix(file: int) -> str:
    for name, key in (("rare", "0.1 %"), ("few", "1 %"), ("ten", "10 %"), ("half", "50 %")):
        if FILTERS[key][1](file, 0):
            return name
    return "txt"


class Library:
    """Draws files, always the same ones, and remembers the true neighbours of some questions."""

    def __init__(self, dim: int, questions: int) -> None:
        self.dim = dim
        rng = np.random.default_rng(1)
        self._centres = _unit(rng.standard_normal((CENTRES, dim), np.float32))
        self._words = [
            "".join(chr(97 + int(c)) for c in rng.integers(0, 26, 4 + n % 8)) for n in range(50_000)
        ]
        shares = 1.0 / np.arange(10, 10 + len(self._words))
        self._shares = np.cumsum(shares / shares.sum())
        near = self._around(rng, self._centres[rng.integers(0, CENTRES, questions)])
        self.questions = self._around(rng, near)
        self.truth = {name: np.full((questions, K), -1.0, np.float32) for name in FILTERS}

    def _around(self, rng: np.random.Generator, centres: Rows) -> Rows:
        noise = rng.standard_normal(centres.shape, np.float32) * np.float32(0.6 / self.dim**0.5)
        return _unit(centres + noise)

    def block(self, number: int) -> tuple[list[FileUpdate], Rows]:
        """The files with passages from `number` thousand on, and the vectors of these."""
        rng = np.random.default_rng((2, number))
        files = BLOCK // A_FILE
        topics = rng.integers(0, CENTRES, files)
        rows = self._around(rng, np.repeat(self._around(rng, self._centres[topics]), A_FILE, axis=0))
        first = number * files
        told = [int(t) % TOPICS for t in topics]
        updates = [self._update(first + at, told[at], self._texts(rng)) for at in range(files)]
        for name, (_, holds) in FILTERS.items():
            kept = np.repeat([holds(first + at, told[at]) for at in range(files)], A_FILE)
            scores = np.concatenate([self.truth[name], self.questions @ rows[kept].T], axis=1)
            self.truth[name] = -np.partition(-scores, K - 1, axis=1)[:, :K]
        return updates, rows

    def changed(self, update: FileUpdate, file: int, turn: int) -> tuple[FileUpdate, Rows]:
        """A file with other contents, and their vectors."""
        rng = np.random.default_rng((3, turn, file))
        rows = self._around(rng, self._centres[np.full(A_FILE, file % CENTRES)])
        topic = int(update.path.split("/")[2].removeprefix("topic"))
        return self._update(file, topic, self._texts(rng)), rows

    def _texts(self, rng: np.random.Generator) -> list[str]:
        drawn = np.searchsorted(self._shares, rng.random((A_FILE, 40))).clip(0, len(self._words) - 1)
        return [" ".join(self._words[w] for w in row) for row in drawn.tolist()]

    @staticmethod
    def _update(file: int, topic: int, texts: Sequence[str]) -> FileUpdate:
        return FileUpdate(
            path=f"{ROOT}/topic{topic}/part{file // 1000}/file{file}.{_suffix(file)}",
            root=ROOT,
            size=4000,
            mtime_ns=1_700_000_000_000_000_000 + file,
            content=file.to_bytes(16, "big"),
            media="text",
            code_language=None,
            title="",
            chunks=tuple(
                Chunk(
                    start=at * 300,
                    end=at * 300 + len(text),
                    text=text,
                    locator=Locator(),
                    lang="en",
                    tokens=60,
                )
                for at, text in enumerate(texts)
            ),
        )


def _unit(rows: Rows) -> Rows:
    found: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


# --- one library, measured ----------------------------------------------------------------------


class Bench:
    """One growing library in a folder."""

    def __init__(self, folder: Path, dim: int, questions: int, *, bulk: bool = False) -> None:
        self._folder = folder
        self._bulk = bulk
        self._data = folder / "data"
        self._library = Library(dim, questions)
        self._model = ModelKey(f"bench-{dim}", dim)
        self._store = self._open()
        self._blocks = self._store.counts().chunks // BLOCK
        for number in range(self._blocks):  # the true neighbours among what is there already
            self._library.block(number)

    def _open(self) -> Store:
        store = Store(self._data)
        store.use_model(self._model)
        store.add_root(ROOT)
        return store

    def close(self) -> None:
        """End in good order."""
        self._store.close()

    def _write(self, blocks: int, *, bulk: bool = False) -> None:
        for _ in range(blocks):
            updates, rows = self._library.block(self._blocks)
            if bulk:
                self._pour(updates, rows)
            for low in () if bulk else range(0, len(updates), A_COMMIT // A_FILE):
                part = updates[low : low + A_COMMIT // A_FILE]
                self._put(part, rows[low * A_FILE : low * A_FILE + A_COMMIT])
            self._blocks += 1
            if self._blocks % 50 == 0:
                _note(f"{self._blocks * BLOCK:,} written")

    def _put(self, updates: Sequence[FileUpdate], rows: Rows) -> None:
        hashes = [chunk.text_hash for update in updates for chunk in update.chunks]
        self._store.replace(updates, dict(zip(hashes, rows, strict=True)))

    def _pour(self, updates: Sequence[FileUpdate], rows: Rows) -> None:
        """As `_put`, in one transaction and without a full-text index of the passages."""
        catalog, ledger = self._store._catalog, self._store.active.ledger
        with catalog.write() as (db, change):
            root = db.ask("SELECT id FROM roots")[0][0]
            text_id = max(
                db.ask(f"SELECT coalesce(max(id), 0) FROM {table}")[0][0] for table in ("texts", "free_texts")
            )
            texts = zip((c for u in updates for c in u.chunks), rows, strict=True)
            for update in updates:
                facts = (os.fsencode(update.path), root, update.size, update.mtime_ns, update.content, A_FILE)
                file = db.ask(
                    "INSERT INTO files(path, root, size, mtime_ns, content, status, media, chunks)"
                    " VALUES(?, ?, ?, ?, ?, 'indexed', 'text', ?) RETURNING id",
                    facts,
                )[0][0]
                for slot in range(A_FILE):
                    chunk, vector = next(texts)
                    text_id += 1
                    db.execute("INSERT INTO texts VALUES(?, ?, 1, 'en')", (text_id, chunk.text_hash))
                    db.execute("INSERT INTO touched VALUES(?)", (text_id,))
                    catalog.lexicon._place(text_id, "en")
                    ledger.put(db, change, text_id, chunk.text_hash, vector)
                    db.execute(
                        "INSERT INTO chunks(file, slot, text_id, start, end, lang, locator, context, text)"
                        " VALUES(?, ?, ?, ?, ?, 'en', '{}', '', ?)",
                        (file, slot, text_id, chunk.start, chunk.end, chunk.text),
                    )

    def upsert(self) -> tuple[float, float]:
        """Write a thousand passages; seconds by the clock and of processor time, Chroma's left out.

        Raises:
            RuntimeError: One of them was not found at once.
        """
        updates, rows = self._library.block(self._blocks)
        self._blocks += 1
        began, spent = time.perf_counter(), time.process_time()
        for low in range(0, len(updates), A_COMMIT // A_FILE):
            self._put(updates[low : low + A_COMMIT // A_FILE], rows[low * A_FILE : low * A_FILE + A_COMMIT])
        took = time.perf_counter() - began, time.process_time() - spent
        for at in (0, len(rows) // 2, len(rows) - 1):
            best = self._store.nearest(rows[at], 1)
            if not best or best[0].cosine < 1 - 2 * _CLOSE:
                raise RuntimeError("A passage was written and not found")
        return took

    @property
    def size(self) -> int:
        """How many passages there are."""
        return self._store.counts().chunks

    def _drained(self) -> None:
        if not self._store.wait_accelerator(WAIT_S):
            raise RuntimeError("Chroma did not keep up")

    def measure(self, size: int) -> dict[str, Any]:
        """Grow to a size and measure there."""
        row: dict[str, Any] = {"chunks": size, "load": round(os.getloadavg()[0], 1)}
        began = time.perf_counter()
        before = self._blocks
        self._write(max(0, (size - LAST) // BLOCK - self._blocks), bulk=self._bulk)
        self._drained()
        row["fill/s"] = (self._blocks - before) * BLOCK / max(1e-9, time.perf_counter() - began)
        _note(f"{size:,}: filled")
        # The last ten thousand: first the catalog alone, then Chroma alone.
        self._store.active.stop_accelerator()
        # Under new ids: one that had a vector before is moved within the graph, which takes longer.
        with self._store._catalog.write() as (db, _):
            db.execute("DELETE FROM free_texts")
        last = size // BLOCK - self._blocks
        began = time.perf_counter()
        self._write(last)
        row["catalog/s"] = last * BLOCK / (time.perf_counter() - began) if last > 0 else float("nan")
        self._store.close()
        self._store = self._open()
        while self._store.accelerator != "chroma" and last > 0 and size > LAST:
            time.sleep(0.02)
        began, spent = time.perf_counter(), _child_s()
        self._drained()
        row["upsert/s"] = last * BLOCK / (time.perf_counter() - began) if last > 0 else float("nan")
        row["upsert/cpu s"] = last * BLOCK / max(1e-9, _child_s() - spent) if last > 0 else float("nan")
        _note(f"{size:,}: rates taken")
        row["search"] = self._searches()
        row["graph"] = self._graph()
        row.update(self._churn())
        self._store.close()
        row["disk"] = _sizes(self._data)
        row["probe"] = _probe(self._folder, self._library.dim)
        self._store = self._open()
        self._drained()
        return row

    def _graph(self) -> tuple[float, float]:
        """Latency by Chroma's graph, also where comparing with every vector would be quicker."""
        known, vectors._ROW_US = vectors._ROW_US, 1e9
        try:
            took = []
            for query in self._library.questions:
                began = time.perf_counter()
                self._store.active.nearest(query, K)
                took.append(time.perf_counter() - began)
        finally:
            vectors._ROW_US = known
        return _ms(took)

    def _searches(self) -> dict[str, Any]:
        """Latency of the store's own two questions, by filter, and how much of the truth is found."""
        found: dict[str, Any] = {}
        index = self._store.active
        for query in self._library.questions[:20]:  # warm
            index.nearest(query, K)
        for name, (where, _) in FILTERS.items():
            began = time.perf_counter()
            index.nearest(self._library.questions[0], K, where=where)
            first = time.perf_counter() - began
            took, right = [], 0
            for query, truth in zip(self._library.questions, self._library.truth[name], strict=True):
                began = time.perf_counter()
                hits = index.nearest(query, K, where=where)
                took.append(time.perf_counter() - began)
                right += sum(hit.cosine >= truth[-1] - _CLOSE for hit in hits)
            pools = []
            for query in self._library.questions:
                began = time.perf_counter()
                index.pool(query, query, NEAR, where=where)
                pools.append(time.perf_counter() - began)
            found[name] = {
                "first": 1000 * first,
                "ms": _ms(took),
                "pool": _ms(pools),
                "recall": right / (K * len(took)),
            }
        return found

    def _churn(self) -> dict[str, Any]:
        """Replace the same files again and again, searching all the while."""
        truth = {name: rows.copy() for name, rows in self._library.truth.items()}
        files = [self._library.block(number)[0] for number in range(CHURN // BLOCK)]
        flat = [update for part in files for update in part]
        sizes = [sum(_sizes(self._data).values())]
        took: list[float] = []
        ended = threading.Event()
        stored = 0

        def search() -> None:
            index = self._store.active
            turn = 0
            while not ended.is_set():
                query = self._library.questions[turn % len(self._library.questions)]
                began = time.perf_counter()
                index.nearest(query, K)
                took.append(time.perf_counter() - began)
                turn += 1
                ended.wait(0.05)

        searching = threading.Thread(target=search)
        searching.start()
        began = time.perf_counter()
        try:
            for turn in range(ROUNDS):
                for low in range(0, len(flat), A_COMMIT // A_FILE):
                    part = [
                        self._library.changed(flat[at], at, turn)
                        for at in range(low, low + A_COMMIT // A_FILE)
                    ]
                    self._put([update for update, _ in part], np.concatenate([rows for _, rows in part]))
                    stored += A_COMMIT
                self._drained()
                sizes.append(sum(_sizes(self._data).values()))
        finally:
            ended.set()
            searching.join()
        spent = time.perf_counter() - began
        # The first contents again, whose vectors are still there; then what is out of use goes.
        for low in range(0, len(flat), A_COMMIT // A_FILE):
            self._store.replace(flat[low : low + A_COMMIT // A_FILE], {})
        while self._store._catalog.collect(older_than_s=0.0):
            pass
        for turn in range(ROUNDS, 2 * ROUNDS):
            for low in range(0, len(flat), A_COMMIT // A_FILE):
                part = [
                    self._library.changed(flat[at], at, turn) for at in range(low, low + A_COMMIT // A_FILE)
                ]
                self._put([update for update, _ in part], np.concatenate([rows for _, rows in part]))
            self._drained()
            sizes.append(sum(_sizes(self._data).values()))
            for low in range(0, len(flat), A_COMMIT // A_FILE):
                self._restore(flat[low : low + A_COMMIT // A_FILE], low)
            while self._store._catalog.collect(older_than_s=0.0):
                pass
        self._drained()
        self._library.truth = truth
        return {
            "busy": _ms(took),
            "churn/s": stored / spent,
            "churn bytes": [size - sizes[0] for size in sizes[1:]],
        }

    def _restore(self, updates: Sequence[FileUpdate], first: int) -> None:
        number = first * A_FILE // BLOCK
        _, rows = self._library.block(number)
        at = first * A_FILE % BLOCK
        self._put(updates, rows[at : at + len(updates) * A_FILE])


def _child_s() -> float:
    """Seconds of processor time of the Chroma child, which other work on the machine does not change much."""
    times = [child.cpu_times() for child in psutil.Process().children()]
    return float(sum(used.user + used.system for used in times))


def _ms(took: Sequence[float]) -> tuple[float, float]:
    p50, p95 = np.percentile(took, [50, 95])
    return 1000 * float(p50), 1000 * float(p95)


def _sizes(data: Path) -> dict[str, int]:
    """Bytes on disk, by what they are for."""
    found = {"catalog": 0, "matrix": 0, "chroma": 0}
    for file in data.rglob("*"):
        if file.is_file():
            kind = "chroma" if "chroma" in file.parts[len(data.parts)] else "catalog"
            kind = "matrix" if file.name.startswith("vectors-") else kind
            found[kind] += file.stat().st_blocks * 512
    return found


# --- opening and memory, in a process of their own --------------------------------------------------


def _probe(folder: Path, dim: int) -> dict[str, Any]:
    """Open the library in a process that does nothing else, its files out of the system's cache."""
    if hasattr(os, "posix_fadvise"):
        for file in (folder / "data").rglob("*"):
            if file.is_file():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
                    os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, "-m", "tests.bench.store", "--probe", str(folder), "--dims", str(dim)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def _memory(pid: int) -> dict[str, float]:
    """MB of a process: its own, and what it has mapped of files."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {
            name: int(line.split()[1]) / 1024
            for line in lines
            for name in ("RssAnon", "RssFile")
            if line.startswith(name)
        }
    except OSError:
        return {"RssAnon": psutil.Process(pid).memory_info().rss / 2**20, "RssFile": 0.0}


def _opened(folder: Path, dim: int) -> dict[str, Any]:
    """What is measured there."""
    rng = np.random.default_rng(5)
    bare = _memory(os.getpid())
    began = time.perf_counter()
    store = Store(folder / "data")
    store.use_model(ModelKey(f"bench-{dim}", dim))
    opened = time.perf_counter() - began
    open_memory = _memory(os.getpid())
    store.nearest(rng.standard_normal(dim).astype(np.float32), K)
    answered = time.perf_counter() - began
    while store.accelerator != "chroma":
        time.sleep(0.01)
    serving = time.perf_counter() - began
    for _ in range(50):
        store.nearest(rng.standard_normal(dim).astype(np.float32), K)
    searched = _memory(os.getpid())
    store.nearest(rng.standard_normal(dim).astype(np.float32), K, where=FILTERS["1 %"][0])
    filtered = _memory(os.getpid())
    store.active.rest()  # as a service does after a quiet minute
    rested = _memory(os.getpid())
    child = psutil.Process().children()[0]
    result = {
        "open_s": opened,
        "first_s": answered,
        "serving_s": serving,
        "bare": bare,
        "opened": open_memory,
        "searched": searched,
        "filtered": filtered,
        "rested": rested,
        "child": _memory(child.pid),
    }
    began = time.perf_counter()
    store.close()
    result["close_s"] = time.perf_counter() - began
    return result


# --- what is said --------------------------------------------------------------------------------


def _note(words: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {words}\n")
    sys.stderr.flush()


def _lines(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A Markdown table, one column a size."""

    def line(what: str, cell: Callable[[dict[str, Any]], str]) -> str:
        return "| " + " | ".join([what, *(cell(row) for row in rows)]) + " |"

    def pair(values: Sequence[float]) -> str:
        return f"{values[0]:.1f} / {values[1]:.1f}"

    yield line("passages", lambda r: f"{r['chunks']:,}")
    yield "|" + "---|" * (len(rows) + 1)
    yield line("load of the machine", lambda r: str(r["load"]))
    yield line("catalog, passages/s", lambda r: f"{r['catalog/s']:,.0f}")
    yield line("Chroma, upserts/s", lambda r: f"{r['upsert/s']:,.0f}")
    yield line("Chroma, upserts a second of processor time", lambda r: f"{r['upsert/cpu s']:,.0f}")
    yield line(f"nearest {K}, by Chroma at any rate: ms p50 / p95", lambda r: pair(r["graph"]))
    for name in FILTERS:
        for key, said in (("ms", f"nearest {K}"), ("pool", f"pool of {NEAR}")):
            yield line(f"{said}, {name}: ms p50 / p95", lambda r, n=name, k=key: pair(r["search"][n][k]))  # type: ignore[misc]
        yield line(f"recall@{K}, {name}", lambda r, n=name: f"{r['search'][n]['recall']:.4f}")  # type: ignore[misc]
        if FILTERS[name][0] is not None:
            yield line(f"first time, {name}: ms", lambda r, n=name: f"{r['search'][n]['first']:.0f}")  # type: ignore[misc]
    yield line(f"nearest {K} while files are replaced: ms p50 / p95", lambda r: pair(r["busy"]))
    yield line("passages replaced/s, searching meanwhile", lambda r: f"{r['churn/s']:,.0f}")
    yield line(
        f"disk after each of {ROUNDS} replacements of {CHURN:,}, MB",
        lambda r: " ".join(f"{b / 1e6:+.0f}" for b in r["churn bytes"][:ROUNDS]),
    )
    yield line(
        "the same, each after what is out of use was collected, MB",
        lambda r: " ".join(f"{b / 1e6:+.0f}" for b in r["churn bytes"][ROUNDS:]),
    )
    for kind in ("catalog", "matrix", "chroma"):
        yield line(f"disk, {kind}: MB", lambda r, k=kind: f"{r['disk'][k] / 1e6:,.0f}")  # type: ignore[misc]
    for key, said in (("open_s", "open"), ("first_s", "first answer"), ("serving_s", "Chroma serves")):
        yield line(f"cold: {said}, s", lambda r, k=key: f"{r['probe'][k]:.2f}")  # type: ignore[misc]
    yield line("close, s", lambda r: f"{r['probe']['close_s']:.2f}")
    for key in ("bare", "opened", "searched", "filtered", "rested", "child"):
        yield line(
            f"memory, {key}: own + mapped MB",
            lambda r, k=key: f"{r['probe'][k]['RssAnon']:.0f} + {r['probe'][k]['RssFile']:.0f}",  # type: ignore[misc]
        )


def _compare_upserts(small: Bench, large: Bench, rounds: int = 10) -> None:
    """Write to both libraries in turns, and print medians of the rates."""
    try:
        for bench in (small, large):
            bench.upsert()  # warm
        sizes = small.size, large.size
        took = np.array([[bench.upsert() for bench in (small, large)] for _ in range(rounds)])
    finally:
        for bench in (small, large):
            bench.close()
    clock, used = BLOCK / np.median(took, axis=0).T
    sys.stdout.write(
        f"{sizes[0]:,} and {sizes[1]:,} passages: {clock[0]:,.0f} and {clock[1]:,.0f} upserts/s, "
        f"{clock[1] / clock[0]:.2f}; a second of processor time {used[0]:,.0f} and {used[1]:,.0f}, "
        f"{used[1] / used[0]:.2f}; medians of {rounds}, load {os.getloadavg()[0]:.1f}\n"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="10000,100000", help="numbers of passages, in rising order")
    parser.add_argument("--dims", type=int, default=384)
    parser.add_argument("--quick", action="store_true", help="a third of the questions")
    parser.add_argument("--bulk", action="store_true", help="write most passages without their words")
    parser.add_argument("--keep", type=Path, help="where the library stays, to go on with")
    parser.add_argument("--upserts", type=Path, nargs=2, metavar="DIR", help="compare two kept libraries")
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        sys.stdout.write(json.dumps(_opened(options.probe, options.dims)))
        return
    if options.upserts:
        small, large = (Bench(folder, options.dims, 1) for folder in options.upserts)
        _compare_upserts(small, large)
        return
    with tempfile.TemporaryDirectory(prefix="dragoman-bench-") as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(folder, options.dims, 60 if options.quick else 200, bulk=options.bulk)
        rows = []
        try:
            for size in sorted(int(size) for size in options.sizes.split(",")):
                rows.append(bench.measure(size))
                (folder / "results.json").write_text(json.dumps(rows, indent=1))
                _note("\n" + "\n".join(_lines(rows)))
        finally:
            bench.close()
    sys.stdout.write("\n".join(_lines(rows)) + "\n")


if __name__ == "__main__":
    main()
