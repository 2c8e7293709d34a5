"""From dense and lexical evidence to one order and one similarity.

All evidence is brought to one unit, standard deviations of the cosines that a query has with texts that
have nothing to do with it:

- Meaning: the cosine in the language-neutral space, less the mean cosine that the query has with the
  library's texts of the passage's language, so that no language is nearer than another by itself.
- Words: a binary independence model (Robertson & Spärck Jones 1976, "Relevance weighting of search
  terms") whose probabilities are those within the passage's language. A term counts in a language as far
  as that language uses it: a German word says nothing about a Chinese passage, neither by standing in it
  nor by missing, while a command or a number speaks everywhere. So passages that cannot have the query's
  words are not held behind those that might have and do not.
- Concepts: what the words of query and passage mean (`indexer.pivot`), compared by BM25 in English stems,
  whatever languages they are in; less what is to be expected of any passage.
- The passage's neighbours: a file whose other passages fit too is more likely meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from indexer.pivot import Concepts, Passages, Usage
    from indexer.store import Lexical, Pool

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Bits = npt.NDArray[np.bool_]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Which evidence counts, and how much. The defaults were chosen on one book; see docs/RELEVANCE.md.

    Attributes:
        by_language: Whether cosines are compared within a language.
        words: Weight of the words.
        name: What it is worth that a file, and no other, has the name asked for, in standard deviations.
        concepts: Weight of what the words mean in any language.
        context: How much what its file's other candidates have of that counts for a passage, too.
        gloss: How much a translation of the query, word by word into English, counts beside its own wording
            when meanings are compared, where it is sure.
        own: Weight of the plain cosine, for passages in the query's own language.
        file: Weight of a file's best few passages beside its best one.
    """

    by_language: bool = True
    words: float = 0.12
    name: float = 4.0
    concepts: float = 0.5
    context: float = 0.3
    gloss: float = 1.4
    own: float = 0.17
    file: float = 0.4


DEFAULT = Options()
# What was best before there were concepts, for as long as a library's are not known.
WITHOUT_CONCEPTS = Options(words=0.3, own=0.04, file=0.3, concepts=0.0, context=0.0)

# How many texts' worth a guess weighs against what was counted.
_PRIOR_TEXTS = 5.0
# Chance that a passage which answers has a given word of the query.
_PRESENT = 0.5
# A word found inside a longer one, with another ending or in a file's name only.
_NEAR = 0.6
_BEST_OF_FILE = 3
# Okapi BM25's constants: the second mention of a concept says little, long passages mention more.
_K1 = 0.6
_B = 0.75
# Code is full of words that mean many things there: MRR@10 of 2,000 functions 0.777, and 0.762 without this.
_CODE = 0.45
# Worth from which a word is shown as a reason: fewer than three in ten texts of its language have it.
_TELLING = 0.5
# A concept that more of a library's passages have is not shown as a reason either.
_COMMON = 0.2


class Background(msgspec.Struct, frozen=True):
    """How near a query is to what it has nothing to do with.

    Attributes:
        by_language: Mean cosine with the library's passages of each language.
        mean: Mean cosine with all of them.
        foreign: Mean cosine with the reference passages, which no library has.
        spread: Standard deviation of that.
        plain_mean: The mean in the encoder's own space.
        plain_spread: Standard deviation there.
    """

    by_language: Mapping[str, float]
    mean: float
    foreign: float
    spread: float
    plain_mean: float
    plain_spread: float


class Words(msgspec.Struct, frozen=True):
    """What the words say of some passages.

    Attributes:
        evidence: float32 (n,); 0 where they say nothing.
        named: How far the file's name is what was asked for, float32 (n,): 1 for the only file so named, less
            the more there are, 0 for others.
        found: Which terms (columns) that say something stand in which passage (rows), bool (n, terms).
    """

    evidence: Floats
    named: Floats
    found: Bits


class Ranked(msgspec.Struct, frozen=True):
    """Every candidate's evidence, in standard deviations.

    Attributes:
        score: What ranks a passage, float32 (n,).
        level: What is added to make scores of different queries and libraries comparable: the score of
            a passage that has nothing to do with the query is then 0 on average.
        words: The part of `score` that is due to words.
        order: Files as lists of rows, the best file first and in it the best passage.
        file_scores: What ranks each file, in the same order.
    """

    score: Floats
    level: float
    words: Floats
    order: list[list[int]]
    file_scores: list[float]


