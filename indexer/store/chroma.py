"""Chroma as an accelerator that may fail: a supervised child, brought up to date from the catalog's outbox.

Whatever is wrong with Chroma's folder (damaged, gone, grown by churn, of another model), the answer
is the same: a new generation is filled beside it from the vectors in the catalog, while exact search
serves, and takes over in one transaction.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
import numpy.typing as npt

from indexer.api import Notice
from indexer.errors import IndexerError
from indexer.store.ledger import Index, Ledger, Vector
from indexer.store.wire import (
    LENGTH,
    AllIds,
    Answer,
    Close,
    Done,
    Found,
    Open,
    Opened,
    Query,
    Refused,
    Request,
    Upsert,
    read_frame,
)

log = logging.getLogger(__name__)

Ids = npt.NDArray[np.int64]

BATCH_ACTIVE = 100  # while somebody searches, so that a query waits for little
BATCH_IDLE = 500
_ACTIVE_S = 10.0
_SYNC_THRESHOLD = 1000
_QUERY_S = 2.0
_OPEN_S = 90.0
_WRITE_S = 120.0
_SAMPLE = 64
_HOUSEKEEPING_S = 600.0
_LARGEST_BACKOFF_S = 60.0


class ChildError(Exception):
    """The child died, hung or refused; what it owned is in doubt."""


class Child:
    """One child process; any thread may ask it, each for its own answer."""

    def __init__(self, log_file: Path, on_end: Callable[[], None]) -> None:
        with log_file.open("wb") as output:
            log_file.chmod(0o600)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "indexer.store.chroma_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=log_file.parent,
                env=_environment(),
            )
        self._on_end = on_end
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[Answer | None]] = {}
        self._ended = False
        self._encoder = msgspec.msgpack.Encoder()
        self._reader = threading.Thread(target=self._read, name="chroma-answers", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def _read(self) -> None:
        decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
        stream = self._pipe(self._process.stdout)
        try:
            while (frame := read_frame(stream)) is not None:
                answer = decoder.decode(frame)
                with self._lock:
                    waiting = self._waiting.pop(answer.id, None)
                if waiting is not None:  # else the question was given up
                    waiting.put(answer)
        except (OSError, ValueError) as error:
            log.warning("the Chroma process sent something unreadable: %s", error)
            self._process.kill()
        with self._lock:
            self._ended = True
            for waiting in self._waiting.values():
                waiting.put(None)
            self._waiting.clear()
        self._on_end()

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None  # Popen was given PIPE
        return pipe

    def ask(self, make: Callable[[int], Request], timeout: float) -> Answer:
        """Send one request and wait for its answer.

        Raises:
            ChildError: No answer within `timeout` seconds, the child is gone, or it refused.
        """
        deadline = time.monotonic() + timeout
        number = next(self._numbers)
        box: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        with self._lock:
            if self._ended:
                raise ChildError("the Chroma process has ended")
            self._waiting[number] = box
        data = self._encoder.encode(make(number))
        try:
            if not self._sending.acquire(timeout=timeout):
                raise ChildError("the Chroma process does not read")
            try:
                stdin = self._pipe(self._process.stdin)
                stdin.write(LENGTH.pack(len(data)) + data)
                stdin.flush()
            except (OSError, ValueError) as error:
                raise ChildError(f"the Chroma process is gone: {error}") from error
            finally:
                self._sending.release()
            answer = box.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise ChildError(f"no answer within {timeout:g} s") from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if answer is None:
            raise ChildError("the Chroma process ended")
        if isinstance(answer, Refused):
            raise ChildError(answer.reason)
        return answer

    def open(self, folder: Path, *, create: bool, sync_threshold: int) -> int:
        """Open or make the folder; returns how many vectors it says it has."""
        answer = self.ask(lambda n: Open(n, os.getpid(), str(folder), create, sync_threshold), _OPEN_S)
        assert isinstance(answer, Opened)
        return answer.count

    def upsert(self, ids: list[int], vectors: Vector) -> None:
        """Store unit vectors (n, dim) under their ids; acknowledged when this returns."""
        data = np.array(ids, np.int64).tobytes(), np.ascontiguousarray(vectors, np.float32).tobytes()
        answer = self.ask(lambda n: Upsert(n, *data), _WRITE_S)
        assert isinstance(answer, Done)

    def query(self, vector: Vector, k: int, timeout: float) -> tuple[Ids, npt.NDArray[np.float32]]:
        """Ids and cosine distances of the `k` nearest."""
        answer = self.ask(lambda n: Query(n, vector.tobytes(), k), timeout)
        assert isinstance(answer, Found)
        return np.frombuffer(answer.ids, np.int64), np.frombuffer(answer.distances, np.float32)

    def all_ids(self) -> Ids:
        """Every id that Chroma has."""
        answer = self.ask(AllIds, _OPEN_S)
        assert isinstance(answer, Found)
        return np.frombuffer(answer.ids, np.int64)

    def close(self) -> bool:
        """End in good order; False when it had to be killed."""
        try:
            self.ask(Close, _WRITE_S)
            self._pipe(self._process.stdin).close()
            orderly = self._process.wait(20) == 0
        except (ChildError, OSError, subprocess.TimeoutExpired):
            orderly = False
        self.kill()
        return orderly

    def abort(self) -> None:
        """End at once; whoever waits for an answer gets an error."""
        self._process.kill()

    def kill(self) -> None:
        """End at once, and leave nothing behind."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        with contextlib.suppress(OSError):
            self._pipe(self._process.stdin).close()
        self._pipe(self._process.stdout).close()


