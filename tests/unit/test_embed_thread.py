"""Who is served first by the encoder's thread, with encoders that stop where the test wants."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from indexer.api import Task
from indexer.embed import EncoderInfo, Vectors
from indexer.embed.thread import EncoderThread
from indexer.errors import FatalError
from indexer.manners import Pace

LIMIT = 30.0
INFO = EncoderInfo(key="fake-1", name="fake", dim=2, max_tokens=60, tokenizer=Path("tokenizer.json"))


class Gate:
    """An encoder that says what it was given and waits to be let on, batch by batch."""

    def __init__(self, *, closed: bool = False) -> None:
        self.batches: list[tuple[str, list[str]]] = []
        self._closed = closed
        self._arrived = threading.Semaphore(0)
        self._go = threading.Semaphore(0)
        self.info = INFO
        self.device = "cpu"

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        return self._encode("query", texts)

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        return self._encode("passage", texts)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [60 if text.startswith("long") else 20 for text in texts]

    def _encode(self, kind: str, texts: Sequence[str]) -> Vectors:
        self.batches.append((kind, list(texts)))
        self._arrived.release()
        if self._closed:
            assert self._go.acquire(timeout=LIMIT)
        if "bad" in texts:
            raise ValueError("bad text")
        return np.array([[len(text), ord(text[0])] for text in texts], np.float32)

    def arrived(self) -> None:
        assert self._arrived.acquire(timeout=LIMIT)

    def go(self, times: int = 1) -> None:
        self._go.release(times)

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.batches]


@pytest.fixture
def gate() -> Gate:
    return Gate(closed=True)


def test_a_query_is_served_before_the_next_batch_of_passages(gate: Gate) -> None:
    thread = EncoderThread(lambda: gate)
    thread.start()
    passages = thread.passages([f"long {n}" for n in range(6)])
    gate.arrived()
    first, second = thread.query(["one"]), thread.query(["second"])
    gate.go(2)
    assert first.result(LIMIT).tolist() == [[3, ord("o")]]
    assert second.result(LIMIT).tolist() == [[6, ord("s")]]
    assert gate.batches[1] == ("query", ["one", "second"])
    assert not passages.done()
    gate.go(10)
    assert passages.result(LIMIT).shape == (6, 2)
    thread.stop()


def test_passages_get_on_under_a_stream_of_queries(gate: Gate) -> None:
    thread = EncoderThread(lambda: gate)
    thread.start()
    passages = thread.passages([f"long {n}" for n in range(4)])
    while not passages.done():
        gate.arrived()
        thread.query(["again"])  # there is always one waiting
        gate.go()
        if len(gate.batches) > 20:
            break
    assert passages.done()
    assert passages.result(0).shape == (4, 2)
    gate.go(10)
    thread.stop()


def test_jobs_of_passages_take_turns_and_urgent_ones_go_first(gate: Gate) -> None:
    thread = EncoderThread(lambda: gate)
    thread.start()
    big = thread.passages([f"long {n}" for n in range(9)])
    gate.arrived()
    small = thread.passages(["small"])
    urgent = thread.passages(["urgent"], urgent=True)
    gate.go(3)
    wait([urgent, small], LIMIT)
    texts = [text for _, batch in gate.batches for text in batch]
    assert texts.index("urgent") < texts.index("small")
    assert not big.done()
    gate.go(20)
    assert big.result(LIMIT).shape == (9, 2)
    thread.stop()


def test_rows_are_in_the_order_of_the_texts() -> None:
    thread = EncoderThread(Gate)
    thread.start()
    texts = ["b", "long c", "a", "long d", "x" * 9] * 20
    rows = thread.passages(texts).result(LIMIT)
    assert rows.tolist() == [[len(text), ord(text[0])] for text in texts]
    assert rows.dtype == np.float32
    assert thread.tokens_embedded == 20 * (20 * 3 + 60 * 2)
    assert thread.busy_seconds > 0
    assert thread.passages([]).result(LIMIT).shape == (0, 2)
    assert thread.query([]).result(LIMIT).shape == (0, 2)
    thread.stop()


def test_a_cancelled_job_ends_after_the_batch_in_hand(gate: Gate) -> None:
    thread = EncoderThread(lambda: gate)
    thread.start()
    cancelled = thread.passages([f"long {n}" for n in range(9)])
    gate.arrived()
    assert cancelled.cancel()
    after = thread.passages(["after"])
    gate.go(2)
    assert after.result(LIMIT).shape == (1, 2)
    assert sum(text.startswith("long") for _, batch in gate.batches for text in batch) < 9
    assert wait([cancelled], LIMIT).done  # whoever waits for it is told
    thread.stop()


def test_an_exception_fails_only_its_own_future() -> None:
    gate = Gate(closed=True)
    thread = EncoderThread(lambda: gate)
    thread.start()
    before = thread.passages(["first"])
    gate.arrived()
    good, bad, also = thread.query(["good"]), thread.query(["bad"]), thread.query(["also"])
    passages = thread.passages(["bad"])
    gate.go(20)
    with pytest.raises(ValueError, match="bad text"):
        bad.result(LIMIT)
    with pytest.raises(ValueError, match="bad text"):
        passages.result(LIMIT)
    assert before.result(LIMIT).shape == good.result(LIMIT).shape == also.result(LIMIT).shape == (1, 2)
    assert thread.status.state == "ready"
    thread.stop()


@pytest.mark.parametrize("raised", [FatalError("No model", "Install it."), RuntimeError("library said so")])
def test_a_failure_to_load_fails_what_waits_and_what_comes(raised: Exception) -> None:
    may_fail = threading.Event()

    def load() -> Gate:
        assert may_fail.wait(LIMIT)
        raise raised

    thread = EncoderThread(load)
    before = thread.status
    assert before.state == "loading"
    thread.start()
    waiting = [thread.query(["a"]), thread.passages(["b"])]
    may_fail.set()
    for future in waiting:
        with pytest.raises(FatalError):
            future.result(LIMIT)
    status = thread.status
    assert (status.state, str(raised).split(": ")[-1] in status.message) == ("failed", True)
    with pytest.raises(FatalError):
        thread.query(["later"]).result(LIMIT)
    thread.stop()


def test_stop_fails_what_waits_and_may_be_called_twice(gate: Gate) -> None:
    thread = EncoderThread(lambda: gate)
    thread.start()
    passages = thread.passages([f"long {n}" for n in range(9)])
    gate.arrived()
    stopper = threading.Thread(target=thread.stop)
    stopper.start()
    while True:  # the stop is under way once new work is refused
        late = thread.query(["late"])
        if late.done():
            break
        late.cancel()
    gate.go(20)
    stopper.join(LIMIT)
    for future in (passages, late):
        with pytest.raises(FatalError, match="stopped"):
            future.result(LIMIT)
    thread.stop()
    EncoderThread(Gate).stop()


# --- the pace ---------------------------------------------------------------------------------------


class Dial:
    """A pace and a time to rest after, as the test turns them."""

    def __init__(self, *, share: float = 1.0, threads: int = 0, idle_s: float = 0.0) -> None:
        self.pace = Pace(share=share, threads=threads)
        self.idle_s = idle_s

    def thread(self, load: Callable[[], Gate]) -> EncoderThread:
        return EncoderThread(load, info=INFO, pace=lambda: self.pace, idle_s=lambda: self.idle_s)


@pytest.fixture
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.embed.thread._LONGEST_BREAK_S", 3600.0)


def wait_until(condition: Callable[[], bool]) -> None:
    beat = threading.Event()
    for _ in range(int(LIMIT / 0.01)):
        if condition():
            return
        beat.wait(0.01)
    raise AssertionError("it did not come to be")


@pytest.mark.usefixtures("no_limit")
def test_a_break_between_batches_holds_up_no_query_and_ends_with_a_new_pace() -> None:
    dial, gate = Dial(share=1e-9), Gate()
    thread = dial.thread(lambda: gate)
    thread.start()
    passages = thread.passages([f"long {n}" for n in range(9)])
    gate.arrived()  # the first batch; the break after it would last for days
    for text in ("one", "two"):
        assert thread.query([text]).result(LIMIT).shape == (1, 2)
        assert thread.passages(["urgent"], urgent=True).result(LIMIT).shape == (1, 2)
    assert thread.run(lambda encoder: encoder.device).result(LIMIT) == "cpu"
    assert [kind for kind, texts in gate.batches if texts[0].startswith("long")] == ["passage"]
    assert not passages.done()
    dial.pace = Pace()
    thread.look_again()
    assert passages.result(LIMIT).shape == (9, 2)
    thread.stop()


@pytest.mark.usefixtures("no_limit")
def test_a_stop_ends_a_break() -> None:
    gate = Gate()
    thread = Dial(share=1e-9).thread(lambda: gate)
    thread.start()
    passages = thread.passages([f"long {n}" for n in range(9)])
    gate.arrived()
    thread.stop()
    with pytest.raises(FatalError):
        passages.result(LIMIT)


def test_half_of_the_time_is_left_to_others() -> None:
    class Clock(Gate):
        """Takes its time, and knows when it was at work."""

        def __init__(self) -> None:
            super().__init__()
            self.at_work: list[tuple[float, float]] = []

        def encode_passages(self, texts: Sequence[str]) -> Vectors:
            began = time.monotonic()
            threading.Event().wait(0.02)
            self.at_work.append((began, time.monotonic()))
            return super().encode_passages(texts)

    clock = Clock()
    thread = Dial(share=0.5).thread(lambda: clock)
    thread.start()
    thread.passages([f"long {n}" for n in range(20)]).result(LIMIT)
    thread.stop()
    assert len(clock.at_work) > 1
    for (began, ended), (after, _) in pairwise(clock.at_work):
        assert after - ended >= 0.99 * (ended - began)


def test_threads_are_set_between_batches_when_they_change_and_nobody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Threads(Gate):
        def __init__(self) -> None:
            super().__init__()
            self.threads: list[int] = []

        def set_threads(self, threads: int) -> None:
            self.threads.append(threads)

    encoder, dial = Threads(), Dial(threads=4)
    thread = dial.thread(lambda: encoder)
    thread.start()
    for threads in (4, 4, 2, 2, 4, 0):
        dial.pace = Pace(threads=threads)
        thread.passages(["text"]).result(LIMIT)
    assert encoder.threads == [4, 2, 4]
    thread.query(["somebody types"]).result(LIMIT)
    dial.pace = Pace(threads=1)
    thread.passages(["text"]).result(LIMIT)
    assert encoder.threads == [4, 2, 4]
    monkeypatch.setattr("indexer.embed.thread._QUIET_S", 0.0)
    thread.passages(["text"]).result(LIMIT)
    assert encoder.threads == [4, 2, 4, 1]
    thread.stop()


# --- resting ----------------------------------------------------------------------------------------


class Loads:
    """Makes encoders and knows which of them are still there."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[Gate]] = []
        self.error: Exception | None = None

    def __call__(self) -> Gate:
        if self.error is not None:
            raise self.error
        gate = Gate()
        self.made.append(weakref.ref(gate))
        return gate

    @property
    def alive(self) -> int:
        gc.collect()
        return sum(ref() is not None for ref in self.made)


