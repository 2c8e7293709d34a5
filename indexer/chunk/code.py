"""Chunks of source code: functions, classes and methods, or else stretches between blank lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from indexer.chunk import Draft
from indexer.chunk.grammars import COMMENTS, CONTAINERS, FUNCTIONS, WRAPPERS, definition, parse
from indexer.chunk.pieces import BLOCK, INSIDE, SECTION, SENTENCE, Counts, Piece, Span, measure, pack
from indexer.document import Document

if TYPE_CHECKING:
    from tree_sitter import Node

_PARSED_CHARS = 1_000_000  # longer files are generated; they are cut at blank lines
_WIDEST_LINE = 2_000  # a file with longer lines on average than a tenth of this is not written by hand
_DEPTH = 8  # containers in containers
_WRAPPED = 6  # nodes between a container and what it defines
_CONTEXT_TOKENS = 64
_SIGNATURE_CHARS = 160
_ALONE = 3  # what is larger than one part in so many of the target is a chunk of its own
_CRUMB = 12  # tokens: closing braces, a lone import


class _Region(NamedTuple):
    """Lines `first` to before `past` with what they define; `container` is the path of names around them."""

    first: int
    past: int
    container: tuple[str, ...]
    name: str
    context: tuple[str, ...]
    signature: str
    node: Node | None


def drafts(document: Document, counts: Counts, max_tokens: int, target: int) -> list[Draft]:
    """Cut a source file.

    Args:
        document: With medium ``code``.
        counts: Tokens of each text.
        max_tokens: Most tokens of context and text together.
        target: Tokens a chunk should have.

    Returns:
        Chunks in order; their sizes are estimates that the caller checks.
    """
    context_limit = min(_CONTEXT_TOKENS, max_tokens // 4)
    limit = max_tokens - context_limit
    source = _Source(document.text, counts, limit, min(target, limit))
    root = _parse(document, source)
    if root is None:
        return [source.draft(run, "", None) for run in source.packed(0, source.lines, {})]
    regions = list(_regions(source, root))
    found: list[Draft] = []
    for group in _groups(source, regions):
        found.extend(_chunks(source, group, context_limit))
    return found


class _Source:
    """A file's lines, each measured once."""

    def __init__(self, text: str, counts: Counts, limit: int, target: int) -> None:
        self.text, self.limit, self.target = text, limit, target
        self.parsed = b""  # what the parser's offsets are in
        self.starts = [0]
        at = text.find("\n")
        while at >= 0:
            self.starts.append(at + 1)
            at = text.find("\n", at + 1)
        self.lines = len(self.starts)
        self.starts.append(len(text) + 1)
        spans = []
        self.indents: list[int] = []
        for number in range(self.lines):
            start, end = self.starts[number], self.starts[number + 1] - 1
            line = text[start:end]
            bare = line.strip()
            indent = len(line) - len(line.lstrip()) if bare else -1
            self.indents.append(indent)
            if bare:
                spans.append(Span(start + indent, start + indent + len(bare), SENTENCE, number, target))
        self.pieces = measure(text, spans, counts)
        self.first_piece = [0] * (self.lines + 1)
        for piece in self.pieces:
            self.first_piece[piece.owner + 1] += 1
        self.first_piece = list(itertools.accumulate(self.first_piece))
        # One more a line, for tokenizers that count line breaks and indentation.
        self.sums = list(itertools.accumulate((piece.tokens + 1 for piece in self.pieces), initial=0))

    def tokens(self, first: int, past: int) -> int:
        """About how many tokens the lines have; never much fewer than they do."""
        return self.sums[self.first_piece[past]] - self.sums[self.first_piece[first]]

    def span(self, pieces: Sequence[Piece]) -> tuple[int, int]:
        """Offsets of pieces, indentation of the first line included."""
        start = pieces[0].start
        line = self.starts[pieces[0].owner]
        return (line if self.text[line:start].isspace() else start), pieces[-1].end

    def packed(self, first: int, past: int, levels: dict[int, int]) -> Iterator[Sequence[Piece]]:
        """Cut lines into chunks; `levels` says how deep the statement that begins at a line is nested."""
        pieces = self.pieces[self.first_piece[first] : self.first_piece[past]]
        outermost = min((indent for indent in self.indents[first + 1 : past] if indent >= 0), default=0)
        graded: list[Piece] = []
        for piece in pieces:
            line = piece.owner
            begins = piece.start == self.starts[line] + self.indents[line]
            if not begins:
                strength = INSIDE
            elif line in levels:
                strength = SECTION - 0.6 * min(levels[line], 4)
            elif levels:
                strength = INSIDE + 0.1
            else:
                strength = SENTENCE if self.indents[line] <= outermost else INSIDE + 0.1
            if begins and line > first and self.indents[line - 1] < 0:
                strength += BLOCK - SENTENCE
            if begins and self.text[piece.start] in ")]}":
                strength = INSIDE
            graded.append(piece._replace(strength=strength, tokens=piece.tokens + 1))
        for begin, end in pack(graded, self.target, self.limit):
            yield graded[begin:end]

    def draft(self, pieces: Sequence[Piece], context: str, symbol: str | None) -> Draft:
        start, end = self.span(pieces)
        return Draft(start, end, context, (), symbol)