def _environment() -> dict[str, str]:
    here = str(Path(__file__).resolve().parents[2])
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != here]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([here, *others]),
        "ANONYMIZED_TELEMETRY": "False",
        "DO_NOT_TRACK": "1",
        "OTEL_SDK_DISABLED": "true",
        "POSTHOG_DISABLED": "1",
    }


@dataclass(frozen=True)
class Serving:
    """A generation that can be searched now."""

    child: Child
    index: Index


class Accelerator:
    """Keeps Chroma in step with the catalog, from a thread of its own."""

    def __init__(self, catalog: Ledger, folder: Path, key: str) -> None:
        self._catalog = catalog
        self._folder = folder
        self._key = key
        self._change = threading.Condition()
        self._stopping = False
        self._work = True
        self._child: Child | None = None
        self._serving: Serving | None = None
        self._drained = False
        self._writing = False
        self._opening = False
        self._asked_at = -_ACTIVE_S
        self._notice: Notice | None = None
        self._orphans = 0
        self._kept_at = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="chroma", daemon=True)
        self._thread.start()

    # --- for the store ---------------------------------------------------------------------

    def serving(self) -> Serving | None:
        """The generation to ask, or None while exact search has to serve."""
        return self._serving

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
            return serving.child.query(vector, k, _QUERY_S)[0]
        except ChildError as error:
            log.warning("Chroma did not answer a query: %s", error)
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
            return None if serving is None else serving.child.all_ids()
        except ChildError as error:
            log.warning("Chroma did not list its ids: %s", error)
            return None

    def stop(self) -> None:
        """End the child in good order and the thread with it."""
        with self._change:
            self._stopping = True
            if self._opening and self._child is not None:
                self._child.abort()  # it has written nothing yet
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
            except (ChildError, IndexerError, OSError) as error:
                if self._stopping:
                    return
                failures = 1 if time.monotonic() - began > _LARGEST_BACKOFF_S else failures + 1
                log.warning("Chroma is unavailable: %s", error)
                if failures >= 3:
                    self._tell(
                        "The search index cannot be used",
                        f"Searching is exact and may be slower. Dragoman keeps trying ({error}).",
                    )
                delay = min(0.1 * 4.0 ** (failures - 1), _LARGEST_BACKOFF_S)
                with self._change:
                    self._change.wait_for(lambda: self._stopping, delay)
                self._housekeep()

    def _session(self) -> None:
        """One life of a child: open or begin a generation, bring it up to date, keep it there."""
        index = self._catalog.index()
        created = index is None
        if index is None:
            index = self._catalog.new_index()
        self._sweep()
        child = Child(self._folder / "chroma.log", self._ended)
        self._child = child
        try:
            with self._change:
                self._opening = True
            usable = self._open(child, index, created)
            with self._change:
                self._opening = False
            if not usable:
                child.kill()
                self._rebuild()
                return
            if index.state == "active":
                self._serve(Serving(child, index))
            self._drain(child, index)
            self._stop_serving()
            child.close()
        finally:
            self._stop_serving()
            self._child = None
            child.kill()

    def _open(self, child: Child, index: Index, created: bool) -> bool:
        """Open the generation's folder; False when it is in doubt."""
        folder = self._path(index.generation)
        known = self._catalog.vector_ids(index)
        create = created or not len(known)
        try:
            child.open(folder, create=create, sync_threshold=_SYNC_THRESHOLD)
            if create:
                return True
            if not self._finds(child, known):
                log.warning("Chroma does not find vectors it should have")
                return False
            present = child.all_ids()
        except ChildError as error:
            if create or self._stopping:
                raise
            log.warning("the Chroma folder %s cannot be used: %s", folder.name, error)
            return False
        lost = np.setdiff1d(known, present)
        self._orphans = len(np.setdiff1d(present, self._catalog.vector_ids()))
        if len(lost) > len(known) // 4 + 100 or self._overgrown(len(present)):
            log.warning("Chroma lost %d of %d vectors, %d are stale", len(lost), len(known), self._orphans)
            return False
        if len(lost):
            self._catalog.outbox_add(index, lost.tolist())
        return True

    def _finds(self, child: Child, known: Ids) -> bool:
        """Whether vectors that Chroma acknowledged are found, the newest and some others."""
        sample = {*known[-_SAMPLE:].tolist(), *random.sample(known.tolist(), min(_SAMPLE, len(known)))}
        with self._catalog.read() as db:
            ids, vectors = self._catalog.vectors(db, sorted(sample))
        misses = 0
        for number, vector in zip(ids, vectors, strict=True):
            found, distances = child.query(vector, 10, _OPEN_S)
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

    def _drain(self, child: Child, index: Index) -> None:
        """Bring Chroma up to date until it is time to stop."""
        while not self._stopping:
            active = time.monotonic() - self._asked_at < _ACTIVE_S
            with self._change:
                self._work = False
            sequence, ids, vectors = self._catalog.outbox_batch(index, BATCH_ACTIVE if active else BATCH_IDLE)
            if sequence:
                self._writing = True
                try:
                    if ids:
                        child.upsert(ids, vectors)
                finally:
                    self._writing = False
                self._catalog.outbox_done(sequence)
                continue
            if index.state == "building":
                self._catalog.activate(index)
                index = msgspec.structs.replace(index, state="active")
                self._serve(Serving(child, index))
            with self._change:
                if not self._work:
                    self._drained = True
                    self._change.notify_all()
                self._change.wait_for(
                    lambda: self._stopping or self._work or self._child is None, _HOUSEKEEPING_S
                )
            if self._child is None:
                raise ChildError("the Chroma process ended")
            if not self._stopping:
                self._housekeep()
                if self._overgrown(self._catalog.text_count() + self._orphans):
                    log.info("building a compact Chroma index; %d vectors are stale", self._orphans)
                    self._stop_serving()
                    child.close()
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
            self._serving, self._notice = serving, None
            self._change.notify_all()

    def _stop_serving(self) -> None:
        with self._change:
            self._serving, self._drained = None, False

    def _ended(self) -> None:
        """The child is gone, by our will or not (called by its reader)."""
        with self._change:
            self._serving, self._child = None, None
            self._change.notify_all()

    def _path(self, generation: int) -> Path:
        return self._folder / f"{self._key}-{generation}"

    def _sweep(self) -> None:
        """Delete the folders of generations that the catalog has forgotten."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        keep = {f"{key}-{generation}" for key, generation in self._catalog.generations()}
        for entry in self._folder.iterdir():
            if entry.name != "chroma.log" and entry.name.removesuffix(".lock") not in keep:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink(missing_ok=True)
