"""Whatever the bytes: a sound document, or a FileError, in every family."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import pymupdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.document import Document
from indexer.errors import FileError
from indexer.extract import extract

NAMES = [
    "a.txt",
    "a.csv",
    "a.rst",
    "a.org",
    "a.tex",
    "a.md",
    "a.py",
    "a.html",
    "a.xhtml",
    "a.pdf",
    "a.epub",
    "strange",
]


def check(document: Document) -> None:
    """What chunking and the store rely on."""
    document.text.encode()  # no lone surrogates
    assert "\r" not in document.text
    assert "\0" not in document.text
    assert document.blocks
    position = 0
    for block in document.blocks:
        assert position <= block.start < block.end <= len(document.text)
        assert not document.text[position : block.start].strip()
        assert document.text[block.start : block.end].strip()
        assert (block.level > 0) == (block.kind == "heading")
        assert block.level <= 6
        position = block.end
        if document.media in ("text", "markdown", "code"):
            assert block.line == document.text.count("\n", 0, block.start) + 1
        if document.media == "pdf":
            assert block.page is not None
            assert 1 <= block.page <= document.pages
        if document.media == "epub":
            assert block.chapter is not None
    assert not document.text[position:].strip()


def attempt(name: str, data: bytes) -> None:
    try:
        document = extract(Path(name), data)
    except FileError as error:
        assert error.title  # noqa: PT017  either outcome is right
        assert error.message.endswith((".", "?"))  # noqa: PT017
    else:
        check(document)


TOKENS = r"""
    # ## === --- *** ``` ~~~ > - + 1. | |---| <div> </div> <p> <h1> </h1> <table> <tr> <td> </table> <pre>
    </pre> <li> <ul> </ul> <!-- --> <![CDATA[ ]]> <script> </script> <title> & &amp; &#0; &#xD800; &nbsp; <?
    \section{ } * ** = == [a]: [b](c) 中文 日本語 ё word
"""
MARKUP = st.lists(
    st.sampled_from([*TOKENS.split(), "\u2028", "\x0b", "\x0c", "\ufffe", "\t"])
    | st.sampled_from(["\n", "\n\n", " ", "    ", "\r\n", "\r"]),
    max_size=60,
).map("".join)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=400) | st.text(max_size=200).map(lambda s: s.encode("utf-8", "surrogatepass")))
@settings(max_examples=60, deadline=None)
def test_arbitrary_bytes(name: str, data: bytes) -> None:
    attempt(name, data)
    attempt(name, b"%PDF-1.7\n" + data)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith(("pdf", "epub"))])
@given(source=MARKUP, encoding=st.sampled_from(["utf-8", "utf-16", "gb18030", "latin-1"]))
@settings(max_examples=120, deadline=None)
def test_broken_markup(name: str, source: str, encoding: str) -> None:
    attempt(name, source.encode(encoding, "replace"))


def _pdf() -> bytes:
    pdf = pymupdf.open()  # type: ignore[no-untyped-call]
    for _ in range(2):
        pdf.new_page().insert_text((72, 72), "Some words\nand more of them")
    pdf.set_toc([[1, "Some words", 1]])
    data: bytes = pdf.tobytes()  # type: ignore[no-untyped-call]
    return data


def _epub() -> bytes:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("META-INF/container.xml", '<container><rootfile full-path="b.opf"/></container>')
        archive.writestr(
            "b.opf",
            '<package><manifest><item id="a" href="a.html" media-type="text/html"/></manifest>'
            '<spine><itemref idref="a"/></spine></package>',
        )
        archive.writestr("a.html", "<h1>One</h1><p>word")
    return stream.getvalue()


@pytest.mark.parametrize(("name", "whole"), [("a.pdf", _pdf()), ("a.epub", _epub())])
@given(
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=6)), max_size=6),
    keep=st.floats(0.3, 1),
)
@settings(max_examples=150, deadline=None)
def test_damaged_files(name: str, whole: bytes, changes: list[tuple[float, bytes]], keep: float) -> None:
    data = bytearray(whole)
    for place, change in changes:
        position = int(place * (len(data) - 1))
        data[position : position + len(change)] = change
    attempt(name, bytes(data[: int(len(data) * keep)]))


def test_the_samples_are_sound() -> None:
    for name, data in (("a.pdf", _pdf()), ("a.epub", _epub())):
        check(extract(Path(name), data))
