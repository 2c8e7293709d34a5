"""The library: its folders, the files that could not be read, and the settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QPersistentModelIndex, Qt, QTimer, Signal
from PySide6.QtGui import QKeySequence, QPalette, QShortcut
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QDialog,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QTabWidget,
    QTreeView,
    QVBoxLayout,
    QWidget,
)

from desktop import wording
from desktop.assets import icon
from desktop.check import CheckDialog
from desktop.connection import Connection
from desktop.file_dialogs import ChoosePath
from desktop.settings_pane import SettingsPane
from desktop.theme import Theme
from desktop.widgets import ElidedLabel, set_chip, tool_button
from indexer import api

_REFRESH_MS = 700
_PROBLEMS_AT_ONCE = 500


class FolderCard(QFrame):
    """One folder of the library."""

    remove_wanted = Signal(str)
    reveal_wanted = Signal(str)
    problems_wanted = Signal()

    def __init__(self, theme: Theme, folder: api.Folder, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self.folder = folder
        row = QHBoxLayout(self)
        row.setContentsMargins(14, 12, 8, 12)
        row.setSpacing(12)
        self._picture = QLabel()
        row.addWidget(self._picture, 0, Qt.AlignmentFlag.AlignTop)
        column = QVBoxLayout()
        column.setSpacing(3)
        top = QHBoxLayout()
        top.setSpacing(8)
        self._name = ElidedLabel()
        self._name.setFont(theme.font(1.05, bold=True))
        self._state = QLabel()
        top.addWidget(self._name)
        top.addWidget(self._state)
        top.addStretch(1)
        self._path = ElidedLabel()
        self._path.setProperty("muted", True)
        self._counts = QLabel()
        self._counts.setProperty("muted", True)
        self._problems = QPushButton()
        self._problems.setProperty("link", True)
        self._problems.clicked.connect(self.problems_wanted)
        self._progress = QProgressBar()
        self._progress.setTextVisible(False)
        column.addLayout(top)
        column.addWidget(self._path)
        counts = QHBoxLayout()
        counts.setSpacing(6)
        counts.addWidget(self._counts)
        counts.addWidget(self._problems)
        counts.addStretch(1)
        column.addLayout(counts)
        column.addWidget(self._progress)
        row.addLayout(column, 1)
        reveal = tool_button("folder-open", self.tr("Show in the file manager"), "revealFolder")
        remove = tool_button("trash", self.tr("Remove from the library…"), "removeFolder")
        reveal.clicked.connect(lambda: self.reveal_wanted.emit(self.folder.path))
        remove.clicked.connect(lambda: self.remove_wanted.emit(self.folder.path))
        buttons = QHBoxLayout()
        buttons.setSpacing(2)
        buttons.addWidget(reveal)
        buttons.addWidget(remove)
        row.addLayout(buttons)
        row.setAlignment(buttons, Qt.AlignmentFlag.AlignTop)
        theme.changed.connect(self._draw)
        self.show_folder(folder)

    def show_folder(self, folder: api.Folder) -> None:
        """Show new counts."""
        self.folder = folder
        self._name.setText(wording.file_name(folder.path))
        self._path.setText(wording.tilde(folder.path))
        texts = {
            "live": (self.tr("live"), "live", self.tr("Changes are seen at once.")),
            "sweep": (
                self.tr("checked now and then"),
                "warn",
                self.tr(
                    "The system refused to watch this folder, so it is looked through from time to time."
                ),
            ),
            "offline": (
                self.tr("offline"),
                "warn",
                self.tr("The folder is not there now. What was read of it can still be found."),
            ),
            "starting": (self.tr("starting"), "true", self.tr("The folder is being looked through.")),
        }
        watch = folder.watch if folder.online else "offline"
        text, chip, tip = texts[watch]
        self._state.setText(text)
        self._state.setToolTip(tip)
        set_chip(self._state, chip)
        parts = [
            wording.files(folder.files).replace(str(folder.files), wording.number(folder.files)),
            wording.passages(folder.chunks).replace(str(folder.chunks), wording.number(folder.chunks)),
            wording.size(folder.bytes),
        ]
        if folder.waiting:
            waiting = self.tr("%n waiting", "", folder.waiting)
            parts.append(waiting.replace(str(folder.waiting), wording.number(folder.waiting)))
        self._counts.setText("  ·  ".join(parts))
        self._problems.setText(wording.problems(folder.problems))
        self._problems.setVisible(folder.problems > 0)
        total = folder.files + folder.waiting
        self._progress.setRange(0, max(1, total))
        self._progress.setValue(folder.files)
        self._progress.setVisible(folder.waiting > 0)
        self.setAccessibleName(f"{wording.tilde(folder.path)}, {text}, {', '.join(parts)}")
        self._draw()

    def _draw(self) -> None:
        name = "folder" if self.folder.online else "folder-offline"
        role = QPalette.ColorRole.Link if self.folder.online else QPalette.ColorRole.PlaceholderText
        self._picture.setPixmap(icon(name, role).pixmap(24, 24))


class ProblemsModel(QAbstractTableModel):
    """Files that are not in the index: which, why, when."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.problems: tuple[api.Problem, ...] = ()

    def show(self, problems: Sequence[api.Problem]) -> None:
        """Replace the rows, unless nothing changed."""
        if tuple(problems) == self.problems:
            return
        self.beginResetModel()
        self.problems = tuple(problems)
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | QPersistentModelIndex = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.problems)

    def columnCount(self, parent: QModelIndex | QPersistentModelIndex = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else 3

    def data(self, index: QModelIndex | QPersistentModelIndex, role: int = 0) -> object:
        problem = self.problems[index.row()]
        if role == Qt.ItemDataRole.DisplayRole:
            return (wording.file_name(problem.path), problem.title, wording.when(problem.at))[index.column()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return f"{wording.tilde(problem.path)}\n{problem.title}\n{problem.message}"
        if role == Qt.ItemDataRole.DecorationRole and index.column() == 0:
            return icon(
                "warning" if problem.kind == "failed" else "minus", QPalette.ColorRole.PlaceholderText
            )
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = 0) -> object:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return (self.tr("File"), self.tr("Why"), self.tr("When"))[section]
        return None


class ProblemsPane(QWidget):
    """The problems list with what can be done about it."""

    reveal_wanted = Signal(str)
    copy_wanted = Signal(str)

    def __init__(self, connection: Connection, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._connection = connection
        self._request = 0
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 14, 16, 16)
        column.setSpacing(10)
        top = QHBoxLayout()
        self.kind = QComboBox()
        self.kind.setObjectName("problemKind")
        self.kind.setMinimumHeight(30)
        self.kind.setAccessibleName(self.tr("Show"))
        self.kind.addItem(self.tr("Failed and skipped"), None)
        self.kind.addItem(self.tr("Failed"), "failed")
        self.kind.addItem(self.tr("Skipped"), "skipped")
        self.kind.currentIndexChanged.connect(self.refresh)
        self.count = QLabel()
        self.count.setObjectName("problemCount")
        self.count.setProperty("muted", True)
        top.addWidget(self.kind)
        top.addWidget(self.count)
        top.addStretch(1)
        self.retry_all = QPushButton(self.tr("Retry all failed"))
        self.retry_all.setObjectName("retryAll")
        self.retry_all.clicked.connect(self._retry_all)
        top.addWidget(self.retry_all)
        column.addLayout(top)
        self.model = ProblemsModel(self)
        self.list = QTreeView()
        self.list.setObjectName("problems")
        self.list.setAccessibleName(self.tr("Problems"))
        self.list.setModel(self.model)
        self.list.setRootIsDecorated(False)
        self.list.setUniformRowHeights(True)
        self.list.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.list.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        header = self.list.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(1, QHeaderView.ResizeMode.Stretch)
        header.setSectionResizeMode(2, QHeaderView.ResizeMode.ResizeToContents)
        column.addWidget(self.list, 1)
        self.detail = QLabel()
        self.detail.setObjectName("problemDetail")
        self.detail.setWordWrap(True)
        self.detail.setTextFormat(Qt.TextFormat.PlainText)
        self.detail.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.detail.setProperty("muted", True)
        self.detail.setMinimumHeight(self.detail.fontMetrics().lineSpacing() * 3)
        self.detail.setAlignment(Qt.AlignmentFlag.AlignTop)
        column.addWidget(self.detail)
        row = QHBoxLayout()
        self.retry = QPushButton(self.tr("Retry"))
        self.retry.setObjectName("retryOne")
        self.reveal = QPushButton(self.tr("Show in folder"))
        self.reveal.setObjectName("revealProblem")
        self.copy = QPushButton(self.tr("Copy"))
        self.copy.setObjectName("copyProblem")
        for button, act in (
            (self.retry, self._retry_selected),
            (self.reveal, self._reveal),
            (self.copy, self._copy),
        ):
            button.clicked.connect(act)
            row.addWidget(button)
        row.addStretch(1)
        column.addLayout(row)
        self.list.selectionModel().selectionChanged.connect(self._selected)
        self._selected()

    def refresh(self) -> None:
        """Ask for the list again."""
        if self._request:
            self._connection.forget(self._request)
        kind = self.kind.currentData()
        message = api.ListProblems(id=0, kind=kind, limit=_PROBLEMS_AT_ONCE)
        self._request = self._connection.request(message, self._show, lambda _: None)

    def _show(self, reply: api.Reply) -> None:
        if not isinstance(reply, api.Problems):
            return
        chosen = {p.path for p in self._chosen()}
        self.model.show(reply.problems)
        for row, problem in enumerate(self.model.problems):
            if problem.path in chosen:
                flags = self.list.selectionModel().SelectionFlag
                flag = flags.Select | flags.Rows
                self.list.selectionModel().select(self.model.index(row, 0), flag)
        shown = len(reply.problems)
        text = wording.files(reply.total).replace(str(reply.total), wording.number(reply.total))
        if shown < reply.total:
            text = self.tr("The newest %1 of %2").replace("%1", wording.number(shown)).replace("%2", text)
        self.count.setText(text)
        self.retry_all.setEnabled(any(p.kind == "failed" for p in reply.problems))
        self._selected()

    def _chosen(self) -> list[api.Problem]:
        rows = self.list.selectionModel().selectedRows()
        return [self.model.problems[index.row()] for index in rows]

    def _selected(self) -> None:
        chosen = self._chosen()
        for button in (self.retry, self.reveal, self.copy):
            button.setEnabled(bool(chosen))
        if len(chosen) == 1:
            problem = chosen[0]
            self.detail.setText(f"{wording.tilde(problem.path)}\n{problem.title}. {problem.message}")
        elif not self.model.problems:
            self.detail.setText(self.tr("Every file could be read."))
        else:
            self.detail.setText("")

    def _retry_selected(self) -> None:
        paths = tuple(p.path for p in self._chosen())
        if paths:
            self._connection.request(api.Retry(id=0, paths=paths), lambda _: self.refresh())

    def _retry_all(self) -> None:
        self._connection.request(api.Retry(id=0), lambda _: self.refresh())

    def _reveal(self) -> None:
        for problem in self._chosen()[:1]:
            self.reveal_wanted.emit(problem.path)

    def _copy(self) -> None:
        lines = (f"{p.path}\t{p.title}\t{p.message}" for p in self._chosen())
        self.copy_wanted.emit("\n".join(lines))


class LibraryDialog(QDialog):
    """Folders, problems and settings in three tabs.

    Args:
        theme: Fonts and colours.
        connection: The service.
        choose_folder: Asks the person for a folder and calls back with it.
        choose_file: The same for a file.
    """

    add_wanted = Signal()
    reveal_wanted = Signal(str)
    copy_wanted = Signal(str)
    changed = Signal()

    def __init__(
        self,
        theme: Theme,
        connection: Connection,
        parent: QWidget | None = None,
        *,
        choose_folder: ChoosePath,
        choose_file: ChoosePath,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("libraryDialog")
        self.setWindowTitle(self.tr("Library"))
        self.resize(740, 660)
        self._theme = theme
        self._connection = connection
        self._cards: dict[str, FolderCard] = {}
        self._listing = False
        self._refresh = QTimer(self)
        self._refresh.setSingleShot(True)
        self._refresh.setInterval(_REFRESH_MS)
        self._refresh.timeout.connect(self.refresh)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 4, 0, 0)
        self.tabs = QTabWidget()
        self.tabs.setObjectName("libraryTabs")
        self.tabs.setDocumentMode(True)
        self.tabs.tabBar().setDrawBase(False)
        column.addWidget(self.tabs)
        self.problems = ProblemsPane(connection)
        # The many widgets of the settings are made when they are first wanted, which takes a moment.
        self._settings: SettingsPane | None = None
        self._make_settings: Callable[[], SettingsPane] = lambda: SettingsPane(
            theme, connection, choose_folder, choose_file
        )
        self._settings_tab = QWidget()
        around = QVBoxLayout(self._settings_tab)
        around.setContentsMargins(0, 0, 0, 0)
        self.tabs.addTab(self._folders_tab(), self.tr("Folders"))
        self.tabs.addTab(self.problems, self.tr("Problems"))
        self.tabs.addTab(self._settings_tab, self.tr("Settings"))
        self.tabs.currentChanged.connect(self.refresh)
        self.problems.reveal_wanted.connect(self.reveal_wanted)
        self.problems.copy_wanted.connect(self.copy_wanted)
        QShortcut(QKeySequence(Qt.Modifier.CTRL | Qt.Key.Key_Comma), self, self.close)

    @property
    def settings(self) -> SettingsPane:
        """The third tab."""
        if self._settings is None:
            self._settings = self._make_settings()
            around = self._settings_tab.layout()
            assert around is not None
            around.addWidget(self._settings)
        return self._settings

    def _folders_tab(self) -> QWidget:
        tab = QWidget()
        column = QVBoxLayout(tab)
        column.setContentsMargins(16, 14, 16, 16)
        column.setSpacing(10)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        inside = QWidget()
        inside.setObjectName("folders")
        self._list = QVBoxLayout(inside)
        self._list.setContentsMargins(0, 0, 0, 0)
        self._list.setSpacing(8)
        self._none = QLabel(self.tr("No folders yet. Add one, or drop it on the window."))
        self._none.setProperty("muted", True)
        self._none.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._list.addWidget(self._none)
        self._list.addStretch(1)
        scroll.setWidget(inside)
        column.addWidget(scroll, 1)
        row = QHBoxLayout()
        self.add = QPushButton(self.tr("Add folder…"))
        self.add.setObjectName("addFolder")
        self.add.setProperty("primary", True)
        self.add.clicked.connect(self.add_wanted)
        note = QLabel(self.tr("Files are only read, never changed."))
        note.setProperty("muted", True)
        self.check = QPushButton(self.tr("Check the library…"))
        self.check.setObjectName("checkLibrary")
        self.check.clicked.connect(self._check)
        row.addWidget(self.add)
        row.addSpacing(8)
        row.addWidget(note, 1)
        row.addWidget(self.check)
        column.addLayout(row)
        return tab

    def _check(self) -> None:
        CheckDialog(self._theme, self._connection, self).open()

    def open_at(self, tab: int) -> None:
        """Show the dialog: 0 folders, 1 problems, 2 settings."""
        self.tabs.setCurrentIndex(tab)
        self.show()
        self.raise_()
        self.activateWindow()
        self.refresh()

    def refresh(self) -> None:
        """Ask for what the visible tab shows."""
        if not self.isVisible():
            return
        tab = self.tabs.currentIndex()
        if tab == 0 and not self._listing:
            self._listing = True
            self._connection.request(api.ListFolders(id=0), self._listed, self._not_listed)
        elif tab == 1:
            self.problems.refresh()
        elif tab == 2:
            self.settings.refresh()

    def status_changed(self) -> None:
        """The service did something; look again in a moment, if anybody looks."""
        if self.isVisible() and self.tabs.currentIndex() < 2 and not self._refresh.isActive():
            self._refresh.start()

    def show_folders(self, folders: Sequence[api.Folder]) -> None:
        """Show the folders; cards that stay are updated in place."""
        gone = set(self._cards) - {f.path for f in folders}
        for path in gone:
            self._cards.pop(path).deleteLater()
        for position, folder in enumerate(folders):
            card = self._cards.get(folder.path)
            if card is None:
                card = FolderCard(self._theme, folder)
                card.remove_wanted.connect(self._ask_remove)
                card.reveal_wanted.connect(self.reveal_wanted)
                card.problems_wanted.connect(lambda: self.tabs.setCurrentIndex(1))
                self._cards[folder.path] = card
                self._list.insertWidget(position + 1, card)
            else:
                card.show_folder(folder)
        self._none.setVisible(not folders)

    def _listed(self, reply: api.Reply) -> None:
        self._listing = False
        if isinstance(reply, api.Folders):
            self.show_folders(reply.folders)

    def _not_listed(self, reply: api.Failed) -> None:
        self._listing = False

    def _ask_remove(self, path: str) -> None:
        box = QMessageBox(self)
        box.setObjectName("removeQuestion")
        box.setIcon(QMessageBox.Icon.Question)
        box.setWindowTitle(self.tr("Remove folder"))
        box.setTextFormat(Qt.TextFormat.PlainText)
        box.setText(self.tr("Remove “%1” from the library?").replace("%1", wording.file_name(path)))
        box.setInformativeText(
            self.tr("Dragoman forgets what it read there. The files themselves are not touched.")
        )
        remove = box.addButton(self.tr("Remove"), QMessageBox.ButtonRole.DestructiveRole)
        remove.setObjectName("confirmRemove")
        remove.setProperty("danger", True)
        keep = box.addButton(self.tr("Keep"), QMessageBox.ButtonRole.RejectRole)
        keep.setObjectName("cancelRemove")
        box.setDefaultButton(keep)
        box.setEscapeButton(keep)
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        remove.clicked.connect(lambda: self._remove(path))
        box.open()

    def _remove(self, path: str) -> None:
        self._connection.request(api.RemoveFolder(id=0, path=path), self._removed)

    def _removed(self, reply: api.Reply) -> None:
        self.refresh()
        self.changed.emit()
