"""Opening and reading a stranger's file: no link is followed, and nothing but a plain file is opened."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from indexer.errors import FileError, away
from indexer.extract import EXTRACTOR_VERSION, Kind, kind_of, unsupported

# A book of plain text takes about one second a MiB to be cut on a machine that does nothing else.
_SECONDS_A_MIB = 5.0
_READ_BLOCK = 1 << 20


class FileChangedError(FileError):
    """The file was written to while it was read; try again when it has come to rest."""


class FileGoneError(FileError):
    """The file is not there any more."""


def deadline_s(base_s: float, path: Path) -> float:
    """How long a file may take: a large one more, as this runs behind everything else on the machine."""
    try:
        return base_s + path.lstat().st_size / 2**20 * _SECONDS_A_MIB
    except OSError:
        return base_s


def supported(path: Path) -> Kind:
    """The kind of a file by its name; raises FileError when there is none."""
    kind = kind_of(path)
    if kind is None:
        raise unsupported(path)
    return kind


def digest_of(kind: Kind) -> hashlib.blake2b:
    """What content keys are made with, fed all but the content."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(msgspec.json.encode((EXTRACTOR_VERSION, kind)) + b"\0")
    return digest


def content(path: Path, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """All bytes of a file; see `read`."""
    content = bytearray()
    info = read(path, max_bytes, content.extend)
    return bytes(content), info


def read(path: Path, max_bytes: int, use: Callable[[bytes], object]) -> os.stat_result:
    """Hand a file's bytes to `use`, block by block; no link is followed and nothing but a file opened.

    Returns:
        The file's state, the same before and after.

    Raises:
        FileError: It cannot be opened, is no plain file, is empty or too large.
        FileChangedError: It was written to meanwhile.
        FileGoneError: It is not there.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
            raise not_a_file(path)
        descriptor = os.open(path, flags)
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise not_a_file(path)
        if before.st_size > max_bytes:
            raise _too_large(path, before.st_size, max_bytes)
        length = 0
        while block := os.read(descriptor, _READ_BLOCK):
            length += len(block)
            if length > max_bytes:
                raise _too_large(path, length, max_bytes)
            use(block)
        after = os.fstat(descriptor)
    except OSError as error:
        raise unreadable(path, error) from error
    finally:
        os.close(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or length != after.st_size:
        message = "It was written to while it was read. It is read again when it has come to rest."
        raise FileChangedError(path, "Changed while being read", message)
    if not length:
        raise FileError(path, "Empty", "The file has no content.", kind="skipped")
    return after


def not_a_file(path: Path) -> FileError:
    """The error for links, pipes and devices."""
    message = "It is a link, a pipe or a device; only plain files are read."
    return FileError(path, "Not a plain file", message, kind="skipped")


def _too_large(path: Path, size: int, limit: int) -> FileError:
    message = (
        f"It has {size / 2**20:.1f} MiB; the limit, which the settings can change, is {limit >> 20} MiB."
    )
    return FileError(path, "Too large", message, kind="skipped")


def unreadable(path: Path, error: OSError) -> FileError:
    """What the system's error means for the file."""
    if away(error) and error.errno != errno.ENXIO:
        # Nothing is said about the file: what is known of it stays, and the next sweep asks again.
        return FileGoneError(path, "Not there now", "The disk or the server that holds it does not answer.")
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return FileGoneError(path, "Not there any more", "The file was moved or deleted.")
        case errno.ELOOP | errno.ENXIO | errno.EISDIR:
            return not_a_file(path)
        case errno.EACCES | errno.EPERM:
            message = "You have no permission to read it. Change its permissions, then try again."
            return FileError(path, "No permission", message)
    message = f"The system could not read it: {error.strerror}."
    return FileError(path, "Could not be read", message)
