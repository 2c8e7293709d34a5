"""The strip at the bottom: what the service is doing, in one line."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QActionGroup, QPainter, QPaintEvent, QPalette
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from desktop import wording
from desktop.assets import icon
from desktop.theme import Theme
from desktop.widgets import ElidedLabel, tool_button
from indexer import api

# Names of models are long; the strip has room for other things too.
_MODEL_WIDTH = 220


class StatusStrip(QFrame):
    """State, progress, what is in hand, problems; pause and resume.

    Args:
        theme: Colours of the progress line.
    """

    pause_wanted = Signal(bool)
    speed_wanted = Signal(str)
    models_wanted = Signal()
    cancel_wanted = Signal()
    problems_wanted = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("statusStrip")
        self._theme = theme
        self._status: api.Status | None = None
        both = QVBoxLayout(self)
        both.setContentsMargins(0, 0, 0, 0)
        both.setSpacing(0)
        both.addWidget(self._switch_row())
        self._row = QWidget()
        both.addWidget(self._row)
        row = QHBoxLayout(self._row)
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
        self.encoder = QPushButton()
        self.encoder.setObjectName("encoderState")
        self.encoder.setProperty("link", True)
        self.encoder.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.encoder.clicked.connect(self.models_wanted)
        self.problems = QPushButton()
        self.problems.setObjectName("problemsButton")
        self.problems.setProperty("link", True)
        self.problems.setIcon(icon("warning"))
        self.problems.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.problems.clicked.connect(self.problems_wanted)
        row.addWidget(self.pause)
        row.addWidget(self.text)
        row.addWidget(self.current, 1)
        row.addWidget(self._speed_button())
        row.addWidget(self.index)
        row.addWidget(self.encoder)
        row.addWidget(self.problems)
        self._row.setMinimumHeight(self.pause.sizeHint().height() + 8)
        self.show_waiting()

    def _speed_button(self) -> QPushButton:
        """How much of the machine indexing may take, to see and to choose while it works."""
        self.speed = QPushButton()
        self.speed.setObjectName("speedButton")
        self.speed.setProperty("link", True)
        self.speed.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.speed.setToolTip(self.tr("How much of the computer indexing may take"))
        self._speed_names = {
            "gentle": self.tr("Gentle"),
            "balanced": self.tr("Balanced"),
            "full": self.tr("Full speed"),
        }
        menu = QMenu(self.speed)
        menu.setObjectName("speedMenu")
        self._speed_choices = QActionGroup(menu)
        for speed, name in self._speed_names.items():
            choice = menu.addAction(name)
            choice.setObjectName(f"stripSpeed-{speed}")
            choice.setCheckable(True)
            choice.setData(speed)
            self._speed_choices.addAction(choice)
        self._speed_choices.triggered.connect(lambda choice: self.speed_wanted.emit(choice.data()))
        self.speed.setMenu(menu)
        return self.speed

    def _show_speed(self, status: api.Status) -> None:
        name = self._speed_names.get(status.speed, status.speed)
        self.speed.setText(name)
        self.speed.setAccessibleName(self.tr("Speed of indexing: %1").replace("%1", name))
        for choice in self._speed_choices.actions():
            choice.setChecked(choice.data() == status.speed)
        self.speed.setVisible(status.state in ("scanning", "indexing") and status.waiting > 0)

    def _switch_row(self) -> QWidget:
        """The index that is being built, above everything else; hidden while there is none."""
        self.switch = QWidget()
        self.switch.setObjectName("switchRow")
        row = QHBoxLayout(self.switch)
        row.setContentsMargins(14, 4, 12, 0)
        row.setSpacing(8)
        self._switch_icon = QLabel()
        self.switch_text = ElidedLabel(Qt.TextElideMode.ElideRight)
        self.switch_text.setObjectName("switchText")
        self.switch_more = tool_button("more", self.tr("More on the index that is being built"), "switchMore")
        self.switch_more.setPopupMode(self.switch_more.ToolButtonPopupMode.InstantPopup)
        self.switch_menu = QMenu(self.switch_more)
        self.switch_menu.setObjectName("switchMenu")
        models = self.switch_menu.addAction(self.tr("Models…"))
        models.triggered.connect(lambda: self.models_wanted.emit())
        self.switch_pause = self.switch_menu.addAction("")
        self.switch_pause.triggered.connect(self._toggle)
        self.switch_menu.addSeparator()
        cancel = self.switch_menu.addAction(self.tr("Cancel building…"))
        cancel.setObjectName("cancelSwitch")
        cancel.triggered.connect(lambda: self.cancel_wanted.emit())
        self.switch_more.setMenu(self.switch_menu)
        row.addWidget(self._switch_icon)
        row.addWidget(self.switch_text, 1)
        row.addWidget(self.switch_more)
        self.switch.hide()
        return self.switch

    def show_waiting(self) -> None:
        """The service is not there (yet)."""
        self._status = None
        self.text.setText(self.tr("Starting the search service…"))
        for widget in (self.pause, self.speed, self.index, self.encoder, self.problems, self.switch):
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
        self.pause.setVisible(status.state not in ("starting", "locked", "failed", "stopping") and not idle)
        working = status.state in ("scanning", "indexing")
        self.current.setText(wording.tilde(status.current) if status.current and working else "")
        self.index.setText(self.tr("Checking the index, exact search serves"))
        self.index.setToolTip(
            self.tr("Searches are complete; they may take a little longer until the index is ready.")
        )
        exact = status.index != "chroma" and status.state not in ("starting", "failed")
        self.index.setVisible(exact and status.lock == "off")  # an encrypted library is searched so for good
        self._show_speed(status)
        self._show_encoder(status.encoder)
        self._show_switch(status, label)
        count = status.failed
        self.problems.setText(wording.problems(count))
        self.problems.setVisible(count > 0)
        self.update()

    def _show_encoder(self, encoder: api.EncoderStatus) -> None:
        name = wording.printable(encoder.model)
        text = self.fontMetrics().elidedText(name, Qt.TextElideMode.ElideMiddle, _MODEL_WIDTH)
        if encoder.state == "loading":
            text = self.tr("Loading the language model…")
        elif encoder.state == "failed":
            text = self.tr("Language model failed")
        self.encoder.setText(text)
        resting = self.tr("Its memory is free; it is loaded again for the next search.")
        lines = [
            name,
            resting if encoder.state == "resting" else encoder.message,
            self.tr("Models (Ctrl+Shift+L)"),
        ]
        self.encoder.setToolTip("\n".join(line for line in lines if line))
        self.encoder.setAccessibleName(self.tr("Model: %1").replace("%1", name or text))
        self.encoder.setVisible(bool(text))

    def _show_switch(self, status: api.Status, pause: str) -> None:
        switch = status.switch
        self.switch.setVisible(switch is not None)
        if switch is None:
            return
        text = self.tr("Building the index of %1: %2")
        text = text.replace("%1", wording.model_name(switch.reference))
        self.switch_text.setText(text.replace("%2", wording.switch_state(switch)))
        stuck = switch.state == "waiting"
        role = QPalette.ColorRole.PlaceholderText
        self._switch_icon.setPixmap(icon("warning" if stuck else "model", role).pixmap(16, 16))
        self.switch_pause.setText(pause)

    def describe(self, status: api.Status) -> str:
        """The state in words."""
        total = status.done + status.waiting
        if status.state == "starting":
            return self.tr("Starting…")
        if status.state == "locked":
            return self.tr("Writing the library anew…") if status.lock == "changing" else self.tr("Locked")
        if status.state == "failed":
            broken = status.encoder.state == "failed"  # the notice says more
            return self.tr("Language model failed") if broken else self.tr("Could not start")
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
            if status.slowed == "disk":
                return " – ".join((parts[0], self._slowed(status.slowed)))
            if status.remaining_s is not None and status.waiting:
                parts.append(wording.remaining(status.remaining_s))
            if slowed := self._slowed(status.slowed):
                parts.append(slowed)
            return " – ".join(parts)
        if not status.files:
            return self.tr("No files yet")
        files = self._grouped(wording.files(status.files), status.files)
        passages = self._grouped(wording.passages(status.chunks), status.chunks)
        return self.tr("Up to date – %1, %2").replace("%1", files).replace("%2", passages)

    def _slowed(self, why: str) -> str:
        match why:
            case "battery":
                return self.tr("slower on battery")
            case "active":
                return self.tr("slower while the computer is in use")
            case "disk":
                return self.tr("waits for room on the disk")
        return ""

    def _grouped(self, text: str, n: int) -> str:
        return text.replace(str(n), wording.number(n))

    def _toggle(self) -> None:
        if self._status is not None:
            self.pause_wanted.emit(self._status.state != "paused")

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        status = self._status
        if status is None:
            return
        painter = QPainter(self)
        if (switch := status.switch) is not None and switch.total:
            ink = "accent" if switch.state in ("loading", "building") else "muted"
            width = round(self.width() * switch.done / switch.total)
            painter.fillRect(0, 0, width, 2, self._theme.color(ink))
        total = status.done + status.waiting
        if status.state in ("indexing", "scanning", "paused") and total and status.waiting:
            ink = "muted" if status.state == "paused" else "accent"
            width = round(self.width() * status.done / total)
            painter.fillRect(0, self._row.y(), width, 2, self._theme.color(ink))
        painter.end()
