"""What is on the disk now, and how the catalog differs from it. This is the truth; events only hasten it."""

from __future__ import annotations

import bisect
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from indexer.errors import shortage
from indexer.watch.changes import FileChange
from indexer.watch.rules import ODD_BEGINNINGS, ODD_ENDINGS, ODD_LAST, ODD_NAMES, FolderRules, Rules

_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

# What says nothing about a folder, but that this process cannot look now.
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

# Where systems mount disks: an empty folder here is more likely an absent disk than an emptied one.
_MOUNT_PARENTS = ("/media/", "/mnt/", "/run/media/", "/Volumes/")


class Entry(NamedTuple):
    """What `scan` found that is no folder, or a place that could not be looked at (`error` set, sizes 0).

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


Known = tuple[bytes, int, int]
"""What the catalog knows of a file: its path as the system's bytes, size, time of its last change in ns."""


def scan(rules: Rules, below: str | None = None) -> Iterator[Entry]:
    """Walk a root, or a part of it, leaving out what the rules ignore.

    Links are never followed, neither to files nor to folders: what a link points at either lies in the
    root and is found there, or lies outside and was not chosen. Links that lead out, FIFOs, sockets and
    devices are told of like files, so that a person learns why they are not read; they are not opened.
    Folders and files that vanish meanwhile are simply not there.

    Args:
        rules: The rules of the root, which names the root too. Ignore files are read afresh.
        below: Only this folder or file of the root.

    Yields:
        A file each, in order of the bytes of their paths, and one entry with `error` for a folder or file
        that cannot be looked at.

    Raises:
        ShortageError: Too many files are open, or the like: the walk is to be done again.
    """
    for path, info in _walk(rules, below):
        if isinstance(info, str):
            yield Entry(path, 0, 0, 0, 0, info)
        else:
            yield Entry(path, info.st_size, info.st_mtime_ns, info.st_ino, info.st_dev)


def _walk(
    rules: Rules, below: str | None, entering: Callable[[str, bool], None] | None = None
) -> Iterator[tuple[str, os.stat_result | str]]:
    """As `scan`: paths, and their state or why it is not known."""
    start = rules.root if below is None else below
    rules.forget()
    above: FolderRules | None = None
    if start != rules.root:
        try:
            info = rules.look(start)
        except FileNotFoundError:
            return
        except OSError as error:
            yield start, _reason(error)
            return
        if rules.ignored(start, stat.S_ISDIR(info.st_mode)) is not None:
            return
        if not stat.S_ISDIR(info.st_mode):
            if rules.told(start, info.st_mode):
                yield start, info
            return
        above = rules.folder(os.path.dirname(start))  # noqa: PTH120
        if above is None:
            return
    listed = _list(rules, start, above, entering)
    if isinstance(listed, str):
        yield start, listed
    if not isinstance(listed, tuple):
        return
    stack = [listed]
    while stack:
        entries, here = stack[-1]
        for entry, what in entries:
            if what is _FILE:
                try:
                    info = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    yield entry.path, _reason(error)
                    continue
                yield entry.path, info
                continue
            listed = _list(rules, entry.path, here, entering) if what is _FOLDER else what
            if isinstance(listed, str):
                yield entry.path, listed
            elif listed is not None:
                stack.append(listed)
                break
        else:
            stack.pop()


_FILE, _FOLDER = "file", "folder"
# Entries in order, each with what it is or why that cannot be told.
_Listed = tuple[Iterator[tuple["os.DirEntry[str]", str]], FolderRules]


