"""The store: catalog, exact matrix and Chroma behind one door."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from indexer import api
from indexer.analysis import QueryTerm
from indexer.document import Chunk
from indexer.embed.space import LanguageSpace
from indexer.errors import FatalError, FileError, IndexerError
from indexer.pivot import Passages, Usage, usage
from indexer.query import Condition, Facts
from indexer.settings import ChromaServer, private_folder
from indexer.store import concepts
from indexer.store.catalog import Catalog, Change
from indexer.store.check import Examination, Outcome
from indexer.store.chroma import OwnChroma
from indexer.store.chroma_server import ServerChroma
from indexer.store.chroma_server import check as check_server
from indexer.store.cipher import Key
from indexer.store.engine import EngineError, Engines
from indexer.store.filters import Filters
from indexer.store.keeper import Keeper
from indexer.store.ledger import Vector
from indexer.store.lexical import Lexical, Scored
from indexer.store.types import (
    Candidate,
    Compaction,
    Counts,
    FileState,
    FileUpdate,
    ModelKey,
    Pool,
    Role,
    RootState,
    StoredChunk,
    StoredModel,
)
from indexer.store.vectors import COPIES, COPIES_FILTERED, POOL_LIMIT, VectorIndex, tabled

log = logging.getLogger(__name__)

_FACTS_S = 2.0
_BYTES_A_TOKEN = 4.0


class ModelChangedError(IndexerError):
    """Vectors came from a model that is not the active one any more."""


class Store:
    """Everything the index knows. Every method may be called from any thread, also while writes run.

    Each writing call is one transaction: visible as a whole and durable when it returns, or, when it
    raises `IndexerError` (a full disk), without any effect.
    """

    _use_chroma = True  # tests of the rest turn it off

    def __init__(self, data_dir: Path, chroma: ChromaServer | None = None, key: Key | None = None) -> None:
        """Open the library's catalog, or make it.

        Args:
            data_dir: The library's data folder.
            chroma: The server that searches the vectors; None, or one without an address, for our own child.
            key: Of a library that is locked with a passphrase. Its vectors are then in memory only, and
                Chroma, which writes them to the disk as they are, is not used.

        Raises:
            FatalError: Another service owns it, it is damaged or locked, or a newer program made it.
        """
        self._dir = private_folder(data_dir)
        self._chroma = chroma or ChromaServer()
        self._moving = threading.Lock()
        self._indexes: list[VectorIndex] = []
        self._active: VectorIndex | None = None
        self._filters = Filters()
        self._facts: tuple[int, float, Facts] | None = None
        self._secret = key is not None
        if self._secret:
            self._use_chroma = False
        self._catalog = Catalog(self._dir, key)
        self._catalog.before_commit = self._before_commit
        self._catalog.after_commit = self._after_commit
        self._keeper = Keeper(self._catalog, self)

    # --- models ----------------------------------------------------------------------------

    def use_model(self, model: ModelKey, space: LanguageSpace | None = None) -> VectorIndex:
        """Make the index of this model the active one at once, complete or not; it is created when it is new.

        Args:
            model: Which vectors are meant.
            space: Where they are compared; None for the encoder's own space. Changing it embeds nothing.

        Raises:
            FatalError: The key was used with another dimension before.
        """
        if self._active is not None:
            self.close_index(self._active)
        index = self.open_index(model, space)
        with self._catalog.quiet():
            self._catalog.active = index.ledger
            self._active = index
        if self._use_chroma:
            index.accelerate(self._engines(index.model.key))
        self._keeper.start()
        return index

    def _engines(self, key: str) -> Engines:
        if self._chroma.url:
            return ServerChroma(self._chroma, self._catalog.identity, key)
        return OwnChroma(self._dir / "chroma", key)

    def use_chroma(self, chroma: ChromaServer) -> None:
        """Search the vectors elsewhere from now on; exact search serves until it has them all.

        Raises:
            IndexerError: The address is none, or not safe; all stays as it was.
        """
        if chroma.url:
            check_server(chroma)
        with self._moving:
            index = self._active
            if index is None or not self._use_chroma:
                self._chroma = chroma
                return
            index.stop_accelerator()
            try:
                # The vectors are all in the catalog; nothing of them is left where nobody asks any more.
                self._engines(index.model.key).sweep(set())
            except (EngineError, OSError) as error:
                log.warning("The former search index could not be removed: %s", error)
            self._chroma = chroma
            index.ledger.new_index()
            index.accelerate(self._engines(index.model.key))

    def open_index(self, model: ModelKey, space: LanguageSpace | None = None) -> VectorIndex:
        """Open a model's index beside the active one; it is kept in step until it is closed.

        Raises:
            FatalError: The key was used with another dimension before.
        """
        with self._catalog.quiet():
            ledger = self._catalog.ledger(model)
            folder = None if self._secret else self._dir
            index = VectorIndex(self._catalog, self._filters, folder, ledger, space)
            self._indexes.append(index)
        return index

    def activate(self, index: VectorIndex) -> VectorIndex | None:
        """Make an open index the active one, in one transaction.

        Returns:
            The one that was active before; it stays open until `close_index`.

        Raises:
            IndexerError: It is not complete: some text in use lacks a vector.
        """
        with self._catalog.quiet():
            self._catalog.set_role(index.model.key, "active")
            before, self._active = self._active, index
            self._catalog.active = index.ledger
        if before is not None and before is not index:
            before.stop_accelerator()
        if self._use_chroma:
            index.accelerate(self._engines(index.model.key))
        return before

    def close_index(self, index: VectorIndex) -> None:
        """Close an index that nobody searches any more; its vectors stay."""
        with self._catalog.quiet():
            if index in self._indexes:
                self._indexes.remove(index)
            if index is self._active:
                self._active = self._catalog.active = None
        index.close()

    def forget_model(self, key: str) -> None:
        """Remove a model's vectors, unless it has or gets a role meanwhile. Its index must be closed."""
        stored = next((model for model in self._catalog.models() if model.key == key), None)
        if stored is not None and self._catalog.ledger(ModelKey(key, stored.dim)).forget():
            self._file_of(key).unlink(missing_ok=True)

    def _file_of(self, key: str) -> Path:
        return self._dir / f"vectors-{key}.f32"

    @property
    def version(self) -> int:
        """A number that grows with every change of the library, while it is open."""
        return self._catalog.version

    def models(self) -> list[StoredModel]:
        """Every model that has or had an index here, the active one first."""
        return self._catalog.models()

    def mean_tokens(self) -> float:
        """Tokens of a text, on average, estimated from a sample; 0 while there is none."""
        return self._catalog.mean_bytes() / _BYTES_A_TOKEN

    @property
    def folder(self) -> Path:
        """The library's data folder."""
        return self._dir

    def choose_model(self, chosen: StoredModel) -> None:
        """Enter how a model is chosen and what for, in one transaction that outlasts the process.

        As ``active`` it takes over whatever it lacks, which is for when nothing else can serve; else see
        `activate`.

        Raises:
            FatalError: The same key was used with another dimension.
        """
        self._catalog.choose(ModelKey(chosen.key, chosen.dim), chosen)

    def set_role(self, key: str, role: Role) -> None:
        """Give a known model a role that outlasts the process; for ``active`` see `activate`."""
        self._catalog.set_role(key, role)

    def model_counts(self, key: str) -> tuple[int, int, int]:
        """Texts with a vector of a model, texts in use without one, and bytes of the vectors on disk."""
        stored = next((model for model in self._catalog.models() if model.key == key), None)
        if stored is None:
            return 0, self._catalog.text_count(), 0
        counts = self._catalog.ledger(ModelKey(key, stored.dim)).counts()
        file = self._file_of(key)
        matrix = file.stat().st_size if file.is_file() else 0
        return counts[0], counts[1], counts[2] + matrix

    @property
    def active(self) -> VectorIndex:
        """The index that is searched.

        Raises:
            FatalError: There is none yet.
        """
        if self._active is None:
            raise FatalError("No model is in use", "The service is starting, or its model cannot be loaded.")
        return self._active

    def close(self) -> None:
        """End in good order. Later calls of other methods raise `FatalError`."""
        self._keeper.stop()
        for index in self._indexes:
            index.stop_accelerator()
        with self._catalog.quiet():
            try:
                for index in self._indexes:
                    index.close()
            finally:
                self._indexes.clear()
                self._active = None
                self._catalog.close()

    def _before_commit(self, change: Change) -> None:
        for index in self._indexes:
            index.before_commit(change)

    def _after_commit(self, change: Change) -> None:
        for index in self._indexes:
            index.after_commit(change)

    # --- roots -----------------------------------------------------------------------------

    def add_root(self, path: str) -> None:
        """Add a folder to the library; one that is in it already stays as it is."""
        self._catalog.add_root(path)

    def remove_root(self, path: str) -> None:
        """Forget a folder and everything that was indexed for it; see `forget_soon`."""
        self._catalog.remove_root(path)
        self._keeper.hurry()

    # --- forgetting ------------------------------------------------------------------------

    def forget_soon(self) -> None:
        """What is removed now and in the next minutes is erased to the last trace soon, not within a day."""
        self._keeper.hurry()

    @property
    def forgetting(self) -> bool:
        """Whether traces of what a person removed are just being erased from the disk."""
        return self._keeper.busy

    def forget_closed(self) -> None:
        """Delete the mirrors of models that are not open: they are made again when they are wanted."""
        with self._catalog.quiet():
            kept = {index.file for index in self._indexes if index.file is not None}
            for file in self._dir.glob("vectors-*.f32"):
                if file not in kept:
                    file.unlink(missing_ok=True)

    def compact(self) -> Compaction | None:
        """Have the accelerator of the active model begin a generation without what was deleted.

        What other models have there is forgotten; it is filled again when they are searched.

        Returns:
            What to ask `compacted` for; None while no model is in use, and nothing was begun.
        """
        if not self._use_chroma:
            return Compaction("", 0)
        with self._catalog.quiet():
            index = self._active
            if index is None:
                return None
            index.ledger.forget_other_indexes()
        generation = index.compact()
        return None if generation is None else Compaction(index.model.key, generation)

    def compacted(self, begun: Compaction) -> bool | None:
        """Whether that generation serves, and nothing is left of those before it.

        Returns:
            None when it never will, because another model is in use by now.
        """
        if not begun.model:
            return True
        index = self._active
        return None if index is None or index.model.key != begun.model else index.compacted(begun.generation)

    def roots(self) -> list[RootState]:
        """The folders of the library, in order of path."""
        return self._catalog.roots()

    def root_paths(self) -> list[str]:
        """The folders alone, cheap enough to be asked for every file."""
        return self._catalog.root_paths()

    def set_online(self, path: str, online: bool, device: int | None = None) -> None:
        """Note whether a folder is there now; its chunks stay."""
        self._catalog.set_online(path, online, device)

    def set_volumes(self, root: str, volumes: Mapping[str, bool]) -> None:
        """Note which disks are mounted inside a folder, or were (False) and are not there now.

        What is on one that is not there stays, marked as offline in what `chunks` gives.
        """
        self._catalog.set_volumes(root, volumes)

    def volumes(self, root: str) -> dict[str, bool]:
        """What `set_volumes` noted, in order of path."""
        return self._catalog.volumes(root)

    # --- files -----------------------------------------------------------------------------

    def files(self, root: str) -> Iterator[FileState]:
        """All known files of one folder, in byte order of path, streamed."""
        return self._catalog.files(root)

    def known(self, root: str, below: str) -> Iterator[tuple[bytes, int, int]]:
        """Path, size and time of a folder's files at or below a path, in byte order of path, streamed."""
        return self._catalog.known(root, below)

    def file(self, path: str) -> FileState | None:
        """What is known of one file."""
        return self._catalog.file(path)

    def find_content(self, content: bytes) -> bool:
        """Whether some indexed file has this content key."""
        return self._catalog.find_content(content)

    def missing(self, hashes: Collection[bytes]) -> set[bytes]:
        """Text hashes (`Chunk.text_hash`) with no stored vector of the active model."""
        return self.active.ledger.missing(hashes)

    def replace(
        self, updates: Sequence[FileUpdate], vectors: Mapping[bytes, Vector], *, model: str = ""
    ) -> None:
        """Give files a new state.

        Args:
            updates: The files. One whose root is not in the library (any more) is left out.
            vectors: float32 (dim,) by text hash, for all hashes that `missing` named.
            model: Key of the model that made them; empty for the active one.

        Raises:
            ModelChangedError: Another model is active by now.
            ValueError: A vector is missing, zero, not finite or of the wrong length.
            IndexerError: The disk is full or failing.
        """
        with self._catalog.quiet():
            self._check_model(model)
            self._catalog.replace(updates, vectors)

    def has_size(self, size: int) -> bool:
        """Whether some indexed file has this size, without which none can have the same content."""
        return self._catalog.has_size(size)

    def put_ahead(self, chunks: Sequence[Chunk], vectors: Mapping[bytes, Vector], *, model: str = "") -> None:
        """Store texts of a file before the file itself, for a day: a large one then need not begin again.

        Args:
            chunks: Some of the file's.
            vectors: As for `replace`.
            model: As for `replace`.

        Raises:
            ModelChangedError: Another model is active by now.
            ValueError: A vector is missing, zero, not finite or of the wrong length.
            IndexerError: The disk is full or failing.
        """
        with self._catalog.quiet():
            self._check_model(model)
            self._catalog.put_ahead(chunks, vectors)

    def _check_model(self, model: str) -> None:
        active = self._catalog.active
        if model and active is not None and active.model.key != model:
            raise ModelChangedError("The model was changed", "The texts are embedded again.")

    def adopt_all(self, files: Sequence[tuple[str, str, int, int, bytes]]) -> list[bool]:
        """As `adopt`, of many (path, root, size, mtime_ns, content) in one transaction."""
        return self._catalog.adopt_all(files)

    def touch_all(self, files: Sequence[tuple[str, int, int]]) -> None:
        """As `touch`, of many (path, size, mtime_ns) in one transaction."""
        self._catalog.touch_all(files)

    def fail_all(self, files: Sequence[tuple[str, str, int, int, FileError]]) -> None:
        """As `fail`, of many (path, root, size, mtime_ns, error) in one transaction."""
        self._catalog.fail_all(files)

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

    def same_files(self, *, path: str = "", chunk: int = 0) -> dict[int, str]:
        """Ids and paths of the file (of a chunk) first and of its copies; empty when it is not indexed."""
        with self._catalog.read() as db:
            return self._catalog.same_files(db, path=path, chunk=chunk)

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

    def pool_by_words(
        self, texts: npt.NDArray[np.int64], files: npt.NDArray[np.int64], where: Condition | None = None
    ) -> Pool:
        """Candidates of which no vector is looked at, so that no model is needed; their cosines are 0.

        Args:
            texts: Texts whose chunks are wanted.
            files: Files of which the first chunks are wanted.
            where: Only chunks that fulfil this.
        """
        version = self._catalog.version
        with self._catalog.read() as db:
            kept = None if where is None else self._filters.select(db, version, where)
            each = COPIES if kept is None else COPIES_FILTERED
            rows = self._catalog.rows_of(db, texts, files, each, POOL_LIMIT)
        table, names = tabled(rows)
        if kept is not None:
            table = table[np.isin(table[:, 0], kept.among(table[:, 0], kept.chunks))]
        nothing = np.zeros(len(table), np.float32)
        chunks, owned, owners, counted, langs = np.ascontiguousarray(table.T)
        return Pool(chunks, owned, owners, counted, langs, names, nothing, nothing)

    def chunks(self, ids: Sequence[int]) -> dict[int, StoredChunk]:
        """Those of the chunks that (still) exist, by id."""
        return self._catalog.chunks(ids)

    def lexical(self, terms: Sequence[QueryTerm]) -> Lexical:
        """Where the terms of a query are found, by language, all from one committed state of the catalog."""
        with self._catalog.read() as db:
            return self._catalog.lexicon.match(db, terms)

    def concepts(self, text_ids: npt.NDArray[np.int64]) -> Passages | None:
        """What texts are about, rows being places in `text_ids`; None while that is not known of all."""
        with self._catalog.read() as db:
            return concepts.read(db, text_ids)

    def text_count(self) -> int:
        """How many texts are in use."""
        return self._catalog.lexicon.sizes()[0]

    def languages(self, least: float) -> frozenset[str]:
        """The languages of at least this share of the texts in use."""
        total, sizes = self._catalog.lexicon.sizes()
        return frozenset(lang for lang, number in sizes.items() if number >= least * total)

    def usage(self, most: int) -> Usage | None:
        """How common concepts are among `most` texts in use, picked evenly; None where that is not known."""
        used = self._catalog.lexicon.in_use()
        picked = used[:: max(1, -(-len(used) // most))]
        found = self.concepts(picked)
        return None if found is None else usage(found, len(picked))

    def bm25(self, terms: Sequence[QueryTerm], k: int) -> list[Scored]:
        """The `k` texts in use with the best plain BM25 score, best first: what others do, as a yardstick."""
        with self._catalog.read() as db:
            return self._catalog.lexicon.bm25(db, terms, k)

    def counts(self) -> Counts:
        """Totals over all folders."""
        return self._catalog.counts()

    # --- the active index ------------------------------------------------------------------

    def nearest(self, vector: Vector, k: int, *, where: Condition | None = None) -> list[Candidate]:
        """As `VectorIndex.nearest`, of the active model."""
        return [] if self._active is None else self._active.nearest(vector, k, where=where)

    @property
    def accelerator(self) -> Literal["chroma", "exact"]:
        """Who serves searches now."""
        return "exact" if self._active is None else self._active.served_by

    def notices(self) -> list[api.Notice]:
        """What a person should know about the index just now."""
        return [*([] if self._active is None else self._active.notices()), *self._keeper.notices()]

    def wait_accelerator(self, timeout: float) -> bool:
        """Wait until Chroma serves and has everything; False when it does not within `timeout` seconds."""
        return self._active is not None and self._active.wait_accelerator(timeout)

    def check(self) -> list[str]:
        """Everything that is inconsistent inside the library, in words; empty when all is well."""
        found = self.examine().differences
        return [f"{difference.what}: {difference.count}" for difference in found if not difference.harmless]

    def examine(
        self,
        *,
        repair: bool = False,
        tell: Callable[[str, int, int], None] = lambda *_: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Compare all parts of the library with one another; see `indexer.store.check`.

        What was mended by removing it (damaged vectors) is still to be made again: see `VectorIndex.ledger`
        for texts without a vector, and `Outcome.reread` for files.

        Args:
            repair: Whether to mend what is found.
            tell: Told what is compared, and how much of it is done, of how much (0 while unknown).
            stop: Asked now and then whether to leave off.

        Raises:
            IndexerError: It was stopped, or the disk is full or failing.
        """
        with self._catalog.quiet():
            indexes = tuple(self._indexes)
        examination = Examination(self._catalog, indexes, self._dir, repair=repair, tell=tell, stop=stop)
        return examination.run()
