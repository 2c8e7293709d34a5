"""Plain text: bytes to characters in any common encoding, and paragraphs."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from indexer.document import Block, BlockKind, Document
from indexer.errors import FileError
from indexer.extract.builder import MAX_CHARACTERS, no_text, too_long
from indexer.extract.kinds import Kind, language_of_shebang

_SAMPLE = 64 * 1024
# Longest first: the UTF-32 mark begins with the UTF-16 one.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_ESCAPES = (
    (b"\x1b$)C", "iso2022_kr"),
    (b"\x1b$B", "iso2022_jp_2"),
    (b"\x1b$@", "iso2022_jp_2"),
    (b"\x1b(J", "iso2022_jp_2"),
    (b"\x1b$(D", "iso2022_jp_2"),
)
# A label to the superset that is met under it in practice.
_SUPERSETS = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "cp936": "gb18030",
    "hz": "hz",
    "big5": "big5hkscs",
    "cp950": "big5hkscs",
    "big5-tw": "big5hkscs",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "sjis": "cp932",
    "x-sjis": "cp932",
    "windows-31j": "cp932",
    "euc_kr": "cp949",
    "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949",
    "ascii": "cp1252",
    "us-ascii": "cp1252",
    "iso-8859-1": "cp1252",
    "iso8859-1": "cp1252",
    "latin-1": "cp1252",
    "latin1": "cp1252",
    "iso-8859-9": "cp1254",
    "iso8859-9": "cp1254",
    "tis-620": "cp874",
    "x-user-defined": "cp1252",
    "unicode": "utf-16",
}
_TEXT_CONTROLS = frozenset(b"\t\n\v\f\r\b\x1b\x1a")


def extract(path: Path, data: bytes, kind: Kind) -> Document:
    """The document of a plain text file.

    Raises:
        FileError: The bytes are no text, or hold nothing but white space.
    """
    text, encoding = decode_file(path, data)
    if not kind.certain and (language := language_of_shebang(text[:200].partition("\n")[0])):
        from indexer.extract import code

        return code.document(path, text, encoding, language)
    blocks = tuple(_blocks(text, kind.dialect))
    if not blocks:
        raise no_text(path)
    headings = [block for block in blocks if block.kind == "heading"]
    title = heading_text(text[headings[0].start : headings[0].end], kind.dialect) if headings else ""
    return Document(media="text", text=text, blocks=blocks, title=title, encoding=encoding)


def decode_file(path: Path, data: bytes) -> tuple[str, str]:
    r"""The characters of a text file, lines ended by ``\n``, and the encoding's name.

    Raises:
        FileError: The bytes are no text, or more than a text may have.
    """
    decoded = decode(data)
    if decoded is None:
        message = "The content is binary data, not text."
        raise FileError(path, "Not a text file", message, kind="skipped")
    text = normalise(decoded[0])
    if len(text) > MAX_CHARACTERS:
        raise too_long(path)
    return text, decoded[1]


def normalise(text: str) -> str:
    r"""End every line with ``\n`` and leave no NUL.

    Where a file has ``\n`` at all, a lone carriage return is no line end (editors and grep count
    lines so) and becomes a space; only files without any ``\n`` are taken for old Macintosh ones.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n")
        text = text.replace("\r", " " if "\n" in text else "\n")
    return text.replace("\0", " ")


