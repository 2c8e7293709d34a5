"""Models in the window: against a fake service each way to use them, and once with the real service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import shiboken6
from PySide6.QtCore import QLocale, Qt
from PySide6.QtGui import QAction
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QApplication,
    QCheckBox,
    QComboBox,
    QDialog,
    QLabel,
    QLineEdit,
    QMessageBox,
    QPushButton,
    QWidget,
)
from pytestqt.qtbot import QtBot

from desktop import settings_pane, wording
from desktop.app import build_window, install_translators
from desktop.model_dialogs import PairsTable, ServerDialog, UseDialog, is_exposed
from desktop.models import ModelCard, ModelsDialog
from desktop.query_line import WhyPopup
from desktop.window import MainWindow
from indexer import api
from indexer.client import IndexerClient
from indexer.embed.catalogue import KNOWN
from indexer.embed.sentence import _INSTRUCTIONS
from indexer.embed.verify import NOTE
from indexer.settings import ChromaServer, EmbeddingServer, Instructions, Settings
from tests import tiny_models
from tests.fakes import BUNDLED, QWEN, hit, model
from tests.integration.test_desktop_window import Desk, child, desk, paths  # noqa: F401

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints", r"support raise\(\)", "grabbing the keyboard")


def dialog_of(desk: Desk, window: MainWindow) -> ModelsDialog:  # noqa: F811
    window.show_models()
    dialog = window._models_dialog
    assert dialog is not None
    desk.until(lambda: len(dialog.cards) == len(desk.service.models))
    return dialog


def label(card: ModelCard, name: str) -> str:
    found = child(card, QLabel, name)
    return found.text().replace("\u00a0", " ") if found.isVisible() else ""


def trigger(card: ModelCard, name: str) -> None:
    """Take something from the menu behind a card's three dots."""
    child(card.menu, QAction, name).trigger()


def confirm(parent: QWidget, name: str, button: str = "confirm") -> None:
    child(child(parent, QMessageBox, name), QPushButton, button).click()


def visible(parent: QWidget, kind: type[QDialog], name: str) -> QDialog:
    return next(found for found in parent.findChildren(kind, name) if found.isVisible())


# --- the list ---------------------------------------------------------------------------------


def test_models_are_shown_with_what_they_cost(desk: Desk) -> None:  # noqa: F811
    desk.service.models = (
        model(BUNDLED, "active", tokens_per_s=2210.4, device="cpu", vectors=9, vector_bytes=30 << 20),
        model(QWEN, download_bytes=1_207_000_000, recommended=True, dimensions=1024),
        model("BAAI/bge-m3", "installed", installed_bytes=2 << 30),
        model("/m/x.gguf", "installed", kind="gguf"),
    )
    window = desk.open()
    dialog = dialog_of(desk, window)
    cards = dialog.cards
    desk.until(lambda: label(cards[BUNDLED], "modelState") == "in use")
    assert "100 languages" in label(cards[BUNDLED], "modelFacts")
    assert "MIT" in label(cards[BUNDLED], "modelFacts")
    assert "384 dimensions" in label(cards[BUNDLED], "modelFacts")
    assert "2,210 tokens/s on the processor" in label(cards[BUNDLED], "modelCosts")
    assert "index 30 MB" in label(cards[BUNDLED], "modelCosts")
    assert "Download 1.1 GB" in label(cards[QWEN], "modelCosts")
    assert label(cards[QWEN], "modelRecommended")
    assert not label(cards[BUNDLED], "modelRecommended")
    assert not cards[BUNDLED].main.isVisible()
    texts = [cards[r].main.text() for r in (QWEN, "BAAI/bge-m3", "/m/x.gguf")]
    assert texts == ["Download", "Use…", "Use…"]
    assert cards["/m/x.gguf"].summary.text() == "/m/x.gguf"
    # What is here stands above what could be fetched.
    assert cards["/m/x.gguf"].y() < cards[QWEN].y()
    dialog.grab()


def test_a_list_that_cannot_be_had_says_why_and_is_asked_again(desk: Desk) -> None:  # noqa: F811
    desk.service.fail[api.ListModels] = ("The list cannot be read", "The cache is on a disk that is gone.")
    window = desk.open()
    window.show_models()
    dialog = window._models_dialog
    assert dialog is not None
    desk.until(dialog.retry.isVisible)
    assert "disk that is gone" in dialog.message.text()
    del desk.service.fail[api.ListModels]
    dialog.retry.click()
    desk.until(lambda: len(dialog.cards) == 2)
    desk.until(lambda: not dialog.message.isVisible())
    assert not dialog.retry.isVisible()


