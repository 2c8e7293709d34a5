"""The window's new search against a fake service: weak hits, folded files, reasons, similar, completions."""

from __future__ import annotations

import threading

import msgspec
import pytest
from PySide6.QtCore import QLocale, QMimeData, QPointF, Qt
from PySide6.QtGui import QDragEnterEvent, QDropEvent, QGuiApplication
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLabel, QMenu

from desktop import wording
from desktop.app import install_translators
from desktop.query_line import WhyPopup, filter_help, wants_completions
from desktop.results import snippet
from desktop.window import MainWindow
from indexer import api
from indexer.query import parse
from tests.fakes import hit
from tests.integration.test_desktop_window import Desk, desk, paths, three  # noqa: F401

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
    assert values == [
        "80 of 100", "+0.5 (unrelated texts are at about 0)", "+0.1  ·  boat", "English", "0.910",
    ]  # fmt: skip
    assert "boat" in popup.accessibleDescription()
    popup.close()


def test_a_click_on_the_similarity_of_a_row_tells_why(desk: Desk) -> None:  # noqa: F811
    found = hit("/lib/a.txt", "Near.", "Also near.")
    desk.service.search = lambda _: [[found, *weak(1)]]
    window = desk.open()
    window._ask_question("near")
    desk.until(lambda: len(paths(window)) == 2)
    view = window.results
    index = view.results.index(1)
    row = view.results.row(index)
    assert row is not None
    assert row.opens_weak
    box = view._delegate.why_box(row, view.visualRect(index))
    QTest.mouseClick(view.viewport(), Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier, box.center())
    popup = window.findChild(WhyPopup)
    assert popup is not None
    assert view.currentIndex().row() == 1
    assert "nothing to do with" in popup.findChildren(QLabel, "whyValue")[0].text()
    room = popup.screen().availableGeometry()
    assert room.contains(popup.geometry())
    popup.close()


def test_files_that_only_fulfil_filters_show_no_similarity(desk: Desk) -> None:  # noqa: F811
    found = hit("/lib/a.txt", "Near.", similarity=1.0)
    passage = msgspec.structs.replace(found.passages[0], why=api.Why(cosine=0.0, meaning=0.0))
    desk.service.search = lambda _: [[msgspec.structs.replace(found, passages=(passage,))]]
    window = desk.open()
    window._ask_question("ext:txt")
    desk.until(lambda: len(paths(window)) == 1)
    index = window.results.results.index(0)
    said = window.results.results.data(index, Qt.ItemDataRole.AccessibleTextRole)
    assert "100" not in str(said)
    QTest.keyClick(window.field, Qt.Key.Key_I, Qt.KeyboardModifier.ControlModifier)
    popup = window.findChild(WhyPopup)
    assert popup is not None
    assert "fulfils" in popup.findChildren(QLabel, "whyValue")[0].text()
    popup.close()


def reordered(desk: Desk) -> list[api.Hit]:  # noqa: F811
    """A service whose last answer is the reranker's, in the opposite order."""
    found = [hit(f"/lib/{i}.txt", f"Text {i}.", "More.", similarity=0.9 - i / 100) for i in range(30)]
    desk.service.search = lambda _: [found, found, found[::-1]]
    desk.service.reranked = True
    desk.service.hold_final.clear()
    return found


def test_a_reranked_answer_keeps_what_is_selected_and_where_the_list_is(desk: Desk) -> None:  # noqa: F811
    found = reordered(desk)
    window = desk.open()
    window._ask_question("text")
    desk.until(lambda: len(paths(window)) == 30)
    desk.service.hold_final.set()
    desk.until(lambda: window._final)
    assert paths(window) == [h.path for h in found[::-1]]
    row = window.current_row()
    assert row is not None
    assert row.hit.path == "/lib/0.txt"
    assert window.results.verticalScrollBar().value() == 0
    assert not window.better_button.isVisible()


