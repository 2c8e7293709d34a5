"""The switch for the speed of indexing, and what the window says when it is slowed."""

from __future__ import annotations

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from indexer.settings import Settings
from tests.fakes import status
from tests.integration.test_desktop_window import Desk, desk  # noqa: F401

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints", r"support raise\(\)")


def test_speed_and_unloading_are_chosen_with_the_keyboard(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.settings = Settings(speed="full", unload_minutes=0.1)
    window = desk.open()
    window.show_library(2)
    assert window._library is not None
    pane = window._library.settings
    desk.until(lambda: pane.speeds["full"].isChecked())
    # A fraction of a minute is neither never nor changed by being shown.
    assert pane.unload.value() == 1
    assert not pane.save.isEnabled()
    before = pane.speed_hint.text()
    pane.speeds["full"].setFocus()
    QTest.keyClick(pane.speeds["full"], Qt.Key.Key_Left)
    assert pane.speeds["balanced"].isChecked()
    QTest.keyClick(pane.speeds["balanced"], Qt.Key.Key_Left)
    assert pane.speeds["gentle"].isChecked()
    assert pane.speed_hint.text() != before
    pane.save.click()
    desk.until(lambda: pane.note.text() == "Saved.")
    assert service.settings == Settings(speed="gentle", unload_minutes=0.1)
    pane.unload.setValue(0)
    assert pane.unload.text() == "Never"
    pane.engine.setCurrentIndex(pane.engine.findData("torch"))
    pane.save.click()
    desk.until(lambda: service.settings.unload_minutes == 0)
    assert service.settings == Settings(speed="gentle", unload_minutes=0, engine="torch")


@pytest.mark.parametrize(
    ("slowed", "said"),
    [("battery", "slower on battery"), ("active", "slower while the computer is in use"), ("", "")],
)
def test_the_strip_says_what_slows_indexing(desk: Desk, slowed: str, said: str) -> None:  # noqa: F811
    window = desk.open()
    now = status(state="indexing", waiting=9, done=1, files_per_s=3.0, remaining_s=9.0, slowed=slowed)
    text = window.strip.describe(now)
    assert text.startswith("Indexing 2 of 10 – 3 files/s")
    assert text.endswith(said or "left")


def test_the_strip_says_that_there_is_no_room(desk: Desk) -> None:  # noqa: F811
    window = desk.open()
    now = status(state="indexing", waiting=9, done=1, files_per_s=3.0, remaining_s=9.0, slowed="disk")
    assert window.strip.describe(now) == "Indexing 2 of 10 – waits for room on the disk"
    # What a newer service may say is no reason to fail.
    assert window.strip.describe(msgspec.structs.replace(now, slowed="moon")).endswith("left")


def test_the_speed_is_seen_and_changed_while_it_works(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.settings = Settings(speed="gentle", index_hidden=True)
    window = desk.open()
    strip = window.strip
    assert not strip.speed.isVisible()
    service.push(state="indexing", waiting=9, done=1, speed="gentle")
    desk.until(strip.speed.isVisible)
    assert strip.speed.text() == "Gentle"
    assert [c.data() for c in strip.speed.menu().actions() if c.isChecked()] == ["gentle"]
    full = next(c for c in strip.speed.menu().actions() if c.data() == "full")
    full.trigger()
    desk.until(lambda: service.settings.speed == "full")
    assert service.settings == Settings(speed="full", index_hidden=True)
    service.push(state="watching", speed="full")
    desk.until(lambda: not strip.speed.isVisible())
