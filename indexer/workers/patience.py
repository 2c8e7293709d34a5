"""Calls that may hang in the system, as on a network disk that is away: waited for, then left behind."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

from indexer.errors import FileError

PATIENCE_S = 30.0
"""A disk that sleeps needs up to 15 seconds to turn."""
MOST_LEFT = 16

_T = TypeVar("_T")


class NoAnswerError(FileError):
    """The disk or server that holds a file did not answer; nothing is known of the file."""


class _Task(Generic[_T]):
    def __init__(self, call: Callable[[], _T], undo: Callable[[_T], object] | None) -> None:
        self._call, self._undo = call, undo
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._left = False
        self._result: _T | None = None
        self._error: BaseException | None = None

    def run(self) -> bool:
        """Do it; whether somebody still waited for it."""
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001  the one who waits has it
            self._error = error
        with self._lock:
            self._done.set()
            left = self._left
        if left and self._error is None and self._undo is not None and self._result is not None:
            self._undo(self._result)
        return not left

    def wait(self, seconds: float) -> bool:
        """Whether it was done in time; it is left behind otherwise."""
        if self._done.wait(seconds):
            return True
        with self._lock:
            self._left = not self._done.is_set()
            return not self._left

    def result(self) -> _T:
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # None only where the call returns None


class Patience:
    """Makes calls in threads of its own. May be used from any thread."""

    def __init__(self, seconds: float = PATIENCE_S, most_left: int = MOST_LEFT) -> None:
        """One without threads yet.

        Args:
            seconds: How long a call is waited for.
            most_left: How many calls may hang at once; with more, nothing is tried until one comes back.
        """
        self.seconds = seconds
        self._most_left = most_left
        self._lock = threading.Lock()
        self._idle: list[queue.SimpleQueue[_Task[Any]]] = []
        self._left = 0

    def call(self, path: Path, call: Callable[[], _T], undo: Callable[[_T], object] | None = None) -> _T:
        """What a call returns.

        Args:
            path: The file that it is about, for the error.
            call: What to do.
            undo: For the result of a call that comes back when nobody waits for it any more.

        Raises:
            NoAnswerError: It did not come back in time, or as many others do not.
        """
        task = _Task(call, undo)
        with self._lock:
            if self._left >= self._most_left:
                raise _no_answer(path, self.seconds)
            door = self._idle.pop() if self._idle else None
        if door is None:
            door = queue.SimpleQueue()
            threading.Thread(target=self._serve, args=(door,), name="disk", daemon=True).start()
        # Counted before it can come back.
        door.put(task)
        if not task.wait(self.seconds):
            with self._lock:
                self._left += 1
            raise _no_answer(path, self.seconds)
        return task.result()

    def _serve(self, door: queue.SimpleQueue[_Task[Any]]) -> None:
        while True:
            waited_for = door.get().run()
            with self._lock:
                if not waited_for:
                    self._left -= 1
                self._idle.append(door)


PATIENCE = Patience()
"""One for all, so that what hangs is counted together."""


def lstat(path: Path) -> os.stat_result:
    """`Path.lstat`, within bounds.

    Raises:
        OSError: As it does.
        NoAnswerError: The disk does not answer.
    """
    return PATIENCE.call(path, path.lstat)


def _no_answer(path: Path, seconds: float) -> NoAnswerError:
    message = (
        f"The disk or the server that holds it gave no answer for {seconds:.3g} seconds. Try again later."
    )
    return NoAnswerError(path, "Did not answer", message)
