"""Keeps an engine in step with the catalog, from its outbox, and says when it can be searched.

Whatever is wrong with what the engine holds (damaged, gone, grown by churn, of another model), the answer
is the same: a new generation is filled beside it from the vectors in the catalog and takes over in one
transaction. Meanwhile the old one serves and is kept up to date, where it is sound, else exact search.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from indexer.api import Notice
from indexer.errors import IndexerError
from indexer.store.engine import Engine, EngineAwayError, EngineError, Engines, Ids
from indexer.store.ledger import Index, Ledger, Vector

log = logging.getLogger(__name__)

BATCH_ACTIVE = 100  # while somebody searches, so that a query waits for little
BATCH_IDLE = 2000
_ACTIVE_S = 10.0
# Behind a search nothing is written for so long, unless more than so much waits: what waits is compared
# exactly, which costs a search less than waiting for a batch.
_POSTPONE_S = 0.5
_POSTPONED = 3000
_REST_S = 60.0
_ASK_S = 90.0
_SAMPLE = 64
_HOUSEKEEPING_S = 600.0
# What failed is tried again after so long, then after so many times as long, up to the largest.
_BACKOFF_S = 0.1
_BACKOFF_GROWTH = 4.0
_LARGEST_BACKOFF_S = 60.0
_LARGEST_AWAY_S = 10.0  # asking whether a server is back costs next to nothing
# One that served for so long was sound; that it ended then is no reason to wait for another.
_SOUND_S = 5.0
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
        rest: Called when nobody has searched or written for a while.
    """

    def __init__(self, ledger: Ledger, engines: Engines, rest: Callable[[], None] = lambda: None) -> None:
        self._catalog = ledger
        self._engines = engines
        self._rest = rest
        self._rested = False
        self._change = threading.Condition()
        self._stopping = False
        self._work = True
        self._alive: dict[object, Engine | None] = {}  # what this session began, until it ends it
        self._compacting = False  # it was asked for
        self._hurried = False  # and is not to wait until an engine that failed is tried again
        self._served_at = float("inf")
        self._gone = False  # one of them ended by itself
        self._alone = 0  # the generation that serves, once nothing is left of those before it
        self._opening: Engine | None = None
        self._serving: Serving | None = None
        self._drained = False
        self._waiters = 0
        self._each_s = 1e-3  # what writing one vector takes, lately
        self._writing: tuple[float, float] | None = None  # since when, and until when presumably
        self._asked_at = -_ACTIVE_S
        self._slow_until = 0.0
        self._notice: Notice | None = None
        self._orphans = 0
        self._judged = 0  # so many of them were not too many
        self._kept_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="search-index", daemon=True)
        self._thread.start()

    # --- for the store ---------------------------------------------------------------------

    def serving(self) -> Serving | None:
        """The generation to ask, or None while exact search has to serve."""
        return self._serving if time.monotonic() >= self._slow_until else None

    def asked(self) -> None:
        """Somebody searches, whoever answers it."""
        self._asked_at = time.monotonic()
        self._rested = False

    def delay_s(self, serving: Serving) -> float:
        """How long a query would presumably wait now behind what is being written, in seconds."""
        writing = self._writing
        if writing is None or serving is not self._serving:
            return 0.0
        since, until = writing
        now = time.monotonic()
        # What takes longer than batches do (Chroma writes its files) takes as long again.
        return until - now if now < until else now - since

    @property
    def notice(self) -> Notice | None:
        """What a person should know."""
        return self._notice

    def query(self, serving: Serving, vector: Vector, k: int, patience_s: float = float("inf")) -> Ids | None:
        """About the `k` nearest texts, or None when there was no answer in time."""
        busy = self._writing is not None
        try:
            return serving.engine.query(vector, k, min(patience_s, self._engines.patience_s))[0]
        except EngineError as error:
            if busy and patience_s < self._engines.patience_s:
                log.info("The search index is busy: %s", error)
                return None
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
            self._waiters += 1
            self._change.notify_all()
            try:
                return self._change.wait_for(
                    lambda: self._drained and self._serving is not None and not self._work, timeout
                )
            finally:
                self._waiters -= 1

    def all_ids(self) -> Ids | None:
        """Every id in the serving generation, None when none serves."""
        serving = self._serving
        try:
            return None if serving is None else serving.engine.all_ids()
        except EngineError as error:
            log.warning("The search index did not list its ids: %s", error)
            return None

    def held(self, ids: Ids) -> tuple[Ids, Vector] | None:
        """What the serving generation has under some of its ids; None when none serves."""
        serving = self._serving
        try:
            return None if serving is None else serving.engine.vectors(ids)
        except EngineError as error:
            log.warning("The search index did not give vectors: %s", error)
            return None

    def compact(self) -> None:
        """Fill a new generation beside the one that serves: nothing is left of what was deleted."""
        with self._change:
            self._compacting = self._work = self._hurried = True
            self._drained = False
            self._change.notify_all()

    def compacted(self, generation: int) -> bool:
        """Whether that generation (or a later one) serves, and nothing is left of those before it."""
        return self._alone >= generation and self._serving is not None

    def stop(self) -> None:
        """End the engine in good order and the thread with it."""
        with self._change:
            self._stopping = True
            if self._opening is not None:
                self._opening.abort()  # it has written nothing yet
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
                now = time.monotonic()
                sound = now - began > _LARGEST_BACKOFF_S or now - self._served_at > _SOUND_S
                failures = 1 if sound else failures + 1
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
                delay = min(_BACKOFF_S * _BACKOFF_GROWTH ** (failures - 1), longest)
                with self._change:
                    self._change.wait_for(lambda: self._stopping or self._hurried, delay)
                    self._hurried = False
                self._housekeep()

    def _session(self) -> None:
        """One life of an engine: open or begin a generation, bring it up to date, keep it there."""
        index = self._catalog.index()
        created = index is None
        if index is None:
            index = self._catalog.new_index()
        older = self._catalog.older_index(index)
        beside: Serving | None = None
        self._gone = False
        self._served_at = float("inf")
        try:
            if older is not None:
                beside = self._take_up(older)
            engine = self._begin()
            self._engines.sweep(set(self._catalog.generations()))
            state = self._open(engine, index, created)
            if state == "lost":
                if beside is None:
                    self._rebuild()
                else:
                    self._catalog.new_index(beside=beside.index)
                return
            current = Serving(engine, index)
            if index.state == "active":
                self._serve(current)
                self._alone = index.generation
                if state == "overgrown":
                    current, beside = self._build_beside(current), current
            self._drain(current, beside)
            self._stop_serving()
            for token, one in list(self._alive.items()):
                self._end(token, one)
        finally:
            self._stop_serving()
            while self._alive:
                _, one = self._alive.popitem()
                if one is not None:
                    one.kill()

    def _begin(self) -> Engine:
        token = object()
        self._alive[token] = None
        engine = self._alive[token] = self._engines.begin(lambda: self._ended(token))
        return engine

    def _end(self, token: object, engine: Engine | None) -> None:
        """End an engine in good order; nobody is told that it is gone."""
        del self._alive[token]
        if engine is not None:
            try:
                engine.close()
            finally:
                engine.kill()

    def _take_up(self, older: Index) -> Serving | None:
        """Let the generation serve that a newer one is to follow; None when it cannot."""
        engine = self._begin()
        if self._open(engine, older, created=False) != "lost":
            serving = Serving(engine, older)
            self._serve(serving)
            return serving
        self._catalog.forget_index(older)
        self._retire(engine)
        return None

    def _retire(self, engine: Engine) -> None:
        for token, one in list(self._alive.items()):
            if one is engine:
                self._end(token, one)

    def _build_beside(self, serving: Serving) -> Serving:
        """Begin the generation that is to take over from one with too much in it that is stale."""
        log.info("building a compact search index; %d vectors are stale", self._orphans)
        with self._change:
            # Whoever asks for it from here on is given another one. One that fails to begin is still wanted.
            asked, self._compacting, self._hurried, self._drained = self._compacting, False, False, False
        try:
            index = self._catalog.new_index(beside=serving.index)
        except IndexerError:
            self._compacting = self._compacting or asked
            raise
        self._orphans = self._judged = 0
        engine = self._begin()
        engine.open(index.generation, create=True)
        return Serving(engine, index)

    def _take_over(self, current: Serving, beside: Serving | None) -> Serving:
        """Let a generation serve that has been filled; the one beside it ends."""
        # Nobody may ask the old one who reads a catalog that knows nothing more of what it lacks.
        with self._change:
            self._serving = None
        self._catalog.activate(current.index)
        current = Serving(current.engine, msgspec.structs.replace(current.index, state="active"))
        self._serve(current)
        if beside is not None:
            self._retire(beside.engine)
            self._engines.sweep(set(self._catalog.generations()))
        self._alone = current.index.generation
        return current

    def _open(self, engine: Engine, index: Index, created: bool) -> Literal["sound", "overgrown", "lost"]:
        """Open a generation and judge what it holds; it is lost where that is in doubt."""
        with self._change:
            self._opening = engine
        try:
            return self._judge(engine, index, created)
        finally:
            with self._change:
                self._opening = None

    def _judge(self, engine: Engine, index: Index, created: bool) -> Literal["sound", "overgrown", "lost"]:
        known = self._catalog.vector_ids(index)
        create = created or not len(known)
        try:
            engine.open(index.generation, create=create)
            if create:
                return "sound"
            if not self._finds(engine, known):
                log.warning("The search index does not find vectors it should have")
                return "lost"
            present = engine.all_ids()
        except EngineAwayError:
            raise
        except EngineError as error:
            if create or self._stopping:
                raise
            log.warning("generation %d of the search index cannot be used: %s", index.generation, error)
            return "lost"
        lost = np.setdiff1d(known, present)
        self._orphans = len(np.setdiff1d(present, self._catalog.vector_ids()))
        self._judged = 0
        if len(lost) > len(known) // 4 + 100:
            log.warning("The search index lost %d of %d vectors", len(lost), len(known))
            return "lost"
        if len(lost):
            self._catalog.outbox_add(index, lost.tolist())
        return "overgrown" if self._overgrown(len(present)) else "sound"

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
        # A sound graph misses one in fifty at most; that all ids are there is looked at apart.
        return misses <= len(ids) // 8

    def _rebuild(self) -> None:
        self._tell(
            "The search index was damaged and is being rebuilt",
            "Nothing is lost. Until it is ready, searching is exact and may be slower.",
        )
        self._catalog.new_index()

    def _overgrown(self, present: int) -> bool:
        return self._orphans > max(5000, present // 3)

    def _drain(self, current: Serving, beside: Serving | None) -> None:
        """Bring the engine up to date until it is time to stop.

        Args:
            current: The newest generation.
            beside: The one that serves while the newest is filled.
        """
        while not self._stopping:
            with self._change:
                self._work = False
            if self._gone:
                raise EngineError("it ended")
            busy = beside is not None and self._write(beside)
            if self._write(current) or busy:
                continue
            if current.index.state == "building":
                current, beside = self._take_over(current, beside), None
            if self._compacting:
                current, beside = self._build_beside(current), current
                continue
            with self._change:
                if not self._work:
                    self._drained = True
                    self._change.notify_all()
                woken = self._change.wait_for(
                    lambda: self._stopping or self._work or self._gone,
                    _HOUSEKEEPING_S if self._rested else min(_REST_S, _HOUSEKEEPING_S),
                )
            if self._gone:
                raise EngineError("it ended")
            if self._stopping:
                return
            if not woken and not self._rested and time.monotonic() - self._asked_at >= _REST_S:
                self._rested = True
                self._rest()
            self._housekeep()
            # Counting the texts takes long in a large library, so it is not done after every change.
            if self._orphans != self._judged:
                self._judged = self._orphans
                if self._overgrown(self._catalog.text_count() + self._orphans):
                    current, beside = self._build_beside(current), current

    def _write(self, to: Serving) -> bool:
        """Bring some of what waits to a generation; False when nothing waits."""
        quiet = time.monotonic() - self._asked_at
        serves = to is self._serving
        if serves and quiet < _POSTPONE_S and not self._waiters:
            waiting = self._catalog.outbox_size(to.index, _POSTPONED)
            if waiting < _POSTPONED:
                if waiting:
                    with self._change:
                        self._change.wait_for(
                            lambda: self._stopping or self._gone or self._waiters, _POSTPONE_S - quiet
                        )
                return waiting > 0
        most = min(self._engines.most, BATCH_IDLE)
        if serves and quiet < _ACTIVE_S:
            most = min(most, BATCH_ACTIVE)
        sequence, ids, vectors = self._catalog.outbox_batch(to.index, most)
        if not sequence:
            return False
        self._rested = False
        if ids:
            began = time.monotonic()
            if serves:
                self._writing = (began, began + len(ids) * self._each_s)
            try:
                to.engine.upsert(ids, vectors)
            finally:
                self._writing = None
            self._each_s += 0.1 * ((time.monotonic() - began) / len(ids) - self._each_s)
        self._catalog.outbox_done(sequence)
        return True

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
            if self._gone:
                raise EngineError("it ended")
            self._serving, self._notice, self._slow_until = serving, None, 0.0
            self._served_at = min(self._served_at, time.monotonic())
            self._change.notify_all()

    def _stop_serving(self) -> None:
        with self._change:
            self._serving, self._drained = None, False

    def _ended(self, token: object) -> None:
        """An engine is gone, by our will or not (called by the engine)."""
        with self._change:
            if token in self._alive:
                self._serving, self._gone = None, True
            self._change.notify_all()
