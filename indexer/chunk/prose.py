"""Chunks of text with headings: which blocks belong together, and what stands above them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from indexer.chunk import Draft
from indexer.chunk.pieces import (
    BLOCK,
    SECTION,
    SENTENCE,
    Counts,
    Piece,
    Span,
    count,
    measure,
    pack,
    trim,
)
from indexer.document import Block, Document
from indexer.segment import sentences

_SEPARATOR = " › "
_CONTEXT_SHARE = 4  # a context may take one part in so many of the window
_CONTEXT_TOKENS = 48
_SHORT = 3  # a section below one part in so many of the target looks for company
_STRETCH = 1.5  # a sentence up to so many times the target stays whole
_LINE = 0.5
_ENDS = re.compile(r"[.!?…:;。！？；：।؟۔][\"'”’»›)\]」』）》]*\Z")


class _Section(NamedTuple):
    """Blocks below the same headings.

    `path` are the headings' texts, outermost first, `heads` those heading blocks (all of which
    are in `path`) that stand directly before the first block of the body; `body` and `heads` are
    block numbers.
    """

    path: tuple[str, ...]
    heads: tuple[int, ...]
    body: tuple[int, ...]


def drafts(document: Document, counts: Counts, max_tokens: int, target: int) -> list[Draft]:
    """Cut a document that is not source code.

    Args:
        document: Of any medium but code.
        counts: Tokens of each text.
        max_tokens: Most tokens of context and text together.
        target: Tokens a chunk should have.

    Returns:
        Chunks in order; their sizes are estimates that the caller checks.
    """
    text = document.text
    context_limit = min(_CONTEXT_TOKENS, max_tokens // _CONTEXT_SHARE)
    limit = max_tokens - context_limit - 4
    target = min(target, limit)
    sections = list(_sections(document))
    pieces_of = _measure(document, sections, counts, limit, target)
    contexts = _Contexts(document.title, sections, counts, context_limit)
    found: list[Draft] = []
    for path, members in _groups(sections, pieces_of, document.blocks, target):
        context, kept = contexts.fit(path)
        pieces: list[Piece] = []
        for number, section in enumerate(members):
            # A heading that its context does not name must stand in the text.
            heads = section.heads
            if number == 0 and section.body:
                named = {title for title in path if title in kept}
                shown = next(
                    (i for i, at in enumerate(heads) if _title(document, at) not in named), len(heads)
                )
                heads = heads[shown:]
            for at in (*heads, *section.body):
                pieces.extend(pieces_of[at])
        for run in _runs(pieces, document.blocks, text):
            for first, end in pack(run, target, limit):
                found.append(
                    Draft(
                        run[first].start,
                        run[end - 1].end,
                        context,
                        path,
                    )
                )
    return found


def _title(document: Document, at: int) -> str:
    block = document.blocks[at]
    lines = document.text[block.start : block.end].strip().split("\n")
    if document.media == "markdown":
        if len(lines) > 1 and not lines[-1].strip("=- \t"):
            lines.pop()
        lines[0] = lines[0].lstrip(" \t").lstrip("#")
        lines[-1] = re.sub(r"[ \t]#+[ \t]*\Z", "", lines[-1])
    return " ".join(" ".join(lines).split())


def _sections(document: Document) -> Iterator[_Section]:
    stack: list[tuple[int, str]] = []
    heads: list[int] = []
    body: list[int] = []
    for at, block in enumerate(document.blocks):
        if trim(document.text, block.start, block.end) is None:
            continue
        if block.kind != "heading":
            body.append(at)
            continue
        level = block.level or 1
        if body or (heads and stack and level <= stack[-1][0]):
            yield _Section(tuple(title for _, title in stack), tuple(heads), tuple(body))
            heads, body = [], []
        while stack and stack[-1][0] >= level:
            stack.pop()
        stack.append((level, _title(document, at)))
        heads.append(at)
    if heads or body:
        yield _Section(tuple(title for _, title in stack), tuple(heads), tuple(body))


def _measure(
    document: Document, sections: Sequence[_Section], counts: Counts, limit: int, target: int
) -> dict[int, list[Piece]]:
    """Pieces of every block, by block number."""
    text = document.text
    stretch = min(limit, int(_STRETCH * target))
    spans: list[Span] = []
    whole: list[tuple[int, int, int]] = []
    for section in sections:
        for at in itertools.chain(section.heads, section.body):
            block = document.blocks[at]
            span = trim(text, block.start, block.end)
            if span is None:
                continue
            if block.kind in ("code", "table") and span[1] - span[0] <= 8 * limit:
                whole.append((at, *span))
            elif block.kind in ("code", "table"):
                spans.extend(_lines(text, *span, at, stretch))
            elif block.kind == "heading":
                spans.append(Span(*span, SECTION, at, stretch))
            else:
                spans.extend(_sentences(text, *span, at, stretch))
    pieces_of: dict[int, list[Piece]] = {}
    sizes = count(counts, [text[start:end] for _, start, end in whole])
    for (at, start, end), tokens in zip(whole, sizes, strict=True):
        if tokens <= limit:
            pieces_of[at] = [Piece(start, end, tokens, BLOCK, at)]
        else:
            spans.extend(_lines(text, start, end, at, stretch))
    for piece in measure(text, spans, counts):
        pieces_of.setdefault(piece.owner, []).append(piece)
    return pieces_of


def _sentences(text: str, start: int, end: int, owner: int, whole: int) -> Iterator[Span]:
    strength, last = BLOCK, start
    for first, past in sentences(text[start:end]):
        if strength != BLOCK and "\n" in text[last : start + first]:
            strength = SENTENCE + _LINE
        yield Span(start + first, start + past, strength, owner, whole)
        strength, last = SENTENCE, start + past


def _lines(text: str, start: int, end: int, owner: int, whole: int) -> Iterator[Span]:
    strength = BLOCK
    while start < end:
        stop = text.find("\n", start, end)
        if stop < 0:
            stop = end
        span = trim(text, start, stop)
        if span is None:
            strength = max(strength, SENTENCE + _LINE)
        else:
            # Indentation belongs to the line.
            yield Span(start if strength != BLOCK else span[0], span[1], strength, owner, whole)
            strength = SENTENCE
        start = stop + 1


def _groups(
    sections: Sequence[_Section], pieces_of: dict[int, list[Piece]], blocks: Sequence[Block], target: int
) -> Iterator[tuple[tuple[str, ...], list[_Section]]]:
    """Put very short sections together with their neighbours below the same heading."""
    members: list[_Section] = []
    path: tuple[str, ...] = ()
    size = 0
    for section in sections:
        tokens = sum(p.tokens for at in (*section.heads, *section.body) for p in pieces_of.get(at, ()))
        if members:
            shared = _common(path, section.path)
            near = len(shared) >= max(len(path), len(section.path)) - 1
            short = target // _SHORT
            last, first = (
                blocks[(members[-1].body or members[-1].heads)[-1]],
                blocks[(section.heads or section.body)[0]],
            )
            same_place = last.page == first.page and last.chapter == first.chapter
            lonely = not members[-1].body  # a heading without text
            if near and same_place and size + tokens <= target and (min(size, tokens) < short or lonely):
                members.append(section)
                path, size = shared, size + tokens
                continue
            yield path, members
        members, path, size = [section], section.path, tokens
    if members:
        yield path, members


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        a for a, b in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    )


def _runs(pieces: Sequence[Piece], blocks: Sequence[Block], text: str) -> Iterator[list[Piece]]:
    """Part pieces at page and chapter ends, but not within a sentence."""
    run: list[Piece] = []
    place: tuple[int | None, int | None] = (None, None)
    for piece in pieces:
        block = blocks[piece.owner]
        here = (block.page, block.chapter)
        if run and here != place:
            before = text[max(run[-1].start, run[-1].end - 8) : run[-1].end]
            goes_on = (
                block.kind == "paragraph"
                and blocks[run[-1].owner].kind == "paragraph"
                and blocks[run[-1].owner].page != block.page
                and piece.start == _first(text, block)
                and not _ENDS.search(before)
                and (text[piece.start].islower() or text[piece.start] > "\u2e80")
            )
            if goes_on:
                last = run.pop()
                run.append(last._replace(end=piece.end, tokens=last.tokens + piece.tokens))
                continue
            yield run
            run = []
        if not run:
            place = here
        run.append(piece)
    if run:
        yield run


def _first(text: str, block: Block) -> int:
    span = trim(text, block.start, block.end)
    return span[0] if span else block.start


class _Contexts:
    """Breadcrumbs of headings that fit their share of the window."""

    def __init__(self, title: str, sections: Sequence[_Section], counts: Counts, limit: int) -> None:
        self._title = " ".join(title.split())
        self._limit = limit
        texts = sorted({self._title, *(heading for section in sections for heading in section.path)})
        known = [text for text in texts if text and len(text) <= 8 * limit]
        # A separator is two tokens at most.
        self._sizes = {text: size + 2 for text, size in zip(known, count(counts, known), strict=True)}

    def fit(self, path: tuple[str, ...]) -> tuple[str, set[str]]:
        """The context below these headings, and the headings it names; the innermost count most."""
        kept: list[str] = []
        room = self._limit
        title = self._title if self._title.casefold() not in {heading.casefold() for heading in path} else ""
        for heading in (*reversed(path), title):
            size = self._sizes.get(heading)
            if size is not None and size <= room:
                kept.append(heading)
                room -= size
        return _SEPARATOR.join(reversed(kept)), set(kept)
