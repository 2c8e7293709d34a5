"""Trains the lexicons that bring the words of a language to English stems (`indexer.pivot`).

``python packaging/train_lexicon.py --work FOLDER`` fetches translated text (see lexicon_corpus.py), learns by
which English words the words of each language are translated, and writes ``indexer/lexicons/*.npz``: one file
a language, and ``en.npz`` with the concepts that the others name by their numbers. docs/LEXICON.md says what
that is worth.

What an earlier run fetched, collected (``FOLDER/pairs``) or learnt (``FOLDER/trained``) is taken; remove what
is to be made anew. The same packages give the same bytes. A language takes half a minute and 4 GB of memory.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import itertools
import logging
import re
import sys
import time
import unicodedata
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from lexicon_corpus import LANGUAGES, Pair, collect, pairs

from indexer import pivot
from indexer.lexicon import save_concepts, save_lexicon, stem
from indexer.pivot import lexical_terms

_log = logging.getLogger("train_lexicon")

# A language with fewer pairs is not worth a file: it would know too few words.
FEWEST_PAIRS = 60_000
# Longer texts say too little of which word translates which.
_LONGEST_ENGLISH, _LONGEST_OTHER = 40, 80
_LEAST_ENGLISH, _LEAST_OTHER = 2, 3  # how often a word must have been seen to be learnt
# So many pairs of words are weighed, those of the shortest texts; it bounds memory.
_MOST_CELLS = 40_000_000
_ROUNDS = 5
# A word seen once, with one other, would be sure of it: as if something else had been seen once, too.
_SMOOTHING = 1.0
_LEAST_CHANCE, _MOST_MEANINGS, _LEAST_TOGETHER = 0.05, 6, 2

_LARGEST_FILE = 450_000
_LEAST_OTHER_IN_LARGE = 4
_LEAST_USED, _LEAST_UNUSED = 3, 5  # how often a concept was seen that a lexicon names, and another one
_MOST_CONCEPTS = (1 << 16) - 1

_KATAKANA = re.compile("[\u30a1-\u30fa\u30fc]{2,}")
_COMMON_WORD, _COMMON_PART = 20, 10
_LONGEST_PART = 12

_Ints = npt.NDArray[np.int32]


class Trained(msgspec.Struct):
    """What was learnt of a language.

    Attributes:
        pairs: From how many pairs.
        meanings: By which English stems each term is translated, and how likely, the likeliest first.
        uses: In how many pairs each of these terms is.
        english: In how many pairs each English stem is.
        forms: In how many pairs each English word is, in its own form.
    """

    pairs: int
    meanings: dict[str, list[tuple[str, float]]]
    uses: dict[str, int]
    english: dict[str, int]
    forms: dict[str, int]


# --- words ----------------------------------------------------------------------------------


class Side:
    """One side of all pairs: texts of words as numbers."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._flat = array("i")
        self._starts = array("q", [0])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, words: Iterable[str]) -> None:
        """Add a text of distinct words."""
        numbers = self._numbers
        self._flat.extend(numbers.setdefault(word, len(numbers)) for word in words)
        self._starts.append(len(self._flat))

    def counts(self) -> dict[str, int]:
        """In how many texts each word is."""
        counts = np.bincount(self._flat, minlength=len(self._numbers)).tolist()
        return dict(zip(self._numbers, counts, strict=True))

    def rows(self, least: int) -> Rows:
        """The texts with those words that are in `least` of them; the commonest has the lowest number."""
        counts = self.counts()
        words = sorted((w for w, n in counts.items() if n >= least), key=lambda w: (-counts[w], w))
        anew = np.full(len(self._numbers), -1, np.int32)
        anew[[self._numbers[word] for word in words]] = np.arange(len(words))
        ids = anew[np.array(self._flat, np.int32)]
        kept = ids >= 0
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
        return Rows(words, ids[kept], before[np.array(self._starts, np.int64)])


class Rows(NamedTuple):
    """Texts of numbered words.

    Attributes:
        words: Each word by its number.
        ids: int32: the words of all texts, one text after the other.
        starts: int64 (n + 1,): where each text begins there, and the end.
    """

    words: list[str]
    ids: _Ints
    starts: npt.NDArray[np.int64]


