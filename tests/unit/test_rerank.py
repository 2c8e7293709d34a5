"""The reranker's thread with rerankers that stop where the test wants, and folders refused unread."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from pathlib import Path

import numpy as np
import pytest

from indexer.embed.rerank import (
    RerankCancelledError,
    RerankThread,
    Scores,
    available,
    load_reranker,
    reranker_thread,
)
from indexer.errors import IndexerError
from indexer.settings import Settings

LIMIT = 30.0


class Gate:
    """A reranker that waits to be let on before each passage, and scores by length."""

    name = "gate"
    device = "cpu"

    def __init__(self, *, closed: bool = False) -> None:
        self.queries: list[str] = []
        self.scored = 0
        self.unloaded = threading.Event()
        self._closed = closed
        self._arrived = threading.Semaphore(0)
        self._go = threading.Semaphore(0)

    def scores(
        self, query: str, passages: Sequence[str], *, cancelled: Callable[[], bool] = lambda: False
    ) -> Scores:
        self.queries.append(query)
        for _ in passages:
            self._arrived.release()
            if self._closed:
                assert self._go.acquire(timeout=LIMIT)
            if cancelled():
                raise RerankCancelledError
            self.scored += 1
        if query == "bad":
            raise ValueError("bad query")
        return np.array([len(passage) / 10 for passage in passages], np.float32)

    def close(self) -> None:
        self.unloaded.set()

    def arrived(self) -> None:
        assert self._arrived.acquire(timeout=LIMIT)

    def go(self, times: int = 1) -> None:
        self._go.release(times)


def state(thread: RerankThread) -> str:
    return thread.status.state


def answer(future: Future[Scores | None]) -> list[float] | None:
    scores = future.result(LIMIT)
    return None if scores is None else [round(float(score), 3) for score in scores]


def test_nothing_is_loaded_before_the_first_request_and_then_once() -> None:
    loads: list[Gate] = []

    def load() -> Gate:
        loads.append(Gate())
        return loads[-1]

    thread = RerankThread(load)
    assert state(thread) == "idle"
    assert not loads
    assert answer(thread.rerank("one", ["a", "bbb"])) == [0.1, 0.3]
    assert answer(thread.rerank("two", [])) == []
    assert (thread.status.state, thread.status.model, thread.status.device) == ("ready", "gate", "cpu")
    assert len(loads) == 1
    thread.stop()
    thread.stop()
    assert loads[0].unloaded.is_set()


def test_a_newer_request_of_the_same_caller_takes_the_place_of_older_ones() -> None:
    gate = Gate(closed=True)
    thread = RerankThread(lambda: gate)
    running = thread.rerank("running", ["a", "b", "c"], caller="window")
    gate.arrived()
    waiting = thread.rerank("waiting", ["a"], caller="window")
    other = thread.rerank("other", ["aa"], caller="cli")
    newest = thread.rerank("newest", ["aaa"], caller="window")
    assert answer(running) is None
    assert answer(waiting) is None
    gate.go(10)
    assert answer(newest) == [0.3]
    assert answer(other) == [0.2]
    assert gate.queries == ["running", "other", "newest"]
    assert gate.scored == 2, "the running one stopped at its next batch"
    thread.stop()


def test_callers_without_a_name_replace_nothing() -> None:
    gate = Gate(closed=True)
    thread = RerankThread(lambda: gate)
    futures = [thread.rerank(str(n), ["a" * n]) for n in range(1, 4)]
    gate.go(10)
    assert [answer(future) for future in futures] == [[0.1], [0.2], [0.3]]
    thread.stop()


def test_cancelling_stops_the_work_and_skips_what_waits() -> None:
    gate = Gate(closed=True)
    thread = RerankThread(lambda: gate)
    running, waiting = thread.rerank("running", ["a"] * 50), thread.rerank("waiting", ["a"])
    last = thread.rerank("last", ["aaaa"])
    gate.arrived()
    assert running.cancel()
    assert waiting.cancel()
    gate.go(100)
    assert answer(last) == [0.4]
    # Those who wait for several futures at once are told too.
    assert not wait([running, waiting], LIMIT).not_done
    assert gate.queries == ["running", "last"]
    assert gate.scored == 1
    assert state(thread) == "ready"
    thread.stop()


def test_a_task_that_waits_and_is_cancelled_stops_the_work() -> None:
    gate = Gate(closed=True)
    thread = RerankThread(lambda: gate)

    async def search() -> None:
        waiting = asyncio.ensure_future(asyncio.wrap_future(thread.rerank("a", ["a"] * 50)))
        await asyncio.to_thread(gate.arrived)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(search())
    gate.go(50)
    assert answer(thread.rerank("b", ["b"])) == [0.1]
    assert gate.scored == 1
    thread.stop()


def test_many_callers_at_once_are_all_answered() -> None:
    thread = RerankThread(Gate, idle_s=0.0005)
    draw = random.Random(7)
    futures: list[Future[Scores | None]] = []

    def call(name: str) -> None:
        for n in range(150):
            future = thread.rerank(f"{name} {n}", ["a" * 3], caller=draw.choice(["", name]))
            futures.append(future)
            if draw.random() < 0.3:
                future.cancel()

    callers = [threading.Thread(target=call, args=(f"caller {n}",)) for n in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(LIMIT)
    assert not wait(futures, LIMIT).not_done
    outcomes = [None if future.cancelled() else answer(future) for future in futures]
    assert len(outcomes) == 600
    assert {tuple(outcome) for outcome in outcomes if outcome is not None} == {(0.3,)}
    assert state(thread) in {"ready", "idle"}
    thread.stop()


def test_a_failure_to_load_is_a_status_and_is_not_repeated_at_once() -> None:
    loads: list[int] = []

    def load() -> Gate:
        loads.append(1)
        raise IndexerError("The reranker cannot be used", "There is no such folder.")

    thread = RerankThread(load)
    assert answer(thread.rerank("a", ["a"])) is None
    assert answer(thread.rerank("b", ["b"])) is None
    assert state(thread) == "failed"
    assert thread.status.message == "The reranker cannot be used: There is no such folder."
    assert len(loads) == 1
    thread.stop()


def test_a_failure_to_load_is_tried_again_later() -> None:
    outcomes: list[Gate | Exception] = [RuntimeError("private words"), Gate()]

    def load() -> Gate:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    thread = RerankThread(load, retry_s=0.0)
    assert answer(thread.rerank("a", ["a"])) is None
    assert state(thread) == "failed"
    assert "RuntimeError" in thread.status.message
    assert "private" not in thread.status.message
    assert answer(thread.rerank("a", ["a"])) == [0.1]
    assert state(thread) == "ready"
    thread.stop()


def test_a_query_that_fails_fails_alone() -> None:
    thread = RerankThread(Gate)
    assert answer(thread.rerank("bad", ["a"])) is None
    assert state(thread) == "failed"
    assert answer(thread.rerank("good", ["a"])) == [0.1]
    assert state(thread) == "ready"
    thread.stop()


def test_an_unused_model_is_unloaded_and_loaded_again() -> None:
    gates = [Gate(), Gate()]
    left = list(gates)
    thread = RerankThread(lambda: left.pop(0), idle_s=0.01)
    assert answer(thread.rerank("a", ["a"])) == [0.1]
    assert gates[0].unloaded.wait(LIMIT)
    assert answer(thread.rerank("b", ["bb"])) == [0.2]
    assert gates[1].queries == ["b"]
    thread.stop()


def test_a_model_that_cannot_be_unloaded_does_not_end_the_thread() -> None:
    class Stuck(Gate):
        def close(self) -> None:
            super().close()
            raise RuntimeError("the device is gone")

    first = Stuck()
    left: list[Gate] = [first, Gate()]
    thread = RerankThread(lambda: left.pop(0), idle_s=0.01)
    assert answer(thread.rerank("a", ["a"])) == [0.1]
    assert first.unloaded.wait(LIMIT)
    assert answer(thread.rerank("b", ["bb"])) == [0.2]
    thread.stop()


def test_stopping_answers_everybody() -> None:
    gate = Gate(closed=True)
    thread = RerankThread(lambda: gate)
    running, waiting = thread.rerank("running", ["a"] * 50), thread.rerank("waiting", ["a"])
    gate.arrived()
    stopper = threading.Thread(target=thread.stop)
    stopper.start()
    while not thread.rerank("too late?", ["a"], caller="probe").done():
        pass  # the stop has not arrived yet
    gate.go(50)
    stopper.join(LIMIT)
    assert not stopper.is_alive()
    assert answer(waiting) is None
    assert answer(running) is None
    assert gate.scored == 0
    assert answer(thread.rerank("late", ["a"])) is None
    assert gate.unloaded.is_set()


def test_a_thread_that_was_never_used_can_be_stopped() -> None:
    thread = RerankThread(Gate)
    thread.stop()
    assert answer(thread.rerank("late", ["a"])) is None


def test_on_a_cpu_it_counts_as_off_until_a_person_turned_it_on(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert not available(Settings(rerank=True))
    assert not available(Settings(rerank=True, reranker=str(tmp_path / "gone")))
    assert not available(Settings(reranker=folder, device="cpu"))
    assert available(Settings(reranker=folder, device="cpu", rerank=True))


def test_a_thread_for_settings_that_name_nothing_useful_says_so(tmp_path: Path) -> None:
    thread = reranker_thread(Settings(reranker=str(tmp_path), rerank=True, device="cpu"))
    assert answer(thread.rerank("a", ["a"])) is None
    assert "config.json" in thread.status.message
    thread.stop()


def _folder(path: Path, config: object, *files: str) -> Path:
    path.mkdir()
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), "utf-8")
    for name in files:
        (path / name).write_bytes(b"")
    return path


CLASSIFIER = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}


@pytest.mark.parametrize(
    ("config", "files", "word"),
    [
        ("{", (), "config.json cannot be read"),
        ("[1]", (), "config.json cannot be read"),
        ({"architectures": ["BertModel"]}, (), "BertModel, which is no reranker"),
        ({"architectures": ["LlamaForCausalLM"]}, (), "LlamaForCausalLM"),
        ({"architectures": "BertForSequenceClassification"}, (), "an unnamed model"),
        ({**CLASSIFIER, "quantization_config": {"quant_method": "fp8"}}, (), "quantization_config"),
        ({**CLASSIFIER, "transformers_weights": "adapter_model.bin"}, (), "transformers_weights"),
        (CLASSIFIER, (), "There is no model.safetensors"),
        (CLASSIFIER, ("pytorch_model.bin",), "pickled"),
        (CLASSIFIER, ("model.safetensors",), "There is no tokenizer.json"),
        (CLASSIFIER, ("model.safetensors", "tokenizer.json"), "tokenizer.json cannot be read"),
    ],
)
def test_folders_that_are_refused_say_why(
    tmp_path: Path, config: object, files: tuple[str, ...], word: str
) -> None:
    folder = _folder(tmp_path / "model", config, *files)
    with pytest.raises(IndexerError) as caught:
        load_reranker(folder, device="cpu")
    assert caught.value.title == "The reranker cannot be used"
    assert word in caught.value.message
    assert str(folder) in caught.value.message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "../model.safetensors", "missing.safetensors", ""])
def test_an_index_that_names_other_than_safetensors_in_the_folder_is_refused(
    tmp_path: Path, name: str
) -> None:
    folder = _folder(tmp_path / "model", CLASSIFIER, "pytorch_model.bin")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}), "utf-8")
    with pytest.raises(IndexerError, match="no safetensors file in the folder"):
        load_reranker(folder, device="cpu")


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexerError, match="There is no such folder"):
        load_reranker(tmp_path / "gone", device="cpu")


def test_importing_it_is_light() -> None:
    code = (
        "import sys, indexer.embed.rerank; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
