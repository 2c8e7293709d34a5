"""Measure how well Dragoman finds: ``python -m tests.relevance [--quick]``, or ``make bench-relevance``.

Prints tables as it goes and writes all figures into one JSON file. What is measured and how is told in
docs/RELEVANCE.md. The first run embeds everything and takes long; indexes are kept for the next one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from indexer.embed.load import bundled_info
from tests.relevance import books, code, large, library, product
from tests.relevance.books import Book
from tests.relevance.library import Question
from tests.relevance.methods import Answers, Remembering, Usual, passages, steps
from tests.relevance.scores import NONE, NOTHING, Report, Score, report
from tests.relevance.tables import pairs, plain, say, ways

SHIPPED = "Dragoman as shipped"
COSINE = "raw cosine"
BM25 = "BM25"
HYBRID = ("raw cosine + BM25, reciprocal ranks", "raw cosine + BM25, standard scores")
SEEDS = (0, 1, 2)
QUICK_BOOKS = ("debian-reference", "debian-faq")
SINGLE = ("en", "de", "zh-cn")
FUNCTIONS, QUICK_FUNCTIONS = 2000, 400
PARTS = ("books", "single", "code", "speed", "large")


def main() -> None:
    """Measure what the options ask for."""
    options = _options()
    begun = time.monotonic()
    bench = Bench(options)
    for part in options.parts:
        getattr(bench, part)()
    bench.verdicts()
    say(f"\nAll of it took {(time.monotonic() - begun) / 60:.0f} minutes; figures in {options.json}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.relevance", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--quick", action="store_true", help="one seed, two books, fewer functions, no large library"
    )
    parser.add_argument(
        "--limit", type=int, default=0, help="at most so many sections of a book, and functions"
    )
    parser.add_argument("--books", nargs="+", choices=list(books.BOOKS), help="only these")
    parser.add_argument(
        "--seeds", nargs="+", type=int, help="the libraries that are drawn, 0 1 2 unless given"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, help=f"only these of: {', '.join(PARTS)}")
    parser.add_argument(
        "--json", type=Path, default=books.cache() / "figures.json", help="where the figures go"
    )
    options = parser.parse_args()
    options.books = options.books or (QUICK_BOOKS if options.quick else list(books.BOOKS))
    options.seeds = options.seeds or ((0,) if options.quick else SEEDS)
    options.parts = options.parts or [part for part in PARTS if not (options.quick and part == "large")]
    return options


class Bench:
    """One run, with everything it found out."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._figures: dict[str, Any] = {"machine": _machine(), "packages": {}}
        self._verdicts: list[tuple[str, bool]] = []

    @cached_property
    def _encoder(self) -> Remembering:
        return Remembering()

    def _keep(self, *place: str, value: object) -> None:
        """Note figures and write all of them, so that a run that is cut short has told what it knew."""
        at = self._figures
        for name in place[:-1]:
            at = at.setdefault(name, {})
        at[place[-1]] = value
        file: Path = self._options.json
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(self._figures, indent=1), encoding="utf-8")

    def _require(self, what: str, met: bool) -> None:
        """Hold a figure against what it must reach; only whole runs are held to anything."""
        if not self._options.limit:
            self._verdicts.append((what, met))

    def verdicts(self) -> None:
        """What had to be reached, and whether it was."""
        if self._verdicts:
            say("\n## What it must reach\n")
        for what, met in self._verdicts:
            say(f"{'reached' if met else 'MISSED '}  {what}")
        self._keep("verdicts", value=dict(self._verdicts))

    # --- libraries ---------------------------------------------------------------------------

    def _library(
        self, name: str, content: str, make: Callable[[Path], list[Question]]
    ) -> tuple[product.Indexed, list[Question]]:
        """A library of that name, indexed, and what is asked of it."""
        if self._options.limit:
            name, content = f"{name}-{self._options.limit}", f"{content} {self._options.limit}"
        target = books.cache() / "libraries" / name
        questions = library.prepare(target, content, make)
        indexed = product.index(target / "library", books.cache() / "indexes" / name, content)
        return indexed, questions

    def _sections(self, book: Book) -> tuple[str, list[books.Section]]:
        """What names the sections, and the sections."""
        found = books.sections(book)
        versions = books.versions(book)
        self._keep("packages", book.name, value=versions)
        return f"{book.name} {books.LAYOUT} {sorted(versions.items())}", found

    def _mixed(self, book: Book, seed: int) -> tuple[product.Indexed, list[Question]]:
        content, sections = self._sections(book)
        return self._library(
            f"{book.name}-{seed}",
            f"{content} seed {seed}",
            lambda target: library.mixed(sections, target, seed, self._options.limit),
        )

    def _one_language(self, book: Book, lang: str) -> tuple[product.Indexed, list[Question]]:
        content, sections = self._sections(book)
        return self._library(
            f"{book.name}-{lang}",
            f"{content} all {lang}",
            lambda target: library.single(sections, target, lang, self._options.limit),
        )

    def _answers(self, indexed: product.Indexed, questions: Sequence[Question]) -> dict[str, Answers]:
        """What each way of ranking finds for all questions."""
        queries = [question.query for question in questions]
        held = passages(indexed)
        usual = Usual(held, self._encoder)
        found = {
            BM25: usual.bm25(queries),
            "BM25, Dragoman's terms": usual.bm25_analysed(queries),
            COSINE: usual.cosine(queries),
            HYBRID[0]: usual.reciprocal(queries),
            HYBRID[1]: usual.standardised(queries),
            "language-neutral cosine": usual.neutral(queries),
            **steps(indexed, self._encoder, queries),
            SHIPPED: product.ask(indexed, queries),
        }
        took = f", indexed in {indexed.seconds:.0f} s" if indexed.seconds else ""
        say(f"\n{len(held.files)} files, {len(held.texts)} passages, {len(queries)} questions{took}\n")
        return found

    # --- parts -------------------------------------------------------------------------------

    def books(self) -> None:
        """Manuals in many languages, every section in one of them."""
        for name in self._options.books:
            book = books.BOOKS[name]
            kind = "the ranking was tuned on it" if book.tuned else "held out"
            total: dict[str, Report] = {}
            for seed in self._options.seeds:
                say(f"\n## {name}, seed {seed} ({kind})")
                indexed, questions = self._mixed(book, seed)
                answers = self._answers(indexed, questions)
                reports = {way: report(questions, found) for way, found in answers.items()}
                say(ways(reports))
                for way, found in reports.items():
                    self._keep("books", name, f"seed {seed}", way, value=found.figures())
                    total[way] = total.get(way, NOTHING) + found
            if len(self._options.seeds) > 1:
                say(f"\n## {name}, all seeds\n\n{ways(total)}")
            for way in (COSINE, SHIPPED):
                say(f"\nMRR@10 of {way}, by language of the query (down) and of the file (across):\n")
                say(pairs(total[way]))
            for way, found in total.items():
                self._keep("books", name, "all seeds", way, value=found.figures())
            if book.tuned:
                self._reach(total[SHIPPED])

    def _reach(self, shipped: Report) -> None:
        for mode, score, floors in (
            ("cross", shipped.cross, (0.60, 0.70, 0.92)),
            ("same", shipped.same, (0.86, 0.91, 0.98)),
        ):
            for what, value, floor in zip(
                ("hit@1", "MRR@10", "recall@10"), (score.hit1, score.mrr, score.recall), floors, strict=True
            ):
                self._require(f"{mode} {what} {value:.3f}, at least {floor:.2f}", round(value, 3) >= floor)

    def single(self) -> None:
        """One manual in one language: what is gained across languages must not be lost here."""
        book = books.BOOKS["debian-reference"]
        for lang in SINGLE:
            say(f"\n## {book.name}, all sections in {lang}")
            indexed, questions = self._one_language(book, lang)
            scores = _scores(questions, self._answers(indexed, questions))
            say(plain(scores))
            self._keep("single", lang, value={way: score.figures() for way, score in scores.items()})
            usual, ours = max(scores[way].mrr for way in HYBRID), scores[SHIPPED].mrr
            self._require(
                f"only {lang}: MRR@10 {ours:.3f}, at most 0.01 less than raw cosine + BM25 with {usual:.3f}",
                ours >= usual - 0.01,
            )

    def code(self) -> None:
        """Functions, asked for by the first sentence of the docstring that was taken out."""
        count = self._options.limit or (QUICK_FUNCTIONS if self._options.quick else FUNCTIONS)
        versions = code.versions()
        self._keep("packages", "code", value=versions)
        say(f"\n## Code: {', '.join(f'{name} {version}' for name, version in versions.items())}")
        indexed, questions = self._library(
            f"code-{count}",
            f"code {code.LAYOUT} {count} {sorted(versions.items())}",
            lambda target: code.library(code.functions(count, seed=0), target),
        )
        scores = _scores(questions, self._answers(indexed, questions))
        say(plain(scores))
        self._keep("code", value={way: score.figures() for way, score in scores.items()})
        best = max(scores[BM25].mrr, scores[COSINE].mrr)
        self._require(
            f"code: MRR@10 {scores[SHIPPED].mrr:.3f}, {scores[SHIPPED].mrr / best:.2f} times the better of "
            "BM25 and raw cosine, at least 1.30 times",
            scores[SHIPPED].mrr >= 1.3 * best,
        )

    def speed(self) -> None:
        """What a search takes in a library of some hundred files."""
        book = books.BOOKS[self._options.books[0]]
        seed = self._options.seeds[0]
        indexed, questions = self._mixed(book, seed)
        say(f"\n## Speed: {book.name}, seed {seed}\n")
        self._speed("small", indexed.data_dir, [question.query for question in questions[:300]])

    def large(self) -> None:
        """What a search takes among 100,000 passages."""
        count = self._options.limit * 100 or large.PASSAGES
        everything, names = [], []
        for book in books.BOOKS.values():
            name, sections = self._sections(book)
            names.append(name)
            everything += sections
        content = f"large {large.LAYOUT} {count} {bundled_info().key} {names}"
        folder, data_dir = (books.cache() / part / f"large-{count}" for part in ("libraries", "indexes"))
        say(f"\n## Speed among {count:,} passages\n")
        stamp = folder / "content.txt"
        if not (stamp.exists() and stamp.read_text(encoding="utf-8") == content):
            product.stop(data_dir)
            for old in (folder, data_dir):
                shutil.rmtree(old, ignore_errors=True)
            begun = time.monotonic()
            found = large.fill(data_dir, folder / "library", everything, bundled_info(), count)
            stamp.write_text(content, encoding="utf-8")
            say(f"{found:,} real passages with made-up vectors, laid in {time.monotonic() - begun:.0f} s\n")
        queries = [section.title for section in everything if section.id]
        random.Random(0).shuffle(queries)
        ratio = self._speed("large", data_dir, queries[:1000])
        self._require(
            f"among {count:,} passages a search's p95 is {ratio:.2f} times the encoder's, at most 1.50",
            ratio <= 1.5,
        )

    def _speed(self, name: str, data_dir: Path, queries: Sequence[str]) -> float:
        """Time searches; returns how many times the encoder's 95th percentile the search's is."""
        times = product.clock(data_dir, queries)
        product.stop(data_dir)
        figures: dict[str, dict[str, float]] = {}
        for what, values in (("search", times.took), ("encoding the query", times.encode)):
            p50, p95 = statistics.median(values), statistics.quantiles(values, n=20)[-1]
            figures[what] = {"p50": round(p50, 2), "p95": round(p95, 2)}
            say(f"{what:20} p50 {p50:7.1f} ms   p95 {p95:7.1f} ms")
        ratio = figures["search"]["p95"] / figures["encoding the query"]["p95"]
        say(f"A search's p95 is {ratio:.2f} times that of encoding the query.")
        self._keep("speed", name, value={**figures, "queries": len(queries), "p95 ratio": round(ratio, 3)})
        return ratio


def _scores(questions: Sequence[Question], answers: dict[str, Answers]) -> dict[str, Score]:
    """Scores over all questions alike."""
    return {way: sum(report(questions, found).pairs.values(), NONE) for way, found in answers.items()}


def _machine() -> dict[str, object]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=product.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "at": time.strftime("%Y-%m-%d %H:%M"),
    }


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as error:
        sys.exit(str(error))
