"""Previews run nothing and load nothing, wherever a document wants something from."""

from __future__ import annotations

import struct
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QImage, QPixmap, QTextDocument
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from desktop.highlight import Window
from desktop.preview import picture as drawn
from desktop.theme import Theme
from desktop.views import CodeView, TextView
from tests.end2end.private import Stranger

pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    it = Stranger()
    yield it
    it.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """An image on the disk; if it were opened, its size would show."""
    image = QImage(300, 200, QImage.Format.Format_ARGB32)
    image.fill(Qt.GlobalColor.red)
    file = tmp_path / "secret.png"
    assert image.save(str(file))
    return file


def wants(url: str, picture: Path) -> str:
    """Everything that a document could load, in Markdown and in the HTML in it."""
    data = (
        "data:image/svg+xml;utf8,<svg xmlns='http://www.w3.org/2000/svg'><image href='" + url + "/q'/></svg>"
    )
    return "\n\n".join(
        [
            "# Title",
            f"![a]({url}/a.png) ![b]({picture.as_uri()})",
            f"![c]({picture}) ![d](file://{picture})",
            f"![e](<{data}>)",
            f"![f]({url.removeprefix('http:')}/f.png) ![h](qrc:/x.png)",
            f"[link]({url}/link) <{url}/auto> {url}/bare [js](javascript:alert(1))",
            f"<img src='{url}/h.png'><script src='{url}/s.js'></script>",
            f"<link rel=stylesheet href='{url}/c.css'>",
            f"<style>@import url({url}/i.css); p {{background-image: url({url}/j.png)}}</style>",
            f"<table background='{url}/k.png'><tr><td background='{url}/l.png'>x</td></tr></table>",
            f"<svg><image href='{url}/m.png'/></svg><object data='{url}/n.svg'></object>",
            f"<iframe src='{url}/o'>",
            f"![ref][r]\n\n[r]: {url}/r.png",
        ]
    )


@pytest.mark.parametrize("markdown", [True, False])
def test_nothing_is_loaded(
    qtbot: QtBot, qapp: QApplication, stranger: Stranger, picture: Path, markdown: bool
) -> None:
    opened: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event in {"socket.connect", "webbrowser.open", "subprocess.Popen", "os.posix_spawn"}:
            opened.append(event)

    sys.addaudithook(hook)
    view = TextView(Theme(qapp, "light"))
    qtbot.addWidget(view)
    view.resize(500, 700)
    view.show()
    text = wants(stranger.url, picture)
    view.show_text(Window(text, 0, len(text), 1), None, markdown=markdown)
    view.grab()
    view.reload()
    view.selectAll()
    view.createMimeDataFromSelection()
    view.grab()
    # A picture that was loaded would be as wide as it is.
    block = view.document().begin()
    widths = []
    while block.isValid():
        fragments = block.begin()
        while not fragments.atEnd():
            style = fragments.fragment().charFormat()
            if style.isImageFormat():
                name = style.toImageFormat().name()
                image = view.document().resource(QTextDocument.ResourceType.ImageResource.value, QUrl(name))
                # Qt gives the bytes of a file that it has read, or the image.
                widths.append(image.width() if isinstance(image, QImage | QPixmap) else len(image or b""))
            fragments += 1
        block = block.next()
    if markdown:
        assert len(widths) >= 5  # they are in the document indeed
    assert set(widths) <= {0, 1}
    watching = False
    assert opened == []
    assert stranger.heard == []


def png(width: int, height: int) -> bytes:
    """A picture that says it is so large, and holds nothing."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    )
    found = b"\x89PNG\r\n\x1a\n"
    for name, data in parts:
        found += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    return found


@pytest.mark.qt_log_ignore("Could not create image", "QSvgHandler", "QImageIOHandler", "libpng")
def test_a_page_is_a_png_of_bounded_size(qapp: QApplication, stranger: Stranger, picture: Path) -> None:
    assert drawn(picture.read_bytes()).width() == 300
    svg = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>x</script>"
        f"<image href='{stranger.url}/a.png' width='9' height='9'/><image href='{picture.as_uri()}'/></svg>"
    )
    assert not QImage.fromData(svg.encode()).isNull()  # Qt would draw it
    assert drawn(svg.encode()).isNull()
    assert drawn(b"GIF89a" + picture.read_bytes()).isNull()
    before = psutil.Process().memory_info().rss
    for width, height in ((100_000, 100_000), (1, 2_000_000_000), (30_000, 30_000)):
        assert drawn(png(width, height)).isNull()
    assert psutil.Process().memory_info().rss - before < 100 << 20
    assert stranger.heard == []


def test_links_only_say_where_they_lead(qtbot: QtBot, qapp: QApplication, stranger: Stranger) -> None:
    view = TextView(Theme(qapp, "light"))
    qtbot.addWidget(view)
    view.show_text(Window(f"[x]({stranger.url}/x)", 0, 1, 1), None, markdown=True)
    with qtbot.waitSignal(view.link_clicked) as clicked:
        view.anchorClicked.emit(QUrl(f"{stranger.url}/x"))
    assert clicked.args == [QUrl(f"{stranger.url}/x")]
    assert not view.openLinks()
    assert not view.openExternalLinks()
    assert stranger.heard == []


def test_source_code_is_shown_as_it_is(qtbot: QtBot, qapp: QApplication, stranger: Stranger) -> None:
    view = CodeView(Theme(qapp, "light"))
    qtbot.addWidget(view)
    text = f"<img src='{stranger.url}/a.png'><b>bold</b>\n"
    view.show_code(Window(text, 0, len(text), 1), None)
    view.grab()
    assert view.toPlainText() == text
    assert stranger.heard == []


def test_a_text_made_to_be_slow_is_shown_in_time(qtbot: QtBot, qapp: QApplication) -> None:
    view = TextView(Theme(qapp, "light"))
    qtbot.addWidget(view)
    for text in (
        ">" * 5_000,
        "- " * 3_000 + "x",
        "[" * 10_000,
        "*a " * 10_000,
        "|" * 5_000 + "\n" + "-|" * 5_000,
    ):
        began = time.monotonic()
        view.show_text(Window(text, 0, 1, 1), None, markdown=True)
        assert time.monotonic() - began < 10, text[:10]
