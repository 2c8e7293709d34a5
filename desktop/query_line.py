"""What belongs to the search field: the field, completions, filters to choose from, the reasons of a hit."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from PySide6.QtCore import (
    QCoreApplication,
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QPointF,
    QRect,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import (
    QClipboard,
    QFontMetrics,
    QGuiApplication,
    QInputMethodEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPolygonF,
    QResizeEvent,
)
from PySide6.QtWidgets import (
    QFrame,
    QGridLayout,
    QLabel,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QMenu,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QToolButton,
    QWidget,
)

from desktop import wording
from desktop.theme import Theme
from indexer import api

LONG_PASTE = 300
_MOST_PASTED = 200_000
# The query, the filters and the names of fields around a pasted text take room in the request, too.
_ROOM = 1 << 16
_FILTER = re.compile(
    r"""(?:^|[\s(（-])
        (?:(?:ext|type|lang|in|name|after|before|size|has)[:：](?:"[^"]*|“[^”]*|[^\s"“]*) | ([a-z]{2,})) $""",
    re.IGNORECASE | re.VERBOSE,
)
_KEYS = ("ext", "type", "lang", "in", "name", "after", "before", "size", "has")


def wants_completions(text: str, cursor: int) -> bool:
    """Whether the word at the cursor is, or may become, a filter."""
    found = _FILTER.search(text[max(0, cursor - 200) : cursor])
    if found is None:
        return False
    begun = found.group(1)
    return begun is None or any(key.startswith(begun.lower()) for key in _KEYS)


def fitting(text: str) -> str:
    """As much of a pasted text as a request can carry."""
    text = text[:_MOST_PASTED]
    while len(api.encode(api.Search(id=0, query="", like=api.Like(text=text)))) > (
        api.MAX_REQUEST_BYTES - _ROOM
    ):
        text = text[: len(text) * 3 // 4]
    return text


def _is_long(text: str) -> bool:
    lines = [line for line in text.splitlines() if line.strip()]
    return len(text.strip()) > LONG_PASTE or len(lines) > 1


def _inserted(before: str, after: str) -> str:
    """What was put into a text at one place."""
    most = min(len(before), len(after))
    start = next((i for i in range(most) if before[i] != after[i]), most)
    end = next((i for i in range(most - start) if before[-1 - i] != after[-1 - i]), most - start)
    return after[start : len(after) - end]


class QueryField(QLineEdit):
    """The search field. A long text that is pasted or dropped is not typed, but told of.

    Args:
        theme: Colour of the line under what was not understood.
    """

    pasted = Signal(str)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._before = ""
        self._spans: tuple[tuple[int, int], ...] = ()
        self._composing = False
        self.setMaxLength(4000)
        self.textEdited.connect(self._edited)  # comes before textChanged
        self.textChanged.connect(self._changed)

    def underline(self, spans: Sequence[tuple[int, int]]) -> None:
        """Draw a line under stretches of the text (start and end in characters) until it changes."""
        if tuple(spans) != self._spans:
            self._spans = tuple(spans)
            self.update()

    def inputMethodEvent(self, event: QInputMethodEvent) -> None:
        self._composing = bool(event.preeditString())
        super().inputMethodEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        text = self.text()
        # Beside letters that run from right to left, places cannot be told from widths.
        if (
            not self._spans
            or self._composing
            or any(unicodedata.bidirectional(c) in ("R", "AL") for c in text)
        ):
            return
        metrics = self.fontMetrics()
        caret = self.cursorRect().center().x()
        origin = caret - metrics.horizontalAdvance(text[: self.cursorPosition()])
        buttons = [b.geometry() for b in self.findChildren(QToolButton) if b.isVisible()]
        middle = self.width() // 2
        left = max((b.right() for b in buttons if b.right() < middle), default=6) + 2
        right = min((b.left() for b in buttons if b.left() > middle), default=self.width() - 6) - 2
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setClipRect(QRect(left, 0, right - left, self.height()))
        painter.setPen(QPen(self._theme.color("danger"), 1.2))
        base = self.rect().center().y() + metrics.height() / 2 + 1
        for start, end in self._spans:
            x = origin + metrics.horizontalAdvance(text[: wording.utf16(text, start)])
            stop = origin + metrics.horizontalAdvance(text[: wording.utf16(text, end)])
            points = [QPointF(at, base + (2 if i % 2 else 0)) for i, at in enumerate(range(x, stop + 1, 3))]
            painter.drawPolyline(QPolygonF(points))
        painter.end()

    def _changed(self) -> None:
        if self.text() != self._before:
            self._before = self.text()
            self.underline(())

    def _edited(self, text: str) -> None:
        before = self._before
        put = _inserted(before, text)
        if not _is_long(put):
            return
        self.setText(before)
        self.pasted.emit(self._whole(put))

    def _whole(self, put: str) -> str:
        """All of a text of which the field took as much as it holds."""
        for mode in (QClipboard.Mode.Clipboard, QClipboard.Mode.Selection):
            known = QGuiApplication.clipboard().text(mode)
            if known.startswith(put):
                return known
        return put


class _CompletionDelegate(QStyledItemDelegate):
    """What is inserted on the left, what it does on the right."""

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        metrics = QFontMetrics(self._theme.font(1.0))
        label, detail = index.data(Qt.ItemDataRole.DisplayRole), index.data(_DETAIL)
        width = metrics.horizontalAdvance(label) + metrics.horizontalAdvance(detail) + 60
        return QSize(width, metrics.height() + 12)

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        rect: QRect = option.rect
        painter.save()
        state: QStyle.StateFlag = option.state
        if state & QStyle.StateFlag.State_Selected:
            painter.fillRect(rect, self._theme.color("selection"))
        font = self._theme.font(1.0)
        metrics = QFontMetrics(font)
        painter.setFont(font)
        painter.setPen(self._theme.color("text"))
        label, detail = index.data(Qt.ItemDataRole.DisplayRole), index.data(_DETAIL)
        body = rect.adjusted(12, 0, -12, 0)
        center = int(Qt.AlignmentFlag.AlignVCenter)
        elide = Qt.TextElideMode.ElideRight
        painter.drawText(body, center, metrics.elidedText(label, Qt.TextElideMode.ElideMiddle, body.width()))
        body.setLeft(body.left() + metrics.horizontalAdvance(label) + 16)
        painter.setPen(self._theme.color("muted"))
        text = metrics.elidedText(detail, elide, max(0, body.width()))
        painter.drawText(body, center | int(Qt.AlignmentFlag.AlignRight), text)
        painter.restore()


_DETAIL = Qt.ItemDataRole.UserRole + 1


class CompletionList(QListWidget):
    """Ways to go on writing a filter, under the field; the field keeps the focus.

    None is chosen before the person chooses: who has typed all of it, or a word that only looks like
    a filter ("before"), goes on as if the list were not there.

    Attributes:
        quiet: Whether it only tells what filters a word may become; the arrow keys are not for it then.
        stale: Whether the query has changed since; nothing can be taken until the next answer.
    """

    taken = Signal(str, int, int)
    quiet = False
    stale = False

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("completions")
        self.setAccessibleName(self.tr("Completions"))
        self.setItemDelegate(_CompletionDelegate(theme, self))
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._span = (0, 0)
        self.itemClicked.connect(self._take)
        self.hide()

    def offer(self, reply: api.Completions, corner: QPoint, width: int) -> None:
        """Show an answer below a corner, or hide when there is nothing to show.

        Args:
            reply: What may be taken, best first.
            corner: Where, in the parent's coordinates.
            width: At most so wide, in pixels.
        """
        self.clear()
        self._span = (reply.start, reply.end)
        self.stale = False
        for one in reply.items:
            item = QListWidgetItem(wording.printable(one.label))
            detail = wording.printable(wording.completion_detail(one))
            item.setData(Qt.ItemDataRole.UserRole, one.insert)
            item.setData(_DETAIL, detail)
            item.setData(Qt.ItemDataRole.AccessibleTextRole, f"{one.label}, {detail}")
            self.addItem(item)
        if not reply.items:
            self.hide()
            return
        self.quiet = all(one.insert.endswith(":") for one in reply.items)
        rows = min(8, self.count())
        wide = max(260, self.sizeHintForColumn(0) + (20 if self.count() > rows else 4))
        height = self.sizeHintForRow(0) * rows + 2 * self.frameWidth() + 2
        self.setGeometry(corner.x(), corner.y(), min(width, wide), height)
        self.show()
        self.raise_()

    def step(self, step: int) -> None:
        """Go to another line."""
        here = self.currentRow()
        first = 0 if step > 0 else self.count() - 1
        self.setCurrentRow(first if here < 0 else (here + step) % max(1, self.count()))

    def take(self, *, first: bool = False) -> bool:
        """Take the line chosen, or the first where none is; False when there is nothing to take."""
        item = self.currentItem() or (self.item(0) if first else None)
        if item is None:
            return False
        if not self.stale:
            self._take(item)
        return True

    def _take(self, item: QListWidgetItem) -> None:
        if self.stale:
            return
        self.hide()
        self.taken.emit(item.data(Qt.ItemDataRole.UserRole), *self._span)


class FilterMenu(QMenu):
    """The filters people want most; choosing one writes it into the query, where it stays plain text."""

    chosen = Signal(str, int)
    help_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("filterMenu")
        groups: tuple[tuple[tuple[str, str], ...], ...] = (
            (
                (self.tr("PDF files"), "ext:pdf"),
                (self.tr("Source code"), "type:code"),
                (self.tr("Files that end in…"), "ext:"),
                (self.tr("In a language…"), "lang:"),
                (self.tr("In a folder…"), "in:"),
                (self.tr("Name of the file…"), "name:"),
            ),
            (
                (self.tr("Changed in the last 7 days"), "after:7d"),
                (self.tr("Changed this year"), 'after:"this year"'),
                (self.tr("Changed after…"), "after:"),
                (self.tr("Changed before…"), "before:"),
                (self.tr("Larger or smaller than…"), "size:"),
            ),
            (
                (self.tr("These very words"), '""'),
                (self.tr("Without a word"), "-"),
                (self.tr("Either of two"), "OR"),
            ),
        )
        for group in groups:
            for text, insert in group:
                shown = {'""': "“…”", "-": "-…"}.get(insert, insert)
                action = self.addAction(f"{text}\t{shown}")
                action.setData(insert)
            self.addSeparator()
        more = self.addAction(self.tr("How to ask…"))
        more.setObjectName("howToAsk")
        more.triggered.connect(self.help_wanted)
        self.triggered.connect(lambda action: self._choose(action.data()))

    def _choose(self, insert: str | None) -> None:
        if insert:
            self.chosen.emit(insert, 1 if insert == '""' else len(insert))


def with_filter(text: str, cursor: int, insert: str, stop: int) -> tuple[str, int]:
    """Write a filter into a query as a word of its own.

    Args:
        text: The query.
        cursor: Where, as Qt and Python count alike once surrogates are apart.
        insert: The filter.
        stop: Where in it the cursor goes; behind a filter that is complete, a space follows.

    Returns:
        The new query and the place of the cursor in it.
    """
    head, tail = text[:cursor], text[cursor:]
    if head and not head[-1].isspace() and head[-1] not in "(（":
        head += " "
    whole = stop == len(insert) and not insert.endswith((":", "-"))
    between = " " if (whole or tail) and not tail.startswith(" ") else ""
    place = len(head) + stop + (1 if whole else 0)
    return head + insert + between + tail, place


class WhyPopup(QFrame):
    """Why a passage was found, in plain words; any click beside it or Esc closes it."""

    def __init__(self, theme: Theme, row_passage: api.Passage, weak: bool, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setObjectName("whyPopup")
        self._corner = QPoint()
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        grid = QGridLayout(self)
        grid.setContentsMargins(18, 14, 18, 16)
        grid.setHorizontalSpacing(20)
        grid.setVerticalSpacing(7)
        title = QLabel(self.tr("Why this was found"))
        title.setFont(theme.font(1.05, bold=True))
        grid.addWidget(title, 0, 0, 1, 2)
        facts = self._facts(row_passage, weak)
        for i, (name, value) in enumerate(facts, 1):
            label = QLabel(name)
            label.setProperty("muted", True)
            text = QLabel(value)
            text.setObjectName("whyValue")
            text.setTextFormat(Qt.TextFormat.PlainText)
            text.setWordWrap(True)
            text.setFixedWidth(280)
            grid.addWidget(label, i, 0, Qt.AlignmentFlag.AlignTop)
            grid.addWidget(text, i, 1)
        self.setAccessibleName(title.text())
        self.setAccessibleDescription("; ".join(f"{name}: {value}" for name, value in facts))

    def show_at(self, corner: QPoint) -> None:
        """Show it with its top left corner at a place of the screen, moved so that all of it is seen."""
        self._corner = corner
        self.adjustSize()
        self._stay_inside()
        self.show()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._stay_inside()

    def _stay_inside(self) -> None:
        screen = QGuiApplication.screenAt(self._corner) or QGuiApplication.primaryScreen()
        room = screen.availableGeometry()
        x = max(room.left(), min(self._corner.x(), room.right() + 1 - self.width()))
        y = max(room.top(), min(self._corner.y(), room.bottom() + 1 - self.height()))
        self.move(x, y)

    def _facts(self, passage: api.Passage, weak: bool) -> list[tuple[str, str]]:
        why = passage.why
        if not wording.compared(passage) and (why.words or why.terms):
            unknown = self.tr("Not compared: the language model is not ready.")
            return [
                (self.tr("By its words"), wording.printable(", ".join(why.terms[:12]))),
                (self.tr("By its meaning"), unknown),
            ]
        if not wording.compared(passage):
            return [(self.tr("Filters"), self.tr("It fulfils them. There was nothing to compare it with."))]
        percent = wording.percent(passage.similarity)
        text = self.tr("%1 of 100").replace("%1", percent)
        if weak:
            text += "\n" + self.tr("Texts that have nothing to do with the question are often as close.")
        facts = [(self.tr("Similarity"), text)]
        meaning = self.tr("%1 (unrelated texts are at about 0)").replace("%1", f"{why.meaning:+.1f}")
        facts.append((self.tr("By its meaning"), meaning))
        changed = f"{why.words:+.1f}".replace("-0.0", "0").replace("+0.0", "0")
        if why.terms:
            text = f"{changed}  ·  {wording.printable(', '.join(why.terms[:12]))}"
        elif why.words <= -0.05:
            text = self.tr("%1 (none in common)").replace("%1", changed)
        elif why.words >= 0.05:
            text = changed  # many words that mean a little of it, and none that is worth being named
        else:
            text = self.tr("none in common")
        facts.append((self.tr("By its words"), text))
        if why.reranked is not None:
            text = self.tr("%1 of 100").replace("%1", wording.percent(why.reranked))
            facts.append((self.tr("Reranker"), text))
        if passage.lang and passage.lang != "code":
            facts.append((self.tr("Language"), wording.language_name(passage.lang)))
        facts.append((self.tr("Cosine"), f"{why.cosine:.3f}"))
        return facts


def filter_help() -> list[tuple[str, str]]:
    """What can be written in a query, and what it does."""
    return [
        ("“annual report”", QCoreApplication.translate("QueryHelp", "These very words side by side")),
        ("-draft   -ext:md", QCoreApplication.translate("QueryHelp", "Not what has this")),
        ("boat OR ship", QCoreApplication.translate("QueryHelp", "Either of the two")),
        *(
            (f"{key}:{example}", _opened(wording.filter_text(key)))
            for key, example in wording.FILTERS.items()
        ),
        (
            'in:"My Documents"',
            QCoreApplication.translate("QueryHelp", "Quotation marks around a value with spaces"),
        ),
        ("ext:pdf,docx", QCoreApplication.translate("QueryHelp", "Any of several values")),
    ]


def _opened(text: str) -> str:
    return text[:1].upper() + text[1:]
