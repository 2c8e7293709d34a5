"""The list of results: model, painting and keyboard."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

from PySide6.QtCore import (
    QAbstractItemModel,
    QAbstractListModel,
    QEvent,
    QModelIndex,
    QPersistentModelIndex,
    QPoint,
    QPointF,
    QRect,
    QRectF,
    QSize,
    Qt,
    Signal,
)
from PySide6.QtGui import (
    QColor,
    QFont,
    QFontMetrics,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QResizeEvent,
    QTextCharFormat,
    QTextLayout,
    QTextOption,
    QWheelEvent,
)
from PySide6.QtWidgets import (
    QAbstractItemView,
    QListView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QToolTip,
    QWidget,
)

from desktop import wording
from desktop.assets import paint_icon
from desktop.theme import Theme
from indexer import api

_LEFT = int(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
ROW = Qt.ItemDataRole.UserRole + 1
_LINES = 2
_SNIPPET_CHARS = 700
_LEAD_CHARS = 36
_MARKUP = re.compile(r"[#>*+|`=:~-]+")  # words that are only the signs of headings, lists, tables
# Signs within a line: of emphasis and code at the edge of a word, and what surrounds the text of a link.
_INLINE = re.compile(r"(?<!\w)[*_`~]+(?=\S)|(?<=\S)[*_`~]+(?!\w)")
_LINK = re.compile(r"(!?\[)[^\[\]\n]{1,200}(\]\([^()\s]{0,400}\))")
_FEW_WEAK = 3


class Snippet(NamedTuple):
    """What the list shows of a passage; spans count in characters of `text`."""

    text: str
    mark: tuple[int, int] | None
    words: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Row:
    """One line of the list: a file with its best passage, a further passage of it, or a file folded under it.

    Attributes:
        hit: The file; of a folded one, what it would be as a hit of its own.
        parent: The file it is folded under, empty when it is not.
        kind: How a folded file is related to that one.
        opens_weak: Whether the line between strong and weak hits is above it.
        also: The file's place in the other list while two are compared, from 1; 0 when it is not there.
    """

    hit: api.Hit
    passage: api.Passage
    is_file: bool
    expanded: bool = False
    parent: str = ""
    kind: str = ""
    opens_weak: bool = False
    also: int = 0

    @property
    def key(self) -> tuple[str, int]:
        """What stays the same when the answer is refined: the file, or the file and the passage."""
        if self.parent:
            return (self.hit.path, -2)
        return (self.hit.path, -1 if self.is_file else self.passage.chunk)

    @property
    def owner(self) -> str:
        """The file whose row this one is under, or is."""
        return self.parent or self.hit.path

    @property
    def more(self) -> int:
        """How many rows can be shown under it."""
        return len(self.hit.passages) - 1 + len(self.hit.variants) if self.is_file else 0


def _under(hit: api.Hit) -> list[Row]:
    """The rows that an expanded file has under it."""
    rows = [Row(hit, passage, False) for passage in hit.passages[1:]]
    for v in hit.variants:
        if v.passages:
            own = api.Hit(
                path=v.path, root=v.root, media=v.media, title=v.title, similarity=v.similarity,
                passages=v.passages, code_language=v.code_language, online=v.online, weak=hit.weak,
            )  # fmt: skip
            rows.append(Row(own, v.passages[0], False, parent=hit.path, kind=v.kind))
    return rows


class ResultsModel(QAbstractListModel):
    """Files in the order of the answer, each followed by its further passages while expanded."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._hits: tuple[api.Hit, ...] = ()
        self._weak_shown = False
        self._also: dict[str, int] = {}
        self._expanded: set[str] = set()
        self._rows: list[Row] = []

    @property
    def hits(self) -> tuple[api.Hit, ...]:
        """The files shown."""
        return self._hits

    def rowCount(self, parent: QModelIndex | QPersistentModelIndex = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._rows)

    def data(self, index: QModelIndex | QPersistentModelIndex, role: int = 0) -> object:
        if not index.isValid():
            return None
        row = self._rows[index.row()]
        if role == ROW:
            return row
        if role == Qt.ItemDataRole.DisplayRole:
            return wording.file_name(row.hit.path)
        if role in (Qt.ItemDataRole.AccessibleTextRole, Qt.ItemDataRole.AccessibleDescriptionRole):
            return ", ".join(
                part
                for part in (
                    wording.file_name(row.hit.path),
                    wording.place(row.passage.locator),
                    wording.percent(row.passage.similarity) if wording.compared(row.passage) else "",
                    self.tr("in both lists") if row.also else "",
                    snippet(row.passage, row.hit.media).text,
                )
                if part
            )
        return None

    def row(self, index: QModelIndex | QPersistentModelIndex) -> Row | None:
        """The row at an index, None for no index."""
        return self._rows[index.row()] if index.isValid() and index.row() < len(self._rows) else None

    def set_hits(self, hits: Sequence[api.Hit], *, keep_expanded: bool) -> bool:
        """Show an answer.

        Args:
            hits: The files, best first.
            keep_expanded: Whether this refines the answer shown before.

        Returns:
            True when only the contents of rows changed, False when the rows themselves did.
        """
        if not keep_expanded:
            self._expanded.clear()
            self._weak_shown = False
        self._hits = tuple(hit for hit in hits if hit.passages)
        return self._rebuild()

    def moves(self, hits: Sequence[api.Hit]) -> bool:
        """Whether an answer would put the files in another order, or show others."""
        return [hit.path for hit in hits if hit.passages] != [hit.path for hit in self._hits]

    def set_expanded(self, path: str, expanded: bool) -> None:
        """Show or hide the further passages of a file."""
        if expanded == (path in self._expanded):
            return
        position = next(i for i, row in enumerate(self._rows) if row.is_file and row.hit.path == path)
        row = self._rows[position]
        more = _under(row.hit)
        if not more:
            return
        self._rows[position] = replace(row, expanded=expanded)
        if expanded:
            self._expanded.add(path)
            self.beginInsertRows(QModelIndex(), position + 1, position + len(more))
            self._rows[position + 1 : position + 1] = more
            self.endInsertRows()
        else:
            self._expanded.discard(path)
            self.beginRemoveRows(QModelIndex(), position + 1, position + len(more))
            del self._rows[position + 1 : position + 1 + len(more)]
            self.endRemoveRows()
        here = self.index(position)
        self.dataChanged.emit(here, here)

    def find(self, key: tuple[str, int]) -> int:
        """The row with a key, -1 for none."""
        return next((i for i, row in enumerate(self._rows) if row.key == key), -1)

    @property
    def strong(self) -> int:
        """How many files come before the weak ones at the end; a reranker may leave weak ones among them."""
        return max((i + 1 for i, hit in enumerate(self._hits) if not hit.weak), default=0)

    @property
    def hidden(self) -> int:
        """How many weak files are not shown until they are asked for."""
        weak = len(self._hits) - self.strong
        return weak if self.strong and weak > _FEW_WEAK and not self._weak_shown else 0

    @property
    def weak_shown(self) -> bool:
        """Whether the weak files were asked for."""
        return self._weak_shown

    def show_weak(self) -> None:
        """Show all weak files of this answer."""
        self._weak_shown = True
        self._rebuild()

    @property
    def places(self) -> dict[str, int]:
        """The place of each file that is shown, from 1; of a folded file, that of the file it is under."""
        shown = self._hits[: len(self._hits) - self.hidden]
        found = {hit.path: i for i, hit in enumerate(shown, 1)}
        for i, hit in enumerate(shown, 1):
            for variant in hit.variants:
                found.setdefault(variant.path, i)
        return found

    def set_also(self, places: dict[str, int]) -> None:
        """Mark the files that are in another list too, with their place there."""
        if places != self._also:
            self._also = places
            self._rebuild()

    def _rebuild(self) -> bool:
        rows: list[Row] = []
        strong = self.strong
        for i, hit in enumerate(self._hits[: len(self._hits) - self.hidden]):
            under = _under(hit) if hit.path in self._expanded else []
            also = self._also.get(hit.path, 0)
            rows.append(Row(hit, hit.passages[0], True, bool(under), opens_weak=i == strong > 0, also=also))
            rows.extend(under)
        if [(r.key, r.opens_weak) for r in rows] == [(r.key, r.opens_weak) for r in self._rows]:
            self._rows = rows
            if rows:
                self.dataChanged.emit(self.index(0), self.index(len(rows) - 1))
            return True
        self.beginResetModel()
        self._rows = rows
        self.endResetModel()
        return False


