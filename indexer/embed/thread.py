"""The one thread that owns the encoder and torch, and who is served first."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from indexer.api import EncoderStatus, Task
from indexer.embed import Encoder, EncoderInfo, Vectors
from indexer.errors import FatalError, IndexerError

_log = logging.getLogger(__name__)

# What a waiting query may have to wait for is one batch of passages.
_BATCH_S = 0.1
# Tokens a batch until the first has been measured; a slow laptop's tenth of a second.
_FIRST_BATCH = 128
_SMALLEST_BATCH = 64
_LARGEST_BATCH = 32_768
# Weight of the newest measurement, so that a hiccup of the machine does not halve the batches.
_NEWEST = 0.3
# Urgent batches in a row before an ordinary one has its turn.
_URGENT_IN_A_ROW = 4
# Where the encoder does not count tokens: bytes of UTF-8 a token, over many languages.
_BYTES_A_TOKEN = 4
_OVERHEAD_TOKENS = 4

_Result = TypeVar("_Result")
_Lane = Literal["query", "urgent", "passage"]


@runtime_checkable
class CountsTokens(Protocol):
    """An encoder that says how many tokens a text costs, so that batches can be sized exactly."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as it is embedded: truncated, prefix and special tokens included."""


@runtime_checkable
class Aborts(Protocol):
    """An encoder that waits for others (a server), so that a stop must be able to break it off."""

    def abort(self) -> None:
        """From any thread: end what is under way with IndexerError, and let go of everything."""


