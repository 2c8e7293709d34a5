"""Run as a child: the window as it is, with somebody inside who tells where things are.

``python -m tests.end2end.inside --data-dir FOLDER`` runs ``desktop`` unchanged but for its event
loop's start. It prints one JSON line when what is typed would arrive in the search field, and then
answers every line of its standard input with one line: ``find NAME`` what a person sees of the
widgets of that object name, ``scheme dark|light`` switches the colours, ``clipboard "TEXT"`` puts a
text (as JSON) on the clipboard, as another program would, ``stall`` the
longest time since the last such question in which the event loop did not turn, how much of it the
processor was at it (the rest it was taken by other programs), and where it was.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from PySide6.QtCore import QAbstractItemModel, QPoint, QSocketNotifier, Qt, QTimer
from PySide6.QtWidgets import (
    QAbstractItemView,
    QAbstractScrollArea,
    QApplication,
    QLineEdit,
    QPlainTextEdit,
    QStackedWidget,
    QTextEdit,
    QWidget,
)

from desktop.window import MainWindow

_TICK_MS = 4
_LONG_NS = 40_000_000


class Inside:
    """Watches the event loop and answers questions."""

    def __init__(self) -> None:
        self._ready = False
        self._longest = self._own = 0
        self._last, self._worked = time.monotonic_ns(), time.thread_time_ns()
        self._timer = QTimer()
        self._timer.setTimerType(Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._timer.start(_TICK_MS)
        self._input = bytearray()
        self._notifier = QSocketNotifier(sys.stdin.fileno(), QSocketNotifier.Type.Read)
        self._notifier.activated.connect(self._read)
        self._place = ""
        self._main = threading.get_ident()
        threading.Thread(target=self._look, name="stalls", daemon=True).start()

    def _look(self) -> None:
        """Notes what the event loop is busy with when it is busy for long."""
        while True:
            time.sleep(0.01)
            late = time.monotonic_ns() - self._last
            if late > max(_LONG_NS, self._longest):
                frame = sys._current_frames().get(self._main)
                stack = traceback.extract_stack(frame)[-4:] if frame is not None else []
                del frame  # or its painters would live longer than they should
                self._place = " > ".join(f"{Path(at.filename).name}:{at.lineno} {at.name}" for at in stack)

    def _tick(self) -> None:
        now, worked = time.monotonic_ns(), time.thread_time_ns()
        late = now - self._last - _TICK_MS * 1_000_000
        if late > self._longest:
            self._longest, self._own = late, worked - self._worked
        self._last, self._worked = now, worked
        if not self._ready:
            field = QApplication.focusWidget()
            if isinstance(field, QLineEdit) and field.isVisible() and field.isEnabled():
                self._ready = True
                self._longest = 0
                _say({"ready": now})

    def _read(self) -> None:
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            self._notifier.setEnabled(False)
        self._input += data
        while b"\n" in self._input:
            line, _, rest = bytes(self._input).partition(b"\n")
            self._input = bytearray(rest)
            word, _, value = line.decode().partition(" ")
            _say(self._answer(word, value))

    def _answer(self, word: str, value: str) -> object:
        if word == "find":
            return [_describe(widget) for widget in QApplication.allWidgets() if widget.objectName() == value]
        if word == "scheme":
            # Without a desktop there is nobody to tell Qt of a change of scheme.
            for window in QApplication.topLevelWidgets():
                if isinstance(window, MainWindow):
                    window._theme.set_scheme(value)
            return value
        if word == "clipboard":
            QApplication.clipboard().setText(json.loads(value))
            return True
        if word == "stall":
            longest, place = self._longest, self._place
            self._longest, self._place = 0, ""
            return [longest / 1e6, self._own / 1e6, place]
        raise ValueError(word)


def _say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _describe(widget: QWidget) -> dict[str, Any]:
    """What a person, or a screen reader, learns of a widget; places in pixels of the screen."""
    # Places in a window count in its own units; X counts in pixels.
    ratio = widget.devicePixelRatioF()
    view = widget.viewport() if isinstance(widget, QAbstractScrollArea) else widget
    corner = view.mapToGlobal(QPoint(0, 0))
    told: dict[str, Any] = {
        "class": type(widget).__name__,
        "name": widget.accessibleName(),
        "visible": widget.isVisible() and not view.visibleRegion().isEmpty(),
        "enabled": widget.isEnabled(),
        "focus": widget.hasFocus(),
        "rect": [round(n * ratio) for n in (corner.x(), corner.y(), view.width(), view.height())],
        "text": widget.property("text"),
        "title": widget.windowTitle() if widget.isWindow() else "",
        "window": int(widget.winId()) if widget.isWindow() else 0,
    }
    if isinstance(widget, QPlainTextEdit):
        first = widget.firstVisibleBlock().blockNumber()
        last = widget.cursorForPosition(QPoint(0, view.height() - 1)).blockNumber()
        told["text"] = widget.toPlainText()
        told["selected"] = [selection.cursor.block().text() for selection in widget.extraSelections()]
        told["at"] = [first, last]
    elif isinstance(widget, QTextEdit):
        told["text"] = widget.toPlainText()
        told["selected"] = [selection.cursor.selectedText() for selection in widget.extraSelections()]
        told["at"] = [
            [round(n * ratio) for n in (rect.x(), rect.y())]
            for rect in (
                widget.cursorRect(_start(selection.cursor)) for selection in widget.extraSelections()
            )
        ]
    elif isinstance(widget, QAbstractItemView):
        told["rows"] = [_row(widget.model(), row) for row in range(widget.model().rowCount())]
        told["current"] = widget.currentIndex().row()
    elif isinstance(widget, QStackedWidget):
        current = widget.currentWidget()
        told["current"] = current.objectName() if current is not None else ""
    return told


def _start(cursor: Any) -> Any:
    cursor.setPosition(cursor.selectionStart())
    return cursor


def _row(model: QAbstractItemModel, row: int) -> str:
    cells = []
    for column in range(9):
        index = model.index(row, column)
        if not index.isValid():
            break
        cell = model.data(index, Qt.ItemDataRole.AccessibleTextRole)
        cells.append(str(cell or model.data(index, Qt.ItemDataRole.DisplayRole) or ""))
    return " | ".join(cells)


def main() -> None:
    """Run the program; every window program comes to the start of the event loop."""
    run = QApplication.exec
    kept: list[Inside] = []

    def watched() -> int:
        kept.append(Inside())
        return run()

    QApplication.exec = staticmethod(watched)  # type: ignore[method-assign]
    sys.argv = ["dragoman", *sys.argv[1:]]
    runpy.run_module("desktop", run_name="__main__")


if __name__ == "__main__":
    main()
