"""The left side of the window: the list of results with what is said above and below it."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from desktop.results import ResultsView
from desktop.theme import Theme
from desktop.widgets import ElidedLabel, tool_button


class ResultsPane(QFrame):
    """The list; how many there are and how long it took; the weak ones; the way to compare models.

    Args:
        theme: Fonts and colours.
    """

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("resultsPane")
        self.setMinimumWidth(300)
        listing = QVBoxLayout(self)
        listing.setContentsMargins(0, 0, 0, 0)
        listing.setSpacing(0)
        header = QFrame()
        header.setObjectName("resultsHeader")
        row = QHBoxLayout(header)
        row.setContentsMargins(18, 6, 18, 6)
        self.summary = QLabel()
        self.summary.setObjectName("resultsSummary")
        self.summary.setProperty("muted", True)
        self.serving = ElidedLabel(Qt.TextElideMode.ElideMiddle)
        self.serving.setObjectName("servingModel")
        self.serving.setFont(theme.font(1.0, bold=True))
        self.serving.hide()
        row.addWidget(self.serving)
        row.addWidget(self.summary)
        row.addStretch(1)
        self.better_button = QPushButton(self.tr("Better order available"))
        self.better_button.setObjectName("betterOrder")
        self.better_button.setProperty("link", True)
        self.better_button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.better_button.hide()
        row.addWidget(self.better_button)
        self.compare_button = tool_button("compare", "", "compareButton")
        self.compare_button.setCheckable(True)
        self.compare_button.setText(self.tr("Compare"))
        self.compare_button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.compare_button.hide()
        row.addWidget(self.compare_button)
        listing.addWidget(header)
        self.header = header
        self.results = ResultsView(theme)
        self.nothing = QWidget()
        self.nothing.setObjectName("nothingClose")
        head = QVBoxLayout(self.nothing)
        head.setContentsMargins(18, 12, 18, 8)
        head.setSpacing(2)
        self.nothing_title = QLabel(self.tr("Nothing clearly close was found"))
        self.nothing_title.setFont(theme.font(1.0, bold=True))
        tips = QLabel(
            self.tr("These are the nearest. A whole question, other words or fewer filters may find more.")
        )
        tips.setProperty("muted", True)
        for label in (self.nothing_title, tips):
            label.setWordWrap(True)
            head.addWidget(label)
        self.nothing.hide()
        listing.addWidget(self.nothing)
        listing.addWidget(self.results, 1)
        self.weak_button = QPushButton()
        self.weak_button.setObjectName("showWeak")
        self.weak_button.setProperty("link", True)
        self.weak_button.hide()
        listing.addWidget(self.weak_button)

    def show_weakness(self) -> None:
        """Say when nothing is close, and offer what is hidden."""
        model = self.results.results
        self.nothing.setVisible(bool(model.hits) and not model.strong)
        self.weak_button.setAccessibleDescription(self.tr("Also with the arrow down on the last row"))
        self.weak_button.setVisible(model.hidden > 0)
        self.weak_button.setText(self.tr("Show %n weaker match(es)", "", model.hidden))
