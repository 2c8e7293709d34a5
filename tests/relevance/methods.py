"""What Dragoman's ranking is compared with: the usual ways to rank, on the same passages and vectors.

Each takes the passages of a library and answers queries with files, best first; a file is as good as its best
passage.
"""

from __future__ import annotations

import asyncio
import math
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from indexer import api, rank
from indexer.analysis import terms
from indexer.api import Task
from indexer.embed import Vectors
from indexer.embed.load import bundled_info, load_encoder
from indexer.embed.space import space_of
from indexer.embed.thread import EncoderThread
from indexer.search import Searcher
from indexer.settings import Settings
from indexer.store import ModelKey, Store
from indexer.store.database import CATALOG_FILE
from tests.relevance.product import Indexed
from tests.relevance.scores import DEPTH

Floats = npt.NDArray[np.float64]
# For each query, files from the best on.
Answers = list[list[str]]

# The constants that everybody uses.
K1, B = 1.2, 0.75
RRF = 60


@dataclass(frozen=True)
class Passages:
    """Everything that a library's catalog holds of its files.

    Attributes:
        files: Paths relative to the library's folder.
        file: For each passage its file, a place in `files`.
        texts: What was embedded of each passage: its headings and itself.
        vectors: float32 (passages, dim), as the encoder gave them but for the rounding to half precision.
    """

    model: str
    files: list[str]
    file: npt.NDArray[np.int64]
    texts: list[str]
    vectors: Vectors


def passages(library: Indexed) -> Passages:
    """Read a library's catalog; its service must have ended.

    Raises:
        RuntimeError: The library is empty.
    """
    with closing(sqlite3.connect(f"file:{library.data_dir / CATALOG_FILE}?mode=ro", uri=True)) as db:
        model, dim, number = db.execute(
            "SELECT models.key, dim, models.id FROM models JOIN indexes ON model = models.id"
            " ORDER BY indexes.id DESC LIMIT 1"
        ).fetchone() or ("", 0, 0)
        rows = db.execute(
            "SELECT path, context, text, data FROM chunks JOIN files ON files.id = file"
            " JOIN vectors ON vectors.key = (? << 32 | text_id) ORDER BY path, slot",
            (number,),
        ).fetchall()
    if not rows:
        raise RuntimeError(f"There is nothing in {library.data_dir}.")
    folder = library.folder.absolute()
    paths = [Path(bytes(row[0]).decode()).relative_to(folder).as_posix() for row in rows]
    files = sorted(set(paths))
    place = {path: number for number, path in enumerate(files)}
    vectors = np.frombuffer(b"".join(row[3] for row in rows), "<f2").reshape(-1, dim).astype(np.float32)
    return Passages(
        model=model,
        files=files,
        file=np.array([place[path] for path in paths]),
        texts=[f"{context}\n{text}" if context else text for _, context, text, _ in rows],
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
    )


def best_files(scores: Floats, library: Passages, depth: int = DEPTH) -> list[str]:
    """The files of the best passages, best first; passages that score nothing (-inf) are not found."""
    best = np.full(len(library.files), -np.inf)
    np.maximum.at(best, library.file, scores)
    order = np.argsort(-best, kind="stable")[:depth]
    return [library.files[at] for at in order if best[at] > -np.inf]


# --- words --------------------------------------------------------------------------------

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")


def plain_terms(text: str) -> list[str]:
    """Words in lower case and, for Chinese and Japanese, pairs of characters: what search engines do."""
    terms = []
    for word in _WORD.findall(text.casefold()):
        if _UNSPACED.match(word) and len(word) > 1:
            terms += [word[at : at + 2] for at in range(len(word) - 1)]
        else:
            terms.append(word)
    return terms


class BM25:
    """Okapi BM25 as Lucene has it: no weight is negative.

    Args:
        documents: Terms of each document.
    """

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        lengths = np.array([len(document) for document in documents], np.float64)
        self._norm = K1 * (1 - B + B * lengths / max(1.0, float(lengths.mean())))
        postings: dict[str, tuple[list[int], list[int]]] = {}
        for number, document in enumerate(documents):
            for term, count in Counter(document).items():
                numbers, counts = postings.setdefault(term, ([], []))
                numbers.append(number)
                counts.append(count)
        self._postings = {
            term: (np.array(numbers), np.array(counts, np.float64))
            for term, (numbers, counts) in postings.items()
        }

    def scores(self, query: Sequence[str]) -> Floats:
        """Score of every document, 0 for those with none of the terms."""
        scores = np.zeros(len(self._norm))
        for term in dict.fromkeys(query):
            if term in self._postings:
                numbers, counts = self._postings[term]
                weight = math.log(1 + (len(scores) - len(numbers) + 0.5) / (len(numbers) + 0.5))
                scores[numbers] += weight * counts * (K1 + 1) / (counts + self._norm[numbers])
        return scores


# --- ways to rank -------------------------------------------------------------------------


class Remembering(EncoderThread):
    """The product's own thread for the encoder, which embeds a query that was asked before only once."""

    def __init__(self) -> None:
        super().__init__(lambda: load_encoder(Settings()))
        self._known: dict[tuple[str, ...], Future[Vectors]] = {}
        self.start()

    def query(self, texts: Sequence[str], task: Task = "notes") -> Future[Vectors]:
        """Embed a query and what stands beside it, float32 (n, dim)."""
        asked = tuple(texts)
        if asked not in self._known:
            self._known[asked] = super().query(texts, task)
        return self._known[asked]


