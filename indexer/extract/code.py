"""Source code and the like: the file itself, in pieces parted by blank lines."""

from __future__ import annotations

from pathlib import Path

from indexer.document import Block, Document
from indexer.errors import FileError
from indexer.extract.builder import no_text
from indexer.extract.text import decode_file, paragraphs

# More than so many characters in ten lines were not typed by anyone.
_MINIFIED_SIZE = 20_000
_MINIFIED_LANGUAGES = frozenset(("javascript", "css", "typescript"))


def extract(path: Path, data: bytes, language: str | None) -> Document:
    """The document of a source file.

    Raises:
        FileError: The bytes are no text, nothing but white space, or minified code.
    """
    text, encoding = decode_file(path, data)
    return document(path, text, encoding, language)


def document(path: Path, text: str, encoding: str, language: str | None) -> Document:
    """The document of decoded source code; symbols are found later, from the text.

    Raises:
        FileError: There is nothing but white space, or the code is minified.
    """
    if language in _MINIFIED_LANGUAGES and len(text) > _MINIFIED_SIZE * (1 + text.count("\n") // 10):
        message = "The file is minified code, made by a program for programs."
        raise FileError(path, "Minified code", message, kind="skipped")
    blocks = tuple(
        Block(kind="code", start=start, end=end, line=line) for start, end, line in paragraphs(text)
    )
    if not blocks:
        raise no_text(path)
    return Document(media="code", text=text, blocks=blocks, code_language=language, encoding=encoding)