def test_the_dialog_opens_from_the_strip_by_key_and_works_by_keyboard(desk: Desk) -> None:  # noqa: F811
    window = desk.open()
    desk.until(lambda: window.strip.encoder.text() == BUNDLED)
    window.strip.encoder.click()
    dialog = window._models_dialog
    assert dialog is not None
    assert dialog.isVisible()
    QTest.keyClick(dialog, Qt.Key.Key_Escape)
    assert not dialog.isVisible()
    keys = Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier
    QTest.keyClick(window, Qt.Key.Key_L, keys)
    assert dialog.isVisible()
    desk.until(lambda: len(dialog.cards) == 2 and dialog.isActiveWindow())
    card = dialog.cards[QWEN]
    for _ in range(10):
        QTest.keyClick(dialog, Qt.Key.Key_Tab)
        if QApplication.focusWidget() is card.main:
            break
    assert QApplication.focusWidget() is card.main
    QTest.keyClick(card.main, Qt.Key.Key_Space)
    desk.until(lambda: [r.reference for r in desk.service.asked(api.InstallModel)] == [QWEN])


# --- downloading --------------------------------------------------------------------------------


def progress(request: api.InstallModel, *done: int) -> list[api.Reply]:
    return [
        api.Progress(id=request.id, done=n, total=1 << 30, remaining_s=95.0, current="model.safetensors")
        for n in done
    ]