def test_a_reranked_answer_waits_while_somebody_walks_through_the_list(desk: Desk) -> None:  # noqa: F811
    found = reordered(desk)
    window = desk.open()
    window._ask_question("text")
    desk.until(lambda: len(paths(window)) == 30)
    QTest.keyClick(window.field, Qt.Key.Key_PageDown)
    QTest.keyClick(window.field, Qt.Key.Key_Right)
    before, offset = window.current_row(), window.results.verticalScrollBar().value()
    desk.service.hold_final.set()
    desk.until(window.better_button.isVisible)
    assert paths(window) == [h.path for h in found]
    assert window.current_row() == before
    assert window.results.verticalScrollBar().value() == offset
    QTest.keyClick(window.field, Qt.Key.Key_R, Qt.KeyboardModifier.ControlModifier)
    assert paths(window) == [h.path for h in found[::-1]]
    row = window.current_row()
    assert row is not None
    assert row.hit.path == "/lib/29.txt"
    assert not window.better_button.isVisible()
    # A new question takes away an order that nobody took.
    desk.service.hold_final.clear()
    window._ask_question("another")
    desk.until(lambda: window._shown == "another")
    QTest.keyClick(window.field, Qt.Key.Key_Down)
    desk.service.hold_final.set()
    desk.until(window.better_button.isVisible)
    desk.service.search = lambda _: [[found[3]]]
    window._ask_question("third")
    desk.until(lambda: paths(window) == ["/lib/3.txt"])
    assert not window.better_button.isVisible()


def worded(desk: Desk) -> tuple[api.Hit, api.Hit]:  # noqa: F811
    """A service whose model is not ready: first what the words find, then by meaning, then marked."""
    why = api.Why(cosine=0.0, meaning=0.0, words=1.2, terms=("pump",))
    by_words = hit("/lib/words.txt", "The pump.")
    passage = msgspec.structs.replace(by_words.passages[0], similarity=0.0, why=why)
    by_words = msgspec.structs.replace(by_words, similarity=0.0, passages=(passage,))
    by_meaning = hit("/lib/meaning.txt", "It moves water.")
    others = three(marks=False)
    desk.service.search = lambda _: [[by_words, *others], [by_meaning, *others], [by_meaning, *others]]
    desk.service.words_first = True
    desk.service.hold_final.clear()
    return by_words, by_meaning


def test_what_the_words_find_is_shown_until_the_meaning_is_compared(desk: Desk) -> None:  # noqa: F811
    worded(desk)
    window = desk.open()
    window._ask_question("pump")
    desk.until(lambda: len(paths(window)) == 4)
    assert paths(window)[0] == "/lib/words.txt"
    assert "by meaning soon" in window.summary.text()
    index = window.results.results.index(0)
    assert "0" not in str(window.results.results.data(index, Qt.ItemDataRole.AccessibleTextRole))
    QTest.keyClick(window.field, Qt.Key.Key_I, Qt.KeyboardModifier.ControlModifier)
    popup = window.findChild(WhyPopup)
    assert popup is not None
    assert [label.text() for label in popup.findChildren(QLabel, "whyValue")] == [
        "pump",
        "Not compared: the language model is not ready.",
    ]
    popup.close()
    desk.service.hold_final.set()
    desk.until(lambda: window._final)
    assert paths(window)[0] == "/lib/meaning.txt"
    assert "meaning" not in window.summary.text()
    row = window.current_row()
    assert row is not None
    assert row.hit.path == "/lib/meaning.txt"
    assert not window.better_button.isVisible()