def snippet(passage: api.Passage, media: str) -> Snippet:
    """What the list shows of a passage: white space folded, cut so that the marked sentence is in view.

    Args:
        passage: The passage; its `mark` and `words` count in characters of `passage.text`.
        media: Kind of file; the lines of source code are kept apart, the signs of Markdown left out.

    Returns:
        The text, where in it the mark is, and where the query's words are.
    """
    text = wording.printable(passage.text)
    code = media == "code"
    pieces = _pieces(text, media)
    joint = "\u2028" if code else " "
    begins = [begin for begin, _, _ in pieces]
    starts: list[int] = []
    parts: list[str] = []
    length = 0
    for begin, end, apart in pieces:
        if apart and parts:
            parts.append(joint)
            length += 1
        starts.append(length)
        parts.append(text[begin:end])
        length += end - begin
    shown = "".join(parts)

    def moved(offset: int, *, opens: bool) -> int:
        i = bisect.bisect_right(begins, offset) - 1
        if i < 0:
            return 0
        if opens and offset >= pieces[i][1] and i + 1 < len(pieces):
            return starts[i + 1]  # it began with something that is not shown
        return starts[i] + min(offset - pieces[i][0], pieces[i][1] - pieces[i][0])

    def span(at: tuple[int, int] | None) -> tuple[int, int] | None:
        if at is None or not pieces or at[0] >= at[1]:
            return None
        return (moved(at[0], opens=True), moved(at[1], opens=False))

    mark = span(passage.mark)
    words = [span(word) for word in passage.words]
    lead = mark or next((word for word in words if word is not None), None)
    cut = 0
    if lead is not None and lead[0] > _LEAD_CHARS:
        if code:
            cut = shown.rfind("\u2028", 0, lead[0]) + 1
        else:
            cut = lead[0] - _LEAD_CHARS
            gap = shown.find(" ", cut, lead[0])
            cut = gap + 1 if gap >= 0 else cut
    head = "" if cut == 0 or code else "… "
    shown = head + shown[cut : cut + _SNIPPET_CHARS]

    def seen(at: tuple[int, int] | None) -> tuple[int, int] | None:
        if at is None:
            return None
        first, last = max(len(head), at[0] - cut + len(head)), min(at[1] - cut + len(head), len(shown))
        return (first, last) if first < last else None

    return Snippet(shown, seen(mark), tuple(word for at in words if (word := seen(at)) is not None))