def test_an_idle_encoder_is_let_go_and_loaded_again_for_the_next_text() -> None:
    loads, dial = Loads(), Dial(idle_s=0.01)
    thread = dial.thread(loads)
    thread.start()
    for times, kind in enumerate(("query", "passages", "run", "expect"), 1):
        if kind == "query":
            assert thread.query(["a"]).result(LIMIT).shape == (1, 2)
        elif kind == "passages":
            assert thread.passages(["a", "b"]).result(LIMIT).shape == (2, 2)
        elif kind == "run":
            assert thread.run(lambda encoder: encoder.device).result(LIMIT) == "cpu"
        else:
            thread.expect()
        wait_until(lambda times=times: len(loads.made) >= times and thread.status.state == "resting")  # type: ignore[misc]
        wait_until(lambda: not loads.alive)
        assert (thread.status.model, thread.status.dimensions) == ("fake", 2)
    dial.idle_s = 0.0
    assert thread.query(["a"]).result(LIMIT).shape == (1, 2)
    assert thread.status.state == "ready"
    made = len(loads.made)
    dial.idle_s = 0.01
    thread.look_again()
    wait_until(lambda: thread.status.state == "resting")
    assert len(loads.made) == made
    thread.stop()


def test_nothing_is_loaded_before_it_is_needed() -> None:
    loads = Loads()
    thread = Dial(idle_s=3600).thread(loads)
    thread.start(load=False)
    assert (thread.status.state, thread.status.model) == ("resting", "fake")
    assert not loads.made
    assert thread.query(["a"]).result(LIMIT).shape == (1, 2)
    assert thread.status.state == "ready"
    assert len(loads.made) == 1
    thread.stop()