@dataclass(eq=False)
class _Job:
    """Texts of one future; `order` and `costs` are set when the thread takes the job up."""

    texts: Sequence[str]
    future: Future[Vectors]
    task: Task = "notes"
    order: deque[int] = field(default_factory=deque)
    costs: list[int] | None = None
    vectors: Vectors | None = None
    answered: bool = False

    @property
    def over(self) -> bool:
        """Whether nothing is left to do; takes note when the future was cancelled."""
        if not self.answered and self.future.cancelled():
            self.future.set_running_or_notify_cancel()
            self.answered = True
        return self.answered

    def finish(self, outcome: Vectors | Exception) -> None:
        """Answer, unless the future was cancelled, be it at this very moment."""
        self.answered = True
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class EncoderThread:
    """Loads an encoder in a thread of its own and serves queries and passages with it.

    Queries go first, all that wait together; then one batch of passages that takes about a tenth
    of a second; then queries again. So a query waits for one batch at most, and passages get on
    even under a stream of queries. Jobs of passages take turns, batch by batch.

    All methods may be called from any thread.
    """

    def __init__(self, load: Callable[[], Encoder]) -> None:
        """Prepare; nothing is loaded yet.

        Args:
            load: Called once, in the thread.
        """
        self._load = load
        self._wake = threading.Condition()
        self._lanes: dict[_Lane, deque[_Job]] = {"query": deque(), "urgent": deque(), "passage": deque()}
        self._calls: deque[tuple[Callable[[Encoder], None], Future[Any]]] = deque()
        self._status = EncoderStatus(model="", state="loading")
        self._failure: FatalError | None = None
        self._aborts: Aborts | None = None
        self._stopping = self._finishing = False
        self._urgent_in_a_row = 0
        self._tokens_per_s = 0.0
        self._tokens = 0
        self._busy_s = 0.0
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)

    def start(self) -> None:
        """Begin to load the encoder."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch in hand (or loading), fail what waits, end the thread. May be called twice."""
        with self._wake:
            self._stopping = True
            if self._failure is None:
                self._failure = FatalError("The language model was stopped", "The service is ending.")
            self._wake.notify_all()
            aborts = self._aborts
        if aborts is not None:
            aborts.abort()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._fail_waiting()

    def finish(self) -> None:
        """Embed what waits, then end; what is asked from then on fails. Does not wait for it."""
        with self._wake:
            self._finishing = True
            self._wake.notify_all()

    @property
    def status(self) -> EncoderStatus:
        """Loading, ready or failed, and on which device."""
        return self._status

    @property
    def tokens_embedded(self) -> int:
        """Tokens embedded since the start, of queries and passages; never goes back.

        Counted by the encoder where it can count (`CountsTokens`), otherwise estimated.
        """
        return self._tokens

    @property
    def busy_seconds(self) -> float:
        """Seconds the encoder has worked since it was loaded."""
        return self._busy_s

    def query(self, texts: Sequence[str], task: Task = "notes") -> Future[Vectors]:
        """Embed queries before any further passages.

        Args:
            texts: The queries.
            task: What they seek.

        Returns:
            A future of float32 (len(texts), dim). It fails with FatalError when the encoder could
            not be loaded or was stopped, and with the encoder's own exception when that raised.
            It can be cancelled until it is done.
        """
        return self._submit("query", texts, task)

    def passages(self, texts: Sequence[str], *, urgent: bool = False) -> Future[Vectors]:
        """Embed passages.

        Args:
            texts: The passages.
            urgent: Whether a person waits for them; then they go before those that are indexed.

        Returns:
            As `query`. Cancelling takes effect after the batch in hand.
        """
        return self._submit("urgent" if urgent else "passage", texts)

    def run(self, work: Callable[[Encoder], _Result]) -> Future[_Result]:
        """Let `work` have the encoder for as long as it takes; queries wait meanwhile.

        Returns:
            A future of what `work` returns; it fails as those of `query` do.
        """
        future: Future[_Result] = Future()

        def call(encoder: Encoder) -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work(encoder))
            except Exception as error:  # noqa: BLE001  it belongs to the one who asked
                future.set_exception(error)

        with self._wake:
            failure = self._failure
            if failure is None:
                self._calls.append((call, future))
                self._wake.notify_all()
        if failure is not None:
            future.set_exception(_again(failure))
        return future

    def _submit(self, lane: _Lane, texts: Sequence[str], task: Task = "notes") -> Future[Vectors]:
        future: Future[Vectors] = Future()
        with self._wake:
            failure = self._failure
            if failure is None:
                self._lanes[lane].append(_Job(list(texts), future, task))
                self._wake.notify_all()
        if failure is not None:
            future.set_exception(_again(failure))
        return future

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            encoder = self._load()
        except Exception as error:  # noqa: BLE001  whatever it was, it is told to everyone who waits
            self._set_failed(error)
            return
        if not isinstance(encoder, Aborts):
            self._serve(encoder)
            return
        with self._wake:
            self._aborts = encoder
        try:
            self._serve(encoder)
        finally:
            encoder.abort()

    def _serve(self, encoder: Encoder) -> None:
        info = encoder.info
        self._status = EncoderStatus(
            model=info.name, state="ready", device=encoder.device, dimensions=info.dim
        )
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._finishing or self._waiting)
                if self._finishing and not self._waiting:
                    self._failure = FatalError("The language model was changed", "Search again.")
                    return
                if self._stopping:
                    return
                queries = list(self._lanes["query"])
                self._lanes["query"].clear()
                call = self._calls.popleft() if self._calls else None
            if call is not None:
                call[0](encoder)
            for task in dict.fromkeys(job.task for job in queries):
                self._serve_queries(encoder, task, [job for job in queries if job.task == task])
            self._serve_passages(encoder)

    @property
    def _waiting(self) -> bool:
        return bool(self._calls) or any(self._lanes.values())

    def _set_failed(self, error: Exception) -> None:
        _log.error("The encoder could not be loaded", exc_info=error)
        if isinstance(error, IndexerError):
            failure = FatalError(error.title, error.message)
        else:
            failure = FatalError("The language model cannot be loaded", f"{type(error).__name__}: {error}")
        failure.__cause__ = error
        with self._wake:
            self._failure = failure
            self._status = EncoderStatus(model="", state="failed", message=str(failure))
        self._fail_waiting()

    def _fail_waiting(self) -> None:
        with self._wake:
            failure = self._failure
            waiting = [job for lane in self._lanes.values() for job in lane]
            for lane in self._lanes.values():
                lane.clear()
            calls = [future for _, future in self._calls]
            self._calls.clear()
        if failure is not None:
            for future in calls:
                if future.set_running_or_notify_cancel():
                    future.set_exception(_again(failure))
            for job in waiting:
                if not job.over:
                    job.finish(_again(failure))

    def _serve_queries(self, encoder: Encoder, task: Task, jobs: list[_Job]) -> None:
        """Embed all queries of a task that wait; one that cannot be embedded fails alone."""
        encode = partial(encoder.encode_queries, task=task)
        for job in jobs:
            self._take_up(encoder, job)
        jobs = [job for job in jobs if not job.over]
        texts = [text for job in jobs for text in job.texts]
        costs = [cost for job in jobs for cost in job.costs or ()]
        if len(jobs) > 1 and sum(costs) <= self._budget():
            try:
                vectors = self._timed(encode, texts, sum(costs))
            except Exception:  # noqa: BLE001  which of them it was shows below, where each is tried alone
                _log.info("Queries could not be embedded together; trying each alone")
            else:
                first = 0
                for job in jobs:
                    last = first + len(job.texts)
                    job.finish(vectors[first:last].copy())
                    first = last
                return
        for job in jobs:
            while not job.over:
                self._step(encode, job)

    def _serve_passages(self, encoder: Encoder) -> None:
        """Embed one batch of the job whose turn it is."""
        with self._wake:
            urgent, ordinary = self._lanes["urgent"], self._lanes["passage"]
            if urgent and not (ordinary and self._urgent_in_a_row >= _URGENT_IN_A_ROW):
                lane = urgent
                self._urgent_in_a_row += 1
            else:
                lane = ordinary
                self._urgent_in_a_row = 0
            if not lane:
                return
            job = lane.popleft()
        self._take_up(encoder, job)
        if not job.over:
            self._step(encoder.encode_passages, job)
        if not job.over:
            with self._wake:
                lane.append(job)

    def _take_up(self, encoder: Encoder, job: _Job) -> None:
        """Count a job's tokens and sort its texts, the longest first; done once a job."""
        if job.costs is not None or job.over:
            return
        try:
            job.costs = _costs(encoder, job.texts)
        except Exception as error:  # noqa: BLE001  it belongs to the one who asked
            job.finish(error)
            return
        costs = job.costs
        job.order.extend(sorted(range(len(costs)), key=lambda at: -costs[at]))
        job.vectors = np.empty((len(costs), encoder.info.dim), np.float32)
        if not costs:
            job.finish(job.vectors)

    def _step(self, encode: Callable[[Sequence[str]], Vectors], job: _Job) -> None:
        """Embed the next batch of a job that has been taken up."""
        costs, vectors = job.costs, job.vectors
        if costs is None or vectors is None:
            raise AssertionError("the job was not taken up")
        width = costs[job.order[0]]  # the longest: the others are padded to it
        batch = [job.order.popleft()]
        while job.order and (len(batch) + 1) * width <= self._budget():
            batch.append(job.order.popleft())
        try:
            vectors[batch] = self._timed(
                encode, [job.texts[at] for at in batch], sum(costs[at] for at in batch)
            )
        except Exception as error:  # noqa: BLE001  it belongs to the one who asked
            _log.warning("A batch of %d texts could not be embedded", len(batch), exc_info=error)
            job.finish(error)
            return
        if not job.order:
            job.finish(vectors)

    def _budget(self) -> int:
        """Tokens that take about `_BATCH_S`."""
        if not self._tokens_per_s:
            return _FIRST_BATCH
        return min(_LARGEST_BATCH, max(_SMALLEST_BATCH, int(self._tokens_per_s * _BATCH_S)))

    def _timed(
        self, encode: Callable[[Sequence[str]], Vectors], texts: Sequence[str], tokens: int
    ) -> Vectors:
        begun = time.perf_counter()
        try:
            vectors = encode(texts)
        finally:
            took = time.perf_counter() - begun
            self._busy_s += took
        self._tokens += tokens
        # A tiny batch is all overhead and says nothing about the rate.
        if tokens >= _SMALLEST_BATCH // 2:
            rate = tokens / max(took, 1e-6)
            before = self._tokens_per_s or rate
            self._tokens_per_s = (1 - _NEWEST) * before + _NEWEST * rate
        return vectors


def _costs(encoder: Encoder, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, at least 1."""
    if isinstance(encoder, CountsTokens):
        return [max(1, count) for count in encoder.count_tokens(texts)]
    longest = encoder.info.max_tokens + _OVERHEAD_TOKENS
    bytes_ = (len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return [min(longest, size // _BYTES_A_TOKEN + _OVERHEAD_TOKENS) for size in bytes_]


def _again(failure: FatalError) -> FatalError:
    """A copy: an exception raised in several threads would collect all their tracebacks."""
    copy = FatalError(failure.title, failure.message)
    copy.__cause__ = failure
    return copy


class WaitingEncoder:
    """An encoder thread as a plain `Encoder`, for callers that may wait."""

    device = ""

    def __init__(self, thread: EncoderThread, info: EncoderInfo) -> None:
        """Wrap a thread that was started; `info` is of the model that it loads."""
        self._thread = thread
        self.info = info

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        """As `Encoder.encode_queries`; raises what the thread's futures raise."""
        return self._thread.query(texts, task).result()

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """As `Encoder.encode_passages`; raises what the thread's futures raise."""
        return self._thread.passages(texts).result()
