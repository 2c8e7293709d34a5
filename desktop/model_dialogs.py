"""What is asked and shown about one model: using it, verifying it, adding one from the Hub or a server."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

import msgspec
from PySide6.QtCore import QCoreApplication, Qt, Signal
from PySide6.QtWidgets import (
    QAbstractItemView,
    QCheckBox,
    QComboBox,
    QFormLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QMessageBox,
    QProgressBar,
    QPushButton,
    QSpinBox,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from desktop import wording
from desktop.connection import Connection
from desktop.theme import Theme
from desktop.widgets import GrowingDialog
from indexer import api
from indexer.settings import EmbeddingServer

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


def ask(
    parent: QWidget, name: str, text: str, more: str, yes: str, no: str, act: Callable[[], None]
) -> QMessageBox:
    """Ask before something is lost; Escape and Enter both mean no.

    Args:
        parent: Whose question it is.
        name: objectName; its buttons are ``confirm`` and ``refuse``.
        text: The question.
        more: What it means.
        yes: The button that does it.
        no: The other one.
        act: What is done.
    """
    box = QMessageBox(parent)
    box.setObjectName(name)
    box.setIcon(QMessageBox.Icon.Question)
    box.setWindowTitle(parent.window().windowTitle())
    box.setTextFormat(Qt.TextFormat.PlainText)
    box.setText(text)
    box.setInformativeText(more)
    go = box.addButton(yes, QMessageBox.ButtonRole.DestructiveRole)
    go.setObjectName("confirm")
    go.setProperty("danger", True)
    stay = box.addButton(no, QMessageBox.ButtonRole.RejectRole)
    stay.setObjectName("refuse")
    box.setDefaultButton(stay)
    box.setEscapeButton(stay)
    box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    go.clicked.connect(act)
    box.open()
    return box


def ask_cancel(parent: QWidget, name: str, act: Callable[[], None]) -> None:
    """Ask before the index that is being built is given up."""
    text = QCoreApplication.translate("Models", "Stop building the index of %1?").replace("%1", name)
    more = QCoreApplication.translate(
        "Models", "What was embedded for it so far is removed. Searches go on with the model in use."
    )
    yes = QCoreApplication.translate("Models", "Stop building")
    no = QCoreApplication.translate("Models", "Go on building")
    ask(parent, "cancelSwitchQuestion", text, more, yes, no, act)


class UseDialog(GrowingDialog):
    """What building an index costs, and the choices there are.

    Args:
        theme: Fonts.
        connection: The service.
        model: The model to use.
        active: The one that is in use now.
    """

    def __init__(
        self,
        theme: Theme,
        connection: Connection,
        model: api.Model,
        active: api.Model | None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("useDialog")
        self.setWindowTitle(self.tr("Use a model"))
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(500)
        self._connection = connection
        self._model = model
        self._request = 0
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 18, 20, 18)
        column.setSpacing(10)
        title = QLabel(self.tr("Use %1?").replace("%1", wording.printable(model.name)))
        title.setFont(theme.font(1.2, bold=True))
        title.setWordWrap(True)
        column.addWidget(title)
        if model.state == "kept":
            text = self.tr("Its index is complete and up to date, so the switch takes a moment only.")
        else:
            text = self.tr(
                "Its index is built from the texts that are stored already; no file is read again. "
                "Searches go on with %1 meanwhile."
            ).replace("%1", wording.printable(active.name) if active else self.tr("the words alone"))
        self.explained = _text(text, muted=True)
        column.addWidget(self.explained)
        if model.kind == "server":
            warning = _text(
                self.tr("Every passage of your library and every question is sent to this server.")
            )
            warning.setObjectName("serverSees")
            warning.setProperty("notice", True)
            column.addWidget(warning)
        form = QFormLayout()
        form.setHorizontalSpacing(18)
        form.setVerticalSpacing(8)
        form.setContentsMargins(0, 6, 0, 6)
        self.length = QComboBox()
        self.length.setObjectName("vectorLength")
        self.length.setMinimumHeight(30)
        full = self.tr("Full length")
        if model.dimensions > max(model.choices, default=0):
            full = self.tr("%1 (full length)").replace("%1", wording.number(model.dimensions))
        self.length.addItem(full, 0)
        for choice in model.choices:
            self.length.addItem(wording.number(choice), choice)
        self.length.setToolTip(self.tr("Shorter vectors need less room and find a little less well."))
        self.texts, self.disk, self.time = QLabel("…"), QLabel("…"), QLabel("…")
        self.disk.setObjectName("planDisk")
        if model.choices:
            label = QLabel(self.tr("Vector &length"))
            label.setBuddy(self.length)
            form.addRow(label, self.length)
        for name, value in (
            (self.tr("Texts to embed"), self.texts),
            (self.tr("Disk space"), self.disk),
            (self.tr("Time"), self.time),
        ):
            label = QLabel(name)
            label.setProperty("muted", True)
            value.setTextFormat(Qt.TextFormat.PlainText)
            value.setWordWrap(True)
            form.addRow(label, value)
        column.addLayout(form)
        self.keep = QCheckBox(self.tr("&Keep the present index to compare with"))
        self.keep.setObjectName("keepIndex")
        self.keep.setToolTip(
            self.tr("Both models then embed new files, and the same question can be asked of both.")
        )
        # A model is compared with another one, not with its own shorter vectors.
        self.keep.setVisible(active is not None and active.reference != model.reference)
        column.addWidget(self.keep)
        self.error = _text("", danger=True)
        self.error.setObjectName("useError")
        self.error.hide()
        column.addWidget(self.error)
        row = QHBoxLayout()
        row.addStretch(1)
        self.cancel = QPushButton(self.tr("Cancel"))
        self.cancel.setObjectName("cancelUse")
        self.cancel.clicked.connect(self.reject)
        self.go = QPushButton(self.tr("Switch") if model.state == "kept" else self.tr("Build the index"))
        self.go.setObjectName("confirmUse")
        self.go.setProperty("primary", True)
        self.go.setDefault(True)
        self.go.setEnabled(False)
        self.go.clicked.connect(self._use)
        row.addWidget(self.cancel)
        row.addWidget(self.go)
        column.addLayout(row)
        self.length.currentIndexChanged.connect(self._plan)
        self.finished.connect(self._forget)
        self._plan()

    def _plan(self) -> None:
        self._forget()
        self.error.hide()
        self.go.setEnabled(False)
        message = api.PlanModel(id=0, reference=self._model.reference, dimensions=self.length.currentData())
        self._request = self._connection.request(message, self._show_plan, self._no_plan)

    def _forget(self) -> None:
        if self._request:
            self._connection.forget(self._request)
        self._request = 0

    def _show_plan(self, reply: api.Reply) -> None:
        if not isinstance(reply, api.Plan):
            return
        self._request = 0
        self.texts.setText(wording.number(reply.texts))
        disk = self.tr("about %1, %2 are free").replace("%1", wording.room(reply.disk_bytes))
        self.disk.setText(disk.replace("%2", wording.room(reply.free_bytes)))
        if reply.seconds is not None:
            self.time.setText(wording.duration(reply.seconds))
        elif reply.texts:
            self.time.setText(self.tr("not known yet; “Verify” measures the model's speed here"))
        else:
            self.time.setText(wording.duration(0))
        room = reply.disk_bytes <= reply.free_bytes
        if not room:
            self._fail(self.tr("Not enough room on the disk. Shorter vectors or another model need less."))
        self.go.setEnabled(room)

    def _no_plan(self, reply: api.Failed) -> None:
        self._request = 0
        for label in (self.texts, self.disk, self.time):
            label.setText("–")
        self._fail(f"{reply.title}. {reply.message}")

    def _use(self) -> None:
        self.go.setEnabled(False)
        self.error.hide()
        message = api.UseModel(
            id=0,
            reference=self._model.reference,
            dimensions=self.length.currentData(),
            keep=self.keep.isChecked(),
        )
        self._connection.request(message, self._used, self._not_used)

    def _used(self, _: api.Reply) -> None:
        self.accept()

    def _not_used(self, reply: api.Failed) -> None:
        self._fail(f"{reply.title}. {reply.message}")
        self.go.setEnabled(True)

    def _fail(self, text: str) -> None:
        self.error.setText(text)
        self.error.show()


class PairsTable(QTreeWidget):
    """Pairs of texts with their similarity and the published one."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("pairs")
        self.setAccessibleName(self.tr("Pairs of texts"))
        self.setHeaderLabels(
            [self.tr("One text"), self.tr("The other"), self.tr("Here"), self.tr("Published")]
        )
        self.setRootIsDecorated(False)
        self.setUniformRowHeights(True)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        header = self.header()
        header.setStretchLastSection(False)
        for section in (0, 1):
            header.setSectionResizeMode(section, QHeaderView.ResizeMode.Stretch)
        for section in (2, 3):
            header.setSectionResizeMode(section, QHeaderView.ResizeMode.ResizeToContents)
            align = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
            self.headerItem().setTextAlignment(section, align)

    def show_pairs(self, pairs: tuple[api.Pair, ...]) -> None:
        """Replace the rows."""
        self.clear()
        locale = self.locale()
        for pair in pairs:
            item = QTreeWidgetItem(
                [
                    wording.printable(pair.first),
                    wording.printable(pair.second),
                    locale.toString(pair.similarity, "f", 3),
                    locale.toString(pair.published, "f", 3),
                ]
            )
            for section in (0, 1):
                item.setToolTip(section, item.text(section))
            for section in (2, 3):
                item.setTextAlignment(section, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            self.addTopLevelItem(item)

    def full_height(self) -> int:
        """The height at which nothing has to be scrolled."""
        rows = self.topLevelItemCount() * max(0, self.sizeHintForRow(0))
        return self.header().sizeHint().height() + rows + 2 * self.frameWidth() + 2


class Verification(QWidget):
    """Asks the service to verify a model, and shows what came out of it.

    Args:
        connection: The service.
        whole: Whether all pairs are shown at once; otherwise they are scrolled through.
    """

    def __init__(self, connection: Connection, parent: QWidget | None = None, *, whole: bool = False) -> None:
        super().__init__(parent)
        self._connection = connection
        self._whole = whole
        self._request = 0
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        self.state = _text("", muted=True)
        self.state.setObjectName("verifyState")
        self.busy = QProgressBar()
        self.busy.setRange(0, 0)
        self.busy.setTextVisible(False)
        self.busy.setFixedHeight(6)
        self.busy.setAccessibleName(self.tr("Embedding the pairs"))
        self.error = _text("", danger=True)
        self.error.setObjectName("verifyError")
        self.table = PairsTable()
        self.note = _text("", muted=True)
        self.note.setObjectName("verifyNote")
        for widget in (self.state, self.busy, self.error, self.table, self.note):
            column.addWidget(widget)
            widget.hide()

    def begin(self, reference: str) -> None:
        """Ask. Loading a large model takes a while."""
        self.stop()
        self.error.hide()
        self.table.hide()
        self.note.hide()
        self.state.setText(self.tr("Loading the model and embedding seven pairs of texts…"))
        self.state.show()
        self.busy.show()
        self._request = self._connection.request(
            api.VerifyModel(id=0, reference=reference), self._show, self._failed
        )

    def stop(self) -> None:
        """Nobody waits for the answer any more."""
        if self._request:
            self._connection.cancel(self._request)
        self._request = 0
        self.busy.hide()

    def _show(self, reply: api.Reply) -> None:
        if not isinstance(reply, api.Verified):
            return
        self._request = 0
        self.busy.hide()
        self.table.show_pairs(reply.pairs)
        if self._whole:
            self.table.setMinimumHeight(self.table.full_height())
        self.table.show()
        speed = self.tr("Measured: %1.").replace("%1", wording.speed(reply.tokens_per_s, reply.device))
        if not reply.is_reference:
            other = self.tr(
                "The published numbers are of Qwen3-Embedding-0.6B. What counts for another model is "
                "that texts which say the same are far closer than those which do not."
            )
            speed = f"{speed} {other}"
        self.state.setText(speed)
        self.note.setText(wording.verify_note(reply.note))
        self.note.setVisible(bool(reply.note))

    def _failed(self, reply: api.Failed) -> None:
        self._request = 0
        self.busy.hide()
        self.state.hide()
        self.error.setText(f"{reply.title}. {reply.message}")
        self.error.show()


class VerifyDialog(GrowingDialog):
    """Pairs of texts whose similarity was published, embedded by a model of this computer."""

    def __init__(
        self, theme: Theme, connection: Connection, model: api.Model, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("verifyDialog")
        self.setWindowTitle(self.tr("Verify a model"))
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(720, 200)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 18, 20, 18)
        column.setSpacing(10)
        title = QLabel(wording.printable(model.name))
        title.setFont(theme.font(1.2, bold=True))
        column.addWidget(title)
        self.verification = Verification(connection, whole=True)
        column.addWidget(self.verification)
        column.addStretch(1)
        row = QHBoxLayout()
        row.addStretch(1)
        self.close_button = QPushButton(self.tr("Close"))
        self.close_button.setObjectName("closeVerify")
        self.close_button.setDefault(True)
        self.close_button.clicked.connect(self.accept)
        row.addWidget(self.close_button)
        column.addLayout(row)
        self.finished.connect(self.verification.stop)
        self.verification.begin(model.reference)


class HubDialog(GrowingDialog):
    """The name of a model on the Hub."""

    chosen = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("hubDialog")
        self.setWindowTitle(self.tr("Add a model from the Hugging Face Hub"))
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(480)
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 18, 20, 18)
        column.setSpacing(10)
        label = QLabel(self.tr("&Name of the model"))
        self.field = QLineEdit()
        self.field.setObjectName("hubName")
        self.field.setProperty("field", True)
        self.field.setPlaceholderText("Qwen/Qwen3-Embedding-0.6B")
        label.setBuddy(self.field)
        column.addWidget(label)
        column.addWidget(self.field)
        column.addWidget(
            _text(
                self.tr(
                    "As its page on the Hub is called: organisation/model. It must be an embedding model "
                    "with safetensors weights; nothing else is downloaded, and none of its code is run."
                ),
                muted=True,
            )
        )
        self.error = _text("", danger=True)
        self.error.setObjectName("hubError")
        self.error.hide()
        column.addWidget(self.error)
        row = QHBoxLayout()
        row.addStretch(1)
        cancel = QPushButton(self.tr("Cancel"))
        cancel.setAutoDefault(False)
        cancel.clicked.connect(self.reject)
        self.go = QPushButton(self.tr("Download"))
        self.go.setObjectName("downloadFromHub")
        self.go.setProperty("primary", True)
        self.go.setDefault(True)
        self.go.clicked.connect(self._take)
        row.addWidget(cancel)
        row.addWidget(self.go)
        column.addLayout(row)
        self.field.textChanged.connect(self.error.hide)

    def _take(self) -> None:
        name = self.field.text().strip()
        # People copy the address of the page.
        name = re.sub(r"^https?://[^/]+/", "", name).partition("/tree/")[0].strip("/")
        if not _HUB_ID.fullmatch(name):
            self.error.setText(self.tr("This is no name of a model. It has two parts: organisation/model."))
            self.error.show()
            self.field.setFocus()
            return
        self.accept()
        self.chosen.emit(name)


