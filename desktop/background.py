"""Work off the GUI thread: a function runs elsewhere, its result comes back to the event loop."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import shiboken6
from PySide6.QtCore import QObject, Signal

log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass
class _Task:
    work: Callable[[], Any]
    done: Callable[[Any], None]
    failed: Callable[[Exception], None] | None
    result: Any = None
    error: Exception | None = None


class Background(QObject):
    """A few daemon threads; whatever they still do when the window closes holds nothing up.

    Args:
        threads: How many tasks may run at once.
        parent: Its owner.
    """

    _finished = Signal(object)

    def __init__(self, threads: int = 3, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"background-{i}", daemon=True) for i in range(threads)
        ]
        self._finished.connect(self._deliver)
        self._closed = False
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        work: Callable[[], _T],
        done: Callable[[_T], None],
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Run `work` on a thread, then `done` with its result on this object's thread.

        Args:
            work: Must not touch widgets.
            done: Dropped when it belongs to a Qt object that is gone by then.
            failed: Called instead with the exception; without it the exception is logged.
        """
        self._tasks.put(_Task(work, done, failed))

    def close(self) -> None:
        """Let idle threads end and call nothing back any more."""
        self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(0.05)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task.result = task.work()
            except Exception as error:  # noqa: BLE001 - handed to whoever gave the task
                task.error = error
            if self._closed:
                return
            try:
                self._finished.emit(task)
            except RuntimeError:  # the object was deleted between the two lines
                log.debug("nobody waits for a background task any more")
                return

    def _deliver(self, task: object) -> None:
        if self._closed:
            return
        task = cast(_Task, task)
        if task.error is None:
            if alive(task.done):
                task.done(task.result)
        elif task.failed is None:
            log.error("a background task failed", exc_info=task.error)
        elif alive(task.failed):
            task.failed(task.error)


def alive(callback: Callable[..., None]) -> bool:
    """Whether a callback may still be called: not a method of a Qt object that is gone."""
    while isinstance(callback, partial):
        callback = callback.func
    owner = getattr(callback, "__self__", None)
    return not isinstance(owner, QObject) or shiboken6.isValid(owner)
