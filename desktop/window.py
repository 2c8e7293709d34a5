"""The main window: search field, results, preview, status."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
from PySide6.QtCore import QByteArray, QEvent, QObject, QPoint, QSettings, QSize, Qt, QTimer, QUrl
from PySide6.QtGui import (
    QAction,
    QCloseEvent,
    QCursor,
    QDragEnterEvent,
    QDropEvent,
    QKeyEvent,
    QKeySequence,
    QMouseEvent,
    QPalette,
    QShortcut,
)
from PySide6.QtWidgets import (
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QMenu,
    QMessageBox,
    QPushButton,
    QSplitter,
    QStackedWidget,
    QVBoxLayout,
    QWidget,
)

from desktop import wording
from desktop.actions import FileActions
from desktop.assets import icon, sample_library
from desktop.background import Background
from desktop.compare import ComparePane
from desktop.connection import Connection
from desktop.file_dialogs import ChoosePath, choose_file_natively, choose_folder_natively, choose_gguf
from desktop.help import HelpDialog
from desktop.home import EmptyPage, HomePage
from desktop.library import LibraryDialog
from desktop.lock import LockKeeper
from desktop.model_dialogs import ask_cancel
from desktop.model_list import ModelList
from desktop.models import ModelsDialog
from desktop.preview import PreviewPane
from desktop.query_line import (
    CompletionList,
    FilterMenu,
    QueryField,
    WhyPopup,
    fitting,
    wants_completions,
    with_filter,
)
from desktop.results import ResultsView, Row, snippet
from desktop.results_pane import ResultsPane
from desktop.status_strip import StatusStrip
from desktop.theme import Theme
from desktop.widgets import Banner, tool_button
from indexer import api

_DEBOUNCE_MS = 120
_FRESHEN_MS = 3000
_LIMIT = 40
_PASSAGES = 4
_CHANNEL = "window"
_HISTORY = 50
_NEWS_MS = 12_000


class MainWindow(QWidget):
    """The window of one library.

    Args:
        theme: Colours and fonts.
        connection: The line to the service; the window opens it.
        background: Threads for what must not hold up the event loop.
        state: Where the window remembers its place and sizes.
        actions: How files are opened.
        choose_folder: Asks the person for a folder and calls back with it.
        choose_file: The same for a file.
    """

    def __init__(
        self,
        theme: Theme,
        connection: Connection,
        background: Background,
        state: QSettings,
        actions: FileActions | None = None,
        choose_folder: ChoosePath | None = None,
        choose_file: ChoosePath | None = None,
    ) -> None:
        super().__init__()
        self.setObjectName("mainWindow")
        self.setWindowTitle("Dragoman")
        self.setAcceptDrops(True)
        self._theme = theme
        self._connection = connection
        self._background = background
        self._state = state
        self._actions = actions or FileActions()
        self._choose_folder = choose_folder or choose_folder_natively
        self._choose_file = choose_file or choose_file_natively
        self._choose_gguf = choose_file or choose_gguf
        self.models = ModelList(connection, self)
        self._lock = LockKeeper(theme, connection, self)
        self._status: api.Status | None = None
        self._folders: tuple[api.Folder, ...] | None = None
        self._listing = False
        self._search_id = 0
        self._asked = ""  # the query of the search under way or answered last
        self._shown = ""  # the query whose answer the list shows
        self._like: api.Like | None = None
        self._like_name = ""
        self._history: list[tuple[str, api.Like | None, str]] = []
        self._complete_id = 0
        self._better: api.SearchResult | None = None  # a better order that waits for the person
        self._walked = False  # whether the person has moved in the list since it was filled
        self._reranked = False
        self._by_words = False  # whether the meaning of what is shown was not compared (yet)
        self._problems: tuple[api.QueryProblem, ...] = ()
        self._final = False
        self._took = 0.0
        self._files_seen = -1
        self._sizes: list[int] = []
        self._notices: tuple[api.Notice, ...] = ()
        self._banner_source = ""
        self._library: LibraryDialog | None = None
        self._models_dialog: ModelsDialog | None = None
        self._help: HelpDialog | None = None
        self._debounce = _timer(self, _DEBOUNCE_MS, self._search)
        self._freshen = _timer(self, _FRESHEN_MS, self._search_again)
        self._folders_soon = _timer(self, 500, self._ask_folders)
        self._old_news = _timer(self, _NEWS_MS, self._end_news)
        self._build()
        self._connect()
        self._restore()
        self._show_page()

    # --- building -------------------------------------------------------------------------

    def _build(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        top = QHBoxLayout()
        top.setContentsMargins(14, 12, 12, 12)
        top.setSpacing(6)
        self.field = QueryField(self._theme)
        self.field.setObjectName("searchField")
        self.field.setAccessibleName(self.tr("Search"))
        self.field.setPlaceholderText(self.tr("Search by meaning, in any language"))
        self.field.setFont(self._theme.font(1.25))
        magnifier = QAction(icon("search", QPalette.ColorRole.PlaceholderText), "", self.field)
        self.field.addAction(magnifier, QLineEdit.ActionPosition.LeadingPosition)
        self._clear_action = QAction(
            icon("clear", QPalette.ColorRole.PlaceholderText), self.tr("Clear (Esc)"), self.field
        )
        self._clear_action.triggered.connect(self.field.clear)
        self.field.addAction(self._clear_action, QLineEdit.ActionPosition.TrailingPosition)
        self._clear_action.setVisible(False)
        self.filters = FilterMenu(self)
        self.filters_button = tool_button("filter", self.tr("Filters (Alt+F)"), "filtersButton")
        self.library_button = tool_button(
            "library", self.tr("Library, problems and settings (Ctrl+,)"), "libraryButton"
        )
        self.models_button = tool_button("model", self.tr("Models (Ctrl+Shift+L)"), "modelsButton")
        self.help_button = tool_button("help", self.tr("Keyboard shortcuts (F1)"), "helpButton")
        for button in (self.filters_button, self.library_button, self.models_button, self.help_button):
            button.setIconSize(QSize(22, 22))
        top.addWidget(self.field, 1)
        top.addSpacing(4)
        top.addWidget(self.filters_button)
        top.addWidget(self.library_button)
        top.addWidget(self.models_button)
        top.addWidget(self.help_button)
        column.addLayout(top)
        under = QHBoxLayout()
        under.setContentsMargins(18, 0, 18, 8)
        self.chip = QPushButton()
        self.chip.setObjectName("likeChip")
        self.chip.setProperty("example", True)
        self.chip.setIcon(icon("clear"))
        self.chip.setToolTip(self.tr("Search by words again (Esc)"))
        self.chip.hide()
        self.misunderstood = QLabel()
        self.misunderstood.setObjectName("queryProblems")
        self.misunderstood.setProperty("muted", True)
        self.misunderstood.setTextFormat(Qt.TextFormat.PlainText)
        self.misunderstood.setWordWrap(True)
        self.misunderstood.hide()
        under.addWidget(self.chip)
        under.addWidget(self.misunderstood, 1)
        under.addStretch(0)
        self._under = QWidget()
        self._under.setLayout(under)
        self._under.hide()
        column.addWidget(self._under)
        self.completions = CompletionList(self._theme, self)
        self.banner = Banner()
        holder = QVBoxLayout()
        holder.setContentsMargins(14, 0, 14, 10)
        holder.addWidget(self.banner)
        self._banner_holder = QWidget()
        self._banner_holder.setLayout(holder)
        self._banner_holder.hide()
        self.banner.visibility_changed.connect(self._banner_holder.setVisible)
        column.addWidget(self._banner_holder)
        self.pages = QStackedWidget()
        self.pages.setObjectName("pages")
        self.home = HomePage(self._theme, has_sample=sample_library() is not None)
        self.empty = EmptyPage(self._theme)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setObjectName("splitter")
        self.splitter.setHandleWidth(1)
        self.splitter.setChildrenCollapsible(False)
        left = ResultsPane(self._theme)
        self._left = left
        self.results, self.summary, self.nothing = left.results, left.summary, left.nothing
        self.weak_button, self.better_button = left.weak_button, left.better_button
        self.compare_button, self.serving = left.compare_button, left.serving
        self.preview = PreviewPane(self._theme, self._connection, self._background)
        self.preview.setMinimumWidth(320)
        self.splitter.addWidget(left)
        self.compare = ComparePane(self._theme, self._connection, self.results)
        self.right = QStackedWidget()
        self.right.setObjectName("rightPane")
        self.right.addWidget(self.preview)
        self.right.addWidget(self.compare)
        self.splitter.addWidget(self.right)
        self.splitter.setStretchFactor(0, 5)
        self.splitter.setStretchFactor(1, 6)
        self.splitter.setSizes([500, 600])
        for page in (self.home, self.empty, self.splitter):
            self.pages.addWidget(page)
        column.addWidget(self.pages, 1)
        self.strip = StatusStrip(self._theme)
        column.addWidget(self.strip)
        self.setFocusProxy(self.field)
        self.field.setFocus()
        order = [
            self.field, self.filters_button, self.library_button, self.models_button, self.help_button,
            self.chip, self.better_button, self.compare_button, self.results, self.weak_button,
            self.compare.choice, self.compare.results,
            self.preview.open_button, self.preview.reveal_button, self.preview.copy_button,
            self.strip.switch_more, self.strip.pause, self.strip.speed, self.strip.encoder,
            self.strip.problems,
        ]  # fmt: skip
        for before, after in itertools.pairwise(order):
            QWidget.setTabOrder(before, after)

    def _connect(self) -> None:
        self.field.textChanged.connect(lambda _: self._typed())
        self.field.installEventFilter(self)
        for watched in (
            self.results, self.compare.results,
            self.preview.page_view, self.preview.code_view, self.preview.text_view,
        ):  # fmt: skip
            watched.installEventFilter(self)
            watched.viewport().installEventFilter(self)  # a press with the back button
        self.results.selectionModel().currentChanged.connect(self._selected)
        self.results.opened.connect(self._open)
        self.results.touched.connect(self._walk)
        self.results.why_wanted.connect(self._show_why)
        self.better_button.clicked.connect(self._take_better)
        self.field.pasted.connect(self._search_pasted)
        self.filters_button.clicked.connect(self._show_filters)
        self.filters.chosen.connect(self._insert_filter)
        self.filters.help_wanted.connect(lambda: self.show_help(1))
        self.results.customContextMenuRequested.connect(self._menu)
        self.preview.open_wanted.connect(self._open_path)
        self.preview.reveal_wanted.connect(self._reveal_path)
        self.preview.copy_wanted.connect(self._copy_path)
        self.preview.link_wanted.connect(self._ask_link)
        self.library_button.clicked.connect(lambda: self.show_library(0))
        self.help_button.clicked.connect(lambda: self.show_help(0))
        self.home.add_wanted.connect(self.choose_folder)
        self.home.sample_wanted.connect(self._add_sample)
        self.home.question_chosen.connect(self._ask_question)
        self.strip.pause_wanted.connect(self._pause)
        self.strip.speed_wanted.connect(self._set_speed)
        self.strip.problems_wanted.connect(lambda: self.show_library(1))
        self.strip.models_wanted.connect(self.show_models)
        self.strip.cancel_wanted.connect(self._ask_cancel_switch)
        self.models_button.clicked.connect(self.show_models)
        self.models.changed.connect(self._models_changed)
        self.models.switched.connect(self._tell_switched)
        self.compare_button.toggled.connect(self._compare)
        self.compare.open_wanted.connect(self._open_path)
        self.compare.results.why_wanted.connect(lambda: self._show_why_in(self.compare.results))
        self.compare.answered.connect(self._show_page)
        self._connection.ready.connect(self._ready)
        self._connection.lost.connect(self._lost)
        self._connection.failed.connect(self._service_failed)
        self._connection.status.connect(self._take_status)
        self._lock.locked.connect(self._locked)
        self._lock.opened.connect(self._unlocked)
        self.chip.clicked.connect(self._unlike)
        self.weak_button.clicked.connect(self._show_weak)
        self.completions.taken.connect(self._complete)
        self.field.cursorPositionChanged.connect(lambda *_: self._ask_completions())
        QShortcut(QKeySequence("Ctrl+I"), self, self._show_why)
        QShortcut(QKeySequence("Ctrl+M"), self, self._similar_files)
        QShortcut(QKeySequence("Ctrl+Shift+M"), self, self._similar_passages)
        QShortcut(QKeySequence("Alt+Left"), self, self._back)
        for keys in ("Ctrl+L", "Ctrl+K", "Ctrl+F"):
            QShortcut(QKeySequence(keys), self, self._focus_field)
        QShortcut(QKeySequence("Ctrl+,"), self, lambda: self.show_library(0))
        QShortcut(QKeySequence("Ctrl+Shift+L"), self, self.show_models)
        QShortcut(QKeySequence("Ctrl+D"), self, self._toggle_compare)
        QShortcut(QKeySequence("F1"), self, lambda: self.show_help(0))
        QShortcut(QKeySequence("Alt+F"), self, self._show_filters)
        QShortcut(QKeySequence("Ctrl+R"), self, self._take_better)
        QShortcut(QKeySequence("Ctrl+Shift+C"), self, self._copy)
        for keys in ("Ctrl+Return", "Ctrl+Enter"):
            QShortcut(QKeySequence(keys), self, self._reveal)
        QShortcut(QKeySequence("Ctrl+O"), self, self.choose_folder)
        QShortcut(QKeySequence("Ctrl+PgUp"), self, lambda: self.preview.turn(-1))
        QShortcut(QKeySequence("Ctrl+PgDown"), self, lambda: self.preview.turn(1))
        for keys in ("Ctrl++", "Ctrl+="):
            QShortcut(QKeySequence(keys), self, lambda: self.preview.zoom(1))
        QShortcut(QKeySequence("Ctrl+-"), self, lambda: self.preview.zoom(-1))
        QShortcut(QKeySequence("Ctrl+0"), self, lambda: self.preview.zoom(0))
        QShortcut(QKeySequence("Ctrl+Q"), self, self.close)
        QShortcut(QKeySequence("Ctrl+W"), self, self.close)

    def _restore(self) -> None:
        geometry, splitter = self._state.value("geometry"), self._state.value("splitter")
        if not (isinstance(geometry, QByteArray) and self.restoreGeometry(geometry)):
            self.resize(1120, 740)
        if isinstance(splitter, QByteArray):
            self.splitter.restoreState(splitter)

    def closeEvent(self, event: QCloseEvent) -> None:
        self._state.setValue("geometry", self.saveGeometry())
        self.compare_button.setChecked(False)  # the sizes to come back to are those of list and preview
        self._state.setValue("splitter", self.splitter.saveState())
        self._state.sync()
        if self._library is not None:
            self._library.close()
        if self._models_dialog is not None:
            self._models_dialog.close()
        self._connection.close()
        self._background.close()
        super().closeEvent(event)

    # --- keyboard -------------------------------------------------------------------------

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.MouseButtonPress and isinstance(event, QMouseEvent):
            if event.button() == Qt.MouseButton.BackButton:
                self._back()
                return True
            return super().eventFilter(watched, event)
        if event.type() == QEvent.Type.FocusOut and watched is self.field and self.completions.isVisible():
            self._no_completions()
        if event.type() != QEvent.Type.KeyPress or not isinstance(event, QKeyEvent):
            return super().eventFilter(watched, event)
        if watched is self.field:
            return self._field_key(event) or super().eventFilter(watched, event)
        return self._other_key(watched, event) or super().eventFilter(watched, event)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if not self._other_key(self, event):
            super().keyPressEvent(event)

    def _field_key(self, event: QKeyEvent) -> bool:
        key, plain = event.key(), not event.modifiers() & ~Qt.KeyboardModifier.KeypadModifier
        if self.completions.isVisible() and plain and self._completion_key(key):
            return True
        if key == Qt.Key.Key_Down and plain and self._at_last() and self.weak_button.isVisible():
            self._show_weak()
            self.results.step(1)
        elif key in (Qt.Key.Key_Up, Qt.Key.Key_Down) and plain:
            self.results.step(1 if key == Qt.Key.Key_Down else -1)
        elif key in (Qt.Key.Key_PageUp, Qt.Key.Key_PageDown) and plain:
            step = self.results.page_rows()
            self.results.step(step if key == Qt.Key.Key_PageDown else -step)
        elif key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and plain:
            self._enter()
        elif key == Qt.Key.Key_Escape:
            if self._like is not None and not self.field.text():
                self._unlike()
            self.field.clear()
        elif key == Qt.Key.Key_Right and plain and self._at_end():
            return self.results.expand()
        elif key == Qt.Key.Key_Left and plain and self._at_end():
            return self.results.collapse()
        elif event.text() in ("?", "？") and not self.field.text():
            self.show_help(0)
        else:
            return False
        return True

    def _completion_key(self, key: int) -> bool:
        """A key pressed while completions are shown; False when it is not for them."""
        if key in (Qt.Key.Key_Up, Qt.Key.Key_Down) and not self.completions.quiet:
            self.completions.step(1 if key == Qt.Key.Key_Down else -1)
            return True
        if key == Qt.Key.Key_Tab:
            return self.completions.take(first=True)
        if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.completions.take():
            return True
        if key in (Qt.Key.Key_Escape, Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Up, Qt.Key.Key_Down):
            self._no_completions()
        return key == Qt.Key.Key_Escape

    def _no_completions(self) -> None:
        if self._complete_id:
            self._connection.cancel(self._complete_id)
            self._complete_id = 0
        self.completions.hide()
        if self._wanted() == self._shown:
            self._show_problems(self._problems)

    def _other_key(self, watched: QObject, event: QKeyEvent) -> bool:
        """A key pressed outside the field: what is typed goes to the field."""
        key = event.key()
        if key == Qt.Key.Key_Escape:
            self._focus_field()
            return True
        if watched is self.compare.results:
            if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and not event.modifiers():
                self.compare.open_current()
                return True
            if key == Qt.Key.Key_Right:
                return self.compare.results.expand()
            if key == Qt.Key.Key_Left:
                return self.compare.results.collapse()
        if watched is self.results:
            if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and not event.modifiers():
                self._open()
                return True
            if key == Qt.Key.Key_Right:
                return self.results.expand()
            if key == Qt.Key.Key_Left:
                return self.results.collapse()
        modifiers = event.modifiers() & ~(
            Qt.KeyboardModifier.ShiftModifier | Qt.KeyboardModifier.KeypadModifier
        )
        if event.text().isprintable() and event.text() and not modifiers:
            self.field.setFocus()
            self.field.deselect()
            self.field.end(False)
            self.field.insert(event.text())
            return True
        return False

    def _at_last(self) -> bool:
        return self.results.currentIndex().row() == self.results.results.rowCount() - 1

    def _at_end(self) -> bool:
        field = self.field
        return not field.hasSelectedText() and field.cursorPosition() == len(field.text())

    def _focus_field(self) -> None:
        self.field.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.field.selectAll()

    def _enter(self) -> None:
        query = self._wanted()
        if not query:
            return
        if self._debounce.isActive() or query != self._asked:
            self._search()
        elif query == self._shown:
            self._open()

    # --- searching ------------------------------------------------------------------------

    def _typed(self) -> None:
        self._clear_action.setVisible(bool(self.field.text()))
        if self._wanted():
            self._debounce.start()
            return
        self._debounce.stop()
        self._freshen.stop()
        if self._search_id:
            self._connection.cancel(self._search_id)
        self._search_id, self._asked, self._shown = 0, "", ""
        self._no_better()
        self.results.show_hits((), refine=False)
        self.compare.clear()
        self.preview.clear()
        self._show_problems(())
        self._dismiss("search")
        self._show_page()

    def _search(self) -> None:
        self._debounce.stop()
        query, wanted = self.field.text().strip(), self._wanted()
        if not wanted:
            return
        if self._search_id:
            # The service drops the older search itself: the channel is the same.
            self._connection.forget(self._search_id)
        self._asked, self._final = wanted, False
        message = self._message(query)
        self._search_id = self._connection.request(message, self._take_result, self._search_failed)
        if self.comparing:
            self.compare.search(message)
        self._summarise()

    def _message(self, query: str) -> api.Search:
        return api.Search(
            id=0, query=query, like=self._like, limit=_LIMIT, passages=_PASSAGES, channel=_CHANNEL
        )

    def _search_again(self) -> None:
        """Files came in since the answer that is shown."""
        if self._asked and self._final and not self._debounce.isActive():
            self._search()

    def _take_result(self, reply: api.Reply) -> None:
        if not isinstance(reply, api.SearchResult) or reply.id != self._search_id:
            return
        refine = self._shown == self._asked
        self._final = reply.final
        self._dismiss("search")
        if not refine and not reply.final and not reply.hits:
            return
        if reply.final:
            self._search_id = 0
            self._files_seen = self._status.files if self._status else -1
        if not refine:  # what the person waited for; the best sentences are marked after that
            self._took = reply.took_ms
            self._walked = self._reranked = False
        elif (self._reranked or (reply.by_words and not self._by_words)) and not reply.final:
            return  # the same search once more, since files came in: not back to the order before
        self._no_better()
        self._shown = self._asked
        reorders = reply.reranked or (self._by_words and not reply.by_words)
        if refine and reorders and self._walked and self.results.results.moves(reply.hits):
            # Rows do not move below somebody's hands.
            self._better = reply
            self.better_button.setToolTip(
                self.tr("The reranker is done. Order the list as it says (Ctrl+R)")
                if reply.reranked
                else self.tr("The meaning has been compared, too. Show that answer (Ctrl+R)")
            )
            self.better_button.show()
            self._summarise()
            return
        self._show_result(reply, refine=refine)

    def _show_result(self, reply: api.SearchResult, *, refine: bool) -> None:
        # Who has not begun to look at what the words found begins with the best there is now.
        anew = self._by_words and not reply.by_words and not self._walked
        self._reranked, self._by_words = reply.reranked, reply.by_words
        self.results.show_hits(reply.hits, refine=refine and not anew)
        if self.comparing:
            self.compare.mark()
        self._show_problems(reply.problems)
        self._left.show_weakness()
        self._show_page()
        self._selected()
        self._summarise()

    def _walk(self) -> None:
        self._walked = True

    def _take_better(self) -> None:
        """Order the list as the reranker says, now that the person asks for it."""
        if (better := self._better) is None:
            return
        self._no_better()
        self._show_result(better, refine=True)
        self.results.scrollToTop()
        self.results.setCurrentIndex(self.results.results.index(0))
        self._walked = False
        self.field.setFocus()

    def _no_better(self) -> None:
        self._better = None
        self.better_button.hide()

    def _search_failed(self, reply: api.Failed) -> None:
        self._search_id = 0
        self._final = True
        if not self._connection.is_ready or reply.title == "Cancelled":
            return
        self._warn("search", reply.title, reply.message, self.tr("Try again"), self._search)
        self._summarise()

    def _summarise(self) -> None:
        if self._asked != self._shown:
            self.summary.setText(self.tr("Searching…"))
            return
        model = self.results.results
        text = wording.found(model.strong, len(model.hits), self._took)
        if self._by_words and self._better is None:
            more = (
                self.tr("by their words only") if self._final else self.tr("by their words; by meaning soon…")
            )
            text = f"{text}  ·  {more}"
        self.summary.setText(text)

    def _selected(self) -> None:
        row = self.results.current()
        if self.comparing:
            return
        if row is None:
            self.preview.clear()
        else:
            self.preview.show_passage(row.hit, row.passage)

    def _wanted(self) -> str:
        """What the field and the chip ask for, as one text to compare; empty for nothing."""
        query = self.field.text().strip()
        like = self._like
        return query if like is None else f"\0{like.path}\0{like.chunk}\0{like.text}\0{query}"

    def _show_problems(self, problems: tuple[api.QueryProblem, ...]) -> None:
        """Say and underline what was not understood, but for what is still being written."""
        self._problems = problems
        query = self.field.text()
        # Places count in what was asked, which has no spaces at its ends.
        lead = len(query) - len(query.lstrip())
        asked = query.strip()
        if self.completions.isVisible():
            problems = tuple(p for p in problems if not p.start <= self._cursor() - lead <= p.end)
        text = "  ·  ".join(wording.query_problem(problem, asked) for problem in problems[:3])
        if self._wanted() == self._shown or not problems:
            self.field.underline([(p.start + lead, p.end + lead) for p in problems if p.start < p.end])
        self.misunderstood.setText(text)
        self.misunderstood.setVisible(bool(text))
        self._under.setVisible(bool(text) or self._like is not None)

    def _show_weak(self) -> None:
        row = self.results.current()
        first = self.results.results.rowCount()
        self.results.results.show_weak()
        self.compare.mark()
        position = self.results.results.find(row.key) if row is not None else -1
        self.results.setCurrentIndex(self.results.results.index(first if position < 0 else position))
        self.results.scrollTo(self.results.results.index(first))
        self._left.show_weakness()
        self.field.setFocus()

    def _show_why(self) -> None:
        self._show_why_in(self.results)

    def _show_why_in(self, results: ResultsView) -> None:
        row = results.current()
        if row is None or self.pages.currentWidget() is not self.splitter:
            return
        results.scrollTo(results.currentIndex())
        popup = WhyPopup(self._theme, row.passage, row.hit.weak, self)
        popup.show_at(results.why_corner())

    def _similar_files(self) -> None:
        if (path := self._current_path()) is not None:
            self._search_like(api.Like(path=path), wording.file_name(path))

    def _similar_passages(self) -> None:
        row = self.results.current()
        if row is not None and self._current_path() is not None:
            text = " ".join(snippet(row.passage, row.hit.media).text.split())
            name = f"{text[:40].rstrip()}…" if len(text) > 48 else text
            self._search_like(api.Like(chunk=row.passage.chunk), f"“{name}”")

    def _search_pasted(self, text: str) -> None:
        """A long text is not typed but searched for; the words in the field narrow it."""
        text = fitting(text.strip())
        self._search_like(api.Like(text=text), wording.pasted(text), keep=True)

    def _show_filters(self) -> None:
        """The menu of filters, below its button and no further to the right."""
        button = self.filters_button
        corner = button.mapToGlobal(button.rect().bottomRight())
        self.filters.popup(corner - QPoint(self.filters.sizeHint().width(), -3))

    def _insert_filter(self, insert: str, stop: int) -> None:
        self.field.setFocus()
        text, cursor = self.field.text(), self._cursor()
        text, cursor = with_filter(text, cursor, insert, stop)
        self.field.setText(text)
        self.field.setCursorPosition(wording.utf16(text, cursor))
        self._ask_completions()

    def _cursor(self) -> int:
        """Where the cursor is, in characters."""
        units = self.field.text().encode("utf-16-le", "surrogatepass")
        return len(units[: self.field.cursorPosition() * 2].decode("utf-16-le", "ignore"))

    def _search_like(self, like: api.Like, name: str, *, keep: bool = False) -> None:
        """Search for what is similar to something.

        Args:
            like: To what.
            name: What the chip calls it.
            keep: Whether the words in the field narrow it.
        """
        self._remember()
        self._set_search(self.field.text() if keep else "", like, name)

    def _unlike(self) -> None:
        self._remember()
        self._set_search(self.field.text(), None, "")
        self.field.setFocus()

    def _remember(self) -> None:
        if self._asked:
            self._history.append((self.field.text(), self._like, self._like_name))
            del self._history[:-_HISTORY]

    def _back(self) -> None:
        """Go back to the search before the one that began with something similar."""
        if self._history:
            self._set_search(*self._history.pop())

    def _set_search(self, text: str, like: api.Like | None, name: str) -> None:
        self._like, self._like_name = like, name
        self.chip.setText(self.tr("Similar to: %1").replace("%1", name))
        self.chip.setVisible(like is not None)
        self._under.setVisible(like is not None)
        if self.field.text() != text:
            self.field.setText(text)
        else:
            self._typed()
        self.field.setFocus()
        self._search()

    def _ask_completions(self) -> None:
        if self._complete_id:
            self._connection.cancel(self._complete_id)
            self._complete_id = 0
        text, at = self.field.text(), self._cursor()
        if self.field.hasSelectedText() or not wants_completions(text, at):
            self.completions.hide()
            return
        self.completions.stale = True
        message = api.Complete(id=0, query=text, cursor=at)
        self._complete_id = self._connection.request(message, self._take_completions, lambda _: None)

    def _take_completions(self, reply: api.Reply) -> None:
        if not isinstance(reply, api.Completions) or reply.id != self._complete_id:
            return
        self._complete_id = 0
        if self.field.hasFocus():
            x = self.field.x() + self.field.cursorRect().left()
            corner = QPoint(x, self.field.geometry().bottom() + 2)
            self.completions.offer(reply, corner, self.width() - x - 8)
            if self._wanted() == self._shown:
                self._show_problems(self._problems)

    def _complete(self, insert: str, start: int, end: int) -> None:
        text = self.field.text()
        self.field.setText(text[:start] + insert + text[end:])
        self.field.setCursorPosition(wording.utf16(self.field.text(), start + len(insert)))

    def _ask_question(self, question: str) -> None:
        self.field.setFocus()
        self.field.setText(question)
        self._search()

    # --- files ----------------------------------------------------------------------------

    def _current_path(self) -> str | None:
        row = self.results.current()
        return row.hit.path if row is not None and self.pages.currentWidget() is self.splitter else None

    def _open(self) -> None:
        if (path := self._current_path()) is not None:
            self._open_path(path)

    def _reveal(self) -> None:
        if (path := self._current_path()) is not None:
            self._reveal_path(path)

    def _copy(self) -> None:
        if (path := self._current_path()) is not None:
            self._copy_path(path)

    def _open_path(self, path: str) -> None:
        if not self._actions.open(api.local_path(path)):
            self._file_missing(path)

    def _reveal_path(self, path: str) -> None:
        if not self._actions.reveal(api.local_path(path)):
            self._file_missing(path)

    def _copy_path(self, path: str) -> None:
        self._actions.copy(wording.printable(api.local_path(path)))
        self.summary.setText(self.tr("Path copied"))

    def _file_missing(self, path: str) -> None:
        title = self.tr("“%1” could not be opened").replace("%1", wording.file_name(path))
        message = self.tr("It may have been moved, its disk may be offline, or no program is set for it.")
        self._warn("file", title, message)

    def _ask_link(self, url: QUrl) -> None:
        """A link in a document goes nowhere before the person has seen where it leads."""
        if url.scheme() not in ("http", "https", "mailto"):
            return
        box = QMessageBox(self)
        box.setObjectName("linkQuestion")
        box.setIcon(QMessageBox.Icon.Question)
        box.setWindowTitle(self.tr("Open link"))
        box.setTextFormat(Qt.TextFormat.PlainText)
        box.setText(self.tr("Open this address in your browser?"))
        box.setInformativeText(url.toDisplayString()[:500])
        go = box.addButton(self.tr("Open"), QMessageBox.ButtonRole.AcceptRole)
        stay = box.addButton(self.tr("Cancel"), QMessageBox.ButtonRole.RejectRole)
        box.setDefaultButton(stay)
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        go.clicked.connect(lambda: self._actions.browse(url))
        box.open()

    def _menu(self) -> None:
        row = self.results.current()
        if row is None:
            return
        menu = QMenu(self)
        menu.setObjectName("hitMenu")
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.addAction(icon("open"), self.tr("Open"), self._open)
        menu.addAction(icon("folder-open"), self.tr("Show in folder"), self._reveal)
        menu.addAction(icon("copy"), self.tr("Copy path"), self._copy)
        menu.addSeparator()
        for text, keys, act in (
            (self.tr("Find similar files"), "Ctrl+M", self._similar_files),
            (self.tr("Find similar passages"), "Ctrl+Shift+M", self._similar_passages),
            (self.tr("Why this was found"), "Ctrl+I", self._show_why),
        ):
            # Written beside it only: the window has these keys already.
            shown = QKeySequence(keys).toString(QKeySequence.SequenceFormat.NativeText)
            menu.addAction(f"{text}\t{shown}", act)
        menu.addSeparator()
        passage = row.passage.text
        menu.addAction(self.tr("Copy passage"), lambda: self._actions.copy(passage))
        menu.popup(QCursor.pos())

    # --- the library ----------------------------------------------------------------------

    def choose_folder(self) -> None:
        """Ask for a folder and add it to the library."""
        library = self._library
        # The keyboard goes back to the dialog's parent when it closes.
        parent = library if library is not None and library.isVisible() else self
        self._choose_folder(parent, self.add_folder)

    def add_folder(self, path: str) -> None:
        """Add a folder to the library."""
        if path:
            self._connection.request(api.AddFolder(id=0, path=path), self._added)

    def _add_sample(self) -> None:
        folder = sample_library()
        if folder is not None:
            self.add_folder(str(folder))

    def _added(self, reply: api.Reply) -> None:
        self._ask_folders()
        if self._library is not None:
            self._library.refresh()

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        if _dropped_folders(event):
            event.acceptProposedAction()

    def dropEvent(self, event: QDropEvent) -> None:
        for folder in _dropped_folders(event):
            self.add_folder(folder)
        event.acceptProposedAction()

    def show_library(self, tab: int) -> None:
        """Open the library dialog: 0 folders, 1 problems, 2 settings."""
        if self._library is None:
            self._library = LibraryDialog(
                self._theme,
                self._connection,
                self,
                choose_folder=self._choose_folder,
                choose_file=self._choose_file,
            )
            self._library.add_wanted.connect(self.choose_folder)
            self._library.reveal_wanted.connect(self._reveal_path)
            self._library.copy_wanted.connect(self._actions.copy)
            self._library.changed.connect(self._ask_folders)
        self._library.open_at(tab)

    def _ask_folders(self) -> None:
        if not self._listing:
            self._listing = True
            self._connection.request(api.ListFolders(id=0), self._take_folders, self._no_folders)

    def _take_folders(self, reply: api.Reply) -> None:
        self._listing = False
        if isinstance(reply, api.Folders):
            self._folders = reply.folders
            self._show_page()

    def _no_folders(self, reply: api.Failed) -> None:
        self._listing = False

    # --- models ---------------------------------------------------------------------------

    def show_models(self) -> None:
        """Open the models dialog."""
        if self._models_dialog is None:
            self._models_dialog = ModelsDialog(
                self._theme,
                self._connection,
                self.models,
                self,
                choose_folder=self._choose_folder,
                choose_file=self._choose_gguf,
            )
        self._models_dialog.open()

    @property
    def comparing(self) -> bool:
        """Whether the lists of two models stand side by side."""
        return self.compare_button.isChecked()

    def _models_changed(self) -> None:
        kept, active = self.models.kept, self.models.active
        self.compare.show_models(kept)
        self.compare_button.setVisible(bool(kept))
        self.serving.setText(wording.printable(active.name) if active else "")
        if not kept:
            self.compare_button.setChecked(False)
        self._name_compare()

    def _name_compare(self) -> None:
        text = self.tr("Back to the preview (Ctrl+D)")
        if not self.comparing:
            text = self.tr("Compare with %1 (Ctrl+D)").replace("%1", self.compare.choice.currentText())
        self.compare_button.setToolTip(text)
        self.compare_button.setAccessibleName(text)

    def _toggle_compare(self) -> None:
        if self.models.kept:
            self.compare_button.toggle()

    def _compare(self, on: bool) -> None:
        self._name_compare()
        self.serving.setVisible(on)
        if on:
            self._sizes = self.splitter.sizes()
            self.right.setCurrentWidget(self.compare)
            half = sum(self._sizes) // 2
            self.splitter.setSizes([half, half])
            self.compare.header.setMinimumHeight(self._left.header.height())
            if self._asked and self._wanted() == self._asked:
                self.compare.search(self._message(self.field.text().strip()))
        else:
            self.compare.clear()
            self.right.setCurrentWidget(self.preview)
            self.splitter.setSizes(self._sizes)
            self._selected()
            self._show_page()

    def _ask_cancel_switch(self) -> None:
        switch = self.models.switch
        if switch is not None:
            ask_cancel(self, wording.model_name(switch.reference), self._cancel_switch)

    def _cancel_switch(self) -> None:
        self._connection.request(api.CancelSwitch(id=0), lambda _: self.models.refresh())

    def _tell_switched(self, active: object) -> None:
        """Say that another model serves now; the answer shown is asked for again."""
        model = cast(api.Model, active)
        kept = self.models.kept
        title = self.tr("Searches now use %1").replace("%1", wording.printable(model.name))
        if kept:
            text = self.tr("Its index is complete. That of %1 is kept to compare with.")
            text = text.replace("%1", wording.printable(kept[0].name))
        else:
            text = self.tr("Its index is complete.")
        self._banner_source = "news"
        self.banner.show_message(title, text, good=True)
        self._old_news.start()
        if self._asked and not self._debounce.isActive():
            self._search()

    def _end_news(self) -> None:
        """News go by themselves; a lasting notice that they covered comes back."""
        if self._banner_source == "news":
            self._dismiss("news")
            self._notices = ()
            if self._status is not None:
                self._take_notices(self._status)

    # --- the service ----------------------------------------------------------------------

    def _ready(self) -> None:
        self._dismiss("service")
        self._ask_folders()
        if self._wanted():
            self._search()

    def _lost(self) -> None:
        self._status = None
        self._search_id = 0
        self.strip.show_waiting()
        self._warn(
            "service",
            self.tr("The search service stopped"),
            self.tr("It is being started again. Your library is safe."),
        )

    def _service_failed(self, title: str, message: str) -> None:
        if self._connection.is_ready:
            self._warn("request", title, message)
        else:
            self._warn("service", title, message, self.tr("Try again"), self._connection.open)
            self.strip.show_stopped()
        self._show_page()

    def _take_status(self, reply: object) -> None:
        status = cast(api.Status, reply)
        before, self._status = self._status, status
        self._lock.take_status(status)
        self.strip.show_status(status)
        self.models.take_status(status)
        if self._library is not None:
            self._library.status_changed()
        changed = before is None or (before.files, before.state) != (status.files, status.state)
        if changed and not self._folders_soon.isActive():
            self._folders_soon.start()
        if self._asked and self._files_seen not in (-1, status.files) and not self._freshen.isActive():
            self._freshen.start()
        self._take_notices(status)
        self._show_page()

    def _locked(self) -> None:
        self.field.clear()
        self._history.clear()
        self._folders = None
        self._warn(
            "lock",
            self.tr("The library is locked"),
            self.tr("It opens with its passphrase."),
            self.tr("Unlock…"),
            self._lock.ask,
        )

    def _unlocked(self) -> None:
        self._dismiss("lock")
        self._ready()

    def _take_notices(self, status: api.Status) -> None:
        notices = status.notices
        # A start that failed on the model has a notice of its own, which says the same.
        if status.encoder.state == "failed" and status.state != "failed":
            title = self.tr("The language model could not be loaded")
            notices = (api.Notice(title=title, message=status.encoder.message), *notices)
        if notices == self._notices:
            return
        self._notices = notices
        if not notices:
            self._dismiss("notice")
            return
        first, rest = notices[0], notices[1:]
        message = "\n".join([first.message, *(f"{n.title}. {n.message}" for n in rest)])
        self._warn("notice", first.title, message)

    def _pause(self, paused: bool) -> None:
        self._connection.request(api.SetPaused(id=0, paused=paused), lambda _: None)

    def _set_speed(self, speed: str) -> None:
        def put(reply: api.Reply) -> None:
            if isinstance(reply, api.SettingsReply):
                chosen = msgspec.structs.replace(reply.settings, speed=speed)
                self._connection.request(
                    api.PutSettings(id=0, settings=chosen), lambda _: None, self._speed_not_set
                )

        self._connection.request(api.GetSettings(id=0), put, self._speed_not_set)

    def _speed_not_set(self, reply: api.Failed) -> None:
        self._warn("notice", reply.title, reply.message)

    def _warn(
        self,
        source: str,
        title: str,
        message: str,
        button: str = "",
        action: Callable[[], None] | None = None,
    ) -> None:
        self._banner_source = source
        self.banner.show_message(title, message, button, action)

    def _dismiss(self, source: str) -> None:
        if self._banner_source == source:
            self.banner.dismiss()
            self._banner_source = ""

    # --- what is in the middle ------------------------------------------------------------

    def _show_page(self) -> None:
        if self._asked:
            if self.results.results.hits or (self.comparing and self.compare.has_hits):
                self.pages.setCurrentWidget(self.splitter)
                return
            if self._shown == self._asked:
                self.empty.show_nothing(self.field.text().strip() or self._like_name, self._reasons())
                self.pages.setCurrentWidget(self.empty)
                return
            if self.pages.currentWidget() is not self.home:
                return
        self.pages.setCurrentWidget(self._idle_page())

    def _idle_page(self) -> QWidget:
        status, folders = self._status, self._folders
        if status is not None and status.lock in ("locked", "changing"):
            title, text = self.tr("The library is locked"), self.tr("It opens with its passphrase.")
            if status.lock == "changing":
                title, text = self.tr("The library is being written anew"), self.tr("One moment…")
            self.empty.show_message("lock", title, text)
            return self.empty
        if folders is None or status is None:
            if self._banner_source == "service" and not self._connection.is_ready:
                self.empty.show_message(
                    "warning",
                    self.tr("The search service is not running"),
                    self.tr("Dragoman tries again by itself."),
                )
                return self.empty
            if folders is None:
                self.empty.show_message("clock", self.tr("One moment…"), self.tr("Opening your library."))
                return self.empty
            return self.home
        sample = sample_library()
        is_sample = sample is not None and [f.path for f in folders] == [str(sample)]
        if not folders:
            self.home.show_welcome()
        elif status.waiting or status.state == "scanning":
            self.home.show_progress(status, self.strip.describe(status), sample=is_sample)
        else:
            self.home.show_idle(status, len(folders), sample=is_sample)
        return self.home

    def _reasons(self) -> list[str]:
        """Why an answer may be empty, beyond the question itself."""
        reasons = []
        status, folders = self._status, self._folders or ()
        if self._folders == ():
            reasons.append(self.tr("The library has no folders yet; add one with Ctrl+O."))
        if status is not None and status.waiting:
            text = self.strip.describe(status)
            reasons.append(self.tr("Not everything is read yet: %1.").replace("%1", text))
        if status is not None and status.encoder.state == "loading":
            reasons.append(self.tr("The language model is still loading; only words are compared so far."))
        if status is not None and status.encoder.state == "failed":
            reasons.append(self.tr("The language model could not be loaded; only words are compared."))
        for folder in folders:
            if not folder.online:
                text = self.tr("The folder %1 is offline.")
                reasons.append(text.replace("%1", wording.tilde(folder.path)))
        return reasons

    # --- help -----------------------------------------------------------------------------

    def show_help(self, tab: int) -> None:
        """Open the help: 0 the keyboard shortcuts, 1 how to ask."""
        if self._help is None:
            self._help = HelpDialog(self._theme, self)
        self._help.tabs.setCurrentIndex(tab)
        self._help.show()
        self._help.raise_()
        self._help.activateWindow()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.BackButton:
            self._back()
        self.field.setFocus()
        super().mousePressEvent(event)

    def current_row(self) -> Row | None:
        """The selected result."""
        return self.results.current()


def _timer(parent: QObject, interval: int, act: Callable[[], None]) -> QTimer:
    timer = QTimer(parent)
    timer.setSingleShot(True)
    timer.setInterval(interval)
    timer.timeout.connect(act)
    return timer


def _dropped_folders(event: QDropEvent) -> list[str]:
    paths = (url.toLocalFile() for url in event.mimeData().urls() if url.isLocalFile())
    return [path for path in paths if Path(path).is_dir()]
