"""Measure the product and, in the same run, what it must beat: ``python -m tests.bench [--quick]``.

Everything that is compared is measured in turns, several times over, and compared by medians: on a shared
machine the ratios mean something, the figures less. The baseline is sentence-transformers with its defaults
and the same weights on the same passages, and for searches the plainest search with it: embed the query,
multiply with the matrix of all passages, sort.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from indexer.embed.load import bundled_info, load_encoder
from indexer.settings import Settings
from tests.bench import product
from tests.bench.passages import Library, make_library
from tests.end2end import corpus

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """One line of the table; a ratio above 1 means that the product is better."""

    what: str
    ours: str
    baseline: str = ""
    ratio: float | None = None


def main() -> None:
    """Measure, and print one table."""
    options = _options()
    begun = time.monotonic()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    info = bundled_info()
    queries = [question.query for question in corpus.questions()][:: 4 if options.quick else 2]
    with tempfile.TemporaryDirectory(prefix="dragoman-bench-") as scratch:
        work = Path(scratch)
        library = make_library(_source(options.corpus), work / "files", info, options.tokens)
        if not library.files:
            sys.exit(f"There are no files to index in {options.corpus}.")
        _say(f"{library.files} files, {len(library.texts)} passages, {library.tokens:,} tokens")
        rows = [*_measure(library, work, info.tokenizer.parent, queries, options)]
    report = _report(library, rows, options, time.monotonic() - begun)
    print(report)
    if options.json:
        options.json.write_text(
            json.dumps([vars(row) for row in rows], ensure_ascii=False, indent=1), encoding="utf-8"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small library, few repeats: about 3 minutes")
    parser.add_argument("--tokens", type=int, help="size of the library (60,000; 6,000 when quick)")
    parser.add_argument("--repeats", type=int, help="turns of each measurement (5; 3 when quick)")
    parser.add_argument(
        "--corpus", type=Path, help="a folder of files; by default tests.end2end.corpus, mixed"
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file too")
    parser.add_argument("--no-window", action="store_true", help="do not measure the window")
    options = parser.parse_args()
    options.tokens = options.tokens or (6_000 if options.quick else 60_000)
    options.repeats = options.repeats or (3 if options.quick else 5)
    return options


def _source(chosen: Path | None) -> Path:
    """The files to choose from: the corpus, and where that cannot be fetched this project's own files."""
    if chosen:
        return chosen
    try:
        return corpus.fetch() / "mixed"
    except RuntimeError as error:
        _say(f"{error}\nMeasuring with this project's own files instead.")
        return ROOT


def _measure(
    library: Library, work: Path, model: Path, queries: Sequence[str], options: argparse.Namespace
) -> list[Row]:
    from tests.bench.baseline import SentenceTransformers

    ours = load_encoder(Settings())
    baseline = SentenceTransformers(model)
    # Both have run once before anything is timed.
    ours.encode_passages(library.texts[:4])
    baseline.encode_passages(library.texts[:4])
    _say(f"models loaded; {options.repeats} turns")
    embed: list[float] = []
    embed_baseline: list[float] = []
    search_baseline: list[float] = []
    windows: list[float] = []
    runs: list[product.Run] = []
    cosine = 1.0
    for turn in range(options.repeats):
        took, vectors = _timed(ours.encode_passages, library.texts)
        embed.append(took)
        took, matrix = _timed(baseline.encode_passages, library.texts)
        embed_baseline.append(took)
        cosine = min(cosine, float((vectors * matrix).sum(1).min()))
        search_baseline += [_timed(baseline.search, query, matrix)[0] * 1e3 for query in queries]
        runs.append(product.measure(library.folder, work / f"library-{turn}", queries, rounds=1))
        if not options.no_window:
            windows.append(product.window_s(work / f"library-{turn}"))
        _say(
            f"turn {turn + 1}: embedding {library.tokens / embed[-1]:,.0f} against "
            f"{library.tokens / embed_baseline[-1]:,.0f} tokens/s, indexing {runs[-1].index_s:.1f} s"
        )
    return _rows(library, embed, embed_baseline, search_baseline, windows, runs, cosine)