def words_of(found: Sequence[Pair], lang: str) -> tuple[Side, Side, Counter[str]]:
    """The distinct words of all pairs that are not too long.

    Returns:
        The other language, with the empty word at the head of each text; English stems; and how many texts
        have each English form.
    """
    divide = katakana_divider(other for _, other in found) if lang == "ja" else str
    others, english, forms = Side(), Side(), Counter[str]()
    stemmed = functools.cache(stem)
    for ours, theirs in found:
        written = list(dict.fromkeys(lexical_terms(ours)))
        stems = dict.fromkeys(map(stemmed, written))
        terms = dict.fromkeys(lexical_terms(divide(theirs)))
        if 0 < len(stems) <= _LONGEST_ENGLISH and 0 < len(terms) <= _LONGEST_OTHER:
            others.add(("", *terms))
            english.add(stems)
            forms.update(written)
    return others, english, forms


def katakana_divider(texts: Iterable[str]) -> Callable[[str], str]:
    """What sets the parts of rare compounds in Katakana apart, which teach nothing otherwise.

    Args:
        texts: What is to be divided later; the words that are common there are the parts.
    """
    counts = Counter[str]()
    for text in texts:
        counts.update(_KATAKANA.findall(unicodedata.normalize("NFKC", text)))

    @functools.lru_cache(1 << 17)
    def parts(word: str) -> str:
        if counts[word] >= _COMMON_WORD or len(word) < 4:
            return word
        best: dict[int, list[str]] = {0: []}
        for end, start in itertools.product(range(2, len(word) + 1), range(len(word) - 1)):
            part = word[start:end]
            if (
                start in best
                and 2 <= len(part) <= _LONGEST_PART
                and part[0] not in pivot.NO_START
                and part != word
                and counts[part] >= _COMMON_PART
                and (end not in best or len(best[start]) + 1 < len(best[end]))
            ):
                best[end] = [*best[start], part]
        return " ".join(best.get(len(word), [word]))

    return lambda text: _KATAKANA.sub(lambda word: parts(word[0]), unicodedata.normalize("NFKC", text))


# --- learning -------------------------------------------------------------------------------