def background(
    query: Floats,
    plain: Floats,
    sample: Mapping[str, Floats],
    reference: Floats,
    reference_plain: Floats,
    spread: float | None = None,
) -> Background:
    """Measure how near a query is to anything.

    Args:
        query: Its vector in the space that is searched, float32 (dim,).
        plain: As the encoder gave it.
        sample: Vectors (n, dim) of some passages of the library in the searched space, by language.
        reference: Vectors of passages on other matters in many languages, there.
        reference_plain: The same as the encoder gave them.
        spread: Standard deviation of cosines of what is unrelated; None to take this query's own.
    """
    far, far_plain = reference @ query, reference_plain @ plain
    foreign = float(far.mean())
    spread = spread or float(far.std()) or 1.0
    cosines = {lang: rows @ query for lang, rows in sample.items() if len(rows)}
    mean = float(np.mean([c.mean() for c in cosines.values()])) if cosines else foreign
    by_language = {
        # Few passages say little of their language.
        lang: float((c.sum() + 2 * _PRIOR_TEXTS * mean) / (len(c) + 2 * _PRIOR_TEXTS))
        for lang, c in cosines.items()
    }
    return Background(
        by_language, mean, foreign, spread, float(far_plain.mean()), float(far_plain.std()) or 1.0
    )


def gains(found: Lexical, names: Sequence[str]) -> tuple[Floats, Floats]:
    """What it is worth to have, or not to have, each term, by language.

    Args:
        found: Where the terms stand.
        names: Codes of the languages asked about.

    Returns:
        Log-likelihood ratios for a term that is there (at least 0) and one that is missing (at most 0),
        each float32 (terms, languages).
    """
    sizes = np.array([found.sizes.get(name, 0) for name in names], np.float64)
    total = max(1.0, float(sum(found.sizes.values())))
    here = np.zeros((len(found.matches), len(names)), np.float32)
    missing = np.zeros_like(here)
    every = {name: n for n, name in enumerate(names)}
    for row, match in enumerate(found.matches):
        df = np.zeros(len(names))
        for lang, number in match.df.items():
            if lang in every:
                df[every[lang]] = number
        overall = max(sum(match.df.values()), 0.5) / total
        share = (df + _PRIOR_TEXTS * overall) / (sizes + _PRIOR_TEXTS)
        # The language that uses it most is its home; elsewhere it counts as far as it is used there.
        home = max(
            (number + _PRIOR_TEXTS * overall) / (found.sizes.get(lang, 0) + _PRIOR_TEXTS)
            for lang, number in (match.df or {"": 0}).items()
        )
        used = np.ones(len(names)) if match.term.universal else np.minimum(1.0, share / max(home, 1e-12))
        here[row] = used * np.maximum(0.0, np.log(_PRESENT / np.minimum(share, 1.0)))
        if sum(match.df.values()):
            # No passage at all has it: that none has it says nothing of any.
            missing[row] = used * np.minimum(
                0.0, np.log((1 - _PRESENT) / np.maximum(1 - share, 1 - _PRESENT))
            )
    return here, missing


