"""EPUB: the chapters of a book in reading order."""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from indexer.document import Document
from indexer.errors import FileError
from indexer.extract import html
from indexer.extract.builder import TextBuilder, clean, no_text

if TYPE_CHECKING:
    from lxml import etree

# Far beyond any book, and far below what would hurt.
_MAX_ENTRIES = 20_000
_MAX_ENTRY_BYTES = 64 << 20
_MAX_TOTAL_BYTES = 256 << 20
_CONTAINER = "META-INF/container.xml"
_PAGES = frozenset(("application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document"))


def extract(path: Path, data: bytes) -> Document:
    """The document of an EPUB book; chapters are the parts of its spine that hold text, from 1.

    Raises:
        FileError: It is no EPUB, is damaged, is protected, or unpacks to more than a book.
    """
    try:
        archive = zipfile.ZipFile(BytesIO(data))
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError, EOFError) as error:
        message = f"The file is not a complete EPUB archive ({error})."
        raise FileError(path, "The book cannot be opened", message) from error
    with archive:
        return _Book(path, archive).document()


class _Book:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self._path = path
        self._archive = archive
        self._unpacked = 0
        if len(archive.namelist()) > _MAX_ENTRIES:
            raise self._bomb()
        # Some makers write names in another case than they refer to them.
        self._names = {name.lower(): name for name in archive.namelist()}

    def document(self) -> Document:
        container = self._xml(_CONTAINER)
        rootfile = next(container.iter("{*}rootfile"), None)
        package_name = unquote(rootfile.get("full-path") or "") if rootfile is not None else ""
        package = self._xml(package_name)
        folder = posixpath.dirname(package_name)
        protected = self._protected()

        manifest: dict[str, str] = {}
        for item in package.iter("{*}item"):
            if item.get("media-type") in _PAGES and "nav" not in (item.get("properties") or "").split():
                manifest[item.get("id") or ""] = _resolve(folder, item.get("href") or "")
        pages = [
            manifest[item.get("idref") or ""]
            for item in package.iter("{*}itemref")
            if item.get("idref") in manifest
        ]
        if not pages:
            raise self._damaged("its list of chapters is missing or empty")
        pages = list(dict.fromkeys(pages))
        if all(page in protected for page in pages):
            message = "The book is protected by DRM and can only be read by the shop's own program."
            raise FileError(self._path, "The book is protected", message)

        builder = TextBuilder(self._path)
        chapter, missing = 1, 0
        for page in pages:
            before = len(builder.blocks)
            content = self._read(page)
            if content is None:
                missing += 1
            elif page not in protected and content.strip():
                html.read(self._path, content, builder, chapter=chapter)
            if len(builder.blocks) > before:
                chapter += 1
        if not builder.blocks:
            raise self._damaged("none of its chapters is there") if missing else no_text(self._path)
        title = next((node.text for node in package.iter("{*}title") if node.text), "")
        return Document(
            media="epub",
            text=builder.text(),
            blocks=tuple(builder.blocks),
            title=" ".join(clean(title).split())[:500],
        )

    def _protected(self) -> set[str]:
        """Names of the entries that are encrypted (fonts often are, which is no harm)."""
        if (content := self._read("META-INF/encryption.xml")) is None:
            return set()
        references = _parse(content)
        if references is None:
            return set()
        return {unquote(node.get("URI") or "") for node in references.iter("{*}CipherReference")}

    def _xml(self, name: str) -> etree._Element:
        content = self._read(name)
        if content is None:
            raise self._damaged(f"“{clean(name) or 'its package file'}” is missing")
        root = _parse(content)
        if root is None:
            raise self._damaged(f"“{clean(name)}” is not XML")
        return root

    def _read(self, name: str) -> bytes | None:
        """One entry unpacked, None when it is not there; the sizes in the archive are not believed."""
        real = self._names.get(name.lower())
        if real is None:
            return None
        try:
            with self._archive.open(real) as entry:
                content = entry.read(_MAX_ENTRY_BYTES + 1)
        except RuntimeError as error:  # what zipfile raises for an entry with a password
            message = "The book asks for a password. Save a copy without one to have it indexed."
            raise FileError(self._path, "The book is protected", message) from error
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, ValueError) as error:
            raise self._damaged(f"“{clean(name)}” cannot be unpacked") from error
        self._unpacked += len(content)
        if len(content) > _MAX_ENTRY_BYTES or self._unpacked > _MAX_TOTAL_BYTES:
            raise self._bomb()
        return content

    def _bomb(self) -> FileError:
        message = "The file unpacks to far more than a book holds, so it was left alone."
        return FileError(self._path, "Unpacks to too much", message)

    def _damaged(self, why: str) -> FileError:
        return FileError(self._path, "The book is damaged", f"It cannot be read: {why}.")


def _parse(content: bytes) -> etree._Element | None:
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, recover=True)
    try:
        # With recover=True lxml answers None for what is no XML at all, whatever its stubs say.
        root: etree._Element | None = etree.fromstring(content, parser)
    except (etree.XMLSyntaxError, ValueError):
        return None
    return root


def _resolve(folder: str, href: str) -> str:
    """A reference as a name in the archive; it can lead nowhere else, whatever it says."""
    return posixpath.normpath(posixpath.join("/", folder, unquote(href.partition("#")[0]))).lstrip("/")
