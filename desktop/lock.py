"""The passphrase of an encrypted library: asked for at the start; set, changed, taken off in the settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from PySide6.QtCore import QObject, Qt, Signal
from PySide6.QtGui import QAction, QPalette
from PySide6.QtWidgets import (
    QCheckBox,
    QFormLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from desktop.assets import icon
from desktop.connection import Connection
from desktop.theme import Theme
from desktop.widgets import GrowingDialog
from indexer import api

_SHORTEST = 8
_LONGEST = 1024
Change = Literal["on", "passphrase", "off"]


class PassphraseField(QLineEdit):
    """A passphrase, hidden until the person wants to see it."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setProperty("field", True)
        self.setMinimumHeight(32)
        self.setMaxLength(_LONGEST)
        self.setEchoMode(QLineEdit.EchoMode.Password)
        self.eye = QAction(icon("eye", QPalette.ColorRole.PlaceholderText), "", self)
        self.eye.setCheckable(True)
        self.eye.toggled.connect(self._reveal)
        self.addAction(self.eye, QLineEdit.ActionPosition.TrailingPosition)
        self._reveal(False)

    def _reveal(self, shown: bool) -> None:
        self.setEchoMode(QLineEdit.EchoMode.Normal if shown else QLineEdit.EchoMode.Password)
        self.eye.setText(self.tr("Hide the passphrase") if shown else self.tr("Show the passphrase"))


class _LockDialog(GrowingDialog):
    """What both dialogs have: a title, an error, the keyring's box, buttons, a bar while it works."""

    def __init__(self, theme: Theme, connection: Connection, parent: QWidget | None) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(480)
        self._connection = connection
        self.column = QVBoxLayout(self)
        self.column.setContentsMargins(20, 18, 20, 18)
        self.column.setSpacing(10)
        self.title = QLabel()
        self.title.setFont(theme.font(1.2, bold=True))
        self.title.setWordWrap(True)
        self.column.addWidget(self.title)
        self.explained = _text("", muted=True)
        self.column.addWidget(self.explained)
        self.form = QFormLayout()
        self.form.setHorizontalSpacing(14)
        self.form.setVerticalSpacing(8)
        self.form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.column.addLayout(self.form)
        self.remember = QCheckBox(self.tr("&Remember it in the system's keyring"))
        self.remember.setObjectName("rememberPassphrase")
        self.remember.hide()
        self.column.addWidget(self.remember)
        self.error = _text("", danger=True)
        self.error.setObjectName("lockError")
        self.error.hide()
        self.column.addWidget(self.error)
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.hide()
        self.column.addWidget(self.bar)
        self.column.addStretch(1)
        self._buttons = QHBoxLayout()
        self._buttons.addStretch(1)
        self.cancel = QPushButton()
        self.cancel.setAutoDefault(False)
        self.cancel.clicked.connect(self.reject)
        self.go = QPushButton()
        self.go.setProperty("primary", True)
        self.go.setDefault(True)
        self.go.clicked.connect(self._begin)
        self._buttons.addWidget(self.cancel)
        self._buttons.addWidget(self.go)
        self.column.addLayout(self._buttons)

    def _field(self, label: str, name: str) -> PassphraseField:
        field = PassphraseField(name)
        words = QLabel(label)
        words.setBuddy(field)
        field.setAccessibleName(label.replace("&", ""))
        self.form.addRow(words, field)
        field.textChanged.connect(self._typed)
        return field

    def _take_lock(self, lock: api.Reply) -> None:
        """Offer to remember the passphrase where the system has a keyring."""
        if not isinstance(lock, api.Lock):
            return
        self.remember.setVisible(bool(lock.keyring))
        self.remember.setToolTip(lock.keyring)
        self.remember.setChecked(lock.remembered and bool(lock.keyring))

    def fail(self, reply: api.Failed) -> None:
        """Say why it did not work; the person may try again."""
        self._work(False)
        wrong = reply.title == api.WRONG_PASSPHRASE
        self.error.setText(
            self.tr("The passphrase is wrong. Mind capital letters and the language of the keyboard.")
            if wrong
            else f"{reply.title}. {reply.message}"
        )
        self.error.show()

    def _work(self, working: bool) -> None:
        for widget in (self.go, self.remember, *self.findChildren(QLineEdit)):
            widget.setEnabled(not working)
        self.bar.setRange(0, 0)
        self.bar.setVisible(working)
        if working:
            self.error.hide()
        else:
            self._typed()

    def _typed(self) -> None:
        raise NotImplementedError

    def _begin(self) -> None:
        raise NotImplementedError