def words(found: Lexical, candidates: Pool) -> Words:
    """What the query's words say of some passages."""
    n, terms = len(candidates.texts), len(found.matches)
    evidence = np.zeros(n, np.float32)
    standing = np.zeros((n, terms), np.bool_)
    named = np.zeros(n, np.float32)
    if not terms or not n:
        return Words(evidence, named, standing)
    here, missing = gains(found, candidates.names)
    strength = np.zeros((n, terms), np.float32)
    for column, match in enumerate(found.matches):
        exact = _among(candidates.texts, match.texts)
        near = _among(candidates.texts, match.near) | _among(candidates.files, match.files)
        strength[:, column] = np.where(exact, 1.0, np.where(near, _NEAR, 0.0))
        standing[:, column] = exact | near
        if match.term.universal and match.term.whole < 0 and len(match.files):
            # Only what looks like a name: a plain word in one speaks for its own language alone.
            so_named = _among(candidates.files, match.files) / math.log2(1 + len(match.files))
            named = np.maximum(named, so_named.astype(np.float32))
    units = 0
    wholes = {match.term.whole for match in found.matches}
    parts: dict[int, Floats] = {}
    for column, match in enumerate(found.matches):
        got, lost = here[column][candidates.langs], missing[column][candidates.langs]
        there = strength[:, column]
        value = np.where(there > 0, there * got, lost)
        if match.common:
            value = np.zeros_like(value)  # where it stands was not looked up
        whole = match.term.whole
        if whole >= 0:
            # A part of something that is there as a whole says nothing more.
            value = np.where(standing[:, whole], 0.0, value)
            parts[whole] = parts.get(whole, np.zeros(n, np.float32)) + value
            continue
        units += 1
        if column in wholes:
            value = np.maximum(value, 0.0)  # if it is missing, its parts tell how much of it is
        evidence += value.astype(np.float32)
    for whole, value in parts.items():
        # All of them, here and there in a text, are not the whole.
        evidence += np.minimum(value, _NEAR * here[whole].max())
    # "The" and "of" are in common with half of all texts; nobody wants to see them.
    telling = here[:, candidates.langs].T >= _TELLING
    # A name in a sentence is a lesser part of what is asked.
    return Words(evidence / math.sqrt(max(1, units)), named / np.float32(max(1, units)), standing & telling)


def concepts(asked: Concepts, passages: Passages, number: int, usage: Usage) -> Floats:
    """What passages have of a query's concepts, by BM25.

    See Robertson & Zaragoza, "The Probabilistic Relevance Framework" (2009).

    Args:
        asked: Of the query.
        passages: Of `number` passages.
        number: How many they are.
        usage: How common concepts are in the library.

    Returns:
        float32 (number,): 0 on average for passages of the library.
    """
    if not len(asked.ids) or not len(passages.ids) or not usage.passages:
        return np.zeros(number, np.float32)
    lengths = np.bincount(passages.rows, passages.weights, number) / max(usage.length, 1e-6)
    place = np.minimum(np.searchsorted(asked.ids, passages.ids), len(asked.ids) - 1)
    here = asked.ids[place] == passages.ids
    place, rows, times = place[here], passages.rows[here], passages.weights[here]
    among = _among_of(asked, usage)
    worth = asked.weights * np.log(1 + (usage.passages - among + 0.5) / (among + 0.5))
    norms = _K1 * (1 - _B + _B * lengths[rows])
    score = np.bincount(rows, worth[place] * times * (1 + _K1) / (times + norms), number)
    expected = float((worth * among).sum()) / usage.passages
    evidence: Floats = ((score - expected) / math.sqrt(max(1.0, float(asked.weights.sum())))).astype(
        np.float32
    )
    return evidence


def telling(asked: Concepts, usage: Usage) -> Concepts:
    """Those of a query's concepts that are worth being shown: meant for sure, and not in every other text."""
    among = _among_of(asked, usage)
    kept = (asked.weights >= _PRESENT) & (among <= max(1.0, _COMMON * usage.passages))
    return type(asked)(asked.ids[kept], asked.weights[kept])


def _among_of(asked: Concepts, usage: Usage) -> npt.NDArray[np.float64]:
    """How many of the library's passages that were looked at have each of a query's concepts."""
    if not len(usage.ids):
        return np.zeros(len(asked.ids))
    at = np.minimum(np.searchsorted(usage.ids, asked.ids), len(usage.ids) - 1)
    return np.where(usage.ids[at] == asked.ids, usage.among[at], 0.0).astype(np.float64)


