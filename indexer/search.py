"""A query's way: embed it, find the nearest chunks, group them by file, mark the sentence that answers."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from indexer import api
from indexer.errors import IndexerError
from indexer.query import Any as AnyOf
from indexer.query import In
from indexer.store import Candidate, Store, StoredChunk

if TYPE_CHECKING:
    from indexer.embed import Vectors
    from indexer.embed.space import LanguageSpace
    from indexer.embed.thread import EncoderThread

MAX_HITS = 200
MAX_PASSAGES = 20
# Chunks asked for per wanted file at first; doubled until there are enough files.
CHUNKS_PER_FILE = 6
MAX_CANDIDATES = 4000
# Sentences of the best hits are embedded to find the one to mark; people see the first hits first.
MARKED_HITS = 10
MARKED_SENTENCES = 24
SENTENCE_CACHE = 4096


class Searcher:
    """Answers searches from the store with the service's encoder.

    Args:
        store: Open, with a model in use.
        encoder: The thread that owns that model.
        space: Where the store compares vectors; None for the encoder's own space.
        cosine_floor: Cosine of unrelated texts there, shown as similarity 0, when `space` is None.
    """

    def __init__(
        self,
        store: Store,
        encoder: EncoderThread,
        *,
        space: LanguageSpace | None = None,
        cosine_floor: float = 0.0,
    ) -> None:
        self._store = store
        self._encoder = encoder
        self._space = space
        self._floor = cosine_floor
        self._sentences: OrderedDict[str, Vectors] = OrderedDict()

    async def search(self, request: api.Search) -> AsyncIterator[api.SearchResult]:
        """Answer a search: the hits at once, then the same hits with their sentences marked.

        Cancelling the surrounding task stops the work at its next step.

        Args:
            request: The query and its limits.

        Yields:
            One or two results; the last is final.

        Raises:
            IndexerError: The model could not be loaded.
        """
        began = time.perf_counter()
        text = request.query.strip()
        if not text:
            yield api.SearchResult(id=request.id, hits=(), final=True, took_ms=0.0)
            return
        vectors = await asyncio.wrap_future(self._encoder.query([text]))
        query = (self._space.queries(vectors) if self._space is not None else vectors)[0]
        encoded = time.perf_counter()
        hits = await asyncio.to_thread(self._hits, query, request)
        result = api.SearchResult(
            id=request.id,
            hits=hits,
            final=not (request.mark and hits),
            took_ms=(time.perf_counter() - began) * 1e3,
            encode_ms=(encoded - began) * 1e3,
        )
        yield result
        if not result.final:
            marked = await self._mark(query, hits)
            took = (time.perf_counter() - began) * 1e3
            yield msgspec.structs.replace(result, hits=marked, final=True, took_ms=took)

    def _hits(self, query: Vectors, request: api.Search) -> tuple[api.Hit, ...]:
        limit = min(max(request.limit, 1), MAX_HITS)
        passages = min(max(request.passages, 1), MAX_PASSAGES)
        wanted = limit * CHUNKS_PER_FILE
        folders = tuple(In(api.local_path(path)) for path in request.folders)
        where = AnyOf(folders) if folders else None
        while True:
            candidates = self._store.nearest(query, wanted, where=where)
            chunks = self._store.chunks([candidate.chunk for candidate in candidates])
            grouped = _by_file(candidates, chunks)
            if len(grouped) >= limit or len(candidates) < wanted or wanted >= MAX_CANDIDATES:
                break
            wanted = min(wanted * 3, MAX_CANDIDATES)
        return tuple(self._hit(group[:passages]) for group in list(grouped.values())[:limit])

    def _hit(self, group: Sequence[tuple[StoredChunk, float]]) -> api.Hit:
        best, cosine = group[0]
        return api.Hit(
            path=best.path,
            root=best.root,
            media=best.media,
            title=best.title,
            similarity=self._similarity(cosine),
            passages=tuple(self._passage(chunk, cosine) for chunk, cosine in group),
            code_language=best.code_language,
            online=best.online,
        )

    def _passage(self, chunk: StoredChunk, cosine: float) -> api.Passage:
        return api.Passage(
            chunk=chunk.chunk,
            text=chunk.text,
            start=chunk.start,
            locator=chunk.locator,
            lang=chunk.lang,
            similarity=self._similarity(cosine),
            why=api.Why(cosine=round(cosine, 4), meaning=round(cosine, 4)),
        )

    def _similarity(self, cosine: float) -> float:
        if self._space is not None:
            return round(self._space.similarity(cosine), 4)
        return round(min(1.0, max(0.0, (cosine - self._floor) / (1.0 - self._floor))), 4)

    async def _mark(self, query: Vectors, hits: tuple[api.Hit, ...]) -> tuple[api.Hit, ...]:
        """The hits with `mark` set in the first passage of the first ones."""
        from indexer.segment import sentences

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
            except IndexerError:
                return hits  # the hits are right without their marks
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
                    best = max(found, key=lambda ab: float(vectors[passage.text[ab[0] : ab[1]]] @ query))
                first = msgspec.structs.replace(passage, mark=best)
                hit = msgspec.structs.replace(hit, passages=(first, *hit.passages[1:]))
            marked.append(hit)
        while len(self._sentences) > SENTENCE_CACHE:
            self._sentences.popitem(last=False)
        return tuple(marked)


def _by_file(
    candidates: Sequence[Candidate], chunks: dict[int, StoredChunk]
) -> dict[str, list[tuple[StoredChunk, float]]]:
    """Chunks of each file, best first; files in the order of their best chunk.

    A chunk that the catalog gave up between the two reads is left out.
    """
    grouped: dict[str, list[tuple[StoredChunk, float]]] = {}
    for candidate in candidates:
        chunk = chunks.get(candidate.chunk)
        if chunk is not None:
            grouped.setdefault(chunk.path, []).append((chunk, candidate.cosine))
    return grouped