class UnlockDialog(_LockDialog):
    """Asks for the passphrase of a locked library."""

    opened = Signal()

    def __init__(self, theme: Theme, connection: Connection, parent: QWidget | None = None) -> None:
        super().__init__(theme, connection, parent)
        self.setObjectName("unlockDialog")
        self.setWindowTitle(self.tr("Unlock the library"))
        self.title.setText(self.tr("This library is locked"))
        self.explained.setText(self.tr("Enter its passphrase to search and to index."))
        self.field = self._field(self.tr("&Passphrase"), "passphrase")
        self.cancel.setText(self.tr("Not now"))
        self.go.setText(self.tr("Unlock"))
        self.go.setObjectName("unlock")
        self.field.setFocus()
        self._typed()
        self._connection.request(api.GetLock(id=0), self._take_lock, lambda _: None)

    def _typed(self) -> None:
        self.error.hide()
        self.go.setEnabled(bool(self.field.text()))

    def _begin(self) -> None:
        request = api.Unlock(
            id=0,
            passphrase=self.field.text(),
            remember=self.remember.isChecked() and not self.remember.isHidden(),
        )
        self._work(True)
        self._connection.request(request, self._done, self._failed)

    def _failed(self, reply: api.Failed) -> None:
        self.fail(reply)
        self.field.setFocus()
        self.field.selectAll()

    def _done(self, reply: api.Reply) -> None:
        self.field.clear()
        self.opened.emit()
        self.accept()


