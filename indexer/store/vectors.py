"""One model's index: its ledger, the exact matrix and, for the active model, Chroma; and searching in it."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from indexer import api
from indexer.embed.space import LanguageSpace
from indexer.errors import IndexerError
from indexer.pivot import pivot
from indexer.query import Condition
from indexer.store.accelerator import Accelerator
from indexer.store.catalog import Catalog, Change
from indexer.store.database import Database
from indexer.store.engine import Engines
from indexer.store.filters import Filters, Selection
from indexer.store.ledger import Index, Ledger, Vector, unit_rows
from indexer.store.matrix import GATHER_COST, Matrix, MemoryMatrix, View
from indexer.store.types import Candidate, ModelKey, Outline, Pool

log = logging.getLogger(__name__)

# Microseconds for a search: comparing with one more row, asking Chroma at all, and for one more.
_ROW_US = 0.08
_ASKING_US = 1200.0
_CANDIDATE_US = 13.0
_PATIENCE_S = 0.25  # behind what is being written, before exact search serves
# Texts that Chroma does not have yet are compared exactly, up to so many, or this share of all.
_PENDING_LIMIT = 4_000
_PENDING_SHARE = 8
POOL_LIMIT = 20_000
# Chunks that are looked at of one text: a licence may be in thousands of files, and leaves room for others.
COPIES = 50
COPIES_FILTERED = 2_000  # the condition leaves only some of them
_FILE_SAMPLE = 48
_COMPARED = 1000  # vectors asked of the accelerator at once
_SAME = 1e-4  # it keeps float32 as it was given


def _as_given(vectors: Vector) -> Vector:
    return vectors


def tabled(rows: Sequence[Any]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Rows of `Catalog.rows_of`, each chunk once: int64 (n, 5), the languages as numbers, and their codes."""
    numbers: dict[str, int] = {}
    table = np.array([(*row[:4], numbers.setdefault(row[4], len(numbers))) for row in rows], np.int64)
    table = table.reshape(-1, 5)
    _, first = np.unique(table[:, 0], return_index=True)
    return table[first], tuple(numbers)


def _empty_pool() -> Pool:
    none, nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return Pool(none, none, none, none, none, (), nothing, nothing)


class Compared(NamedTuple):
    """What an accelerator has, against what it should have: ids of texts, int64, sorted.

    Attributes:
        known: How many vectors it acknowledged.
        lost: Those of them that it does not have.
        wrong: Under these it has another vector than the catalog.
        strange: It has a vector, and there never was such a text.
        stale: It has a vector of a text that was deleted, whose id is still to be given to another one.
    """

    known: int
    lost: npt.NDArray[np.int64]
    wrong: npt.NDArray[np.int64]
    strange: npt.NDArray[np.int64]
    stale: npt.NDArray[np.int64]