def _pieces(text: str, media: str) -> list[tuple[int, int, bool]]:
    """The stretches of a text that are shown, and whether each stands apart from the one before."""
    if media == "code":
        lines = list(re.finditer(r"[^\n]*\S[^\n]*", text))
        indent = min((len(p.group()) - len(p.group().lstrip()) for p in lines), default=0)
        return [(p.start() + indent, p.start() + len(p.group().rstrip()), True) for p in lines]
    words = list(re.finditer(r"\S+", text))
    if media != "markdown":
        return [(*p.span(), True) for p in words]
    words = [p for p in words if not _MARKUP.fullmatch(p.group())] or words
    signs = [m.span() for m in _INLINE.finditer(text)]
    for link in _LINK.finditer(text):
        signs += [link.span(1), link.span(2)]
    signs.sort()
    pieces: list[tuple[int, int, bool]] = []
    k = 0
    for word in words:
        at, end, apart = word.start(), word.end(), True
        while k < len(signs) and signs[k][1] <= at:
            k += 1
        j = k
        while at < end:
            while j < len(signs) and signs[j][1] <= at:
                j += 1
            stop = min(end, signs[j][0]) if j < len(signs) else end
            if stop > at:
                pieces.append((at, stop, apart))
                apart = False
            at = max(stop, min(end, signs[j][1])) if j < len(signs) else end
    return pieces or [(*p.span(), True) for p in words]


