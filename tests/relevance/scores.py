"""Ranked files to figures: hit@1, MRR@10, recall@10, apart for the file's own language and for others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.relevance.library import Question

DEPTH = 10


@dataclass(frozen=True)
class Score:
    """How well questions were answered; `ranks` has the place of the right file from 0, None below 10."""

    ranks: tuple[int | None, ...]

    @property
    def queries(self) -> int:
        """How many questions."""
        return len(self.ranks)

    @property
    def hit1(self) -> float:
        """Share of the questions whose first hit is the right file."""
        return self._mean(float(rank == 0) for rank in self.ranks)

    @property
    def mrr(self) -> float:
        """Mean of 1 / place, from 1; 0 where the right file is not among the first ten."""
        return self._mean(0.0 if rank is None else 1 / (rank + 1) for rank in self.ranks)

    @property
    def recall(self) -> float:
        """Share of the questions with the right file among the first ten hits."""
        return self._mean(float(rank is not None) for rank in self.ranks)

    def _mean(self, values: Iterable[float]) -> float:
        return sum(values) / len(self.ranks) if self.ranks else 0.0

    def __add__(self, other: Score) -> Score:
        return Score(self.ranks + other.ranks)

    def figures(self) -> dict[str, float]:
        """As they are written down."""
        return {
            "queries": self.queries,
            "hit@1": round(self.hit1, 4),
            "mrr@10": round(self.mrr, 4),
            "recall@10": round(self.recall, 4),
        }


NONE = Score(())


@dataclass(frozen=True)
class Report:
    """What one way of ranking came to.

    Attributes:
        pairs: Scores by language of the query and language of the file.
        biased: For each question across languages that was answered with anything, whether the first file is
            in the query's language (the right one is not).
    """

    pairs: Mapping[tuple[str, str], Score]
    biased: tuple[bool, ...]

    @property
    def same(self) -> Score:
        """Asked in the file's language."""
        return sum((score for (asked, file), score in self.pairs.items() if asked == file), NONE)

    @property
    def cross(self) -> Score:
        """Asked in another."""
        return sum((score for (asked, file), score in self.pairs.items() if asked != file), NONE)

    @property
    def bias(self) -> float:
        """Share of the questions across languages whose first hit is merely in the query's language."""
        return sum(self.biased) / len(self.biased) if self.biased else 0.0

    def __add__(self, other: Report) -> Report:
        keys = dict.fromkeys([*self.pairs, *other.pairs])
        pairs = {key: self.pairs.get(key, NONE) + other.pairs.get(key, NONE) for key in keys}
        return Report(pairs, self.biased + other.biased)

    def figures(self) -> dict[str, object]:
        """As they are written down."""
        return {
            "same": self.same.figures(),
            "cross": self.cross.figures(),
            "first_is_merely_same_language": round(self.bias, 4),
            "pairs": {f"{a}>{b}": score.figures() for (a, b), score in sorted(self.pairs.items())},
        }


NOTHING = Report({}, ())


def report(questions: Sequence[Question], answers: Sequence[Sequence[str]]) -> Report:
    """Score what a way of ranking answered.

    Args:
        questions: What was asked.
        answers: For each question paths relative to the library, best first; of a path that comes twice
            the first place counts, and only different paths are counted.

    Raises:
        ValueError: There are not as many answers as questions.
    """
    languages = {question.path: question.file_lang for question in questions}
    ranks: dict[tuple[str, str], list[int | None]] = defaultdict(list)
    biased = []
    for question, answer in zip(questions, answers, strict=True):
        paths = list(dict.fromkeys(answer))
        place = paths.index(question.path) if question.path in paths else DEPTH
        ranks[question.lang, question.file_lang].append(place if place < DEPTH else None)
        if question.lang != question.file_lang and paths:
            biased.append(languages.get(paths[0]) == question.lang)
    return Report({pair: Score(tuple(places)) for pair, places in ranks.items()}, tuple(biased))
