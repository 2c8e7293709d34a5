"""Keeps an engine in step with the catalog, from its outbox, and says when it can be searched.

Whatever is wrong with what the engine holds (damaged, gone, grown by churn, of another model), the answer
is the same: a new generation is filled beside it from the vectors in the catalog, while exact search
serves, and takes over in one transaction.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass

import msgspec
import numpy as np

from indexer.api import Notice
from indexer.errors import IndexerError
from indexer.store.engine import Engine, EngineAwayError, EngineError, Engines, Ids
from indexer.store.ledger import Index, Ledger, Vector

log = logging.getLogger(__name__)

BATCH_ACTIVE = 100  # while somebody searches, so that a query waits for little
BATCH_IDLE = 500
_ACTIVE_S = 10.0
_ASK_S = 90.0
_SAMPLE = 64
_HOUSEKEEPING_S = 600.0
_LARGEST_BACKOFF_S = 60.0
_LARGEST_AWAY_S = 10.0  # asking whether a server is back costs next to nothing
# An engine that was too slow for a search is not asked for so long.
_SLOW_S = 30.0


@dataclass(frozen=True)
class Serving:
    """A generation that can be searched now."""

    engine: Engine
    index: Index


class Accelerator:
    """Keeps an engine in step with the catalog, from a thread of its own.

    Args:
        ledger: The model's part of the catalog.
        engines: Where the vectors are searched.
    """

    def __init__(self, ledger: Ledger, engines: Engines) -> None:
        self._catalog = ledger
        self._engines = engines
        self._change = threading.Condition()
        self._stopping = False
        self._work = True
        self._engine: Engine | None = None
        self._serving: Serving | None = None
        self._drained = False
        self._writing = False
        self._opening = False
        self._asked_at = -_ACTIVE_S
        self._slow_until = 0.0
        self._notice: Notice | None = None
        self._orphans = 0
        self._kept_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="search-index", daemon=True)
        self._thread.start()

    # --- for the store ---------------------------------------------------------------------

    def serving(self) -> Serving | None:
        """The generation to ask, or None while exact search has to serve."""
        return self._serving if time.monotonic() >= self._slow_until else None

    @property
    def writing(self) -> bool:
        """Whether a query would wait behind a batch now."""
        return self._writing

    @property
    def notice(self) -> Notice | None:
        """What a person should know."""
        return self._notice

    def query(self, serving: Serving, vector: Vector, k: int) -> Ids | None:
        """About the `k` nearest texts, or None when there was no answer in time."""
        self._asked_at = time.monotonic()
        try:
            return serving.engine.query(vector, k, self._engines.patience_s)[0]
        except EngineError as error:
            log.warning("The search index did not answer a query: %s", error)
            with self._change:
                if self._serving is serving:  # else another has taken its place already
                    self._slow_until = time.monotonic() + _SLOW_S
            return None

    def wake(self) -> None:
        """The outbox grew."""
        with self._change:
            self._work, self._drained = True, False
            self._change.notify_all()

    def wait(self, timeout: float) -> bool:
        """Wait until Chroma serves and the outbox is empty."""
        with self._change:
            return self._change.wait_for(
                lambda: self._drained and self._serving is not None and not self._work, timeout
            )

    def all_ids(self) -> Ids | None:
        """Every id in the serving generation, None when none serves."""
        serving = self._serving
        try:
            return None if serving is None else serving.engine.all_ids()
        except EngineError as error:
            log.warning("The search index did not list its ids: %s", error)
            return None

    def stop(self) -> None:
        """End the engine in good order and the thread with it."""
        with self._change:
            self._stopping = True
            if self._opening and self._engine is not None:
                self._engine.abort()  # it has written nothing yet
            self._change.notify_all()
        self._thread.join()

    # --- the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        failures = 0
        while not self._stopping:
            began = time.monotonic()
            try:
                self._session()
                failures = 0
            except (EngineError, IndexerError, OSError) as error:
                if self._stopping:
                    return
                failures = 1 if time.monotonic() - began > _LARGEST_BACKOFF_S else failures + 1
                log.warning("The search index is unavailable: %s", error)
                notice = error.notice if isinstance(error, EngineError) else None
                if notice is not None:
                    self._tell(notice.title, notice.message)
                elif failures >= 3:
                    self._tell(
                        "The search index cannot be used",
                        f"Searching is exact and may be slower. Dragoman keeps trying ({error}).",
                    )
                longest = _LARGEST_AWAY_S if isinstance(error, EngineAwayError) else _LARGEST_BACKOFF_S
                delay = min(0.1 * 4.0 ** (failures - 1), longest)
                with self._change:
                    self._change.wait_for(lambda: self._stopping, delay)
                self._housekeep()

    def _session(self) -> None:
        """One life of an engine: open or begin a generation, bring it up to date, keep it there."""
        index = self._catalog.index()
        created = index is None
        if index is None:
            index = self._catalog.new_index()
        engine = self._engines.begin(self._ended)
        self._engine = engine
        try:
            with self._change:
                self._opening = True
            self._engines.sweep(set(self._catalog.generations()))
            usable = self._open(engine, index, created)
            with self._change:
                self._opening = False
            if not usable:
                engine.kill()
                self._rebuild()
                return
            if index.state == "active":
                self._serve(Serving(engine, index))
            self._drain(engine, index)
            self._stop_serving()
            engine.close()
        finally:
            self._stop_serving()
            self._engine = None
            engine.kill()

    def _open(self, engine: Engine, index: Index, created: bool) -> bool:
        """Open the generation; False when what it holds is in doubt."""
        known = self._catalog.vector_ids(index)
        create = created or not len(known)
        try:
            engine.open(index.generation, create=create)
            if create:
                return True
            if not self._finds(engine, known):
                log.warning("The search index does not find vectors it should have")
                return False
            present = engine.all_ids()
        except EngineAwayError:
            raise
        except EngineError as error:
            if create or self._stopping:
                raise
            log.warning("generation %d of the search index cannot be used: %s", index.generation, error)
            return False
        lost = np.setdiff1d(known, present)
        self._orphans = len(np.setdiff1d(present, self._catalog.vector_ids()))
        if len(lost) > len(known) // 4 + 100 or self._overgrown(len(present)):
            log.warning(
                "The search index lost %d of %d vectors, %d are stale", len(lost), len(known), self._orphans
            )
            return False
        if len(lost):
            self._catalog.outbox_add(index, lost.tolist())
        return True

    def _finds(self, engine: Engine, known: Ids) -> bool:
        """Whether vectors that were acknowledged are found, the newest and some others."""
        sample = {*known[-_SAMPLE:].tolist(), *random.sample(known.tolist(), min(_SAMPLE, len(known)))}
        with self._catalog.read() as db:
            ids, vectors = self._catalog.vectors(db, sorted(sample))
        misses = 0
        for number, vector in zip(ids, vectors, strict=True):
            found, distances = engine.query(vector, 10, _ASK_S)
            # Equal vectors of other texts may stand before it.
            misses += number not in found and not (len(distances) and distances[0] < 1e-3)
        return misses <= len(ids) // 20

    def _rebuild(self) -> None:
        self._tell(
            "The search index was damaged and is being rebuilt",
            "Nothing is lost. Until it is ready, searching is exact and may be slower.",
        )
        self._catalog.new_index()

    def _overgrown(self, present: int) -> bool:
        return self._orphans > max(5000, present // 3)

    def _drain(self, engine: Engine, index: Index) -> None:
        """Bring the engine up to date until it is time to stop."""
        while not self._stopping:
            active = time.monotonic() - self._asked_at < _ACTIVE_S
            with self._change:
                self._work = False
            most = min(self._engines.most, BATCH_ACTIVE if active else BATCH_IDLE)
            sequence, ids, vectors = self._catalog.outbox_batch(index, most)
            if sequence:
                self._writing = True
                try:
                    if ids:
                        engine.upsert(ids, vectors)
                finally:
                    self._writing = False
                self._catalog.outbox_done(sequence)
                continue
            if index.state == "building":
                self._catalog.activate(index)
                index = msgspec.structs.replace(index, state="active")
                self._serve(Serving(engine, index))
            with self._change:
                if not self._work:
                    self._drained = True
                    self._change.notify_all()
                self._change.wait_for(
                    lambda: self._stopping or self._work or self._engine is None, _HOUSEKEEPING_S
                )
            if self._engine is None:
                raise EngineError("it ended")
            if not self._stopping:
                self._housekeep()
                if self._overgrown(self._catalog.text_count() + self._orphans):
                    log.info("building a compact search index; %d vectors are stale", self._orphans)
                    self._stop_serving()
                    engine.close()
                    self._catalog.new_index()
                    self._orphans = 0
                    return

    def _housekeep(self) -> None:
        """Let go of texts that have been out of use for long."""
        if time.monotonic() - self._kept_at < _HOUSEKEEPING_S:
            return
        self._kept_at = time.monotonic()
        try:
            while not self._stopping and (collected := self._catalog.collect()):
                self._orphans += collected
        except IndexerError as error:
            log.warning("housekeeping has to wait: %s", error)

    def _tell(self, title: str, message: str) -> None:
        with self._change:
            self._notice = Notice(title=title, message=message)
            self._change.notify_all()

    def _serve(self, serving: Serving) -> None:
        with self._change:
            self._serving, self._notice, self._slow_until = serving, None, 0.0
            self._change.notify_all()

    def _stop_serving(self) -> None:
        with self._change:
            self._serving, self._drained = None, False

    def _ended(self) -> None:
        """The engine is gone, by our will or not (called by the engine)."""
        with self._change:
            self._serving, self._engine = None, None
            self._change.notify_all()
