"""The check of the library: what it compares, how far it is, what differs, and mending it."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtGui import QPalette
from PySide6.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QVBoxLayout, QWidget

from desktop import wording
from desktop.assets import icon
from desktop.connection import Connection
from desktop.theme import Theme
from desktop.widgets import GrowingDialog
from indexer import api

_PARTS = 1000  # of the progress bar, which takes no numbers as large as a library may have


class CheckDialog(GrowingDialog):
    """Compares all parts of the library when it is opened, and offers to mend what differs.

    Closing it stops a check that is under way. What was mended until then stays so.
    """

    def __init__(self, theme: Theme, connection: Connection, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("checkDialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Check the library"))
        self.setMinimumWidth(520)
        self._connection = connection
        self._request = 0
        self._repairing = False
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 18, 20, 18)
        column.setSpacing(10)
        head = QHBoxLayout()
        head.setSpacing(10)
        self._picture = QLabel()
        self._picture.setFixedSize(24, 24)
        self.title = QLabel()
        self.title.setObjectName("checkTitle")
        self.title.setFont(theme.font(1.2, bold=True))
        self.title.setWordWrap(True)
        head.addWidget(self._picture, 0, Qt.AlignmentFlag.AlignTop)
        head.addWidget(self.title, 1)
        column.addLayout(head)
        self.explained = self._text("checkText")
        self.explained.setProperty("muted", True)
        column.addWidget(self.explained)
        self.found = self._text("checkFound")
        self.found.setTextInteractionFlags(
            Qt.TextInteractionFlag.TextSelectableByMouse | Qt.TextInteractionFlag.TextSelectableByKeyboard
        )
        column.addWidget(self.found)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName(self.tr("Progress of the check"))
        column.addWidget(self.bar)
        column.addStretch(1)
        row = QHBoxLayout()
        row.addStretch(1)
        self.dismiss = QPushButton()
        self.dismiss.setObjectName("closeCheck")
        self.dismiss.setAutoDefault(False)
        self.dismiss.clicked.connect(self.reject)
        self.go = QPushButton()
        self.go.setObjectName("goCheck")
        self.go.setProperty("primary", True)
        self.go.clicked.connect(self._go)
        row.addWidget(self.dismiss)
        row.addWidget(self.go)
        column.addLayout(row)
        self.begin(repair=False)

    def _text(self, name: str) -> QLabel:
        label = QLabel()
        label.setObjectName(name)
        label.setWordWrap(True)
        label.setTextFormat(Qt.TextFormat.PlainText)
        return label

    def begin(self, *, repair: bool) -> None:
        """Compare everything, and mend it where that is wanted."""
        self._repairing = repair
        self.title.setText(self.tr("Mending the library") if repair else self.tr("Checking the library"))
        self.explained.setText(
            self.tr(
                "Files, texts, words, vectors and the search index are compared with one another. "
                "You can go on searching."
            )
        )
        self._picture.setPixmap(icon("retry", QPalette.ColorRole.Link).pixmap(24, 24))
        self.found.hide()
        self.go.hide()
        self.bar.setRange(0, 0)
        self.bar.show()
        self.dismiss.setText(self.tr("Cancel"))
        self._request = self._connection.request(api.Check(id=0, repair=repair), self._take, self._failed)

    def _go(self) -> None:
        self.begin(repair=True)

    def _take(self, reply: api.Reply) -> None:
        if isinstance(reply, api.Progress):
            self.bar.setRange(0, _PARTS if reply.total else 0)
            if reply.total:
                self.bar.setValue(_PARTS * reply.done // reply.total)
            if reply.remaining_s is not None:
                self.explained.setText(wording.remaining(reply.remaining_s))
        elif isinstance(reply, api.Checked):
            self._show(reply)

    def _show(self, checked: api.Checked) -> None:
        wrong = [d for d in checked.differences if not d.harmless]
        left = [d for d in wrong if d.mended < d.count]
        lines = [self._line(d) for d in checked.differences]
        if not checked.index:
            lines.append(
                self.tr("The search index is just being built and was not compared; exact search serves.")
            )
        compared = self.tr("%1 and %2 were compared.")
        compared = compared.replace("%1", wording.counted(wording.files(checked.files), checked.files))
        compared = compared.replace("%2", wording.counted(wording.passages(checked.texts), checked.texts))
        if checked.salvage:
            title = self.tr("The library's catalog is damaged")
            compared = self.tr(
                "What can be read of it is saved by the command “dragoman check --repair”, "
                "while this window is closed."
            )
        elif not wrong:
            title = self.tr("Everything agrees")
        elif not left:
            title = self.tr("The library is mended")
        elif self._repairing:
            title = self.tr("Not everything could be mended yet")
        else:
            title = self.tr("Some parts of the library differ")
        good = not left and not checked.salvage
        self._end(title, compared, lines, good=good)
        self.go.setText(self.tr("Mend it") if not self._repairing else self.tr("Try again"))
        self.go.setVisible(bool(left) and not checked.salvage)
        (self.go if self.go.isVisible() else self.dismiss).setFocus()

    def _line(self, difference: api.Difference) -> str:
        what = f"{wording.number(difference.count)} {difference.what}"
        if difference.mended >= difference.count:
            what = self.tr("Mended: %1").replace("%1", what)
        elif difference.harmless:
            what = self.tr("Harmless: %1").replace("%1", what)
        return f"•  {what}" + (f"\n    {difference.advice}" if difference.advice else "")

    def _failed(self, reply: api.Failed) -> None:
        self._end(reply.title, reply.message, [], good=False)
        self.go.setText(self.tr("Try again"))
        self.go.hide()

    def _end(self, title: str, explained: str, lines: list[str], *, good: bool) -> None:
        self._request = 0
        self.bar.hide()
        self.title.setText(title)
        self.explained.setText(explained)
        self.found.setText("\n".join(lines))
        self.found.setVisible(bool(lines))
        role = QPalette.ColorRole.Link if good else QPalette.ColorRole.PlaceholderText
        self._picture.setPixmap(icon("check" if good else "warning", role).pixmap(24, 24))
        self.dismiss.setText(self.tr("Close"))

    def done(self, result: int) -> None:
        """Stop what is under way, and close."""
        if self._request:
            self._connection.cancel(self._request)
            self._request = 0
        super().done(result)
