"""The strip at the bottom: what the service is doing, in one line."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QWidget

from desktop import wording
from desktop.assets import icon
from desktop.theme import Theme
from desktop.widgets import ElidedLabel, tool_button
from indexer import api


class StatusStrip(QFrame):
    """State, progress, what is in hand, problems; pause and resume.

    Args:
        theme: Colours of the progress line.
    """

    pause_wanted = Signal(bool)
    problems_wanted = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("statusStrip")
        self._theme = theme
        self._status: api.Status | None = None
        row = QHBoxLayout(self)
        row.setContentsMargins(12, 3, 12, 3)
        row.setSpacing(8)
        self.pause = tool_button("pause", self.tr("Pause indexing"), "pauseButton")
        self.pause.clicked.connect(self._toggle)
        self.text = QLabel()
        self.text.setObjectName("statusText")
        self.text.setTextFormat(Qt.TextFormat.PlainText)
        self.current = ElidedLabel(Qt.TextElideMode.ElideMiddle)
        self.current.setObjectName("currentFile")
        self.current.setProperty("muted", True)
        self.current.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.index = QLabel()
        self.index.setObjectName("indexState")
        self.index.setProperty("muted", True)
        self.encoder = QLabel()
        self.encoder.setObjectName("encoderState")
        self.encoder.setProperty("muted", True)
        self.problems = QPushButton()
        self.problems.setObjectName("problemsButton")
        self.problems.setProperty("link", True)
        self.problems.setIcon(icon("warning"))
        self.problems.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.problems.clicked.connect(self.problems_wanted)
        row.addWidget(self.pause)
        row.addWidget(self.text)
        row.addWidget(self.current, 1)
        row.addWidget(self.index)
        row.addWidget(self.encoder)
        row.addWidget(self.problems)
        self.setMinimumHeight(self.pause.sizeHint().height() + 8)
        self.show_waiting()

    def show_waiting(self) -> None:
        """The service is not there (yet)."""
        self._status = None
        self.text.setText(self.tr("Starting the search service…"))
        for widget in (self.pause, self.index, self.encoder, self.problems):
            widget.hide()
        self.current.setText("")
        self.update()

    def show_stopped(self) -> None:
        """The service could not be started."""
        self.show_waiting()
        self.text.setText(self.tr("The search service is not running"))

    def show_status(self, status: api.Status) -> None:
        """Show what the service said last."""
        self._status = status
        self.text.setText(self.describe(status))
        paused = status.state == "paused"
        self.pause.setIcon(icon("play" if paused else "pause"))
        label = self.tr("Resume indexing") if paused else self.tr("Pause indexing")
        self.pause.setToolTip(label)
        self.pause.setAccessibleName(label)
        idle = status.state == "watching" and not status.files
        self.pause.setVisible(status.state not in ("starting", "stopping") and not idle)
        working = status.state in ("scanning", "indexing")
        self.current.setText(wording.tilde(status.current) if status.current and working else "")
        self.index.setText(self.tr("Checking the index, exact search serves"))
        self.index.setToolTip(
            self.tr("Searches are complete; they may take a little longer until the index is ready.")
        )
        self.index.setVisible(status.index != "chroma" and status.state != "starting")
        encoder = status.encoder
        loading = encoder.state == "loading"
        self.encoder.setText(
            self.tr("Loading the language model…") if loading else self.tr("Language model failed")
        )
        self.encoder.setToolTip(f"{encoder.model}\n{encoder.message}".strip())
        self.encoder.setVisible(encoder.state != "ready")
        count = status.failed
        self.problems.setText(wording.problems(count))
        self.problems.setVisible(count > 0)
        self.update()

    def describe(self, status: api.Status) -> str:
        """The state in words."""
        total = status.done + status.waiting
        if status.state == "starting":
            return self.tr("Starting…")
        if status.state == "stopping":
            return self.tr("Stopping…")
        if status.state == "paused":
            if not status.waiting:
                return self.tr("Indexing is paused")
            waiting = self.tr("Paused – %n file(s) waiting", "", status.waiting)
            return self._grouped(waiting, status.waiting)
        if status.state == "scanning" and not status.waiting:
            return self.tr("Looking through the folders…")
        if status.state in ("indexing", "scanning") and total:
            text = self.tr("Indexing %1 of %2")
            text = text.replace("%1", wording.number(min(total, status.done + 1)))
            parts = [text.replace("%2", wording.number(total))]
            if status.files_per_s >= 0.05:
                digits = 0 if status.files_per_s >= 3 else 1
                rate = self.locale().toString(status.files_per_s, "f", digits)
                parts.append(self.tr("%1 files/s").replace("%1", rate))
            if status.remaining_s is not None and status.waiting:
                parts.append(wording.remaining(status.remaining_s))
            return " – ".join(parts)
        if not status.files:
            return self.tr("No files yet")
        files = self._grouped(wording.files(status.files), status.files)
        passages = self._grouped(wording.passages(status.chunks), status.chunks)
        return self.tr("Up to date – %1, %2").replace("%1", files).replace("%2", passages)

    def _grouped(self, text: str, n: int) -> str:
        return text.replace(str(n), wording.number(n))

    def _toggle(self) -> None:
        if self._status is not None:
            self.pause_wanted.emit(self._status.state != "paused")

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        status = self._status
        if status is None or status.state not in ("indexing", "scanning", "paused"):
            return
        total = status.done + status.waiting
        if not total or not status.waiting:
            return
        painter = QPainter(self)
        width = round(self.width() * status.done / total)
        ink = "muted" if status.state == "paused" else "accent"
        painter.fillRect(0, 0, width, 2, self._theme.color(ink))
        painter.end()
