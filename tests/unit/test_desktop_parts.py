from __future__ import annotations

import ast
import itertools
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import QLocale, QTranslator
from PySide6.QtGui import QColor, QTextCursor, QTextTable
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from desktop import wording
from desktop.highlight import Window, around, code_spans
from desktop.results import snippet
from desktop.theme import DARK, LIGHT, Colors, Theme
from desktop.views import TextView, find_rendered
from indexer import api

DESKTOP = Path(__file__).resolve().parents[2] / "desktop"


def passage(text: str, mark: tuple[int, int] | None = None) -> api.Passage:
    return api.Passage(
        chunk=1,
        text=text,
        start=0,
        locator=api.Locator(),
        lang="en",
        why=api.Why(cosine=0.9, meaning=0.9),
        similarity=0.9,
        mark=mark,
    )


def test_importing_the_window_pulls_in_nothing_heavy() -> None:
    code = (
        "import sys, desktop.app\n"
        "heavy = {'torch', 'chromadb', 'pymupdf', 'fitz', 'transformers', 'lxml', 'pygments', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=DESKTOP.parent
    )
    assert done.stdout.strip() == "[]"


def test_snippet_folds_white_space_and_moves_the_mark() -> None:
    text = "  One two.\n\n   Three   four five.  "
    start = text.index("Three")
    shown, mark, _ = snippet(passage(text, (start, text.index("five") + 5)), "text")
    assert shown == "One two. Three four five."
    assert mark is not None
    assert shown[mark[0] : mark[1]] == "Three four five."


def test_snippet_is_cut_so_that_a_late_mark_is_in_view() -> None:
    text = "Much that is beside the point. " * 30 + "Here it is! And more."
    start = text.index("Here")
    shown, mark, _ = snippet(passage(text, (start, start + 11)), "text")
    assert shown.startswith("… ")
    assert mark is not None
    assert shown[mark[0] : mark[1]] == "Here it is!"
    assert mark[0] < 60


def test_snippet_of_code_keeps_lines_and_drops_the_common_indentation() -> None:
    shown, mark, _ = snippet(passage("    if x:\n\n        go()\n", (14, 24)), "code")
    assert shown == "if x:\u2028    go()"
    assert mark is not None
    assert shown[mark[0] : mark[1]].strip() == "go()"


def test_snippet_of_markdown_leaves_out_the_signs() -> None:
    text = "## Tips\n\n- First thing\n- **Second** - or third\n"
    start = text.index("First")
    shown, mark, _ = snippet(passage(text, (start, start + 11)), "markdown")
    assert shown == "Tips First thing Second or third"
    assert mark is not None
    assert shown[mark[0] : mark[1]] == "First thing"


def test_snippet_marks_nothing_before_the_first_word_of_the_mark() -> None:
    text = "| copy | where |\n| -- | -- |\n| second | hall |\n"
    start = text.index("| --")
    shown, mark, _ = snippet(passage(text, (start, len(text))), "markdown")
    assert shown == "copy where second hall"
    assert mark is not None
    assert shown[mark[0] : mark[1]] == "second hall"


def _text_view(qtbot: QtBot, qapp: QApplication, markdown: str, marked: str) -> TextView:
    view = TextView(Theme(qapp, "light"))
    qtbot.addWidget(view)
    view.resize(500, 400)
    start = markdown.index(marked)
    view.show_text(Window(markdown, start, start + len(marked), 1), None, markdown=True)
    with qtbot.waitExposed(view):
        view.show()
    return view


def test_the_bullets_of_a_marked_list_are_drawn(qtbot: QtBot, qapp: QApplication) -> None:
    view = _text_view(qtbot, qapp, "Before.\n\n- first item\n- second item\n", "- first item\n- second item")
    image = view.viewport().grab().toImage()
    for text in ("first", "second"):
        place = view.cursorRect(view.document().find(text))
        item = view.cursorRect(QTextCursor(view.document().findBlock(view.document().find(text).position())))
        left = [
            image.pixelColor(x, y).lightness()
            for x in range(item.left() - 12, item.left() - 2)
            for y in range(place.top(), place.bottom())
        ]
        assert min(left) < 100


def test_empty_lines_of_a_passage_are_not_coloured(qtbot: QtBot, qapp: QApplication) -> None:
    view = TextView(Theme(qapp, "light"))
    qtbot.addWidget(view)
    view.show_text(Window("Above.\n\nOne 😀.\n\n\nTwo.\n\nBelow.", 8, 21, 1), (8, 14), markdown=False)
    assert [s.cursor.selectedText() for s in view.extraSelections()] == ["One 😀.", "Two.", "One 😀."]