def test_the_meaning_waits_while_somebody_walks_through_what_the_words_found(
    desk: Desk,  # noqa: F811
) -> None:
    by_words, by_meaning = worded(desk)
    window = desk.open()
    window._ask_question("pump")
    desk.until(lambda: len(paths(window)) == 4)
    QTest.keyClick(window.field, Qt.Key.Key_Down)
    before = window.current_row()
    desk.service.hold_final.set()
    desk.until(lambda: window._final)
    assert window.better_button.isVisible()
    assert "meaning" in window.better_button.toolTip()
    assert paths(window)[0] == by_words.path
    assert window.current_row() == before
    QTest.keyClick(window.field, Qt.Key.Key_R, Qt.KeyboardModifier.ControlModifier)
    assert paths(window)[0] == by_meaning.path
    assert not window.better_button.isVisible()


def test_files_that_come_in_do_not_bring_back_what_only_the_words_found(desk: Desk) -> None:  # noqa: F811
    _, by_meaning = worded(desk)
    desk.service.hold_final.set()
    window = desk.open()
    window._ask_question("pump")
    desk.until(lambda: window._final)
    desk.service.hold_final.clear()
    taken: list[api.Reply] = []
    take = window._take_result

    def spied(reply: api.Reply) -> None:
        take(reply)
        taken.append(reply)

    window._take_result = spied  # type: ignore[method-assign]
    window._search_again()
    desk.until(lambda: bool(taken))
    assert paths(window)[0] == by_meaning.path
    assert "meaning" not in window.summary.text()


def test_without_a_model_the_answer_says_that_only_words_were_compared(desk: Desk) -> None:  # noqa: F811
    worded(desk)
    desk.service.search = lambda _: [three(marks=False)]
    message = "only words were compared, because there is no language model. It is gone: Look."
    desk.service.query_problems = (api.QueryProblem(start=0, end=0, message=message),)
    window = desk.open()
    window._ask_question("pump")
    desk.until(lambda: window._final)
    assert "by their words only" in window.summary.text()
    assert window.misunderstood.text() == "Only words were compared, since the language model cannot be used"
    assert len(paths(window)) == 3


def test_files_that_come_in_do_not_bring_back_the_order_before(desk: Desk) -> None:  # noqa: F811
    found = reordered(desk)
    desk.service.hold_final.set()
    window = desk.open()
    window._ask_question("text")
    desk.until(lambda: window._final)
    orders: list[list[str]] = []
    window.results.results.modelReset.connect(lambda: orders.append(paths(window)))
    window._freshen.setInterval(10)
    desk.service.push(files=3000)
    desk.until(lambda: len(desk.service.asked(api.Search)) == 2)
    desk.until(lambda: window._final)
    assert paths(window) == [h.path for h in found[::-1]]
    assert orders == []


def test_the_services_order_stays_and_the_line_is_above_the_weak_ones_at_the_end(
    desk: Desk,  # noqa: F811
) -> None:
    one, two = weak(2)
    desk.service.search = lambda _: [[hit("/lib/a.txt", "A."), one, hit("/lib/b.txt", "B."), two]]
    window = desk.open()
    window._ask_question("near")
    desk.until(lambda: len(paths(window)) == 4)
    assert paths(window) == ["/lib/a.txt", "/lib/w0.txt", "/lib/b.txt", "/lib/w1.txt"]
    model = window.results.results
    rows = [model.row(model.index(i)) for i in range(4)]
    assert [row is not None and row.opens_weak for row in rows] == [False, False, False, True]


def test_the_arrow_down_on_the_last_strong_row_shows_the_weak_ones(desk: Desk) -> None:  # noqa: F811
    desk.service.search = lambda _: [[hit("/lib/a.txt", "Near."), *weak(5)]]
    window = desk.open()
    window._ask_question("near")
    desk.until(window.weak_button.isVisible)
    desk.until(lambda: "weaker" in window.summary.text())
    QTest.keyClick(window.field, Qt.Key.Key_Down)
    assert window.results.results.rowCount() == 6
    row = window.current_row()
    assert row is not None
    assert row.hit.path == "/lib/w0.txt"


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