class ServerDialog(GrowingDialog):
    """An embedding server: where it is, what it wants, and whether it answers.

    Args:
        theme: Fonts.
        connection: The service.
        name: The server to edit; empty for a new one.
    """

    saved = Signal()

    def __init__(
        self, theme: Theme, connection: Connection, name: str = "", parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setObjectName("serverDialog")
        self.setWindowTitle(self.tr("Embedding server"))
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.resize(600, 0)
        self._connection = connection
        self._editing = name
        self._base = EmbeddingServer(name=name, url="")
        column = QVBoxLayout(self)
        column.setContentsMargins(20, 18, 20, 18)
        column.setSpacing(10)
        column.addWidget(
            _text(
                self.tr(
                    "Any server that speaks OpenAI's protocol for embeddings: sglang, vLLM, TEI, llama.cpp, "
                    "Ollama, LM Studio. Your texts are sent there."
                ),
                muted=True,
            )
        )
        form = QFormLayout()
        form.setHorizontalSpacing(18)
        form.setVerticalSpacing(8)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.name = _line_edit("serverName", self.tr("such as desk"))
        self.name.setText(name)
        self.name.setEnabled(not name)
        self.url = _line_edit("serverUrl", "http://127.0.0.1:30000/v1")
        self.model = _line_edit("serverModel", self.tr("the first that the server lists"))
        self.key = _line_edit("serverKey", self.tr("none"))
        self.key.setEchoMode(QLineEdit.EchoMode.Password)
        self.insecure = QCheckBox(self.tr("Allow plain &http to another computer"))
        self.insecure.setObjectName("serverInsecure")
        self.unsafe = _text(
            self.tr("Your texts and the key then travel unencrypted; anybody on the way can read them.")
        )
        self.unsafe.setObjectName("serverUnsafe")
        self.unsafe.setProperty("notice", True)
        self.query = _line_edit("serverQueryPrefix", self.tr("what the model asks for, if anything"))
        self.passage = _line_edit("serverPassagePrefix", self.tr("none"))
        self.dimensions = QSpinBox()
        self.dimensions.setObjectName("serverDimensions")
        self.dimensions.setRange(0, 16384)
        self.dimensions.setSpecialValueText(self.tr("as the server gives"))
        self.longest = QSpinBox()
        self.longest.setObjectName("serverMaxTokens")
        self.longest.setRange(16, 131072)
        self.longest.setSuffix(self.tr(" tokens"))
        self.longest.setValue(self._base.max_tokens)
        for spin in (self.dimensions, self.longest):
            spin.setMinimumHeight(30)
            spin.setMaximumWidth(240)
        for text, field in (
            (self.tr("&Name"), self.name),
            (self.tr("&Address (URL)"), self.url),
            (self.tr("&Model"), self.model),
            (self.tr("&Key"), self.key),
            ("", self.insecure),
            ("", self.unsafe),
            (self.tr("Before &questions"), self.query),
            (self.tr("Before &passages"), self.passage),
            (self.tr("Vector &length"), self.dimensions),
            (self.tr("L&ongest input"), self.longest),
        ):
            if text:
                label = QLabel(text)
                label.setBuddy(field)
                field.setAccessibleName(text.replace("&", ""))
                form.addRow(label, field)
            else:
                form.addRow("", field)
        column.addLayout(form)
        self.error = _text("", danger=True)
        self.error.setObjectName("serverError")
        self.error.hide()
        column.addWidget(self.error)
        self.verification = Verification(connection)
        self.verification.table.setMinimumHeight(190)
        column.addWidget(self.verification)
        column.addStretch(1)
        row = QHBoxLayout()
        self.test = QPushButton(self.tr("Save and test"))
        self.test.setObjectName("testServer")
        self.test.setAutoDefault(False)
        self.test.clicked.connect(lambda: self._save(test=True))
        self.cancel = QPushButton(self.tr("Cancel"))
        self.cancel.setAutoDefault(False)
        self.cancel.clicked.connect(self.reject)
        self.save = QPushButton(self.tr("Save"))
        self.save.setObjectName("saveServer")
        self.save.setProperty("primary", True)
        self.save.setDefault(True)
        self.save.clicked.connect(lambda: self._save(test=False))
        row.addWidget(self.test)
        row.addStretch(1)
        row.addWidget(self.cancel)
        row.addWidget(self.save)
        column.addLayout(row)
        self.finished.connect(self.verification.stop)
        for field in (self.name, self.url, self.model, self.key, self.query, self.passage):
            field.textChanged.connect(self._changed)
        self.insecure.toggled.connect(self._changed)
        self._changed()
        (self.url if name else self.name).setFocus()
        if name:
            self._connection.request(api.GetSettings(id=0), self._fill, self._failed)

    def _fill(self, reply: api.Reply) -> None:
        if not isinstance(reply, api.SettingsReply):
            return
        for server in reply.settings.servers:
            if server.name == self._editing:
                self._base = server
                self.url.setText(server.url)
                self.model.setText(server.model)
                self.key.setText(server.key)
                self.insecure.setChecked(server.insecure)
                self.query.setText(server.query_prefix)
                self.passage.setText(server.passage_prefix)
                self.dimensions.setValue(server.dimensions)
                self.longest.setValue(server.max_tokens)

    def _changed(self) -> None:
        self.error.hide()
        exposed = is_exposed(self.url.text().strip())
        self.insecure.setVisible(exposed or self.insecure.isChecked())
        self.unsafe.setVisible(exposed and self.insecure.isChecked())

    def entered(self) -> EmbeddingServer:
        """What the fields say."""
        url = self.url.text().strip().rstrip("/")
        return msgspec.structs.replace(
            self._base,
            name=self.name.text().strip(),
            url=url.removesuffix("/embeddings"),
            model=self.model.text().strip(),
            key=self.key.text().strip(),
            insecure=self.insecure.isChecked(),
            query_prefix=self.query.text(),
            passage_prefix=self.passage.text(),
            dimensions=self.dimensions.value(),
            max_tokens=self.longest.value(),
        )

    def problem(self, server: EmbeddingServer) -> tuple[QWidget, str] | None:
        """What is wrong with the fields, and in which; None when they will do."""
        if not _SERVER_NAME.fullmatch(server.name):
            text = self.tr("The server needs a name of letters, digits, dots or hyphens.")
            return self.name, text
        if not is_address(server.url):
            text = self.tr("The address must begin with http:// or https:// and name the server.")
            return self.url, text
        if is_exposed(server.url) and not server.insecure:
            text = self.tr(
                "This address is on another computer and not encrypted. Use https, or allow plain http."
            )
            return self.insecure, text
        return None

    def _save(self, *, test: bool) -> None:
        server = self.entered()
        if (problem := self.problem(server)) is not None:
            problem[0].setFocus()
            self._fail(problem[1])
            return
        self._enable(on=False)
        self._connection.request(api.GetSettings(id=0), partial(self._put, server, test), self._failed)

    def _put(self, server: EmbeddingServer, test: bool, reply: api.Reply) -> None:
        if not isinstance(reply, api.SettingsReply):
            return
        servers = list(reply.settings.servers)
        at = next((i for i, one in enumerate(servers) if one.name == server.name), None)
        if at is not None and self._editing != server.name:
            self._enable(on=True)
            self._fail(self.tr("There is a server of that name already."))
            return
        if at is None:
            servers.append(server)
        else:
            servers[at] = server
        settings = msgspec.structs.replace(reply.settings, servers=tuple(servers))
        self._connection.request(
            api.PutSettings(id=0, settings=settings), partial(self._stored, server, test), self._failed
        )

    def _stored(self, server: EmbeddingServer, test: bool, _: api.Reply) -> None:
        self._enable(on=True)
        self._editing, self._base = server.name, server
        self.name.setEnabled(False)
        self.saved.emit()
        if not test:
            self.accept()
            return
        self.cancel.setText(self.tr("Close"))
        self.verification.begin(f"{wording.SERVER}{server.name}")

    def _enable(self, *, on: bool) -> None:
        self.save.setEnabled(on)
        self.test.setEnabled(on)

    def _failed(self, reply: api.Failed) -> None:
        self._enable(on=True)
        self._fail(f"{reply.title}. {reply.message}")

    def _fail(self, text: str) -> None:
        self.error.setText(text)
        self.error.show()


def is_address(url: str) -> bool:
    """Whether a text is an address that can be asked over http."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_exposed(url: str) -> bool:
    """Whether what is sent to an address can be read on its way: plain http to another computer."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme != "http" or not host or host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def _line_edit(name: str, placeholder: str) -> QLineEdit:
    field = QLineEdit()
    field.setObjectName(name)
    field.setProperty("field", True)
    field.setMinimumHeight(30)
    field.setPlaceholderText(placeholder)
    return field


def _text(text: str, *, muted: bool = False, danger: bool = False) -> QLabel:
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    if muted:
        label.setProperty("muted", True)
    if danger:
        label.setProperty("danger", True)
        label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label
