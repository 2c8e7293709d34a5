"""Errors by blame: one file's, or the whole service's. Each says what happened and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


class IndexerError(Exception):
    """Something a person should read.

    Attributes:
        title: What happened, in a few words, without a full stop.
        message: Why, and what the person can do about it.
    """

    def __init__(self, title: str, message: str) -> None:
        super().__init__(f"{title}: {message}")
        self.title = title
        self.message = message


class FileError(IndexerError):
    """One file could not be indexed. It is kept in the catalog, shown as a problem and can be retried.

    Attributes:
        path: The file.
        kind: ``failed`` when the file should have been readable, ``skipped`` when leaving it out
            is the expected thing (not a text format, larger than the limit, empty).
    """

    def __init__(
        self, path: Path, title: str, message: str, *, kind: Literal["failed", "skipped"] = "failed"
    ) -> None:
        super().__init__(title, message)
        self.path = path
        self.kind = kind


class TextError(IndexerError):
    """One of the texts cannot be embedded, whatever is tried; others can."""


class FatalError(IndexerError):
    """The service (or the client asking for it) cannot go on."""
