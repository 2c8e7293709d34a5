"""The window's new search against a fake service: weak hits, folded files, reasons, similar, completions."""

from __future__ import annotations

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QLabel

from desktop.query_line import WhyPopup, wants_completions
from desktop.results import snippet
from indexer import api
from tests.fakes import hit
from tests.integration.test_desktop_window import Desk, desk, paths  # noqa: F401

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints", r"support raise\(\)", "grabbing the keyboard")


def weak(n: int) -> list[api.Hit]:
    return [msgspec.structs.replace(hit(f"/lib/w{i}.txt", "Far."), weak=True) for i in range(n)]


def test_many_weak_hits_wait_behind_a_button(desk: Desk) -> None:  # noqa: F811
    desk.service.search = lambda _: [[hit("/lib/a.txt", "Near."), *weak(5)]]
    window = desk.open()
    window._ask_question("near")
    desk.until(window.weak_button.isVisible)
    assert window.results.results.rowCount() == 1
    assert "5" in window.weak_button.text()
    assert not window.nothing.isVisible()
    window.weak_button.click()
    assert window.results.results.rowCount() == 6
    row = window.results.results.row(window.results.results.index(1))
    assert row is not None
    assert row.opens_weak
    assert not window.weak_button.isVisible()
    window.grab()


def test_only_weak_hits_are_shown_with_an_honest_head(desk: Desk) -> None:  # noqa: F811
    desk.service.search = lambda _: [weak(5)]
    window = desk.open()
    window._ask_question("zzz")
    desk.until(window.nothing.isVisible)
    assert window.results.results.rowCount() == 5


def test_files_that_say_the_same_are_folded_and_open_like_hits(desk: Desk) -> None:  # noqa: F811
    one = hit("/lib/a.txt", "Near.")
    other = hit("/lib/a.zh.txt", "近。", lang="zh")
    variant = api.Variant(
        kind="translation", path=other.path, root="/lib", media="text", title="a", lang="zh",
        similarity=0.7, passages=other.passages,
    )  # fmt: skip
    desk.service.search = lambda _: [[msgspec.structs.replace(one, variants=(variant,))]]
    window = desk.open()
    window._ask_question("near")
    desk.until(lambda: paths(window) == ["/lib/a.txt"])
    QTest.keyClick(window.field, Qt.Key.Key_Right)
    QTest.keyClick(window.field, Qt.Key.Key_Down)
    row = window.current_row()
    assert row is not None
    assert (row.hit.path, row.kind) == ("/lib/a.zh.txt", "translation")
    window.grab()
    QTest.keyClick(window.field, Qt.Key.Key_Return)
    assert desk.actions.done == [("open", "/lib/a.zh.txt")]
    QTest.keyClick(window.field, Qt.Key.Key_Left)
    assert window.results.results.rowCount() == 1


def test_reasons_are_told_in_words(desk: Desk) -> None:  # noqa: F811
    found = hit("/lib/a.txt", "Near the boat.")
    why = api.Why(cosine=0.91, meaning=0.5, words=0.1, terms=("boat",))
    passage = msgspec.structs.replace(found.passages[0], why=why)
    desk.service.search = lambda _: [[msgspec.structs.replace(found, passages=(passage,))]]
    window = desk.open()
    window._ask_question("boat")
    desk.until(lambda: len(paths(window)) == 1)
    QTest.keyClick(window.field, Qt.Key.Key_I, Qt.KeyboardModifier.ControlModifier)
    popup = window.findChild(WhyPopup)
    assert popup is not None
    values = [label.text() for label in popup.findChildren(QLabel, "whyValue")]
    assert "boat" in values
    assert "cosine 0.910" in values
    popup.close()


def test_similar_files_and_back(desk: Desk) -> None:  # noqa: F811
    desk.service.search = lambda m: [[hit("/lib/like.txt" if m.like else "/lib/a.txt", "Near.")]]
    window = desk.open()
    window._ask_question("near")
    desk.until(lambda: paths(window) == ["/lib/a.txt"])
    QTest.keyClick(window.field, Qt.Key.Key_M, Qt.KeyboardModifier.ControlModifier)
    desk.until(lambda: paths(window) == ["/lib/like.txt"])
    assert desk.service.asked(api.Search)[-1].like == api.Like(path="/lib/a.txt")
    assert window.chip.text() == "Similar to: a.txt"
    QTest.keyClicks(window.field, "lang:zh")
    desk.until(lambda: desk.service.asked(api.Search)[-1].query == "lang:zh")
    assert desk.service.asked(api.Search)[-1].like == api.Like(path="/lib/a.txt")
    QTest.keyClick(window.field, Qt.Key.Key_Left, Qt.KeyboardModifier.AltModifier)
    desk.until(lambda: paths(window) == ["/lib/a.txt"])
    assert window.field.text() == "near"
    assert not window.chip.isVisible()


def test_a_long_paste_becomes_a_chip_that_escape_takes_away(desk: Desk) -> None:  # noqa: F811
    desk.service.search = lambda _: [[hit("/lib/a.txt", "Near.")]]
    window = desk.open()
    QGuiApplication.clipboard().setText("two words\nand more " * 40)
    QTest.keyClick(window.field, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    desk.until(lambda: paths(window) == ["/lib/a.txt"])
    like = desk.service.asked(api.Search)[-1].like
    assert like is not None
    assert like.text.startswith("two words")
    assert "160" in window.chip.text()
    QTest.keyClick(window.field, Qt.Key.Key_Escape)
    assert not window.chip.isVisible()
    assert window.pages.currentWidget() is window.home


def test_what_was_not_understood_is_said_below_the_field(desk: Desk) -> None:  # noqa: F811
    desk.service.search = lambda _: [[hit("/lib/a.txt", "Near.")]]
    desk.service.query_problems = (api.QueryProblem(start=0, end=7, message='there is no language "xx"'),)
    window = desk.open()
    window._ask_question("lang:xx boat")
    desk.until(window.misunderstood.isVisible)
    assert window.misunderstood.text() == 'there is no language "xx"'


def test_completions_are_chosen_with_the_keys(desk: Desk) -> None:  # noqa: F811
    items = (
        api.Completion(insert="lang:de ", label="lang:de"),
        api.Completion(insert="lang:zh ", label="lang:zh"),
    )
    desk.service.complete = lambda m: api.Completions(id=m.id, start=5, end=m.cursor, items=items)
    window = desk.open()
    QTest.keyClicks(window.field, "boat ")
    assert desk.service.asked(api.Complete) == []
    QTest.keyClicks(window.field, "lang:")
    desk.until(window.completions.isVisible)
    QTest.keyClick(window.field, Qt.Key.Key_Down)
    QTest.keyClick(window.field, Qt.Key.Key_Tab)
    assert window.field.text() == "boat lang:zh "
    assert not window.completions.isVisible()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ex", True),
        ("boat lang:z", True),
        ("-ext：p", True),
        ("boat", False),
        ("12:30", False),
        ("http://x", False),
    ],
)
def test_only_filters_are_completed(text: str, wanted: bool) -> None:
    assert wants_completions(text, len(text)) is wanted


def test_words_keep_their_place_in_a_snippet() -> None:
    found = hit("/lib/a.md", "See **the boat** and [a link](x).", media="markdown").passages[0]
    at = found.text.index("boat")
    shown = snippet(msgspec.structs.replace(found, words=((at, at + 4),)), "markdown")
    assert shown.text == "See the boat and a link."
    assert [shown.text[a:b] for a, b in shown.words] == ["boat"]