def learn(source: Rows, target: Rows) -> tuple[_Ints, _Ints, npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """IBM Model 1 (Brown et al., "The mathematics of statistical machine translation", 1993).

    Each word of a target text is taken to come of one word of the source text, all places alike; which one
    is estimated by expectation maximization.

    Returns:
        For pairs of words that are together in a text: the source's number, the target's, how likely the
        source word is to be translated by it, and in how many texts they are together.
    """
    s, t, token = _cells(source, target)
    pair, which = np.unique(s.astype(np.int64) * len(target.words) + t, return_inverse=True)
    which = which.astype(np.int32)
    del s, t
    sources = (pair // len(target.words)).astype(np.int32)
    chances = np.ones(len(pair), np.float32)
    for _ in range(_ROUNDS):
        weights = chances[which]
        weights /= np.bincount(token, weights).astype(np.float32)[token]
        expected = np.bincount(which, weights, len(pair))
        of_source = np.bincount(sources, expected, len(source.words))
        chances = (expected / (of_source[sources] + _SMOOTHING)).astype(np.float32)
    targets = (pair % len(target.words)).astype(np.int32)
    return sources, targets, chances, np.bincount(which, minlength=len(pair))


def _cells(source: Rows, target: Rows) -> tuple[_Ints, _Ints, _Ints]:
    """Each word of each target text with each word of its source text: both, and which target word it is."""
    wide, high = np.diff(source.starts), np.diff(target.starts)
    sizes = wide * high
    order = np.argsort(sizes, kind="stable")
    order = order[(sizes[order] > 0) & (np.cumsum(sizes[order]) <= _MOST_CELLS)]
    high, sizes = high[order].astype(np.int32), sizes[order]
    text = np.repeat(np.arange(len(order), dtype=np.int32), sizes)
    place = np.arange(len(text), dtype=np.int32) - (np.cumsum(sizes) - sizes).astype(np.int32)[text]
    across, down = np.divmod(place, high[text])
    s = source.ids[source.starts[order].astype(np.int32)[text] + across]
    t = target.ids[target.starts[order].astype(np.int32)[text] + down]
    return s, t, (np.cumsum(high, dtype=np.int32) - high)[text] + down


def train(found: Sequence[Pair], lang: str) -> Trained:
    """Learn what the words of a language mean from pairs."""
    others, english, forms = words_of(found, lang)
    source, target = others.rows(_LEAST_OTHER), english.rows(_LEAST_ENGLISH)
    meanings: dict[str, list[tuple[str, float]]] = defaultdict(list)
    if len(source.words) and len(target.words):
        sources, targets, chances, together = learn(source, target)
        kept = (chances >= _LEAST_CHANCE) & (together >= _LEAST_TOGETHER)
        columns = (sources[kept].tolist(), targets[kept].tolist(), chances[kept].tolist())
        for s, t, chance in zip(*columns, strict=True):
            meanings[source.words[s]].append((target.words[t], round(chance, 4)))
    # What comes of no word in particular.
    meanings.pop("", None)
    counts = others.counts()
    return Trained(
        pairs=len(others),
        meanings={
            term: sorted(several, key=lambda one: (-one[1], one[0]))[:_MOST_MEANINGS]
            for term, several in sorted(meanings.items())
        },
        uses={term: counts[term] for term in sorted(meanings)},
        english=english.counts(),
        forms=dict(forms),
    )


# --- files ----------------------------------------------------------------------------------


def pack(trained: Mapping[str, Trained]) -> dict[str, bytes]:
    """The content of each file, by its language.

    Args:
        trained: What was learnt, by language.
    """
    # Most English texts come in most languages; where there are most of them, they are about all there.
    uses, forms = _most(one.english for one in trained.values()), _most(one.forms for one in trained.values())
    named = {name for one in trained.values() for several in one.meanings.values() for name, _ in several}
    concepts = sorted(
        (name for name, n in uses.items() if n >= (_LEAST_USED if name in named else _LEAST_UNUSED)),
        key=lambda name: (-uses[name], name),
    )[:_MOST_CONCEPTS]
    written: dict[str, str] = {}
    for form in sorted(forms, key=lambda form: (-forms[form], form)):
        written.setdefault(stem(form), form)
    files = {
        pivot.ENGLISH: save_concepts([written[name] for name in concepts], [uses[name] for name in concepts])
    }
    numbers = {name: number for number, name in enumerate(concepts)}
    for lang, one in trained.items():
        files[lang] = _lexicon(one, numbers, _LEAST_OTHER)
        if len(files[lang]) > _LARGEST_FILE:
            files[lang] = _lexicon(one, numbers, _LEAST_OTHER_IN_LARGE)
    return files


def _most(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The highest count of each."""
    most: dict[str, int] = {}
    for one in counts:
        for name, n in one.items():
            most[name] = max(n, most.get(name, 0))
    return most


def _lexicon(one: Trained, numbers: Mapping[str, int], least: int) -> bytes:
    meanings = {
        term: [(numbers[name], chance) for name, chance in several if name in numbers]
        for term, several in one.meanings.items()
        if one.uses[term] >= least
    }
    meanings = {term: several for term, several in meanings.items() if several}
    return save_lexicon(meanings, {term: one.uses[term] for term in meanings})


def trained_or_kept(work: Path, lang: str) -> Trained:
    """What was learnt of a language, by an earlier run if there was one."""
    file = work / "trained" / f"{lang}.json.gz"
    if not file.exists():
        began = time.monotonic()
        learnt = train(pairs(collect(work), lang), lang)
        _log.info(
            "%s: %d pairs, %d terms, %.0f s",
            lang,
            learnt.pairs,
            len(learnt.meanings),
            time.monotonic() - began,
        )
        file.parent.mkdir(exist_ok=True)
        new = file.with_suffix(".new")
        new.write_bytes(gzip.compress(msgspec.json.encode(learnt), 6, mtime=0))
        new.rename(file)
    return msgspec.json.decode(gzip.decompress(file.read_bytes()), type=Trained)


def write(files: Mapping[str, bytes], out: Path) -> None:
    """Write the lexicons.

    Raises:
        ValueError: There are lexicons of other languages, whose numbers would mean something else.
    """
    others = {file.stem for file in out.glob("*.npz")} - files.keys()
    if others:
        raise ValueError(
            f"{out} has lexicons of {', '.join(sorted(others))}, too; they go with other concepts"
        )
    out.mkdir(parents=True, exist_ok=True)
    for lang, content in sorted(files.items()):
        (out / f"{lang}.npz").write_bytes(content)
        _log.info("%s.npz: %d bytes", lang, len(content))
    _log.info("%d bytes in all", sum(map(len, files.values())))


def main() -> None:
    """Fetch, train, write."""
    parser = argparse.ArgumentParser(description="Train the lexicons.")
    parser.add_argument("--work", type=Path, required=True, help="folder for packages and pairs (6 GB)")
    parser.add_argument("--out", type=Path, default=pivot.LEXICONS, help="folder to write to")
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=LANGUAGES, metavar="LANG")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    trained: dict[str, Any] = {}
    for lang in sorted(arguments.languages):
        learnt = trained_or_kept(arguments.work, lang)
        if learnt.pairs >= FEWEST_PAIRS:
            trained[lang] = learnt
        else:
            _log.info("%s: %d pairs are too few", lang, learnt.pairs)
    try:
        write(pack(trained), arguments.out)
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
