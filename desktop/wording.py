"""Small texts made of data: places, paths, counts, times; and offsets as Qt counts them."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from PySide6.QtCore import QCoreApplication, QDateTime, QLocale

from indexer import api

_SURROGATE = re.compile("[\ud800-\udfff]")
ICONS: dict[str, str] = {
    "text": "file-text",
    "markdown": "file-markdown",
    "code": "file-code",
    "html": "file-html",
    "pdf": "file-pdf",
    "epub": "file-epub",
}


def printable(text: str) -> str:
    """Text that Qt can show: undecodable bytes of a file name become U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def file_name(path: str) -> str:
    """The last part of a path."""
    return printable(Path(api.local_path(path)).name or path)


def folder_of(path: str) -> str:
    """The folder a file is in, with ``~`` for the person's home."""
    return tilde(str(Path(path).parent))


def tilde(path: str) -> str:
    """A path with ``~`` for the person's home."""
    path = api.local_path(path)
    home = str(Path.home())
    if path == home:
        return "~"
    if len(home) > 1 and path.startswith(home.rstrip("/\\") + ("\\" if sys.platform == "win32" else "/")):
        return printable("~" + path[len(home.rstrip("/\\")) :])
    return printable(path)


def place(locator: api.Locator) -> str:
    """Where a passage stands in its file, in the person's language."""
    parts = []
    if locator.page is not None:
        parts.append(QCoreApplication.translate("Wording", "page %1").replace("%1", number(locator.page)))
    if locator.chapter is not None:
        text = QCoreApplication.translate("Wording", "chapter %1")
        parts.append(text.replace("%1", number(locator.chapter)))
    if locator.line_start is not None:
        first, last = locator.line_start, locator.line_end
        if last is None or last == first:
            text = QCoreApplication.translate("Wording", "line %1")
            parts.append(text.replace("%1", str(first)))
        else:
            text = QCoreApplication.translate("Wording", "lines %1–%2")
            parts.append(text.replace("%1", str(first)).replace("%2", str(last)))
    if locator.symbol:
        parts.append(locator.symbol)
    elif locator.heading:
        parts.append(" › ".join(h.strip() for h in locator.heading[-2:]))
    return printable(" · ".join(parts))


def number(n: int) -> str:
    """A whole number with the separators of the person's language."""
    return QLocale().toString(n)


def size(n: int) -> str:
    """A file size, such as ``3.4 MB``."""
    return QLocale().formattedDataSize(n, 1, QLocale.DataSizeFormat.DataSizeTraditionalFormat)


def files(n: int) -> str:
    """So many files."""
    return QCoreApplication.translate("Wording", "%n file(s)", "", n)


def passages(n: int) -> str:
    """So many passages."""
    return QCoreApplication.translate("Wording", "%n passage(s)", "", n)


def problems(n: int) -> str:
    """So many problems."""
    return QCoreApplication.translate("Wording", "%n problem(s)", "", n)


def relation(kind: str) -> str:
    """How a folded file is related to the one it is under."""
    names = {
        "copy": QCoreApplication.translate("Wording", "Copy"),
        "version": QCoreApplication.translate("Wording", "Version"),
        "translation": QCoreApplication.translate("Wording", "Translation"),
    }
    return names.get(kind, kind)


def folded(variants: tuple[api.Variant, ...]) -> str:
    """What is folded under a file, such as ``2 translations, 1 copy``."""
    parts = []
    if n := sum(v.kind == "translation" for v in variants):
        parts.append(QCoreApplication.translate("Wording", "%n translation(s)", "", n))
    if n := sum(v.kind == "version" for v in variants):
        parts.append(QCoreApplication.translate("Wording", "%n version(s)", "", n))
    if n := sum(v.kind == "copy" for v in variants):
        parts.append(QCoreApplication.translate("Wording", "%n copy(ies)", "", n))
    return QCoreApplication.translate("Wording", ", ").join(parts)


def took(ms: float) -> str:
    """How long an answer took, in milliseconds or seconds."""
    if ms < 1000:
        return QCoreApplication.translate("Wording", "%1 ms").replace("%1", number(max(1, round(ms))))
    seconds = QLocale().toString(ms / 1000, "f", 1)
    return QCoreApplication.translate("Wording", "%1 s").replace("%1", seconds)


def remaining(seconds: float) -> str:
    """How long something will still take, roughly."""
    if seconds < 50:
        return QCoreApplication.translate("Wording", "less than a minute left")
    if seconds < 90 * 60:
        minutes = max(1, round(seconds / 60))
        return QCoreApplication.translate("Wording", "about %n min left", "", minutes)
    hours = max(2, round(seconds / 3600))
    return QCoreApplication.translate("Wording", "about %n h left", "", hours)


def when(timestamp: float) -> str:
    """A moment, as a short date and time, or the time alone today."""
    moment = QDateTime.fromSecsSinceEpoch(int(timestamp))
    short = QLocale.FormatType.ShortFormat
    if moment.date() == QDateTime.currentDateTime().date():
        return QLocale().toString(moment.time(), short)
    return QLocale().toString(moment, short)


def language_chip(passage: api.Passage, hit: api.Hit) -> str:
    """What the language chip of a passage says."""
    if passage.lang == "code":
        return (hit.code_language or "code").upper()
    return passage.lang.upper()


def language_name(code: str) -> str:
    """The language of an ISO 639-1 code in that language itself, or the code."""
    locale = QLocale(code)
    return locale.nativeLanguageName() if locale.language() != QLocale.Language.C else code


def utf16(text: str, offset: int) -> int:
    """The offset that Qt uses for the character `offset` of `text`."""
    head = text[:offset]
    return len(head) if head.isascii() else len(head.encode("utf-16-le", "surrogatepass")) // 2
