"""The one thread that owns the encoder and torch: who is served first, how fast, and when it lets go."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import msgspec
import numpy as np

from indexer.api import EncoderStatus, Task
from indexer.embed import Encoder, EncoderInfo, Vectors
from indexer.errors import FatalError, IndexerError
from indexer.manners import Pace

_log = logging.getLogger(__name__)

# What a waiting query may have to wait for is one batch of passages. Small ones are less efficient, and so
# for those only who have just asked something and will most likely ask again.
_BATCH_S = 0.1
_BATCH_WHILE_ASKED_S = 0.03
_ASKED_S = 10.0
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
# However slow a server, a change of the pace is followed after so long.
_LONGEST_BREAK_S = 2.0
# Changing the number of threads may take as long as a few searches; not while somebody types.
_QUIET_S = 5.0

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


@runtime_checkable
class SetsThreads(Protocol):
    """An encoder whose number of CPU threads can be changed while it is loaded, in less than a second."""

    def set_threads(self, threads: int) -> None:
        """Compute with so many threads from the next call on, at least 1."""


class AnswersQueries(Protocol):
    """The part of an encoder that a second thread can own."""

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        """As `Encoder.encode_queries`."""


@runtime_checkable
class WorksBeside(Protocol):
    """An encoder whose queries can be embedded by a second thread while the first embeds passages."""

    def beside(self) -> AnswersQueries | None:
        """What that thread calls; None where it would cost too much."""


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
    even under a stream of queries. Jobs of passages take turns, batch by batch. Queries of an encoder that
    can do two things at once (`WorksBeside`) wait for no batch: a second thread embeds them.

    Passages that nobody waits for keep to a pace: breaks between their batches, fewer threads. An encoder
    that has had nothing to do for long is let go and loaded again for the next text, which waits for it.

    All methods may be called from any thread.
    """

    def __init__(
        self,
        load: Callable[[], Encoder],
        *,
        info: EncoderInfo | None = None,
        pace: Callable[[], Pace] = Pace,
        idle_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Prepare; nothing is loaded yet.

        Args:
            load: Called in the thread, each time that the encoder is needed and not there.
            info: Of the model, for the status until it is loaded.
            pace: How to work on passages nobody waits for; asked between batches.
            idle_s: Seconds without a text after which the encoder is let go; 0 for never. One that waits for
                others (`Aborts`) holds no memory worth it and stays.
        """
        self._load = load
        self._pace, self._idle_s = pace, idle_s
        self._wake = threading.Condition()
        self._lanes: dict[_Lane, deque[_Job]] = {"query": deque(), "urgent": deque(), "passage": deque()}
        self._calls: deque[tuple[Callable[[Encoder], None], Future[Any]]] = deque()
        self._status = EncoderStatus(model="", state="loading")
        if info is not None:
            self._status = EncoderStatus(model=info.name, state="loading", dimensions=info.dim)
        self._wanted = False
        self._loaded_once = False
        self._used_at = 0.0
        self._break_from = self._worked_s = 0.0
        self._threads = 0  # that were set
        self._asked_at = 0.0
        self._failure: FatalError | None = None
        self._aborts: Aborts | None = None
        self._stopping = self._finishing = False
        self._beside = False  # a second thread takes the queries
        self._closing = False  # and is to end
        self._counting = threading.Lock()
        self._urgent_in_a_row = 0
        self._tokens_per_s = 0.0
        self._tokens = 0
        self._busy_s = 0.0
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)

    def start(self, *, load: bool = True) -> None:
        """Begin.

        Args:
            load: Whether to load the encoder now, and not when it is first needed.
        """
        if load:
            self._wanted = True
        else:
            self._status = _with_state(self._status, "resting")
        self._thread.start()

    def expect(self) -> None:
        """Load the encoder where it is not: a text can be expected soon."""
        with self._wake:
            self._wanted = True
            self._used_at = time.monotonic()
            self._wake.notify_all()

    def look_again(self) -> None:
        """What `pace` or `idle_s` give has changed."""
        with self._wake:
            self._wake.notify_all()

    def stop(self, *, loading_s: float | None = None) -> None:
        """Finish the batch in hand (or loading), fail what waits, end the thread. May be called twice.

        Args:
            loading_s: How long at most to wait for a model that is just being loaded; None for its end. The
                thread ends by itself when it is loaded, or with the process.
        """
        with self._wake:
            self._stopping = True
            if self._failure is None:
                self._failure = FatalError("The language model was stopped", "The service is ending.")
            self._wake.notify_all()
            aborts = self._aborts
        if aborts is not None:
            aborts.abort()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(loading_s if self._status.state == "loading" else None)
        self._fail_waiting()

    def finish(self) -> None:
        """Embed what waits, then end; what is asked from then on fails. Does not wait for it."""
        with self._wake:
            self._finishing = True
            self._wake.notify_all()

    @property
    def status(self) -> EncoderStatus:
        """Loading, ready, resting or failed, and on which device."""
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
        while self._await_need():
            if not self._live():
                return
            _give_memory_back()
            if self._status.state == "ready":
                self._status = _with_state(self._status, "resting")

    def _await_need(self) -> bool:
        """Wait until the encoder is needed; False when it never will be."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._finishing or self._wanted or self._waiting)
            if self._finishing and not self._waiting:
                self._end_of_service()
                return False
            self._wanted = False
            return not self._stopping

    def _live(self) -> bool:
        """Load the encoder and serve with it; True when it is to be let go until it is needed again.

        Nothing that outlives this may refer to it.
        """
        self._status = _with_state(self._status, "loading")
        try:
            encoder = self._load()
        except Exception as error:  # noqa: BLE001  whatever it was, it is told to everyone who waits
            self._set_failed(error)
            # One that worked before may do so again: memory was short, a disk was away.
            return self._loaded_once
        self._loaded_once = True
        self._threads = 0
        self._asked_at = 0.0
        self._status = _ready(encoder)
        if not isinstance(encoder, Aborts):
            with self._second_thread(encoder):
                return self._serve(encoder, may_rest=True)
        with self._wake:
            self._aborts = encoder
        try:
            return self._serve(encoder, may_rest=False)
        finally:
            encoder.abort()

    @contextlib.contextmanager
    def _second_thread(self, encoder: Encoder) -> Iterator[None]:
        """While this lasts another thread embeds queries, once it can, where the encoder allows it."""
        if not isinstance(encoder, WorksBeside):
            yield
            return
        self._closing = False
        second = threading.Thread(target=self._answer, args=(encoder, encoder), name="queries", daemon=True)
        second.start()
        try:
            yield
        finally:
            with self._wake:
                self._closing = True
                self._wake.notify_all()
            second.join()

    def _answer(self, encoder: Encoder, able: WorksBeside) -> None:
        """Embed queries; in the second thread. Both arguments are the encoder."""
        try:
            beside = able.beside()
        except Exception:  # noqa: BLE001  the first thread does it, as with other encoders
            _log.warning("Queries are not embedded beside passages", exc_info=True)
            return
        if beside is None:
            return
        with self._wake:
            self._beside = True
        try:
            while True:
                with self._wake:
                    self._wake.wait_for(lambda: self._closing or self._lanes["query"])
                    if self._closing:
                        return
                    jobs = self._queries_taken()
                self._serve_queries(encoder, beside, jobs)
                self._used_at = time.monotonic()
        finally:
            with self._wake:
                self._beside = False
                self._wake.notify_all()

    def _queries_taken(self) -> list[_Job]:
        """All queries that wait; held under the lock."""
        jobs = list(self._lanes["query"])
        self._lanes["query"].clear()
        if jobs:
            self._asked_at = time.monotonic()
            self._wake.notify_all()  # an end that was waiting for them
        return jobs

    def _serve(self, encoder: Encoder, *, may_rest: bool) -> bool:
        """Serve until the end (False), or until there has been nothing to do for long (True)."""
        self._used_at = time.monotonic()
        while True:
            with self._wake:
                while not (self._stopping or self._due() or (self._finishing and not self._waiting)):
                    patience = self._patience(may_rest)
                    if patience is not None and patience <= 0 and not self._waiting:
                        _log.info("The model %s is let go", encoder.info.name)
                        self._wanted = False
                        return True
                    self._wake.wait(patience)
                if self._finishing and not self._waiting:
                    self._end_of_service()
                    return False
                if self._stopping:
                    return False
                queries = [] if self._beside else self._queries_taken()
                call = self._calls.popleft() if self._calls else None
            if call is not None:
                call[0](encoder)
            self._serve_queries(encoder, encoder, queries)
            self._serve_passages(encoder)
            self._used_at = time.monotonic()
            if encoder.device != self._status.device:
                self._status = _ready(encoder)  # its device was lost, and it goes on with another

    def _end_of_service(self) -> None:
        self._failure = FatalError("The language model was changed", "Search again.")

    def _due(self) -> bool:
        """Whether something is to be done now; held under the lock, as the next two."""
        if self._calls or (self._lanes["query"] and not self._beside) or self._lanes["urgent"]:
            return True
        return bool(self._lanes["passage"]) and self._break_s() <= 0

    def _break_s(self) -> float:
        """Seconds until the next batch of passages may begin."""
        share = self._pace().share
        if share >= 1:
            return 0.0
        length = min(self._worked_s * (1 / share - 1), _LONGEST_BREAK_S)
        return self._break_from + length - time.monotonic()

    def _patience(self, may_rest: bool) -> float | None:
        """Seconds until there is something to look at where nothing is asked; None for never."""
        if self._lanes["passage"]:
            return max(0.001, self._break_s())
        idle_s = self._idle_s() if may_rest else 0.0
        return self._used_at + idle_s - time.monotonic() if idle_s > 0 else None

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
            if not self._loaded_once:
                self._failure = failure
            self._status = EncoderStatus(model="", state="failed", message=str(failure))
        self._fail_waiting(failure)

    def _fail_waiting(self, failure: FatalError | None = None) -> None:
        with self._wake:
            failure = failure or self._failure
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

    def _serve_queries(self, encoder: Encoder, answering: AnswersQueries, jobs: list[_Job]) -> None:
        """Embed queries, those of a task together; `encoder` counts their tokens, `answering` embeds them."""
        for task in dict.fromkeys(job.task for job in jobs):
            encode = partial(answering.encode_queries, task=task)
            self._serve_task(encoder, encode, [job for job in jobs if job.task == task])

    def _serve_task(
        self, encoder: Encoder, encode: Callable[[Sequence[str]], Vectors], jobs: list[_Job]
    ) -> None:
        """Embed all queries of a task that wait; one that cannot be embedded fails alone."""
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
            if not lane or (lane is ordinary and self._break_s() > 0):
                return
            job = lane.popleft()
        begun = time.monotonic()
        if lane is ordinary:
            self._use_threads(encoder, self._pace().threads)
        self._take_up(encoder, job)
        if not job.over:
            self._step(encoder.encode_passages, job)
        if lane is ordinary:
            self._break_from = time.monotonic()
            self._worked_s = self._break_from - begun
        if not job.over:
            with self._wake:
                lane.append(job)

    def _use_threads(self, encoder: Encoder, threads: int) -> None:
        quiet = time.monotonic() - self._asked_at > _QUIET_S
        if threads and threads != self._threads and quiet and isinstance(encoder, SetsThreads):
            self._threads = threads
            try:
                encoder.set_threads(threads)
            except Exception:  # noqa: BLE001  it goes on with as many as it has
                _log.warning("The encoder cannot use %d threads", threads, exc_info=True)

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
        """Tokens that take about `_BATCH_S`, or less while somebody asks."""
        if not self._tokens_per_s:
            return _FIRST_BATCH
        asked = time.monotonic() - self._asked_at < _ASKED_S
        seconds = _BATCH_WHILE_ASKED_S if asked else _BATCH_S
        return min(_LARGEST_BATCH, max(_SMALLEST_BATCH, int(self._tokens_per_s * seconds)))

    def _timed(
        self, encode: Callable[[Sequence[str]], Vectors], texts: Sequence[str], tokens: int
    ) -> Vectors:
        begun = time.perf_counter()
        try:
            vectors = encode(texts)
        finally:
            took = time.perf_counter() - begun
            with self._counting:
                self._busy_s += took
        with self._counting:
            self._tokens += tokens
        # A tiny batch is all overhead and says nothing about the rate, nor does one beside another.
        if tokens >= _SMALLEST_BATCH // 2 and threading.current_thread() is self._thread:
            rate = tokens / max(took, 1e-6)
            before = self._tokens_per_s or rate
            self._tokens_per_s = (1 - _NEWEST) * before + _NEWEST * rate
        return vectors


def _ready(encoder: Encoder) -> EncoderStatus:
    """The status of a model that is loaded."""
    return EncoderStatus(
        model=encoder.info.name,
        state="ready",
        device=encoder.device,
        dimensions=encoder.info.dim,
        engine=str(getattr(encoder, "engine", "")),
        precision=str(getattr(encoder, "precision", "")),
    )


def _costs(encoder: Encoder, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, at least 1."""
    if isinstance(encoder, CountsTokens):
        return [max(1, count) for count in encoder.count_tokens(texts)]
    longest = encoder.info.max_tokens + _OVERHEAD_TOKENS
    bytes_ = (len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return [min(longest, size // _BYTES_A_TOKEN + _OVERHEAD_TOKENS) for size in bytes_]


def _with_state(status: EncoderStatus, state: Literal["loading", "resting"]) -> EncoderStatus:
    """The status of a model that is not loaded (yet), but keeps its name."""
    return msgspec.structs.replace(status, state=state, message="")


def _give_memory_back() -> None:
    """Hand what the encoder took back to the system, after the last reference to it has gone."""
    gc.collect()
    # Another thread may be in the middle of importing it.
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is not None:
        with contextlib.suppress(AttributeError, RuntimeError):
            cuda.empty_cache()  # does nothing where it was never used
    if sys.platform == "linux":
        # glibc keeps what was freed for itself; musl and others have no such function and need none.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


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
        return self._thread.passages(texts, urgent=True).result()
