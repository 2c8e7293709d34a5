"""The list of keyboard shortcuts."""

from __future__ import annotations

from PySide6.QtWidgets import QDialog, QGridLayout, QLabel, QWidget

from desktop.theme import Theme


class HelpDialog(QDialog):
    """What the keys do, and how a search is narrowed down.

    Args:
        theme: Fonts.
    """

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("helpDialog")
        self.setWindowTitle(self.tr("Keyboard shortcuts"))
        grid = QGridLayout(self)
        grid.setContentsMargins(24, 20, 24, 24)
        grid.setHorizontalSpacing(24)
        grid.setVerticalSpacing(8)
        rows = (
            (self.tr("Type"), self.tr("Search; what you type always goes to the search field")),
            ("Ctrl+L   Ctrl+K   Ctrl+F", self.tr("Go to the search field")),
            ("↑   ↓   PgUp   PgDn", self.tr("Move through the results")),
            ("→   ←", self.tr("Show or hide further passages of a file")),
            ("Enter", self.tr("Search at once; then open the selected file")),
            ("Ctrl+I", self.tr("Why this was found")),
            ("Ctrl+M", self.tr("Find similar files")),
            ("Ctrl+Shift+M", self.tr("Find similar passages")),
            ("Alt+←", self.tr("Back to the search before")),
            ("Ctrl+Enter", self.tr("Show the file in its folder")),
            ("Ctrl+Shift+C", self.tr("Copy the path of the file")),
            ("Ctrl+PgUp   Ctrl+PgDn", self.tr("Turn the page of the preview")),
            ("Ctrl++   Ctrl+−   Ctrl+0", self.tr("Zoom the page of the preview")),
            ("Ctrl+O", self.tr("Add a folder")),
            ("Ctrl+,", self.tr("Library, problems and settings")),
            ("Esc", self.tr("Clear the search")),
            ("F1   ?", self.tr("This list")),
        )
        for i, (keys, text) in enumerate(rows):
            label = QLabel(keys)
            label.setFont(theme.font(1.0, bold=True))
            grid.addWidget(label, i, 0)
            grid.addWidget(QLabel(text), i, 1)
        filters = QLabel(
            self.tr(
                "In a search: “exact words”, -without, ext:pdf, type:code, lang:zh, in:folder, "
                "after:2024-01, before:2025"
            )
        )
        filters.setWordWrap(True)
        filters.setProperty("muted", True)
        grid.addWidget(filters, len(rows), 0, 1, 2)
