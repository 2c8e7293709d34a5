"""HTML and XHTML: what a reader sees, without scripts, styles and navigation."""

from __future__ import annotations

import html as entities
import re
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.document import BlockKind, Document
from indexer.errors import FileError
from indexer.extract.builder import MAX_CHARACTERS, UNSPACED, TextBuilder, clean, no_text, too_long
from indexer.extract.text import decode, normalise

if TYPE_CHECKING:
    from lxml import etree

_CHARSET = re.compile(
    rb"""<(?:meta[^>]{0,300}?charset|\?xml[^>]{0,100}?encoding)\s*=\s*["']?\s*([A-Za-z0-9_:.\-]+)""", re.I
)
_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);|#)([A-Za-z][A-Za-z0-9]*);")
_DOCTYPE = re.compile(r"<!DOCTYPE[^>\[]*", re.I)
_XML_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_TAG = re.compile(r"(<[A-Za-z/!?][^<>]*>)")
_INVISIBLE = re.compile(r"<(/?)(?:script|style|template)\b", re.I)

_SKIPPED_TAGS = """
    script style template nav noscript iframe object embed applet svg canvas audio video map select button
    datalist head frameset textarea
"""
_SKIPPED_ROLES = frozenset(("navigation", "search", "menu", "menubar", "toolbar"))
# What the generators of documentation call their navigation and permalinks.
_SKIPPED_CLASSES = frozenset(("navheader", "navfooter", "headerlink", "sphinxsidebar", "anchorjs-link"))
_BLOCK_TAGS = """
    address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption
    figure footer form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu ol p pre section summary
    table tbody td tfoot th thead tr ul
"""
_SKIPPED = frozenset(_SKIPPED_TAGS.split())
_BLOCKS = frozenset(_BLOCK_TAGS.split())
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_LAYOUT = tuple(f"{{*}}{tag}" for tag in ("table", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "ul", "ol"))
_BREAK = "\x1e"
_CJK_BREAK = re.compile(rf"(?<=[{UNSPACED}])[ \t]*\n\s*(?=[{UNSPACED}])")
_SPACE = re.compile(r"[ \t\n\f\xa0]+")
_AROUND_BREAK = re.compile(f" *{_BREAK} *")


def extract(path: Path, data: bytes) -> Document:
    """The document of an HTML file.

    Raises:
        FileError: The bytes are no text, or show nothing.
    """
    builder = TextBuilder(path)
    title, encoding = read(path, data, builder)
    if not builder.blocks:
        raise no_text(path)
    return Document(
        media="html", text=builder.text(), blocks=tuple(builder.blocks), title=title, encoding=encoding
    )


def read(path: Path, data: bytes, builder: TextBuilder, *, chapter: int | None = None) -> tuple[str, str]:
    """Append what an HTML page shows to a text.

    Args:
        path: The file, for errors.
        data: The page.
        builder: Where the blocks go.
        chapter: Given to every block.

    Returns:
        The page's title (or else its first heading) and its encoding.

    Raises:
        FileError: The bytes are no text.
    """
    declared = _CHARSET.search(data, 0, 4096)
    decoded = decode(data, declared[1].decode("ascii") if declared else None)
    if decoded is None:
        message = "The content is binary data, not HTML."
        raise FileError(path, "Not an HTML file", message, kind="skipped")
    source = normalise(decoded[0])
    if len(source) > 4 * MAX_CHARACTERS:
        raise too_long(path)
    # Controls that XML forbids would make libxml2 stop; the line breaks in hand use one of them.
    source = clean(source)
    root = _parse(source)
    walker = _Walker(builder, chapter)
    if root is None:
        walker.plain(source)
    else:
        walker.walk(root)
    return walker.title, decoded[1]


