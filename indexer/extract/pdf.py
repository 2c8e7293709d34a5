"""PDF: text with page and rectangle, headings from the outline or the type size, pages as images."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from indexer.api import Rect
from indexer.document import BlockKind, Document
from indexer.errors import FileError
from indexer.extract.builder import UNSPACED, TextBuilder, clean, no_text

_MAX_PIXELS = 40_000_000
_HIGHLIGHT = (255, 232, 140)  # a marker's yellow; multiplied with the page, so black stays black
_MONOSPACED, _BOLD = 8, 16  # MuPDF's span flags
_BULLET = re.compile(r"(?:[•‣◦▪●○■□–—*·➢✓-]|\(?(?:\d{1,3}|[a-zA-Z])[.)])\s+\S")
_SENTENCE_END = re.compile(r"[.!?:。！？：…][\"'”’」』）)]*$")
_HYPHEN = re.compile(r"[^\W\d_][-\u2010]$")
_NUMBER = re.compile(
    r"^\s*(?:chapter|part|appendix|section|kapitel|chapitre|第)?\s*(?:\d+(?:\.\d+)*|[A-Z](?:\.\d+)+)\s*[.:章节部]?\s*",
    re.I,
)
_LEADER = re.compile(r"(?:\.[ \t]?){5,}")
_JUNK_TITLE = re.compile(
    r"(?:untitled|no title|无标题|無題|microsoft word - .*|"
    r".*\.(?:dvi|tex|docx?|pdf|pptx?|xlsx?|indd|qxd|ps|rtf|odt))$",
    re.I,
)


class _Row(msgspec.Struct):
    """One line of print."""

    text: str
    rect: tuple[float, float, float, float]
    size: float
    bold: bool
    mono: bool


class _Part(msgspec.Struct):
    """A paragraph, heading or listing on one page."""

    page: int
    rows: list[_Row]
    height: float  # of the page

    @property
    def rect(self) -> Rect:
        x0 = min(row.rect[0] for row in self.rows)
        y0 = min(row.rect[1] for row in self.rows)
        x1 = max(row.rect[2] for row in self.rows)
        y1 = max(row.rect[3] for row in self.rows)
        return Rect(x0=round(x0, 1), y0=round(y0, 1), x1=round(x1, 1), y1=round(y1, 1))

    @property
    def size(self) -> float:
        return max(row.size for row in self.rows)

    @property
    def mono(self) -> bool:
        return all(row.mono for row in self.rows)

    @property
    def tabular(self) -> bool:
        """Whether most rows have columns, which are parted by tabs."""
        return len(self.rows) > 1 and sum("\t" in row.text for row in self.rows) * 2 > len(self.rows)

    def text(self) -> str:
        if self.mono:
            left = min(row.rect[0] for row in self.rows)
            # A monospaced character is about 0.6 of its size wide; fewer than 80 keeps odd layouts out.
            return "\n".join(
                " " * min(round((row.rect[0] - left) / (row.size * 0.6 or 1)), 80) + row.text
                for row in self.rows
            ).replace("\t", "  ")
        if self.tabular:
            return "\n".join(row.text for row in self.rows).replace("\t", "  ")
        return _join(self.rows)


def extract(path: Path, data: bytes) -> Document:
    """The document of a PDF.

    Raises:
        FileError: It is no PDF, damaged beyond use, needs a password, or has no text to read.
    """
    with _open(path, data) as pdf:
        parts: list[_Part] = []
        images = False
        broken = 0
        for number in range(pdf.page_count):
            try:
                page = pdf.load_page(number)
                parts.extend(_parts(page, number + 1))
                images = images or (not parts and bool(page.get_images()))
            except (RuntimeError, ValueError) as error:
                if "malloc" in str(error):
                    raise
                broken += 1
        repaired = bool(pdf.is_repaired)
        outline = _outline(pdf)
        pages = pdf.page_count
        title = " ".join(clean(str((pdf.metadata or {}).get("title") or "")).split())[:500]
    _pymupdf().TOOLS.store_shrink(100)  # fonts and the like, kept for a next look that never comes

    if not any(row.text.strip() for part in parts for row in part.rows):
        if repaired or broken or not pages:
            message = "The file is damaged or incomplete: no text could be got out of it."
            raise FileError(path, "The PDF is damaged", message)
        if images:
            message = "It seems to be scanned: it has no text layer; OCR is not done yet."
            raise FileError(path, "Only images", message, kind="skipped")
        raise no_text(path)
    _check_readable(path, parts)

    parts = list(_without_running_titles(parts, pages)) or parts
    # A table of contents repeats every heading without saying anything.
    parts = [part for part in parts if not all(_LEADER.search(row.text) for row in part.rows)] or parts
    builder = TextBuilder(path)
    levels = _heading_levels(parts, outline)
    for index, part in enumerate(parts):
        text = part.text()
        kind: BlockKind = "paragraph"
        if level := levels.get(index, 0):
            kind = "heading"
        elif part.mono:
            kind = "code"
        elif part.tabular:
            kind = "table"
        elif _BULLET.match(text):
            kind = "list"
        builder.add(kind, text, level=level, page=part.page, rect=part.rect)
    if _JUNK_TITLE.match(title) or not title:
        title = _largest(parts)
    return Document(media="pdf", text=builder.text(), blocks=tuple(builder.blocks), title=title, pages=pages)


def render(
    path: Path, data: bytes, *, page: int, width: int, rects: tuple[Rect, ...]
) -> tuple[bytes, int, float]:
    """One page as PNG with `rects` marked; see `indexer.extract.render_page`."""
    import numpy as np

    pymupdf = _pymupdf()

    with _open(path, data) as pdf:
        pages = pdf.page_count
        if not 1 <= page <= pages:
            message = f"Page {page} was asked for; the file has {pages}."
            raise FileError(path, "No such page", message)
        sheet = pdf.load_page(page - 1)
        bound = sheet.rect
        zoom = min(max(width, 50), 4000) / max(bound.width, 1.0)
        zoom = min(zoom, (_MAX_PIXELS / max(bound.width * bound.height, 1.0)) ** 0.5)
        picture = sheet.get_pixmap(matrix=pymupdf.Matrix(zoom, zoom), colorspace=pymupdf.csRGB, alpha=False)
        rows = np.frombuffer(picture.samples, dtype=np.uint8).reshape(picture.height, picture.stride)
        pixels = rows[:, : picture.width * 3].reshape(picture.height, picture.width, 3).copy()
        marker = np.array(_HIGHLIGHT, dtype=np.uint16)
        # Marked as one area, so that overlapping rectangles are not darker.
        area = np.zeros((picture.height, picture.width), dtype=bool)
        for rect in rects[:1000]:
            x0, y0 = max(int((rect.x0 - 1) * zoom), 0), max(int((rect.y0 - 1) * zoom), 0)
            x1, y1 = int((rect.x1 + 1) * zoom) + 1, int((rect.y1 + 1) * zoom) + 1
            area[y0 : max(y1, 0), x0 : max(x1, 0)] = True
        pixels[area] = (pixels[area] * marker // 255).astype(np.uint8)
        marked = pymupdf.Pixmap(pymupdf.csRGB, picture.width, picture.height, pixels.tobytes(), False)
        return marked.tobytes("png"), pages, float(bound.width)


def _pymupdf() -> Any:  # it has no types worth the name
    import pymupdf

    return pymupdf


def _open(path: Path, data: bytes) -> Any:
    pymupdf = _pymupdf()

    pymupdf.TOOLS.mupdf_display_errors(False)
    pymupdf.TOOLS.mupdf_display_warnings(False)
    if b"%PDF-" not in data[:4096]:
        raise FileError(path, "Not a PDF", "The file does not begin like a PDF; it may be incomplete.")
    try:
        pdf = pymupdf.open(stream=data, filetype="pdf")
    except (RuntimeError, ValueError) as error:
        if "malloc" in str(error):
            raise
        message = "The file is damaged or incomplete and cannot be opened."
        raise FileError(path, "The PDF is damaged", message) from error
    if pdf.needs_pass:
        pdf.close()
        message = "The PDF asks for a password. Save a copy without one to have it indexed."
        raise FileError(path, "Protected by a password", message)
    try:
        _ = pdf.page_count  # looks at the tree of pages, which opening does not
    except (RuntimeError, ValueError) as error:
        pdf.close()
        if "malloc" in str(error):
            raise
        raise FileError(path, "The PDF is damaged", "The list of its pages makes no sense.") from error
    return pdf


# --- from print to paragraphs -------------------------------------------------------------


def _parts(page: Any, number: int) -> Iterator[_Part]:
    pymupdf = _pymupdf()

    flags = pymupdf.TEXT_PRESERVE_WHITESPACE | pymupdf.TEXT_MEDIABOX_CLIP
    content: dict[str, Any] = page.get_text("dict", flags=flags)
    height = float(page.rect.height)
    # MuPDF gives places on the page before it is turned; everyone else means the page as it is seen.
    turn = page.rotation_matrix
    open_part: _Part | None = None
    for block in content["blocks"]:
        rows = _rows(block.get("lines", ()), turn)
        if rows:
            for piece in _split(rows):
                part = _Part(page=number, rows=piece, height=height)
                if open_part is not None and _follows(part, open_part):
                    open_part.rows.extend(piece)
                    continue
                if open_part is not None:
                    yield open_part
                open_part = part
    if open_part is not None:
        yield open_part


def _follows(part: _Part, before: _Part) -> bool:
    """Whether a part goes on with the one before it, of which MuPDF made a block of its own.

    It does so where a listing is indented, and for every line of text that was written sideways.
    """
    last, first = before.rows[-1], part.rows[0]
    gap = first.rect[1] - last.rect[3]
    if first.size != last.size or first.bold != last.bold or gap < -last.size * 0.6:
        return False
    if part.mono or before.mono:
        return part.mono and before.mono and gap < last.size * 0.8
    if part.tabular or before.tabular or gap > last.size * 0.4 or _BULLET.match(first.text.lstrip()):
        return False
    # Only after a line that is full: no new line would have been begun for the sake of its end.
    full = max(before.rect.x1, part.rect.x1) - last.rect[2] < last.size * 4
    return full and abs(first.rect[0] - last.rect[0]) < last.size * 0.5


def _rows(lines: list[dict[str, Any]], turn: Any) -> list[_Row]:
    """MuPDF's lines, those side by side made one."""
    pymupdf = _pymupdf()
    rows: list[_Row] = []
    for line in lines:
        spans = line["spans"]
        text = clean("".join(span["text"] for span in spans)).replace("\u00a0", " ")
        words = [span for span in spans if span["text"].strip()]
        if not words:
            continue
        x0, y0, x1, y1 = pymupdf.Rect(line["bbox"]) * turn
        # The size of most characters: a footnote's number does not count.
        sizes: Counter[float] = Counter()
        for span in words:
            sizes[round(span["size"], 1)] += len(span["text"])
        row = _Row(
            text=text.rstrip(),
            rect=(x0, y0, x1, y1),
            size=sizes.most_common(1)[0][0],
            bold=all(span["flags"] & _BOLD or "bold" in span["font"].lower() for span in words),
            mono=all(_is_mono(span) for span in words),
        )
        if rows and rows[-1].rect[1] <= (y0 + y1) / 2 <= rows[-1].rect[3] and x0 >= rows[-1].rect[2] - 1:
            last = rows[-1]
            wide = x0 - last.rect[2] > last.size * 0.15
            last.text += ("\t" if wide else "") + row.text.lstrip()
            last.rect = (last.rect[0], min(last.rect[1], y0), x1, max(last.rect[3], y1))
            last.size = max(last.size, row.size)
            last.bold, last.mono = last.bold and row.bold, last.mono and row.mono
        else:
            rows.append(row)
    return rows