def decode(data: bytes, declared: str | None = None) -> tuple[str, str] | None:
    """Bytes to characters.

    In this order: byte order mark, ISO-2022 escapes, the pattern of NULs of UTF-16, strict
    UTF-8, the declared encoding, statistics over the first 64 KiB that are not ASCII.

    Args:
        data: The bytes.
        declared: What the file says of itself, if it does.

    Returns:
        The text and the encoding's Python name, or None when the bytes are no text.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace").replace("\ufffe", "\ufffd"), encoding
    if b"\x1b" in data and max(data, default=0) < 0x80:
        for escape, encoding in _ESCAPES:
            if escape in data and (text := _strict(data, encoding)) is not None:
                return text, encoding
    if b"\0" in data[:_SAMPLE] and (wide := _utf16(data)):
        return wide
    if _is_binary(data):
        return None
    if (text := _strict(data, "utf-8")) is not None:
        return text, "utf-8"
    if declared and (known := _known(declared)) and (text := _strict(data, known)) is not None:
        return text, known
    lenient = data.decode("utf-8", "replace")
    damaged = lenient.count("\ufffd")
    # A few broken bytes in what is otherwise UTF-8: in no other encoding do hundreds of
    # sequences come out valid by chance.
    if damaged * 20 < sum(1 for character in lenient if character >= "\x80") - damaged:
        return lenient, "utf-8"
    return _detect(data)


def heading_text(source: str, dialect: str = "") -> str:
    """The words of a heading without its markup."""
    first = source.strip().split("\n")
    line = next((line for line in first if any(character.isalnum() for character in line)), first[0])
    if dialect == "tex":
        return re.sub(r"\\[a-zA-Z]+\*?|[{}]", " ", line).strip()
    return line.strip("#=* \t").strip()


def paragraphs(text: str) -> Iterator[tuple[int, int, int]]:
    """Start, end and first line (from 1) of every run of lines that are not blank."""
    position, start, first, end = 0, -1, 0, 0
    for line, row in enumerate(text.split("\n"), start=1):
        if row.strip():
            if start < 0:
                start, first = position, line
            end = position + len(row.rstrip())
        elif start >= 0:
            yield start, end, first
            start = -1
        position += len(row) + 1
    if start >= 0:
        yield start, end, first


# --- structure of plain text markups ------------------------------------------------------

_RULE = re.compile(r"([=\-`:.'\"~^_*+#<>])\1{2,}\s*$")
_PREFIXES = {"org": "*", "adoc": "=", "wiki": "="}
_TEX_LEVELS = {"part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4, "title": 1}
_TEX_HEADING = re.compile(r"\\(part|chapter|section|subsection|subsubsection|title)\*?\s*(\[[^\]]*\])?\{")


def _blocks(text: str, dialect: str) -> Iterator[Block]:
    rst_levels: dict[str, int] = {}
    kind: BlockKind = "table" if dialect == "csv" else "paragraph"
    for start, end, line in paragraphs(text):
        if dialect in ("", "csv"):
            yield Block(kind=kind, start=start, end=end, line=line)
            continue
        # A heading may stand right above its paragraph: split the run of lines.
        rows = text[start:end].split("\n")
        position, index, open_at, open_line = start, 0, -1, 0
        while index < len(rows):
            count, level = _heading(rows, index, dialect, rst_levels)
            length = (
                sum(len(row) + 1 for row in rows[index : index + count]) if count else len(rows[index]) + 1
            )
            if count:
                if open_at >= 0:
                    yield Block(
                        kind="paragraph", start=open_at, end=_last(text, open_at, position), line=open_line
                    )
                    open_at = -1
                yield Block(
                    kind="heading",
                    start=position,
                    end=_last(text, position, min(position + length, end)),
                    level=level,
                    line=line + index,
                )
            elif open_at < 0:
                open_at, open_line = position, line + index
            position += length
            index += count or 1
        if open_at >= 0:
            yield Block(kind="paragraph", start=open_at, end=end, line=open_line)


def _last(text: str, start: int, end: int) -> int:
    return start + len(text[start:end].rstrip())


def _heading(rows: list[str], index: int, dialect: str, rst_levels: dict[str, int]) -> tuple[int, int]:
    """How many rows from `index` on are one heading (0 for none), and its level."""
    row = rows[index]
    if dialect == "rst":
        for above in (1, 0):  # a rule above and below, or only below
            if index + above + 1 >= len(rows):
                continue
            words, below = rows[index + above], rows[index + above + 1]
            if not _RULE.match(below) or _RULE.match(words) or len(below.strip()) < len(words.strip()):
                continue
            if above and (row.strip() != below.strip() or not _RULE.match(row)):
                continue
            style = below[0] * (above + 1)
            level = rst_levels.setdefault(style, len(rst_levels) + 1)
            return above + 2, min(level, 6)
        return 0, 0
    if dialect == "tex":
        found = _TEX_HEADING.match(row.lstrip())
        return (1, _TEX_LEVELS[found[1]]) if found else (0, 0)
    sign = _PREFIXES.get(dialect, "")
    depth = len(row) - len(row.lstrip(sign)) if sign else 0
    if depth and (row[depth:].startswith(" ") or (dialect == "wiki" and depth > 1)) and row[depth:].strip():
        return 1, min(depth, 6)
    return 0, 0


# --- encodings ----------------------------------------------------------------------------


def _strict(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None


def _known(label: str) -> str | None:
    """A text encoding's Python name for a label; None for unknown ones and for codecs of bytes."""
    label = label.strip().lower()
    label = _SUPERSETS.get(label, label)
    try:
        found = codecs.lookup(label)
    except (LookupError, ValueError):
        return None
    text_codec = getattr(found, "_is_text_encoding", True)
    safe = text_codec and found.name not in {"idna", "punycode", "raw-unicode-escape", "unicode-escape"}
    return _SUPERSETS.get(found.name, found.name) if safe and found.name != "utf-7" else None


