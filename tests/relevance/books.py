"""Manuals that Debian ships in many languages, cut into parallel sections.

The same `Section.id` in several languages is the same section, translated by people. Packages are
fetched with ``apt-get download`` (no root), unpacked beside one another and parsed; what comes out is kept
in the cache as one ``.jsonl.gz`` a book, of one JSON object a line: ``{"id", "lang", "title", "body"}``.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer import settings
from tests import debian

if TYPE_CHECKING:
    from lxml.etree import _Element as Element

# Raise it when parsing changes: sections in the cache are then made anew.
LAYOUT = 2
# Characters that a section must have more of, or else it says too little to be found by.
SHORTEST = 150
SHORTEST_DENSE = 60
DENSE = frozenset({"ja", "ko", "zh-cn", "zh-tw"})
# More of its words than this standing in the English text in the same order: it was not translated.
_UNTRANSLATED = 0.5


@dataclass(frozen=True)
class Section:
    """One section in one language: its heading without its number, and its text with single spaces."""

    id: str
    lang: str
    title: str
    body: str


@dataclass(frozen=True)
class Book:
    """Where a manual's translations are.

    Attributes:
        packages: Debian package of each language.
        pages: Where the HTML of a language is, below the root of the unpacked packages; a glob.
        form: What made the HTML.
        tuned: Whether Dragoman's ranking was tuned on it; the others are held out. What it was tuned on
            is taken as it is, the others are gone over by `fit`.
    """

    name: str
    packages: dict[str, str]
    pages: dict[str, str]
    form: str
    tuned: bool = False

    @property
    def langs(self) -> list[str]:
        """Its languages in alphabetical order, as Debian writes them."""
        return sorted(self.packages)


def _book(name: str, langs: str, package: str, pages: str, form: str, *, tuned: bool = False) -> Book:
    """A book whose packages and pages are named alike in all languages."""
    return Book(
        name=name,
        packages={lang: package.format(lang=lang) for lang in langs.split()},
        pages={lang: pages.format(lang=lang) for lang in langs.split()},
        form=form,
        tuned=tuned,
    )


def _with_english(book: Book, package: str, pages: str) -> Book:
    """The same book with an English edition that is named otherwise."""
    return Book(
        book.name, {"en": package, **book.packages}, {"en": pages, **book.pages}, book.form, book.tuned
    )


BOOKS = {
    book.name: book
    for book in (
        _book(
            "debian-reference",
            "de en es fr it ja pt-br zh-cn zh-tw",
            "debian-reference-{lang}",
            "usr/share/debian-reference/ch*.{lang}.html",
            "docbook-open",
            tuned=True,
        ),
        _with_english(
            _book(
                "debian-faq",
                "de fr it ja ko nl pt ru zh-cn",
                "debian-faq-{lang}",
                "usr/share/doc/debian/FAQ/{lang}/*.{lang}.html",
                "docbook",
            ),
            "debian-faq",
            "usr/share/doc/debian/FAQ/*.en.html",
        ),
        _with_english(
            _book(
                "developers-reference",
                "de fr it ja ru",
                "developers-reference-{lang}",
                "usr/share/developers-reference/{lang}/*.html",
                "sphinx",
            ),
            "developers-reference",
            "usr/share/developers-reference/*.html",
        ),
        _book(
            "aptitude-doc",
            "cs en es fi fr it ja nl ru",
            "aptitude-doc-{lang}",
            "usr/share/doc/aptitude/html/{lang}/*.html",
            "docbook-numbered",
        ),
        _with_english(
            _book(
                "maint-guide",
                "ca de es fr it ja ru vi zh-cn zh-tw",
                "maint-guide-{lang}",
                "usr/share/doc/maint-guide-{lang}/html/*.{lang}.html",
                "docbook",
            ),
            "maint-guide",
            "usr/share/doc/maint-guide/html/*.en.html",
        ),
        _book(
            "debmake-doc",
            "de en ja ru zh-cn zh-tw",
            "debmake-doc",
            "usr/share/doc/debmake-doc/html/*.{lang}.html",
            "docbook",
        ),
    )
}


# --- the cache ----------------------------------------------------------------------------


def cache() -> Path:
    """Where what can be made again is kept: DRAGOMAN_BENCH_CACHE, or beside the product's cache."""
    chosen = os.environ.get("DRAGOMAN_BENCH_CACHE")
    return Path(chosen).expanduser() if chosen else settings.cache_dir().with_name("dragoman-relevance")


