"""The figures as a person reads them."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Mapping, Sequence

from tests.relevance.scores import Report, Score


def say(text: str = "") -> None:
    """A line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; the first one names the columns, the first column stands to the left."""
    widths = [max(_width(row[at]) for row in rows) for at in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell + " " * (width - _width(cell)) if at == 0 else " " * (width - _width(cell)) + cell
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "| " + " | ".join(cells) + " |"

    rule = [
        ":" + "-" * (width - 1) if at == 0 else "-" * (width - 1) + ":" for at, width in enumerate(widths)
    ]
    return "\n".join([line(rows[0]), "| " + " | ".join(rule) + " |", *map(line, rows[1:])])


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cells(score: Score) -> list[str]:
    if not score.queries:
        return ["-", "-", "-"]
    return [f"{score.hit1:.3f}", f"{score.mrr:.3f}", f"{score.recall:.3f}"]


def ways(reports: Mapping[str, Report]) -> str:
    """Ways to rank below one another."""
    head = [
        *("way to rank", "same: hit@1", "MRR@10", "recall@10", "cross: hit@1", "MRR@10", "recall@10"),
        "first merely in query's language",
    ]
    rows = [
        [name, *_cells(report.same), *_cells(report.cross), f"{report.bias:.3f}" if report.biased else "-"]
        for name, report in reports.items()
    ]
    return table([head, *rows])


def plain(scores: Mapping[str, Score]) -> str:
    """The same where there is nothing to tell apart."""
    return table(
        [["way to rank", "hit@1", "MRR@10", "recall@10"]]
        + [[name, *_cells(score)] for name, score in scores.items()]
    )


def pairs(report: Report) -> str:
    """MRR@10 by language of the query (down) and of the file (across)."""
    langs = sorted({lang for pair in report.pairs for lang in pair})
    rows = [["asked in", *langs, "all others"]]
    for asked in langs:
        cells, others = [], Score(())
        for file in langs:
            score = report.pairs.get((asked, file), Score(()))
            cells.append(f"{score.mrr:.2f}" if score.queries else "-")
            if asked != file:
                others += score
        rows.append([asked, *cells, f"{others.mrr:.3f}"])
    return table(rows)