def _is_binary(data: bytes) -> bool:
    sample = data[:_SAMPLE]
    controls = sum(1 for byte in sample if byte < 0x20 and byte not in _TEXT_CONTROLS)
    return controls > max(1, len(sample) // 500)


def _utf16(data: bytes) -> tuple[str, str] | None:
    """UTF-16 or UTF-32 without a mark: the reading with few odd characters, if there is one."""
    best: tuple[float, str] | None = None
    for encoding, width in (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2)):
        text = _strict(data[: min(_SAMPLE, len(data) - len(data) % width)], encoding)
        if text is None and width == 2:  # the sample may end inside a surrogate pair
            text = _strict(data[: min(_SAMPLE, len(data)) // 2 * 2 - 2], encoding)
        if not text:
            continue
        odd = sum(map(_is_odd, text)) / len(text)
        if best is None or odd < best[0]:
            best = (odd, encoding)
    if best is None or best[0] > 0.03:
        return None
    text = data.decode(best[1], "replace")
    # The whole must hold what the sample promised.
    return (text, best[1]) if text.count("\ufffd") <= max(1, len(text) // 1000) else None


def _is_odd(character: str) -> bool:
    code = ord(character)
    if code < 0x20:
        return character not in "\t\n\r\f\v"
    # Text read with the wrong byte order is full of U+xx00: U+0A00 for a line end.
    return code & 0xFF == 0 or unicodedata.category(character) in ("Cc", "Cn", "Co", "Cs")


def _detect(data: bytes) -> tuple[str, str] | None:
    import chardet

    # Leave out what is ASCII to the first line with anything else: it tells nothing.
    first = next((match.start() for match in re.finditer(rb"[\x80-\xff]", data)), 0)
    start = data.rfind(b"\n", 0, first) + 1 if first > _SAMPLE // 2 else 0
    sample = data[start : start + _SAMPLE]
    if len(sample) == _SAMPLE and (cut := sample.rfind(b"\n")) > _SAMPLE // 2:
        sample = sample[: cut + 1]
    label = chardet.detect(sample)["encoding"]
    encoding = _known(label) if label else None
    if encoding is None:
        return None
    text = _strict(data, encoding)
    if text is None:
        text = data.decode(encoding, "replace")
        if text.count("\ufffd") > max(2, len(text) // 50):
            return None
    return text, encoding
