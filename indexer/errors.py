"""Errors by blame: one file's, or the whole service's. Each says what happened and what to do."""

from __future__ import annotations

import errno
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


_FILES = (
    "Too many files are open",
    "The system lets no more be opened now; it goes on as soon as it does. Close other programs, or raise "
    "the limit: ",
)
_SHORT = {
    errno.EMFILE: (_FILES[0], _FILES[1] + "ulimit -n 65536, before Dragoman is started."),
    errno.ENFILE: (_FILES[0], _FILES[1] + "sudo sysctl fs.file-max=2000000"),
    errno.ENOMEM: (
        "There is too little memory",
        "It goes on as soon as there is more. Close other programs, or lower the speed of indexing.",
    ),
    errno.EAGAIN: (
        "No more programs can be started",
        "The system's limit is reached; it goes on as soon as others have ended. See ulimit -u.",
    ),
    errno.ENOSPC: (
        "The disk is full",
        "It goes on as soon as there is room; nothing was lost. Make room on the disk.",
    ),
}
_SHORT[errno.EDQUOT] = ("Your share of the disk is used up", _SHORT[errno.ENOSPC][1])

# What a file system answers that is not there just now, although its mount point is.
_AWAY = frozenset(
    {
        errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENODEV, errno.ENOTCONN,
        errno.ENXIO, errno.ESTALE, errno.ETIMEDOUT,
    }
)  # fmt: skip


class ShortageError(IndexerError):
    """The system has too little of something for now: no file is to blame, and it is tried again."""


def shortage(error: BaseException) -> ShortageError | None:
    """What the system lacks when it answers with this error, in a person's words; None for other errors."""
    if isinstance(error, MemoryError):
        return ShortageError(*_SHORT[errno.ENOMEM])
    if isinstance(error, OSError) and error.errno in _SHORT:
        return ShortageError(*_SHORT[error.errno])
    # torch and OpenVINO have no type of their own for it on a processor.
    if isinstance(error, RuntimeError):
        text = str(error).lower()
        if any(sign in text for sign in ("not enough memory", "can't allocate memory", "bad_alloc")):
            return ShortageError(*_SHORT[errno.ENOMEM])
        if "can't start new thread" in text:
            return ShortageError(*_SHORT[errno.EAGAIN])
    return None


def away(error: OSError) -> bool:
    """Whether an error says that a disk or server is not there now, rather than anything about the file."""
    return error.errno in _AWAY
