"""Markdown (CommonMark and tables): blocks by line, the text is the source itself."""

from __future__ import annotations

import re
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.document import Block, BlockKind, Document
from indexer.extract.builder import no_text
from indexer.extract.text import decode_file, paragraphs

if TYPE_CHECKING:
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"(---|\+\+\+)[ \t]*\n(.*?\n)?\1[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title[ \t]*[:=](.*)$", re.MULTILINE)
_LONGEST_TITLE = 500
_KINDS: dict[str, BlockKind] = {
    "heading_open": "heading",
    "paragraph_open": "paragraph",
    "fence": "code",
    "code_block": "code",
    "html_block": "paragraph",
    "table_open": "table",
    "blockquote_open": "quote",
    "list_item_open": "list",
}


def extract(path: Path, data: bytes) -> Document:
    """The document of a Markdown file.

    Raises:
        FileError: The bytes are no text, or hold nothing but white space.
    """
    from markdown_it import MarkdownIt

    text, encoding = decode_file(path, data)
    title = ""
    body = text
    if front := _FRONT_MATTER.match(text):
        if found := _TITLE.search(front[2] or ""):
            title = _unquoted(found[1].strip())[:_LONGEST_TITLE]
        # Empty lines in its place keep the line numbers.
        body = "\n" * front[0].count("\n") + text[front.end() :]
    parser = MarkdownIt("commonmark").enable("table")
    # Only the block structure is wanted; parsing emphasis and links would be most of the work.
    parser.core.ruler.enableOnly(["normalize", "block"])
    tokens = parser.parse(body)

    starts = [0]
    for row in text.split("\n"):
        starts.append(starts[-1] + len(row) + 1)
    spans = _spans(tokens)
    blocks: list[Block] = []
    position = 0
    first_heading = ""
    for index, (first, last, kind, level) in enumerate(spans):
        # A container's span ends where its first inner container begins.
        if index + 1 < len(spans):
            last = min(last, spans[index + 1][0])
        start, end = starts[first], min(starts[last], len(text))
        if start < position or end <= start:
            continue
        _fill(text, position, start, starts, blocks)
        position = end
        end = start + len(text[start:end].rstrip())
        if end <= start:
            continue
        if kind == "heading" and not first_heading and level == 1:
            first_heading = _plain(text[start:end])
        blocks.append(Block(kind=kind, start=start, end=end, level=level, line=first + 1))
    _fill(text, position, len(text), starts, blocks)
    if not blocks:
        raise no_text(path)
    return Document(
        media="markdown", text=text, blocks=tuple(blocks), title=title or first_heading, encoding=encoding
    )


def _spans(tokens: list[Token]) -> list[tuple[int, int, BlockKind, int]]:
    """First line, line after the last, kind and level of every block; lists one span an item."""
    spans: list[tuple[int, int, BlockKind, int]] = []
    closed_at = -1  # line at which the quote or table in hand ends: what is inside belongs to it
    in_list = 0
    for token in tokens:
        if token.type in ("bullet_list_open", "ordered_list_open"):
            in_list += 1
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            in_list -= 1
        kind = _KINDS.get(token.type)
        if kind is None or token.map is None or token.map[0] < closed_at:
            continue
        first, last = token.map
        if kind in ("quote", "table"):
            closed_at = last
        elif kind == "paragraph" and in_list:
            kind = "list"
        level = int(token.tag[1]) if kind == "heading" else 0
        if spans and spans[-1][0] == first:  # an item and its first paragraph
            if kind in ("code", "heading", "quote", "table"):
                spans[-1] = (first, last, kind, level)
            continue
        spans.append((first, last, kind, level))
    return spans


def _fill(text: str, start: int, end: int, starts: list[int], blocks: list[Block]) -> None:
    """Make blocks of what the parser gave no block: front matter, link definitions, rules."""
    if not text[start:end].strip():
        return
    line = bisect_right(starts, start) - 1
    for first, last, row in paragraphs(text[start:end]):
        blocks.append(Block(kind="paragraph", start=start + first, end=start + last, line=line + row))


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1].strip() if quoted else value


def _plain(heading: str) -> str:
    # What follows looks at each opening sign up to the end of the line.
    heading = heading.split("\n")[0].strip().strip("#").strip()[:_LONGEST_TITLE]
    heading = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[*_`]{1,3}(\S.*?\S|\S)[*_`]{1,3}", r"\1", heading).strip()
