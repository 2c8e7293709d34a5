"""Files to documents: `kind_of` by name, `extract` by content. One module a family, loaded when first needed.

Nothing here opens a file, follows a link or uses the network: the bytes come from the caller.
Whatever the bytes are, the answer is a `Document` or a `FileError`.
"""

from __future__ import annotations

from pathlib import Path

from indexer.api import Rect
from indexer.document import Document
from indexer.errors import FileError
from indexer.extract.kinds import Kind, kind_of

__all__ = ["EXTRACTOR_VERSION", "Kind", "extract", "kind_of", "render_page", "unsupported"]

# Part of every file's content key: raising it makes every file be extracted again.
EXTRACTOR_VERSION = 1


def unsupported(path: Path) -> FileError:
    """The error for a file whose name belongs to a format that is not read."""
    what = f"“{path.suffix.lower()}” files" if path.suffix else "Files of this kind"
    return FileError(path, "Not a supported format", f"{what} cannot be read yet.", kind="skipped")


def extract(path: Path, data: bytes) -> Document:
    """The text and structure of a file.

    Args:
        path: The file's name; it chooses the family and stands in errors. The file is not opened.
        data: The whole content.

    Returns:
        A document with at least one block; blocks in order, apart, inside the text, and nothing
        but white space outside of them.

    Raises:
        FileError: The content cannot be read, or holds no text; the message says why.
        MemoryError: There is not enough memory for this file.
    """
    kind = kind_of(path)
    if kind is None:
        raise unsupported(path)
    try:
        return _extract(path, data, kind)
    except (FileError, MemoryError):
        raise
    # Parsers of hostile input fail in ways that no list of exceptions covers.
    except Exception as error:
        if "malloc" in str(error) or "calloc" in str(error):  # how MuPDF says it
            raise MemoryError from error
        message = f"The file seems to be damaged ({_describe(error)})."
        raise FileError(path, "Could not be read", message) from error


def _extract(path: Path, data: bytes, kind: Kind) -> Document:
    media = kind.media
    if not kind.certain and data[:1024].lstrip().startswith(b"%PDF-"):
        media = "pdf"
    match media:
        case "pdf":
            from indexer.extract import pdf

            return pdf.extract(path, data)
        case "epub":
            from indexer.extract import epub

            return epub.extract(path, data)
        case "html":
            from indexer.extract import html

            return html.extract(path, data)
        case "markdown":
            from indexer.extract import markdown

            return markdown.extract(path, data)
        case "code":
            from indexer.extract import code

            return code.extract(path, data, kind.code_language)
        case "text":
            from indexer.extract import text

            return text.extract(path, data, kind)


def render_page(
    path: Path, data: bytes, *, page: int, width: int, rects: tuple[Rect, ...] = ()
) -> tuple[bytes, int, float]:
    """Draw one page of a PDF.

    Args:
        path: The file's name, for errors.
        data: The whole content.
        page: From 1.
        width: Width of the image in pixels; held between 50 and 4000.
        rects: Parts of the page to mark, in points.

    Returns:
        The image as PNG, the number of pages the file has, and the width of this page in points as it
        is seen, turned or not.

    Raises:
        FileError: The file cannot be read or has no such page.
        MemoryError: There is not enough memory for this page.
    """
    from indexer.extract import pdf

    try:
        return pdf.render(path, data, page=page, width=width, rects=rects)
    except (FileError, MemoryError):
        raise
    except Exception as error:
        if "malloc" in str(error) or "calloc" in str(error):
            raise MemoryError from error
        message = f"The page seems to be damaged ({_describe(error)})."
        raise FileError(path, "The page could not be drawn", message) from error


def _describe(error: Exception) -> str:
    said = " ".join(str(error).split()).encode("utf-8", "replace").decode("utf-8")
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__
