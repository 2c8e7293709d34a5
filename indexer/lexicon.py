"""The files below `lexicons/`: what the words of a language mean in English, and how often they are used.

Each is a zip file of numpy arrays that is read without pickle. Terms are kept by their checksums and
concepts, which are English stems, by their numbers in ``en.npz``. `packaging/train_lexicon.py` writes them
with `save_lexicon` and `save_concepts`; `indexer.pivot` is what reads them.
"""

from __future__ import annotations

import functools
import io
import math
import threading
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint32]
Weights = npt.NDArray[np.float32]

# Ids of stems that no lexicon knows begin here and are made of their checksum.
UNKNOWN = 1 << 16
_IDS = 1 << 28
# Probabilities are flattened by this power: a lexicon is surer of its first translation than it should be.
_FLATTEN = 0.7
# Words in the texts of the largest lexicons; and what a word costs that a language does not know.
_COMPARABLE = 5e6
_UNKNOWN_NATS = 17.0


class Stemmer(Protocol):
    """What snowballstemmer gives, and PyStemmer where that is installed."""

    def stemWord(self, word: str) -> str:  # noqa: N802  their name
        """The stem of a word in lower case."""


def stem(term: str) -> str:
    """An English word without its endings, by Porter's second stemmer; what is no word stays as it is."""
    return _stemmer().stemWord(term) if term.isalpha() and term.isascii() else term


def _stemmer() -> Stemmer:
    """This thread's own: a stemmer keeps the word that it is at in itself."""
    found: Stemmer | None = getattr(_of_thread, "stemmer", None)
    if found is None:
        from snowballstemmer import stemmer

        found = _of_thread.stemmer = stemmer("english")
    return found


_of_thread = threading.local()


def key_of(term: str) -> int:
    """What a term is kept by."""
    return zlib.crc32(term.encode("utf-8", "replace"))


def keys_of(found: Sequence[str]) -> Ids:
    """The keys of terms, uint32 (n,)."""
    return np.fromiter(map(key_of, found), np.uint32, len(found))


class Table:
    """Sorted keys and what each stands for."""

    def __init__(self, keys: Ids) -> None:
        self.keys_of = keys

    def __len__(self) -> int:
        return len(self.keys_of)

    def places(self, keys: Ids) -> npt.NDArray[np.int64]:
        """Where the keys are; -1 for those that are not."""
        if not len(self.keys_of):
            return np.full(len(keys), -1, np.int64)
        at = np.minimum(np.searchsorted(self.keys_of, keys), len(self.keys_of) - 1)
        return np.where(self.keys_of[at] == keys, at, -1)


class Bilingual:
    """What the words of a language mean, and how often they are used.

    Args:
        content: That of its file.

    Raises:
        ValueError: It is damaged; `KeyError`, `OSError`, `EOFError`, `zipfile.BadZipFile` and `zlib.error`
            mean the same.
    """

    def __init__(self, content: bytes) -> None:
        with _opened(content) as arrays:
            self.table = Table(_undone(arrays["keys"]))
            sizes = arrays["sizes"].astype(np.int64)
            self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
            self._concepts = arrays["concepts"].astype(np.uint16)
            self._chances = arrays["chances"].astype(np.uint8)
            self._uses = arrays["uses"].astype(np.int64)
            self._total = float(arrays["total"])
        if not len(self.table) == len(sizes) == len(self._uses) or not (
            self._starts[-1] == len(self._concepts) == len(self._chances)
        ):
            raise ValueError("its parts do not fit together")

    def entries(self, places: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Ids, Weights]:
        """Which of the places, which concept and how likely it is meant, for every translation of them."""
        sizes = self._starts[places + 1] - self._starts[places]
        which = np.repeat(np.arange(len(places)), sizes)
        at = np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + self._starts[places][which]
        chances = (self._chances[at].astype(np.float32) / 255) ** _FLATTEN
        return which, self._concepts[at].astype(np.uint32), chances

    def surprise(self, places: npt.NDArray[np.int64]) -> float:
        """How little these words (-1: unknown) are to be expected in the language, in nats."""
        return _surprise(np.where(places >= 0, self._uses[places], -1), self._total)