class ChangeLockDialog(_LockDialog):
    """Encrypts the library, changes its passphrase or decrypts it.

    Args:
        theme: Fonts.
        connection: The service.
        change: Which of these.
    """

    changed = Signal()

    def __init__(
        self,
        theme: Theme,
        connection: Connection,
        change: Change,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(theme, connection, parent)
        self.setObjectName("changeLockDialog")
        self._change = change
        texts = {
            "on": (
                self.tr("Encrypt the library"),
                self.tr(
                    "What Dragoman keeps of your files – their texts, names and vectors – is encrypted on "
                    "the disk. Your files themselves stay as they are. The library is written anew, which "
                    "takes a moment and as much room again meanwhile."
                ),
                self.tr("Encrypt"),
            ),
            "passphrase": (
                self.tr("Change the passphrase"),
                self.tr("The library is written anew under another key."),
                self.tr("Change"),
            ),
            "off": (
                self.tr("Decrypt the library"),
                self.tr("Everybody who can read the disk can read what is in the library then."),
                self.tr("Decrypt"),
            ),
        }
        name, explained, go = texts[change]
        self.setWindowTitle(name)
        self.title.setText(name)
        self.explained.setText(explained)
        self.present = self._field(self.tr("&Present passphrase"), "presentPassphrase")
        self.new = self._field(self.tr("&New passphrase"), "newPassphrase")
        self.again = self._field(self.tr("The same &again"), "samePassphrase")
        self.form.setRowVisible(self.present, change != "on")
        self.form.setRowVisible(self.new, change != "off")
        self.form.setRowVisible(self.again, change != "off")
        self.warning = _text(
            self.tr(
                "Without the passphrase nobody can open the library. There is no way back: if you forget it, "
                "the data folder has to be deleted and your folders indexed again."
            )
        )
        self.warning.setProperty("notice", True)
        self.warning.setVisible(change != "off")
        self.column.insertWidget(2, self.warning)
        if change != "off":
            self._connection.request(api.GetLock(id=0, keyring=True), self._take_lock, lambda _: None)
        self.cancel.setText(self.tr("Cancel"))
        self.go.setText(go)
        self.go.setObjectName("changeLock")
        (self.new if change == "on" else self.present).setFocus()
        self._typed()

    def _typed(self) -> None:
        self.error.hide()
        new, again = self.new.text(), self.again.text()
        problem = ""
        if self._change != "off":
            if 0 < len(new) < _SHORTEST:
                problem = self.tr("It needs %1 characters; several words are better still.").replace(
                    "%1", str(_SHORTEST)
                )
            elif again and not new.startswith(again):
                problem = self.tr("The two are not the same.")
        if problem:
            self.error.setText(problem)
            self.error.show()
        present = self._change == "on" or bool(self.present.text())
        self.go.setEnabled(
            present and not problem and (self._change == "off" or (bool(new) and new == again))
        )

    def _begin(self) -> None:
        request = api.SetLock(
            id=0,
            passphrase="" if self._change == "on" else self.present.text(),
            new=None if self._change == "off" else self.new.text(),
            remember=self.remember.isChecked() and not self.remember.isHidden(),
        )
        self._work(True)
        # It goes on when nobody waits for it.
        self.cancel.setText(self.tr("Close"))
        self._connection.request(request, self._done, self._failed)

    def _failed(self, reply: api.Failed) -> None:
        self.cancel.setText(self.tr("Cancel"))
        self.fail(reply)
        field = self.new if self._change == "on" else self.present
        field.setFocus()
        field.selectAll()

    def _done(self, reply: api.Reply) -> None:
        if isinstance(reply, api.Progress):
            self.bar.setRange(0, 1000)
            self.bar.setValue(round(1000 * reply.done / max(1, reply.total)))
            return
        for field in (self.present, self.new, self.again):
            field.clear()
        self.changed.emit()
        self.accept()


class LockSection(QWidget):
    """The lock in the settings: whether the library is encrypted, and what can be done about it."""

    def __init__(self, theme: Theme, connection: Connection, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._connection = connection
        self._lock: api.Lock | None = None
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(8)
        self.state = _text("")
        self.state.setObjectName("lockState")
        self.buttons = QWidget()
        row = QHBoxLayout(self.buttons)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        self.on = self._button(self.tr("Encrypt…"), "encrypt", lambda: self._ask("on"))
        self.passphrase = self._button(
            self.tr("Change the passphrase…"), "changePassphrase", lambda: self._ask("passphrase")
        )
        self.off = self._button(self.tr("Decrypt…"), "decrypt", lambda: self._ask("off"))
        self.close_now = self._button(self.tr("Lock now"), "lockNow", self._lock_now)
        self.close_now.setToolTip(self.tr("The passphrase is asked for at once."))
        for button in (self.on, self.passphrase, self.off, self.close_now):
            row.addWidget(button)
        row.addStretch(1)
        self.remember = QCheckBox(self.tr("Remember the passphrase in the system's &keyring"))
        self.remember.setObjectName("keyRemembered")
        self.remember.clicked.connect(self._set_remembered)
        for widget in (self.state, self.buttons, self.remember):
            column.addWidget(widget)
        self._show()

    def refresh(self) -> None:
        """Ask how it stands."""
        self._connection.request(api.GetLock(id=0), self._take, lambda _: None)

    def _button(self, text: str, name: str, act: Callable[[], None]) -> QPushButton:
        button = QPushButton(text)
        button.setObjectName(name)
        button.clicked.connect(act)
        return button

    def _take(self, reply: api.Reply) -> None:
        if isinstance(reply, api.Lock):
            self._lock = reply
            self._show()

    def _show(self) -> None:
        lock = self._lock
        state = lock.state if lock is not None else "off"
        texts = {
            "off": self.tr("The library is not encrypted."),
            "open": self.tr(
                "The library is encrypted. Its vectors are in memory only, and searches compare all of them "
                "instead of asking Chroma, which would write them to the disk as they are."
            ),
            "locked": self.tr("The library is encrypted and locked."),
            "changing": self.tr("The library is just being written anew."),
        }
        text = texts[state] if lock is not None else ""
        if lock is not None and not lock.possible:
            text = self.tr("This installation cannot encrypt: apsw-sqlite3mc is missing.")
        self.state.setText(text)
        self.on.setVisible(lock is not None and state == "off" and lock.possible)
        for widget in (self.passphrase, self.off):
            widget.setVisible(state == "open")
        # With the key in the keyring it would open again by itself.
        self.close_now.setVisible(state == "open" and lock is not None and not lock.remembered)
        self.remember.setVisible(
            state == "open" and lock is not None and bool(lock.keyring or lock.remembered)
        )
        self.remember.setChecked(lock is not None and lock.remembered)

    def _ask(self, change: Change) -> None:
        if self._lock is None:
            return
        dialog = ChangeLockDialog(self._theme, self._connection, change, self.window())
        dialog.finished.connect(lambda _: self.refresh())
        dialog.open()

    def _lock_now(self) -> None:
        self._connection.request(api.Stop(id=0), lambda _: None, lambda _: None)

    def _set_remembered(self, wanted: bool) -> None:
        self._connection.request(
            api.Remember(id=0, remember=wanted), lambda _: self.refresh(), self._not_remembered
        )

    def _not_remembered(self, reply: api.Failed) -> None:
        self.refresh()
        self.state.setText(f"{reply.title}. {reply.message}")


class LockKeeper(QObject):
    """Asks for the passphrase when the library is locked, once until the person wants it again.

    Args:
        theme: Fonts.
        connection: The service.
        parent: The window.
    """

    locked = Signal()
    opened = Signal()

    def __init__(self, theme: Theme, connection: Connection, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme
        self._connection = connection
        self._window = parent
        self._state: api.LockState = "off"
        self._dialog: UnlockDialog | None = None

    @property
    def is_locked(self) -> bool:
        """Whether the library can be used only after the passphrase is given."""
        return self._state == "locked"

    def take_status(self, status: api.Status) -> None:
        """Follow what the service says."""
        before, self._state = self._state, status.lock
        if status.lock == "locked" and before != "locked":
            self.locked.emit()
            self.ask()
        elif before in ("locked", "changing") and status.lock in ("open", "off"):
            self._end()
            self.opened.emit()

    def ask(self) -> None:
        """Ask for the passphrase."""
        if self._dialog is None and self.is_locked:
            self._dialog = UnlockDialog(self._theme, self._connection, self._window)
            self._dialog.finished.connect(self._gone)
            self._dialog.open()

    def _end(self) -> None:
        if self._dialog is not None:
            self._dialog.accept()

    def _gone(self) -> None:
        self._dialog = None


def _text(text: str, *, muted: bool = False, danger: bool = False) -> QLabel:
    label = QLabel(text)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setProperty("muted", muted)
    label.setProperty("danger", danger)
    return label
