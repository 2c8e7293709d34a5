"""The query language: words, "phrases", -words, filters such as ext:pdf, OR and parentheses; one grammar."""

from __future__ import annotations

import msgspec

from indexer.api import QueryProblem


class Condition(msgspec.Struct, frozen=True, tag=True):
    """What a chunk must fulfil to be found at all; one of the classes below."""


class All(Condition, frozen=True):
    """Every one of the conditions."""

    of: tuple[Condition, ...]


class Any(Condition, frozen=True):
    """At least one of the conditions."""

    of: tuple[Condition, ...]


class Not(Condition, frozen=True):
    """Not the condition."""

    of: Condition


class Phrase(Condition, frozen=True):
    """The passage (or its headings, or the file's name) has these words side by side.

    Upper and lower case, diacritics and width of characters do not matter.
    """

    text: str


class Ext(Condition, frozen=True):
    """The file's name ends in this, lower case, without the dot: ``pdf``, ``tar.gz``."""

    suffix: str


class Kind(Condition, frozen=True):
    """The file is of this kind: a media of `indexer.api.Media`, or a programming language (``python``)."""

    name: str


class Lang(Condition, frozen=True):
    """The passage is in this language (ISO 639-1), or is source code (``code``)."""

    code: str


class In(Condition, frozen=True):
    """The file is at or below this path, or, when `path` is not absolute, below a folder so named."""

    path: str


class Name(Condition, frozen=True):
    """The file's name contains this, in any case."""

    part: str


class Modified(Condition, frozen=True):
    """The file was last changed at or after `after` and before `before` (seconds since 1970)."""

    after: float | None = None
    before: float | None = None


class Size(Condition, frozen=True):
    """The file has at least `least` and at most `most` bytes."""

    least: int | None = None
    most: int | None = None


class Query(msgspec.Struct, frozen=True):
    """What a query means.

    Attributes:
        texts: What is searched by meaning and by words: one text, or one for each side of an OR between
            free words; the best of them counts for each passage. Phrases are part of it, without their
            quotes; filters and what is excluded are not. Empty when the query is made of filters only:
            then everything that fulfils them is found, newest files first.
        where: What must be fulfilled; None for nothing.
        problems: What was not understood.
    """

    texts: tuple[str, ...]
    where: Condition | None = None
    problems: tuple[QueryProblem, ...] = ()