@dataclass(frozen=True)
class Usual:
    """The usual ways to rank one library."""

    library: Passages
    encoder: EncoderThread

    @cached_property
    def _plain(self) -> BM25:
        return BM25([plain_terms(text) for text in self.library.texts])

    def bm25(self, queries: Sequence[str]) -> Answers:
        """Words alone."""
        return self._words(self._plain, plain_terms, queries)

    def bm25_analysed(self, queries: Sequence[str]) -> Answers:
        """Words alone, cut by Dragoman: without accents, identifiers in parts."""
        return self._words(BM25([terms(text) for text in self.library.texts]), terms, queries)

    def _words(self, index: BM25, cut: Callable[[str], list[str]], queries: Sequence[str]) -> Answers:
        found = []
        for query in queries:
            scores = index.scores(cut(query))
            found.append(best_files(np.where(scores > 0, scores, -np.inf), self.library))
        return found

    def _encoded(self, queries: Sequence[str]) -> Vectors:
        return np.concatenate([self.encoder.query([query]).result() for query in queries])

    def _cosines(self, queries: Sequence[str]) -> Floats:
        cosines: Floats = (self._encoded(queries) @ self.library.vectors.T).astype(np.float64)
        return cosines

    def cosine(self, queries: Sequence[str]) -> Answers:
        """Meaning alone, as the encoder sees it: what vector search does."""
        return [best_files(row, self.library) for row in self._cosines(queries)]

    def neutral(self, queries: Sequence[str]) -> Answers:
        """Meaning alone, with what languages differ in taken out by the shipped profile."""
        space = space_of(self.library.model)
        if space is None:
            raise RuntimeError(f"There is no profile for {self.library.model}.")
        vectors = space.queries(self._encoded(queries))
        cosines = vectors @ space.passages(self.library.vectors).T
        return [best_files(row.astype(np.float64), self.library) for row in cosines]

    def reciprocal(self, queries: Sequence[str]) -> Answers:
        """Meaning and words by reciprocal rank fusion: what hybrid search does."""
        found = []
        for query, cosines in zip(queries, self._cosines(queries), strict=True):
            words = self._plain.scores(plain_terms(query))
            scores = 1 / (RRF + 1 + _places(cosines))
            scores += np.where(words > 0, 1 / (RRF + 1 + _places(words)), 0.0)
            found.append(best_files(scores, self.library))
        return found

    def standardised(self, queries: Sequence[str]) -> Answers:
        """Meaning and words, each with mean 0 and deviation 1 over the library, added."""
        return [
            best_files(_standard(cosines) + _standard(self._plain.scores(plain_terms(query))), self.library)
            for query, cosines in zip(queries, self._cosines(queries), strict=True)
        ]


def _places(scores: Floats) -> npt.NDArray[np.int64]:
    """Place of each score, from 0 for the highest."""
    places = np.empty(len(scores), np.int64)
    places[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    return places


def _standard(scores: Floats) -> Floats:
    spread = float(scores.std())
    standard: Floats = (scores - scores.mean()) / (spread if spread > 0 else 1.0)
    return standard


# --- the product, one kind of evidence after the other ------------------------------------

_EVIDENCE = {
    "by_language": "cosines within each language",
    "words": "words",
    "name": "names of files",
    "concepts": "what words mean in any language",
    "context": "what they mean elsewhere in a file",
    "gloss": "the query's gloss in English",
    "own": "plain cosine in the query's own language",
    "file": "a file's other passages",
}


def steps(library: Indexed, encoder: EncoderThread, queries: Sequence[str]) -> dict[str, Answers]:
    """What the product's own searcher finds when its kinds of evidence are added one by one.

    Args:
        library: Its service must have ended.
        encoder: To embed the queries with.
        queries: What is asked, as in a search field.

    Returns:
        By what was added, in the order of `rank.Options`. Nothing is folded.
    """
    info = bundled_info()
    space = space_of(info.key)
    off = {name: type(value)() for name, value in msgspec.structs.asdict(rank.DEFAULT).items()}
    store = Store(library.data_dir)
    try:
        store.use_model(ModelKey(key=info.key, dim=info.dim), space)
        found = {}
        for name in off.copy():
            off[name] = getattr(rank.DEFAULT, name)
            searcher = Searcher(store, encoder, space=space, options=rank.Options(**off))
            found[f"+ {_EVIDENCE.get(name, name)}"] = asyncio.run(_asked(searcher, library, queries))
        return found
    finally:
        store.close()


async def _asked(searcher: Searcher, library: Indexed, queries: Sequence[str]) -> Answers:
    folder = library.folder.absolute()
    answers = []
    for number, query in enumerate(queries):
        request = api.Search(id=number, query=query, limit=DEPTH, fold=False, mark=False, rerank=False)
        async for result in searcher.search(request):
            hits = result.hits
        answers.append([Path(api.local_path(hit.path)).relative_to(folder).as_posix() for hit in hits])
    return answers