def _is_mono(span: dict[str, Any]) -> bool:
    font = span["font"].lower()
    return bool(span["flags"] & _MONOSPACED) or "mono" in font or "courier" in font or "consol" in font


def _split(rows: list[_Row]) -> Iterator[list[_Row]]:
    """Paragraphs that MuPDF took for one block: a new size, a gap, a bullet, a short last line."""
    left = min(row.rect[0] for row in rows)
    right = max(row.rect[2] for row in rows)
    piece = [rows[0]]
    for row in rows[1:]:
        last = piece[-1]
        gap = row.rect[1] - last.rect[3]
        short = last.rect[2] < left + (right - left) * 0.7 and _SENTENCE_END.search(last.text)
        new = (
            abs(row.size - last.size) > 0.8
            or gap > last.size * 0.8
            or (row.bold != last.bold and last.bold)
            or row.mono != last.mono
            or (not row.mono and (short or _BULLET.match(row.text.lstrip())))
        )
        # Centred print (a title over two lines) has no short lines that mean something.
        if new:
            yield piece
            piece = []
        piece.append(row)
    yield piece


_CJK_END = re.compile(f"[{UNSPACED}]$")
_CJK_START = re.compile(f"[{UNSPACED}]")


def _join(rows: list[_Row]) -> str:
    """Lines to one paragraph: hyphens at line ends undone, Chinese and Japanese without spaces."""
    text = rows[0].text.strip()
    for row in rows[1:]:
        following = row.text.strip()
        if not following:
            continue
        broken = _HYPHEN.search(text) and following[0].islower() and not _CJK_START.match(following)
        if broken or text.endswith("\u00ad"):
            text = text[:-1] + following
        elif _CJK_END.search(text) and _CJK_START.match(following):
            text += following
        else:
            text += " " + following
    return re.sub(r"[ \t]+", " ", _LEADER.sub(" … ", text.replace("\u00ad", "")))