def test_a_table_after_code_has_an_even_head(qtbot: QtBot, qapp: QApplication) -> None:
    view = _text_view(qtbot, qapp, "```\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", "x = 1")
    table = next(f for f in view.document().rootFrame().childFrames() if isinstance(f, QTextTable))
    cells = [[table.cellAt(row, column) for column in (0, 1)] for row in (0, 1)]
    for cell in itertools.chain(*cells):
        assert cell.firstCursorPosition().block() == cell.lastCursorPosition().block()
    weights = [[cell.lastCursorPosition().charFormat().fontWeight() for cell in row] for row in cells]
    assert weights[0][0] == weights[0][1] > weights[1][0] == weights[1][1]


def test_an_answer_that_takes_long_is_told_in_seconds() -> None:
    assert wording.took(38.4) == "38 ms"
    assert wording.took(2345) == "2.3 s"


@given(st.text(), st.integers(0, 50), st.integers(0, 50), st.sampled_from(["text", "code", "markdown"]))
def test_snippet_never_leaves_its_text(text: str, a: int, b: int, media: str) -> None:
    mark = (min(a, len(text)), min(a + b, len(text)))
    shown, moved, _ = snippet(passage(text, mark), media)
    assert "\n" not in shown
    assert moved is None or 0 <= moved[0] < moved[1] <= len(shown)


@given(st.text(max_size=300), st.integers(0, 400), st.integers(0, 400), st.integers(1, 80))
def test_around_keeps_the_start_of_the_passage(text: str, a: int, b: int, limit: int) -> None:
    start, end = sorted((min(a, len(text)), min(b, len(text))))
    window = around(text, start, end, 7, limit)
    assert 0 <= window.start <= window.end <= len(window.text)
    assert text[start:end].startswith(window.text[window.start : window.end])
    before = text.index(window.text) if not window.text else len(text[:start]) - window.start
    assert window.first_line == 7 + text.count("\n", 0, before) or not window.text


def test_utf16_counts_as_qt_does() -> None:
    assert wording.utf16("a😀b", 2) == 3
    assert wording.utf16("a\ud800b", 3) == 3


def test_code_spans_count_utf16_and_lines() -> None:
    spans = code_spans("x = '😀'\n\n# done\n", "python")
    assert (4, 4, "string") in merged(spans[0])
    assert spans[2] == [(0, 6, "comment")]
    assert code_spans("x", "no-such-language") == {}


def merged(spans: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """Neighbouring spans of one kind as one."""
    out: list[tuple[int, int, str]] = []
    for start, length, kind in spans:
        if out and out[-1][2] == kind and out[-1][0] + out[-1][1] == start:
            out[-1] = (out[-1][0], out[-1][1] + length, kind)
        else:
            out.append((start, length, kind))
    return out


def test_a_passage_of_markdown_is_found_where_it_was_rendered() -> None:
    source = "# Title\n\nSame line.\n\n- **bold** and [a link](http://x.y/z) 😀 end\n\nSame line.\n"
    shown = "Title\nSame line.\nbold and a link 😀 end\nSame line."
    item = source.index("- **bold")
    found = find_rendered(source, (item, source.index("\n", item)), shown)
    start = shown.index("bold")
    assert found == (start, wording.utf16(shown, shown.index("end") + 3))
    last = find_rendered(source, (source.rindex("Same"), len(source)), shown)
    assert last == (wording.utf16(shown, shown.rindex("Same")), wording.utf16(shown, len(shown) - 1))
    assert find_rendered(source, (0, 0), shown) is None
    assert find_rendered("nothing", (0, 7), "else") is None


def test_a_numbered_list_is_found_where_it_was_rendered() -> None:
    source = "Before.\n\n1. Empty the 2 tanks.\n2. Press both keys.\n\nAfter.\n"
    shown = "Before.\nEmpty the 2 tanks.\nPress both keys.\nAfter."
    whole = find_rendered(source, (source.index("1."), source.index("\n\nAfter")), shown)
    assert whole is not None
    assert shown[whole[0] : whole[1]] == "Empty the 2 tanks.\nPress both keys"
    mark = find_rendered(source, (source.index("2. Press"), source.index("\n\nAfter")), shown)
    assert mark is not None
    assert shown[mark[0] : mark[1]] == "Press both keys"


def test_paths_below_home_are_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/mia")
    assert wording.tilde("/home/mia/a/b") == "~/a/b"
    assert wording.tilde("/home/miami/a") == "/home/miami/a"
    assert wording.tilde("/home/mia") == "~"
    assert wording.folder_of("/home/mia/a.txt") == "~"


def test_places_say_what_the_locator_knows() -> None:
    assert wording.place(api.Locator(page=3, heading=("A", "B", "C"))) == "page 3 · B › C"
    assert wording.place(api.Locator(line_start=4, line_end=4, symbol="f")) == "line 4 · f"
    assert wording.place(api.Locator(line_start=4, line_end=9)) == "lines 4–9"
    assert wording.place(api.Locator(chapter=2)) == "chapter 2"
    assert wording.place(api.Locator()) == ""


def luminance(color: str) -> float:
    c = QColor(color)
    channels = (c.redF(), c.greenF(), c.blueF())
    parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in channels]
    luminous: float = 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
    return luminous


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read_on_every_ground_it_is_put_on(colors: Colors) -> None:
    c = colors
    grounds = (c.window, c.surface, c.raised, c.selection, c.hover)
    pairs = [(ink, ground) for ink in (c.text, c.muted) for ground in grounds]
    pairs += [(c.accent_text, ground) for ground in (c.window, c.surface, c.selection, c.hover)]
    pairs += [
        (c.on_accent, c.accent),
        (c.mark_text, c.mark),
        (c.text, c.mark),
        (c.text, c.passage),
        (c.muted, c.passage),
        (c.text, c.chip),
        (c.muted if not c.dark else c.text, c.chip),
        (c.warning_text, c.warning_surface),
    ]
    pairs += [(ink, ground) for _, ink in c.code for ground in (c.surface, c.passage)]
    weak = {p: round(contrast(*p), 2) for p in pairs if contrast(*p) < 4.5}
    assert not weak
    # The edges of fields and the focus ring need 3:1.
    assert contrast(c.control, c.surface) >= 3
    assert contrast(c.accent, c.window) >= 3