def sections(book: Book) -> list[Section]:
    """The book's sections, from the cache, or else fetched and parsed.

    Raises:
        RuntimeError: The packages could not be fetched.
    """
    file = _sections_file(book)
    if not file.exists() or _stamp(book)["layout"] != LAYOUT:
        make(book)
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [Section(**json.loads(line)) for line in lines]


def versions(book: Book) -> dict[str, str]:
    """Version of each package that the sections in the cache were made from."""
    found: dict[str, str] = _stamp(book)["packages"]
    return found


def make(book: Book) -> None:
    """Fetch the book's packages and write its sections into the cache.

    Raises:
        RuntimeError: The packages could not be fetched.
    """
    file = _sections_file(book)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        root = Path(scratch)
        packages = debian.fetch(sorted(set(book.packages.values())), root)
        found = parse(book, root)
    new = file.with_suffix(".new")
    # Without a time stamp the same packages make the same bytes.
    with new.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
        for section in found:
            packed.write((json.dumps(asdict(section), ensure_ascii=False) + "\n").encode())
    new.replace(file)
    stamp = {"layout": LAYOUT, "packages": packages, "sections": len({section.id for section in found})}
    file.with_name(f"{book.name}.json").write_text(json.dumps(stamp, indent=1), encoding="utf-8")


def _sections_file(book: Book) -> Path:
    return cache() / "sections" / f"{book.name}.jsonl.gz"


def _stamp(book: Book) -> dict[str, Any]:
    file = _sections_file(book).with_name(f"{book.name}.json")
    nothing = {"layout": 0, "packages": {}}
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else nothing
    return content


# --- parsing ------------------------------------------------------------------------------


def parse(book: Book, root: Path) -> list[Section]:
    """The sections of a book whose packages are unpacked below `root`, in order of id and language.

    Raises:
        RuntimeError: The packages do not hold what they used to.
    """
    readers = {
        "docbook": _docbook,
        "docbook-open": _docbook_open,
        "docbook-numbered": _docbook_numbered,
        "sphinx": _sphinx,
    }
    found = []
    for lang in book.langs:
        pages = sorted(root.glob(book.pages[lang]))
        if not pages:
            raise RuntimeError(f"{book.packages[lang]} has no pages like {book.pages[lang]} any more.")
        for page in pages:
            if page.stem == book.name:
                continue  # the whole book once more
            found += [
                Section(id=name, lang=lang, title=heading(title), body=body)
                for name, title, body in readers[book.form](page.read_bytes(), page.stem)
                if name and len(body) > (SHORTEST_DENSE if lang in DENSE else SHORTEST)
            ]
    if not book.tuned:
        return fit(found)
    last = {(section.id, section.lang): section for section in found}
    return [last[key] for key in sorted(last)]


_SECTIONS = {
    "section",
    "sect1",
    "sect2",
    "sect3",
    "sect4",
    "chapter",
    "appendix",
    "preface",
    "article",
    "book",
}
_NOT_TEXT = {"titlepage", "toc", "headerlink"}
_BLOCKS = frozenset(
    "address blockquote br div dd dl dt h1 h2 h3 h4 h5 h6 li ol p pre table td th tr ul".split()  # noqa: SIM905
)
_HEADINGS = ("h2", "h3", "h4", "h5", "h6")


def _docbook(page: bytes, _: str) -> Iterator[tuple[str, str, str]]:
    """Sections of a page that DocBook's XSL made, named by the anchors that the author gave them."""
    for section, title in _docbook_titles(_html(page)):
        names = [anchor.get("id", "") for anchor in title.iter("a")]
        yield next(filter(None, names), section.get("id", "")), _text(title), _text(section)


def _docbook_open(page: bytes, _: str) -> Iterator[tuple[str, str, str]]:
    """The same, named as a strict reader of HTML 5 names them.

    The pages are XHTML that is served as HTML. There ``<a id="x"/>`` does not end itself: it stays open until
    the next link outside of tables, so a heading may carry the anchor before its own. Where two sections
    come to one name the later one counts. The libraries that the ranking was tuned on were drawn by these
    names, and other names would draw other libraries.
    """
    document = _html(page)
    names = dict(_open_anchors(document))
    for section, title in _docbook_titles(document):
        yield names.get(title, ""), _text(title), _text(section)


def _open_anchors(document: Element) -> Iterator[tuple[Element, str]]:
    """Each heading with the anchor that is open where it begins, or else its own."""

    def walk(parent: Element, anchor: str) -> Generator[tuple[Element, str], None, str]:
        for child in parent:
            own = next((name for link in child.iter("a") if (name := link.get("id"))), "")
            if child.tag == "a":
                anchor = "" if child.get("href") else own
            elif child.tag in _HEADINGS and own:
                yield child, anchor or own
                anchor = own
            elif child.tag in ("td", "th", "caption"):
                yield from walk(child, "")
            else:
                anchor = yield from walk(child, anchor)
        return anchor

    return walk(document, "")