def _timed(call: Any, *arguments: Any) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = call(*arguments)
    return time.perf_counter() - begun, result


def _rows(
    library: Library,
    embed: list[float],
    embed_baseline: list[float],
    search_baseline: list[float],
    windows: list[float],
    runs: list[product.Run],
    cosine: float,
) -> list[Row]:
    middle = statistics.median
    index = [run.index_s for run in runs]
    idle = [took for run in runs for took in run.idle_ms]
    busy = [took for run in runs for took in run.busy_ms]
    encode = [took for run in runs for took in run.encode_ms]
    # Turn by turn, so that what slowed one turn down slowed both sides of its ratio.
    faster = middle(theirs / own for theirs, own in zip(embed_baseline, embed, strict=True))
    whole = middle(theirs / own for theirs, own in zip(embed_baseline, index, strict=True))

    def rate(amount: float, took: Sequence[float]) -> str:
        return f"{amount / middle(took):,.1f}" if amount < 1000 else f"{amount / middle(took):,.0f}"

    def latency(took: Sequence[float]) -> str:
        return f"{np.percentile(took, 50):.0f} / {np.percentile(took, 95):.0f}"

    rows = [
        Row("embedding, tokens/s", rate(library.tokens, embed), rate(library.tokens, embed_baseline), faster),
        Row("  lowest cosine of the two's vectors", f"{cosine:.4f}"),
        Row("indexing, tokens/s (baseline: embedding only)", rate(library.tokens, index),
            rate(library.tokens, embed_baseline), whole),
        Row("indexing, files/s (baseline: embedding only)", rate(library.files, index),
            rate(library.files, embed_baseline), whole),
        Row("first answer after adding the folder, s", f"{middle(run.first_s for run in runs):.1f}"),
        Row("search when idle, ms p50 / p95", latency(idle), latency(search_baseline),
            float(np.median(search_baseline) / np.median(idle))),
        Row("  of which embedding the query", latency(encode)),
        Row("search while indexing, ms p50 / p95", latency(busy), latency(search_baseline),
            float(np.median(search_baseline) / np.median(busy))),
        Row("service ready after its start, s", f"{middle(run.ready_s for run in runs):.1f}"),
    ]  # fmt: skip
    if windows:
        rows.append(
            Row(
                "window: from start to typing, s (first / median)",
                f"{windows[0]:.2f} / {middle(windows):.2f}",
            )
        )
    for role in sorted({role for run in runs for role in run.memory}):
        pss, rss = (max(run.memory[role][at] for run in runs if role in run.memory) for at in (0, 1))
        rows.append(Row(f"memory, most, PSS / RSS MB: {role}", f"{pss:.0f} / {rss:.0f}"))
    own = psutil.Process().memory_info().rss / 1e6
    rows.append(Row("  this benchmark itself, both models loaded, RSS MB", "", f"{own:.0f}"))
    return rows


def _report(library: Library, rows: Sequence[Row], options: argparse.Namespace, took: float) -> str:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    head = [
        f"dragoman {version('dragoman')}, torch {version('torch')}, "
        f"sentence-transformers {version('sentence-transformers')}, Python {platform.python_version()}",
        f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 1e9:.0f} GB, "
        f"load {load:.1f}, {platform.platform()}",
        f"{library.files} files ({library.size / 1e6:.1f} MB), {len(library.texts)} passages, "
        f"{library.tokens:,} tokens, {options.repeats} turns, {took:.0f} s in all",
        "",
    ]
    width = max(len(row.what) for row in rows)
    lines = [f"{'':{width}}  {'dragoman':>16}  {'baseline':>16}  {'ratio':>6}"]
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        lines.append(f"{row.what:{width}}  {row.ours:>16}  {row.baseline:>16}  {ratio:>6}".rstrip())
    return "\n".join([*head, *lines])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # The yardstick's own deprecations are not ours to report.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="sentence_transformers")
    main()