def sources(file: Path) -> dict[tuple[str, str], list[str]]:
    found = {}
    for context in ET.parse(file).getroot().iter("context"):
        for message in context.iter("message"):
            translation = message.find("translation")
            assert translation is not None
            forms = [f.text or "" for f in translation.findall("numerusform")] or [translation.text or ""]
            key = (context.findtext("name", ""), message.findtext("source", ""))
            found[key] = [] if translation.get("type") == "unfinished" else forms
    return found


def test_every_string_of_the_window_is_translated(tmp_path: Path) -> None:
    lupdate = Path(sys.executable).with_name("pyside6-lupdate")
    fresh = tmp_path / "fresh_zh_CN.ts"
    files = [str(p) for p in sorted(DESKTOP.glob("*.py"))]
    subprocess.run([str(lupdate), "-silent", *files, "-ts", str(fresh)], check=True, capture_output=True)
    chinese = sources(DESKTOP / "i18n" / "dragoman_zh_CN.ts")
    assert set(sources(fresh)) == set(chinese)
    assert [key for key, forms in chinese.items() if not forms or not all(forms)] == []
    for (_, source), forms in chinese.items():
        for placeholder in ("%1", "%2", "%n"):
            assert all((placeholder in source) == (placeholder in form) for form in forms), source


def test_lupdate_saw_every_string() -> None:
    """It passes over calls whose arguments it cannot follow, without a word."""
    written = {source for _, source in sources(DESKTOP / "i18n" / "dragoman_zh_CN.ts")}
    asked = set()
    for file in DESKTOP.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            at = {"tr": 0, "translate": 1, "QT_TRANSLATE_NOOP": 1}.get(name)
            if at is not None and len(node.args) > at and isinstance(node.args[at], ast.Constant):
                asked.add(ast.literal_eval(node.args[at]))
    assert len(asked) > 300
    assert asked - written == set()


def test_the_compiled_translations_are_those_of_the_sources() -> None:
    translator = QTranslator()
    assert translator.load(str(DESKTOP / "i18n" / "dragoman_zh_CN.qm"))
    for (context, source), forms in sources(DESKTOP / "i18n" / "dragoman_zh_CN.ts").items():
        n = 2 if "%n" in source else -1
        assert translator.translate(context, source, "", n) == forms[0], source
    english = QTranslator()
    assert english.load(str(DESKTOP / "i18n" / "dragoman_en.qm"))
    assert english.translate("Wording", "%n file(s)", "", 1) == "%n file"
    assert english.translate("Wording", "%n file(s)", "", 2) == "%n files"


def test_sizes_and_numbers_follow_the_language() -> None:
    before = QLocale()
    try:
        QLocale.setDefault(QLocale("de_DE"))
        assert wording.number(18211) == "18.211"
        QLocale.setDefault(QLocale("en_US"))
        assert wording.number(18211) == "18,211"
        assert wording.size(0).split()[0] == "0"
    finally:
        QLocale.setDefault(before)
