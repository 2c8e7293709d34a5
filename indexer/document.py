"""What extraction hands to chunking and chunking to the store. They cross to and from child processes."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from indexer.api import Locator, Media, Rect

BlockKind = Literal["heading", "paragraph", "code", "list", "table", "quote"]


class Block(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stretch of a document's text with its place in the file.

    Attributes:
        kind: What the stretch is.
        start: First character in `Document.text`.
        end: One past the last character.
        level: 1 to 6, for headings.
        page: Page from 1, for PDF.
        rect: Rectangle on that page.
        chapter: From 1, for EPUB.
        line: First line of the block in the file, from 1, where the file has lines.
    """

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    page: int | None = None
    rect: Rect | None = None
    chapter: int | None = None
    line: int | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    r"""A file's text and structure.

    Attributes:
        text: The whole text, lines ended by ``\n``; for text, Markdown and code it is the decoded
            file itself, so that line numbers are the file's.
        blocks: In order of `start`, not overlapping; text between them is white space.
        title: From the file's own metadata or first heading, empty when it has none.
        code_language: Lower-case name such as ``python``, for source code.
        encoding: How the bytes were decoded, for text families.
        pages: How many pages, for PDF.
    """

    media: Media
    text: str
    blocks: tuple[Block, ...]
    title: str = ""
    code_language: str | None = None
    encoding: str = ""
    pages: int = 0


class Chunk(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A passage that is embedded as one vector; ``document.text[start:end] == text``.

    Attributes:
        context: What stands above the passage and belongs to its meaning (headings, or the symbol
            a piece of code is part of); embedded in front of the text, never shown as part of it.
        lang: ISO 639-1 code, ``code`` for source code, empty when unknown.
        tokens: Tokens of `embed_text` by the encoder's own tokenizer, special tokens not counted.
    """

    start: int
    end: int
    text: str
    locator: Locator
    lang: str
    tokens: int
    context: str = ""

    @property
    def embed_text(self) -> str:
        """What the encoder is given."""
        return f"{self.context}\n{self.text}" if self.context else self.text

    @property
    def text_hash(self) -> bytes:
        """16 bytes that are equal for equal `embed_text`, so that its vector can be used again."""
        return hashlib.blake2b(self.embed_text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
