"""The real window with the real service, model and index: everything the search line can do, once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QLocale, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLabel
from pytestqt.qtbot import QtBot

from desktop.app import build_window
from desktop.query_line import WhyPopup
from desktop.results import Row
from desktop.window import MainWindow
from indexer import api
from indexer.client import IndexerClient
from tests.integration.test_rerank import _build

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints", r"support raise\(\)", "grabbing the keyboard")

SAMPLE = Path(__file__).resolve().parents[2] / "assets" / "sample-library"
SHOWN = (
    "notes/backup-plan.md", "notes/租房合同.txt", "notes/bonsai.md", "recipes/番茄牛腩.md",
    "code/photo_sort.py", "travel/sentier-cotier.md", "notes/running.md", "work/outage-review.md",
)  # fmt: skip
PUMP = """# Looking after the heat pump

The outdoor unit needs a clear space of one metre on every side. Never pile snow against it.

Clean the **filter** of the indoor unit every three months with lukewarm water and let it dry.

If the display shows `F4`, the pressure of the heating water is below one bar.
"""
PUMPE = """# Pflege der Wärmepumpe

Das Außengerät braucht auf jeder Seite einen Meter freien Raum. Häufen Sie nie Schnee dagegen.

Reinigen Sie den Filter des Innengeräts alle drei Monate mit lauwarmem Wasser, lassen Sie ihn trocknen.
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data folder of a small library that is read."""
    base = tmp_path_factory.mktemp("window")
    files = base / "files"
    (files / "house").mkdir(parents=True)
    for name in SHOWN:
        (files / name).parent.mkdir(exist_ok=True)
        shutil.copy(SAMPLE / name, files / name)
    for name, text in (("pump.md", PUMP), ("pump (copy).md", PUMP), ("pumpe.md", PUMPE)):
        (files / "house" / name).write_text(text, encoding="utf-8")
    folder = base / "data"
    with IndexerClient(folder) as client:
        client.add_folder(files)
    with IndexerClient(folder) as client:
        for status in client.watch():
            if status.state == "watching" and status.files == len(SHOWN) + 3:
                break
    yield folder
    with IndexerClient(folder, start=False) as client:
        client.stop()


class Person:
    """Somebody in front of the window."""

    def __init__(self, bot: QtBot, window: MainWindow) -> None:
        self.bot, self.window = bot, window

    def until(self, condition: Callable[[], bool]) -> None:
        self.bot.waitUntil(condition, timeout=20_000)

    def answered(self) -> None:
        window = self.window
        self.until(lambda: window._wanted() == window._shown and window._final)

    def ask(self, text: str) -> list[str]:
        self.window.field.clear()
        QTest.keyClicks(self.window.field, text)
        self.answered()
        return self.names()

    def names(self) -> list[str]:
        return [Path(hit.path).name for hit in self.window.results.results.hits]

    def press(self, key: Qt.Key, modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
        QTest.keyClick(self.window.field, key, modifier)

    def row(self) -> Row:
        row = self.window.current_row()
        assert row is not None
        return row


@pytest.fixture
def person(qtbot: QtBot, qapp: QApplication, data: Path) -> Iterator[Person]:
    before = QLocale()
    QLocale.setDefault(QLocale("en_US"))
    window = build_window(qapp, data, "light")
    qtbot.addWidget(window)
    window.resize(1100, 700)
    window.show()
    someone = Person(qtbot, window)
    someone.until(lambda: window._connection.is_ready and window._folders is not None)
    yield someone
    window.close()
    QLocale.setDefault(before)


def test_hits_with_their_words_sentences_copies_and_reasons(person: Person) -> None:
    window = person.window
    names = person.ask("how to clean the filter of the heat pump")
    assert names[0] in ("pump.md", "pump (copy).md")
    assert {"pump.md", "pump (copy).md"} & set(names[1:]) == set()  # folded
    folded = {Path(variant.path).name: variant.kind for variant in person.row().hit.variants}
    assert folded["pumpe.md"] == "translation"  # the German text, by its meaning
    best = person.row().passage
    assert best.mark is not None
    assert best.text[slice(*best.mark)].startswith("Clean the **filter**")
    assert "filter" in [best.text[a:b] for a, b in best.words]
    assert window.weak_button.isVisible()
    window.grab()
    person.press(Qt.Key.Key_Right)
    person.press(Qt.Key.Key_Down)
    assert (person.row().kind, person.row().parent != person.row().hit.path) == ("copy", True)
    person.press(Qt.Key.Key_Up)
    person.press(Qt.Key.Key_I, Qt.KeyboardModifier.ControlModifier)
    popup = window.findChild(WhyPopup)
    assert popup is not None
    values = [label.text() for label in popup.findChildren(QLabel, "whyValue")]
    assert values[0] == f"{round(person.row().hit.similarity * 100)} of 100"
    assert any("filter" in value for value in values)
    popup.close()


def test_nonsense_is_told_so_and_filters_alone_list_files(person: Person) -> None:
    window = person.window
    person.ask("zxqv blorf wug")
    assert window.nothing.isVisible()
    assert all(hit.weak for hit in window.results.results.hits)
    assert person.ask("type:code") == ["photo_sort.py"]
    assert not window.nothing.isVisible()
    assert "ext" not in window.misunderstood.text()
    window.grab()


def test_filters_are_completed_counted_and_corrected(person: Person) -> None:
    window = person.window
    person.window.field.clear()
    QTest.keyClicks(window.field, "house lang:")
    person.until(window.completions.isVisible)
    role = Qt.ItemDataRole.AccessibleTextRole
    said = [window.completions.item(i).data(role) for i in range(window.completions.count())]
    chinese = next(text for text in said if text.startswith("zh"))
    assert chinese.split(", ")[1].split()[0].isdigit()
    QTest.keyClicks(window.field, "z")
    person.until(lambda: window.completions.count() == 1 and window._complete_id == 0)
    person.press(Qt.Key.Key_Tab)
    assert window.field.text() == "house lang:zh"
    person.answered()
    assert {hit.passages[0].lang for hit in window.results.results.hits} == {"zh"}
    person.ask("heat pump lang:xx")
    assert window.misunderstood.text() == "“xx” is no language"
    assert window.field._spans == ((15, 17),)


def test_similar_to_a_file_a_passage_and_a_pasted_text(person: Person) -> None:
    window = person.window
    person.ask("filter of the heat pump")
    first = person.row().hit.path
    person.press(Qt.Key.Key_M, Qt.KeyboardModifier.ControlModifier)
    person.answered()
    assert person.names()[0] == "pumpe.md"
    assert {"pump.md", "pump (copy).md"} & set(person.names()) == set()  # neither itself nor its copy
    keys = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    person.press(Qt.Key.Key_M, keys)
    person.answered()
    assert person.names()[0] in ("pump.md", "pump (copy).md")
    person.press(Qt.Key.Key_Left, Qt.KeyboardModifier.AltModifier)
    person.press(Qt.Key.Key_Left, Qt.KeyboardModifier.AltModifier)
    person.answered()
    assert window.field.text() == "filter of the heat pump"
    assert person.row().hit.path == first
    window.field.clear()
    # Longer than the field; in another language than the file it is about.
    QGuiApplication.clipboard().setText("热泵的滤网每三个月要用温水清洗。室外机旁边不要堆雪。" * 160)
    person.press(Qt.Key.Key_V, Qt.KeyboardModifier.ControlModifier)
    person.answered()
    assert "4,160" in window.chip.text()
    assert {"pumpe.md", "pump.md", "pump (copy).md"} & set(person.names()[:2])
    QTest.keyClicks(window.field, "lang:de")
    person.answered()
    assert person.names() == ["pumpe.md"]
    for _ in range(3):  # the completions, the words, the text
        person.press(Qt.Key.Key_Escape)
    assert not window.chip.isVisible()
    assert window.pages.currentWidget() is window.home


def test_a_reranker_chosen_in_the_settings_orders_the_list(person: Person, tmp_path: Path) -> None:
    window = person.window
    model = _build("bert", tmp_path / "bert")  # of random weights: only that it is asked can be seen
    window.show_library(2)
    assert window._library is not None
    pane = window._library.settings
    person.until(lambda: pane._stored is not None)
    stored = pane._stored
    assert stored is not None
    pane.device.setCurrentIndex(pane.device.findData("cpu"))
    pane.rerank.setChecked(True)
    pane.reranker.setText(str(model))
    pane.save.click()
    person.until(lambda: pane.note.text() == "Saved.")
    window._library.close()
    window.activateWindow()
    person.until(window.isActiveWindow)
    try:
        person.ask("filter of the heat pump")
        assert window._reranked
        hits = window.results.results.hits
        judged = [hit.passages[0].why.reranked for hit in hits]
        assert None not in judged
        assert judged == sorted(judged, key=lambda score: -(score or 0))
        person.press(Qt.Key.Key_I, Qt.KeyboardModifier.ControlModifier)
        popup = window.findChild(WhyPopup)
        assert popup is not None
        assert "Reranker" in popup.accessibleDescription()
        popup.close()
    finally:
        saved: list[api.Reply] = []
        window._connection.request(api.PutSettings(id=0, settings=stored), saved.append)
        person.until(lambda: bool(saved))
