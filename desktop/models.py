"""The models dialog: which there are, what they cost, and everything that can be done with them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QKeySequence, QPalette, QShortcut, QShowEvent
from PySide6.QtWidgets import (
    QDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QMenu,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from desktop import wording
from desktop.assets import icon
from desktop.connection import Connection
from desktop.file_dialogs import ChoosePath
from desktop.model_dialogs import HubDialog, ServerDialog, UseDialog, VerifyDialog, ask, ask_cancel
from desktop.model_list import Download, ModelList, named
from desktop.theme import Theme
from desktop.widgets import ElidedLabel, restyle, set_chip, tool_button
from indexer import api

_DRAW_MS = 150


class ModelCard(QFrame):
    """One model: what it is, what it costs, what is going on with it, what can be done."""

    act_wanted = Signal(str, str)  # what, the reference

    def __init__(self, theme: Theme, model: api.Model, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("card")
        self.model = model
        self._action = ""
        row = QHBoxLayout(self)
        row.setContentsMargins(14, 12, 10, 12)
        row.setSpacing(12)
        self._picture = QLabel()
        row.addWidget(self._picture, 0, Qt.AlignmentFlag.AlignTop)
        column = QVBoxLayout()
        column.setSpacing(3)
        top = QHBoxLayout()
        top.setSpacing(8)
        self.name = ElidedLabel()
        self.name.setFont(theme.font(1.05, bold=True))
        self.state = QLabel()
        self.state.setObjectName("modelState")
        self.recommended = QLabel(self.tr("recommended for this computer"))
        self.recommended.setObjectName("modelRecommended")
        set_chip(self.recommended, "true")
        top.addWidget(self.name)
        top.addWidget(self.state)
        top.addWidget(self.recommended)
        top.addStretch(1)
        column.addLayout(top)
        self.summary = _line()
        self.facts = _line(muted=True)
        self.facts.setObjectName("modelFacts")
        self.costs = _line(muted=True)
        self.costs.setObjectName("modelCosts")
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.progress.setFixedHeight(6)
        self.progress_text = _line(muted=True)
        self.progress_text.setObjectName("modelProgress")
        self.error = _line()
        self.error.setObjectName("modelError")
        self.error.setProperty("danger", True)
        self.error.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        for label in (self.summary, self.facts, self.costs):
            column.addWidget(label)
        column.addSpacing(3)
        column.addWidget(self.progress)
        column.addWidget(self.progress_text)
        column.addWidget(self.error)
        row.addLayout(column, 1)
        self.main = QPushButton()
        self.main.setObjectName("modelAction")
        self.main.clicked.connect(lambda: self.act_wanted.emit(self._action, self.model.reference))
        self.more = tool_button("more", self.tr("More"), "modelMore")
        self.more.setPopupMode(self.more.ToolButtonPopupMode.InstantPopup)
        self.menu = QMenu(self.more)
        self.menu.setObjectName("modelMenu")
        self.more.setMenu(self.menu)
        buttons = QHBoxLayout()
        buttons.setSpacing(2)
        buttons.addWidget(self.main)
        buttons.addWidget(self.more)
        row.addLayout(buttons)
        row.setAlignment(buttons, Qt.AlignmentFlag.AlignTop)
        self._items: tuple[tuple[str, str], ...] = ()
        theme.changed.connect(self._draw)

    def show_model(self, model: api.Model, desk: ModelList) -> None:
        """Show what is known of the model now."""
        self.model = model
        download = desk.downloads.get(model.reference)
        switch = desk.switch
        if switch is not None and switch.reference != model.reference:
            switch = None
        self.name.setText(wording.printable(model.name))
        text, chip = self._state(model, download)
        self.state.setText(text)
        self.state.setVisible(bool(text))
        set_chip(self.state, chip)
        self.recommended.setVisible(model.recommended)
        self.summary.setText(wording.model_summary(model))
        self.facts.setText(self._facts(model))
        self.costs.setText(self._costs(model))
        for label in (self.summary, self.facts, self.costs):
            label.setVisible(bool(label.text()))
        self._show_progress(model, download, switch, desk)
        failure = desk.errors.get(model.reference)
        self.error.setText(f"{failure.title}. {failure.message}".strip() if failure else "")
        self.error.setVisible(failure is not None)
        self._show_actions(model, download, stray=desk.is_stray(model.reference))
        self.setAccessibleName(", ".join(part for part in (model.name, text, self.summary.text()) if part))
        self._draw()

    def _state(self, model: api.Model, download: Download | None) -> tuple[str, str]:
        if download is not None:
            local = model.kind in ("folder", "gguf")
            return (self.tr("being checked") if local else self.tr("downloading")), "live"
        return {
            "active": (self.tr("in use"), "live"),
            "building": (self.tr("index being built"), "live"),
            "kept": (self.tr("kept to compare"), "true"),
            "installed": (self.tr("installed"), "true") if model.kind == "hub" else ("", "true"),
            "available": ("", "true"),
        }[model.state]

    def _facts(self, model: api.Model) -> str:
        parts = [wording.model_languages(model), wording.printable(model.licence)]
        if model.parameters:
            parts.append(wording.millions(model.parameters))
        if model.dimensions:
            n = wording.number(model.dimensions)
            parts.append(self.tr("%1 dimensions").replace("%1", n))
        if model.max_tokens:
            n = wording.number(model.max_tokens)
            parts.append(self.tr("up to %1 tokens").replace("%1", n))
        return _facts(parts)

    def _costs(self, model: api.Model) -> str:
        parts = []
        if model.download_bytes and model.state == "available":
            parts.append(self.tr("Download %1").replace("%1", wording.room(model.download_bytes)))
        if model.installed_bytes:
            parts.append(self.tr("%1 on disk").replace("%1", wording.room(model.installed_bytes)))
        if model.memory_bytes:
            parts.append(self.tr("about %1 of memory").replace("%1", wording.room(model.memory_bytes)))
        if model.tokens_per_s is not None:
            parts.append(wording.speed(model.tokens_per_s, model.device))
        elif model.state != "available":
            parts.append(self.tr("speed not measured yet"))
        if model.vectors:
            parts.append(self.tr("index %1").replace("%1", wording.room(model.vector_bytes)))
        return _facts(parts)

    def _show_progress(
        self, model: api.Model, download: Download | None, switch: api.SwitchStatus | None, desk: ModelList
    ) -> None:
        text, done, total = "", 0, 0
        if download is not None:
            text, done, total = self._download(download)
        elif switch is not None:
            text, done, total = wording.switch_state(switch), switch.done, switch.total
        elif (stopped := desk.stopped.get(model.reference)) is not None:
            text = self.tr("Stopped. What is here is kept; the download goes on from there.")
            if stopped.total:
                text = self.tr("Stopped at %1 of %2. The download goes on from there.")
                text = text.replace("%1", wording.size(stopped.done))
                text = text.replace("%2", wording.size(stopped.total))
        busy = download is not None or switch is not None
        # QProgressBar counts in 32 bits; models are larger than that in bytes.
        self.progress.setRange(0, 1000 if total else 0)
        self.progress.setValue(round(1000 * min(1.0, done / total)) if total else 0)
        self.progress.setVisible(busy)
        self.progress.setAccessibleName(text)
        self.progress_text.setText(text)
        self.progress_text.setVisible(bool(text))

    def _download(self, download: Download) -> tuple[str, int, int]:
        progress = download.progress
        if download.stopping:
            text = self.tr("Stopping…")
        elif progress is None or not (progress.total or progress.done):
            text = self.tr("Looking what there is…")
        else:
            text = wording.size(progress.done)
            if progress.total:
                text = self.tr("%1 of %2").replace("%1", text).replace("%2", wording.size(progress.total))
            parts = [text]
            if (rate := download.bytes_per_s) is not None:
                parts.append(self.tr("%1/s").replace("%1", wording.size(round(rate))))
            if progress.remaining_s is not None:
                parts.append(wording.remaining(progress.remaining_s))
            if progress.current:
                parts.append(wording.printable(progress.current))
            text = "  ·  ".join(parts)
        return text, progress.done if progress else 0, progress.total if progress else 0

    def _show_actions(self, model: api.Model, download: Download | None, *, stray: bool) -> None:
        choices = bool(model.choices)
        label, self._action, primary = {
            "active": ("", "", False),
            "building": (self.tr("Cancel building…"), "cancel", False),
            "kept": (self.tr("Use…"), "use", False),
            "installed": (self.tr("Use…"), "use", model.recommended),
            "available": (self.tr("Download"), "download", model.recommended),
        }[model.state]
        if download is not None:
            label, self._action, primary = self.tr("Cancel"), "stop", False
        elif model.state == "available" and model.kind in ("folder", "gguf"):
            label, self._action = self.tr("Try again"), "download"
        self.main.setText(label)
        self.main.setVisible(bool(label))
        self.main.setEnabled(download is None or not download.stopping)
        self.main.setAccessibleName(f"{label.rstrip('…')}: {model.name}")
        if self.main.property("primary") != primary:
            self.main.setProperty("primary", primary)
            restyle(self.main)
        items: list[tuple[str, str]] = []
        if model.state != "available" and download is None:
            if choices and model.state == "active":
                items.append(("use", self.tr("Use with shorter vectors…")))
            items.append(("verify", self.tr("Verify…")))
            if model.kind == "server":
                items.append(("edit", self.tr("Edit the server…")))
            if model.state == "kept":
                items.append(("drop", self.tr("Drop the kept index…")))
            if model.state == "installed" and model.kind != "bundled":
                items.append(("remove", self.tr("Remove…")))
        if stray and download is None:
            items.append(("forget", self.tr("Take off the list")))
        if tuple(items) != self._items:
            self._items = tuple(items)
            self.menu.clear()
            for name, text in items:
                action = self.menu.addAction(text)
                action.setObjectName(name)
                action.triggered.connect(
                    lambda _=False, n=name: self.act_wanted.emit(n, self.model.reference)
                )
        self.more.setVisible(bool(items))
        self.more.setAccessibleName(self.tr("More on %1").replace("%1", model.name))

    def _draw(self) -> None:
        here = self.model.state != "available"
        role = QPalette.ColorRole.Link if here else QPalette.ColorRole.PlaceholderText
        self._picture.setPixmap(icon("model", role).pixmap(24, 24))


class ModelsDialog(QDialog):
    """Known and installed models, and how one is added.

    Args:
        theme: Fonts and colours.
        connection: The service.
        desk: The models.
        choose_folder: Asks the person for a folder and calls back with it.
        choose_file: The same for a .gguf file.
    """

    def __init__(
        self,
        theme: Theme,
        connection: Connection,
        desk: ModelList,
        parent: QWidget | None = None,
        *,
        choose_folder: ChoosePath,
        choose_file: ChoosePath,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("modelsDialog")
        self.setWindowTitle(self.tr("Models"))
        self.resize(800, 700)
        self._theme = theme
        self._connection = connection
        self._desk = desk
        self._choose_folder, self._choose_file = choose_folder, choose_file
        self.cards: dict[str, ModelCard] = {}
        self._shown: tuple[tuple[str, ...], ...] = ()
        column = QVBoxLayout(self)
        column.setContentsMargins(16, 14, 16, 16)
        column.setSpacing(10)
        intro = QLabel(
            self.tr(
                "The model turns texts into meaning. Another one reads no file again: its index is built "
                "beside the present one, which goes on serving until the new one is complete."
            )
        )
        intro.setWordWrap(True)
        intro.setProperty("muted", True)
        column.addWidget(intro)
        scroll = QScrollArea()
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self._scroll = scroll
        inside = QWidget()
        inside.setObjectName("models")
        self._list = QVBoxLayout(inside)
        self._list.setContentsMargins(0, 0, 4, 0)
        self._list.setSpacing(8)
        self.message = QLabel()
        self.message.setObjectName("modelsMessage")
        self.message.setProperty("muted", True)
        self.message.setWordWrap(True)
        self.message.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.retry = QPushButton(self.tr("Try again"))
        self.retry.setObjectName("modelsRetry")
        self.retry.clicked.connect(self._desk.refresh)
        self._here = self._heading(self.tr("On this computer"))
        self._elsewhere = self._heading(self.tr("To download"))
        self._list.addWidget(self.message)
        self._list.addWidget(self.retry, 0, Qt.AlignmentFlag.AlignHCenter)
        self._list.addStretch(1)
        scroll.setWidget(inside)
        column.addWidget(scroll, 1)
        row = QHBoxLayout()
        self.add = QPushButton(self.tr("Add a model"))
        self.add.setObjectName("addModel")
        menu = QMenu(self.add)
        menu.setObjectName("addModelMenu")
        for name, text, act in (
            ("addHub", self.tr("From the Hugging Face Hub…"), self.add_from_hub),
            ("addFolder", self.tr("A folder on this computer…"), self.add_folder),
            ("addGguf", self.tr("A .gguf file…"), self.add_file),
            ("addServer", self.tr("An embedding server…"), lambda: self.edit_server("")),
        ):
            action = menu.addAction(text)
            action.setObjectName(name)
            action.triggered.connect(lambda _=False, a=act: a())
        self.add.setMenu(menu)
        self.add_menu = menu
        note = QLabel(self.tr("Nothing is downloaded before you ask for it."))
        note.setProperty("muted", True)
        row.addWidget(self.add)
        row.addSpacing(8)
        row.addWidget(note, 1)
        column.addLayout(row)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_DRAW_MS)
        self._soon.timeout.connect(self._show)
        desk.changed.connect(self._changed)
        QShortcut(QKeySequence("Ctrl+Shift+L"), self, self.close)

    def _heading(self, text: str) -> QLabel:
        label = QLabel(text)
        label.setFont(self._theme.font(0.95, bold=True))
        label.setProperty("muted", True)
        label.setContentsMargins(2, 6, 0, 0)
        return label

    def open(self) -> None:
        """Show the dialog, with the list as it is now."""
        self.show()
        self.raise_()
        self.activateWindow()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._desk.refresh()
        self._show()

    def _changed(self) -> None:
        # Progress comes many times a second; nobody reads that fast.
        if self.isVisible() and not self._soon.isActive():
            self._soon.start()

    def _show(self) -> None:
        entries = self._desk.entries()
        here = [m for m in entries if m.state != "available" or m.reference in self._desk.downloads]
        elsewhere = [m for m in entries if m not in here]
        order = {"active": 0, "building": 1, "kept": 2}
        here.sort(key=lambda m: order.get(m.state, 3))
        layout = (tuple(m.reference for m in here), tuple(m.reference for m in elsewhere))
        if layout != self._shown or not entries:
            self._lay_out(here, elsewhere)
            self._shown = layout
        for model in entries:
            self.cards[model.reference].show_model(model, self._desk)
        failure = self._desk.failure
        if failure is not None:
            self.message.setText(f"{failure.title}. {failure.message}")
        else:
            self.message.setText(self.tr("One moment…") if self._desk.models is None else "")
        self.message.setVisible(not entries or failure is not None)
        self.retry.setVisible(failure is not None)

    def _lay_out(self, here: list[api.Model], elsewhere: list[api.Model]) -> None:
        """Put cards and headings in order; the cards themselves stay, and so does the focus."""
        wanted = {m.reference for m in (*here, *elsewhere)}
        for reference in set(self.cards) - wanted:
            self.cards.pop(reference).deleteLater()
        order: list[QWidget] = []
        for heading, models in ((self._here, here), (self._elsewhere, elsewhere)):
            order.append(heading)
            heading.setVisible(bool(models))
            for model in models:
                card = self.cards.get(model.reference)
                if card is None:
                    card = self.cards[model.reference] = ModelCard(self._theme, model)
                    card.act_wanted.connect(self._act)
                order.append(card)
        for position, widget in enumerate(order, 2):
            # Not takeAt: the item that Python still holds would keep a size that is never brought up to date.
            self._list.insertWidget(position, widget)
        cards = [self.cards[model.reference] for model in (*here, *elsewhere)]
        buttons = [self.retry, *(b for card in cards for b in (card.main, card.more)), self.add]
        for before, after in itertools.pairwise(buttons):
            QWidget.setTabOrder(before, after)

    # --- what can be done -------------------------------------------------------------------

    def _act(self, what: str, reference: str) -> None:
        model = self._desk.find(reference) or self.cards[reference].model
        actions: dict[str, Callable[[], None]] = {
            "download": lambda: self._desk.install(model),
            "stop": lambda: self._desk.stop(reference),
            "use": lambda: self.use(model),
            "cancel": lambda: ask_cancel(self, model.name, lambda: self._send(api.CancelSwitch(id=0), model)),
            "drop": lambda: self._ask_drop(model),
            "verify": lambda: self.verify(model),
            "remove": lambda: self._ask_remove(model),
            "forget": lambda: self._desk.forget(reference),
            "edit": lambda: self.edit_server(reference.removeprefix(wording.SERVER)),
        }
        actions[what]()

    def use(self, model: api.Model) -> None:
        """Show what using a model costs, and use it when the person says so."""
        dialog = UseDialog(self._theme, self._connection, model, self._desk.active, self)
        dialog.accepted.connect(self._desk.refresh)
        dialog.open()

    def verify(self, model: api.Model) -> None:
        """Compare a model's similarities with the published ones."""
        dialog = VerifyDialog(self._theme, self._connection, model, self)
        dialog.finished.connect(lambda _: self._desk.refresh())
        dialog.open()

    def _ask_drop(self, model: api.Model) -> None:
        text = self.tr("Drop the index of %1?").replace("%1", model.name)
        more = self.tr("Frees %1. Using the model again means building its index again.")
        ask(
            self, "dropQuestion", text, more.replace("%1", wording.room(model.vector_bytes)),
            self.tr("Drop"), self.tr("Keep"),
            lambda: self._send(api.CancelSwitch(id=0, reference=model.reference), model),
        )  # fmt: skip

    def _ask_remove(self, model: api.Model) -> None:
        if model.kind == "hub":
            text = self.tr("Remove %1 from this computer?").replace("%1", model.name)
            more = self.tr("Frees %1. It can be downloaded again.")
            more = more.replace("%1", wording.room(model.installed_bytes + model.vector_bytes))
        else:
            text = self.tr("Take %1 off the list?").replace("%1", model.name)
            more = self.tr("Its files are not touched.")
            if model.kind == "server":
                more = self.tr("Dragoman forgets the server's address and key.")
        ask(
            self, "removeModelQuestion", text, more, self.tr("Remove"), self.tr("Keep"),
            lambda: self._send(api.RemoveModel(id=0, reference=model.reference), model),
        )  # fmt: skip

    def _send(self, request: api.Request, model: api.Model) -> None:
        reference = model.reference
        self._desk.forget(reference)
        self._connection.request(
            request, lambda _: self._desk.refresh(), lambda reply: self._desk.fail(reference, reply)
        )

    # --- adding -----------------------------------------------------------------------------

    def add_from_hub(self) -> None:
        """Ask for a model's name on the Hub and download it."""
        dialog = HubDialog(self)
        dialog.chosen.connect(lambda reference: self._install(reference, "hub"))
        dialog.open()

    def add_folder(self) -> None:
        """Ask for a folder with a model in it."""
        self._choose_folder(self, lambda path: self._install(path, "folder"))

    def add_file(self) -> None:
        """Ask for a .gguf file."""
        self._choose_file(self, lambda path: self._install(path, "gguf"))

    def edit_server(self, name: str) -> None:
        """Ask what there is to know of a server; an empty name for a new one."""
        dialog = ServerDialog(self._theme, self._connection, name, self)
        dialog.saved.connect(self._desk.refresh)
        dialog.open()

    def _install(self, reference: str, kind: str) -> None:
        if not reference:
            return
        model = self._desk.find(reference)
        if model is not None and model.state != "available":
            self._reveal(reference)
            return
        self._desk.install(model or named(reference, wording.model_name(reference), kind))
        self._show()
        self._reveal(reference)

    def _reveal(self, reference: str) -> None:
        card = self.cards.get(reference)
        if card is not None:
            # Its place is known after the layout has run.
            QTimer.singleShot(0, card, lambda: self._scroll.ensureWidgetVisible(card))


def _facts(parts: Sequence[str]) -> str:
    """Facts in a row, which is broken between them only."""
    return "\u00a0 ·  ".join(part.replace(" ", "\u00a0") for part in parts if part)


def _line(*, muted: bool = False) -> QLabel:
    label = QLabel()
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    if muted:
        label.setProperty("muted", True)
    return label