def lexical_candidates(found: Lexical, most: int, among: Ids | None = None) -> Ids:
    """The texts that the words speak for most, at most `most`, best first; only those in `among`, sorted."""
    total = max(1.0, float(sum(found.sizes.values())))
    parts, values = [], []
    for match in found.matches:
        number = sum(match.df.values())
        if match.common or not number:
            continue
        worth = max(0.0, math.log(_PRESENT * total / number))
        for texts, each in ((match.texts, worth), (match.near, _NEAR * worth)):
            kept = texts if among is None else texts[_among(texts, among)]
            parts.append(kept)
            values.append(np.full(len(kept), each))
    if not parts:
        return np.zeros(0, np.int64)
    texts, which = np.unique(np.concatenate(parts), return_inverse=True)
    score = np.bincount(which, np.concatenate(values))
    if len(texts) > most:
        best = np.argpartition(-score, most)[:most]
        texts, score = texts[best], score[best]
    return texts[np.argsort(-score, kind="stable")]


def lexical_files(found: Lexical, most: int) -> Ids:
    """The files whose names the words speak for most, at most `most`, best first."""
    parts = [match.files for match in found.matches if len(match.files)]
    if not parts:
        return np.zeros(0, np.int64)
    worth = [np.full(len(files), 1.0 / math.log(2 + len(files))) for files in parts]
    files, which = np.unique(np.concatenate(parts), return_inverse=True)
    score = np.bincount(which, np.concatenate(worth))
    return files[np.argsort(-score, kind="stable")[:most]]


def rank(
    candidates: Pool,
    around: Background,
    lexical: Words,
    own: Mapping[str, float],
    options: Options = DEFAULT,
    meant: Floats | None = None,
) -> Ranked:
    """Order passages and files.

    Args:
        candidates: The passages.
        around: What the query is near to anyway.
        lexical: What the words say of them.
        own: How likely each language is the query's own, adding up to 1 at most.
        options: Which evidence counts.
        meant: What `concepts` says of them; None where that is not known.
    """
    means = np.array(
        [
            around.by_language.get(n, around.mean) if options.by_language else around.mean
            for n in candidates.names
        ]
        or [0.0],
        np.float32,
    )
    score = (candidates.neutral - means[candidates.langs]) / around.spread
    by_words = options.words * lexical.evidence + options.name * lexical.named
    if meant is not None:
        meant = meant + options.context * _mean_of_file(candidates, meant)
        share = np.array([_CODE if name == "code" else 1.0 for name in candidates.names] or [1.0], np.float32)
        by_words = by_words + options.concepts * share[candidates.langs] * meant
    score = score + by_words
    if options.own:
        likely = np.array([own.get(name, 0.0) for name in candidates.names] or [0.0], np.float32)
        plain = (candidates.plain - around.plain_mean) / around.plain_spread
        score = score + options.own * likely[candidates.langs] * plain
    score = score.astype(np.float32)
    order, file_scores = _by_file(candidates, score, options.file)
    level = (around.mean - around.foreign) / around.spread
    return Ranked(score, level, by_words.astype(np.float32), order, file_scores)


def _mean_of_file(candidates: Pool, values: Floats) -> Floats:
    """For each passage the mean over the candidates of its file."""
    _, file = np.unique(candidates.files, return_inverse=True)
    if not len(file):
        return values
    means = np.bincount(file, values) / np.bincount(file)
    found: Floats = means[file].astype(np.float32)
    return found


def _by_file(candidates: Pool, score: Floats, weight: float) -> tuple[list[list[int]], list[float]]:
    """Rows of each file, and the file's score: its best passage and, lighter, the mean of its best few."""
    if not len(score):
        return [], []
    floor = float(score.min())
    files: dict[int, list[int]] = {}
    for row in np.argsort(-score, kind="stable").tolist():
        files.setdefault(int(candidates.files[row]), []).append(row)
    scored = []
    for rows in files.values():
        best = [float(score[row]) for row in rows[:_BEST_OF_FILE]]
        # Its passages that are not among the candidates are no better than the last of them.
        best += [floor] * (min(_BEST_OF_FILE, int(candidates.of_file[rows[0]])) - len(best))
        scored.append((best[0] + weight * sum(best) / len(best)) / (1 + weight))
    at = sorted(range(len(scored)), key=lambda i: -scored[i])
    groups = list(files.values())
    return [groups[i] for i in at], [scored[i] for i in at]


def _among(values: Ids, known: Ids) -> Bits:
    """Which of `values` are in the sorted `known`."""
    if not len(known):
        return np.zeros(len(values), np.bool_)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    there: Bits = known[at] == values
    return there
