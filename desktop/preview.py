"""The preview pane: asks the service for a look into the selected file, at the passage."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import QRectF, Qt, QTimer, QUrl, Signal
from PySide6.QtGui import QImage, QPalette, QPixmap
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QStackedWidget, QVBoxLayout, QWidget

from desktop import wording
from desktop.assets import icon
from desktop.background import Background
from desktop.connection import Connection
from desktop.highlight import Spans, around, code_spans
from desktop.theme import Theme
from desktop.views import CodeView, PageView, TextView
from desktop.widgets import ElidedLabel, tool_button
from indexer import api

_WALK_MS = 70
_RESIZE_MS = 250


def picture(png: bytes) -> QImage:
    """A page as it was drawn; null for anything but a PNG, and for one beyond Qt's limit (256 MiB)."""
    # Left to find out, Qt would take SVG and any other format it has a plugin for.
    return QImage.fromData(png) if png.startswith(b"\x89PNG\r\n\x1a\n") else QImage()


class PreviewPane(QFrame):
    """Shows the selected passage in its file.

    Args:
        theme: Colours and fonts.
        connection: Where previews come from.
        background: Where images are decoded and code is coloured.
    """

    open_wanted = Signal(str)
    reveal_wanted = Signal(str)
    copy_wanted = Signal(str)
    link_wanted = Signal(QUrl)

    def __init__(
        self, theme: Theme, connection: Connection, background: Background, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("previewPane")
        self._theme = theme
        self._connection = connection
        self._background = background
        self._hit: api.Hit | None = None
        self._passage: api.Passage | None = None
        self._page = 0
        self._pages = 0
        self._request = 0
        self._ticket = 0
        self._asked_pixels = 0
        self._shown = ("", 0)
        self._walk = QTimer(self)
        self._walk.setSingleShot(True)
        self._walk.setInterval(_WALK_MS)
        self._walk.timeout.connect(self._ask)
        self._sharpen = QTimer(self)
        self._sharpen.setSingleShot(True)
        self._sharpen.setInterval(_RESIZE_MS)
        self._sharpen.timeout.connect(self._ask_sharper)
        self._build()

    def _build(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        header = QFrame()
        header.setObjectName("previewHeader")
        row = QHBoxLayout(header)
        row.setContentsMargins(16, 7, 10, 7)
        row.setSpacing(2)
        self.title = ElidedLabel()
        self.title.setObjectName("previewTitle")
        self.title.setFont(self._theme.font(1.0, bold=True))
        self.place = ElidedLabel(Qt.TextElideMode.ElideRight)
        self.place.setObjectName("previewPlace")
        self.place.setProperty("muted", True)
        names = QVBoxLayout()
        names.setSpacing(0)
        names.addWidget(self.title)
        names.addWidget(self.place)
        row.addLayout(names, 1)
        self.pager = QWidget()
        pages = QHBoxLayout(self.pager)
        pages.setContentsMargins(0, 0, 8, 0)
        pages.setSpacing(2)
        self.previous = tool_button("chevron-left", self.tr("Previous page (Ctrl+PgUp)"), "previousPage")
        self.page_label = QLabel()
        self.page_label.setObjectName("pageLabel")
        self.next = tool_button("chevron-right", self.tr("Next page (Ctrl+PgDown)"), "nextPage")
        self.zoom_out = tool_button("minus", self.tr("Smaller (Ctrl+−)"), "zoomOut")
        self.zoom_in = tool_button("plus", self.tr("Larger (Ctrl++)"), "zoomIn")
        self.zoom_fit = tool_button("fit", self.tr("Fit the width (Ctrl+0)"), "zoomFit")
        for widget in (
            self.previous, self.page_label, self.next, self.zoom_out, self.zoom_in, self.zoom_fit,
        ):  # fmt: skip
            pages.addWidget(widget)
        row.addWidget(self.pager)
        self.open_button = tool_button("open", self.tr("Open the file (Enter)"), "openFile")
        self.reveal_button = tool_button("folder-open", self.tr("Show in folder (Ctrl+Enter)"), "revealFile")
        self.copy_button = tool_button("copy", self.tr("Copy path (Ctrl+Shift+C)"), "copyPath")
        for button in (self.open_button, self.reveal_button, self.copy_button):
            row.addWidget(button)
        self.header = header
        self.stack = QStackedWidget()
        self.stack.setObjectName("previewStack")
        self.page_view = PageView(self._theme)
        self.code_view = CodeView(self._theme)
        self.text_view = TextView(self._theme)
        self.note = QWidget()
        column = QVBoxLayout(self.note)
        column.addStretch(2)
        self.note_icon = QLabel()
        self.note_icon.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.note_title = QLabel()
        self.note_title.setObjectName("previewNoteTitle")
        self.note_title.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.note_title.setFont(self._theme.font(1.05, bold=True))
        self.note_text = QLabel()
        self.note_text.setObjectName("previewNote")
        self.note_text.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.note_text.setWordWrap(True)
        self.note_text.setProperty("muted", True)
        for label in (self.note_title, self.note_text):
            label.setTextFormat(Qt.TextFormat.PlainText)
        for label in (self.note_icon, self.note_title, self.note_text):
            column.addWidget(label)
        column.addStretch(3)
        column.setContentsMargins(32, 24, 32, 24)
        for view in (self.note, self.page_view, self.code_view, self.text_view):
            self.stack.addWidget(view)
        layout.addWidget(header)
        layout.addWidget(self.stack, 1)
        self.previous.clicked.connect(lambda: self.turn(-1))
        self.next.clicked.connect(lambda: self.turn(1))
        self.zoom_in.clicked.connect(lambda: self.zoom(1))
        self.zoom_out.clicked.connect(lambda: self.zoom(-1))
        self.zoom_fit.clicked.connect(lambda: self.zoom(0))
        self.page_view.page_turned.connect(self.turn)
        self.page_view.zoomed.connect(self.zoom)
        self.page_view.resized.connect(self._sharpen.start)
        self.text_view.link_clicked.connect(self.link_wanted)
        self.open_button.clicked.connect(self._wants(self.open_wanted))
        self.reveal_button.clicked.connect(self._wants(self.reveal_wanted))
        self.copy_button.clicked.connect(self._wants(self.copy_wanted))
        self.clear()

    def _wants(self, signal: object) -> object:
        def emit() -> None:
            if self._hit is not None:
                signal.emit(self._hit.path)  # type: ignore[attr-defined]

        return emit

    def clear(self) -> None:
        """Show nothing."""
        self._drop_request()
        self._hit = self._passage = None
        self.header.setVisible(False)
        self._note("eye", self.tr("Nothing selected"), self.tr("Select a result to look into the file."))

    def show_passage(self, hit: api.Hit, passage: api.Passage) -> None:
        """Show a passage in its file; the same passage again (now marked) is updated in place.

        Args:
            hit: The file.
            passage: The passage in it.
        """
        before = (self._hit.path, self._passage) if self._hit and self._passage else None
        self._hit, self._passage = hit, passage
        if before is not None and before[0] == hit.path and _same_place(before[1], passage):
            self._remark()
            return
        self.header.setVisible(True)
        if before is None:  # it is on its way
            self.note_icon.clear()
            self.note_title.clear()
            self.note_text.clear()
        self.title.setText(wording.file_name(hit.path))
        place = wording.place(passage.locator)
        self.place.setText(place or wording.folder_of(hit.path))
        self._page = passage.locator.page or 0
        if before is None or before[0] != hit.path:
            self._pages = 0
            self.page_view.set_zoom(1.0)
        self.pager.setVisible(hit.media == "pdf")
        self._page_text()
        self._drop_request()
        self._walk.start()

    def turn(self, step: int) -> None:
        """Show the next page of a PDF (negative: an earlier one)."""
        page = self._page + step
        if self._hit is not None and self._hit.media == "pdf" and 1 <= page <= self._pages:
            self._page = page
            self._page_text()
            self._drop_request()
            self._walk.start()

    def zoom(self, step: int) -> None:
        """Draw the page larger (1), smaller (-1) or as wide as the pane (0)."""
        if self._hit is None or self._hit.media != "pdf":
            return
        self.page_view.set_zoom(1.0 if step == 0 else self.page_view.zoom * 1.25**step)
        self._sharpen.start()

    def _drop_request(self) -> None:
        self._walk.stop()
        self._ticket += 1
        if self._request:
            self._connection.cancel(self._request)
            self._request = 0

    def _ask(self, *, sharper: bool = False) -> None:
        hit, passage = self._hit, self._passage
        if hit is None or passage is None:
            return
        own_page = self._page in (0, passage.locator.page)
        self._asked_pixels = self.page_view.wanted_pixels()
        message = api.GetPreview(
            id=0,
            path=hit.path,
            start=passage.start,
            end=passage.start + len(passage.text),
            page=self._page or None,
            rects=passage.locator.rects if own_page else (),
            width=self._asked_pixels,
        )
        ticket = self._ticket
        self._request = self._connection.request(
            message, partial(self._take, ticket, sharper), partial(self._failed, ticket)
        )

    def _ask_sharper(self) -> None:
        """The pane or the zoom changed: the same page again, as sharp as it can be shown now."""
        if self._hit is None or self.stack.currentWidget() is not self.page_view:
            return
        wanted = self.page_view.wanted_pixels()
        if self._request == 0 and abs(wanted - self._asked_pixels) > 0.05 * wanted:
            self._ask(sharper=True)

    def _take(self, ticket: int, sharper: bool, reply: api.Reply) -> None:
        if ticket != self._ticket or not isinstance(reply, api.Preview):
            return
        self._request = 0
        if reply.media == "pdf":
            done = partial(self._show_page, ticket, reply, sharper)
            self._background.submit(lambda: picture(reply.png), done)
            return
        blank = len(reply.text[reply.start : reply.end]) - len(reply.text[reply.start : reply.end].rstrip())
        window = around(reply.text, reply.start, reply.end - blank, reply.first_line)
        self._shown = (window.text, window.start)
        mark = self._mark_in(window.text, window.start)
        if reply.media == "code":
            self.stack.setCurrentWidget(self.code_view)
            self.code_view.show_code(window, mark)
            language = reply.code_language or (self._hit.code_language if self._hit else None)
            self._background.submit(lambda: code_spans(window.text, language), partial(self._colour, ticket))
        else:
            self.stack.setCurrentWidget(self.text_view)
            self.text_view.show_text(window, mark, markdown=reply.media == "markdown")

    def _remark(self) -> None:
        """The best sentence became known: mark it without asking or scrolling again."""
        if self._request or self._walk.isActive():
            return
        view = self.stack.currentWidget()
        if view is self.code_view or view is self.text_view:
            text, start = self._shown
            view.set_mark(self._mark_in(text, start))

    def _mark_in(self, text: str, start: int) -> tuple[int, int] | None:
        """The best sentence in the previewed text, when the file is still as it was indexed."""
        passage = self._passage
        if passage is None or passage.mark is None or not text.startswith(passage.text, start):
            return None
        return (start + passage.mark[0], start + passage.mark[1])

    def _show_page(self, ticket: int, reply: api.Preview, sharper: bool, image: QImage) -> None:
        if ticket != self._ticket:
            return
        if image.isNull():
            self._note("warning", self.tr("This page cannot be shown"), "")
            return
        self._pages, self._page = reply.pages, reply.page
        self._page_text()
        self.stack.setCurrentWidget(self.page_view)
        if sharper:
            self.page_view.replace_image(image)
            return
        self.page_view.show_page(image, self._focus(reply, image))
        self._sharpen.start()

    def _focus(self, reply: api.Preview, image: QImage) -> QRectF | None:
        """The marked rectangles as fractions of the page."""
        passage = self._passage
        if passage is None or not passage.locator.rects or reply.page != passage.locator.page:
            return None
        width = reply.page_width or 595.0
        height = width * image.height() / max(1, image.width())
        united = QRectF()
        for r in passage.locator.rects:
            united = united.united(QRectF(r.x0, r.y0, r.x1 - r.x0, r.y1 - r.y0))
        return QRectF(
            united.x() / width, united.y() / height, united.width() / width, united.height() / height
        )

    def _colour(self, ticket: int, spans: Spans) -> None:
        if ticket == self._ticket:
            self.code_view.set_spans(spans)

    def _failed(self, ticket: int, reply: api.Failed) -> None:
        if ticket == self._ticket:
            self._request = 0
            self._note("warning", reply.title, reply.message)

    def _note(self, icon_name: str, title: str, text: str) -> None:
        pixmap: QPixmap = icon(icon_name, QPalette.ColorRole.PlaceholderText).pixmap(36, 36)
        self.note_icon.setPixmap(pixmap)
        self.note_title.setText(title)
        self.note_text.setText(text)
        self.stack.setCurrentWidget(self.note)

    def _page_text(self) -> None:
        known = self._pages > 0 and self._page > 0
        text = self.tr("%1 of %2") if known else ""
        self.page_label.setText(
            text.replace("%1", wording.number(self._page)).replace("%2", wording.number(self._pages))
        )
        self.previous.setEnabled(known and self._page > 1)
        self.next.setEnabled(known and self._page < self._pages)


def _same_place(one: api.Passage, other: api.Passage) -> bool:
    return (one.chunk, one.start, one.text, one.locator) == (
        other.chunk, other.start, other.text, other.locator,
    )  # fmt: skip
