"""Builds the PDF and EPUB files of the sample library from the texts in packaging/sample.

Run it after a change of those texts: ``python packaging/build_sample.py``. The same texts give the same
files, byte for byte with one release of PyMuPDF; nothing is fetched.
"""

from __future__ import annotations

import argparse
import html
import importlib
import re
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

SOURCES = Path(__file__).parent / "sample"
LIBRARY = Path(__file__).parent.parent / "assets" / "sample-library"
PAGE_BREAK = "<!-- page -->"
# A zip entry needs a time; the format's own beginning says that it means nothing.
NO_TIME = (1980, 1, 1, 0, 0, 0)

CSS = """
body { font-family: sans-serif; font-size: 11pt; line-height: 1.4 }
h1 { font-size: 18pt } h2 { font-size: 13pt; margin-top: 12pt }
td { padding: 3pt 8pt 3pt 0; vertical-align: top }
"""


class Manual(NamedTuple):
    """A PDF to build: texts of `source` (one page between two page breaks), written to `target`."""

    source: str
    target: str
    title: str
    language: str


class Book(NamedTuple):
    """An EPUB to build: every ``<h1>`` of `source` begins a chapter."""

    source: str
    target: str
    title: str
    language: str
    identifier: str


MANUALS = (
    Manual(
        "boiler-manual.html", "manuals/boiler-manual.pdf", "Halden 24 condensing boiler: user's manual", "en"
    ),
    Manual("rice-cooker.html", "manuals/suihanki.pdf", "炊飯器 KX-10 かんたんガイド", "ja"),
)
BOOKS = (
    Book(
        "tide-clock.html",
        "reading/the-tide-clock.epub",
        "The Tide Clock",
        "en",
        "urn:uuid:5d0c6f0e-3f0b-4f5e-9a52-0c8d1f6f7a11",
    ),
)


def build_manual(manual: Manual, library: Path) -> Path:
    """Write one PDF.

    Args:
        manual: What to build.
        library: The sample library's folder.

    Returns:
        The file written.

    Raises:
        ValueError: A page's text does not fit on its page.
    """
    pymupdf: Any = importlib.import_module("pymupdf")  # it has no types worth the name
    pages = (SOURCES / manual.source).read_text(encoding="utf-8").split(PAGE_BREAK)
    outline = []
    with pymupdf.open() as document:
        for number, text in enumerate(pages, 1):
            page = document.new_page(width=595, height=842)  # A4 in points
            body = pymupdf.Rect(60, 55, 535, 780)
            spare, _ = page.insert_htmlbox(
                body, f'<body lang="{manual.language}">{text}</body>', css=CSS, scale_low=1
            )
            if spare < 0:
                raise ValueError(f"page {number} of {manual.source} is too long")
            page.insert_text((290, 815), str(number), fontsize=9)
            headings = re.findall(r"<h([12])>(.*?)</h\1>", text)
            outline += [[int(level), html.unescape(words), number] for level, words in headings]
        document.set_toc(outline)
        # Dates would make every build another file.
        document.set_metadata({"title": manual.title, "author": "Dragoman sample library"})
        document.subset_fonts()
        target = library / manual.target
        target.parent.mkdir(parents=True, exist_ok=True)
        document.save(target, garbage=4, deflate=True, deflate_fonts=True, no_new_id=True)
    return target


def build_book(book: Book, library: Path) -> Path:
    """Write one EPUB 3.

    Args:
        book: What to build.
        library: The sample library's folder.

    Returns:
        The file written.
    """
    text = (SOURCES / book.source).read_text(encoding="utf-8")
    chapters = [part for part in re.split(r"(?=<h1>)", text) if part.strip()]
    titles = [re.findall(r"<h1>(.*?)</h1>", chapter)[0] for chapter in chapters]
    names = [f"chapter{number}.xhtml" for number in range(1, len(chapters) + 1)]
    title = html.escape(book.title)

    manifest = "".join(
        f'<item id="c{number}" href="{name}" media-type="application/xhtml+xml"/>'
        for number, name in enumerate(names, 1)
    )
    spine = "".join(f'<itemref idref="c{number}"/>' for number in range(1, len(names) + 1))
    links = "".join(
        f'<li><a href="{name}">{words}</a></li>' for name, words in zip(names, titles, strict=True)
    )
    files = {
        "META-INF/container.xml": (
            '<?xml version="1.0" encoding="utf-8"?>\n'
            '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
            '<rootfile full-path="OEBPS/content.opf" media-type="application/oebps-package+xml"/>'
            "</rootfiles></container>"
        ),
        "OEBPS/content.opf": (
            '<?xml version="1.0" encoding="utf-8"?>\n'
            '<package version="3.0" unique-identifier="id" xmlns="http://www.idpf.org/2007/opf">'
            '<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
            f'<dc:identifier id="id">{book.identifier}</dc:identifier><dc:title>{title}</dc:title>'
            f"<dc:language>{book.language}</dc:language><dc:creator>Dragoman sample library</dc:creator>"
            '<meta property="dcterms:modified">2026-01-01T00:00:00Z</meta></metadata>'
            '<manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
            f"{manifest}</manifest><spine>{spine}</spine></package>"
        ),
        "OEBPS/nav.xhtml": _xhtml(
            book.language, title, f'<nav epub:type="toc" id="toc"><h1>{title}</h1><ol>{links}</ol></nav>'
        ),
    }
    for name, words, chapter in zip(names, titles, chapters, strict=True):
        files[f"OEBPS/{name}"] = _xhtml(book.language, words, chapter)

    target = library / book.target
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        # The format wants this entry first and stored, so that the file's first bytes show its kind.
        archive.writestr(_entry("mimetype", zipfile.ZIP_STORED), "application/epub+zip")
        for name, content in files.items():
            archive.writestr(_entry(name, zipfile.ZIP_DEFLATED), content)
    return target


def _entry(name: str, compression: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, NO_TIME)
    entry.compress_type = compression
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    return entry


def _xhtml(language: str, title: str, body: str) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html>\n'
        '<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" '
        f'lang="{language}" xml:lang="{language}">\n<head><title>{title}</title></head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def build(library: Path = LIBRARY) -> list[Path]:
    """Write every built file of the sample library below `library` and return their paths."""
    return [build_manual(manual, library) for manual in MANUALS] + [
        build_book(book, library) for book in BOOKS
    ]


def main() -> int:
    """Build into the repository, or into the folder given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", nargs="?", type=Path, default=LIBRARY)
    for path in build(parser.parse_args().library):
        sys.stdout.write(f"{path} {path.stat().st_size} bytes\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
