"""The same question asked of another model: the second column of results."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from PySide6.QtCore import QModelIndex, Qt, Signal
from PySide6.QtWidgets import QComboBox, QFrame, QHBoxLayout, QLabel, QVBoxLayout, QWidget

from desktop import wording
from desktop.connection import Connection
from desktop.results import ResultsView
from desktop.theme import Theme
from desktop.widgets import ElidedLabel
from indexer import api

_CHANNEL = "compare"


class ComparePane(QFrame):
    """What a kept model finds.

    Args:
        theme: Fonts and colours.
        connection: The service.
        main: The list of the model in use; the marks of both lists are kept here.
    """

    open_wanted = Signal(str)
    answered = Signal()

    def __init__(
        self, theme: Theme, connection: Connection, main: ResultsView, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("comparePane")
        self._connection = connection
        self._main = main
        self._request = 0
        self._following = False
        self._asked: api.Search | None = None
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        header = QFrame()
        header.setObjectName("compareHeader")
        row = QHBoxLayout(header)
        row.setContentsMargins(18, 6, 18, 6)
        row.setSpacing(8)
        self.name = ElidedLabel(Qt.TextElideMode.ElideMiddle)
        self.name.setObjectName("compareModel")
        self.name.setFont(theme.font(1.0, bold=True))
        self.choice = QComboBox()
        self.choice.setObjectName("compareChoice")
        self.choice.setAccessibleName(self.tr("Model to compare with"))
        self.choice.currentIndexChanged.connect(self._chosen)
        self.summary = QLabel()
        self.summary.setObjectName("compareSummary")
        self.summary.setProperty("muted", True)
        row.addWidget(self.name)
        row.addWidget(self.choice)
        row.addStretch(1)
        row.addWidget(self.summary)
        column.addWidget(header)
        self.header = header
        self.message = QLabel()
        self.message.setObjectName("compareMessage")
        self.message.setTextFormat(Qt.TextFormat.PlainText)
        self.message.setWordWrap(True)
        self.message.setProperty("muted", True)
        self.message.setContentsMargins(18, 14, 18, 14)
        self.message.hide()
        column.addWidget(self.message)
        self.results = ResultsView(theme)
        self.results.setObjectName("otherResults")
        self.results.setAccessibleName(self.tr("Results of the model that is kept"))
        self.results.setContextMenuPolicy(Qt.ContextMenuPolicy.NoContextMenu)
        column.addWidget(self.results, 1)
        self.results.opened.connect(self.open_current)
        self.results.selectionModel().currentChanged.connect(lambda *_: self._follow(self.results, main))
        main.selectionModel().currentChanged.connect(lambda *_: self._follow(main, self.results))

    def show_models(self, kept: Sequence[api.Model]) -> None:
        """Offer the models that are kept."""
        references = [m.reference for m in kept]
        if references != [self.choice.itemData(i) for i in range(self.choice.count())]:
            before = self.choice.currentData()
            self.choice.blockSignals(True)
            self.choice.clear()
            for model in kept:
                self.choice.addItem(wording.printable(model.name), model.reference)
            self.choice.setCurrentIndex(max(0, self.choice.findData(before)))
            self.choice.blockSignals(False)
            if self.choice.currentData() != before:
                self._chosen()
        self.name.setText(self.choice.currentText())
        self.name.setVisible(len(kept) < 2)
        self.choice.setVisible(len(kept) > 1)

    def search(self, message: api.Search) -> None:
        """Ask the kept model the same."""
        reference = self.choice.currentData()
        if reference is None:
            return
        if self._request:
            self._connection.forget(self._request)
        self._asked = message
        self.summary.setText(self.tr("Searching…"))
        self._request = self._connection.request(
            msgspec.structs.replace(message, model=reference, channel=_CHANNEL), self._show, self._failed
        )

    def clear(self) -> None:
        """Nothing is searched."""
        if self._request:
            self._connection.cancel(self._request)
        self._request, self._asked = 0, None
        self.summary.setText("")
        self.message.hide()
        self.results.show_hits((), refine=False)
        self._main.results.set_also({})

    def mark(self) -> None:
        """Mark in both lists what is in both; the main list has changed."""
        if self._asked is None:
            return
        if self._main.results.weak_shown:
            self.results.results.show_weak()
        self._main.results.set_also(self.results.results.places)
        self.results.results.set_also(self._main.results.places)
        self._follow(self._main, self.results)

    def open_current(self) -> None:
        """Open the file that is selected here."""
        row = self.results.current()
        if row is not None:
            self.open_wanted.emit(row.hit.path)

    @property
    def has_hits(self) -> bool:
        """Whether something is shown."""
        return bool(self.results.results.hits)

    def _chosen(self) -> None:
        self.name.setText(self.choice.currentText())
        if self._asked is not None:
            self.results.show_hits((), refine=False)
            self.search(self._asked)

    def _show(self, reply: api.Reply) -> None:
        if not isinstance(reply, api.SearchResult) or reply.id != self._request:
            return
        first = not self.has_hits or not self.results.results.places
        if reply.final:
            self._request = 0
        self.message.hide()
        refine = not first and not self.results.results.moves(reply.hits)
        self.results.show_hits(reply.hits, refine=refine)
        found = self.results.results
        self.summary.setText(wording.found(found.strong, len(found.hits), reply.took_ms))
        if not reply.hits and reply.final:
            self._say(self.tr("This model finds nothing close."))
        self.mark()
        self.answered.emit()

    def _failed(self, reply: api.Failed) -> None:
        self._request = 0
        if reply.title == "Cancelled":
            return
        self.results.show_hits((), refine=False)
        self.summary.setText("")
        self._say(f"{reply.title}. {reply.message}")
        self.mark()
        self.answered.emit()

    def _say(self, text: str) -> None:
        self.message.setText(text)
        self.message.show()

    def _follow(self, leader: ResultsView, follower: ResultsView) -> None:
        """Select the file that was selected in the other list, where it is in this one too."""
        row = leader.current()
        if self._following or self._asked is None or row is None:
            return
        self._following = True
        position = follower.results.find((row.owner, -1))
        if position >= 0:
            follower.setCurrentIndex(follower.results.index(position))
        elif follower is self.results:
            follower.setCurrentIndex(QModelIndex())
        self._following = False
