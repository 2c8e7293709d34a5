"""PDF, made here with PyMuPDF."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pymupdf
import pytest

from indexer.api import Rect
from indexer.document import Document
from indexer.errors import FileError
from indexer.extract import extract, render_page
from indexer.extract import pdf as pdf_module

PATH = Path("paper.pdf")
AES_256 = 5  # PyMuPDF's PDF_ENCRYPT_AES_256, which its types do not know
LOREM = (
    "The quick brown fox jumps over the lazy dog while the rain falls on the roof of the old house",
    "and nobody in the village remembers when the bridge was built or who paid for the inter-",
    "national exhibition that made it famous.",
)
HANZI = ("我们在北京的图书馆里读书，下午一起去公园散步，晚上回家写信，第二天又去图", "书馆借了三本新书。")


def new() -> Any:
    return pymupdf.open()  # type: ignore[no-untyped-call]


def write(page: Any, y: float, *lines: str, size: float = 11, font: str = "helv") -> None:
    for line in lines:
        page.insert_text((72, y), line, fontsize=size, fontname=font)
        y += size * 1.3


def done(pdf: Any, **options: Any) -> bytes:
    data: bytes = pdf.tobytes(**options)
    pdf.close()
    return data


def read(data: bytes) -> Document:
    return extract(PATH, data)


def failure(data: bytes) -> FileError:
    with pytest.raises(FileError) as caught:
        read(data)
    return caught.value


def texts(document: Document) -> list[str]:
    return [document.text[block.start : block.end] for block in document.blocks]


def test_paragraphs_pages_and_rectangles() -> None:
    pdf = new()
    write(pdf.new_page(), 100, *LOREM)
    write(pdf.new_page(), 200, *HANZI, font="china-s")
    document = read(done(pdf))
    assert document.pages == 2
    assert texts(document) == [
        " ".join(LOREM[:2]).removesuffix("-") + LOREM[2],
        "".join(HANZI),
    ]
    first, second = document.blocks
    assert (first.page, second.page) == (1, 2)
    assert first.rect is not None
    assert 70 < first.rect.x0 < 74
    assert 85 < first.rect.y0 < 100 < 125 < first.rect.y1 < 140
    assert first.rect.x1 > 400


def test_real_hyphens_and_names_stay() -> None:
    pdf = new()
    write(
        pdf.new_page(), 100, "a long line of text that ends with the name of one Jean-", "Paul and his friend"
    )
    assert "Jean- Paul" in read(done(pdf)).text


def test_a_turned_page_reads_like_any_other() -> None:
    pdf = new()
    page = pdf.new_page()
    for number, line in enumerate(LOREM):
        page.insert_text((100 + 14 * number, 700), line, fontsize=11, rotate=90)
    page.set_rotation(90)
    document = read(done(pdf))
    assert texts(document) == [" ".join(LOREM[:2]).removesuffix("-") + LOREM[2]]
    rect = document.blocks[0].rect
    assert rect is not None
    assert rect.x1 - rect.x0 > 5 * (rect.y1 - rect.y0)


def test_headings_by_size_and_title_from_print() -> None:
    pdf = new()
    page = pdf.new_page()
    write(page, 80, "On Bridges", size=24)
    for y, heading in ((130, "Early bridges"), (260, "Late bridges")):
        write(page, y, heading, size=15)
        write(page, y + 30, *LOREM)
    document = read(done(pdf))
    levels = [(b.level, text) for b, text in zip(document.blocks, texts(document), strict=True) if b.level]
    assert levels == [(1, "On Bridges"), (2, "Early bridges"), (2, "Late bridges")]
    assert document.title == "On Bridges"


def test_headings_by_outline_and_title_from_metadata() -> None:
    pdf = new()
    page = pdf.new_page()
    write(page, 100, "1. Introduction")
    write(page, 150, *LOREM)
    write(page, 250, "1.1 More", font="hebo")
    write(page, 300, *LOREM)
    pdf.set_toc([[1, "Introduction", 1], [2, "1.1 More", 1]])
    pdf.set_metadata({"title": "Über Brücken"})
    document = read(done(pdf))
    levels = [(b.level, text) for b, text in zip(document.blocks, texts(document), strict=True) if b.level]
    assert levels == [(1, "1. Introduction"), (2, "1.1 More")]
    assert document.title == "Über Brücken"


def test_running_titles_are_left_out() -> None:
    pdf = new()
    for number in range(1, 7):
        page = pdf.new_page()
        write(page, 30, "The Book of Bridges")
        write(page, 300, f"Something else is told on this page, namely story {number}.")
        write(page, 820, f"- {number} -")
    document = read(done(pdf))
    assert texts(document) == [f"Something else is told on this page, namely story {n}." for n in range(1, 7)]


def test_listings_keep_their_lines() -> None:
    pdf = new()
    page = pdf.new_page()
    write(page, 80, *LOREM)
    write(page, 200, "def f(x):", "    return x", font="cour")
    document = read(done(pdf))
    assert document.blocks[-1].kind == "code"
    assert texts(document)[-1] == "def f(x):\n    return x"


def test_a_password_is_named() -> None:
    pdf = new()
    write(pdf.new_page(), 100, "secret")
    locked = done(pdf, encryption=AES_256, user_pw="u", owner_pw="o")
    error = failure(locked)
    assert (error.title, error.kind) == ("Protected by a password", "failed")
    pdf = new()
    write(pdf.new_page(), 100, "no copying, but reading")
    open_to_all = done(pdf, encryption=AES_256, owner_pw="o")
    assert read(open_to_all).text == "no copying, but reading"


def test_damage_is_never_silent() -> None:
    pdf = new()
    for number in range(5):
        write(pdf.new_page(), 100, f"page {number}", *LOREM)
    whole = done(pdf, deflate=True)
    for length in (0, 4, 20, 200):
        assert failure(whole[:length]).kind == "failed"
    for length in range(300, len(whole), 97):
        try:
            assert read(whole[:length]).text.startswith("page 0")
        except FileError as error:
            assert error.kind == "failed"  # noqa: PT017  either outcome is right
    assert failure(b"<html>not a pdf</html>").title == "Not a PDF"


def test_pages_without_text() -> None:
    pdf = new()
    pixmap = pymupdf.Pixmap(pymupdf.csRGB, pymupdf.IRect(0, 0, 40, 40), False)  # type: ignore[no-untyped-call]
    pixmap.clear_with(200)  # type: ignore[no-untyped-call]
    pdf.new_page().insert_image((72, 72, 400, 400), pixmap=pixmap)
    error = failure(done(pdf))
    assert (error.title, error.kind) == ("Only images", "skipped")
    assert "OCR" in error.message
    pdf = new()
    pdf.new_page()
    assert failure(done(pdf)).title == "No text"


# --- pages as images ----------------------------------------------------------------------


def image(data: bytes) -> npt.NDArray[np.int64]:
    """Rows, columns, red green blue."""
    pixmap: Any = pymupdf.Pixmap(data)  # type: ignore[no-untyped-call]
    pixels = np.frombuffer(pixmap.samples, dtype=np.uint8)
    return pixels.reshape(pixmap.height, pixmap.width, 3).astype(np.int64)


def sample(rotation: int = 0, height: int = 600) -> bytes:
    pdf = new()
    page = pdf.new_page(width=400, height=height)
    write(page, 100, "Here is a line of text")
    page.set_rotation(rotation)
    return done(pdf)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_the_passage_is_marked_where_it_is(rotation: int) -> None:
    data = sample(rotation)
    rect = read(data).blocks[0].rect
    assert rect is not None
    plain, pages, points = render_page(PATH, data, page=1, width=400 if rotation % 180 == 0 else 600)
    marked, *_ = render_page(PATH, data, page=1, width=400 if rotation % 180 == 0 else 600, rects=(rect,))
    before, after = image(plain), image(marked)
    assert pages == 1
    assert points == (400 if rotation % 180 == 0 else 600)
    assert before.shape == ((600, 400, 3) if rotation % 180 == 0 else (400, 600, 3))
    y, x = np.mgrid[: before.shape[0], : before.shape[1]]
    within = (rect.x0 <= x) & (x <= rect.x1) & (rect.y0 <= y) & (y <= rect.y1)
    without = (x < rect.x0 - 4) | (x > rect.x1 + 4) | (y < rect.y0 - 4) | (y > rect.y1 + 4)
    ink = before[..., 0] < 128
    assert 100 < ink.sum() == (ink & within).sum()
    assert (after[within & ~ink][:, 2] < 160).all()  # yellow
    assert (after[ink].sum(axis=1) <= before[ink].sum(axis=1)).all()
    assert (after[without] == before[without]).all()


@pytest.mark.parametrize(("asked", "given"), [(-5, 50), (0, 50), (900, 900), (10**9, 4000)])
def test_the_width_is_held_in_bounds(asked: int, given: int) -> None:
    png, *_ = render_page(
        PATH, sample(height=120), page=1, width=asked, rects=(Rect(x0=-9e9, y0=5, x1=9e9, y1=1),)
    )
    assert image(png).shape[1] == given


def test_a_very_long_page_is_drawn_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_module, "_MAX_PIXELS", 200_000)
    pdf = new()
    write(pdf.new_page(width=100, height=14_000), 100, "tall")
    png, *_ = render_page(PATH, done(pdf), page=1, width=4000)
    height, width, _ = image(png).shape
    assert 100_000 < height * width < 220_000


@pytest.mark.parametrize("page", [0, -1, 2])
def test_a_page_that_is_not_there(page: int) -> None:
    with pytest.raises(FileError, match="No such page"):
        render_page(PATH, sample(), page=page, width=400)
