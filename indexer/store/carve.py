"""Rows of a damaged SQLite file that no page leads to any more, read from its leaves themselves.

A table is a tree of pages; where one above the leaves is damaged, SQLite finds nothing below it, though the
rows may all be there. See https://sqlite.org/fileformat2.html#b_tree_pages for the format. Whose row it is
and whether it still holds cannot be told here: who takes one has to know it by a checksum.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

Value = int | float | bytes | None
_LEAF = 0x0D  # of a table
_HEADER = 8
_FIRST_PAGE = 100  # where its own header begins
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # bytes by serial type


def rows(file: Path, page_size: int) -> Iterator[tuple[int, list[Value]]]:
    """Ids and values of the rows in leaves of tables that lie within one page; texts are bytes, undecoded."""
    with file.open("rb") as source:
        start = _FIRST_PAGE
        while page := source.read(page_size):
            if len(page) == page_size and page[start] == _LEAF:
                yield from _cells(page, start)
            start = 0


def _cells(page: bytes, start: int) -> Iterator[tuple[int, list[Value]]]:
    count = int.from_bytes(page[start + 3 : start + 5], "big")
    places = page[start + _HEADER : start + _HEADER + 2 * count]
    for at in range(0, len(places) - 1, 2):
        place = int.from_bytes(places[at : at + 2], "big")
        try:
            length, place = _varint(page, place)
            number, place = _varint(page, place)
            # What is longer goes on in other pages; see "local payload" there.
            if length <= len(page) - 35 and place + length <= len(page):
                yield _signed(number), _record(page[place : place + length])
        except (IndexError, ValueError, struct.error):
            continue


def _record(data: bytes) -> list[Value]:
    """The values of a row.

    Raises:
        ValueError: It is none.
    """
    end, at = _varint(data, 0)
    kinds = []
    while at < end:
        kind, at = _varint(data, at)
        kinds.append(kind)
    values: list[Value] = []
    for kind in kinds:
        size = (kind - 12) // 2 if kind >= 12 else 8 if kind == 7 else _INTEGERS.get(kind, 0)
        part = data[at : at + size]
        if len(part) < size or kind in (10, 11):
            raise ValueError("not a record")
        at += size
        if kind == 7:
            values.append(struct.unpack(">d", part)[0])
        elif kind >= 12:
            values.append(part)
        elif kind:
            values.append(int.from_bytes(part, "big", signed=True) if size else kind - 8)
        else:
            values.append(None)
    return values


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends."""
    value = 0
    for step in range(8):
        byte = data[at + step]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + step + 1
    return value << 8 | data[at + 8], at + 9


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
