"""Words of many languages brought to one: English stems, which stand for concepts here.

Dense vectors find what is about the same; they do not say that two texts name the same thing. Words do, but
only within a language. So every term of a passage and of a query becomes a distribution over English stems,
with the probabilities that a bilingual lexicon learnt from translated text, and both are compared there: the
probabilistic structured queries of Darwish & Oard ("Probabilistic structured query methods", SIGIR 2003),
with English as the pivot and the translation on either side. Inflected forms and synonyms meet there, too.

The lexicons are below `lexicons/`, one a language (`indexer.lexicon` reads them). docs/LEXICON.md tells what
they were learnt from, and what that is worth.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import math
import re
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from indexer.analysis import MAX_TERM, placed
from indexer.analysis import terms as analysed
from indexer.errors import FatalError
from indexer.lexicon import Bilingual, English, Ids, Table, Weights, keys_of
from indexer.segment import SCRIPT_DECIDES

log = logging.getLogger(__name__)

LEXICONS = Path(__file__).parent / "lexicons"
ENGLISH = "en"
# Passages whose words are taken for English as they are.
_AS_ENGLISH = frozenset({ENGLISH, "code", ""})
# Raised when the same text and lexicons come to other concepts.
_VERSION = 1


# Concepts of a passage are kept as id << 4 | level; how often one is to be expected, by level.
_LEVELS = np.array([0.1, 0.15, 0.22, 0.33, 0.5, 0.7, 1, 1.4, 2, 2.8, 4, 5.6, 8, 11, 16, 23], np.float32)
_LEVEL_BITS = 4
_MOST_CONCEPTS = 600
_LEAST_ODDS = 0.03
# English words stand in the texts of all languages, and some are words of theirs: a short query that could be
# in English is (in nats).
_FOR_ENGLISH = 2.5
# Of so few words most are words of several languages; twice as much then.
_FEW = 2
_FOR_USUAL = 2.0
_FOR_TOLD = 2.5
# Every language has words that English has, too: one that is not the person's has to be much likelier.
_AGAINST_STRANGE = 4.0
# With so many more words than one a gloss counts in full.
_WHOLE = 2
# Words of the most frequent concepts say nothing by themselves: a gloss of nothing else is none.
_FREQUENT = 60
# Languages of other scripts do not come into question for words in Latin letters.
_NOT_LATIN = frozenset({"ar", "bg", "el", "fa", "he", "hi", "ja", "ko", "ru", "sr", "th", "uk", "zh"})
_LATIN_ONLY = re.compile("[^\u0370-\U0010ffff]*")
# So sure must a language be for a query to be glossed: the gloss of another would be beside the point.
_GLOSSED = 0.6
# Languages that are so much less likely than the likeliest, in nats, are none.
_UNLIKELY = 12.0
_LONGEST = 64  # terms of a query that are translated

_KATAKANA = re.compile("[\u30a1-\u30fa\u30fc]{2,}")
_HIRAGANA = re.compile("[\u3041-\u309f]+")
_IDEOGRAPH = re.compile("[\u2e80-\u9fff]")
# No Japanese word begins with a small letter or a lengthened vowel.
NO_START = frozenset("ーッャュョァィゥェォン")
_COMPOUNDING = frozenset({"de", "nl", "sv", "da", "fi", "hu"})
_LINKS = ("", "s", "es", "n", "en", "er", "e")
_PART = 4  # letters of the parts of a compound
_LONGEST_KATAKANA = 12  # of the parts of one in Katakana


_T = TypeVar("_T")


class Concepts(NamedTuple):
    """What a text is about, as far as its words tell.

    Attributes:
        ids: uint32 (n,), ascending.
        weights: float32 (n,); in a passage how often each is to be expected, in a query how far it is meant.
    """

    ids: Ids
    weights: Weights


NO_CONCEPTS = Concepts(np.zeros(0, np.uint32), np.zeros(0, np.float32))


class Gloss(NamedTuple):
    """A query word by word in English.

    Attributes:
        text: The words; empty where there is no gloss.
        sure: How likely its words are the right ones, 0 to 1, on average; less where they are few.
    """

    text: str
    sure: float


NO_GLOSS = Gloss("", 0.0)


class Passages(NamedTuple):
    """The concepts of several passages.

    Attributes:
        rows: int64 (n,): which passage.
        ids: uint32 (n,): which concept.
        weights: float32 (n,): how often it is to be expected there.
    """

    rows: npt.NDArray[np.int64]
    ids: Ids
    weights: Weights


class Usage(NamedTuple):
    """How common concepts are in a library, by some of its passages.

    Attributes:
        passages: How many were looked at.
        length: Mean sum of a passage's weights.
        ids: uint32 (n,), ascending.
        among: How many of them have each concept, float32 (n,); one that may be meant counts in part.
    """

    passages: int
    length: float
    ids: Ids
    among: Weights


# --- terms ----------------------------------------------------------------------------------


def lexical_terms(text: str, found: Iterable[str] | None = None) -> list[str]:
    """The terms that are translated.

    Args:
        text: Any text.
        found: What `analysis.terms` made of it, where that is known already.

    Returns:
        Those terms, but for what means nothing by itself: pairs of Hiragana and single ideographs. Words in
        Katakana are whole, since their pairs mean nothing either.
    """
    if text.isascii():
        return list(analysed(text) if found is None else found)
    words: list[str] = []
    if _KATAKANA.search(text := unicodedata.normalize("NFKC", text)):
        words = [_short(word) for word in _KATAKANA.findall(text)]
        found = analysed(_KATAKANA.sub(" ", text))
    elif found is None:
        found = analysed(text)
    kept = [term for term in found if not _HIRAGANA.fullmatch(term)]
    # One ideograph alone is kept where nothing else is.
    return ([term for term in kept if not _IDEOGRAPH.fullmatch(term)] or kept) + words


def _short(word: str) -> str:
    """A word in Katakana without the lengthened last vowel that some write and others do not."""
    word = word[:MAX_TERM]
    return word[:-1] if len(word) > 3 and word.endswith("ー") else word


# --- the pivot ------------------------------------------------------------------------------


class Pivot:
    """Brings the words of texts to concepts. Lexicons are read when they are first needed, by any thread.

    Args:
        folder: Where the lexicons are.
    """

    def __init__(self, folder: Path = LEXICONS) -> None:
        self._folder = folder
        self._lexicons: dict[str, Bilingual | None] = {}
        self.languages = frozenset(file.stem for file in folder.glob("*.npz"))
        """Those whose words are known, English among them."""

    @functools.cached_property
    def key(self) -> str:
        """Names the lexicons; concepts of passages under another key must not be compared."""
        digest = hashlib.blake2b(bytes([_VERSION]), digest_size=6)
        for file in sorted(self._folder.glob("*.npz")):
            # The archives' own checksums, so that 11 MB need not be read for it.
            try:
                with zipfile.ZipFile(file) as archive:
                    sums = [part.CRC for part in archive.infolist()]
            except (OSError, zipfile.BadZipFile):
                sums = []
            digest.update(f"{file.name} {sums}\n".encode())
        return digest.hexdigest()

    @functools.cached_property
    def _english(self) -> English:
        return self._read(ENGLISH, English)

    def _content(self, lang: str) -> bytes:
        try:
            return (self._folder / f"{lang}.npz").read_bytes()
        except OSError as error:
            raise FatalError(
                "A lexicon cannot be read", f"{error.strerror}. Install Dragoman again."
            ) from error

    def _read(self, lang: str, kind: Callable[[bytes], _T]) -> _T:
        try:
            return kind(self._content(lang))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise FatalError("A lexicon is damaged", f"{lang}: {error}. Install Dragoman again.") from error

    def _lexicon(self, lang: str) -> Bilingual | None:
        if lang in _AS_ENGLISH or lang not in self.languages:
            return None
        known = self._lexicons  # `rest` puts another in its place at any moment
        if lang not in known:
            try:
                known[lang] = self._read(lang, Bilingual)
            except FatalError as error:
                # One language less is no reason to search in none.
                log.error("%s", error)  # noqa: TRY400  nothing more is to be known of it
                known[lang] = None
        return known[lang]

    @property
    def loaded(self) -> bool:
        """Whether all lexicons have been read."""
        return len(self._lexicons) >= len(self.languages - _AS_ENGLISH)

    def load(self) -> None:
        """Read all lexicons, so that no query has to wait for that."""
        self._english.knows([])
        for lang in sorted(self.languages):
            self._lexicon(lang)

    def rest(self) -> None:
        """Give the memory back until somebody asks again."""
        self._lexicons = {}
        self.__dict__.pop("_english", None)

    # --- passages --------------------------------------------------------------------------

    def passage(self, found: Sequence[str], lang: str) -> bytes:
        """What a passage is about, in the form that is stored.

        Args:
            found: Its terms, of `lexical_terms`.
            lang: Its language as `segment.language` names it, or ``code``.

        Returns:
            uint32, little endian, ascending: concept << 4 | how often it is to be expected, in 16 levels.
        """
        counts = Counter(found)
        concepts = self._translated(list(counts), np.array(list(counts.values()), np.float32), lang)
        ids, weights = concepts
        kept = weights >= _LEVELS[0]
        ids, weights = ids[kept], weights[kept]
        if len(ids) > _MOST_CONCEPTS:
            most = np.sort(np.argpartition(-weights, _MOST_CONCEPTS)[:_MOST_CONCEPTS])
            ids, weights = ids[most], weights[most]
        middles = np.sqrt(_LEVELS[:-1] * _LEVELS[1:])
        levels = np.searchsorted(middles, weights).astype(np.uint32)
        packed: bytes = (ids << np.uint32(_LEVEL_BITS) | levels).astype("<u4").tobytes()
        return packed

    def _translated(self, found: Sequence[str], times: Weights, lang: str) -> Concepts:
        """Concepts of distinct terms, of which each counts so many times."""
        which, ids, chances = self._meanings(found, lang)
        return _summed([(ids, chances * times[which])])

    def _meanings(self, found: Sequence[str], lang: str) -> tuple[npt.NDArray[np.int64], Ids, Weights]:
        """What distinct terms mean; words that the lexicon does not know stand for themselves.

        Returns:
            For each meaning which term has it, its concept, and how likely it is meant.
        """
        lexicon = self._lexicon(lang)
        if lexicon is None:
            kept = [n for n, term in enumerate(found) if lang in _AS_ENGLISH or term.isascii()]
            ids = self._english.ids([found[n] for n in kept])
            return np.array(kept, np.int64), ids, np.ones(len(kept), np.float32)
        places = lexicon.table.places(keys_of(found))
        known = np.flatnonzero(places >= 0)
        which, ids, chances = lexicon.entries(places[known])
        summands = [(known[which], ids, chances)]
        themselves = []
        for n in np.flatnonzero(places < 0).tolist():
            parts = _parts(found[n], lang, lexicon.table)
            if parts:
                which, ids, chances = lexicon.entries(lexicon.table.places(keys_of(parts)))
                summands.append((np.full(len(which), n), ids, chances))
            elif found[n].isascii():
                themselves.append(n)
        if themselves:
            ids = self._english.ids([found[n] for n in themselves])
            summands.append((np.array(themselves), ids, np.ones(len(themselves), np.float32)))
        return (
            np.concatenate([which for which, _, _ in summands]),
            np.concatenate([ids for _, ids, _ in summands]),
            np.concatenate([chances for _, _, chances in summands]),
        )

    def places(self, text: str, lang: str, asked: Concepts, least: float) -> list[tuple[int, int]]:
        """Where a passage says what was asked for, in whatever words.

        Args:
            text: The passage.
            lang: Its language, or ``code``.
            asked: Concepts of a query that are worth being shown.
            least: How likely a word must mean one of them.

        Returns:
            Start and end of each such word, in order of start.
        """
        if not len(asked.ids):
            return []
        words = [piece for piece in placed(text) if not _HIRAGANA.fullmatch(piece[0])]
        if _KATAKANA.search(text):
            words = [piece for piece in words if not _KATAKANA.fullmatch(piece[0])]
            words += [(_short(m.group()), *m.span()) for m in _KATAKANA.finditer(text)]
        distinct = {term: n for n, term in enumerate(dict.fromkeys(term for term, _, _ in words))}
        which, ids, chances = self._meanings(list(distinct), lang)
        meant = set(which[(chances >= least) & np.isin(ids, asked.ids)].tolist())
        return sorted((start, end) for term, start, end in words if distinct[term] in meant)

    # --- queries ---------------------------------------------------------------------------

    def query(self, text: str, odds: Mapping[str, float]) -> Concepts:
        """What a query is about.

        Args:
            text: As a person typed it.
            odds: How likely it is in which language.
        """
        found = list(dict.fromkeys(lexical_terms(text)))[:_LONGEST]
        once = np.ones(len(found), np.float32)
        summands = []
        for lang, chance in odds.items():
            if chance >= _LEAST_ODDS:
                ids, weights = self._translated(found, once, lang)
                summands.append((ids, weights * np.float32(chance)))
        ids, weights = _summed(summands)
        return Concepts(ids, np.minimum(weights, 1.0))

    def languages_of(self, text: str, told: str, usual: Collection[str] = ()) -> dict[str, float]:
        """In which languages with a lexicon a query may be, by how its words are used.

        Args:
            text: As a person typed it.
            told: What `segment.language` says. Where that is by its script, or names a language without a
                lexicon, it is believed; else words tell more.
            usual: Languages in which the person has files, and so rather asks than in others.

        Returns:
            Odds that add up to 1, or none where no lexicon has anything of it.
        """
        candidates = self._candidates(text, told, usual)
        found = list(dict.fromkeys(lexical_terms(text)))[:_LONGEST]
        if len(candidates) == 1 or not found:
            return dict.fromkeys(candidates, 1.0) if found else {}
        keys = keys_of(found)
        surprises: dict[str, float] = {}
        for lang in candidates:
            if lang == ENGLISH:
                knows, surprise = self._english.knows(found), self._english.surprise(found) - _FOR_ENGLISH
                surprise -= _FOR_ENGLISH * (knows == len(found) <= _FEW)
            else:
                lexicon = self._lexicon(lang)
                if lexicon is None:
                    continue
                places = lexicon.table.places(keys)
                knows, surprise = int((places >= 0).sum()), lexicon.surprise(places)
            if knows:
                surprises[lang] = surprise - _FOR_USUAL * (lang in usual) - _FOR_TOLD * (lang == told)
                if lang not in {ENGLISH, told} and lang not in usual:
                    surprises[lang] += _AGAINST_STRANGE
        if not surprises:
            return {}
        least = min(surprises.values())
        likely = {lang: math.exp(least - s) for lang, s in surprises.items() if s - least < _UNLIKELY}
        total = sum(likely.values())
        return {lang: chance / total for lang, chance in likely.items()}

    def _candidates(self, text: str, told: str, usual: Collection[str]) -> list[str]:
        """The languages that a query may be in."""
        if told == "zh":
            # Words in Chinese characters may be Japanese, where somebody has anything in Japanese.
            return sorted({"zh", "ja"} & self.languages) if "ja" in usual else ["zh"]
        if told in SCRIPT_DECIDES or (told and told not in self.languages):
            return [told] if told in self.languages else []
        latin = _LATIN_ONLY.fullmatch(text) is not None
        return sorted(self.languages - _NOT_LATIN) if latin else sorted(self.languages)

    def gloss(self, text: str, odds: Mapping[str, float]) -> Gloss:
        """A query word by word in English.

        Args:
            text: As a person typed it, and short.
            odds: How likely it is in which language.

        Returns:
            Nothing where it is in English, its language is not told for sure, or nothing of it is known.
        """
        lang = max(odds, key=lambda name: odds[name], default=ENGLISH)
        lexicon = self._lexicon(lang)
        if lexicon is None or odds[lang] < _GLOSSED:
            return NO_GLOSS
        words: dict[str, float] = {}
        told = 0
        for term in itertools.islice(_in_order(text), _LONGEST):
            (place,) = lexicon.table.places(keys_of([term])).tolist()
            parts = [term] if place >= 0 else _parts(term, lang, lexicon.table)
            for part in parts:
                _, ids, chances = lexicon.entries(lexicon.table.places(keys_of([part])))
                best = int(np.argmax(chances))
                words.setdefault(self._english.word(int(ids[best])), float(chances[best]))
                told += int(ids[best]) >= _FREQUENT
            if not parts and term.isascii():
                words.setdefault(term, 1.0)
        if not told:
            return NO_GLOSS
        # A word alone may mean anything; with others beside it, one that is wrong does little.
        whole = min(1.0, (len(words) - 1) / _WHOLE)
        return Gloss(" ".join(words), whole * sum(words.values()) / len(words)) if whole else NO_GLOSS


@functools.cache
def pivot() -> Pivot:
    """The lexicons that are shipped."""
    return Pivot()


def _summed(summands: Sequence[tuple[Ids, Weights]]) -> Concepts:
    if not summands:
        return NO_CONCEPTS
    ids, where = np.unique(np.concatenate([ids for ids, _ in summands]), return_inverse=True)
    weights = np.bincount(where, np.concatenate([w for _, w in summands]), len(ids))
    return Concepts(ids.astype(np.uint32), weights.astype(np.float32))


def _in_order(text: str) -> Iterator[str]:
    """The terms of a text, each once, in the order in which they begin there."""
    folded = "".join(
        c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c)
    )
    folded = unicodedata.normalize("NFC", folded)
    found = dict.fromkeys(lexical_terms(text))
    places = {term: folded.find(term) for term in found}
    yield from sorted(found, key=lambda term: places[term] if places[term] >= 0 else len(folded))


def _parts(term: str, lang: str, known: Table) -> list[str]:
    """Known words that an unknown one is put together of; empty where it is not."""
    if len(term) > MAX_TERM:
        return []
    if lang == "ja" and _KATAKANA.fullmatch(term):
        return _katakana_parts(term, known)
    if lang not in _COMPOUNDING or len(term) < 2 * _PART or not term.isalpha():
        return []
    cuts = [at for at in range(_PART, len(term) - _PART + 1)]
    rests = known.places(keys_of([term[at:] for at in cuts]))
    for at, place in zip(cuts, rests.tolist(), strict=True):
        if place < 0:
            continue
        for link in _LINKS:
            first = term[:at].removesuffix(link) if link else term[:at]
            if (
                len(first) >= _PART
                and term[:at].endswith(link)
                and (known.places(keys_of([first])) >= 0).all()
            ):
                return [first, term[at:]]
    return []


def _katakana_parts(term: str, known: Table) -> list[str]:
    """The fewest known words that make it up."""
    best: dict[int, list[str]] = {0: []}
    for start, end in itertools.combinations(range(len(term) + 1), 2):
        if start not in best or not 2 <= end - start <= _LONGEST_KATAKANA or term[start] in NO_START:
            continue
        if end in best and len(best[end]) <= len(best[start]) + 1:
            continue
        piece = _short(term[start:end])
        if (known.places(keys_of([piece])) >= 0).all():
            best[end] = [*best[start], piece]
    return best.get(len(term), [])


def opened(stored: Sequence[bytes]) -> Passages:
    """What `Pivot.passage` stored of several passages, in their order."""
    sizes = [len(one) // 4 for one in stored]
    packed = np.frombuffer(b"".join(one[: 4 * size] for one, size in zip(stored, sizes, strict=True)), "<u4")
    rows = np.repeat(np.arange(len(stored)), sizes)
    weights = _LEVELS[packed & np.uint32((1 << _LEVEL_BITS) - 1)]
    return Passages(rows, (packed >> np.uint32(_LEVEL_BITS)).astype(np.uint32), weights)


def usage(passages: Passages, number: int) -> Usage:
    """How common concepts are among `number` passages."""
    ids, where = np.unique(passages.ids, return_inverse=True)
    among = np.bincount(where, np.minimum(passages.weights, 1.0), len(ids)).astype(np.float32)
    length = float(passages.weights.sum()) / max(1, number)
    return Usage(number, length, ids.astype(np.uint32), among)
