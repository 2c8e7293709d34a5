"""Stretches of text with their size in tokens, and how to fill chunks with them.

The secret of this module is how to keep both the tokenizer's work and our own linear: every stretch is
counted once when it is measured and once as part of its chunk, and only what turns out too long is cut
and counted again.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

Counts = Callable[[Sequence[str]], list[int]]

# How good a place it is to end a chunk before a piece.
INSIDE, SENTENCE, BLOCK, SECTION = 0.0, 1.0, 2.0, 3.0

_BATCH_CHARS = 1 << 20
_CLAUSE = re.compile(r"(?:[,;:–—)\]}>](?=\s)|[，、；：」』）》]|\n)\s*")
_SPACE = re.compile(r"\s+")
_SYMBOL = re.compile(r"[^\w\s]+")


class Span(NamedTuple):
    """A stretch to be measured; `whole` keeps it uncut up to the given number of tokens."""

    start: int
    end: int
    strength: float
    owner: int
    whole: int


class Piece(NamedTuple):
    """A measured stretch. `strength` tells how good a break stands before it, `owner` whose it is."""

    start: int
    end: int
    tokens: int
    strength: float
    owner: int


def measure(text: str, spans: Sequence[Span], counts: Counts) -> list[Piece]:
    """Count the tokens of every span and cut what is too long.

    Args:
        text: What the spans are offsets of.
        spans: In order, not overlapping, none empty or beginning or ending with white space.
        counts: Tokens of each text, special tokens not counted.

    Returns:
        Pieces in order; together they hold every character of the spans that is not white space.
    """
    done: list[Piece] = []
    # A token is rarely more than four characters, so longer spans need no counting to be known as too long.
    waiting: list[Span] = []
    for span in spans:
        waiting.extend(_slices(text, span, max(64, 5 * span.whole)))
    while waiting:
        sizes = count(counts, [text[span.start : span.end] for span in waiting])
        again: list[Span] = []
        for span, tokens in zip(waiting, sizes, strict=True):
            if tokens <= span.whole or span.end - span.start == 1:
                done.append(Piece(span.start, span.end, tokens, span.strength, span.owner))
            else:
                parts = -(-tokens * 10 // (span.whole * 9))
                again.extend(_slices(text, span, max(1, -(-(span.end - span.start) // parts))))
        waiting = again
    done.sort()
    return done


def count(counts: Counts, texts: Sequence[str]) -> list[int]:
    """Count tokens in few calls, each of a bounded number of characters."""
    found: list[int] = []
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_CHARS:
            found.extend(counts(batch))
            batch, size = [], 0
    if batch:
        found.extend(counts(batch))
    return found


def _slices(text: str, span: Span, size: int) -> list[Span]:
    """Cut a span into parts of at most `size` characters, at the best places."""
    if span.end - span.start <= size:
        return [span]
    parts = []
    start, strength = span.start, span.strength
    while start < span.end:
        end = span.end if span.end - start <= size else cut(text, start, start + size)
        trimmed = trim(text, start, end)
        if trimmed is not None:
            parts.append(Span(*trimmed, strength, span.owner, span.whole))
            strength = INSIDE
        start = end
    return parts


def cut(text: str, start: int, limit: int) -> int:
    """Find the best place to end a stretch that begins at `start`, at most at `limit`.

    Returns:
        Offset in ``(start, limit]``: after a clause, else after a word, else after a symbol, else
        anywhere but inside a combining sequence.
    """
    earliest = start + max(1, (limit - start) // 2)
    window = text[earliest:limit]
    for pattern in (_CLAUSE, _SPACE, _SYMBOL):
        last = None
        for last in pattern.finditer(window):  # noqa: B007
            pass
        if last is not None and last.end() > 0:
            return earliest + last.end()
    at = limit
    while at > earliest and at < len(text) and _continues(text[at - 1], text[at]):
        at -= 1
    return at if at > earliest else limit


def _continues(before: str, char: str) -> bool:
    """Whether `char` makes one visible character with the one before it."""
    return (
        char in "\u200d\ufe0e\ufe0f"
        or before == "\u200d"
        or unicodedata.category(char)[0] == "M"
        or ("\U0001f3fb" <= char <= "\U0001f3ff")
    )


def trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """Take white space off both ends; None when nothing is left."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def pack(pieces: Sequence[Piece], target: int, limit: int) -> list[tuple[int, int]]:
    """Fill chunks with pieces so that they end at good places near the target.

    Args:
        pieces: Of one run that may be cut anywhere between two of them.
        target: Tokens a chunk should have.
        limit: Tokens a chunk of more than one piece must not exceed, at least `target`.

    Returns:
        First and one-past-last piece of each chunk.
    """
    sums = list(itertools.accumulate((piece.tokens for piece in pieces), initial=0))
    chunks: list[tuple[int, int]] = []
    first, size = 0, len(pieces)
    while first < size:
        rest = sums[size] - sums[first]
        if rest <= min(1.3 * target, limit):
            chunks.append((first, size))
            break
        # Two chunks of the same size rather than a full one and a crumb.
        aim = rest / 2 if rest < 2 * target else float(target)
        best, best_score, end = first + 1, -1e9, first + 1
        while end < size:
            tokens = sums[end] - sums[first]
            if end > first + 1 and tokens > min(1.25 * aim, limit):
                break
            score = pieces[end].strength - 2.0 * abs(tokens - aim) / aim
            if tokens < 0.4 * aim:
                score -= SECTION  # hardly worth a chunk
            if score >= best_score:
                best, best_score = end, score
            end += 1
        chunks.append((first, best))
        first = best
    return chunks