def _parse(source: str) -> etree._Element | None:
    """The tree of a page, or None when it is too deep for a tree."""
    from lxml import etree

    if "<?xml" in source[:200] or "http://www.w3.org/1999/xhtml" in source[:2000]:
        # As XML first: an HTML parser takes <script/> for a script without an end.
        parser = etree.XMLParser(
            resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, encoding="utf-8"
        )
        body = _XML_DECLARATION.sub("", source, count=1)
        # Entities of the DTD that is not loaded. Removing the DTD takes entity bombs with it.
        body = _without_doctype(body)
        body = _ENTITY.sub(_resolve, body)
        try:
            return etree.fromstring(body.encode(), parser)
        except etree.XMLSyntaxError:
            source = re.sub(r"<(script|style|title|iframe|textarea)\b([^<>]*)/>", r"<\1\2></\1>", body)
    html_parser = etree.HTMLParser(
        encoding="utf-8", no_network=True, huge_tree=True, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(source.encode() or b" ", html_parser)
    except (etree.XMLSyntaxError, etree.ParserError):
        return None
    if any(entry.type_name == "ERR_RESOURCE_LIMIT" for entry in html_parser.error_log):
        return None
    return root


def _without_doctype(source: str) -> str:
    """Take the DTD out, with what it declares; line numbers stay."""
    found = _DOCTYPE.search(source)
    if found is None:
        return source
    end = found.end()
    if source.startswith("[", end):
        end = source.find("]", end)
    # Not one expression for all of it: where its end is missing, that would try every way to cut it.
    end = source.find(">", end) + 1 if end >= 0 else 0
    if not end:
        return source
    return source[: found.start()] + "\n" * source.count("\n", found.start(), end) + source[end:]


def _resolve(found: re.Match[str]) -> str:
    character = entities.unescape(found[0])
    return character if character != found[0] else f"&amp;{found[1]};"


class _Walker:
    """Goes once through the tree without recursion, however deep it is."""

    def __init__(self, builder: TextBuilder, chapter: int | None) -> None:
        self._builder = builder
        self._chapter = chapter
        self._inline: list[str] = []
        self._line: int | None = None
        self._pre = 0
        self._quote = 0
        self._items: list[bool] = []  # for every open <li>, whether its bullet was written
        self._heading = 0
        self._rows: list[list[str]] | None = None  # of the table in hand
        self._table: etree._Element | None = None
        self._table_line: int | None = None
        self._title = ""
        self._first_heading = ""

    @property
    def title(self) -> str:
        """What the page calls itself, or else its first heading."""
        return self._title or self._first_heading

    def walk(self, root: etree._Element) -> None:
        """Append all that the tree shows."""
        from lxml import etree

        skipping: etree._Element | None = None
        for event, node in etree.iterwalk(root, events=("start", "end", "comment", "pi")):
            if event in ("comment", "pi"):
                if skipping is None and node.tail:
                    self._put(node.tail, node)
                continue
            tag = str(node.tag).rpartition("}")[2].lower()
            if event == "start":
                if skipping is None and self._is_skipped(node, tag):
                    skipping = node
                    if tag == "head":
                        self._read_title(node)
                elif skipping is None:
                    self._start(node, tag)
                continue
            if skipping is node:
                skipping = None
            elif skipping is None:
                self._end(node, tag)
            if skipping is None and node.tail:
                self._put(node.tail, node)
        self._flush()

    def plain(self, source: str) -> None:
        """Append a page that has no usable tree: its text without the tags, part by part."""
        hidden = False
        for part in _TAG.split(source):
            if found := _INVISIBLE.match(part):
                hidden = not found[1]
            elif not hidden and not _TAG.match(part):
                self._inline.append(clean(entities.unescape(part)))
                self._flush()

    def _is_skipped(self, node: etree._Element, tag: str) -> bool:
        if tag in _SKIPPED or node.get("role") in _SKIPPED_ROLES:
            return True
        classes = node.get("class")
        return bool(classes) and not _SKIPPED_CLASSES.isdisjoint((classes or "").split())

    def _read_title(self, head: etree._Element) -> None:
        for node in head.iter("{*}title"):
            words = " ".join(clean("".join(map(str, node.itertext()))).split())
            self._title = self._title or words[:500]

    def _start(self, node: etree._Element, tag: str) -> None:
        if tag in _BLOCKS:
            self._flush()
            self._line = _line_of(node)
            if tag == "table" and self._rows is None:
                # A table with structure inside is layout: its cells are read as if it were none.
                if not any(True for _ in node.iterdescendants(*_LAYOUT)):
                    self._rows, self._table, self._table_line = [], node, _line_of(node)
            elif tag == "tr" and self._rows is not None:
                self._rows.append([])
            elif tag == "pre":
                self._pre += 1
            elif tag == "blockquote":
                self._quote += 1
            elif tag == "li":
                self._items.append(False)
            elif tag in _HEADINGS:
                self._heading = _HEADINGS[tag]
        elif tag == "br":
            self._inline.append("\n" if self._pre else _BREAK)
        elif tag == "img" and (description := node.get("alt")):
            self._put(f" {description} ", node)
        elif tag == "title" and not self._title and node.text:
            self._title = " ".join(clean(node.text).split())[:500]
            return
        if node.text and tag != "title":
            self._put(node.text, node)

    def _end(self, node: etree._Element, tag: str) -> None:
        if tag not in _BLOCKS:
            return
        self._flush()
        if tag == "table" and node is self._table:
            rows = [" | ".join(row) for row in self._rows or () if any(row)]
            self._rows = self._table = None
            self._builder.add(
                "table",
                "\n".join(rows),
                line=self._table_line if self._chapter is None else None,
                chapter=self._chapter,
            )
        elif tag == "pre":
            self._pre -= 1
        elif tag == "blockquote":
            self._quote -= 1
        elif tag == "li" and self._items:
            self._items.pop()
        elif tag in _HEADINGS:
            self._heading = 0

    def _put(self, text: str, node: etree._Element) -> None:
        if not self._inline and not text.isspace():
            self._line = _line_of(node)
        self._inline.append(text)

    def _flush(self) -> None:
        """End the run of inline text in hand."""
        if not self._inline:
            return
        raw = "".join(self._inline)
        self._inline.clear()
        if self._rows is not None:
            self._cell(_collapse(raw).replace("\n", " "))
            return
        line = self._line if self._chapter is None else None  # the entry of a book is no file
        if self._pre:
            self._builder.add("code", raw.replace(_BREAK, "\n"), line=line, chapter=self._chapter)
            return
        text = _collapse(raw)
        if not text:
            return
        kind: BlockKind = "paragraph"
        if self._heading:
            self._first_heading = self._first_heading or text[:500]
            self._builder.add(
                "heading", text.replace("\n", " "), level=self._heading, line=line, chapter=self._chapter
            )
            return
        if self._items:
            kind = "list"
            if not self._items[-1]:
                self._items[-1] = True
                text = f"- {text}"
        elif self._quote:
            kind = "quote"
        self._builder.add(kind, text, line=line, chapter=self._chapter)

    def _cell(self, text: str) -> None:
        if not text or self._rows is None:
            return
        if not self._rows:
            self._rows.append([])
        self._rows[-1].append(text)


def _line_of(node: etree._Element) -> int | None:
    """The line of a tag, where libxml2 knows it: it counts in 16 bits."""
    line = node.sourceline
    return line if isinstance(line, int) and line < 65535 else None


def _collapse(raw: str) -> str:
    """White space as a browser shows it; a line end between two Chinese characters is none."""
    text = _SPACE.sub(" ", _CJK_BREAK.sub("", raw))
    return _AROUND_BREAK.sub("\n", text).strip()