def chosen(window: MainWindow, text: str) -> None:
    """Choose an entry of the menu of the selected hit."""
    window._menu()
    menu = window.findChild(QMenu, "hitMenu")
    assert menu is not None
    action = next(action for action in menu.actions() if action.text().startswith(text))
    menu.close()
    action.trigger()


def test_the_menu_of_a_hit_finds_similar_and_tells_why(desk: Desk) -> None:  # noqa: F811
    found = hit("/lib/a.txt", "Near.", "A passage of its own.")
    desk.service.search = lambda m: [[hit("/lib/like.txt", "Near.") if m.like else found]]
    window = desk.open()
    window._ask_question("near")
    desk.until(lambda: paths(window) == ["/lib/a.txt"])
    QTest.keyClick(window.field, Qt.Key.Key_Right)
    QTest.keyClick(window.field, Qt.Key.Key_Down)
    chosen(window, "Why this was found")
    popup = window.findChild(WhyPopup)
    assert popup is not None
    popup.close()
    chosen(window, "Find similar passages")
    desk.until(lambda: paths(window) == ["/lib/like.txt"])
    assert desk.service.asked(api.Search)[-1].like == api.Like(chunk=found.passages[1].chunk)
    assert window.chip.text() == "Similar to: “A passage of its own.”"
    chosen(window, "Find similar files")
    desk.until(lambda: desk.service.asked(api.Search)[-1].like == api.Like(path="/lib/like.txt"))
    # The back button of the mouse, above the list, goes back one by one.
    back, plain = Qt.MouseButton.BackButton, Qt.KeyboardModifier.NoModifier
    QTest.mouseClick(window.results.viewport(), back, plain)
    desk.until(lambda: desk.service.asked(api.Search)[-1].like == api.Like(chunk=found.passages[1].chunk))
    QTest.mouseClick(window.preview.text_view.viewport(), back, plain)
    desk.until(lambda: paths(window) == ["/lib/a.txt"])
    assert window.field.text() == "near"
    assert not window.chip.isVisible()
    QTest.mouseClick(window, back, plain)  # nothing is before that
    assert window.field.text() == "near"


