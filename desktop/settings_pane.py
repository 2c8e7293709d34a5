"""The settings that a person may want to change, in one page."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import msgspec
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QRadioButton,
    QScrollArea,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from desktop import wording
from desktop.connection import Connection
from desktop.file_dialogs import ChoosePath
from desktop.lock import LockSection
from desktop.model_dialogs import is_address, is_exposed
from desktop.theme import Theme
from indexer import api
from indexer.settings import ChromaServer, Instructions, Settings

_TASKS = ("notes", "code", "question")
# What the service takes where nothing is entered and the model has no words of its own.
INSTRUCTIONS = {
    "notes": "Given a search query, retrieve passages of notes and documents about what it describes",
    "code": "Given a description of what code does, retrieve the functions or passages of code that do it",
    "question": "Given a question, retrieve passages that answer it",
}


class SettingsPane(QWidget):
    """What a person can choose.

    Args:
        theme: Fonts.
        connection: The service.
        choose_folder: Asks the person for a folder and calls back with it.
        choose_file: The same for a file.
    """

    def __init__(
        self,
        theme: Theme,
        connection: Connection,
        choose_folder: ChoosePath,
        choose_file: ChoosePath,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._theme = theme
        self._connection = connection
        self._choose_folder, self._choose_file = choose_folder, choose_file
        self._stored: Settings | None = None
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(0)
        scroll = QScrollArea()
        scroll.setObjectName("settingsScroll")
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        page = QWidget()
        self._form = QFormLayout(page)
        self._form.setContentsMargins(16, 6, 16, 16)
        self._form.setHorizontalSpacing(18)
        self._form.setVerticalSpacing(10)
        self._form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._pace()
        self._files()
        self._model()
        self._tasks()
        self._order()
        self._downloads()
        self._vectors()
        self._encryption()
        scroll.setWidget(page)
        outer.addWidget(scroll, 1)
        row = QHBoxLayout()
        row.setContentsMargins(16, 10, 16, 14)
        self.note = QLabel()
        self.note.setObjectName("settingsNote")
        self.note.setProperty("muted", True)
        self.note.setWordWrap(True)
        self.save = QPushButton(self.tr("Save"))
        self.save.setObjectName("saveSettings")
        self.save.setProperty("primary", True)
        self.save.clicked.connect(self._save)
        row.addWidget(self.note, 1)
        row.addWidget(self.save)
        outer.addLayout(row)
        for combo in self.findChildren(QComboBox):
            combo.currentIndexChanged.connect(self._changed)
        for spin in self.findChildren(QSpinBox):
            spin.valueChanged.connect(self._changed)
        for box in self.findChildren(QCheckBox):
            box.toggled.connect(self._changed)
        for choice in self.speeds.values():
            choice.toggled.connect(self._changed)
        for line in self._lines:
            line.textChanged.connect(self._changed)
        self.ignore.textChanged.connect(self._changed)
        self._changed()

    # --- the sections -----------------------------------------------------------------------

    def _pace(self) -> None:
        self._heading(self.tr("Indexing"))
        self._lines: list[QLineEdit] = []
        row = QWidget()
        choices = QHBoxLayout(row)
        choices.setContentsMargins(0, 0, 0, 0)
        choices.setSpacing(18)
        names = {"gentle": self.tr("Gentle"), "balanced": self.tr("Balanced"), "full": self.tr("Full")}
        self.speeds: dict[str, QRadioButton] = {}
        for speed, name in names.items():
            choice = QRadioButton(name)
            choice.setObjectName(f"speed-{speed}")
            self.speeds[speed] = choice
            choices.addWidget(choice)
        choices.addStretch(1)
        self.speed_hint = self._hint("")
        self.speed_hint.setObjectName("speedHint")
        self.unload = self._spin("unloadMinutes", 0, 10_080, self.tr(" minutes"))
        self.unload.setSpecialValueText(self.tr("Never"))
        hint = self._hint(
            self.tr(
                "After so long without work the language model gives its memory back. The next search then "
                "waits for it for some seconds; what its words find is shown meanwhile."
            )
        )
        title = self.tr("&Speed")
        self._row(title, row, self.speeds["balanced"])
        for speed, name in names.items():
            self.speeds[speed].setAccessibleName(f"{title.replace('&', '')}: {name}")
        self._row("", self.speed_hint)
        self._row(self.tr("&Unload the model after"), self.unload)
        self._row("", hint)

    def _what_speed_means(self, speed: str) -> str:
        match speed:
            case "gentle":
                return self.tr("A quarter of the processor; less while the computer is in use or on battery.")
            case "balanced":
                return self.tr(
                    "All of the processor while nobody needs it; half of it, with breaks, while you "
                    "search or other programs are busy, and on battery."
                )
            case _:
                return self.tr("All of the processor at all times, until the battery is low.")

    def _files(self) -> None:
        self._heading(self.tr("Files"))
        self.ignore = QPlainTextEdit()
        self.ignore.setObjectName("ignoreField")
        self.ignore.setTabChangesFocus(True)
        self.ignore.setPlaceholderText("*.log\nbuild/\n")
        self.ignore.setFixedHeight(self.ignore.fontMetrics().lineSpacing() * 5 + 20)
        hint = self._hint(self.tr("Patterns as in .gitignore, one a line, for all folders."))
        self.hidden = QCheckBox(self.tr("Read &hidden files and folders too"))
        self.hidden.setObjectName("indexHidden")
        self.largest = self._spin("maxFileSize", 1, 4096, self.tr(" MB"))
        self.workers = self._spin("extractionWorkers", 0, 64, "")
        self.workers.setSpecialValueText(self.tr("Automatic"))
        self.deadline = self._spin("extractionDeadline", 1, 3600, self.tr(" s"))
        self.memory = self._spin("extractionMemory", 256, 65536, self.tr(" MB"))
        self._row(self.tr("&Leave out"), self.ignore)
        self._row("", hint)
        self._row("", self.hidden)
        self._row(self.tr("Largest &file"), self.largest)
        self._row(self.tr("Files read &at once"), self.workers)
        self._row(self.tr("Time &per file"), self.deadline)
        self._row(self.tr("&Memory per file"), self.memory)
        self.ignore.setAccessibleName(self.tr("Patterns of files to leave out"))

    def _model(self) -> None:
        self._heading(self.tr("Language model"))
        self.device = self._combo(
            "device",
            (self.tr("Automatic"), "auto"),
            (self.tr("Processor"), "cpu"),
            (self.tr("NVIDIA graphics card (CUDA)"), "cuda"),
            (self.tr("Apple graphics (MPS)"), "mps"),
        )
        self.precision = self._combo(
            "precision",
            (self.tr("Automatic"), "auto"),
            (self.tr("32 bits (float32)"), "float32"),
            (self.tr("16 bits (bfloat16)"), "bfloat16"),
            (self.tr("16 bits (float16)"), "float16"),
            (self.tr("8 bits (int8)"), "int8"),
        )
        self.engine = self._combo(
            "engine", (self.tr("Automatic"), "auto"), ("OpenVINO", "openvino"), ("PyTorch", "torch")
        )
        self.threads = self._spin("encoderThreads", 0, 256, "")
        self.threads.setSpecialValueText(self.tr("Automatic"))
        self.context = self._spin("contextTokens", 0, 8192, self.tr(" tokens"))
        self.context.setSingleStep(256)
        self.context.setSpecialValueText(self.tr("As long as the model takes"))
        self.gguf = self._combo(
            "ggufEngine",
            (self.tr("Automatic"), "auto"),
            ("transformers", "transformers"),
            ("llama.cpp", "llama.cpp"),
        )
        self._row(self.tr("&Runs on"), self.device)
        self._row(self.tr("&Computes in"), self.precision)
        self._row(self.tr("On the processor, &with"), self.engine)
        self._row(self.tr("Processor &threads"), self.threads)
        self._row(self.tr("Longest &input"), self.context)
        self._row(self.tr(".&gguf files run with"), self.gguf)

    def _tasks(self) -> None:
        self._heading(
            self.tr("What to look for"),
            self.tr(
                "Models such as Qwen3-Embedding are told what is sought. Empty: the model's own words, or "
                "those shown. Only questions change, so nothing is embedded again."
            ),
        )
        self.instructions = {task: self._line(f"instruction-{task}", INSTRUCTIONS[task]) for task in _TASKS}
        names = {"notes": self.tr("Notes"), "code": self.tr("Source code"), "question": self.tr("Questions")}
        for task, line in self.instructions.items():
            line.setToolTip(INSTRUCTIONS[task])
            self._row(names[task], line)

    def _order(self) -> None:
        self._heading(self.tr("Order of the results"))
        self.rerank = QCheckBox(self.tr("Order the first hits again with a reranker"))
        self.rerank.setObjectName("rerank")
        self.reranker = self._line("rerankerFolder", self.tr("Folder of the reranker"))
        self.reranker.setAccessibleName(self.tr("Folder of the reranker"))
        self.browse = self._browse("chooseReranker", self._choose_folder, self.reranker)
        hint = self._hint(
            self.tr(
                "A cross-encoder, as Hugging Face's tools store it. Results appear first and are then "
                "ordered again; without a graphics card that takes some seconds."
            )
        )
        self._row(self.tr("&Better order"), self.rerank)
        self._row("", _beside(self.reranker, self.browse))
        self._row("", hint)

    def _downloads(self) -> None:
        self._heading(self.tr("Downloads"))
        self.offline = QCheckBox(self.tr("Never &download models"))
        self.offline.setObjectName("offline")
        self.endpoint = self._line("hubEndpoint", "https://huggingface.co")
        hint = self._hint(self.tr("Where models are downloaded from. Empty for the Hugging Face Hub."))
        self._row(self.tr("M&irror of the Hub"), self.endpoint)
        self._row("", hint)
        self._row("", self.offline)

    def _vectors(self) -> None:
        self._heading(
            self.tr("Chroma server"),
            self.tr(
                "Where vectors are searched. Empty: Dragoman runs Chroma itself, on this computer. The "
                "library itself always stays here."
            ),
        )
        standard = ChromaServer()
        self.chroma = self._line("chromaUrl", "https://chroma.example.org")
        self.token = self._line("chromaToken", self.tr("none"))
        self.token.setEchoMode(QLineEdit.EchoMode.Password)
        self.header = self._combo(
            "chromaHeader", ("Authorization: Bearer", "Authorization"), ("X-Chroma-Token", "X-Chroma-Token")
        )
        self.tenant = self._line("chromaTenant", standard.tenant)
        self.database = self._line("chromaDatabase", standard.database)
        self.certificate = self._line("chromaCertificate", self.tr("that of the system"))
        self.choose_certificate = self._browse("chooseCertificate", self._choose_file, self.certificate)
        certificate = _beside(self.certificate, self.choose_certificate)
        self.insecure = QCheckBox(self.tr("Allow plain http to another computer"))
        self.insecure.setObjectName("chromaInsecure")
        self.unsafe = QLabel(
            self.tr("Vectors and the token then travel unencrypted; anybody on the way can read them.")
        )
        self.unsafe.setObjectName("chromaUnsafe")
        self.unsafe.setProperty("notice", True)
        self.unsafe.setWordWrap(True)
        self._row(self.tr("Add&ress (URL)"), self.chroma)
        self._row("", self.insecure)
        self._row("", self.unsafe)
        self._row(self.tr("T&oken"), self.token)
        self._row(self.tr("Sent as"), self.header)
        self._row(self.tr("T&enant"), self.tenant)
        self._row(self.tr("&Database"), self.database)
        self._row(self.tr("Certi&ficate"), certificate, self.certificate)

    def _encryption(self) -> None:
        self._heading(
            self.tr("Encryption"),
            self.tr(
                "With a passphrase nobody who gets hold of the disk can read what Dragoman keeps of your "
                "files. It does not protect the files themselves, nor an open library from programs that run "
                "under your name."
            ),
        )
        self.lock = LockSection(self._theme, self._connection)
        self._form.addRow(self.lock)

    # --- how they are built -----------------------------------------------------------------

    def _heading(self, text: str, hint: str = "") -> None:
        label = QLabel(text)
        label.setFont(self._theme.font(1.05, bold=True))
        label.setContentsMargins(0, 10, 0, 0)
        self._form.addRow(label)
        if hint:
            self._form.addRow(self._hint(hint))

    def _hint(self, text: str) -> QLabel:
        label = QLabel(text)
        label.setProperty("muted", True)
        label.setWordWrap(True)
        label.setAlignment(Qt.AlignmentFlag.AlignTop)
        return label

    def _row(self, text: str, field: QWidget, buddy: QWidget | None = None) -> None:
        if not text:
            self._form.addRow("", field)
            return
        label = QLabel(text)
        label.setBuddy(buddy or field)
        (buddy or field).setAccessibleName(text.replace("&", ""))
        label.setContentsMargins(0, 3, 0, 0)
        self._form.addRow(label, field)

    def _line(self, name: str, placeholder: str) -> QLineEdit:
        line = QLineEdit()
        line.setObjectName(name)
        line.setProperty("field", True)
        line.setMinimumHeight(30)
        line.setPlaceholderText(placeholder)
        self._lines.append(line)
        return line

    def _combo(self, name: str, *items: tuple[str, str]) -> QComboBox:
        combo = QComboBox()
        combo.setObjectName(name)
        combo.setMinimumHeight(30)
        combo.setMaximumWidth(260)
        # The wheel scrolls the page; it changes a value only where one was clicked before.
        combo.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        for text, value in items:
            combo.addItem(text, value)
        return combo

    def _spin(self, name: str, low: int, high: int, suffix: str) -> QSpinBox:
        spin = QSpinBox()
        spin.setObjectName(name)
        spin.setRange(low, high)
        spin.setSuffix(suffix)
        spin.setMaximumWidth(260)
        spin.setMinimumHeight(30)
        spin.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        return spin

    def _browse(self, name: str, choose: ChoosePath, line: QLineEdit) -> QPushButton:
        button = QPushButton(self.tr("Choose…"))
        button.setObjectName(name)
        button.clicked.connect(lambda: choose(self, line.setText))
        return button

    # --- what they hold ---------------------------------------------------------------------

    def refresh(self) -> None:
        """Ask for the settings, unless the person is in the middle of changing them."""
        self.lock.refresh()
        if self._stored is None or not self.save.isEnabled():
            self._connection.request(api.GetSettings(id=0), self._show, lambda _: None)

    def _show(self, reply: api.Reply) -> None:
        if not isinstance(reply, api.SettingsReply):
            return
        stored = reply.settings
        self._stored = None
        self.ignore.setPlainText("\n".join(stored.ignore))
        self.hidden.setChecked(stored.index_hidden)
        self.largest.setValue(stored.max_file_mb)
        for combo, value in (
            (self.device, stored.device),
            (self.precision, stored.precision),
            (self.engine, stored.engine),
            (self.gguf, stored.gguf_engine),
            (self.header, stored.chroma.token_header),
        ):
            combo.setCurrentIndex(max(0, combo.findData(value)))
        self.speeds[stored.speed].setChecked(True)
        self.unload.setValue(_whole_minutes(stored))
        self.threads.setValue(stored.encoder_threads)
        self.workers.setValue(stored.extraction_workers)
        self.deadline.setValue(round(stored.extraction_deadline_s))
        self.memory.setValue(stored.extraction_memory_mb)
        self.context.setValue(stored.context_tokens)
        for task, line in self.instructions.items():
            line.setText(getattr(stored.instructions, task))
        self.rerank.setChecked(stored.rerank)
        self.reranker.setText(wording.printable(api.local_path(stored.reranker)))
        self.offline.setChecked(stored.offline)
        self.endpoint.setText(stored.hub_endpoint)
        chroma, standard = stored.chroma, ChromaServer()
        self.chroma.setText(chroma.url)
        self.token.setText(chroma.token)
        self.tenant.setText("" if chroma.tenant == standard.tenant else chroma.tenant)
        self.database.setText("" if chroma.database == standard.database else chroma.database)
        self.certificate.setText(wording.printable(api.local_path(chroma.certificate)))
        self.insecure.setChecked(chroma.insecure)
        self._stored = stored
        self._changed()

    def _entered(self, stored: Settings) -> Settings:
        lines = (line.strip() for line in self.ignore.toPlainText().splitlines())
        standard = ChromaServer()
        return msgspec.structs.replace(
            stored,
            ignore=tuple(line for line in lines if line),
            index_hidden=self.hidden.isChecked(),
            max_file_mb=self.largest.value(),
            device=self.device.currentData(),
            precision=self.precision.currentData(),
            engine=self.engine.currentData(),
            speed=self._speed(),
            unload_minutes=(
                stored.unload_minutes
                if self.unload.value() == _whole_minutes(stored)
                else float(self.unload.value())
            ),
            context_tokens=self.context.value(),
            gguf_engine=self.gguf.currentData(),
            instructions=Instructions(**{t: line.text().strip() for t, line in self.instructions.items()}),
            encoder_threads=self.threads.value(),
            extraction_workers=self.workers.value(),
            extraction_deadline_s=float(self.deadline.value()),
            extraction_memory_mb=self.memory.value(),
            rerank=self.rerank.isChecked(),
            reranker=_path(self.reranker, stored.reranker),
            offline=self.offline.isChecked(),
            hub_endpoint=self.endpoint.text().strip().rstrip("/"),
            chroma=ChromaServer(
                url=self.chroma.text().strip().rstrip("/"),
                token=self.token.text().strip(),
                token_header=self.header.currentData(),
                tenant=self.tenant.text().strip() or standard.tenant,
                database=self.database.text().strip() or standard.database,
                certificate=_path(self.certificate, stored.chroma.certificate),
                insecure=self.insecure.isChecked(),
            ),
        )

    def _speed(self) -> str:
        return next((speed for speed, choice in self.speeds.items() if choice.isChecked()), "balanced")

    def _problem(self) -> str:
        """Why these settings cannot be stored; empty when they can."""
        url = self.chroma.text().strip()
        for address in (url, self.endpoint.text().strip()):
            if address and not is_address(address):
                return self.tr("“%1” is no address; it begins with http:// or https://.").replace(
                    "%1", address if len(address) <= 40 else address[:39] + "…"
                )
        if is_exposed(url) and not self.insecure.isChecked():
            return self.tr("The Chroma server's address is not encrypted. Use https, or allow plain http.")
        return ""

    def _changed(self) -> None:
        stored = self._stored
        self.speed_hint.setText(self._what_speed_means(self._speed()))
        url = self.chroma.text().strip()
        for widget in (
            self.token, self.header, self.tenant, self.database, self.certificate, self.choose_certificate,
        ):  # fmt: skip
            widget.setEnabled(bool(url))
        exposed = is_exposed(url)
        self._form.setRowVisible(self.insecure, exposed or self.insecure.isChecked())
        self._form.setRowVisible(self.unsafe, exposed and self.insecure.isChecked())
        # Off and with a folder, it is still used where a graphics card makes it quick.
        folder = _path(self.reranker, "")
        lacking = self.rerank.isChecked() and not (folder and Path(api.local_path(folder)).is_dir())
        problem = self._problem()
        self.save.setEnabled(stored is not None and not problem and self._entered(stored) != stored)
        if problem:
            self.note.setText(problem)
        elif lacking:
            self.note.setText(self.tr("Choose the folder that the reranker is in."))
        elif self.save.isEnabled():
            self.note.setText("")

    def _save(self) -> None:
        if self._stored is None:
            return
        # What this pane does not show (whether indexing is paused) may have changed since it was filled.
        self._connection.request(api.GetSettings(id=0), self._put, self._not_saved)

    def _put(self, reply: api.Reply) -> None:
        if not isinstance(reply, api.SettingsReply):
            return
        entered = self._entered(reply.settings)
        self._connection.request(
            api.PutSettings(id=0, settings=entered), partial(self._saved, entered), self._not_saved
        )

    def _saved(self, entered: Settings, reply: api.Reply) -> None:
        self._stored = entered
        self._changed()
        self.note.setText(self.tr("Saved."))

    def _not_saved(self, reply: api.Failed) -> None:
        self.note.setText(f"{reply.title}. {reply.message}")


def _whole_minutes(stored: Settings) -> int:
    """What the field shows: a fraction of a minute is not never."""
    return math.ceil(stored.unload_minutes)


def _path(line: QLineEdit, stored: str) -> str:
    """The path in a field; one whose name cannot be shown stays as it is unless it was changed."""
    entered = line.text().strip()
    if entered == wording.printable(api.local_path(stored)):
        return stored
    return str(Path(entered).expanduser()) if entered.startswith("~") else entered


def _beside(line: QLineEdit, button: QPushButton) -> QWidget:
    whole = QWidget()
    row = QHBoxLayout(whole)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(8)
    row.addWidget(line, 1)
    row.addWidget(button)
    return whole