def test_a_download_shows_its_progress_stops_and_goes_on(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.hold_install.clear()
    service.install = lambda m: [*progress(m, 300 << 20, 600 << 20), api.Done(id=m.id)]
    window = desk.open()
    dialog = dialog_of(desk, window)
    card = dialog.cards[QWEN]
    card.main.click()
    desk.until(lambda: "300.0 MB of 1.0 GB" in label(card, "modelProgress"))
    assert "about 2 min left" in label(card, "modelProgress")
    assert "model.safetensors" in label(card, "modelProgress")
    assert label(card, "modelState") == "downloading"
    assert card.progress.isVisible()
    assert card.progress.value() == 293
    assert card.main.text() == "Cancel"
    dialog.close()  # it goes on behind
    dialog.open()
    assert card.main.text() == "Cancel"
    card.main.click()
    desk.until(lambda: "Stopped at 300.0 MB of 1.0 GB" in label(card, "modelProgress"))
    assert [c.target for c in service.asked(api.Cancel)] == [service.asked(api.InstallModel)[0].id]
    assert not label(card, "modelError")
    assert not card.progress.isVisible()
    assert card.main.text() == "Download"
    service.hold_install.set()
    card.main.click()
    desk.until(lambda: card.main.text() == "Use…")
    desk.until(lambda: label(card, "modelState") == "installed")
    assert not label(card, "modelProgress")
    assert len(service.asked(api.InstallModel)) == 2


def test_a_download_that_fails_says_so_at_the_model(desk: Desk) -> None:  # noqa: F811
    desk.service.fail[api.InstallModel] = ("The download was refused", "Accept its licence first.")
    window = desk.open()
    dialog = dialog_of(desk, window)
    card = dialog.cards[QWEN]
    card.main.click()
    desk.until(lambda: label(card, "modelError") == "The download was refused. Accept its licence first.")
    assert card.main.text() == "Download"
    assert not window.banner.isVisible()
    del desk.service.fail[api.InstallModel]
    card.main.click()
    desk.until(lambda: card.main.text() == "Use…")
    assert not label(card, "modelError")


def test_a_service_that_dies_under_a_download_is_found_again(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.hold_install.clear()
    service.install = lambda m: [*progress(m, 300 << 20), api.Done(id=m.id)]
    window = desk.open()
    dialog = dialog_of(desk, window)
    card = dialog.cards[QWEN]
    card.main.click()
    desk.until(lambda: "300.0 MB" in label(card, "modelProgress"))
    service.die()
    desk.until(lambda: "connection" in label(card, "modelError"))
    assert card.main.text() == "Download"
    service.start()
    desk.until(lambda: desk.connection.is_ready)  # well before it would give up waiting for a welcome
    desk.until(lambda: not dialog.message.isVisible() and not dialog.retry.isVisible())
    service.hold_install.set()
    card.main.click()
    desk.until(lambda: card.main.text() == "Use…")


def test_a_model_from_the_hub_is_added_by_name_or_address(desk: Desk) -> None:  # noqa: F811
    desk.service.hold_install.clear()
    desk.service.install = lambda m: [*progress(m, 1 << 20), api.Done(id=m.id)]
    window = desk.open()
    dialog = dialog_of(desk, window)
    child(dialog.add_menu, QAction, "addHub").trigger()
    asking = child(dialog, QDialog, "hubDialog")
    field, error = child(asking, QLineEdit, "hubName"), child(asking, QLabel, "hubError")
    field.setText("not a name")
    child(asking, QPushButton, "downloadFromHub").click()
    assert error.isVisible()
    field.setText("https://huggingface.co/intfloat/e5-small-v2/tree/main")
    assert not error.isVisible()
    child(asking, QPushButton, "downloadFromHub").click()
    desk.until(lambda: "intfloat/e5-small-v2" in dialog.cards)
    card = dialog.cards["intfloat/e5-small-v2"]
    desk.until(lambda: label(card, "modelState") == "downloading")
    assert (card.name.text(), card.summary.text()) == ("e5-small-v2", "intfloat/e5-small-v2")
    desk.service.hold_install.set()
    desk.until(lambda: card.main.text() == "Use…")


def test_a_folder_that_is_no_model_stays_in_sight_with_the_reason(desk: Desk) -> None:  # noqa: F811
    desk.chosen = "/home/me/not-a-model"
    desk.service.fail[api.InstallModel] = ("This is no model", "config.json is missing.")
    window = desk.open()
    dialog = dialog_of(desk, window)
    child(dialog.add_menu, QAction, "addFolder").trigger()
    desk.until(lambda: "config.json" in label(dialog.cards[desk.chosen], "modelError"))
    card = dialog.cards[desk.chosen]
    assert card.name.text() == "not-a-model"
    assert card.main.text() == "Try again"
    asked = len(desk.service.asked(api.ListModels))
    window.models.refresh()  # the service's list does not have it
    desk.until(lambda: len(desk.service.asked(api.ListModels)) > asked and not window.models._request)
    assert card.isVisible()
    assert [r.reference for r in desk.service.asked(api.InstallModel)] == [desk.chosen]
    trigger(card, "forget")
    desk.until(lambda: desk.chosen not in dialog.cards)


def test_a_gguf_file_is_added_with_the_file_dialog(desk: Desk) -> None:  # noqa: F811
    desk.chosen = "/home/me/x-Q8_0.gguf"
    window = desk.open()
    dialog = dialog_of(desk, window)
    child(dialog.add_menu, QAction, "addGguf").trigger()
    desk.until(lambda: desk.chosen in dialog.cards and dialog.cards[desk.chosen].main.text() == "Use…")
    # What is in the list already is shown, not checked again.
    child(dialog.add_menu, QAction, "addGguf").trigger()
    assert [r.reference for r in desk.service.asked(api.InstallModel)] == [desk.chosen]


# --- using ----------------------------------------------------------------------------------------


def use_dialog(dialog: ModelsDialog) -> UseDialog:
    found = visible(dialog, UseDialog, "useDialog")
    assert isinstance(found, UseDialog)
    return found


def test_using_a_model_shows_the_plan_first_and_then_how_far_it_is(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.models = (
        model(BUNDLED, "active"),
        model(QWEN, "installed", dimensions=1024, choices=(768, 512, 256)),
    )
    window = desk.open()
    dialog = dialog_of(desk, window)
    card = dialog.cards[QWEN]
    card.main.click()
    use = use_dialog(dialog)
    desk.until(use.go.isEnabled)
    assert use.texts.text() == "9,311"
    assert use.disk.text() == "about 98 MB, 34.0 GB are free"
    assert use.time.text() == "about 12 min"
    assert BUNDLED in use.explained.text()
    assert use.length.itemText(0) == "1,024 (full length)"
    use.length.setCurrentIndex(use.length.findData(256))
    assert not use.go.isEnabled()  # until the new plan is here
    desk.until(lambda: use.disk.text().startswith("about 24 MB"))
    use.keep.setChecked(True)
    use.go.click()
    desk.until(lambda: bool(service.asked(api.UseModel)))
    asked = service.asked(api.UseModel)[0]
    assert (asked.reference, asked.dimensions, asked.keep) == (QWEN, 256, True)
    assert [p.dimensions for p in service.asked(api.PlanModel)] == [0, 256]
    desk.until(lambda: label(card, "modelState") == "index being built")
    assert card.main.text() == "Cancel building…"
    desk.until(window.strip.switch.isVisible)
    building = api.SwitchStatus(
        reference=QWEN, dimensions=256, done=1204, total=9311, remaining_s=740.0, state="building"
    )
    service.push(switch=building)
    said = "Building the index of Qwen3-Embedding-0.6B: 1,204 of 9,311 texts, about 12 min left"
    desk.until(lambda: window.strip.switch_text.text() == said)
    desk.until(lambda: "1,204 of 9,311 texts" in label(card, "modelProgress"))
    window.grab()


def test_a_plan_without_room_or_without_model_keeps_the_button_off(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.models = (model(BUNDLED, "active"), model(QWEN, "installed"))
    service.plan = lambda m: api.Plan(id=m.id, texts=9, disk_bytes=9 << 30, free_bytes=1 << 30, seconds=None)
    window = desk.open()
    dialog = dialog_of(desk, window)
    dialog.cards[QWEN].main.click()
    use = use_dialog(dialog)
    desk.until(use.error.isVisible)
    assert "room" in use.error.text()
    assert "Verify" in use.time.text()
    assert not use.go.isEnabled()
    use.reject()
    service.plan = lambda m: api.Failed(id=m.id, title="The server is away", message="Start it.")
    dialog.cards[QWEN].main.click()
    use = use_dialog(dialog)
    desk.until(lambda: use.error.text() == "The server is away. Start it.")
    assert not use.go.isEnabled()
    use.reject()
    assert service.asked(api.UseModel) == []


def test_a_refused_switch_is_told_in_its_dialog(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.models = (model(BUNDLED, "active"), model("server:desk", "installed"))
    service.fail[api.UseModel] = ("Not enough room", "Make some.")
    window = desk.open()
    dialog = dialog_of(desk, window)
    dialog.cards["server:desk"].main.click()
    use = use_dialog(dialog)
    assert "sent to this server" in child(use, QLabel, "serverSees").text()
    desk.until(use.go.isEnabled)
    use.go.click()
    desk.until(use.error.isVisible)
    assert use.error.text() == "Not enough room. Make some."
    assert use.isVisible()
    assert use.go.isEnabled()


def test_building_is_paused_and_cancelled_from_the_strip(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.models = (model(BUNDLED, "active"), model(QWEN, "building"))
    building = api.SwitchStatus(
        reference=QWEN, dimensions=1024, done=5, total=10, remaining_s=None, state="building"
    )
    service.status = msgspec.structs.replace(service.status, switch=building)
    window = desk.open()
    desk.until(window.strip.switch.isVisible)
    window.strip.switch_pause.trigger()
    desk.until(lambda: [r.paused for r in service.asked(api.SetPaused)] == [True])
    service.push(switch=msgspec.structs.replace(building, state="paused"))
    desk.until(lambda: window.strip.switch_text.text().endswith("5 of 10 texts, paused"))
    service.push(switch=msgspec.structs.replace(building, state="waiting", message="The server is away."))
    desk.until(lambda: "The server is away." in window.strip.switch_text.text())
    cancel = child(window.strip.switch_menu, QAction, "cancelSwitch")
    cancel.trigger()
    confirm(window, "cancelSwitchQuestion", "refuse")
    assert service.asked(api.CancelSwitch) == []
    desk.until(lambda: window.findChild(QMessageBox, "cancelSwitchQuestion") is None)
    cancel.trigger()
    confirm(window, "cancelSwitchQuestion")
    desk.until(lambda: not window.strip.switch.isVisible())
    assert [r.reference for r in service.asked(api.CancelSwitch)] == [""]
    assert window._banner_source != "news"


def test_the_switch_is_told_once_and_the_answer_asked_for_again(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.models = (model(BUNDLED, "active"), model(QWEN, "building"))
    service.search = lambda _: [[hit("/lib/a.txt", "One.")]]
    window = desk.open()
    desk.until(lambda: window.models.active is not None)
    assert not window.banner.isVisible()
    window._ask_question("boat")
    desk.until(lambda: window._final)
    service.switch_to(QWEN, keep=True)
    desk.until(window.banner.isVisible)
    assert window.banner.title.text() == "Searches now use Qwen3-Embedding-0.6B"
    assert BUNDLED in window.banner.message.text()
    assert window.banner.property("good")
    desk.until(lambda: len(service.asked(api.Search)) == 2)
    desk.until(lambda: window.strip.encoder.text() == "Qwen3-Embedding-0.6B")
    window.banner.dismiss()
    service.push(done=1)
    desk.until(lambda: window._status is not None and window._status.done == 1)
    assert not window.banner.isVisible()


def test_news_go_by_themselves_and_a_notice_comes_back(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.models = (model(BUNDLED, "active"), model(QWEN, "building"))
    notice = api.Notice(title="The disk is nearly full", message="Make some room.")
    service.status = msgspec.structs.replace(service.status, notices=(notice,))
    window = desk.open()
    desk.until(lambda: window.models.active is not None)
    desk.until(lambda: window.banner.isVisible() and window.banner.title.text() == notice.title)
    window._old_news.setInterval(200)
    service.switch_to(QWEN, keep=False)
    desk.until(lambda: window.banner.title.text().startswith("Searches now use"))
    desk.until(lambda: window.banner.title.text() == notice.title)
    assert not window.banner.property("good")


def test_a_dialog_that_is_closed_before_the_answer_is_left_alone(desk: Desk) -> None:  # noqa: F811
    window = desk.open()
    dialog = dialog_of(desk, window)
    dialog.edit_server("")
    form = child(dialog, ServerDialog, "serverDialog")
    form.name.setText("new")
    form.url.setText("http://127.0.0.1:1/v1")
    form.save.click()
    form.close()
    desk.until(lambda: not shiboken6.isValid(form))
    desk.until(lambda: bool(desk.service.asked(api.GetSettings)))
    window.models.refresh()
    desk.until(lambda: not window.models._request)  # the answer to the form came before this one
    assert desk.service.asked(api.PutSettings) == []


# --- removing, verifying, servers -----------------------------------------------------------------


def test_removing_and_dropping_ask_first_and_say_what_is_freed(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.models = (
        model(BUNDLED, "active"),
        model(QWEN, "installed", installed_bytes=3 << 30),
        model("BAAI/bge-m3", "kept", vector_bytes=64 << 20),
        model("/m/folder", "installed"),
    )
    window = desk.open()
    dialog = dialog_of(desk, window)
    trigger(dialog.cards[QWEN], "remove")
    assert "3.0 GB" in child(dialog, QMessageBox, "removeModelQuestion").informativeText()
    confirm(dialog, "removeModelQuestion", "refuse")
    desk.until(lambda: dialog.findChild(QMessageBox, "removeModelQuestion") is None)
    assert service.asked(api.RemoveModel) == []
    service.fail[api.RemoveModel] = ("The model is in use", "Another library uses it.")
    trigger(dialog.cards[QWEN], "remove")
    confirm(dialog, "removeModelQuestion")
    desk.until(lambda: "Another library" in label(dialog.cards[QWEN], "modelError"))
    del service.fail[api.RemoveModel]
    desk.until(lambda: dialog.findChild(QMessageBox, "removeModelQuestion") is None)
    trigger(dialog.cards[QWEN], "remove")
    confirm(dialog, "removeModelQuestion")
    desk.until(lambda: QWEN not in dialog.cards)
    desk.until(lambda: dialog.findChild(QMessageBox, "removeModelQuestion") is None)
    trigger(dialog.cards["/m/folder"], "remove")
    assert "not touched" in child(dialog, QMessageBox, "removeModelQuestion").informativeText()
    confirm(dialog, "removeModelQuestion", "refuse")
    trigger(dialog.cards["BAAI/bge-m3"], "drop")
    assert "64 MB" in child(dialog, QMessageBox, "dropQuestion").informativeText()
    confirm(dialog, "dropQuestion")
    desk.until(lambda: label(dialog.cards["BAAI/bge-m3"], "modelState") == "installed")
    assert [r.reference for r in service.asked(api.CancelSwitch)] == ["BAAI/bge-m3"]
    # The one in use is not to be removed, nor the bundled one.
    assert dialog.cards[BUNDLED].menu.findChild(QAction, "remove") is None


def test_verifying_shows_similarities_beside_the_published_ones(desk: Desk) -> None:  # noqa: F811
    window = desk.open()
    dialog = dialog_of(desk, window)
    trigger(dialog.cards[BUNDLED], "verify")
    verify = child(dialog, QDialog, "verifyDialog")
    table = child(verify, PairsTable, "pairs")
    desk.until(table.isVisible)
    item = table.topLevelItem(0)
    assert item is not None
    assert [item.text(i) for i in range(4)] == ["One text.", "Another.", "0.853", "0.862"]
    assert "420 tokens/s" in child(verify, QLabel, "verifyState").text()
    verify.accept()
    desk.service.verified = lambda m: api.Failed(id=m.id, title="It cannot be loaded", message="No memory.")
    trigger(dialog.cards[BUNDLED], "verify")
    verify = visible(dialog, QDialog, "verifyDialog")
    desk.until(child(verify, QLabel, "verifyError").isVisible)
    assert child(verify, QLabel, "verifyError").text() == "It cannot be loaded. No memory."
    assert not child(verify, PairsTable, "pairs").isVisible()


def test_a_server_is_checked_stored_tested_and_edited(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.settings = Settings(servers=(EmbeddingServer(name="old", url="http://127.0.0.1:1/v1"),))
    service.models = (*service.models, model("server:old", "installed"))
    window = desk.open()
    dialog = dialog_of(desk, window)
    child(dialog.add_menu, QAction, "addServer").trigger()
    form = child(dialog, ServerDialog, "serverDialog")

    def refused() -> str:
        form.save.click()
        assert form.error.isVisible()
        return form.error.text()

    assert "name" in refused()
    form.name.setText("old")
    form.url.setText("desk.example")
    assert "http://" in refused()
    assert not form.insecure.isVisible()
    form.url.setText("http://desk.example:30000/v1/embeddings")
    assert not form.error.isVisible()
    assert form.insecure.isVisible()
    assert "not encrypted" in refused()
    form.insecure.setChecked(True)
    assert form.unsafe.isVisible()
    form.save.click()
    desk.until(form.error.isVisible)
    assert "already" in form.error.text()
    form.name.setText("new")
    form.key.setText("secret")
    assert form.key.echoMode() == QLineEdit.EchoMode.Password
    form.query.setText("query: ")
    form.test.click()
    desk.until(child(form, PairsTable, "pairs").isVisible)
    assert form.isVisible()
    assert [r.reference for r in service.asked(api.VerifyModel)] == ["server:new"]
    added = EmbeddingServer(
        name="new",
        url="http://desk.example:30000/v1",
        key="secret",
        insecure=True,
        query_prefix="query: ",
    )
    assert service.settings.servers[1:] == (added,)
    form.passage.setText("passage: ")
    form.save.click()
    desk.until(lambda: not shiboken6.isValid(form))
    assert service.settings.servers[1].passage_prefix == "passage: "
    trigger(dialog.cards["server:old"], "edit")
    form = next(f for f in dialog.findChildren(ServerDialog) if f.isVisible())
    desk.until(lambda: form.url.text() == "http://127.0.0.1:1/v1")
    assert not form.name.isEnabled()
    form.model.setText("bge-m3")
    form.save.click()
    desk.until(lambda: not shiboken6.isValid(form))
    assert [s.model for s in service.settings.servers] == ["bge-m3", ""]
    assert service.settings.servers[0].url == "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("url", "exposed"),
    [
        ("http://127.0.0.1:8000", False),
        ("http://localhost/v1", False),
        ("http://[::1]:80", False),
        ("https://example.org", False),
        ("http://192.168.1.2:3000", True),
        ("http://127.0.0.1.example.org", True),
        ("http://[fe80::1]", True),
        ("http://[", False),
    ],
)
def test_only_plain_http_to_another_computer_is_exposed(url: str, *, exposed: bool) -> None:
    assert is_exposed(url) is exposed


# --- comparing --------------------------------------------------------------------------------------


def test_two_models_answer_side_by_side(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.models = (model(BUNDLED, "kept"), model(QWEN, "active"))
    a, b, c = (hit(f"/lib/{n}.txt", f"{n}.", similarity=s) for n, s in (("a", 0.8), ("b", 0.7), ("c", 0.6)))
    service.search = lambda m: [[c, a]] if m.model else [[a, b]]
    window = desk.open()
    desk.until(window.models_button.isVisible)
    window._ask_question("boat")
    desk.until(lambda: window._final)
    desk.until(window.compare_button.isVisible)
    assert len(service.asked(api.Search)) == 1
    QTest.keyClick(window, Qt.Key.Key_D, Qt.KeyboardModifier.ControlModifier)
    compare = window.compare
    desk.until(lambda: compare.has_hits)
    other = service.asked(api.Search)[1]
    assert (other.query, other.model, other.channel) == ("boat", BUNDLED, "compare")
    assert compare.isVisible()
    assert not window.preview.isVisible()
    assert compare.name.text() == BUNDLED
    assert window.serving.text() == "Qwen3-Embedding-0.6B"
    assert [h.path for h in compare.results.results.hits] == ["/lib/c.txt", "/lib/a.txt"]

    def also(view: QWidget) -> list[int]:
        rows = view.results  # type: ignore[attr-defined]
        return [rows.row(rows.index(i)).also for i in range(rows.rowCount())]

    assert also(window.results) == [2, 0]
    assert also(compare.results) == [0, 1]
    # What is selected here is selected there, where it is.
    row = compare.results.current()
    assert row is not None
    assert row.hit.path == "/lib/a.txt"
    QTest.keyClick(window.field, Qt.Key.Key_Down)
    assert compare.results.current() is None
    compare.results.setCurrentIndex(compare.results.results.index(0))
    QTest.keyClick(compare.results, Qt.Key.Key_Return)
    assert desk.actions.done == [("open", "/lib/c.txt")]
    window.grab()
    compare.results.why_wanted.emit()
    window.findChildren(WhyPopup)[-1].close()
    # A new question goes to both; a model that fails leaves the other alone.
    service.fail[api.Search] = ("The server is away", "Start it.")
    window._ask_question("ship")
    desk.until(compare.message.isVisible)
    assert compare.message.text() == "The server is away. Start it."
    del service.fail[api.Search]
    window._ask_question("sail")
    desk.until(lambda: compare.has_hits and not compare.message.isVisible())
    window.compare_button.click()
    desk.until(window.preview.isVisible)
    assert also(window.results) == [0, 0]
    searches = len(service.asked(api.Search))
    window._ask_question("mast")
    desk.until(lambda: window._final and window._shown == "mast")
    assert len(service.asked(api.Search)) == searches + 1


def test_weak_hits_of_both_models_wait_for_the_same_button(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.models = (model(BUNDLED, "kept"), model(QWEN, "active"))
    weak = [msgspec.structs.replace(hit(f"/lib/w{i}.txt", "Far."), weak=True) for i in range(5)]
    near, other = hit("/lib/a.txt", "Near."), hit("/lib/b.txt", "Near.")
    service.search = lambda m: [[other, near, *weak[1:]]] if m.model else [[near, *weak]]
    window = desk.open()
    desk.until(lambda: bool(window.models.kept))
    window.compare_button.click()
    window._ask_question("near")
    desk.until(lambda: window.compare.has_hits and window._final)
    rows = window.compare.results.results
    assert rows.rowCount() == 2
    assert "4 weaker" in window.compare.summary.text()
    window.weak_button.click()
    assert rows.rowCount() == 6
    assert window.results.results.rowCount() == 6
    assert window.results.results.places["/lib/w4.txt"] == 6
    last = rows.row(rows.index(5))
    assert last is not None
    assert last.also == 6


def test_comparing_ends_when_the_kept_index_is_dropped(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    service.models = (model(BUNDLED, "kept"), model("BAAI/bge-m3", "kept"), model(QWEN, "active"))
    service.search = lambda m: [[hit(f"/lib/{m.model.rpartition('/')[2] or 'x'}.txt", "One.")]]
    window = desk.open()
    window._ask_question("boat")
    desk.until(lambda: window._final and window.compare_button.isVisible())
    window.compare_button.click()
    choice = child(window, QComboBox, "compareChoice")
    desk.until(choice.isVisible)
    found = window.compare.results.results
    desk.until(lambda: [h.path for h in found.hits] == [f"/lib/{BUNDLED}.txt"])
    choice.setCurrentIndex(1)
    desk.until(lambda: [h.path for h in found.hits] == ["/lib/bge-m3.txt"])
    service.models = (model(BUNDLED, "installed"), model(QWEN, "active"))
    window.models.refresh()
    desk.until(window.preview.isVisible)
    assert not window.compare_button.isVisible()
    assert paths(window) == ["/lib/x.txt"]


# --- settings -----------------------------------------------------------------------------------------


def test_settings_of_models_and_of_chroma_are_stored(desk: Desk) -> None:  # noqa: F811
    service = desk.service
    mine = EmbeddingServer(name="desk", url="http://127.0.0.1:1/v1")
    service.settings = Settings(servers=(mine,), own_models=("/m",), chroma=ChromaServer(token="old"))
    window = desk.open()
    window.show_library(2)
    assert window._library is not None
    pane = window._library.settings
    desk.until(lambda: pane.token.text() == "old")
    assert not pane.save.isEnabled()
    assert not pane.token.isEnabled()
    pane.precision.setCurrentIndex(pane.precision.findData("bfloat16"))
    pane.context.setValue(2048)
    pane.gguf.setCurrentIndex(pane.gguf.findData("llama.cpp"))
    pane.instructions["code"].setText(" Find the code ")
    pane.offline.setChecked(True)
    pane.endpoint.setText("not an address")
    assert not pane.save.isEnabled()
    assert "not an address" in pane.note.text()
    pane.endpoint.setText("https://mirror.example/")
    pane.chroma.setText("http://team.example:8000")
    assert pane.token.isEnabled()
    assert pane.token.echoMode() == QLineEdit.EchoMode.Password
    assert not pane.save.isEnabled()
    assert child(pane, QCheckBox, "chromaInsecure").isVisibleTo(pane)
    pane.chroma.setText("https://team.example:8000/")
    assert not child(pane, QCheckBox, "chromaInsecure").isVisibleTo(pane)
    pane.header.setCurrentIndex(1)
    pane.tenant.setText("me")
    pane.choose_certificate.click()
    assert pane.save.isEnabled()
    pane.save.click()
    desk.until(lambda: pane.note.text() == "Saved.")
    assert service.settings == Settings(
        precision="bfloat16",
        context_tokens=2048,
        gguf_engine="llama.cpp",
        instructions=Instructions(code="Find the code"),
        offline=True,
        hub_endpoint="https://mirror.example",
        servers=(mine,),
        own_models=("/m",),
        chroma=ChromaServer(
            url="https://team.example:8000",
            token="old",
            token_header="X-Chroma-Token",
            tenant="me",
            certificate=desk.chosen,
        ),
    )
    assert not pane.save.isEnabled()


def test_what_the_window_says_of_models_is_what_the_service_says() -> None:
    assert settings_pane.INSTRUCTIONS == _INSTRUCTIONS
    said = {text for known in KNOWN for text in (known.summary, known.languages)}
    assert said <= set(wording.KNOWN_MODELS)
    assert wording.VERIFY_NOTE == NOTE


def test_models_in_chinese(desk: Desk) -> None:  # noqa: F811
    before = QLocale()
    translators = install_translators(desk.app, "zh_CN")
    try:
        desk.service.models = (
            model(BUNDLED, "active", summary=KNOWN[0].summary),
            model(QWEN, summary=KNOWN[1].summary, languages=KNOWN[1].languages),
        )
        window = desk.open()
        dialog = dialog_of(desk, window)
        desk.until(lambda: label(dialog.cards[BUNDLED], "modelState") == "使用中")
        assert dialog.cards[QWEN].summary.text().startswith("同等大小中最好")
        assert label(dialog.cards[QWEN], "modelFacts").startswith("100 多种语言")
    finally:
        for translator in translators:
            desk.app.removeTranslator(translator)
        QLocale.setDefault(before)


# --- the real service -----------------------------------------------------------------------------------

TEXTS = {
    "boats.txt": "The old boats lay on the stones while the rain fell.\n",
    "bread.txt": "Bread rises slowly where it is cold and quickly where it is warm.\n",
    "cats.txt": "A cat sat on a mat and nobody knew why.\n",
}


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Path]:
    """The data folder of a library of three files."""
    files = tmp_path / "files"
    files.mkdir()
    for name, text in TEXTS.items():
        (files / name).write_text(text, encoding="utf-8")
    folder = tmp_path / "data"
    with IndexerClient(folder) as client:
        client.add_folder(files)
        for status in client.watch():
            if status.state == "watching" and status.files == len(TEXTS):
                break
    yield folder
    with IndexerClient(folder, start=False) as client:
        client.stop()


def test_a_folder_becomes_the_model_in_use(
    qtbot: QtBot, qapp: QApplication, library: Path, tmp_path: Path
) -> None:
    before = QLocale()
    QLocale.setDefault(QLocale("en_US"))
    folder = tiny_models.sentence("bert", tmp_path / "tiny-model")
    window = build_window(qapp, library, "light")
    window._choose_folder = lambda _, chosen: chosen(str(folder))
    qtbot.addWidget(window)
    window.show()

    def until(condition: Callable[[], bool]) -> None:
        qtbot.waitUntil(condition, timeout=60_000)

    try:
        until(lambda: window.strip.encoder.text() == BUNDLED)
        window.field.setText("cat on a mat")
        until(lambda: window._final and bool(paths(window)))
        window.show_models()
        dialog = window._models_dialog
        assert dialog is not None
        until(lambda: BUNDLED in dialog.cards)
        child(dialog.add_menu, QAction, "addFolder").trigger()
        until(lambda: str(folder) in dialog.cards and dialog.cards[str(folder)].main.text() == "Use…")
        card = dialog.cards[str(folder)]
        assert not label(card, "modelError")
        card.main.click()
        use = use_dialog(dialog)
        until(use.go.isEnabled)
        assert use.texts.text() == "3"
        use.keep.setChecked(True)
        use.go.click()
        until(lambda: window.banner.isVisible() and "tiny-model" in window.banner.title.text())
        until(lambda: label(card, "modelState") == "in use")
        until(lambda: label(dialog.cards[BUNDLED], "modelState") == "kept to compare")
        until(lambda: window.strip.encoder.text() == "tiny-model")
        assert not window.strip.switch.isVisible()
        trigger(card, "verify")
        verify = child(dialog, QDialog, "verifyDialog")
        table = child(verify, PairsTable, "pairs")
        until(table.isVisible)
        assert table.topLevelItemCount() == 7
        verify.accept()
        dialog.close()
        # The old index answers beside the new one.
        until(window.compare_button.isVisible)
        window.compare_button.click()
        until(lambda: window.compare.has_hits or window.compare.message.isVisible())
        assert not window.compare.message.text()
        assert Path(window.compare.results.results.hits[0].path).name == "cats.txt"
        until(lambda: window._final and len(paths(window)) == 3)
    finally:
        window.close()
        QLocale.setDefault(before)