def test_a_long_paste_becomes_a_chip_that_escape_takes_away(desk: Desk) -> None:  # noqa: F811
    desk.service.search = lambda _: [[hit("/lib/a.txt", "Near.")]]
    window = desk.open()
    text = "two words\nand more " * 40
    QGuiApplication.clipboard().setText(text)
    QTest.keyClick(window.field, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    desk.until(lambda: paths(window) == ["/lib/a.txt"])
    assert desk.service.asked(api.Search)[-1].like == api.Like(text=text.strip())
    assert window.chip.text() == "Similar to: pasted text (160 word(s))"
    QTest.keyClick(window.field, Qt.Key.Key_Escape)
    assert not window.chip.isVisible()
    assert window.pages.currentWidget() is window.home


def test_a_long_text_from_menu_selection_or_drop_is_caught_and_the_words_stay(
    desk: Desk,  # noqa: F811
) -> None:
    desk.service.search = lambda _: [[hit("/lib/a.txt", "Near.")]]
    window = desk.open()
    text = "如果显示屏上出现故障，请先检查水压。" * 500  # more than the field holds
    QGuiApplication.clipboard().setText(text)
    QTest.keyClicks(window.field, "lang:zh ")
    menu = window.field.createStandardContextMenu()
    paste = next(action for action in menu.actions() if action.objectName() == "edit-paste")
    paste.trigger()
    desk.until(lambda: paths(window) == ["/lib/a.txt"])
    asked = desk.service.asked(api.Search)[-1]
    assert (asked.query, asked.like) == ("lang:zh", api.Like(text=text))
    assert window.field.text() == "lang:zh "
    assert window.chip.text() == "Similar to: pasted text (9,000 character(s))"
    dropped = "An earlier letter.\nIt was about the boat."
    mime = QMimeData()
    mime.setText(dropped)
    left, plain = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    where, copy = window.field.rect().center(), Qt.DropAction.CopyAction
    QApplication.sendEvent(window.field, QDragEnterEvent(where, copy, mime, left, plain))
    QApplication.sendEvent(window.field, QDropEvent(QPointF(where), copy, mime, left, plain))
    desk.until(lambda: desk.service.asked(api.Search)[-1].like == api.Like(text=dropped))
    assert window.field.text() == "lang:zh "
    QTest.keyClicks(window.field, "x")
    QGuiApplication.clipboard().setText("one line\n")
    QTest.keyClick(window.field, Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    assert "one line" in window.field.text()  # a short one is typed


def test_a_pasted_book_fits_into_a_request(desk: Desk) -> None:  # noqa: F811
    window = desk.open()
    window.field.pasted.emit("😀\u0001" * 400_000)
    desk.until(lambda: len(desk.service.asked(api.Search)) == 1)
    asked = desk.service.asked(api.Search)[0]
    assert len(api.encode(asked)) < api.MAX_REQUEST_BYTES
    assert asked.like is not None
    assert len(asked.like.text) > 80_000
    assert desk.connection.is_ready


def test_a_request_that_is_too_long_is_refused_here(desk: Desk) -> None:  # noqa: F811
    window = desk.open()
    window.add_folder("/" + "x" * api.MAX_REQUEST_BYTES)
    desk.until(window.banner.isVisible)
    assert "too long" in window.banner.title.text()
    assert desk.service.asked(api.AddFolder) == []
    assert desk.connection.is_ready


def test_what_was_not_understood_is_said_and_underlined(desk: Desk) -> None:  # noqa: F811
    desk.service.search = lambda _: [[hit("/lib/a.txt", "Near.")]]
    desk.service.query_problems = (api.QueryProblem(start=5, end=12, message='there is no language "xx"'),)
    window = desk.open()
    window._ask_question("  boat lang:xx")
    desk.until(window.misunderstood.isVisible)
    assert window.misunderstood.text() == "“lang:xx” is no language"
    window.field.setCursorPosition(0)
    image = window.field.grab().toImage()

    def reds() -> list[int]:
        danger = desk.theme.color("danger")
        ratio = image.devicePixelRatio()
        return [
            round(x / ratio)
            for x in range(image.width())
            for y in range(image.height())
            if abs(image.pixelColor(x, y).hue() - danger.hue()) < 12
            and image.pixelColor(x, y).saturation() > 120
        ]

    width = window.field.fontMetrics().horizontalAdvance
    seen = reds()
    assert abs(max(seen) - min(seen) - width("lang:xx")) < 8
    window.field.setCursorPosition(4)
    origin = window.field.cursorRect().center().x() - width("  bo")
    assert abs(min(seen) - origin - width("  boat ")) < 6
    desk.service.query_problems = ()
    QTest.keyClick(window.field, Qt.Key.Key_End)
    QTest.keyClick(window.field, Qt.Key.Key_Backspace)
    image = window.field.grab().toImage()
    assert reds() == []


def test_completions_are_chosen_with_the_keys(desk: Desk) -> None:  # noqa: F811
    items = (
        api.Completion(insert="de", label="de Deutsch", detail="1,204 passages"),
        api.Completion(insert="zh", label="zh 中文", detail="1 passage"),
    )
    desk.service.complete = lambda m: api.Completions(id=m.id, start=10, end=m.cursor, items=items)
    window = desk.open()
    QTest.keyClicks(window.field, "boat ")
    assert desk.service.asked(api.Complete) == []
    QTest.keyClicks(window.field, "lang:")
    desk.until(window.completions.isVisible)
    window.grab()
    said = [
        window.completions.item(i).data(Qt.ItemDataRole.AccessibleTextRole)
        for i in range(window.completions.count())
    ]
    assert said == ["de Deutsch, 1,204 passage(s)", "zh 中文, 1 passage(s)"]
    QTest.keyClick(window.field, Qt.Key.Key_Up)
    QTest.keyClick(window.field, Qt.Key.Key_Up)
    QTest.keyClick(window.field, Qt.Key.Key_Down)
    QTest.keyClick(window.field, Qt.Key.Key_Return)
    assert window.field.text() == "boat lang:zh"
    desk.until(window.completions.isVisible)
    QTest.keyClick(window.field, Qt.Key.Key_Backspace)
    QTest.keyClick(window.field, Qt.Key.Key_Backspace)
    desk.until(lambda: desk.service.asked(api.Complete)[-1].query == "boat lang:")
    desk.until(lambda: window._complete_id == 0 and window.completions.isVisible())
    QTest.keyClick(window.field, Qt.Key.Key_Tab)
    assert window.field.text() == "boat lang:de"


def test_a_word_that_looks_like_a_filter_is_searched_with_enter(desk: Desk) -> None:  # noqa: F811
    item = api.Completion(insert="before:", label="before:")
    desk.service.complete = lambda m: api.Completions(id=m.id, start=8, end=m.cursor, items=(item,))
    desk.service.search = lambda _: [three(marks=False)]
    window = desk.open()
    QTest.keyClicks(window.field, "the day before")
    desk.until(window.completions.isVisible)
    desk.until(lambda: len(paths(window)) == 3)
    QTest.keyClick(window.field, Qt.Key.Key_Down)
    row = window.current_row()
    assert row is not None
    assert row.hit.path == "/lib/b.md"
    assert not window.completions.isVisible()
    QTest.keyClick(window.field, Qt.Key.Key_Return)
    assert desk.actions.done == [("open", "/lib/b.md")]
    assert window.field.text() == "the day before"
    QTest.keyClicks(window.field, ":")
    desk.until(window.completions.isVisible)
    window.results.setFocus()
    assert not window.completions.isVisible()


def test_what_is_still_being_written_is_no_mistake_yet(desk: Desk) -> None:  # noqa: F811
    found = api.QueryProblem(start=5, end=10, message="lang: what? For example lang:en")
    desk.service.search = lambda _: [[hit("/lib/a.txt", "Near.")]]
    desk.service.query_problems = (found,)
    item = api.Completion(insert="de", label="de")
    desk.service.complete = lambda m: api.Completions(id=m.id, start=10, end=m.cursor, items=(item,))
    window = desk.open()
    QTest.keyClicks(window.field, "boat lang:")
    desk.until(lambda: window._final and window._shown == "boat lang:" and window.completions.isVisible())
    assert not window.misunderstood.isVisible()
    QTest.keyClick(window.field, Qt.Key.Key_Escape)
    assert window.misunderstood.text() == "A value is missing after “lang:”"
    assert window.misunderstood.isVisible()


def test_completions_that_come_late_are_dropped_and_escape_closes_them(desk: Desk) -> None:  # noqa: F811
    late = threading.Event()

    def answer(message: api.Complete) -> api.Completions:
        if message.query == "lang:":
            late.wait(10)
        item = api.Completion(insert=message.query, label=message.query)
        return api.Completions(id=message.id, start=0, end=message.cursor, items=(item,))

    desk.service.complete = answer
    window = desk.open()
    offered: list[str] = []
    window.completions.model().rowsInserted.connect(
        lambda *_: offered.append(window.completions.item(0).text())
    )
    QTest.keyClicks(window.field, "lang")
    desk.until(lambda: offered[-1:] == ["lang"])
    QTest.keyClicks(window.field, ":")
    desk.until(lambda: any(m.query == "lang:" for m in desk.service.asked(api.Complete)))
    before = len(offered)
    QTest.keyClicks(window.field, "de")
    QTest.keyClick(window.field, Qt.Key.Key_Tab)  # too early for it to be clear what is taken
    assert window.field.text() == "lang:de"
    assert window.field.hasFocus()
    late.set()
    desk.until(lambda: offered[-1:] == ["lang:de"])
    assert "lang:" not in offered[before:]
    assert window.completions.isVisible()
    QTest.keyClick(window.field, Qt.Key.Key_Escape)
    assert not window.completions.isVisible()
    assert window.field.text() == "lang:de"


def test_a_filter_from_the_menu_is_written_into_the_query(desk: Desk) -> None:  # noqa: F811
    window = desk.open()

    def choose(insert: str) -> None:
        action = next(a for a in window.filters.actions() if a.data() == insert)
        action.trigger()

    QTest.keyClicks(window.field, "boat")
    choose("ext:pdf")
    QTest.keyClicks(window.field, "red")
    assert window.field.text() == "boat ext:pdf red"
    window.field.setCursorPosition(0)
    choose('""')
    QTest.keyClicks(window.field, "old")
    assert window.field.text() == '"old" boat ext:pdf red'
    window.field.clear()
    choose("lang:")
    assert window.field.text() == "lang:"
    desk.until(lambda: [m.query for m in desk.service.asked(api.Complete)][-1:] == ["lang:"])
    QTest.keyClick(window.field, Qt.Key.Key_F, Qt.KeyboardModifier.AltModifier)
    desk.until(window.filters.isVisible)
    edge = window.filters_button.mapToGlobal(window.filters_button.rect().bottomRight())
    assert window.filters.geometry().right() <= edge.x() + 1
    window.filters.close()
    next(a for a in window.filters.actions() if a.objectName() == "howToAsk").trigger()
    assert window._help is not None
    assert window._help.tabs.currentIndex() == 1


def test_every_filter_of_the_menu_and_of_the_help_is_understood(desk: Desk) -> None:  # noqa: F811
    window = desk.open()
    complete = [a.data() for a in window.filters.actions() if a.data()]
    for insert in complete:
        if not insert.endswith((":", "-")) and insert not in ('""', "OR"):
            query = parse(f"boat {insert}")
            assert not query.problems
            assert query.where is not None
    for example, _ in filter_help():
        assert not parse(f"boat {example}").problems


def test_the_reranker_is_chosen_in_the_settings(desk: Desk) -> None:  # noqa: F811
    window = desk.open()
    window.show_library(2)
    assert window._library is not None
    pane = window._library.settings
    desk.until(lambda: pane._stored is not None)
    pane.rerank.setChecked(True)
    assert "Choose the folder" in pane.note.text()
    pane.browse.click()
    assert pane.reranker.text() == desk.chosen
    assert pane.note.text() == ""
    pane.save.click()
    desk.until(lambda: pane.note.text() == "Saved.")
    assert desk.service.settings.rerank
    assert desk.service.settings.reranker == desk.chosen


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("lang:xx", "“xx” 不是语言"),
        ("type:blob", "“blob” 不是文件类型"),
        ("size:big", "“big” 不是大小；请试 >1mb、<100k 或 1mb..5mb"),
        ("after:soon", "“soon” 不是日期；请试 2025-06-30、2025-06、2025、yesterday 或 7d"),
        ("lang:", "“lang:”后面缺少值"),
    ],
)
def test_what_the_service_did_not_understand_is_told_in_chinese(
    qapp: QApplication, query: str, said: str
) -> None:
    translators = install_translators(qapp, "zh_CN")
    try:
        problems = parse(query).problems
        assert [wording.query_problem(p, query) for p in problems] == [said]
    finally:
        for translator in translators:
            qapp.removeTranslator(translator)
        QLocale.setDefault(QLocale("en_US"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ex", True),
        ("boat lang:z", True),
        ("-ext：p", True),
        ('in:"My Doc', True),
        ('in:"My Documents" boat', False),
        ("(type:", True),
        ("boat has", True),
        ("HAS:x", True),
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
