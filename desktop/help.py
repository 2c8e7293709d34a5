"""Help: the keyboard shortcuts, and how to ask."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDialog, QGridLayout, QLabel, QTabWidget, QVBoxLayout, QWidget

from desktop.query_line import filter_help
from desktop.theme import Theme


class HelpDialog(QDialog):
    """What the keys do, and how a search is narrowed down.

    Args:
        theme: Fonts.
    """

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("helpDialog")
        self.setWindowTitle(self.tr("Help"))
        self._theme = theme
        rows = (
            (self.tr("Type"), self.tr("Search; what you type always goes to the search field")),
            ("Ctrl+L   Ctrl+K   Ctrl+F", self.tr("Go to the search field")),
            ("↑   ↓   PgUp   PgDn", self.tr("Move through the results")),
            ("→   ←", self.tr("Show or hide further passages of a file")),
            ("Enter", self.tr("Search at once; then open the selected file")),
            ("Ctrl+I", self.tr("Why this was found")),
            ("Ctrl+M", self.tr("Find similar files")),
            ("Ctrl+Shift+M", self.tr("Find similar passages")),
            ("Ctrl+R", self.tr("Take the better order, when there is one")),
            ("Alt+F", self.tr("Filters")),
            ("Alt+←", self.tr("Back to the search before")),
            ("Ctrl+Enter", self.tr("Show the file in its folder")),
            ("Ctrl+Shift+C", self.tr("Copy the path of the file")),
            ("Ctrl+PgUp   Ctrl+PgDn", self.tr("Turn the page of the preview")),
            ("Ctrl++   Ctrl+−   Ctrl+0", self.tr("Zoom the page of the preview")),
            ("Ctrl+O", self.tr("Add a folder")),
            ("Ctrl+,", self.tr("Library, problems and settings")),
            ("Ctrl+Shift+L", self.tr("Models")),
            ("Ctrl+D", self.tr("Compare with the model that is kept, side by side")),
            ("Esc", self.tr("Clear the search")),
            ("F1   ?", self.tr("This list")),
        )
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 4, 0, 0)
        self.tabs = QTabWidget()
        self.tabs.setObjectName("helpTabs")
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setDrawBase(False)
        column.addWidget(self.tabs)
        self.tabs.addTab(self._table(rows), self.tr("Keyboard shortcuts"))
        note = self.tr(
            "Ask in your own words, in any language; the words need not occur in the file. "
            "What follows is for when that finds too much."
        )
        self.tabs.addTab(self._table(filter_help(), note), self.tr("How to ask"))

    def _table(self, rows: Sequence[tuple[str, str]], note: str = "") -> QWidget:
        page = QWidget()
        grid = QGridLayout(page)
        grid.setContentsMargins(24, 18, 24, 24)
        grid.setHorizontalSpacing(24)
        grid.setVerticalSpacing(8)
        grid.setColumnStretch(1, 1)
        if note:
            head = QLabel(note)
            head.setWordWrap(True)
            head.setProperty("muted", True)
            head.setContentsMargins(0, 0, 0, 8)
            grid.addWidget(head, 0, 0, 1, 2)
        for i, (left, right) in enumerate(rows, 1):
            label = QLabel(left)
            label.setTextFormat(Qt.TextFormat.PlainText)
            label.setFont(self._theme.font(1.0, bold=True))
            grid.addWidget(label, i, 0)
            grid.addWidget(QLabel(right), i, 1)
        grid.setRowStretch(len(rows) + 1, 1)
        return page
