"""Who is served first by the encoder's thread, with encoders that stop where the test wants."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import pytest

from indexer.api import Task
from indexer.embed import EncoderInfo, Vectors
from indexer.embed.thread import EncoderThread
from indexer.errors import FatalError

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
