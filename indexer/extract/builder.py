"""Assembles a document's text and blocks; keeps the order, the limits and the text clean."""

from __future__ import annotations

import re
from pathlib import Path

from indexer.api import Rect
from indexer.document import Block, BlockKind
from indexer.errors import FileError

MAX_CHARACTERS = 50_000_000

# Scripts that put no space between words. Hangul is left out: Korean does, and a line
# that breaks inside one of its words cannot be told from one that breaks between two.
UNSPACED = (
    "\u2e80-\u303f\u3040-\u30ff\u3100-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff"
)
# C0 and C1 controls but tab, line feed and next line, lone surrogates, noncharacters.
_UNCLEAN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def clean(text: str) -> str:
    """Replace every character that cannot stand in a text by a space, so that offsets stay."""
    return _UNCLEAN.sub(" ", text)


def too_long(path: Path) -> FileError:
    """The error for a file whose text is longer than `MAX_CHARACTERS`."""
    message = f"The file holds more than {MAX_CHARACTERS // 1_000_000} million characters of text."
    return FileError(path, "Too much text", message, kind="skipped")


def no_text(path: Path) -> FileError:
    """The error for a file that is in order but holds nothing to search for."""
    return FileError(path, "No text", "The file holds no text.", kind="skipped")


class TextBuilder:
    """Puts blocks one after the other; for the families whose text is not the file itself."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: list[str] = []
        self._length = 0
        self.blocks: list[Block] = []

    def add(
        self,
        kind: BlockKind,
        text: str,
        *,
        level: int = 0,
        page: int | None = None,
        rect: Rect | None = None,
        chapter: int | None = None,
        line: int | None = None,
    ) -> None:
        """Append a block; text that is only white space is left out.

        Raises:
            FileError: The text grew beyond `MAX_CHARACTERS`.
        """
        text = clean(text).strip() if kind != "code" else clean(text).rstrip().lstrip("\n")
        if not text.strip():
            return
        if self.blocks:
            tight = kind == "list" and self.blocks[-1].kind == "list"
            separator = "\n" if tight else "\n\n"
            self._parts.append(separator)
            self._length += len(separator)
        start = self._length
        self._parts.append(text)
        self._length += len(text)
        if self._length > MAX_CHARACTERS:
            raise too_long(self._path)
        self.blocks.append(
            Block(
                kind=kind,
                start=start,
                end=self._length,
                level=level,
                page=page,
                rect=rect,
                chapter=chapter,
                line=line,
            )
        )

    def text(self) -> str:
        """All blocks, parted by empty lines (the items of a list by line ends)."""
        return "".join(self._parts)
