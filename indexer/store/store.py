"""The store: catalog, exact matrix and Chroma behind one door."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from indexer import api
from indexer.analysis import QueryTerm
from indexer.embed.space import LanguageSpace
from indexer.errors import FileError, IndexerError
from indexer.query import Condition, Facts
from indexer.settings import private_folder
from indexer.store.catalog import Catalog, Change, Database, Vector, unit_rows
from indexer.store.chroma import Accelerator
from indexer.store.filters import Filters, Selection
from indexer.store.lexical import Lexical, Scored
from indexer.store.matrix import GATHER_COST, Matrix, View
from indexer.store.types import (
    Candidate,
    Counts,
    FileState,
    FileUpdate,
    ModelKey,
    Outline,
    Pool,
    RootState,
    StoredChunk,
)

log = logging.getLogger(__name__)

# Microseconds for a filtered search: comparing with one more row, asking Chroma at all, and for one more.
_ROW_US = 0.14
_ASKING_US = 1500.0
_CANDIDATE_US = 6.0
_EXACT_WHILE_WRITING = 100_000
_PENDING_LIMIT = 4_000
_POOL_LIMIT = 20_000
# Chunks that are looked at of one text: a licence may be in thousands of files, and leaves room for others.
_COPIES = 50
_COPIES_FILTERED = 2_000  # the condition leaves only some of them
_FILE_SAMPLE = 48
_FACTS_S = 2.0


def _as_given(vectors: Vector) -> Vector:
    return vectors


def _empty_pool() -> Pool:
    none, nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
    return Pool(none, none, none, none, none, (), nothing, nothing)


class Store:
    """Everything the index knows. Every method may be called from any thread, also while writes run.

    Each writing call is one transaction: visible as a whole and durable when it returns, or, when it
    raises `IndexerError` (a full disk), without any effect.
    """

    _use_chroma = True  # tests of the rest turn it off

    def __init__(self, data_dir: Path) -> None:
        """Open the library's catalog, or make it.

        Raises:
            FatalError: Another service owns it, it is damaged, or a newer program made it.
        """
        self._dir = private_folder(data_dir)
        self._matrix: Matrix | None = None
        self._accelerator: Accelerator | None = None
        self._filters = Filters()
        self._facts: tuple[int, float, Facts] | None = None
        self._catalog = Catalog(self._dir)
        self._catalog.before_commit = self._before_commit
        self._catalog.after_commit = self._after_commit

    def use_model(self, model: ModelKey, space: LanguageSpace | None = None) -> None:
        """Make the index of this model the active one; it is created when it is new.

        Args:
            model: Which vectors are meant.
            space: Where they are compared; None for the encoder's own space. Changing it embeds nothing.

        Raises:
            FatalError: The key was used with another dimension before.
        """
        self._stop_accelerator()
        with self._catalog.quiet():
            self._close_matrix()
            self._catalog.use_model(model)
            if space is None:
                same = self._catalog.use_space("", _as_given)
            else:
                same = self._catalog.use_space(space.key, space.passages)
            try:
                self._matrix = self._open_matrix(model, mirrors=same and self._catalog.was_clean)
            except OSError as error:
                raise IndexerError(
                    "The vectors cannot be written", f"{self._dir}: {error.strerror}. Make room on the disk."
                ) from error
        if self._use_chroma:
            self._accelerator = Accelerator(self._catalog, self._dir / "chroma", model.key)

    def _open_matrix(self, model: ModelKey, *, mirrors: bool) -> Matrix:
        matrix = Matrix(self._dir / f"vectors-{model.key}.f32", self._catalog.identity, model.dim)
        with self._catalog.read() as db:
            if not (matrix.intact and mirrors):
                for ids, vectors in self._catalog.all_vectors(db):
                    matrix.put(ids, vectors)
            matrix.enliven(self._catalog.live_texts(db).tolist())
        return matrix

    def _stop_accelerator(self) -> None:
        if self._accelerator is not None:
            self._accelerator.stop()
            self._accelerator = None

    def _close_matrix(self) -> None:
        if self._matrix is not None:
            self._matrix.close(good=True)
            self._matrix = None

    def close(self) -> None:
        """End in good order. Later calls of other methods raise `FatalError`."""
        self._stop_accelerator()
        with self._catalog.quiet():
            self._close_matrix()
            self._catalog.close()

    def _before_commit(self, change: Change) -> None:
        matrix = self._matrix
        if matrix is None:
            return
        try:
            if change.vectors:
                ids = sorted(change.vectors)
                dim = len(change.vectors[ids[0]])
                rows = unit_rows(b"".join(change.vectors[i].tobytes() for i in ids), dim)
                matrix.put(ids, self._catalog.to_space(rows))
            matrix.enliven(change.live)
        except OSError as error:
            raise IndexerError(
                "The disk is full", f"The library could not be written ({error.strerror}); nothing was lost."
            ) from error

    def _after_commit(self, change: Change) -> None:
        if self._matrix is not None:
            self._matrix.retire(change.dead)
            self._matrix.forget(change.freed)
        if self._accelerator is not None and change.queued:
            self._accelerator.wake()

    # --- roots -----------------------------------------------------------------------------

    def add_root(self, path: str) -> None:
        """Add a folder to the library; one that is in it already stays as it is."""
        self._catalog.add_root(path)

    def remove_root(self, path: str) -> None:
        """Forget a folder and everything that was indexed for it."""
        self._catalog.remove_root(path)

    def roots(self) -> list[RootState]:
        """The folders of the library, in order of path."""
        return self._catalog.roots()

    def set_online(self, path: str, online: bool, device: int | None = None) -> None:
        """Note whether a folder is there now; its chunks stay."""
        self._catalog.set_online(path, online, device)

    # --- files -----------------------------------------------------------------------------

    def files(self, root: str) -> Iterator[FileState]:
        """All known files of one folder, in byte order of path, streamed."""
        return self._catalog.files(root)

    def file(self, path: str) -> FileState | None:
        """What is known of one file."""
        return self._catalog.file(path)

    def find_content(self, content: bytes) -> bool:
        """Whether some indexed file has this content key."""
        return self._catalog.find_content(content)

    def missing(self, hashes: Collection[bytes]) -> set[bytes]:
        """Text hashes (`Chunk.text_hash`) with no stored vector of the active model."""
        return self._catalog.missing(hashes)

    def replace(self, updates: Sequence[FileUpdate], vectors: Mapping[bytes, Vector]) -> None:
        """Give files a new state.

        Args:
            updates: The files. One whose root is not in the library (any more) is left out.
            vectors: float32 (dim,) by text hash, for all hashes that `missing` named.

        Raises:
            ValueError: A vector is missing, zero, not finite or of the wrong length.
            IndexerError: The disk is full or failing.
        """
        self._catalog.replace(updates, vectors)

    def adopt(self, path: str, root: str, size: int, mtime_ns: int, content: bytes) -> bool:
        """Index a file as a copy of one with the same content key and the same suffix.

        Returns:
            False when there is no such file (or its vectors are of another model): index it as usual.
        """
        return self._catalog.adopt(path, root, size, mtime_ns, content)

    def touch(self, path: str, size: int, mtime_ns: int) -> None:
        """Note a new size and time of a file whose content is the same."""
        self._catalog.touch(path, size, mtime_ns)

    def move(self, old: str, new: str, new_root: str) -> int:
        """Rename a file, or a folder with everything below it, onto whatever was known at the new place.

        Returns:
            How many files moved; with 0 nothing was changed, but when `new_root` is not in the library
            the files are forgotten.
        """
        return self._catalog.move(old, new, new_root)

    def remove(self, paths: Sequence[str]) -> None:
        """Forget single files."""
        self._catalog.remove(paths)

    def remove_below(self, folder: str) -> int:
        """Forget all files at or below a path; returns how many."""
        return self._catalog.remove_below(folder)

    def fail(self, path: str, root: str, size: int, mtime_ns: int, error: FileError) -> None:
        """Keep a file as a problem; what was indexed of it is removed."""
        self._catalog.fail(path, root, size, mtime_ns, error)

    def problems(
        self, *, kind: Literal["failed", "skipped"] | None = None, limit: int = 500, offset: int = 0
    ) -> tuple[list[api.Problem], int]:
        """A page of the problems, newest first, and how many there are of that kind."""
        return self._catalog.problems(kind=kind, limit=limit, offset=offset)

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
        if matrix is None or k <= 0 or not np.isfinite(norm) or norm == 0.0:
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
        if matrix is None or not np.isfinite(vector).all() or not vector.any():
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
            each = _COPIES if kept is None else _COPIES_FILTERED
            rows = self._catalog.rows_of(db, wanted, none if files is None else files, each, _POOL_LIMIT)
            numbers: dict[str, int] = {}
            table = np.array(
                [(*row[:4], numbers.setdefault(row[4], len(numbers))) for row in rows], np.int64
            ).reshape(-1, 5)
            _, first = np.unique(table[:, 0], return_index=True)
            table = table[first]
            table = table[np.isin(table[:, 1], view.wanted(table[:, 1]))]
            if kept is not None:
                table = table[np.isin(table[:, 0], kept.among(table[:, 0], kept.chunks))]
            ids, which = np.unique(table[:, 1], return_inverse=True)
            neutral = view.cosines(vector, ids)[which]
            unchanged = self._catalog.plain_vectors(db, ids) @ plain
        chunks, owned, owners, counted, langs = np.ascontiguousarray(table.T)
        return Pool(chunks, owned, owners, counted, langs, tuple(numbers), neutral, unchanged[which])

    def plain(self, *, path: str = "", chunk: int = 0) -> Vector:
        """Vectors of an indexed file's chunks, or of one chunk, as the encoder gave them.

        Returns:
            float32 (n, dim), of a long file some at even distances; no rows when it is not indexed.
        """
        with self._catalog.read() as db:
            ids = self._catalog.texts_of(db, path=path, chunk=chunk)
            return self._catalog.plain_vectors(db, ids[:: max(1, -(-len(ids) // _FILE_SAMPLE))])

    def same_files(self, *, path: str = "", chunk: int = 0) -> dict[int, str]:
        """Ids and paths of the file (of a chunk) first and of its copies; empty when it is not indexed."""
        with self._catalog.read() as db:
            return self._catalog.same_files(db, path=path, chunk=chunk)

    def outlines(self, files: Sequence[int]) -> dict[int, Outline]:
        """What files say, in short, by their ids; those that are not indexed are left out."""
        matrix = self._matrix
        if matrix is None or not files:
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
        if matrix is None:
            return {}
        with matrix.reading():
            view = matrix.view()
            picked = self._catalog.lexicon.picked(most)
            return {lang: view.rows(view.wanted(ids)) for lang, ids in picked.items()}

    def _accelerated(
        self, db: Database, view: View, query: Vector, k: int, kept: Selection | None
    ) -> npt.NDArray[np.int64] | None:
        """At least `k` near texts by Chroma's help, or None when exact search is quicker or has to serve."""
        accelerator = self._accelerator
        serving = accelerator.serving() if accelerator else None
        if accelerator is None or serving is None:
            return None
        size = view.size()
        if accelerator.writing and size <= _EXACT_WHILE_WRITING:
            return None
        wanted = fetch = 2 * k + 16
        if kept is not None:
            fetch = int(1.5 * wanted * size / len(kept.texts))
            exact = min(_ROW_US * GATHER_COST * len(kept.texts), _ROW_US * size)
            if exact <= _ASKING_US + _CANDIDATE_US * fetch:
                return None
        pending = np.array(self._catalog.outbox_ids(db, serving.index, _PENDING_LIMIT + 1), np.int64)
        if len(pending) > _PENDING_LIMIT:
            return None
        near = accelerator.query(serving, query, fetch)
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
        known, vectors = self._catalog.vectors(db, texts.tolist())
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

    def allowed(self, where: Condition | None) -> npt.NDArray[np.int64] | None:
        """Ids of the texts of all chunks that fulfil a condition, sorted; None when there is none to fulfil.

        Texts of chunks that went lately may be among them.
        """
        if where is None:
            return None
        version = self._catalog.version
        with self._catalog.read() as db:
            return self._filters.select(db, version, where).texts

    def chunks_of(
        self, texts: Sequence[int], where: Condition | None = None, limit: int = 100
    ) -> dict[int, list[int]]:
        """The chunks that have these texts and fulfil `where`, at most `limit` a text, lowest id first.

        A text without any is left out.
        """
        version = self._catalog.version
        found: dict[int, list[int]] = {}
        with self._catalog.read() as db:
            kept = None if where is None else self._filters.select(db, version, where)
            for text in texts:
                chunks = self._catalog.chunks_of_text(db, int(text), limit if kept is None else -1)
                if kept is not None:
                    chunks = kept.among(np.array(chunks, np.int64), kept.chunks).tolist()[:limit]
                if chunks:
                    found[int(text)] = chunks
        return found

    def listed(self, where: Condition | None, limit: int) -> list[int]:
        """What fulfils a condition when nothing is sought.

        Returns:
            The first such chunk of each of the `limit` newest files that have one, newest first.
        """
        version = self._catalog.version
        with self._catalog.read() as db:
            return self._filters.newest(db, version, where, limit)

    def facts(self) -> Facts:
        """What the library holds, for completions; while it changes all the time, up to two seconds old."""
        known = self._facts
        version, now = self._catalog.version, time.monotonic()
        if known is not None and (known[0] == version or now - known[1] < _FACTS_S):
            return known[2]
        with self._catalog.read() as db:
            facts = self._filters.facts(db, version)
        self._facts = version, now, facts
        return facts

    def chunks(self, ids: Sequence[int]) -> dict[int, StoredChunk]:
        """Those of the chunks that (still) exist, by id."""
        return self._catalog.chunks(ids)

    def lexical(self, terms: Sequence[QueryTerm]) -> Lexical:
        """Where the terms of a query are found, by language, all from one committed state of the catalog."""
        with self._catalog.read() as db:
            return self._catalog.lexicon.match(db, terms)

    def bm25(self, terms: Sequence[QueryTerm], k: int) -> list[Scored]:
        """The `k` texts in use with the best plain BM25 score, best first: what others do, as a yardstick."""
        with self._catalog.read() as db:
            return self._catalog.lexicon.bm25(db, terms, k)

    def counts(self) -> Counts:
        """Totals over all folders."""
        return self._catalog.counts()

    # --- the accelerator -------------------------------------------------------------------

    @property
    def accelerator(self) -> Literal["chroma", "exact"]:
        """Who serves `nearest` now."""
        accelerator = self._accelerator
        return "chroma" if accelerator is not None and accelerator.serving() is not None else "exact"

    def notices(self) -> list[api.Notice]:
        """What a person should know about the index just now."""
        notice = self._accelerator.notice if self._accelerator is not None else None
        return [] if notice is None else [notice]

    def wait_accelerator(self, timeout: float) -> bool:
        """Wait until Chroma serves and has everything; False when it does not within `timeout` seconds."""
        return self._accelerator is not None and self._accelerator.wait(timeout)

    def check(self) -> list[str]:
        """Everything that is inconsistent inside the library, in words; empty when all is well."""
        found = self._catalog.check()
        if self._matrix is not None:
            with self._catalog.read() as db:
                for ids, vectors in self._catalog.all_vectors(db):
                    wrong = self._matrix.compare(dict(zip(ids, vectors, strict=True)))
                    if wrong:
                        found.append(f"rows of the exact matrix that differ from the catalog: {len(wrong)}")
        serving = self._accelerator.serving() if self._accelerator is not None else None
        if self._accelerator is not None and serving is not None:
            known = self._catalog.vector_ids(serving.index)
            present = self._accelerator.all_ids()
            if present is not None and len(lost := np.setdiff1d(known, present)):
                found.append(f"vectors that Chroma acknowledged and does not have: {len(lost)}")
        return found
