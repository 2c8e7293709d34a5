"""The three ways to look into a file: a page image, source code, and reading text.

Content is hostile: nothing here loads anything, local or remote, and links go nowhere by themselves.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from PySide6.QtCore import QEvent, QPoint, QRect, QRectF, QSize, Qt, QTimer, QUrl, Signal
from PySide6.QtGui import (
    QColor,
    QFont,
    QFontMetrics,
    QImage,
    QKeyEvent,
    QPainter,
    QPaintEvent,
    QResizeEvent,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
    QTextFormat,
    QTextFrameFormat,
    QTextOption,
    QTextTable,
    QWheelEvent,
)
from PySide6.QtWidgets import QAbstractScrollArea, QPlainTextEdit, QTextBrowser, QTextEdit, QWidget

from desktop.highlight import CodeHighlighter, Spans, Window
from desktop.theme import Theme
from desktop.wording import utf16


class PageView(QAbstractScrollArea):
    """One page of a PDF as an image, as wide as the pane times the zoom."""

    page_turned = Signal(int)
    resized = Signal()
    zoomed = Signal(int)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("pageView")
        self.setAccessibleName(self.tr("Page"))
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self._theme = theme
        self._image = QImage()
        self._zoom = 1.0
        self.horizontalScrollBar().setSingleStep(24)
        self.verticalScrollBar().setSingleStep(24)

    @property
    def zoom(self) -> float:
        """Page width over pane width."""
        return self._zoom

    def set_zoom(self, zoom: float) -> None:
        """Change the zoom, keeping the middle of the view where it is."""
        old = self._page_size()
        middle = self.verticalScrollBar().value() + self.viewport().height() / 2
        self._zoom = max(0.5, min(4.0, zoom))
        self._ranges()
        new = self._page_size()
        if old.height() and new.height():
            moved = middle * new.height() / old.height() - self.viewport().height() / 2
            self.verticalScrollBar().setValue(round(moved))
        self.viewport().update()

    def wanted_pixels(self) -> int:
        """The width an image must have to be sharp, in device pixels."""
        width = (self.viewport().width() - 32) * self._zoom * self.devicePixelRatioF()
        return max(200, min(4000, round(width)))

    def show_page(self, image: QImage, focus: QRectF | None) -> None:
        """Show a page.

        Args:
            image: The page.
            focus: What must be in view, as fractions of the page; None for its top.
        """
        self._image = image
        self._ranges()
        page = self._page_size()
        if focus is None:
            self.verticalScrollBar().setValue(0)
        else:
            top, bottom = focus.top() * page.height() + 16, focus.bottom() * page.height() + 16
            room = self.viewport().height()
            value = top - 24 if bottom - top > room - 48 else (top + bottom) / 2 - room * 0.42
            self.verticalScrollBar().setValue(round(max(0, value)))
            x = focus.center().x() * page.width() - self.viewport().width() / 2
            self.horizontalScrollBar().setValue(round(max(0, x)))
        self.viewport().update()

    def replace_image(self, image: QImage) -> None:
        """Show the same page at another resolution, without moving it."""
        self._image = image
        self._ranges()
        self.viewport().update()

    def _page_size(self) -> QSize:
        if self._image.isNull():
            return QSize()
        width = round((self.viewport().width() - 32) * self._zoom)
        return QSize(width, round(width * self._image.height() / max(1, self._image.width())))

    def _ranges(self) -> None:
        page, view = self._page_size(), self.viewport().size()
        self.verticalScrollBar().setRange(0, max(0, page.height() + 32 - view.height()))
        self.verticalScrollBar().setPageStep(view.height())
        self.horizontalScrollBar().setRange(0, max(0, page.width() + 32 - view.width()))
        self.horizontalScrollBar().setPageStep(view.width())

    def paintEvent(self, event: QPaintEvent) -> None:
        if self._image.isNull():
            return
        page = self._page_size()
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.SmoothPixmapTransform)
        spare = self.viewport().width() - page.width()
        x = spare // 2 if spare >= 32 else 16 - self.horizontalScrollBar().value()
        target = QRect(QPoint(x, 16 - self.verticalScrollBar().value()), page)
        painter.drawImage(target, self._image)
        painter.setPen(self._theme.color("border"))
        painter.drawRect(target.adjusted(-1, -1, 0, 0))
        painter.end()

    def resizeEvent(self, event: QResizeEvent) -> None:
        self._ranges()
        self.resized.emit()

    def wheelEvent(self, event: QWheelEvent) -> None:
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.zoomed.emit(1 if event.angleDelta().y() > 0 else -1)
            return
        super().wheelEvent(event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        bar = self.verticalScrollBar()
        if event.key() == Qt.Key.Key_PageDown and bar.value() == bar.maximum():
            self.page_turned.emit(1)
        elif event.key() == Qt.Key.Key_PageUp and bar.value() == bar.minimum():
            self.page_turned.emit(-1)
        else:
            super().keyPressEvent(event)


class _LineNumbers(QWidget):
    def __init__(self, view: CodeView) -> None:
        super().__init__(view)
        self._view = view

    def sizeHint(self) -> QSize:
        return QSize(self._view.number_width(), 0)

    def paintEvent(self, event: QPaintEvent) -> None:
        self._view.paint_numbers(event)


class CodeView(QPlainTextEdit):
    """Source code with line numbers, the passage on a tinted ground."""

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("codeView")
        self.setAccessibleName(self.tr("Source code"))
        self.setReadOnly(True)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.setTabChangesFocus(True)
        self.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.setFrameShape(QPlainTextEdit.Shape.NoFrame)
        self._theme = theme
        self._first = 1
        self._window = Window("", 0, 0, 1)
        self._mark: tuple[int, int] | None = None
        self._numbers = _LineNumbers(self)
        self._highlighter = CodeHighlighter(self.document(), theme)
        self.blockCountChanged.connect(self._margins)
        self.updateRequest.connect(self._scroll_numbers)
        theme.changed.connect(self._restyle)
        self._restyle()

    def show_code(self, window: Window, mark: tuple[int, int] | None) -> None:
        """Show code, scrolled to the passage.

        Args:
            window: The code and the passage in it.
            mark: The best part of it, in characters of the window's text.
        """
        self._highlighter.clear()
        self._first = window.first_line
        self._window, self._mark = window, mark
        self.setPlainText(window.text.replace("\0", "\ufffd"))
        self._margins()
        self._tint()
        self.scroll_to_passage()

    def set_mark(self, mark: tuple[int, int] | None) -> None:
        """Mark another stretch of the code shown; it stays where it is scrolled to."""
        self._mark = mark
        self._tint()

    def set_spans(self, spans: Spans) -> None:
        """Colour the code shown."""
        self._highlighter.set_spans(spans)

    def scroll_to_passage(self) -> None:
        """Bring the passage into view, a few lines from the top."""
        block = self.document().findBlock(utf16(self._window.text, self._window.start))
        self.verticalScrollBar().setValue(max(0, block.blockNumber() - 3))
        self.horizontalScrollBar().setValue(0)

    def number_width(self) -> int:
        """Room for the largest line number, in pixels."""
        digits = len(str(self._first + self.blockCount()))
        return self.fontMetrics().horizontalAdvance("9") * max(3, digits) + 26

    def paint_numbers(self, event: QPaintEvent) -> None:
        """Draw the line numbers that are in view."""
        painter = QPainter(self._numbers)
        painter.fillRect(event.rect(), self._theme.color("surface"))
        painter.setFont(self.font())
        start, end = self._blocks()
        block = self.firstVisibleBlock()
        top = self.blockBoundingGeometry(block).translated(self.contentOffset()).top()
        width = self._numbers.width() - 12
        while block.isValid() and top <= event.rect().bottom():
            number = block.blockNumber()
            hit = start <= number <= end
            painter.setPen(self._theme.color("accent_text" if hit else "muted"))
            rect = QRectF(0, top, width, self.fontMetrics().height())
            painter.drawText(rect, Qt.AlignmentFlag.AlignRight, str(self._first + number))
            if hit:
                bar = QRectF(self._numbers.width() - 5, top, 3, self.blockBoundingRect(block).height())
                painter.fillRect(bar, self._theme.color("accent"))
            top += self.blockBoundingRect(block).height()
            block = block.next()
        painter.end()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        rect = self.contentsRect()
        self._numbers.setGeometry(QRect(rect.left(), rect.top(), self.number_width(), rect.height()))

    def _blocks(self) -> tuple[int, int]:
        if self._window.start == self._window.end:
            return (-1, -1)
        text, document = self._window.text, self.document()
        first = document.findBlock(utf16(text, self._window.start)).blockNumber()
        last = document.findBlock(max(0, utf16(text, self._window.end) - 1)).blockNumber()
        return first, last

    def _tint(self) -> None:
        selections = []
        start, end = self._blocks()
        block = self.document().findBlockByNumber(start) if start >= 0 else self.document().end()
        while block.isValid() and block.blockNumber() <= end:
            line = QTextEdit.ExtraSelection()
            line.cursor = QTextCursor(block)
            line.format.setBackground(self._theme.color("passage"))
            line.format.setProperty(QTextFormat.Property.FullWidthSelection, True)
            selections.append(line)
            block = block.next()
        if self._mark is not None:
            selections.append(self._marked(self._mark))
        self.setExtraSelections(selections)
        self._numbers.update()

    def _marked(self, span: tuple[int, int]) -> QTextEdit.ExtraSelection:
        selection = QTextEdit.ExtraSelection()
        cursor = QTextCursor(self.document())
        last = max(0, self.document().characterCount() - 1)
        cursor.setPosition(min(last, utf16(self._window.text, span[0])))
        cursor.setPosition(min(last, utf16(self._window.text, span[1])), QTextCursor.MoveMode.KeepAnchor)
        selection.cursor = cursor
        style = QTextCharFormat()
        style.setBackground(self._theme.color("mark"))  # the letters keep the colours of the syntax
        selection.format = style
        return selection

    def _margins(self) -> None:
        self.setViewportMargins(self.number_width(), 0, 0, 0)

    def _scroll_numbers(self, rect: QRect, dy: int) -> None:
        if dy:
            self._numbers.scroll(0, dy)
        else:
            self._numbers.update(0, rect.y(), self._numbers.width(), rect.height())

    def _restyle(self) -> None:
        self.setFont(self._theme.mono_font)
        self.setTabStopDistance(QFontMetrics(self._theme.mono_font).horizontalAdvance(" ") * 4)
        self._tint()


class TextView(QTextBrowser):
    """Reading text: Markdown rendered, everything else plain, the passage on a tinted ground."""

    link_clicked = Signal(QUrl)

    def __init__(self, theme: Theme, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("textView")
        self.setAccessibleName(self.tr("Text"))
        self.setFrameShape(QTextBrowser.Shape.NoFrame)
        self.setFocusPolicy(Qt.FocusPolicy.ClickFocus)
        self.setOpenLinks(False)
        self.setOpenExternalLinks(False)
        self.setUndoRedoEnabled(False)
        self.anchorClicked.connect(self.link_clicked)
        self._theme = theme
        self._blank = QImage(1, 1, QImage.Format.Format_ARGB32)
        self._blank.fill(Qt.GlobalColor.transparent)
        self._window = Window("", 0, 0, 1)
        self._mark: tuple[int, int] | None = None
        self._markdown = False
        self._passage: tuple[int, int] | None = None
        self._best: tuple[int, int] | None = None
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.setInterval(0)
        self._settle.timeout.connect(self.scroll_to_passage)
        self.document().setDocumentMargin(20)
        theme.changed.connect(self._restyle)

    def loadResource(self, kind: int, name: QUrl | str) -> Any:
        """Nothing is ever loaded. An image is answered with an empty one, or Qt would open its file."""
        if kind == QTextDocument.ResourceType.ImageResource.value:
            return self._blank
        return b""

    def show_text(self, window: Window, mark: tuple[int, int] | None, *, markdown: bool) -> None:
        """Show text, scrolled to the passage.

        Args:
            window: The text and the passage in it.
            mark: The best sentence, in characters of the window's text.
            markdown: Whether to render it as Markdown.
        """
        self._window, self._mark, self._markdown = window, mark, markdown
        self._fill()
        self.scroll_to_passage()
        self._settle.start()

    def set_mark(self, mark: tuple[int, int] | None) -> None:
        """Mark another sentence of the text shown; it stays where it is scrolled to."""
        self._mark = mark
        self._find_mark()
        self._tint()

    def passage_span(self) -> tuple[int, int] | None:
        """Where the passage is in the document, as Qt counts; None when it was not found."""
        return self._passage

    def scroll_to_passage(self) -> None:
        """Bring the passage into view."""
        target = self._best or self._passage
        if target is None:
            self.verticalScrollBar().setValue(0)
            return
        cursor = QTextCursor(self.document())
        cursor.setPosition(target[0])
        y = self.cursorRect(cursor).top() + self.verticalScrollBar().value()
        self.verticalScrollBar().setValue(max(0, round(y - self.viewport().height() * 0.25)))

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if event.oldSize().width() != event.size().width():
            self._settle.start()

    def _fill(self) -> None:
        text = self._window.text.replace("\0", "\ufffd")
        document = self.document()
        document.setDefaultFont(self._theme.font(1.04))
        option = document.defaultTextOption()
        option.setWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        document.setDefaultTextOption(option)
        if self._markdown:
            features = QTextDocument.MarkdownFeature
            document.setMarkdown(text, features.MarkdownDialectGitHub | features.MarkdownNoHTML)
            self._polish_markdown()
            shown = document.toPlainText()
            self._passage = find_rendered(text, (self._window.start, self._window.end), shown)
        else:
            self.setPlainText(text)
            whole = QTextCursor(document)
            whole.select(QTextCursor.SelectionType.Document)
            spacing = QTextBlockFormat()
            spacing.setLineHeight(145, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
            whole.mergeBlockFormat(spacing)
            start, end = utf16(text, self._window.start), utf16(text, self._window.end)
            self._passage = (start, end) if end > start else None
        self._find_mark()
        self._tint()

    def _find_mark(self) -> None:
        self._best = None
        if self._mark is not None and self._markdown:
            self._best = find_rendered(self._window.text, self._mark, self.document().toPlainText())
        elif self._mark is not None:
            text = self._window.text
            self._best = (utf16(text, self._mark[0]), utf16(text, self._mark[1]))

    def _polish_markdown(self) -> None:
        """Give code and links the colours of the theme and paragraphs some air."""
        document = self.document()
        whole = QTextCursor(document)
        whole.select(QTextCursor.SelectionType.Document)
        spacing = QTextBlockFormat()
        spacing.setLineHeight(135, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
        whole.mergeBlockFormat(spacing)
        mono = self._theme.mono_font
        block = document.begin()
        while block.isValid():
            fenced = block.blockFormat().hasProperty(QTextFormat.Property.BlockCodeLanguage) or (
                block.blockFormat().hasProperty(QTextFormat.Property.BlockCodeFence)
            )
            spans = []
            fragments = block.begin()
            while not fragments.atEnd():
                fragment = fragments.fragment()
                if fragment.charFormat().fontFixedPitch():
                    spans.append((fragment.position(), fragment.length()))
                fragments += 1
            for position, length in spans:
                cursor = QTextCursor(document)
                cursor.setPosition(position)
                cursor.setPosition(position + length, QTextCursor.MoveMode.KeepAnchor)
                style = QTextCharFormat()
                style.setFontFamilies(mono.families())
                style.setFontPointSize(mono.pointSizeF())
                if not fenced:
                    style.setBackground(self._theme.color("chip"))
                cursor.mergeCharFormat(style)
            if fenced:
                tint = QTextBlockFormat()
                tint.setBackground(self._theme.color("window"))
                QTextCursor(block).mergeBlockFormat(tint)
            block = block.next()
        for frame in document.rootFrame().childFrames():
            if isinstance(frame, QTextTable):
                self._polish_table(frame)

    def _polish_table(self, table: QTextTable) -> None:
        """Thin lines, room around the cells, and a head in bold."""
        first = table.cellAt(0, 0)
        start = first.firstCursorPosition()
        if first.lastCursorPosition().blockNumber() > start.blockNumber() and not start.block().text():
            start.deleteChar()  # after code, Qt begins a table with an empty line and a plain first cell
        style = table.format()
        style.setBorderCollapse(True)
        style.setBorder(1)
        style.setBorderStyle(QTextFrameFormat.BorderStyle.BorderStyle_Solid)
        style.setBorderBrush(self._theme.color("border"))
        style.setCellPadding(5)
        style.setTopMargin(6)
        style.setBottomMargin(10)
        table.setFormat(style)
        tight = QTextBlockFormat()
        tight.setTopMargin(0)
        tight.setBottomMargin(0)
        bold = QTextCharFormat()
        bold.setFontWeight(QFont.Weight.DemiBold)
        for row, column in itertools.product(range(table.rows()), range(table.columns())):
            cell = table.cellAt(row, column)
            cursor = cell.firstCursorPosition()
            cursor.setPosition(cell.lastCursorPosition().position(), QTextCursor.MoveMode.KeepAnchor)
            cursor.mergeBlockFormat(tight)
            if row == 0:
                cursor.mergeCharFormat(bold)

    def _stretches(self, start: int, end: int) -> list[tuple[int, int]]:
        """What is coloured of a stretch: in plain text not the empty lines, which would show as stubs."""
        if self._markdown:
            return [(start, end)]
        found = []
        block = self.document().findBlock(start)
        while block.isValid() and block.position() < end:
            text = block.text().rstrip()
            first, last = max(start, block.position()), min(end, block.position() + utf16(text, len(text)))
            if text and first < last:
                found.append((first, last))
            block = block.next()
        return found

    def _tint(self) -> None:
        selections = []
        last = max(0, self.document().characterCount() - 1)
        for span, ground, ink in (
            (self._passage, "passage", "text"),
            (self._best, "mark", "mark_text"),
        ):
            if span is None:
                continue
            style = QTextCharFormat()
            style.setBackground(QColor(self._theme.color(ground)))
            # Without a colour of its own, Qt draws the bullets of a marked list with none.
            style.setForeground(self._theme.color(ink))
            for start, end in self._stretches(min(last, span[0]), min(last, span[1])):
                selection = QTextEdit.ExtraSelection()
                cursor = QTextCursor(self.document())
                cursor.setPosition(start)
                cursor.setPosition(end, QTextCursor.MoveMode.KeepAnchor)
                selection.cursor = cursor
                selection.format = style
                selections.append(selection)
        self.setExtraSelections(selections)

    def _restyle(self) -> None:
        if self._window.text:
            offset = self.verticalScrollBar().value()
            self._fill()
            self.verticalScrollBar().setValue(offset)

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.FontChange and self._window.text:
            self.document().setDefaultFont(QFont(self._theme.font(1.04)))


_NUMBERED = re.compile(r"^[ \t]*\d{1,9}[.)][ \t]+", re.MULTILINE)
_LINK = re.compile(r"!\[[^\]]*\]\([^)\n]*\)|\[([^\]]*)\]\([^)\n]*\)")


def _letters(text: str) -> tuple[str, list[int]]:
    """The letters and digits of a text, folded, and where each stood."""
    kept = [(c.casefold()[:1], i) for i, c in enumerate(text) if c.isalnum()]
    return "".join(c for c, _ in kept), [i for _, i in kept]


def find_rendered(source: str, span: tuple[int, int], shown: str) -> tuple[int, int] | None:
    """Find a stretch of Markdown source in its rendered text.

    Rendering drops markup and link targets, so both sides are compared by letters and digits only;
    of several places the one that is proportionally nearest is taken.

    Args:
        source: The Markdown.
        span: Start and end in `source`, in characters.
        shown: The document's plain text.

    Returns:
        Start and end in the document as Qt counts (UTF-16), or None when it is not there.
    """

    def plain(text: str) -> str:
        text = _NUMBERED.sub("", text)  # the numbers of a list are drawn, but are no text of the document
        return _letters(_LINK.sub(lambda m: m.group(1) or "", text))[0]

    hay, places = _letters(shown)
    if not hay or span[0] >= span[1]:
        return None
    expected = round(len(hay) * span[0] / max(1, len(source)))
    pieces = [plain(source[span[0] : span[1]])]
    pieces += [plain(line) for line in source[span[0] : span[1]].split("\n")]
    found: tuple[int, int] | None = None
    for i, piece in enumerate(pieces):
        if not piece or (i and len(piece) < 4):
            continue
        at = _nearest(hay, piece, found[1] if found else expected)
        if at is None:
            continue
        found = (at, at + len(piece)) if found is None else (found[0], max(found[1], at + len(piece)))
        if i == 0:
            break
    if found is None:
        return None
    start, end = places[found[0]], places[found[1] - 1] + 1
    return utf16(shown, start), utf16(shown, end)


def _nearest(hay: str, needle: str, expected: int) -> int | None:
    best: int | None = None
    at = hay.find(needle)
    tries = 0
    while at >= 0 and tries < 1000:
        if best is None or abs(at - expected) < abs(best - expected):
            best = at
        elif at > expected:
            break
        at = hay.find(needle, at + 1)
        tries += 1
    return best