def _parse(document: Document, source: _Source) -> Node | None:
    text = document.text
    lines = text.count("\n") + 1
    if len(text) > _PARSED_CHARS or len(text) / lines > _WIDEST_LINE / 10:
        return None
    # A lone surrogate becomes one "?", so lines stay the same.
    source.parsed = text.encode("utf-8", "replace")
    return parse(document.code_language or "", source.parsed)


def _regions(source: _Source, root: Node) -> Iterator[_Region]:
    yield from _inside(source, root, 0, source.lines, (), (), "", 0)


def _inside(
    source: _Source,
    container: Node,
    first: int,
    past: int,
    path: tuple[str, ...],
    context: tuple[str, ...],
    signature: str,
    depth: int,
) -> Iterator[_Region]:
    """Regions of a container's lines: its definitions and what stands between them."""
    below = (*context, signature) if signature else context

    def gap(begin: int, stop: int) -> _Region:
        """What stands before, between or after definitions; the first has the container's own line."""
        if begin == first:
            return _Region(begin, stop, path, "", context, signature, None)
        return _Region(begin, stop, path, "", below, "", None)

    at = first
    for start, end, name, node in _definitions(container, source.parsed):
        begin, stop = max(start, at), min(end + 1, past)
        if begin >= stop or (begin > start and source.tokens(begin, stop) == 0):
            continue
        if begin > at:
            yield gap(at, begin)
        head = _signature(source, node)
        if (
            depth < _DEPTH
            and node.type in CONTAINERS
            and source.tokens(begin, stop) > source.target
            and next(_definitions(node, source.parsed), None) is not None
        ):
            yield from _inside(source, node, begin, stop, (*path, name), below, head, depth + 1)
        else:
            yield _Region(begin, stop, path, name, below, head, node)
        at = stop
    if at < past:
        yield gap(at, past)


def _definitions(container: Node, parsed: bytes) -> Iterator[tuple[int, int, str, Node]]:
    """What a container defines: first and last line with its comments, name, node."""
    for outer, node, name, comments in _find(container, parsed, 0):
        first = (comments or outer).start_point[0]
        last = outer.end_point[0] - (1 if outer.end_point[1] == 0 and outer.end_point[0] > first else 0)
        yield first, last, name, node


def _find(container: Node, parsed: bytes, depth: int) -> Iterator[tuple[Node, Node, str, Node | None]]:
    comments: Node | None = None
    before: Node | None = None
    for child in container.named_children:
        if child.type in COMMENTS:
            if comments is None or before is None or child.start_point[0] > before.end_point[0] + 1:
                comments = child
            # A comment after code on the same line is not about what follows.
            if (
                before is not None
                and before.type not in COMMENTS
                and before.end_point[0] == child.start_point[0]
            ):
                comments = None
            before = child
            continue
        attached = comments
        if before is None or before.type not in COMMENTS or child.start_point[0] > before.end_point[0] + 1:
            attached = None
        comments, before = None, child
        found = _unwrap(child, parsed)
        if found is not None:
            yield child, found[0], found[1], attached
        elif depth < _WRAPPED and child.start_point[0] != child.end_point[0] and child.type not in FUNCTIONS:
            yield from _find(child, parsed, depth + 1)