class ResultsDelegate(QStyledItemDelegate):
    """Paints rows; all sizes follow the font, everything that may be long is elided."""

    toggled = Signal(QModelIndex)
    why_wanted = Signal(QModelIndex)

    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
        self._layouts: dict[tuple[object, ...], QTextLayout] = {}
        theme.changed.connect(self.forget)
        self._measure()

    def forget(self) -> None:
        """Drop cached text layouts (the colours or fonts changed)."""
        self._layouts.clear()
        self._measure()

    def _measure(self) -> None:
        self._name_font = self._theme.font(1.08, bold=True)
        self._small_font = self._theme.font(0.92)
        self._text_font = self._theme.font(1.0)
        self._chip_font = self._theme.font(0.8, bold=True)
        self._code_font = QFont(self._theme.mono_font)
        self._name = QFontMetrics(self._name_font)
        self._small = QFontMetrics(self._small_font)
        self._chip = QFontMetrics(self._chip_font)
        self._line = max(QFontMetrics(self._text_font).height(), QFontMetrics(self._code_font).height()) + 2
        self._pad = 10
        self._left = 18
        self._icon = 20

    @property
    def _indent(self) -> int:
        return self._left + self._icon + 10

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        row = cast(Row, index.data(ROW))
        height = self._pad * 2 + self._small.height() + 4 + self._line * _LINES
        if row.is_file:
            height += self._name.height() + 2
        if row.parent:
            height += self._name.height() + 2
        if row.opens_weak:
            height += self._divider
        return QSize(200, height)

    @property
    def _divider(self) -> int:
        return self._small.height() + 18

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        row = cast(Row, index.data(ROW))
        rect: QRect = option.rect
        state: QStyle.StateFlag = option.state
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if row.opens_weak:
            rect = self._draw_divider(painter, rect)
        self._background(painter, rect, state)
        left, right = rect.left() + self._indent, rect.right() - 18
        top = rect.top() + self._pad
        if row.parent:
            painter.setFont(self._text_font)
            painter.setPen(self._theme.color("muted"))
            label = f"{wording.relation(row.kind)}:  "
            room = QRect(left, top, right - left, self._name.height())
            painter.drawText(room, _LEFT, label)
            room.setLeft(left + QFontMetrics(self._text_font).horizontalAdvance(label))
            painter.setPen(self._theme.color("text"))
            name = wording.file_name(row.hit.path)
            name = QFontMetrics(self._text_font).elidedText(name, Qt.TextElideMode.ElideMiddle, room.width())
            painter.drawText(room, _LEFT, name)
            top += self._name.height() + 2
        if row.is_file:
            name = wording.ICONS.get(row.hit.media, "file-text")
            box = QRect(rect.left() + self._left, top + 1, self._icon, self._icon)
            online = row.hit.online
            plain = online and not row.hit.weak
            paint_icon(painter, name, box, self._theme.color("accent_text" if plain else "muted"))
            edge = self._similarity(painter, row, state, right, top, self._name.height())
            painter.setFont(self._name_font)
            painter.setPen(self._theme.color("text" if plain else "muted"))
            room = QRect(left, top, edge - 12 - left, self._name.height())
            title = wording.file_name(row.hit.path)
            text = self._name.elidedText(title, Qt.TextElideMode.ElideMiddle, room.width())
            painter.drawText(room, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, text)
            top += self._name.height() + 2
        self._second_line(painter, row, state, left, right, top)
        top += self._small.height() + 4
        layout = self._layout(row, right - left)
        painter.setPen(self._theme.color("muted" if row.hit.weak else "text"))
        layout.draw(painter, QPointF(left, top))
        painter.restore()

    def _draw_divider(self, painter: QPainter, rect: QRect) -> QRect:
        """The line between strong and weak hits; what is left of the row is returned."""
        line = QRect(rect.left() + self._left, rect.top(), rect.width() - self._left - 18, self._divider)
        painter.setFont(self._small_font)
        painter.setPen(self._theme.color("muted"))
        text = self.tr("Weaker matches")
        painter.drawText(line, _LEFT, text)
        painter.setPen(self._theme.color("control"))
        start = line.left() + self._small.horizontalAdvance(text) + 10
        painter.drawLine(start, line.center().y(), line.right(), line.center().y())
        return rect.adjusted(0, self._divider, 0, 0)

    def _background(self, painter: QPainter, rect: QRect, state: QStyle.StateFlag) -> None:
        selected = bool(state & QStyle.StateFlag.State_Selected)
        if not selected and not state & QStyle.StateFlag.State_MouseOver:
            return
        body = QRectF(rect).adjusted(6, 2, -6, -2)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.color("selection" if selected else "hover"))
        painter.drawRoundedRect(body, 8, 8)
        if selected and state & QStyle.StateFlag.State_HasFocus:
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.setPen(self._theme.color("accent"))
            painter.drawRoundedRect(body.adjusted(0.5, 0.5, -0.5, -0.5), 8, 8)

    def _similarity(
        self, painter: QPainter, row: Row, state: QStyle.StateFlag, right: int, top: int, height: int
    ) -> int:
        """Draw bar and number against the right edge; the left edge of both is returned."""
        if not wording.compared(row.passage):
            return right
        value = row.hit.similarity if row.is_file else row.passage.similarity
        painter.setFont(self._small_font)
        painter.setPen(self._theme.color("muted"))
        widest = self._small.horizontalAdvance("100")
        number = QRect(right - widest, top, widest, height)
        align = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(number, align, wording.percent(value))
        bar = QRectF(number.left() - 8 - 44, top + height / 2 - 2, 44, 4)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.color("track"))
        painter.drawRoundedRect(bar, 2, 2)
        filled = QRectF(bar)
        filled.setWidth(max(4.0, bar.width() * max(0.0, min(1.0, value))))
        painter.setBrush(self._theme.color("control" if row.hit.weak else "accent"))
        painter.drawRoundedRect(filled, 2, 2)
        ask = self._why_rect(right, top, height)
        if state & (QStyle.StateFlag.State_Selected | QStyle.StateFlag.State_MouseOver):
            sign = QRect(ask.left(), ask.center().y() - 7, 15, 15)
            paint_icon(painter, "info", sign, self._theme.color("accent_text"))
        return ask.left()

    def _why_rect(self, right: int, top: int, height: int) -> QRect:
        """The sign that tells why, with bar and number, which do so as well."""
        left = right - self._small.horizontalAdvance("100") - 8 - 44 - 8 - 15
        return QRect(left, top, right - left, height)

    def why_box(self, row: Row, rect: QRect) -> QRect:
        """Where in a row's rectangle a click asks for the reasons."""
        top = rect.top() + self._pad + (self._divider if row.opens_weak else 0)
        top += self._name.height() + 2 if row.parent else 0
        height = self._name.height() if row.is_file else self._small.height()
        return self._why_rect(rect.right() - 18, top, height)

    def _second_line(
        self, painter: QPainter, row: Row, state: QStyle.StateFlag, left: int, right: int, top: int
    ) -> None:
        height = self._small.height()
        edge = right if row.is_file else self._similarity(painter, row, state, right, top, height) - 10
        chip = wording.language_chip(row.passage, row.hit)
        if chip:
            edge = self._draw_chip(painter, chip, edge, top, height) - 8
        if not row.hit.online and row.is_file:
            edge = self._draw_chip(painter, self.tr("offline"), edge, top, height) - 8
        if row.also:
            edge = self._draw_chip(painter, self._both(row), edge, top, height, live=True) - 8
        if row.more:
            more = self._more_rect(row, edge, top, height)
            painter.setFont(self._small_font)
            painter.setPen(self._theme.color("accent_text"))
            arrow = QRect(more.left(), more.center().y() - 6, 13, 13)
            arrow_name = "chevron-down" if row.expanded else "chevron-right"
            paint_icon(painter, arrow_name, arrow, self._theme.color("accent_text"))
            painter.drawText(more.adjusted(16, 0, 0, 0), int(Qt.AlignmentFlag.AlignVCenter), self._more(row))
            edge = more.left() - 10
        painter.setFont(self._small_font)
        painter.setPen(self._theme.color("muted"))
        place = wording.place(row.passage.locator)
        room = edge - left
        if row.is_file or row.parent:
            folder = wording.folder_of(row.hit.path)
            joint = "  ·  " if place else ""
            needed = self._small.horizontalAdvance(joint + place)
            for_folder = max(room - needed, min(room // 3, self._small.horizontalAdvance(folder)))
            text = self._small.elidedText(folder, Qt.TextElideMode.ElideMiddle, for_folder)
            used = self._small.horizontalAdvance(text + joint)
            place = self._small.elidedText(place, Qt.TextElideMode.ElideRight, max(0, room - used))
            # Isolated, so that a right-to-left folder and its place do not run into each other.
            text = f"\u2066{text}\u2069{joint}\u2068{place}\u2069"
        else:
            text = self._small.elidedText(place, Qt.TextElideMode.ElideRight, room)
        align = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(QRect(left, top, room, height), align, text)

    def _both(self, row: Row) -> str:
        """That a file is in both lists, and where in the other one."""
        return self.tr("also no. %1").replace("%1", wording.number(row.also))

    def _more(self, row: Row) -> str:
        parts = [wording.folded(row.hit.variants)] if row.hit.variants else []
        if len(row.hit.passages) > 1:
            parts.insert(0, self.tr("%n more", "", len(row.hit.passages) - 1))
        return " · ".join(parts)

    def _more_rect(self, row: Row, edge: int, top: int, height: int) -> QRect:
        width = 16 + self._small.horizontalAdvance(self._more(row))
        return QRect(edge - width, top, width, height)

    def _draw_chip(
        self, painter: QPainter, text: str, right: int, top: int, height: int, *, live: bool = False
    ) -> int:
        width = self._chip.horizontalAdvance(text) + 12
        box = QRectF(
            right - width, top + (height - self._chip.height() - 2) / 2, width, self._chip.height() + 2
        )
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.color("accent" if live else "chip"))
        painter.drawRoundedRect(box, 4, 4)
        painter.setFont(self._chip_font)
        ink = "text" if self._theme.colors.dark else "muted"
        painter.setPen(self._theme.color("on_accent" if live else ink))
        painter.drawText(box, Qt.AlignmentFlag.AlignCenter, text)
        return int(box.left())

    def _layout(self, row: Row, width: int) -> QTextLayout:
        key = (
            row.hit.path, row.passage.chunk, row.passage.start, row.passage.mark, row.passage.words,
            row.passage.text, row.hit.weak, width,
        )  # fmt: skip
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) > 400:
                self._layouts.clear()
            font = self._code_font if row.hit.media == "code" else self._text_font
            layout = _lay_out(
                snippet(row.passage, row.hit.media),
                font,
                width,
                self._line,
                # Weak hits do not shout.
                self._theme.color("passage" if row.hit.weak else "mark"),
                self._theme.color("muted" if row.hit.weak else "mark_text"),
            )
            self._layouts[key] = layout
        return layout

    def editorEvent(
        self,
        event: QEvent,
        model: QAbstractItemModel,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> bool:
        if event.type() == QEvent.Type.MouseButtonRelease and isinstance(event, QMouseEvent):
            row = cast(Row, index.data(ROW))
            rect: QRect = option.rect
            here = event.position().toPoint()
            signs = self.why_box(row, rect).adjusted(-6, -4, 6, 4)
            if wording.compared(row.passage) and signs.contains(here):
                self.why_wanted.emit(index)
                return True
            if row.more:
                top = rect.top() + self._pad + self._name.height() + 2
                top += self._divider if row.opens_weak else 0
                edge = rect.right() - 18
                chip = wording.language_chip(row.passage, row.hit)
                edge -= (self._chip.horizontalAdvance(chip) + 20) if chip else 0
                if not row.hit.online:
                    edge -= self._chip.horizontalAdvance(self.tr("offline")) + 20
                if row.also:
                    edge -= self._chip.horizontalAdvance(self._both(row)) + 20
                box = self._more_rect(row, edge, top, self._small.height()).adjusted(-6, -4, 6, 4)
                if box.contains(here):
                    self.toggled.emit(index)
                    return True
        return super().editorEvent(event, model, option, index)

    def helpEvent(
        self,
        event: QHelpEvent,
        view: QAbstractItemView,
        option: QStyleOptionViewItem,
        index: QModelIndex | QPersistentModelIndex,
    ) -> bool:
        row = cast(Row | None, index.data(ROW)) if index.isValid() else None
        if row is None:
            return False
        lines = [wording.tilde(row.hit.path)]
        if row.passage.lang and row.passage.lang != "code":
            lines.append(self.tr("Language: %1").replace("%1", wording.language_name(row.passage.lang)))
        if wording.compared(row.passage):
            text = self.tr("Similarity: %1 – click it for the reasons (Ctrl+I)")
            lines.append(text.replace("%1", wording.percent(row.passage.similarity)))
        QToolTip.showText(event.globalPos(), "\n".join(lines), view)
        return True


def _lay_out(
    shown: Snippet,
    font: QFont,
    width: int,
    line_height: int,
    mark_color: QColor,
    mark_text: QColor,
) -> QTextLayout:
    """Break a text into at most `_LINES` lines, the last one elided, and colour its mark."""
    option = QTextOption()
    option.setWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
    option.setTextDirection(Qt.LayoutDirection.LayoutDirectionAuto)
    metrics = QFontMetrics(font)
    text = shown.text
    formats = []
    if shown.mark is not None:
        style = QTextCharFormat()
        style.setBackground(mark_color)
        style.setForeground(mark_text)
        formats.append(_format(text, shown.mark, style))
    for word in shown.words:
        style = QTextCharFormat()
        style.setFontWeight(QFont.Weight.Bold)
        formats.append(_format(text, word, style))

    def broken(content: str) -> tuple[QTextLayout, int, int]:
        layout = QTextLayout(content, font)
        layout.setTextOption(option)
        layout.setCacheEnabled(True)
        layout.setFormats(formats)
        layout.beginLayout()
        last_start = end = 0
        for i in range(_LINES):
            line = layout.createLine()
            if not line.isValid():
                break
            line.setLineWidth(width)
            line.setPosition(QPointF(0, i * line_height))
            last_start, end = line.textStart(), line.textStart() + line.textLength()
        layout.endLayout()
        return layout, last_start, end

    layout, last_start, end = broken(text)
    units = text.encode("utf-16-le", "surrogatepass")
    if end * 2 < len(units):
        head = units[: last_start * 2].decode("utf-16-le", "replace")
        rest = units[last_start * 2 :].decode("utf-16-le", "replace").split("\u2028")[0] + "…"
        layout, _, _ = broken(head + metrics.elidedText(rest, Qt.TextElideMode.ElideRight, width - 2))
    return layout


def _format(text: str, span: tuple[int, int], style: QTextCharFormat) -> QTextLayout.FormatRange:
    found = QTextLayout.FormatRange()
    found.start = wording.utf16(text, span[0])
    found.length = wording.utf16(text, span[1]) - found.start
    found.format = style
    return found


class ResultsView(QListView):
    """The list. The search field keeps the focus and sends it the keys that move."""

    opened = Signal()
    touched = Signal()  # the person moves in the list
    why_wanted = Signal()

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("results")
        self.setAccessibleName(self.tr("Results"))
        self.results = ResultsModel(self)
        self.setModel(self.results)
        delegate = ResultsDelegate(theme, self)
        self._delegate = delegate
        self.setItemDelegate(delegate)
        delegate.toggled.connect(self.toggle)
        delegate.why_wanted.connect(self._ask_why)
        self.setVerticalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.setMouseTracking(True)
        self.setUniformItemSizes(False)
        self.verticalScrollBar().setSingleStep(28)
        self.verticalScrollBar().actionTriggered.connect(lambda _: self.touched.emit())
        self.doubleClicked.connect(lambda _: self.opened.emit())
        theme.changed.connect(self._restyle)

    def current(self) -> Row | None:
        """The selected row."""
        return self.results.row(self.currentIndex())

    def show_hits(self, hits: Sequence[api.Hit], *, refine: bool) -> None:
        """Show an answer; when it refines the one before, selection and scroll position stay.

        Args:
            hits: The files, best first.
            refine: Whether the query is the same as before.
        """
        row = self.current()
        key = row.key if row is not None and refine else None
        offset = self.verticalScrollBar().value()
        in_place = self.results.set_hits(hits, keep_expanded=refine)
        if in_place and refine:
            return
        position = self.results.find(key) if key is not None else -1
        if position >= 0:
            self.setCurrentIndex(self.results.index(position))
            self.verticalScrollBar().setValue(offset)
        elif self.results.rowCount():
            self.setCurrentIndex(self.results.index(0))
            self.scrollToTop()

    def step(self, step: int) -> None:
        """Select the row `step` further down (negative: up), stopping at the ends."""
        count = self.results.rowCount()
        if count:
            self.touched.emit()
            here = self.currentIndex().row() if self.currentIndex().isValid() else -1
            self.setCurrentIndex(self.results.index(max(0, min(count - 1, here + step))))

    def page_rows(self) -> int:
        """How many rows a page holds."""
        first = self.results.index(0)
        height = self.sizeHintForIndex(first).height() if first.isValid() else 1
        return max(1, self.viewport().height() // max(1, height))

    def toggle(self, index: QModelIndex) -> None:
        """Show or hide the further passages of the file at an index."""
        row = self.results.row(index)
        if row is not None and row.is_file:
            self.touched.emit()
            self.setCurrentIndex(index)
            self.results.set_expanded(row.hit.path, not row.expanded)

    def expand(self) -> bool:
        """Show the further passages of the selected file; False when there is nothing to show."""
        row = self.current()
        if row is None or not row.is_file or row.expanded or not row.more:
            return False
        self.touched.emit()
        self.results.set_expanded(row.hit.path, True)
        return True

    def collapse(self) -> bool:
        """Hide the further passages of the selected file; False when none are shown."""
        row = self.current()
        if row is None or (row.is_file and not row.expanded):
            return False
        self.touched.emit()
        position = self.results.find((row.owner, -1))
        self.setCurrentIndex(self.results.index(position))
        self.results.set_expanded(row.owner, False)
        return True

    def why_corner(self) -> QPoint:
        """Where on the screen the reasons of the selected row are told."""
        row, rect = self.current(), self.visualRect(self.currentIndex())
        box = rect if row is None else self._delegate.why_box(row, rect)
        return self.viewport().mapToGlobal(box.bottomLeft() + QPoint(0, 5))

    def _ask_why(self, index: QModelIndex) -> None:
        self.setCurrentIndex(index)
        self.why_wanted.emit()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        self.touched.emit()
        super().mousePressEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        self.touched.emit()
        super().keyPressEvent(event)

    def wheelEvent(self, event: QWheelEvent) -> None:
        self.touched.emit()
        super().wheelEvent(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._delegate.forget()
        super().resizeEvent(event)

    def _restyle(self) -> None:
        self.viewport().update()