def _docbook_numbered(page: bytes, stem: str) -> Iterator[tuple[str, str, str]]:
    """The same where anchors are numbers that differ from edition to edition: named by file and position."""
    for number, (section, title) in enumerate(_docbook_titles(_html(page))):
        yield f"{stem}.{number}", _text(title), _text(section)


def _docbook_titles(document: Element) -> Iterator[tuple[Element, Element]]:
    """The sections of a page with their headings; chapters, which hardly have text of their own, are not."""
    for section in document.iter("div"):
        if not _SECTIONS & _classes(section):
            continue
        for part in section.iterchildren("div"):
            if "titlepage" in _classes(part):
                title = next((element for element in part.iter(*_HEADINGS)), None)
                if title is not None:
                    yield section, title


def _sphinx(page: bytes, _: str) -> Iterator[tuple[str, str, str]]:
    """Sections of a page that Sphinx made; their ids are the English headings in every language."""
    for section in _html(page).iter("section", "div"):
        if section.tag == "section" or "section" in _classes(section):
            title = next(section.iterchildren(*_HEADINGS), None)
            if title is not None:
                yield section.get("id", ""), _text(title), _text(section, title)


def _html(page: bytes) -> Element:
    from lxml import html

    # An XML declaration in a str is an error to lxml, and in bytes it is not heeded for HTML.
    return html.document_fromstring(re.sub(r"^<\?xml[^>]*\?>", "", page.decode("utf-8")))


def _classes(element: Element) -> set[str]:
    return set((element.get("class") or "").split())


def _text(element: Element, without: Element | None = None) -> str:
    """What a reader sees of an element, its subsections and their headings left out, with single spaces."""
    parts: list[str] = []

    def walk(parent: Element) -> None:
        parts.append(parent.text or "")
        for child in parent:
            if isinstance(child.tag, str):
                section = child.tag == "section" or bool(_SECTIONS & _classes(child))
                if not section and not _NOT_TEXT & _classes(child) and child is not without:
                    walk(child)
                if child.tag in _BLOCKS:
                    parts.append(" ")
            parts.append(child.tail or "")

    walk(element)
    return " ".join("".join(parts).split())


_NUMBER = re.compile(
    r"""^(?:
        第\s*\d+\s*章 | 제?\s*\d+\s*장 | 付録\s*[A-Z]\b\.? | 附录\s*[A-Z]\b\.? | 附錄\s*[A-Z]\b\.?
        | [^\W\d_]+\s+(?:\d+|[A-Z])\.     # Chapter 1.  Anhang A.
        | (?:\d+|[A-Z])(?:\.\d+)*\.       # 1.2.3.  A.1.
    )\s+""",
    re.VERBOSE,
)


def heading(text: str) -> str:
    """A heading without its number."""
    return _NUMBER.sub("", text).strip()


# --- what is fit for use ------------------------------------------------------------------


def fit(found: Iterable[Section]) -> list[Section]:
    """Sections that can be asked for: translated, long enough, with a heading that no other one has.

    Left out are: ids that occur twice in a language, headings that occur twice in a language, translations
    that are still English, and then what is left in one language only.
    """
    found = [section for section in found if section.title]
    ids = Counter((section.lang, section.id) for section in found)
    titles = Counter((section.lang, section.title.casefold()) for section in found)
    english = {section.id: section for section in found if section.lang == "en"}
    versions: dict[str, list[Section]] = defaultdict(list)
    for section in found:
        if (
            ids[section.lang, section.id] == 1
            and titles[section.lang, section.title.casefold()] == 1
            and (section.lang == "en" or not untranslated(section, english.get(section.id)))
        ):
            versions[section.id].append(section)
    return [
        section
        for name in sorted(versions)
        for section in sorted(versions[name], key=lambda section: section.lang)
        if len(versions[name]) > 1
    ]


_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+")
_PLAIN_WORD = re.compile(r"\b[A-Za-z][a-z]{2,}\b")


def untranslated(section: Section, english: Section | None) -> bool:
    """Whether a section is still English: its heading (unless it is a name) or most of its text."""
    if english is None:
        return False
    if section.title == english.title and len(_PLAIN_WORD.findall(english.title)) >= 2:
        return True
    mine, theirs = _triples(section.body), _triples(english.body)
    return bool(mine) and len(mine & theirs) > _UNTRANSLATED * len(mine)


def _triples(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(text)
    return set(zip(words, words[1:], words[2:], strict=False))