def _list(
    rules: Rules, folder: str, above: FolderRules | None, entering: Callable[[str, bool], None] | None
) -> _Listed | str | None:
    """What is wanted of a folder, in order; why it cannot be looked at; None when it is gone or out."""
    if entering is not None:
        entering(folder, True)
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return _reason(error)
    names = [entry.name for entry in entries]
    if above is None:
        here = rules.top(names)
    else:
        here = rules.below(above, folder[folder.rindex(os.sep) + 1 :], names)
        if here.reason is not None:
            if entering is not None:
                entering(folder, False)
            return None
    ignored, clear = here.ignored, here.clear
    found: dict[str, tuple[os.DirEntry[str], str]] = {}
    for name, entry in zip(names, entries, strict=True):
        try:
            if entry.is_file(follow_symlinks=False):
                # Most names are seen here to be plain, without a call for each.
                if (
                    clear
                    and name[0] not in ODD_BEGINNINGS
                    and name[-3:] not in ODD_ENDINGS
                    and name[-1] not in ODD_LAST
                    and name not in ODD_NAMES
                ) or ignored(name, False) is None:
                    found[name] = entry, _FILE
            elif entry.is_dir(follow_symlinks=False):
                if ignored(name, True) is None:
                    found[name + os.sep] = entry, _FOLDER  # what is in it comes behind name and separator
            elif ignored(name, False) is None and (
                not entry.is_symlink() or rules.told(entry.path, stat.S_IFLNK)
            ):
                found[name] = entry, _FILE
        except FileNotFoundError:
            continue
        except OSError as error:
            found[name] = entry, _reason(error)
    # Code points are in the order of their bytes, but for the surrogates that stand for invalid bytes.
    order = sorted(found) if "".join(names).isascii() else sorted(found, key=os.fsencode)
    return iter([found[name] for name in order]), here


def _reason(error: OSError) -> str:
    short = shortage(error) if error.errno in _OURS else None
    if short is not None:
        # Nothing is wrong with the folder: what cannot be seen now is looked at again, not left out for long.
        raise short from error
    return error.strerror or str(error)


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

    Raises:
        ShortageError: The system has too little to tell.
    """
    try:
        with os.scandir(root) as listing:
            if next(listing, None) is not None or not had_files:
                return True
        device = os.stat(root).st_dev  # noqa: PTH116
    except OSError as error:
        short = shortage(error) if error.errno in _OURS else None
        if short is not None:
            raise short from error  # neither is known then
        return False
    if known_device is not None:
        return device == known_device
    return not (root + "/").startswith(_MOUNT_PARENTS)


def sweep(
    rules: Rules,
    known: Iterable[Known],
    below: str | None = None,
    *,
    entering: Callable[[str, bool], None] | None = None,
) -> Iterator[FileChange]:
    """Compare the disk with the catalog. Ask `root_online` first.

    Both are read side by side, so that memory does not grow with their size.

    Args:
        rules: The rules of the root.
        known: The catalog's files at or below `below`, in order of the bytes of their paths. It may be read
            while the walk goes on and the catalog changes.
        below: Only this folder or file of the root, as a `rescan` change names it.
        entering: Called with each folder and True before it is looked into, and with False when what it
            holds says that it is ignored; see `Watcher.follow`.

    Yields:
        An upsert for each new file and each whose size or time differs, while the walk goes on, and for each
        folder that could not be looked at, where the catalog does not have it; then a remove for each known
        file that is gone or ignored now. Files below a folder that could not be looked at are neither.
        Upserts come first, so that a moved file is recognised by its content.

    Raises:
        ShortageError: As for `scan`.
    """
    root = rules.root
    unseen: list[str] = []
    left: list[bytes] = []
    rows = iter(known)
    row = next(rows, None)
    for path, info in _walk(rules, below, entering):
        if isinstance(info, str):
            unseen.append(path)
            raw = os.fsencode(path)
            while row is not None and row[0] <= raw:  # a folder's own name comes before what is in it
                left.append(row[0])
                row = next(rows, None)
            place = bisect.bisect_left(left, raw)
            if path != root and left[place : place + 1] != [raw]:
                yield FileChange(kind="upsert", path=path, root=root)
            continue
        raw = path.encode(_ENCODING, _ERRORS)  # os.fsencode, without its calls
        while row is not None and row[0] < raw:
            left.append(row[0])
            row = next(rows, None)
        if row is not None and row[0] == raw:
            same = row[1] == info.st_size and row[2] == info.st_mtime_ns
            row = next(rows, None)
            if same:
                continue
        yield FileChange(kind="upsert", path=path, root=root, size=info.st_size, mtime_ns=info.st_mtime_ns)
    while row is not None:
        left.append(row[0])
        row = next(rows, None)
    prefixes = tuple(path.rstrip(os.sep) + os.sep for path in unseen)
    keep = frozenset(unseen)
    for path in map(os.fsdecode, left):
        if path not in keep and not path.startswith(prefixes) and not _wanted(rules, path):
            yield FileChange(kind="remove", path=path, root=root)


def _wanted(rules: Rules, path: str) -> bool:
    """Whether there is a file after all: it may have come, and been indexed, behind the walk's back."""
    try:
        return rules.told(path, rules.look(path).st_mode) and rules.ignored(path, False) is None
    except OSError:
        return False