@pytest.mark.usefixtures("no_limit")
def test_work_in_a_break_keeps_the_encoder() -> None:
    loads, dial = Loads(), Dial(share=1e-9)
    thread = dial.thread(loads)
    thread.start()
    passages = thread.passages([f"long {n}" for n in range(9)])
    wait_until(lambda: thread.busy_seconds > 0)
    dial.idle_s = 0.01
    thread.look_again()
    threading.Event().wait(0.05)  # several times as long as it would rest after
    assert thread.status.state == "ready"
    dial.pace = Pace()
    thread.look_again()
    assert passages.result(LIMIT).shape == (9, 2)
    assert len(loads.made) == 1
    thread.stop()


def test_a_failure_to_load_again_is_told_and_tried_again() -> None:
    loads = Loads()
    thread = Dial(idle_s=0.01).thread(loads)
    thread.start()
    thread.query(["a"]).result(LIMIT)
    wait_until(lambda: thread.status.state == "resting")
    loads.error = FatalError("Too little memory", "Close something.")
    with pytest.raises(FatalError, match="Too little memory"):
        thread.query(["b"]).result(LIMIT)
    assert thread.status.state == "failed"
    loads.error = None
    assert thread.query(["c"]).result(LIMIT).shape == (1, 2)
    thread.stop()


