"""The window of an encrypted library: asking for the passphrase, and encryption in the settings."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QLineEdit, QPushButton, QWidget

from desktop.lock import ChangeLockDialog, LockSection, UnlockDialog
from indexer import api
from tests.integration.test_desktop_window import Desk, desk  # noqa: F401

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints", r"support raise\(\)")


def shown(parent: QWidget, kind: type[QWidget]) -> QWidget | None:
    """The dialog of a kind that is open."""
    return next((dialog for dialog in parent.findChildren(kind) if dialog.isVisible()), None)


def test_a_locked_library_asks_for_its_passphrase(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.passphrase = "eight or more"
    service.set_lock("locked")
    window = desk.open()
    desk.until(lambda: shown(window, UnlockDialog) is not None)
    dialog = shown(window, UnlockDialog)
    assert isinstance(dialog, UnlockDialog)
    desk.until(dialog.remember.isVisible)
    assert not dialog.go.isEnabled()
    assert dialog.field.echoMode() == QLineEdit.EchoMode.Password
    dialog.field.eye.trigger()
    assert dialog.field.echoMode() == QLineEdit.EchoMode.Normal
    QTest.keyClicks(dialog.field, "something else")
    QTest.keyClick(dialog.field, Qt.Key.Key_Return)
    desk.until(dialog.error.isVisible)
    assert "wrong" in dialog.error.text()
    assert dialog.field.selectedText() == "something else"  # typed over at once
    QTest.keyClicks(dialog.field, "eight or more")
    assert not dialog.error.isVisible()
    dialog.remember.setChecked(True)
    QTest.keyClick(dialog.field, Qt.Key.Key_Return)
    desk.until(lambda: shown(window, UnlockDialog) is None)
    assert service.lock == api.Lock(id=0, state="open", keyring="Secret Service", remembered=True)
    desk.until(lambda: not window.banner.isVisible())


def test_who_says_not_now_can_unlock_later(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.passphrase = "eight or more"
    window = desk.open()
    window.field.setText("secret question")
    service.set_lock("locked")
    desk.until(lambda: shown(window, UnlockDialog) is not None)
    assert window.field.text() == ""  # what was found and asked is not left in sight
    dialog = shown(window, UnlockDialog)
    assert dialog is not None
    QTest.keyClick(dialog, Qt.Key.Key_Escape)
    desk.until(lambda: shown(window, UnlockDialog) is None)
    assert window.strip.text.text() == "Locked"
    service.push(files=0)  # the next status does not ask again
    desk.until(lambda: window._status is not None and window._status.files == 0)
    assert shown(window, UnlockDialog) is None
    window.banner.button.click()
    desk.until(lambda: shown(window, UnlockDialog) is not None)
    service.set_lock("open")  # somebody else unlocks it
    desk.until(lambda: shown(window, UnlockDialog) is None)


def test_encrypting_changing_and_decrypting_in_the_settings(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    window = desk.open()
    window.show_library(2)
    assert window._library is not None
    section = window._library.settings.lock
    desk.until(lambda: not section.on.isHidden())
    dialog = begin(desk, section, "encrypt")
    assert dialog.present.isHidden()
    desk.until(dialog.remember.isVisible)
    # Nobody looks for a keyring before somebody wants to encrypt something.
    assert [asked.keyring for asked in service.asked(api.GetLock)] == [False, True]
    QTest.keyClicks(dialog.new, "short")
    assert "8 characters" in dialog.error.text()
    dialog.new.setText("long enough")
    dialog.again.setText("long enuff")
    assert "not the same" in dialog.error.text()
    assert not dialog.go.isEnabled()
    dialog.again.setText("long enough")
    assert dialog.go.isEnabled()
    dialog.go.click()
    desk.until(lambda: service.lock.state == "open")
    desk.until(lambda: not section.off.isHidden())
    assert section.on.isHidden()
    assert service.passphrase == "long enough"

    dialog = begin(desk, section, "changePassphrase")
    dialog.present.setText("not this one")
    dialog.new.setText("another one")
    dialog.again.setText("another one")
    dialog.go.click()
    desk.until(lambda: "wrong" in dialog.error.text())
    dialog.present.setText("long enough")
    dialog.go.click()
    desk.until(lambda: service.passphrase == "another one")

    section.remember.click()
    desk.until(lambda: service.lock.remembered)

    dialog = begin(desk, section, "decrypt")
    assert dialog.new.isHidden()
    assert dialog.remember.isHidden()
    dialog.present.setText("another one")
    dialog.go.click()
    desk.until(lambda: service.lock.state == "off")
    desk.until(lambda: not section.on.isHidden())


def begin(desk: Desk, section: LockSection, button: str) -> ChangeLockDialog:  # noqa: F811
    """The dialog behind a button of the settings, when those before are gone."""
    window = section.window()
    desk.until(lambda: shown(window, ChangeLockDialog) is None)
    found = section.findChild(QPushButton, button)
    assert isinstance(found, QPushButton)
    desk.until(lambda: not found.isHidden())
    found.click()
    dialog = shown(window, ChangeLockDialog)
    assert isinstance(dialog, ChangeLockDialog)
    return dialog


def test_where_nothing_can_encrypt_the_settings_say_so(desk: Desk) -> None:  # noqa: F811
    desk.service.lock = api.Lock(id=0, state="off", possible=False)
    window = desk.open()
    window.show_library(2)
    assert window._library is not None
    section = window._library.settings.lock
    desk.until(lambda: "cannot encrypt" in section.state.text())
    assert section.on.isHidden()
