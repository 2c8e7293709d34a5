"""What is on the disk now, and how the catalog differs from it. This is the truth; events only hasten it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from indexer.watch.changes import FileChange
from indexer.watch.rules import FolderRules, Rules

# Where systems mount disks: an empty folder here is more likely an absent disk than an emptied one.
_MOUNT_PARENTS = ("/media/", "/mnt/", "/run/media/", "/Volumes/")


class Entry(NamedTuple):
    """A file found by `scan`, or a place that could not be looked at (`error` set, sizes 0).

    Attributes:
        path: Absolute path; bytes that are not UTF-8 are surrogate escapes, as everywhere in Python.
        size: Bytes.
        mtime_ns: Time of the last change, nanoseconds since the epoch.
        inode: Inode number, 0 where the system has none.
        device: Device number.
        error: Why this file, or all of this folder, could not be looked at; None for a file.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int
    device: int
    error: str | None = None


class Known(Protocol):
    """What the catalog knows of a file (the store's FileState)."""

    @property
    def path(self) -> str:
        """Absolute path."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def mtime_ns(self) -> int:
        """Nanoseconds since the epoch."""


def scan(rules: Rules, below: str | None = None) -> Iterator[Entry]:
    """Walk a root, or a part of it, leaving out what the rules ignore.

    Links are never followed, neither to files nor to folders: what a link points at either lies in the
    root and is found there, or lies outside and was not chosen. FIFOs, sockets and devices are left out.
    Folders and files that vanish meanwhile are simply not there. The order is not defined.

    Args:
        rules: The rules of the root, which names the root too. Ignore files are read afresh.
        below: Only this folder or file of the root.

    Yields:
        A file each, and one entry with `error` for a folder or file that cannot be looked at.
    """
    start = rules.root if below is None else below
    rules.forget()
    if start != rules.root:
        try:
            info = os.lstat(start)
        except FileNotFoundError:
            return
        except OSError as error:
            yield _failed(start, error)
            return
        if rules.ignored(start, stat.S_ISDIR(info.st_mode)) is not None:
            return
        if stat.S_ISREG(info.st_mode):
            yield Entry(start, info.st_size, info.st_mtime_ns, info.st_ino, info.st_dev)
            return
        if not stat.S_ISDIR(info.st_mode):
            return
        above = rules.folder(os.path.dirname(start))  # noqa: PTH120
        if above is None:
            return
        stack: list[tuple[str, FolderRules | None]] = [(start, above)]
    else:
        stack = [(start, None)]
    separator = os.sep
    while stack:
        folder, above = stack.pop()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            yield _failed(folder, error)
            continue
        names = [entry.name for entry in entries]
        if above is None:
            here = rules.top(names)
        else:
            here = rules.below(above, folder[folder.rindex(separator) + 1 :], names)
            if here.reason is not None:
                continue
        for entry in entries:
            try:
                is_dir = entry.is_dir(follow_symlinks=False)
                if not is_dir and not entry.is_file(follow_symlinks=False):
                    continue
                if here.ignored(entry.name, is_dir) is not None:
                    continue
                if is_dir:
                    stack.append((entry.path, here))
                    continue
                info = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError as error:
                yield _failed(entry.path, error)
                continue
            yield Entry(entry.path, info.st_size, info.st_mtime_ns, info.st_ino, info.st_dev)


def _failed(path: str, error: OSError) -> Entry:
    return Entry(path, 0, 0, 0, 0, error.strerror or str(error))


def root_device(root: str) -> int | None:
    """Number of the device a root lies on, to be kept for `root_online`; None when it is not there."""
    try:
        return os.stat(root).st_dev  # noqa: PTH116
    except OSError:
        return None


def root_online(root: str, had_files: bool, known_device: int | None) -> bool:
    """Whether a root is there, so that what is missing in it may be forgotten.

    Offline is: missing, not a folder, or not readable; and, when the catalog has files of it, empty
    while it may be the empty mount point of a disk that is not mounted: it lies on another device than
    when it was last seen, or (nothing being known of that) where systems mount disks.

    Args:
        root: Absolute path.
        had_files: Whether the catalog has files of this root.
        known_device: `root_device` of the last time it was seen online, or None.
    """
    try:
        with os.scandir(root) as listing:
            if next(listing, None) is not None or not had_files:
                return True
        device = os.stat(root).st_dev  # noqa: PTH116
    except OSError:
        return False
    if known_device is not None:
        return device == known_device
    return not (root + "/").startswith(_MOUNT_PARENTS)


def sweep(rules: Rules, known: Iterable[Known], below: str | None = None) -> Iterator[FileChange]:
    """Compare the disk with the catalog. Ask `root_online` first.

    Args:
        rules: The rules of the root.
        known: The catalog's files of this root; those outside `below` may be among them.
        below: Only this folder or file of the root, as a `rescan` change names it.

    Yields:
        An upsert for each new file and each whose size or time differs, while the walk goes on; then a
        remove for each known file that is gone or ignored now. Files below a folder that could not be
        looked at are neither. Upserts come first, so that a moved file is recognised by its content.
    """
    root = rules.root
    below = below or root
    inside = below.rstrip(os.sep) + os.sep
    left = {
        file.path: (file.size, file.mtime_ns)
        for file in known
        if file.path == below or file.path.startswith(inside)
    }
    unseen: list[str] = []
    for path, size, mtime_ns, _, _, error in scan(rules, below):
        if error is not None:
            unseen.append(path)
        elif left.pop(path, None) != (size, mtime_ns):
            yield FileChange(kind="upsert", path=path, root=root, size=size, mtime_ns=mtime_ns)
    prefixes = tuple(path.rstrip(os.sep) + os.sep for path in unseen)
    keep = frozenset(unseen)
    for path in left:
        if path not in keep and not path.startswith(prefixes):
            yield FileChange(kind="remove", path=path, root=root)