@pytest.mark.parametrize("finishing", [True, False])
def test_a_resting_thread_ends(finishing: bool) -> None:
    loads = Loads()
    thread = Dial(idle_s=3600).thread(loads)
    thread.start(load=False)
    if finishing:
        thread.finish()
        thread._thread.join(LIMIT)
    else:
        thread.stop()
    assert not thread._thread.is_alive()
    with pytest.raises(FatalError):
        thread.query(["a"]).result(LIMIT)
    assert not loads.made


def test_what_waits_for_others_is_not_let_go() -> None:
    class Server(Gate):
        def abort(self) -> None:
            pass

    made: list[Server] = []

    def load() -> Server:
        made.append(Server())
        return made[-1]

    thread = Dial(idle_s=0.001).thread(load)
    thread.start()
    for _ in range(3):
        thread.query(["a"]).result(LIMIT)
        threading.Event().wait(0.02)
        assert thread.status.state == "ready"
    assert len(made) == 1
    thread.stop()


# --- queries beside passages ------------------------------------------------------------------------


class TwoThings(Gate):
    """One whose queries another thread may embed, by a gate of their own."""

    def __init__(self, queries: Gate | None = None, *, closed: bool = False) -> None:
        super().__init__(closed=closed)
        self.queries = queries
        self.asked = threading.Event()

    def beside(self) -> Gate | None:
        self.asked.set()
        if self.queries is not None and self.queries.info is not INFO:
            raise RuntimeError("it cannot be had")
        return self.queries


def test_queries_do_not_wait_for_a_batch_where_another_thread_takes_them() -> None:
    queries = Gate()
    encoder = TwoThings(queries, closed=True)
    thread = EncoderThread(lambda: encoder)
    thread.start()
    passages = thread.passages(["long passage"])
    encoder.arrived()
    vectors = thread.query(["what", "when"]).result(LIMIT)
    assert vectors.tolist() == [[4, ord("w")], [4, ord("w")]]
    assert not passages.done()
    assert thread.query(["more"], "code").result(LIMIT).shape == (1, 2)
    with pytest.raises(ValueError, match="bad text"):
        thread.query(["bad"]).result(LIMIT)
    assert thread.query(["again"]).result(LIMIT).shape == (1, 2)
    assert thread.tokens_embedded == 20 * 4
    encoder.go()
    assert passages.result(LIMIT).shape == (1, 2)
    assert [kind for kind, _ in encoder.batches] == ["passage"]
    assert all(kind == "query" for kind, _ in queries.batches)
    thread.stop()


@pytest.mark.parametrize("possible", [True, False])
def test_without_another_thread_the_first_takes_the_queries(
    possible: bool, caplog: pytest.LogCaptureFixture
) -> None:
    queries = None
    if not possible:
        queries = Gate()
        queries.info = EncoderInfo(key="", name="", dim=2, max_tokens=1, tokenizer=Path())
    encoder = TwoThings(queries)
    thread = EncoderThread(lambda: encoder)
    thread.start()
    assert encoder.asked.wait(LIMIT)
    for _ in range(20):
        assert thread.query(["what"]).result(LIMIT).shape == (1, 2)
    thread.stop()
    assert len(encoder.batches) == 20
    assert bool(caplog.records) is not possible


def test_another_thread_for_queries_ends_with_the_encoder() -> None:
    made: list[weakref.ref[TwoThings]] = []

    def load() -> TwoThings:
        made.append(weakref.ref(encoder := TwoThings(Gate())))
        return encoder

    def gone() -> bool:
        gc.collect()
        return all(ref() is None for ref in made)

    def answering() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name == "queries"]

    dial = Dial(idle_s=0.01)
    thread = dial.thread(load)
    thread.start()
    for times in range(1, 6):
        futures = [thread.query([f"query {n}"]) for n in range(5)]
        assert all(future.result(LIMIT).shape == (1, 2) for future in futures)
        wait_until(lambda times=times: len(made) >= times and thread.status.state == "resting")  # type: ignore[misc]
        wait_until(gone)
        assert not answering()
    last = thread.query(["last"])
    thread.finish()
    assert last.result(LIMIT).shape == (1, 2)
    thread.stop()
    assert not answering()