def _check_readable(path: Path, parts: list[_Part]) -> None:
    """Refuse a text of characters without meaning: fonts that do not say what they show."""
    total = unknown = 0
    for part in parts:
        for row in part.rows:
            total += len(row.text)
            unknown += sum(
                1 for character in row.text if character == "\ufffd" or "\ue000" <= character <= "\uf8ff"
            )
    if unknown * 2 > total:
        message = "Its fonts do not say which characters they show, so the text cannot be read."
        raise FileError(path, "Unreadable fonts", message, kind="skipped")


def _without_running_titles(parts: list[_Part], pages: int) -> Iterator[_Part]:
    """Leave out headers and footers: at the same height near an edge on most pages."""
    if pages < 4:
        yield from parts
        return
    seen: defaultdict[tuple[int, str], set[int]] = defaultdict(set)
    keys: list[tuple[int, str] | None] = []
    for part in parts:
        rect = part.rect
        edge = rect.y1 < part.height * 0.1 or rect.y0 > part.height * 0.9
        key = (round(rect.y0 / 4), re.sub(r"\d+|\b[ivxlcdm]+\b", "#", part.text().lower())) if edge else None
        keys.append(key)
        if key:
            seen[key].add(part.page)
    # Left and right pages may differ, and every chapter has its own.
    enough = max(3, pages // 12)
    common = {key for key, numbers in seen.items() if len(numbers) >= enough}
    yield from (part for part, key in zip(parts, keys, strict=True) if key not in common)


# --- headings and title -------------------------------------------------------------------


def _outline(pdf: Any) -> dict[tuple[int, str], int]:
    """Level of every entry of the outline, by page and bare title."""
    try:
        entries = pdf.get_toc(simple=True)
    except (RuntimeError, ValueError):
        return {}
    return {(page, _bare(title)): min(level, 6) for level, title, page in reversed(entries) if _bare(title)}


def _bare(title: str) -> str:
    """A heading without its number, case and white space."""
    title = _NUMBER.sub("", title)
    return re.sub(r"\W+", "", title).lower()


def _heading_levels(parts: list[_Part], outline: dict[tuple[int, str], int]) -> dict[int, int]:
    """Level of each part that is a heading, by its place in `parts`."""
    levels: dict[int, int] = {}
    if outline:
        for index, part in enumerate(parts):
            if len(part.rows) <= 4 and (level := _listed(part, outline)):
                levels[index] = level
        # Of an outline that names hardly anything on its pages nothing can be learned.
        if len(levels) * 2 >= len(outline) or len(levels) >= 20:
            return levels
    weights: Counter[float] = Counter()
    for part in parts:
        for row in part.rows:
            weights[row.size] += len(row.text)
    body = weights.most_common(1)[0][0]
    candidates = {
        index: part.size
        for index, part in enumerate(parts)
        if part.size >= body * 1.15 and _could_be_heading(part)
    }
    sizes = sorted({round(size * 2) for size in candidates.values()}, reverse=True)
    rank = {size: min(place, 6) for place, size in enumerate(sizes, start=1)}
    return {index: rank[round(size * 2)] for index, size in candidates.items()}


def _listed(part: _Part, outline: dict[tuple[int, str], int]) -> int:
    text = part.text()
    if len(text) > 300:
        return 0
    # The target of an entry may lie on the page before, at the end of the paragraph above.
    for page in (part.page, part.page - 1):
        if level := outline.get((page, _bare(text))):
            return level
    return 0


def _could_be_heading(part: _Part) -> bool:
    text = part.text()
    return len(part.rows) <= 3 and 2 <= len(text) <= 200 and any(map(str.isalpha, text)) and not part.mono


def _largest(parts: list[_Part]) -> str:
    """The largest print of the first page, if it stands out."""
    first = [part for part in parts if part.page == parts[0].page] if parts else []
    candidates = [part for part in first if _could_be_heading(part)]
    if len(first) < 2 or not candidates:
        return ""
    best = max(candidates, key=lambda part: part.size)
    smallest = min(part.size for part in first)
    return best.text()[:500] if best.size >= smallest * 1.15 else ""