class English:
    """The concepts: English stems.

    Args:
        content: That of their file.

    Raises:
        ValueError: It is damaged; and as `Bilingual`.
    """

    def __init__(self, content: bytes) -> None:
        with _opened(content) as arrays:
            words = arrays["words"].tobytes().decode().split("\n")
            self._uses = arrays["uses"].astype(np.int64)
            self._total = float(arrays["total"])
            # Not made of the words again: stemming them all takes a second.
            keys = _undone(arrays["keys"])
            self._order = arrays["order"].astype(np.int64)
        self._words = words
        self._table = Table(keys)
        if not len(words) == len(self._uses) == len(keys) == len(self._order) or not len(words):
            raise ValueError("its parts do not fit together")

    def word(self, number: int) -> str:
        """How a concept is usually written."""
        return self._words[number]

    def ids(self, found: Sequence[str]) -> Ids:
        """The concept of each word."""
        keys = keys_of([_stem(word) for word in found])
        places = self._table.places(keys)
        unknown = UNKNOWN + keys % np.uint32(_IDS - UNKNOWN)
        return np.where(places >= 0, self._order[places], unknown).astype(np.uint32)

    def surprise(self, found: Sequence[str]) -> float:
        """As `Bilingual.surprise`."""
        ids = self.ids(found)
        known = ids < UNKNOWN
        return _surprise(np.where(known, self._uses[np.where(known, ids, 0)], -1), self._total)

    def knows(self, found: Sequence[str]) -> int:
        """How many of these words are concepts."""
        return int((self.ids(found) < UNKNOWN).sum())


def _surprise(quarters: npt.NDArray[np.int64], total: float) -> float:
    """Nats, for words used so often (quarters of binary logarithms; -1 for unknown ones)."""
    # Less text must not make its rare words, most of which are foreign, more likely than more text does.
    among = math.log(max(total, _COMPARABLE))
    cost = np.where(quarters >= 0, among - quarters * (math.log(2) / 4), _UNKNOWN_NATS)
    return float(cost.sum())


_stem = functools.lru_cache(1 << 14)(stem)


def _opened(content: bytes) -> np.lib.npyio.NpzFile:
    file: np.lib.npyio.NpzFile = np.load(io.BytesIO(content), allow_pickle=False)
    return file


def _planes(keys: Ids) -> npt.NDArray[np.uint8]:
    """The bytes of the differences of ascending keys, which pack better than the keys."""
    differences = np.diff(keys, prepend=np.uint32(0)).astype("<u4").view(np.uint8).reshape(-1, 4)
    return np.ascontiguousarray(differences.T)


def _undone(planes: npt.NDArray[np.uint8]) -> Ids:
    """Ascending keys from the bytes of their differences, the lowest bytes first."""
    return np.cumsum(np.ascontiguousarray(planes.T).view("<u4")[:, 0], dtype=np.uint32)


def save_lexicon(meanings: Mapping[str, Sequence[tuple[int, float]]], uses: Mapping[str, int]) -> bytes:
    """The content of a language's file.

    Args:
        meanings: For each term the concepts it is translated by, and how likely each is (0 to 1).
        uses: How often each term was seen.
    """
    found = {key_of(term): term for term in meanings}
    keys = np.array(sorted(found), np.uint32)
    ordered = [found[key] for key in keys.tolist()]
    return _packed(
        keys=_planes(keys),
        sizes=np.array([len(meanings[term]) for term in ordered], np.uint8),
        concepts=np.array([c for term in ordered for c, _ in meanings[term]], np.uint16),
        chances=np.array([max(1, round(p * 255)) for term in ordered for _, p in meanings[term]], np.uint8),
        uses=_quarters([uses[term] for term in ordered]),
        total=np.array(float(sum(uses.values()))),
    )


def save_concepts(words: Sequence[str], uses: Sequence[int]) -> bytes:
    """The content of the file of concepts.

    Args:
        words: How each is usually written; its `stem` is what it is known by, its place its number.
        uses: How often it was seen.
    """
    keys = keys_of([stem(word) for word in words])
    order = np.argsort(keys, kind="stable")
    return _packed(
        keys=_planes(keys[order]),
        order=order.astype(np.uint16),
        words=np.frombuffer("\n".join(words).encode(), np.uint8),
        uses=_quarters(uses),
        total=np.array(float(sum(uses))),
    )


def _quarters(uses: Sequence[int]) -> npt.NDArray[np.uint8]:
    return np.array([min(255, round(4 * math.log2(max(1, n)))) for n in uses], np.uint8)


def _packed(**arrays: npt.NDArray[np.generic]) -> bytes:
    """The same bytes for the same arrays, unlike `numpy.savez`, which notes the time."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), part.getvalue(), zipfile.ZIP_DEFLATED, 9)
    return out.getvalue()
