"""Colours for source code, computed off the GUI thread and only around the passage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PySide6.QtGui import QSyntaxHighlighter, QTextCharFormat, QTextDocument

from desktop.theme import Theme
from desktop.wording import utf16

MAX_CHARS = 60_000

Spans = dict[int, list[tuple[int, int, str]]]


@dataclass(frozen=True)
class Window:
    """A part of a text around a passage; offsets are in characters of `text`."""

    text: str
    start: int
    end: int
    first_line: int


def around(text: str, start: int, end: int, first_line: int, limit: int = MAX_CHARS) -> Window:
    """Cut a text to whole lines around a passage.

    Args:
        text: The text.
        start: Where the passage starts, in characters.
        end: Where it ends.
        first_line: Number of the first line of `text`.
        limit: About how many characters to keep.

    Returns:
        The part, with passage and line number moved to it.
    """
    start = max(0, min(start, len(text)))
    end = max(start, min(end, len(text)))
    if len(text) <= limit:
        return Window(text, start, end, first_line)
    spare = max(0, limit - (end - start)) // 2
    low, high = max(0, start - spare), min(len(text), max(start, min(end, start + limit)) + spare)
    newline = text.find("\n", low, start)
    low = newline + 1 if low and newline >= 0 else low
    newline = text.rfind("\n", end, high)
    high = newline if high < len(text) and newline >= 0 else high
    line = first_line + text.count("\n", 0, low)
    return Window(text[low:high], start - low, min(end, high) - low, line)


def code_spans(text: str, language: str | None) -> Spans:
    """What to colour in source code. Safe on any thread.

    Args:
        text: The code.
        language: Such as ``python``; unknown ones are left plain.

    Returns:
        For each line (from 0) the start, length (both as Qt counts) and kind of its coloured parts.
    """
    from pygments.lexers import get_lexer_by_name
    from pygments.token import Comment, Error, Keyword, Name, Number, Operator, String
    from pygments.util import ClassNotFound

    if not language:
        return {}
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return {}
    kinds: tuple[tuple[Any, str], ...] = (
        (Comment, "comment"),
        (Keyword, "keyword"),
        (Operator.Word, "keyword"),
        (Name.Decorator, "decorator"),
        (Name.Function, "name"),
        (Name.Class, "name"),
        (Name.Builtin, "builtin"),
        (Name.Tag, "name"),
        (Name.Attribute, "builtin"),
        (String, "string"),
        (Number, "number"),
        (Error, "plain"),
    )
    spans: Spans = {}
    line = column = 0
    for token, value in lexer.get_tokens(text):
        kind = next((name for family, name in kinds if token in family), "plain")
        for i, part in enumerate(value.split("\n")):
            if i:
                line, column = line + 1, 0
            length = utf16(part, len(part))
            if kind != "plain" and length:
                spans.setdefault(line, []).append((column, length, kind))
            column += length
    return spans


class CodeHighlighter(QSyntaxHighlighter):
    """Applies spans that were computed elsewhere.

    Args:
        document: What to colour.
        theme: Where the colours come from.
    """

    def __init__(self, document: QTextDocument, theme: Theme) -> None:
        super().__init__(document)
        self._theme = theme
        self._spans: Spans = {}
        theme.changed.connect(self.rehighlight)

    def set_spans(self, spans: Spans) -> None:
        """Colour the document anew."""
        self._spans = spans
        self.rehighlight()

    def clear(self) -> None:
        """Forget the colours before other text is shown."""
        self._spans = {}

    def highlightBlock(self, text: str) -> None:
        for start, length, kind in self._spans.get(self.currentBlock().blockNumber(), ()):
            style = QTextCharFormat()
            style.setForeground(self._theme.code_color(kind))
            if kind == "comment":
                style.setFontItalic(True)
            self.setFormat(start, length, style)