def _unwrap(node: Node, parsed: bytes) -> tuple[Node, str] | None:
    for _ in range(4):
        name = definition(node, parsed)
        if name is not None:
            return node, name
        if node.type not in WRAPPERS:
            return None
        inner = [
            child
            for child in node.named_children[:6]
            if child.type in WRAPPERS or child.type in FUNCTIONS or child.type in CONTAINERS
        ]
        if not inner:
            return None
        node = inner[-1]
    return None


def _signature(source: _Source, node: Node) -> str:
    """The first words of a definition, up to its body."""
    line = node.start_point[0]
    body = node.child_by_field_name("body")
    start = source.starts[line]
    end = source.starts[min(line + 8, source.lines)] - 1
    if body is not None and body.start_point[0] > line:
        last = body.start_point[0]
        stops_before = source.indents[last] >= 0 and not source.text[source.starts[last] :].lstrip(
            " \t"
        ).startswith("{")
        end = min(end, source.starts[last] - 1 if stops_before else source.starts[last])
    elif body is not None:
        end = min(end, source.starts[line + 1] - 1)
    else:
        end = source.starts[line + 1] - 1
    return " ".join(source.text[start:end].split())[:_SIGNATURE_CHARS]


def _groups(source: _Source, regions: Sequence[_Region]) -> Iterator[list[_Region]]:
    """Small neighbours in the same container go into one chunk."""
    alone = source.target // _ALONE
    group: list[_Region] = []
    total = 0
    for region in regions:
        tokens = source.tokens(region.first, region.past)
        if not tokens:
            continue
        if group:
            last = group[-1]
            last_tokens = source.tokens(last.first, last.past)
            same = region.container == last.container
            fits = total + tokens <= source.target
            small = same and tokens < alone and last_tokens < alone
            # What is left of the container above: its closing brace.
            crumb = (
                tokens <= _CRUMB
                and not region.name
                and region.container == last.container[: len(region.container)]
            )
            if (fits and (small or (same and total <= _CRUMB))) or (crumb and total + tokens <= source.limit):
                group.append(region)
                total += tokens
                continue
            yield group
        group, total = [region], tokens
    if group:
        yield group


def _chunks(source: _Source, group: Sequence[_Region], context_limit: int) -> Iterator[Draft]:
    first, past = group[0].first, group[-1].past
    lead = group[0]
    symbol = _symbol(group)
    context = _context(lead.context, context_limit)
    if source.tokens(first, past) <= source.limit and (
        lead.name or source.tokens(first, past) <= 1.3 * source.target
    ):
        pieces = source.pieces[source.first_piece[first] : source.first_piece[past]]
        yield source.draft(pieces, context, symbol)
        return
    levels: dict[int, int] = {}
    for region in group:
        if region.node is not None:
            _statements(source, region.node, levels)
    inner = _context((*lead.context, lead.signature) if lead.signature else lead.context, context_limit)
    for number, part in enumerate(source.packed(first, past, levels)):
        yield source.draft(part, inner if number else context, symbol)


def _symbol(group: Sequence[_Region]) -> str | None:
    names = [".".join((*region.container, region.name)) for region in group if region.name]
    if names:
        return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return ".".join(group[0].container) or None


def _context(lines: Sequence[str], limit: int) -> str:
    """The innermost signatures that fit; a token has about three characters of code."""
    kept: list[str] = []
    room = 3 * limit
    for line in reversed(lines):
        if len(line) > room:
            break
        kept.append(line)
        room -= len(line) + 1
    return "\n".join(reversed(kept))


def _statements(source: _Source, node: Node, levels: dict[int, int]) -> None:
    """Note at which lines statements begin, as deep as needed to cut what is too long."""
    waiting = [(node, 0)]
    while waiting:
        outer, level = waiting.pop()
        for child in outer.named_children:
            line, last = child.start_point[0], child.end_point[0]
            if line > node.start_point[0]:
                levels.setdefault(line, level)
            if (
                last > line
                and level < 12
                and source.tokens(line, min(last + 1, source.lines)) > source.target // 2
            ):
                waiting.append((child, level + 1))
