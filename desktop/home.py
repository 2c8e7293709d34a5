"""What the window shows while nothing is searched: the first start, progress, examples; and empty answers."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QPalette
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from desktop import wording
from desktop.assets import app_icon, icon, sample_questions
from desktop.theme import Theme
from desktop.widgets import FlowLayout
from indexer import api

# Questions in the languages people have; they are data, so they are the same in every translation.
_OWN_QUESTIONS = (
    "notice period in the rental contract",
    "如何备份重要的文件",
    "Rechnung für die Heizung",
    "function that parses a date",
    "compte rendu de la réunion de mars",
)


class _Card(QFrame):
    """One reason, with its picture."""

    def __init__(self, theme: Theme, icon_name: str, title: str, text: str) -> None:
        super().__init__()
        self.setObjectName("card")
        column = QVBoxLayout(self)
        column.setContentsMargins(18, 16, 18, 16)
        column.setSpacing(6)
        self._icon_name = icon_name
        self._picture = QLabel()
        heading = QLabel(title)
        heading.setFont(theme.font(1.0, bold=True))
        heading.setWordWrap(True)
        body = QLabel(text)
        body.setWordWrap(True)
        body.setProperty("muted", True)
        body.setAlignment(Qt.AlignmentFlag.AlignTop)
        column.addWidget(self._picture)
        column.addWidget(heading)
        column.addWidget(body, 1)
        theme.changed.connect(self._draw)
        self._draw()

    def _draw(self) -> None:
        self._picture.setPixmap(icon(self._icon_name, QPalette.ColorRole.Link).pixmap(24, 24))


class HomePage(QScrollArea):
    """The first start, then progress with questions to try, then a quiet page.

    Args:
        theme: Fonts and colours.
        has_sample: Whether this copy has a sample library.
    """

    add_wanted = Signal()
    sample_wanted = Signal()
    question_chosen = Signal(str)

    def __init__(self, theme: Theme, *, has_sample: bool, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("homePage")
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._theme = theme
        self._has_sample = has_sample
        self._sample_added = False
        page = QWidget()
        outer = QHBoxLayout(page)
        outer.addStretch(1)
        column = QVBoxLayout()
        column.setSpacing(14)
        column.setContentsMargins(24, 24, 24, 24)
        outer.addLayout(column, 12)
        outer.addStretch(1)
        self._body = QWidget()
        self._body.setMaximumWidth(780)
        column.addStretch(2)
        column.addWidget(self._body)
        column.addStretch(3)
        body = QVBoxLayout(self._body)
        body.setContentsMargins(0, 0, 0, 0)
        body.setSpacing(12)
        self.picture = QLabel()
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.picture.setPixmap(app_icon().pixmap(64, 64))
        self.title = _centred(theme, 1.7, bold=True)
        self.title.setObjectName("homeTitle")
        self.text = _centred(theme, 1.06)
        self.text.setObjectName("homeText")
        self.text.setProperty("muted", True)
        body.addWidget(self.picture)
        body.addWidget(self.title)
        body.addWidget(self.text)
        self.cards = QWidget()
        cards = QHBoxLayout(self.cards)
        cards.setContentsMargins(0, 12, 0, 8)
        cards.setSpacing(12)
        for name, heading, words in (
            (
                "spark",
                self.tr("By meaning"),
                self.tr("Ask in your own words. The passage that answers is found, not only the same words."),
            ),
            (
                "languages",
                self.tr("In any language"),
                self.tr("Ask in one language, find what was written in another. Source code too."),
            ),
            (
                "lock",
                self.tr("Offline and private"),
                self.tr("Everything stays on this computer. Your files are only read, never changed."),
            ),
        ):
            cards.addWidget(_Card(theme, name, heading, words), 1)
        body.addWidget(self.cards)
        self.progress = QProgressBar()
        self.progress.setObjectName("homeProgress")
        self.progress.setTextVisible(False)
        self.progress.setAccessibleName(self.tr("Indexing progress"))
        body.addWidget(self.progress)
        self.progress_text = _centred(theme, 1.0)
        self.progress_text.setObjectName("homeProgressText")
        self.progress_text.setProperty("muted", True)
        body.addWidget(self.progress_text)
        self.buttons = QWidget()
        buttons = QHBoxLayout(self.buttons)
        buttons.setContentsMargins(0, 4, 0, 0)
        buttons.setSpacing(12)
        self.add = QPushButton(self.tr("Choose a folder…"))
        self.add.setObjectName("chooseFolder")
        self.add.setProperty("primary", True)
        self.add.clicked.connect(self.add_wanted)
        self.sample = QPushButton(self.tr("Try the sample library"))
        self.sample.setObjectName("trySample")
        self.sample.clicked.connect(self.sample_wanted)
        buttons.addStretch(1)
        buttons.addWidget(self.add)
        buttons.addWidget(self.sample)
        buttons.addStretch(1)
        body.addWidget(self.buttons)
        self.drop_hint = _centred(theme, 0.95)
        self.drop_hint.setProperty("muted", True)
        self.drop_hint.setText(self.tr("Or drop a folder anywhere on this window."))
        body.addWidget(self.drop_hint)
        self.try_label = _centred(theme, 1.0)
        self.try_label.setProperty("muted", True)
        body.addSpacing(10)
        body.addWidget(self.try_label)
        self.questions = QWidget()
        self.questions.setObjectName("questions")
        self._flow = FlowLayout(self.questions)
        body.addWidget(self.questions)
        self.filters = _centred(theme, 0.95)
        self.filters.setObjectName("filterHint")
        self.filters.setProperty("muted", True)
        self.filters.setText(
            self.tr(
                "Narrow it down:  “exact words”   -without   ext:pdf   lang:zh   in:folder   after:2024-01"
            )
        )
        body.addWidget(self.filters)
        self.setWidget(page)
        self._asked: tuple[str, ...] = ()
        self.show_welcome()

    def show_welcome(self) -> None:
        """First start: what this is, and the two ways to begin."""
        self.title.setText(self.tr("Find your files by meaning"))
        self.text.setText(
            self.tr("Choose a folder with notes, PDFs, books or code. Dragoman reads it once, then you ask.")
        )
        self._show(welcome=True, progress=False)

    def show_progress(self, status: api.Status, summary: str, *, sample: bool) -> None:
        """A folder is being read.

        Args:
            status: How far it is.
            summary: The strip's own words for it.
            sample: Whether the library is the sample, which has questions of its own.
        """
        self.title.setText(self.tr("Reading your files"))
        self.text.setText(self.tr("You can search already; answers get better as more is read."))
        total = status.done + status.waiting
        self.progress.setRange(0, max(1, total) if total else 0)
        self.progress.setValue(status.done)
        self.progress_text.setText(summary)
        self._ask(sample=sample)
        self._show(welcome=False, progress=True)

    def show_idle(self, status: api.Status, folders: int, *, sample: bool) -> None:
        """Everything is read, nothing is searched.

        Args:
            status: For the counts.
            folders: How many folders the library has.
            sample: Whether the library is the sample.
        """
        self.title.setText(self.tr("What are you looking for?"))
        text = self.tr("%1 in %2, ready to search.")
        files = wording.files(status.files).replace(str(status.files), wording.number(status.files))
        text = text.replace("%1", files).replace("%2", self.tr("%n folder(s)", "", folders))
        self.text.setText(text)
        self._ask(sample=sample)
        self._show(welcome=False, progress=False)

    def _ask(self, *, sample: bool) -> None:
        questions = (sample_questions() if sample else ()) or _OWN_QUESTIONS
        if sample:
            self.try_label.setText(self.tr("Try one of these:"))
        else:
            self.try_label.setText(self.tr("Ask as you would ask a person, for example:"))
        if questions == self._asked:  # built once, or the buttons would lose a click in the middle
            return
        self._asked = questions
        while (item := self._flow.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.deleteLater()
        for question in questions:
            button = QPushButton(question)
            button.setProperty("example", True)
            button.setCursor(Qt.CursorShape.PointingHandCursor)
            button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
            button.clicked.connect(lambda _=False, q=question: self.question_chosen.emit(q))
            self._flow.addWidget(button)

    def _show(self, *, welcome: bool, progress: bool) -> None:
        for widget in (self.cards, self.buttons, self.drop_hint):
            widget.setVisible(welcome)
        self.sample.setVisible(welcome and self._has_sample)
        for widget in (self.progress, self.progress_text):
            widget.setVisible(progress)
        for widget in (self.try_label, self.questions):
            widget.setVisible(not welcome)
        self.filters.setVisible(not welcome and not progress)


class EmptyPage(QWidget):
    """No results: why, and what to try."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("emptyPage")
        self._icon_name = "search"
        column = QVBoxLayout(self)
        column.setContentsMargins(40, 24, 40, 24)
        column.setSpacing(8)
        column.addStretch(2)
        self.picture = QLabel()
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.title = _centred(theme, 1.3, bold=True)
        self.title.setObjectName("emptyTitle")
        self.text = _centred(theme, 1.0)
        self.text.setObjectName("emptyText")
        self.text.setProperty("muted", True)
        for label in (self.picture, self.title, self.text):
            column.addWidget(label)
        column.addStretch(3)
        theme.changed.connect(self._draw)

    def show_nothing(self, query: str, reasons: list[str]) -> None:
        """Nothing was found.

        Args:
            query: What was asked.
            reasons: Why that may be; shown before the tips.
        """
        self._icon_name = "search"
        short = query if len(query) <= 60 else query[:59] + "…"
        self.title.setText(self.tr("Nothing close to “%1”").replace("%1", short))
        tips = [
            self.tr("Try a whole question, or other words for the same thing."),
            self.tr(
                "Filters such as ext: lang: in: and “exact words” leave files out; remove them to see more."
            ),
        ]
        self.text.setText("\n".join([*reasons, "", *tips] if reasons else tips))
        self._draw()

    def show_message(self, icon_name: str, title: str, text: str) -> None:
        """Any other reason why there is no list."""
        self._icon_name = icon_name
        self.title.setText(title)
        self.text.setText(text)
        self._draw()

    def _draw(self) -> None:
        pixmap = icon(self._icon_name, QPalette.ColorRole.PlaceholderText).pixmap(44, 44)
        self.picture.setPixmap(pixmap)


def _centred(theme: Theme, scale: float, *, bold: bool = False) -> QLabel:
    label = QLabel()
    label.setAlignment(Qt.AlignmentFlag.AlignCenter)
    label.setWordWrap(True)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setFont(theme.font(scale, bold=bold))
    return label