class VectorIndex:
    """The vectors of one model, searchable. Every method may be called from any thread.

    Args:
        catalog: The truth.
        filters: Answers conditions, for all models alike.
        folder: The library's data folder; None to keep the matrix in memory.
        ledger: The model's part of the catalog.
        space: Where vectors are compared; None for the encoder's own space.

    Raises:
        IndexerError: The matrix cannot be written.
    """

    def __init__(
        self,
        catalog: Catalog,
        filters: Filters,
        folder: Path | None,
        ledger: Ledger,
        space: LanguageSpace | None,
    ) -> None:
        self._catalog = catalog
        self._filters = filters
        self._folder = folder
        self._ledger = ledger
        self._accelerator: Accelerator | None = None
        self._closed = False
        self.space = space
        with catalog.quiet():
            if space is None:
                same = ledger.use_space("", _as_given)
            else:
                same = ledger.use_space(space.key, space.passages)
            try:
                self._matrix = self._open_matrix(mirrors=same and catalog.was_clean)
            except OSError as error:
                where = "memory" if folder is None else str(self.file)
                odd = error.errno in (errno.EISDIR, errno.ENOTDIR, errno.ELOOP)
                advice = "Move it away; it is made anew." if odd else "Make room there."
                raise IndexerError(
                    "The vectors cannot be written", f"{where}: {error.strerror}. {advice}"
                ) from error

    @property
    def model(self) -> ModelKey:
        """Whose vectors these are."""
        return self._ledger.model

    @property
    def ledger(self) -> Ledger:
        """The model's part of the catalog."""
        return self._ledger

    @property
    def file(self) -> Path | None:
        """The matrix; None when it is in memory."""
        return None if self._folder is None else self._folder / f"vectors-{self.model.key}.f32"

    def _open_matrix(self, *, mirrors: bool) -> Matrix:
        file = self.file
        matrix = (
            MemoryMatrix(self.model.dim, self._catalog.text_count())
            if file is None
            else Matrix(file, self._catalog.identity, self.model.dim)
        )
        with self._catalog.read() as db:
            if not (matrix.intact and mirrors):
                for ids, vectors in self._ledger.all_vectors(db):
                    matrix.put(ids, vectors)
            matrix.enliven(self._catalog.lexicon.in_use())
        return matrix

    def accelerate(self, engines: Engines) -> None:
        """Let an engine serve, as soon as it has everything."""
        if self._accelerator is None:
            self._accelerator = Accelerator(self._ledger, engines, self.rest)

    def rest(self) -> None:
        """Give back memory that only made searching and writing faster."""
        self._matrix.rest()
        self._filters.rest()
        self._catalog.rest()
        pivot().rest()

    def stop_accelerator(self) -> None:
        """End Chroma in good order; exact search serves from here on."""
        accelerator, self._accelerator = self._accelerator, None
        if accelerator is not None:
            accelerator.stop()

    def compact(self) -> int | None:
        """Have the accelerator begin a generation without what was deleted; its number, None without one."""
        if self._accelerator is None:
            return None
        before = self._ledger.index()
        self._accelerator.compact()
        return 1 + (0 if before is None else before.generation)

    def compacted(self, generation: int) -> bool:
        """Whether that generation (or a later one) serves, and nothing is left of those before it."""
        accelerator = self._accelerator
        return accelerator is not None and accelerator.compacted(generation)

    def close(self) -> None:
        """End in good order; nobody searches any more."""
        self.stop_accelerator()
        with self._catalog.quiet():
            self._closed = True
            self._matrix.close(good=True)

    def before_commit(self, change: Change) -> None:
        """Write what a transaction is about to make visible.

        Raises:
            IndexerError: The disk is full.
        """
        new = change.vectors.get(self._ledger.number)
        try:
            if new:
                ids = sorted(new)
                rows = unit_rows(b"".join(new[i].tobytes() for i in ids), self.model.dim)
                self._matrix.put(ids, self._ledger.to_space(rows))
            self._matrix.enliven(change.live)
        except OSError as error:
            raise IndexerError(
                "The disk is full", f"The library could not be written ({error.strerror}); nothing was lost."
            ) from error

    def after_commit(self, change: Change) -> None:
        """Let go of what a transaction took out of use."""
        self._matrix.retire(change.dead)
        self._matrix.forget(change.freed)
        accelerator = self._accelerator
        if accelerator is not None and self._ledger.number in change.queued:
            accelerator.wake()

    # --- search ----------------------------------------------------------------------------

    def nearest(
        self, vector: npt.NDArray[np.float32], k: int, *, where: Condition | None = None
    ) -> list[Candidate]:
        """The chunks whose vectors are nearest to `vector`, best first, equal ones in order of id.

        Args:
            vector: float32 (dim,), of the space in use; its length does not matter.
            k: How many.
            where: Only chunks that fulfil this.

        Returns:
            At most `k`, all from one committed state of the catalog, with cosines of its own vectors.
        """
        matrix = self._matrix
        query = np.asarray(vector, np.float32)
        norm = float(np.linalg.norm(query))
        if k <= 0 or not np.isfinite(norm) or norm == 0.0:
            return []
        query = query / np.float32(norm)
        version = self._catalog.version
        with matrix.reading(), self._catalog.read() as db:
            view = matrix.view()
            kept = None if where is None else self._filters.select(db, version, where)
            if kept is not None and not len(kept.texts):
                return []
            near = self._accelerated(db, view, query, k, kept)
            if near is not None:
                found = self._visible(db, near, query, k, kept)
                # Too few when texts out of use, or that do not fulfil the condition, crowd out the others.
                if len(found) == k:
                    return found
            return self._exact(db, view, query, k, kept)

    def pool(
        self,
        vector: Vector,
        plain: Vector,
        k: int,
        *,
        texts: npt.NDArray[np.int64] | None = None,
        files: npt.NDArray[np.int64] | None = None,
        where: Condition | None = None,
    ) -> Pool:
        """The chunks among which the best answers to a query are.

        Args:
            vector: The query, float32 (dim,), unit length, in the space in use.
            plain: The query as the encoder gave it.
            k: How many of the nearest texts.
            texts: Further texts whose chunks are wanted, whatever their cosine.
            files: Files of which the first chunks are wanted.
            where: Only chunks that fulfil this.
        """
        matrix = self._matrix
        if not np.isfinite(vector).all() or not vector.any():
            return _empty_pool()
        version = self._catalog.version
        none = np.zeros(0, np.int64)
        with matrix.reading(), self._catalog.read() as db:
            view = matrix.view()
            kept = None if where is None else self._filters.select(db, version, where)
            if kept is not None and not len(kept.texts):
                return _empty_pool()
            near = self._accelerated(db, view, vector, k, kept)
            if near is None or len(near) < k:
                near = view.best(vector, k, None if kept is None else kept.texts)
            wanted = np.union1d(near, none if texts is None else view.wanted(texts))
            each = COPIES if kept is None else COPIES_FILTERED
            rows = self._catalog.rows_of(db, wanted, none if files is None else files, each, POOL_LIMIT)
            table, names = tabled(rows)
            table = table[np.isin(table[:, 1], view.wanted(table[:, 1]))]
            if kept is not None:
                table = table[np.isin(table[:, 0], kept.among(table[:, 0], kept.chunks))]
            ids, which = np.unique(table[:, 1], return_inverse=True)
            neutral = view.cosines(vector, ids)[which]
            unchanged = self._ledger.plain_vectors(db, ids) @ plain
        chunks, owned, owners, counted, langs = np.ascontiguousarray(table.T)
        return Pool(chunks, owned, owners, counted, langs, names, neutral, unchanged[which])

    def plain(self, *, path: str = "", chunk: int = 0) -> Vector:
        """Vectors of an indexed file's chunks, or of one chunk, as the encoder gave them.

        Returns:
            float32 (n, dim), of a long file some at even distances; no rows when it is not indexed.
        """
        with self._catalog.read() as db:
            ids = self._catalog.texts_of(db, path=path, chunk=chunk)
            return self._ledger.plain_vectors(db, ids[:: max(1, -(-len(ids) // _FILE_SAMPLE))])

    def outlines(self, files: Sequence[int]) -> dict[int, Outline]:
        """What files say, in short, by their ids; those that are not indexed are left out."""
        matrix = self._matrix
        if not files:
            return {}
        with matrix.reading(), self._catalog.read() as db:
            view = matrix.view()
            found = {}
            for file, texts in self._catalog.texts_by_file(db, files).items():
                ids = view.wanted(np.array(texts, np.int64))
                some = ids[:: max(1, -(-len(ids) // _FILE_SAMPLE))]
                if len(some):
                    found[file] = Outline(tuple(texts), view.rows(some))
            return found

    def sample(self, most: int) -> dict[str, Vector]:
        """Vectors in the space in use of up to `most` texts of each language, by language, picked evenly."""
        matrix = self._matrix
        with matrix.reading():
            view = matrix.view()
            picked = self._catalog.lexicon.picked(most)
            return {lang: view.rows(view.wanted(ids)) for lang, ids in picked.items()}

    def _accelerated(
        self, db: Database, view: View, query: Vector, k: int, kept: Selection | None
    ) -> npt.NDArray[np.int64] | None:
        """At least `k` near texts by Chroma's help, or None when exact search is quicker or has to serve."""
        accelerator = self._accelerator
        if accelerator is None:
            return None
        accelerator.asked()
        serving = accelerator.serving()
        if serving is None:
            return None
        size = view.size()
        # Some more than asked for: of what Chroma has, some may be out of use.
        wanted = fetch = k + k // 8 + 16
        exact_us = _ROW_US * size
        if kept is not None:
            fetch = int(1.5 * wanted * size / len(kept.texts))
            exact_us = min(_ROW_US * GATHER_COST * len(kept.texts), exact_us)
        asking_us = _ASKING_US + _CANDIDATE_US * fetch
        delay_us = 1e6 * accelerator.delay_s(serving)
        if exact_us <= asking_us + delay_us:
            return None
        most = max(_PENDING_LIMIT, size // _PENDING_SHARE)
        pending = self._ledger.outbox_ids(db, serving.index, most + 1)
        if len(pending) > most:
            return None
        patience = _PATIENCE_S + 1e-6 * asking_us if delay_us else float("inf")
        near = accelerator.query(serving, query, fetch, patience)
        if near is None:
            return None
        near = view.wanted(near)
        if kept is not None:
            near, pending = kept.among(near)[:wanted], kept.among(pending)
        return np.union1d(near, view.best(query, wanted, pending))

    def _exact(
        self, db: Database, view: View, query: Vector, k: int, kept: Selection | None
    ) -> list[Candidate]:
        fetch = 2 * k + 16
        while True:
            texts = view.best(query, fetch, None if kept is None else kept.texts)
            found = self._visible(db, texts, query, k, kept)
            if len(found) == k or len(texts) < fetch:
                return found
            fetch *= 8

    def _visible(
        self, db: Database, texts: npt.NDArray[np.int64], query: Vector, k: int, kept: Selection | None
    ) -> list[Candidate]:
        """Score texts by the catalog's vectors and name the chunks that use them."""
        known, vectors = self._ledger.vectors(db, texts.tolist())
        cosines = vectors @ query
        found: list[Candidate] = []
        for at in np.argsort(-cosines, kind="stable"):
            cosine = float(cosines[at])
            if len(found) >= k and cosine < found[k - 1].cosine:
                break
            chunks = self._catalog.chunks_of_text(db, known[at], k if kept is None else -1)
            if kept is not None:
                chunks = kept.among(np.array(chunks, np.int64), kept.chunks).tolist()[:k]
            found.extend(Candidate(chunk, cosine) for chunk in chunks)
        found.sort(key=lambda candidate: (-candidate.cosine, candidate.chunk))
        return found[:k]

    # --- state -----------------------------------------------------------------------------

    @property
    def served_by(self) -> Literal["chroma", "exact"]:
        """Who serves `nearest` now."""
        accelerator = self._accelerator
        return "chroma" if accelerator is not None and accelerator.serving() is not None else "exact"

    @property
    def accelerated(self) -> bool:
        """Whether an engine is to serve, now or when it has everything."""
        return self._accelerator is not None

    def notices(self) -> list[api.Notice]:
        """What a person should know about the index just now."""
        accelerator = self._accelerator
        notice = accelerator.notice if accelerator is not None else None
        return [] if notice is None else [notice]

    def wait_accelerator(self, timeout: float) -> bool:
        """Wait until Chroma serves and has everything; False when it does not within `timeout` seconds."""
        accelerator = self._accelerator
        return accelerator is not None and accelerator.wait(timeout)

    def differing(self, stop: Callable[[], bool], *, mend: bool) -> int:
        """How many rows of the matrix differ from the catalog; mended where that is wanted."""
        wrong: list[npt.NDArray[np.int64]] = []
        with self._catalog.read() as db:
            for ids, vectors in self._ledger.all_vectors(db):
                wrong.append(self._matrix.differing(np.array(ids, np.int64), vectors))
                if stop():
                    return 0
        doubtful = np.concatenate([np.zeros(0, np.int64), *wrong])
        # What was written meanwhile only seemed to differ.
        with self._catalog.quiet(), self._catalog.read() as db:
            if self._closed:  # its model was let go meanwhile, perhaps with its vectors
                return 0
            known, vectors = self._ledger.vectors(db, doubtful.tolist())
            numbers = np.array(known, np.int64)
            found = self._matrix.differing(numbers, vectors)
            surplus = self._matrix.surplus(self._ledger.all_ids(db))
            if mend:
                self._matrix.put(found.tolist(), vectors[np.isin(numbers, found)])
                self._matrix.forget(surplus.tolist())
        return len(found) + len(surplus)

    def compare_accelerator(self, tell: Callable[[int, int], None]) -> Compared | None:
        """Compare every vector that the accelerator acknowledged; None while none serves."""
        accelerator = self._accelerator
        serving = accelerator.serving() if accelerator is not None else None
        if accelerator is None or serving is None:
            return None
        # Asked in this order: what is acknowledged now is listed afterwards.
        acknowledged = self._ledger.vector_ids(serving.index)
        present = accelerator.all_ids()
        if present is None:
            return None
        doubtful: list[npt.NDArray[np.int64]] = []
        for low in range(0, len(present), _COMPARED):
            tell(low, len(present))
            differing = self._wrong_among(accelerator, serving.index, present[low : low + _COMPARED])
            if differing is None:
                return None
            doubtful.append(differing)
        # Once more: one may have been given its new vector between two questions.
        wrong = np.concatenate([np.zeros(0, np.int64), *doubtful])
        again = self._wrong_among(accelerator, serving.index, wrong) if len(wrong) else wrong
        if again is None or accelerator.serving() is not serving:
            return None
        with self._catalog.read() as db:
            ever = self._catalog.text_ids(db)
        surplus = np.setdiff1d(present, self._ledger.vector_ids())
        return Compared(
            known=len(acknowledged),
            lost=np.setdiff1d(acknowledged, present),
            wrong=again,
            strange=np.setdiff1d(surplus, ever),
            stale=np.intersect1d(surplus, ever),
        )

    def _wrong_among(
        self, accelerator: Accelerator, index: Index, ids: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64] | None:
        """Texts under whose ids the accelerator has another vector than the catalog; None for no answer."""
        held = accelerator.held(ids)
        if held is None:
            return None
        with self._catalog.read() as db:
            known, vectors = self._ledger.vectors(db, held[0].tolist())
            waiting = self._ledger.outbox_ids(db, index, -1)
        numbers = np.array(known, np.int64)
        if not len(numbers):
            return numbers
        order = np.argsort(held[0])
        rows = held[1][order][np.searchsorted(held[0][order], numbers)]
        cosines = np.einsum("ij,ij->i", rows, vectors) / np.maximum(np.linalg.norm(rows, axis=1), 1e-9)
        # Not `<`, as it may be no number.
        return np.setdiff1d(numbers[~(cosines >= 1 - _SAME)], waiting)

    def mend_accelerator(self, compared: Compared, *, anew: bool) -> None:
        """Give the accelerator what it lacks or has wrong, or have it begin anew."""
        accelerator = self._accelerator
        index = self._ledger.index()
        if accelerator is None or index is None:
            return
        self._ledger.outbox_add(index, np.union1d(compared.lost, compared.wrong).tolist())
        accelerator.wake()
        if anew:
            accelerator.compact()
