"""Opening and reading a stranger's file: no link is followed, and nothing but a plain file is opened."""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import stat
import struct
import sys
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


def deadline_s(base_s: float, descriptor: int) -> float:
    """How long a file may take: a large one more, as this runs behind everything else on the machine."""
    return base_s + os.fstat(descriptor).st_size / 2**20 * _SECONDS_A_MIB


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


def content(path: Path, descriptor: int, max_bytes: int) -> tuple[bytes, os.stat_result]:
    """All bytes of a file; see `read`."""
    found = bytearray()
    info = read(path, descriptor, max_bytes, found.extend)
    return bytes(found), info


def open_file(path: Path, root: Path | None) -> int:
    """A descriptor of a plain file. No link is followed below the root, whoever swaps folders meanwhile.

    Args:
        path: Absolute.
        root: The folder of the library that it is in, reached as the person named it; None to follow
            links in all of the path but its last part.

    Raises:
        FileError: It cannot be opened or is no plain file.
        FileGoneError: It is not there.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        if root is None or path == root:
            descriptor = os.open(path, flags)
        else:
            base = os.open(root, _FOLDER)
            try:
                descriptor = _open_below(base, path.relative_to(root), flags)
            finally:
                os.close(base)
        try:
            plain = stat.S_ISREG(os.fstat(descriptor).st_mode)
        except OSError:
            os.close(descriptor)
            raise
    except OSError as error:
        raise unreadable(path, error) from error
    if not plain:
        os.close(descriptor)
        raise not_a_file(path)
    return descriptor


_FOLDER = os.O_RDONLY
for _name in ("O_PATH", "O_DIRECTORY", "O_CLOEXEC"):
    _FOLDER |= getattr(os, _name, 0)

_OPENAT2 = 437
_NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 0x02, 0x04, 0x08


def _open_below(base: int, path: Path, flags: int) -> int:
    if sys.platform == "linux":
        how = struct.pack("=QQQ", flags, 0, _NO_MAGICLINKS | _NO_SYMLINKS | _BENEATH)
        name = ctypes.c_char_p(os.fsencode(path))
        while True:
            found = _libc().syscall(_OPENAT2, base, name, how, ctypes.c_size_t(len(how)))
            if found >= 0:
                return int(found)
            code = ctypes.get_errno()
            if code == errno.EXDEV:  # what the kernel says of a way out
                code = errno.ELOOP
            if code in (errno.ENOSYS, errno.EPERM):  # before Linux 5.6, or a container that knows it not
                break
            if code not in (errno.EINTR, errno.EAGAIN):
                raise OSError(code, os.strerror(code))
    return _open_stepwise(base, path, flags)


def _open_stepwise(base: int, path: Path, flags: int) -> int:
    """The same where the kernel has no call for it: one folder after the other."""
    *folders, name = path.parts
    if ".." in path.parts:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    folder = os.dup(base)
    try:
        for part in folders:
            deeper = os.open(part, _FOLDER | getattr(os, "O_NOFOLLOW", 0), dir_fd=folder)
            os.close(folder)
            folder = deeper
        return os.open(name, flags, dir_fd=folder)
    finally:
        os.close(folder)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def read(path: Path, descriptor: int, max_bytes: int, use: Callable[[bytes], object]) -> os.stat_result:
    """Hand an open file's bytes to `use`, block by block.

    Returns:
        The file's state, the same before and after.

    Raises:
        FileError: It is empty, too large or cannot be read.
        FileChangedError: It was written to meanwhile.
    """
    try:
        before = os.fstat(descriptor)
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
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or length != after.st_size:
        message = "It was written to while it was read. It is read again when it has come to rest."
        raise FileChangedError(path, "Changed while being read", message)
    if not length:
        raise FileError(path, "Empty", "The file has no content.", kind="skipped")
    return after


def not_a_file(path: Path, mode: int = 0) -> FileError:
    """The error for links, pipes and devices.

    Args:
        path: Where it is.
        mode: What the system says it is; 0 where that is not known.
    """
    if stat.S_ISLNK(mode):
        message = (
            "It points to something outside of this folder, which is not read. "
            "Add what it points to as a folder of its own to have it read."
        )
        return FileError(path, "A link", message, kind="skipped")
    kinds = {
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    what = kinds.get(stat.S_IFMT(mode), "a link, a pipe or a device")
    return FileError(path, "Not a plain file", f"It is {what}; only plain files are read.", kind="skipped")


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
        case errno.ENAMETOOLONG:
            message = "Its path is longer than the system can open. Move it to a folder further up."
            return FileError(path, "Path too long", message, kind="skipped")
    message = f"The system could not read it: {error.strerror}."
    return FileError(path, "Could not be read", message)
