"""Odd queries, thrown at the query grammar.

    python -m tests.fuzz.grammar [--count 100000] [--seed 1]

Puts queries together from what the grammar has a meaning for and from noise. Any text must mean something:
parsing never raises, problems lie within the text, a query written back is understood as the same, and the
cursor's word can be completed anywhere. Prints figures; ends with 1 at a finding.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from indexer.query import Facts, complete, parse, unparse

_PARTS = (
    "ext:", "type:", "lang:", "in:", "name:", "after:", "before:", "size:", "date:", "has:", "-", "--", "+",
    "OR", "or", "AND", "NOT", "|", "(", ")", '"', "“", "”", "„", "«", "'", "\\", "*", ":", "::", ",", ";",
    ">", "<", "=", "..", "pdf", "md,txt", "python", "zh", "xx", "deutsch", "中文", "yesterday", "2024",
    "2024-13-45",
    "last week",
    "7d", "1mb", "10..20kb", "9" * 30, "-1", "~/x", "/", "C:\\", "猫", "ü", "e\u0301", "\u200f",
    "👩\u200d👧", "\u202e", "\0", "\ud800", "\u3000", "\t", "\n", " ", "  ", "word", "heat pump",
    "ｅｘｔ：ｐｄｆ",
    "ext：pdf", "lang:zh-CN", "1e400", "nan", "٣",
)  # fmt: skip
_NOW = datetime(2024, 2, 29, 12, 0)


@dataclass
class Figures:
    """What came of it."""

    queries: int = 0
    with_problems: int = 0
    slowest_s: float = 0.0
    findings: list[str] = field(default_factory=list)


def query(chance: random.Random) -> str:
    """A text as nobody would type it, mostly."""
    parts = []
    for _ in range(chance.choice((1, 2, 3, 5, 8, 20))):
        parts.append(chance.choice(_PARTS) if chance.random() < 0.9 else chr(chance.randrange(1, 0xD800)))
        if chance.random() < 0.4:
            parts.append(" ")
    return "".join(parts)


def check(text: str, chance: random.Random, figures: Figures) -> None:
    """One query: whatever is wrong with its treatment becomes a finding."""
    figures.queries += 1
    began = time.perf_counter()
    try:
        found = parse(text, now=_NOW)
        for problem in found.problems:
            figures.with_problems += 1
            if not 0 <= problem.start <= problem.end <= len(text) or not problem.message:
                figures.findings.append(f"{text!r}: {problem} is not within it")
        said = unparse(found)
        again = parse(said, now=_NOW)
        if (again.texts, again.where) != (found.texts, found.where):
            figures.findings.append(f"{text!r}: {said!r} means {again}, not {found}")
        cursor = chance.randrange(-1, len(text) + 2)
        start, end, items = complete(text, cursor, Facts())
        if not 0 <= start <= end <= len(text):
            figures.findings.append(f"{text!r}: completed from {start} to {end} at {cursor}")
        for item in items[:3]:
            parse(text[:start] + item.insert + text[end:], now=_NOW)
    except Exception as error:  # noqa: BLE001
        figures.findings.append(f"{text!r}: {type(error).__name__}: {error}")
    figures.slowest_s = max(figures.slowest_s, time.perf_counter() - began)


def run(count: int, seed: int, *, tell: Callable[[str], object] = lambda _: None) -> Figures:
    """Throw `count` queries, and some that are very long."""
    chance = random.Random(seed)
    figures = Figures()
    for number in range(count):
        check(query(chance), chance, figures)
        if number % 20_000 == 19_999:
            tell(f"{number + 1:,}\n")
        if len(figures.findings) > 20:
            break
    figures.slowest_s = 0.0
    for part in _PARTS:
        check(part * 2_000, chance, figures)
    return figures


def main() -> int:
    """Throw queries and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.grammar", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    figures = run(options.count, options.seed, tell=sys.stderr.write)
    tell = sys.stdout.write
    took = time.monotonic() - began
    tell(f"{figures.queries:,} queries in {took:.0f} s, {figures.with_problems:,} problems told, ")
    tell(f"slowest of the long ones {figures.slowest_s:.2f} s, {len(figures.findings)} findings\n")
    for finding in figures.findings:
        tell(f"  {finding[:600]}\n")
    return 1 if figures.findings else 0


if __name__ == "__main__":
    sys.exit(main())
