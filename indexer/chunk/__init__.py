"""Documents to chunks: passages that a person reads at a glance and the encoder reads in one window."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import NamedTuple

from indexer.api import Locator
from indexer.chunk.pieces import Counts, count, cut, trim
from indexer.document import Chunk, Document
from indexer.segment import SCRIPT_DECIDES, language

CHUNKER_VERSION = 1
"""Grows whenever the same document gives other chunks than before, so that files are chunked again."""

TARGET_TOKENS = 192
FEWEST_MAX_TOKENS = 32

_CODE_SHARE = 0.8
_SURE_CHARS = 120


class Draft(NamedTuple):
    """A chunk before its tokens and its language are known.

    Attributes:
        path: Headings above it.
        blocks: First and one-past-last block it touches.
    """

    start: int
    end: int
    context: str = ""
    path: tuple[str, ...] = ()
    symbol: str | None = None
    blocks: tuple[int, int] = (0, 0)


def chunk(
    document: Document, *, counts: Counts, max_tokens: int, target_tokens: int = TARGET_TOKENS
) -> list[Chunk]:
    """Cut a document into passages.

    Chunks end at headings rather than paragraphs, at paragraphs rather than sentences, at sentences
    rather than clauses and words; source code is cut between functions. Takes time and tokenizer work
    linear in the text's length.

    Args:
        document: What extraction made of a file.
        counts: Tokens of each text by the encoder's tokenizer, special tokens not counted.
        max_tokens: What the encoder can take; no chunk's `embed_text` has more.
        target_tokens: Tokens a chunk should have, its context not counted.

    Returns:
        In the order of the text. Every character of the blocks that is not white space is in a chunk's
        text, or, for headings, in the text or the context of one.

    Raises:
        ValueError: `max_tokens` is below 32, or `target_tokens` below 1.
    """
    if max_tokens < FEWEST_MAX_TOKENS or target_tokens < 1:
        raise ValueError(f"max_tokens {max_tokens} or target_tokens {target_tokens} is too small")
    # The modules with the grammars and the heading logic are of no use to each other.
    if document.media == "code":
        from indexer.chunk.code import drafts
    else:
        from indexer.chunk.prose import drafts
    return _finish(document, drafts(document, counts, max_tokens, target_tokens), counts, max_tokens)


def _finish(document: Document, drafts: Sequence[Draft], counts: Counts, max_tokens: int) -> list[Chunk]:
    """Count the real tokens, cut what is too long after all, and fill in place and language."""
    text = document.text
    found: list[tuple[Draft, int]] = []
    waiting = list(drafts)
    while waiting:
        again: list[Draft] = []
        for draft, tokens in zip(
            waiting, count(counts, [_embed_text(text, d) for d in waiting]), strict=True
        ):
            if tokens <= max_tokens:
                found.append((draft, tokens))
            elif draft.end - draft.start == 1:
                if draft.context:
                    again.append(draft._replace(context=""))
                else:
                    found.append((draft, tokens))
            else:
                middle = cut(text, draft.start, draft.start + max(1, (draft.end - draft.start) * 2 // 3))
                for start, end in ((draft.start, middle), (middle, draft.end)):
                    span = trim(text, start, end)
                    if span is not None:
                        again.append(draft._replace(start=span[0], end=span[1]))
        waiting = again
    found.sort(key=lambda item: (item[0].start, item[0].end))
    places = _Places(document)
    fallback = "" if document.media == "code" else language(text)
    return [
        Chunk(
            start=draft.start,
            end=draft.end,
            text=text[draft.start : draft.end],
            locator=places.locator(draft),
            lang=places.language(draft, fallback),
            tokens=tokens,
            context=draft.context,
        )
        for draft, tokens in found
    ]


def _embed_text(text: str, draft: Draft) -> str:
    passage = text[draft.start : draft.end]
    return f"{draft.context}\n{passage}" if draft.context else passage


class _Places:
    """Where passages of one document stand in its file."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._starts = [block.start for block in document.blocks]
        self._breaks: list[int] = []
        if document.media in ("text", "markdown", "code"):
            at = document.text.find("\n")
            while at >= 0:
                self._breaks.append(at)
                at = document.text.find("\n", at + 1)

    def _blocks(self, draft: Draft) -> range:
        first = max(0, bisect.bisect_right(self._starts, draft.start) - 1)
        return range(first, bisect.bisect_left(self._starts, draft.end))

    def locator(self, draft: Draft) -> Locator:
        document = self._document
        blocks = [
            block
            for block in (document.blocks[at] for at in self._blocks(draft))
            if block.end > draft.start and block.start < draft.end
        ]
        page = chapter = line_start = line_end = None
        rects = []
        if blocks:
            page, chapter = blocks[0].page, blocks[0].chapter
            rects = [block.rect for block in blocks if block.rect is not None and block.page == page]
        if document.media in ("text", "markdown", "code"):
            line_start = 1 + bisect.bisect_left(self._breaks, draft.start)
            line_end = 1 + bisect.bisect_left(self._breaks, draft.end)
        else:
            lines = [block.line for block in blocks if block.line is not None]
            if lines:
                line_start, line_end = lines[0], max(lines)
        return Locator(
            page=page,
            rects=tuple(rects),
            line_start=line_start,
            line_end=line_end,
            chapter=chapter,
            heading=draft.path,
            symbol=draft.symbol,
        )

    def language(self, draft: Draft, fallback: str) -> str:
        document = self._document
        if document.media == "code":
            return "code"
        code = sum(
            min(block.end, draft.end) - max(block.start, draft.start)
            for block in (document.blocks[at] for at in self._blocks(draft))
            if block.kind == "code" and block.end > draft.start
        )
        if code >= _CODE_SHARE * (draft.end - draft.start):
            return "code"
        own = language(document.text[draft.start : draft.end])
        sure = draft.end - draft.start >= _SURE_CHARS or not SCRIPT_DECIDES.isdisjoint((own, fallback))
        # A table of five words in a German file is German, whatever it looks like by itself.
        return own if own and sure else fallback or own
