"""A query's way: parse, embed, gather candidates by meaning and by words, rank, group by file, explain."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import msgspec
import numpy as np

from indexer import api, rank
from indexer.analysis import QueryTerm, occurrences, query_terms
from indexer.errors import IndexerError
from indexer.fold import Folder
from indexer.manners import COURTESY
from indexer.pivot import ENGLISH, NO_CONCEPTS, NO_GLOSS, Concepts, Gloss, Usage, pivot
from indexer.query import All, Condition, In, Not, Query, parse, without_phrases
from indexer.query import Any as AnyOf
from indexer.segment import SCRIPT_DECIDES, language, sentences
from indexer.store import Lexical, Pool, Store, StoredChunk, VectorIndex

if TYPE_CHECKING:
    from indexer.embed import Vectors
    from indexer.embed.rerank import RerankThread
    from indexer.embed.space import LanguageSpace
    from indexer.embed.thread import EncoderThread

_T = TypeVar("_T")

MAX_HITS = 200
MAX_PASSAGES = 20
# Nearest texts that are looked at, and those that the words bring in.
NEAR = 160
MOST_NEAR = 4000  # where all of these are in fewer files than wanted
BY_WORDS = 120
BY_NAME = 12
# A query of more words is taken for pasted text: embedded piece by piece, sought by its rarest words.
LONG_WORDS = 60
PIECE_CHARACTERS = 700
MAX_PIECES = 12
MAX_TERMS = 32
# Characters that are taken apart in no time worth mentioning.
SHORT = 2000
# Copies of a file that are kept out of the search for what is similar to it; others only out of its hits.
MAX_LEFT_OUT = 16
# Hits below this similarity are shown as weak. Of 96 questions to the sample library, most in another
# language than the answer, 76 in 100 right answers are above it; of 20 that it cannot answer, 30 in 100.
WEAK = 0.25
# What words and the plain cosine add to the best of what is unrelated, in standard deviations: the scale is
# that of meanings alone. With it as many queries that mean nothing, or nothing in a library of 108 files,
# are weak as before there were concepts.
MORE_THAN_MEANING = 0.3
# Sentences of the best hits are embedded to find the one to mark; people see the first hits first.
MARKED_HITS = 10
MARKED_SENTENCES = 24
SENTENCE_CACHE = 4096
RERANKED_HITS = 20
SHOWN_COPIES = 8
SHOWN_TERMS = 12
_NOT_TO_THE_LETTER = api.QueryProblem(
    start=0, end=0, message="no file has the words in quotation marks side by side; these are the nearest"
)
# A model that is ready but has not answered by then is not waited for any longer before words are shown.
LATE_S = 1.0
_NOTHING_UNRELATED = rank.Background({}, 0.0, 0.0, 1.0, 0.0, 1.0)
# So often, at most, is the library sampled anew for what its languages' texts are like.
SAMPLE_S = 20.0
SAMPLE = 96
# Texts by which it is told how common concepts are, told anew when the library has grown by this share.
USAGE_SAMPLE = 4096
USAGE_STALE = 0.1
USAGE_S = 600.0
# So likely must a word of a passage mean what was asked for to be shown as a reason.
MEANT = 0.5
# A person has files in a language if this share of the library is in it.
USUAL = 0.02


class _Asked(NamedTuple):
    """One of the texts of a query, made ready."""

    text: str  # empty for what is in the index already
    neutral: Vectors  # (dim,), in the space that is searched
    plain: Vectors  # (dim,), as the encoder gave it
    own: dict[str, float]
    lexical: Lexical
    terms: tuple[QueryTerm, ...]
    concepts: Concepts = NO_CONCEPTS


class _Read(NamedTuple):
    """What a text of a query says by itself."""

    text: str
    told: str  # its language, where that can be told
    odds: dict[str, float]  # the languages that its words are used in
    gloss: Gloss  # in English, word by word
    concepts: Concepts


class _Found(NamedTuple):
    """What ranking made of a query: rows of `pool`, and the texts that were asked."""

    pool: Pool
    ranked: rank.Ranked
    words: rank.Words
    asked: _Asked
    concepts: Concepts = NO_CONCEPTS  # of the query, those worth being shown

    def said(self, row: int) -> _Said:
        """What a row was found by."""
        here = np.flatnonzero(self.words.found[row]).tolist()
        return _Said(self.asked, tuple(self.asked.terms[term] for term in here), self.concepts)


class _Said(NamedTuple):
    """What a passage was found by: a text of the query, its terms that stand there, and its concepts."""

    asked: _Asked
    terms: tuple[QueryTerm, ...]
    concepts: Concepts


class WordSearcher:
    """Answers searches from the store by filters and words alone, as long as there is no model.

    Args:
        store: Open.
        options: What evidence counts in ranking.
    """

    def __init__(self, store: Store, options: rank.Options = rank.DEFAULT) -> None:
        self._store = store
        self._options = options

    async def answer(
        self, request: api.Search, trouble: IndexerError | None = None
    ) -> api.SearchResult | None:
        """What filters and words find.

        Args:
            request: The query and its limits.
            trouble: Why there is no model, when there will be none; the answer then is final and says so.

        Returns:
            A final answer where filters are all that was asked for, otherwise one with `by_words`; None where
            words cannot help: in a search for what is similar to something indexed.
        """
        began = time.perf_counter()
        query = await _aside(parse, request.query)
        where = _narrowed(query.where, request.folders)
        like = request.like
        by_words = like is not None or bool(query.texts)
        if like is not None and not like.text.strip():
            return None
        if by_words:
            texts = query.texts if like is None else (like.text,)
            hits = await asyncio.to_thread(self._by_words, texts, where, request)
        else:
            hits = await asyncio.to_thread(self._listed, where, request) if query.where else ()
        problems = query.problems
        if by_words and trouble is not None:
            problems = (*problems, _only_words(trouble))
        return api.SearchResult(
            id=request.id,
            hits=hits,
            final=not by_words or trouble is not None,
            took_ms=(time.perf_counter() - began) * 1e3,
            problems=problems,
            by_words=by_words,
        )

    def _by_words(
        self, texts: Sequence[str], where: Condition | None, request: api.Search
    ) -> tuple[api.Hit, ...]:
        """The files that the words of any of these texts speak for most, best first."""
        limit = min(max(request.limit, 1), MAX_HITS)
        passages = min(max(request.passages, 1), MAX_PASSAGES)
        allowed = self._store.allowed(where)
        found = []
        for text in texts:
            lexical = self._store.lexical(_telling(query_terms(text)))
            pool = self._store.pool_by_words(
                rank.lexical_candidates(lexical, BY_WORDS, allowed),
                rank.lexical_files(lexical, BY_NAME),
                where,
            )
            words = rank.words(lexical, pool)
            none = np.zeros(0, np.float32)
            terms = tuple(match.term for match in lexical.matches)
            asked = _Asked(text, none, none, {}, lexical, terms)
            ranked = rank.rank(pool, _NOTHING_UNRELATED, words, {}, self._options)
            found.append(_Found(pool, ranked, words, asked))
        groups = _with_few_copies(_merged(found), limit)[:limit]
        ids = [int(one.pool.chunks[row]) for one, rows, _ in groups for row in rows[:passages]]
        chunks = self._store.chunks(ids)
        hits = []
        for one, rows, _ in groups:
            said = {int(one.pool.chunks[row]): one.said(row) for row in rows[:passages]}
            shown = tuple(
                _passage_by_words(chunks[int(one.pool.chunks[row])], float(one.ranked.words[row]))
                for row in rows[:passages]
                if int(one.pool.chunks[row]) in chunks
            )
            if shown:
                hit = msgspec.structs.replace(_as_hit(chunks[shown[0].chunk], 0.0, shown), weak=False)
                hits.append(_worded(hit, said) if request.mark else hit)
        return tuple(hits)

    def _listed(self, where: Condition | None, request: api.Search) -> tuple[api.Hit, ...]:
        """Files that fulfil a condition when nothing is sought, newest first."""
        ids = self._store.listed(where, min(max(request.limit, 1), MAX_HITS))
        chunks = self._store.chunks(ids)
        return tuple(
            _as_hit(chunks[i], 1.0, (_passage_by_words(chunks[i], 0.0, similarity=1.0),))
            for i in ids
            if i in chunks
        )


class Searcher(WordSearcher):
    """Answers searches from the store with the service's encoder.

    Args:
        store: Open, with a model in use.
        encoder: The thread that owns that model.
        space: Where the store compares vectors; None for the encoder's own space.
        index: That model's vectors in the store; None for the active index.
        reranker: Gives the reranker to use, or None while there is none or nobody wants it.
        options: What evidence counts in ranking.
    """

    def __init__(
        self,
        store: Store,
        encoder: EncoderThread,
        *,
        space: LanguageSpace | None = None,
        index: VectorIndex | None = None,
        reranker: Callable[[bool | None], RerankThread | None] = lambda _: None,
        options: rank.Options = rank.DEFAULT,
    ) -> None:
        super().__init__(store, options)
        self._encoder = encoder
        self._space = space
        self._reranker = reranker
        self._index = index or store.active
        self._folder = Folder(self._index, space)
        self._idle = threading.Condition()
        self._under_way = 0
        self._sentences: OrderedDict[str, Vectors] = OrderedDict()
        self._sample: tuple[float, dict[str, Vectors]] = (-SAMPLE_S, {})
        self._usage: tuple[int, float, Usage] | None = None

    def wait_idle(self, timeout: float) -> bool:
        """Wait until no search is under way; False when one still is after `timeout` seconds."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._under_way, timeout)

    async def search(
        self, request: api.Search, *, words_given: bool = False
    ) -> AsyncIterator[api.SearchResult]:
        """As `_search`, which does it; `wait_idle` counts it."""
        with self._idle:
            self._under_way += 1
        try:
            results = self._search(request, words_given=words_given)
            with COURTESY.asked():
                # The first hits are what is waited for; sentences are marked and hits reordered after that.
                first = await anext(results)
            yield first
            async for result in results:
                yield result
        finally:
            with self._idle:
                self._under_way -= 1
                self._idle.notify_all()

    async def _search(self, request: api.Search, *, words_given: bool) -> AsyncIterator[api.SearchResult]:
        """Answer a search: the hits at once, then with their sentences marked, then in a better order.

        While the model is being loaded, or is late, what the words find comes before that; where it cannot be
        used, it is the answer. Cancelling the surrounding task stops the work at its next step.

        Args:
            request: The query and its limits.
            words_given: Whether an answer by words was given already.

        Yields:
            One to four results; the last is final.

        Raises:
            IndexerError: There is nothing of which similar things could be sought, or the index of a model
                that the request names cannot be used.
        """
        began = time.perf_counter()
        query = await _aside(parse, request.query)
        where = _narrowed(query.where, request.folders)
        encoded = began
        hits: tuple[api.Hit, ...] = ()
        said: dict[int, _Said] = {}
        reranker: RerankThread | None = None
        if request.like is None and not query.texts:
            hits = await asyncio.to_thread(self._listed, where, request) if query.where else ()
        else:
            asking = asyncio.create_task(self._ask(query, request))
            try:
                if not words_given and not request.model and await self._is_late(asking):
                    by_words = await self.answer(request)
                    if by_words is not None and not asking.done():
                        yield by_words
                asked = await asking
            except IndexerError as error:
                by_words = None if request.model else await self.answer(request, error)
                if by_words is None:
                    raise
                yield by_words
                return
            finally:
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            encoded = time.perf_counter()
            looser = _narrowed(without_phrases(query.where), request.folders)

            def find() -> bool:
                """All in one thread: beside other work, each way to another costs milliseconds."""
                nonlocal hits, said, reranker
                hits, said = self._hits(asked, where, request)
                loosened = not hits and looser != where
                if loosened:
                    hits, said = self._hits(asked, looser, request)
                if hits and query.texts and request.like is None and request.rerank is not False:
                    reranker = self._reranker(request.rerank)
                return loosened

            if await asyncio.to_thread(find) and hits:
                query = msgspec.structs.replace(query, problems=(*query.problems, _NOT_TO_THE_LETTER))
        result = api.SearchResult(
            id=request.id,
            hits=hits,
            final=False,
            took_ms=(time.perf_counter() - began) * 1e3,
            encode_ms=(encoded - began) * 1e3,
            problems=query.problems,
        )

        def later(hits: tuple[api.Hit, ...], *, final: bool, reranked: bool = False) -> api.SearchResult:
            took = (time.perf_counter() - began) * 1e3
            return msgspec.structs.replace(result, hits=hits, final=final, reranked=reranked, took_ms=took)

        marking = request.mark and bool(said)
        yield msgspec.structs.replace(result, final=not marking and reranker is None)
        if marking:
            worded = await asyncio.to_thread(lambda: tuple(_worded(hit, said) for hit in hits))
            hits = await self._mark(worded, said)
            yield later(hits, final=reranker is None)
        if reranker is not None:
            better = await _reranked(reranker, hits, said)
            yield later(better or hits, final=True, reranked=better is not None)

    # --- asking ------------------------------------------------------------------------------

    async def _is_late(self, asking: asyncio.Task[list[_Asked]]) -> bool:
        """Whether the model cannot be expected to answer soon."""
        unloaded = self._encoder.status.state in {"loading", "resting"}
        patience = 0.0 if unloaded else LATE_S
        await asyncio.wait({asking}, timeout=patience)
        return not asking.done()

    async def _ask(self, query: Query, request: api.Search) -> list[_Asked]:
        like = request.like
        if like is not None and not like.text.strip():
            if not (like.path or like.chunk):
                raise IndexerError("Nothing to compare with", "The text is empty.")
            plain = await asyncio.to_thread(self._stored, like)
            return [
                self._made(
                    plain[None], _Read("", "", {}, NO_GLOSS, NO_CONCEPTS), Lexical((), {}), passage=True
                )
            ]
        texts = query.texts if like is None else (like.text,)
        long = [like is not None or _is_long(text) for text in texts]
        if not pivot().loaded:
            await asyncio.to_thread(pivot().load)
        usual = self._store.languages(USUAL)
        read = [
            await _aside(functools.partial(_read, usual=usual, whole=not passage), text)
            for text, passage in zip(texts, long, strict=True)
        ]
        futures = []
        try:
            for one, passage in zip(read, long, strict=True):
                if passage:
                    pieces = await _aside(_pieces, one.text)
                    futures.append(self._encoder.passages(pieces, urgent=True))
                else:
                    gloss = [one.gloss.text] if one.gloss.text and self._options.gloss else []
                    futures.append(self._encoder.query([one.text, *gloss], _task(query, request)))
            # Words are looked up while the encoder works.
            looks = await asyncio.gather(*(asyncio.to_thread(self._looks, text) for text in texts))
            rows = [await asyncio.wrap_future(future) for future in futures]
        finally:
            for future in futures:
                future.cancel()  # when nobody waits any more; one that is done stays as it is
        return [
            self._made(vectors, one, look, passage=passage)
            for vectors, one, look, passage in zip(rows, read, looks, long, strict=True)
        ]

    def _looks(self, text: str) -> Lexical:
        """Where the words of a text stand."""
        self._usage_now()  # while the encoder works
        return self._store.lexical(_telling(query_terms(text)))

    def _made(self, vectors: Vectors, read: _Read, lexical: Lexical, *, passage: bool) -> _Asked:
        """What was asked, ready to be searched for.

        Args:
            vectors: Of a passage, of its pieces; else of the query and, in a second row, of its gloss.
            read: Its text and what that says by itself.
            lexical: Where its words stand.
            passage: Whether it was embedded as passages are.
        """
        plain = _unit(vectors.mean(0) if passage else vectors[0])
        own: dict[str, float] = {}
        neutral = plain
        if self._space is not None:
            move = self._space.passages if passage else self._space.queries
            neutral = move(plain[None])[0]
            if not passage:
                own = self._space.languages_of(plain)
                if len(vectors) > 1:
                    weight = self._options.gloss * read.gloss.sure
                    neutral = _unit(neutral + weight * move(_unit(vectors[1])[None])[0])
        if read.odds:
            # They tell the language of short texts better than vectors do (docs/LEXICON.md).
            own = read.odds
        elif read.told in SCRIPT_DECIDES:
            own = {read.told: 1.0}
        elif read.told:
            own = {name: odds / 2 for name, odds in own.items()}
            own[read.told] = own.get(read.told, 0.0) + 0.5
        # What was looked for beside a word is found in the passages, too.
        terms = tuple(match.term for match in lexical.matches)
        return _Asked(read.text, neutral, plain, own, lexical, terms, read.concepts)

    def _stored(self, like: api.Like) -> Vectors:
        """The mean vector of an indexed file, or the vector of a passage."""
        path = api.local_path(like.path)
        rows = self._index.plain(path=path) if path else self._index.plain(chunk=like.chunk)
        if not len(rows):
            raise IndexerError(
                "Nothing to compare with", f"{path or 'The passage'} is not in the index (any more)."
            )
        mean: Vectors = rows.mean(0)
        return mean

    # --- finding -----------------------------------------------------------------------------

    def _hits(
        self, asked: Sequence[_Asked], where: Condition | None, request: api.Search
    ) -> tuple[tuple[api.Hit, ...], dict[int, _Said]]:
        """The hits, and what each of their passages was found by (by chunk)."""
        limit = min(max(request.limit, 1), MAX_HITS)
        passages = min(max(request.passages, 1), MAX_PASSAGES)
        near = max(NEAR, 4 * limit)
        left_out = self._left_out(request.like)
        if left_out:
            # A long file would otherwise be all that is near to itself.
            others = tuple(Not(In(path)) for path in list(left_out.values())[:MAX_LEFT_OUT])
            where = All(others if where is None else (where, *others))
        allowed = self._store.allowed(where)
        while True:
            found = [self._find(one, near, where, allowed) for one in asked]
            files = len({int(file) for one in found for file in one.pool.files})
            if files >= limit or 4 * near > MOST_NEAR or all(len(one.pool.chunks) < near for one in found):
                break
            near *= 4
        groups = _merged(found)
        groups = [group for group in groups if int(group[0].pool.files[group[1][0]]) not in left_out]
        # Some more than asked for, since some fold into others.
        groups = _with_few_copies(groups, limit + limit // 2 + 4) if request.fold else groups[:limit]
        ids = [int(found.pool.chunks[row]) for found, rows, _ in groups for row in rows[:passages]]
        chunks = self._store.chunks(ids)
        hits, keys = [], []
        said: dict[int, _Said] = {}
        for one, rows, score in groups:
            shown = [row for row in rows[:passages] if int(one.pool.chunks[row]) in chunks]
            if shown:
                hits.append(self._hit(one, shown, score, chunks))
                keys.append(int(one.pool.files[rows[0]]))
            for row in shown:
                said[int(one.pool.chunks[row])] = one.said(row)
        if request.fold:
            hits = self._folder.fold(hits, keys)
        return tuple(hits[:limit]), said

    def _find(self, asked: _Asked, near: int, where: Condition | None, allowed: rank.Ids | None) -> _Found:
        pool = self._index.pool(
            asked.neutral,
            asked.plain,
            near,
            texts=rank.lexical_candidates(asked.lexical, BY_WORDS, allowed),
            files=rank.lexical_files(asked.lexical, BY_NAME),
            where=where,
        )
        words = rank.words(asked.lexical, pool)
        around = self._background(asked)
        usage = self._usage_now() if self._options.concepts and len(asked.concepts.ids) else None
        passages = None if usage is None else self._store.concepts(pool.texts)
        if usage is None or passages is None:
            options = self._options
            if options == rank.DEFAULT and len(asked.concepts.ids):
                options = rank.WITHOUT_CONCEPTS
            return _Found(pool, rank.rank(pool, around, words, asked.own, options), words, asked)
        meant = rank.concepts(asked.concepts, passages, len(pool.texts), usage)
        ranked = rank.rank(pool, around, words, asked.own, self._options, meant)
        return _Found(pool, ranked, words, asked, rank.telling(asked.concepts, usage))

    def _usage_now(self) -> Usage | None:
        """How common concepts are in the library; None where that is not known yet."""
        size = self._store.text_count()
        now = time.monotonic()
        if (
            self._usage is None
            or abs(size - self._usage[0]) > USAGE_STALE * self._usage[0]
            or now - self._usage[1] > USAGE_S
        ):
            usage = self._store.usage(USAGE_SAMPLE)
            if usage is None:
                return None
            self._usage = (size, now, usage)
        return self._usage[2]

    def _background(self, asked: _Asked) -> rank.Background:
        taken, sample = self._sample
        now = time.monotonic()
        if now - taken > SAMPLE_S:
            sample = self._index.sample(SAMPLE)
            self._sample = (now, sample)
        if self._space is not None:
            reference, plain = self._space.reference, self._space.reference_plain
        else:
            rows = [rows for rows in sample.values() if len(rows)]
            reference = plain = np.concatenate(rows) if rows else np.zeros((1, len(asked.plain)), np.float32)
        spread = self._space.spread if self._space is not None else None
        return rank.background(asked.neutral, asked.plain, sample, reference, plain, spread)

    def _left_out(self, like: api.Like | None) -> dict[int, str]:
        """Ids and paths: the file itself is not similar to itself, nor are its copies."""
        if like is None or like.text.strip():
            return {}
        path = api.local_path(like.path)
        return self._store.same_files(path=path) if path else self._store.same_files(chunk=like.chunk)

    # --- showing -----------------------------------------------------------------------------

    def _hit(
        self, found: _Found, rows: Sequence[int], score: float, chunks: dict[int, StoredChunk]
    ) -> api.Hit:
        similarity = self._similarity(score)
        passages = tuple(self._passage(found, row, chunks[int(found.pool.chunks[row])]) for row in rows)
        # The file's similarity is that of its best passage, and no other's is higher.
        shown = [similarity, *(min(similarity, passage.similarity) for passage in passages[1:])]
        passages = tuple(
            msgspec.structs.replace(passage, similarity=value)
            for passage, value in zip(passages, shown, strict=True)
        )
        return _as_hit(chunks[int(found.pool.chunks[rows[0]])], similarity, passages)

    def _passage(self, found: _Found, row: int, chunk: StoredChunk) -> api.Passage:
        ranked = found.ranked
        by_words = float(ranked.words[row])
        return api.Passage(
            chunk=chunk.chunk,
            text=chunk.text,
            start=chunk.start,
            locator=chunk.locator,
            lang=chunk.lang,
            similarity=self._similarity(float(ranked.score[row]) + ranked.level),
            why=api.Why(
                cosine=round(float(found.pool.plain[row]), 4),
                meaning=round(float(ranked.score[row]) - by_words + ranked.level, 3),
                words=round(by_words, 3),
            ),
        )

    def _similarity(self, distance: float) -> float:
        from indexer.embed.space import similarity

        distance -= MORE_THAN_MEANING
        if self._space is not None:
            return round(self._space.similarity(distance), 4)
        return round(similarity(distance), 4)

    async def _mark(self, hits: tuple[api.Hit, ...], said: dict[int, _Said]) -> tuple[api.Hit, ...]:
        """The hits with `mark` set in the first passage of the first ones."""
        spans: dict[str, list[tuple[int, int]]] = {}
        for hit in hits[:MARKED_HITS]:
            passage = hit.passages[0]
            if passage.lang != "code":
                spans[passage.text] = sentences(passage.text)[:MARKED_SENTENCES]
        texts = [text[a:b] for text, found in spans.items() if len(found) > 1 for a, b in found]
        # Copied out of the cache at once: another search may trim it while this one waits.
        vectors = {text: self._sentences[text] for text in texts if text in self._sentences}
        unknown = [text for text in dict.fromkeys(texts) if text not in vectors]
        if unknown:
            try:
                rows = await asyncio.wrap_future(self._encoder.passages(unknown, urgent=True))
            except Exception:  # noqa: BLE001  the encoder's thread has told; the hits are right without marks
                return hits
            if self._space is not None:
                rows = self._space.passages(rows)
            vectors.update(zip(unknown, rows, strict=True))
            self._sentences.update(vectors)
        marked = []
        for hit in hits:
            passage = hit.passages[0]
            found = spans.get(passage.text)
            if found:
                best = found[0]
                if len(found) > 1:
                    query = said[passage.chunk].asked.neutral
                    best = max(found, key=lambda ab: float(vectors[passage.text[ab[0] : ab[1]]] @ query))
                first = msgspec.structs.replace(passage, mark=best)
                hit = msgspec.structs.replace(hit, passages=(first, *hit.passages[1:]))
            marked.append(hit)
        while len(self._sentences) > SENTENCE_CACHE:
            self._sentences.popitem(last=False)
        return tuple(marked)


def _read(text: str, usual: Collection[str], *, whole: bool) -> _Read:
    """What a text says by itself; its gloss only where it is embedded as a whole."""
    told = language(text)
    odds = pivot().languages_of(text, told, usual)
    gloss = pivot().gloss(text, odds) if whole else NO_GLOSS
    # Words of which nothing is known may be names.
    return _Read(text, told, odds, gloss, pivot().query(text, odds or {ENGLISH: 1.0}))


def _unit(vector: Vectors) -> Vectors:
    unit: Vectors = vector / max(float(np.linalg.norm(vector)), 1e-6)
    return unit


async def _aside(work: Callable[[str], _T], text: str) -> _T:
    """What `work` makes of a text; others who wait are not held up by a long one."""
    return work(text) if len(text) <= SHORT else await asyncio.to_thread(work, text)


def _narrowed(where: Condition | None, folders: Sequence[str]) -> Condition | None:
    """A condition that also holds only below one of the folders."""
    below = tuple(In(api.local_path(path)) for path in folders)
    if not below:
        return where
    inside: Condition = below[0] if len(below) == 1 else AnyOf(below)
    return inside if where is None else All((where, inside))


def _only_words(trouble: IndexerError) -> api.QueryProblem:
    message = f"only words were compared, because there is no language model. {trouble}"
    return api.QueryProblem(start=0, end=0, message=message)


def _merged(found: Sequence[_Found]) -> list[tuple[_Found, list[int], float]]:
    """Files with their rows, best first; of a file found by several texts, the best of them."""
    best: dict[int, tuple[_Found, list[int], float]] = {}
    for one in found:
        for rows, score in zip(one.ranked.order, one.ranked.file_scores, strict=True):
            file = int(one.pool.files[rows[0]])
            level = score + one.ranked.level
            if file not in best or level > best[file][2]:
                best[file] = (one, rows, level)
    return sorted(best.values(), key=lambda entry: -entry[2])


def _with_few_copies(
    groups: Sequence[tuple[_Found, list[int], float]], most: int
) -> list[tuple[_Found, list[int], float]]:
    """The first `most` files, and some copies of each, whose great number must not hide the others."""
    kept = []
    seen: Counter[tuple[int, int]] = Counter()
    for group in groups:
        pool, best = group[0].pool, group[1][0]
        same = int(pool.texts[best]), int(pool.of_file[best])
        if same not in seen and len(seen) == most:
            break
        seen[same] += 1
        if seen[same] <= SHOWN_COPIES:
            kept.append(group)
    return kept


def _task(query: Query, request: api.Search) -> api.Task:
    """What is sought, where the request does not say: instruction-aware models want to know."""
    if request.task:
        return request.task
    if "type:code" in request.query.casefold().split():
        return "code"
    return (
        "question"
        if any(text.rstrip().endswith(("?", "\uff1f", "\u061f")) for text in query.texts)
        else "notes"
    )


def _is_long(text: str) -> bool:
    return len(text) > 4 * LONG_WORDS or len(text.split()) > LONG_WORDS


def _pieces(text: str) -> list[str]:
    """A long text in pieces of some sentences, evenly picked when there are many."""
    pieces: list[str] = []
    at = 0
    for _, end in sentences(text) or [(0, len(text))]:
        if end - at >= PIECE_CHARACTERS:
            pieces.append(text[at:end])
            at = end
    if text[at:].strip() or not pieces:
        pieces.append(text[at:])
    if len(pieces) > MAX_PIECES:
        pieces = [pieces[i * len(pieces) // MAX_PIECES] for i in range(MAX_PIECES)]
    return pieces


def _telling(terms: list[QueryTerm]) -> list[QueryTerm]:
    """The terms of a query; of pasted text those that say most, as far as their looks tell."""
    if len(terms) <= MAX_TERMS:
        return terms
    wholes = [term for term in terms if term.whole < 0]
    wholes.sort(key=lambda term: (not term.universal, -len(term.word)))
    return wholes[:MAX_TERMS]


def _worded(hit: api.Hit, said: dict[int, _Said]) -> api.Hit:
    """A hit whose passages, and those of its variants, tell where words of the query stand in them."""
    variants = tuple(
        msgspec.structs.replace(variant, passages=tuple(_with_words(p, said) for p in variant.passages))
        for variant in hit.variants
    )
    passages = tuple(_with_words(passage, said) for passage in hit.passages)
    return msgspec.structs.replace(hit, passages=passages, variants=variants)


def _with_words(passage: api.Passage, said: dict[int, _Said]) -> api.Passage:
    found = said[passage.chunk]
    places = [(start, end) for start, end, _ in occurrences(passage.text, found.terms)] if found.terms else []
    places += pivot().places(passage.text, passage.lang, found.concepts, MEANT)
    spans = _joined(sorted(places))
    if not spans:
        return passage
    shown = dict.fromkeys(passage.text[a:b].casefold() for a, b in spans)
    why = msgspec.structs.replace(passage.why, terms=tuple(shown)[:SHOWN_TERMS])
    return msgspec.structs.replace(passage, why=why, words=tuple(spans))


def _joined(places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches of text in order of their start, overlapping ones as one."""
    joined: list[tuple[int, int]] = []
    for start, end in places:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _passage_by_words(chunk: StoredChunk, words: float, similarity: float = 0.0) -> api.Passage:
    """A passage of which no vector was looked at."""
    return api.Passage(
        chunk=chunk.chunk,
        text=chunk.text,
        start=chunk.start,
        locator=chunk.locator,
        lang=chunk.lang,
        similarity=similarity,
        why=api.Why(cosine=0.0, meaning=0.0, words=round(words, 3)),
    )


def _as_hit(best: StoredChunk, similarity: float, passages: tuple[api.Passage, ...]) -> api.Hit:
    return api.Hit(
        path=best.path,
        root=best.root,
        media=best.media,
        title=best.title,
        similarity=similarity,
        passages=passages,
        code_language=best.code_language,
        online=best.online,
        weak=similarity < WEAK,
    )


async def _reranked(
    reranker: RerankThread, hits: tuple[api.Hit, ...], said: dict[int, _Said]
) -> tuple[api.Hit, ...] | None:
    """The first hits in the reranker's order, the others behind them; None when it gave none."""
    head = [hit.passages[0] for hit in hits[:RERANKED_HITS]]
    # Each by the one of the query's alternatives that it was found by.
    by_text: dict[str, list[int]] = {}
    for at, passage in enumerate(head):
        by_text.setdefault(said[passage.chunk].asked.text, []).append(at)
    answers = await asyncio.gather(
        *(
            asyncio.wrap_future(reranker.rerank(text, [head[at].text for at in places]))
            for text, places in by_text.items()
        )
    )
    scores = np.zeros(len(head), np.float32)
    for places, answer in zip(by_text.values(), answers, strict=True):
        if answer is None:
            return None
        scores[places] = answer
    judged = []
    for at in np.argsort(-scores, kind="stable").tolist():
        why = msgspec.structs.replace(head[at].why, reranked=round(float(scores[at]), 4))
        first = msgspec.structs.replace(head[at], why=why)
        judged.append(msgspec.structs.replace(hits[at], passages=(first, *hits[at].passages[1:])))
    return (*judged, *hits[len(head) :])
