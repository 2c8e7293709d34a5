"""The check of the library in the window: what it shows, mending, cancelling."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QLabel

from desktop.check import CheckDialog
from indexer import api
from tests.integration.test_desktop_window import Desk, child, desk  # noqa: F401

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints", r"support raise\(\)")

DAMAGED = api.Difference(
    part="vectors", what="damaged vectors", count=1200, advice="They are embedded again."
)
STALE = api.Difference(part="index", what="vectors of texts that are gone", count=4, harmless=True)


def opened(desk: Desk) -> CheckDialog:  # noqa: F811
    window = desk.open()
    window.show_library(0)
    assert window._library is not None
    window._library.check.click()
    return child(window._library, CheckDialog, "checkDialog")


def test_all_agrees(desk: Desk) -> None:  # noqa: F811
    desk.service.checked = [api.Checked(id=0, differences=(STALE,), files=1736, texts=20411)]
    dialog = opened(desk)
    desk.until(lambda: dialog.title.text() == "Everything agrees")
    assert "1,736" in dialog.explained.text()
    assert "20,411" in dialog.explained.text()
    assert dialog.found.text() == "•  Harmless: 4 vectors of texts that are gone"
    assert not dialog.go.isVisible()
    assert not dialog.bar.isVisible()
    QTest.keyClick(dialog, Qt.Key.Key_Escape)
    desk.until(lambda: not desk.windows[0].findChildren(CheckDialog))
    assert desk.service.asked(api.Cancel) == []


def test_what_differs_is_mended_when_that_is_wanted(desk: Desk) -> None:  # noqa: F811
    mended = api.Difference(part="vectors", what="damaged vectors", count=1200, mended=1200)
    desk.service.checked = [
        api.Checked(id=0, differences=(DAMAGED,), files=2, texts=9),
        api.Checked(id=0, differences=(mended,), files=2, texts=9, embedded=1200),
    ]
    dialog = opened(desk)
    desk.until(lambda: dialog.title.text() == "Some parts of the library differ")
    assert dialog.found.text() == "•  1,200 damaged vectors\n    They are embedded again."
    assert dialog.go.hasFocus()
    QTest.keyClick(dialog.go, Qt.Key.Key_Space)
    desk.until(lambda: dialog.title.text() == "The library is mended")
    assert [request.repair for request in desk.service.asked(api.Check)] == [False, True]
    assert not dialog.go.isVisible()


def test_closing_stops_it(desk: Desk) -> None:  # noqa: F811
    dialog = opened(desk)
    desk.until(lambda: dialog.bar.value() == 333)
    asked = desk.service.asked(api.Check)
    dialog.dismiss.click()
    desk.until(lambda: bool(desk.service.asked(api.Cancel)))
    assert [cancel.target for cancel in desk.service.asked(api.Cancel)] == [asked[0].id]


def test_a_check_that_fails_says_why(desk: Desk) -> None:  # noqa: F811
    desk.service.fail[api.Check] = ("The library is being checked", "Wait until that is done.")
    dialog = opened(desk)
    desk.until(lambda: dialog.title.text() == "The library is being checked")
    assert child(dialog, QLabel, "checkText").text() == "Wait until that is done."
    assert dialog.dismiss.text() == "Close"


def test_a_damaged_catalog_is_left_to_the_command(desk: Desk) -> None:  # noqa: F811
    desk.service.checked = [api.Checked(id=0, differences=(DAMAGED,), files=2, texts=9, salvage=True)]
    dialog = opened(desk)
    desk.until(lambda: "dragoman check --repair" in dialog.explained.text())
    assert not dialog.go.isVisible()
