"""Events of the Linux kernel, for all roots through one inotify instance.

Not through watchdog, because of three things that its 6.0 does on Linux: it skips the event that says
that the kernel's queue ran over, so that lost events stay lost; a folder that is moved in from elsewhere
is not watched; and it watches ignored folders too (a node_modules alone can use up a person's watches).
One instance for all roots also lets a move from one root to another be seen as a move.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import select
import struct
import termios
import threading
import time
from collections.abc import Callable

from indexer.watch.changes import Event
from indexer.watch.rules import Rules

log = logging.getLogger(__name__)

_MODIFY = 0x2
_ATTRIB = 0x4
_CLOSE_WRITE = 0x8
_MOVED_FROM = 0x40
_MOVED_TO = 0x80
_CREATE = 0x100
_DELETE = 0x200
_Q_OVERFLOW = 0x4000
_IGNORED = 0x8000
_ONLYDIR = 0x0100_0000
_DONT_FOLLOW = 0x0200_0000
_EXCL_UNLINK = 0x0400_0000
_ISDIR = 0x4000_0000
_MASK = (
    _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
    | _ONLYDIR | _EXCL_UNLINK
)  # fmt: skip
_HEAD = struct.Struct("iIII")
# The two halves of a move come one after the other; this is how long the second is waited for.
_PAIR_S = 0.05


class InotifySource:
    """Watches folders and all wanted folders below them."""

    def __init__(self, on_event: Callable[[Event], None], on_refused: Callable[[str, OSError], None]) -> None:
        """Start the reading thread.

        Args:
            on_event: Called for each event, on the reading thread.
            on_refused: Called with a root when the system refuses to watch a new folder in it, or
                (ENOENT) stopped watching the root because it was deleted or unmounted.

        Raises:
            OSError: The system gives out no more inotify instances (EMFILE), or has no inotify.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        self._add_watch = libc.inotify_add_watch
        self._rm_watch = libc.inotify_rm_watch
        self._fd = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise _error()
        self._on_event = on_event
        self._on_refused = on_refused
        self._stop_read, self._stop_write = os.pipe()
        self._lock = threading.RLock()
        self._path: dict[int, str] = {}
        self._wd: dict[str, int] = {}
        self._roots: dict[str, Rules] = {}
        self._from: dict[int, tuple[str, bool, float]] = {}  # cookie -> path, folder, when
        self._thread = threading.Thread(target=self._run, name="inotify", daemon=True)
        self._thread.start()

    def add(self, root: str, rules: Rules, *, deep: bool = True) -> None:
        """Watch a root; what is below it as well, or (not `deep`) as `follow` names it.

        Raises:
            OSError: ENOSPC when the watches do not suffice (none is kept then); or the root is not there.
        """
        with self._lock:
            self._roots[root] = rules
            try:
                self._watch_folder(root, follow=True)
                if deep:
                    self._watch_below(root, rules)
            except OSError:
                self.remove(root)
                raise

    def remove(self, root: str) -> None:
        """Stop watching a root."""
        with self._lock:
            self._roots.pop(root, None)
            self._unwatch(root)

    def follow(self, folder: str, wanted: bool) -> None:
        """Watch one folder of a root, if it is not watched yet, or (not `wanted`) leave it."""
        with self._lock:
            if (folder in self._wd) == wanted:
                return
            root = self._root_of(folder)
            if root is None:
                return
            if not wanted:
                self._unwatch(folder)
                return
            try:
                self._watch_folder(folder, follow=folder == root)
            except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
                log.debug("%s is not watched: %s", folder, error)
            except OSError as error:
                self._on_refused(root, error)

    def _root_of(self, folder: str) -> str | None:
        """The innermost root of a folder: the one around it leaves it out."""
        around = (r for r in self._roots if folder == r or folder.startswith(r.rstrip(os.sep) + os.sep))
        return max(around, key=len, default=None)

    def renew(self, folder: str) -> None:
        """Watch what became wanted below a folder because the rules changed."""
        with self._lock:
            self._watch_new(folder)

    def pending(self) -> bool:
        """Whether the kernel holds events that have not been passed on."""
        with self._lock:
            waiting = bytearray(4)
            fcntl.ioctl(self._fd, termios.FIONREAD, waiting)
            return bool(int.from_bytes(waiting, "little") or self._from)

    def close(self) -> None:
        """End the thread and give everything back."""
        os.write(self._stop_write, b"x")
        self._thread.join()
        for fd in (self._fd, self._stop_read, self._stop_write):
            os.close(fd)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.register(self._stop_read, select.POLLIN)
        while True:
            ready = poll.poll(_PAIR_S * 1000 if self._from else None)
            if any(fd == self._stop_read for fd, _ in ready):
                return
            with self._lock:
                try:
                    if ready:
                        self._read()
                    self._give_up(time.monotonic() - _PAIR_S)
                except Exception:
                    # A thread that ends here would leave every folder unwatched without a word.
                    log.exception("events could not be followed; every folder is looked through")
                    self._lost()

    def _lost(self) -> None:
        for root, rules in list(self._roots.items()):
            rules.forget()  # what says what is ignored may have changed unseen
            self._watch_new(root)
            self._on_event(Event("rescan", root, True))

    def _read(self) -> None:
        try:
            buffer = os.read(self._fd, 1 << 18)
        except BlockingIOError:
            return
        at = 0
        while at < len(buffer):
            wd, mask, cookie, length = _HEAD.unpack_from(buffer, at)
            at += _HEAD.size + length
            name = os.fsdecode(buffer[at - length : at].rstrip(b"\0"))
            if mask & _Q_OVERFLOW:
                log.warning("the kernel's event queue ran over; every folder is looked through")
                self._lost()
            elif mask & _IGNORED:
                path = self._path.pop(wd, None)
                if path is not None and self._wd.get(path) == wd:
                    del self._wd[path]
                    if path in self._roots:
                        self._on_refused(path, OSError(errno.ENOENT, os.strerror(errno.ENOENT), path))
            elif name and (folder := self._path.get(wd)) is not None:
                # A folder's own events have no name; its parent, or the poll for roots, tells them.
                self._one(f"{folder.rstrip(os.sep)}{os.sep}{name}", mask, cookie)

    def _one(self, path: str, mask: int, cookie: int) -> None:
        is_dir = bool(mask & _ISDIR)
        if mask & _MOVED_FROM:
            self._from[cookie] = (path, is_dir, time.monotonic())
        elif mask & _MOVED_TO:
            old = self._from.pop(cookie, None)
            if old is None:
                if is_dir:
                    self._watch_new(path)
                self._on_event(Event("created", path, is_dir))
                return
            if is_dir:
                self._rename(old[0], path)
                self._watch_new(path)
            self._on_event(Event("moved", old[0], is_dir, path))
        elif mask & _CREATE:
            if is_dir:
                self._watch_new(path)
            self._on_event(Event("created", path, is_dir))
        elif mask & _DELETE:
            self._on_event(Event("deleted", path, is_dir))
        elif not is_dir:
            self._on_event(Event("modified", path, False))

    def _give_up(self, before: float) -> None:
        """What was moved away and turned up nowhere has left."""
        for cookie in [c for c, (_, _, when) in self._from.items() if when <= before]:
            path, is_dir, _ = self._from.pop(cookie)
            if is_dir and not os.path.isdir(path):  # noqa: PTH112
                self._unwatch(path)
            self._on_event(Event("deleted", path, is_dir))

    def _watch_new(self, folder: str) -> None:
        root = self._root_of(folder)
        if root is None:
            return
        rules = self._roots[root]
        if rules.ignored(folder, True) is not None:
            self._unwatch(folder)
            return
        try:
            self._watch_folder(folder, follow=folder == root)
            self._watch_below(folder, rules)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return  # gone again, or nothing to see; its parent tells
        except OSError as error:
            self._on_refused(root, error)

    def _watch_below(self, folder: str, rules: Rules) -> None:
        stack = [folder]
        while stack:
            above = stack.pop()
            try:
                with os.scandir(above) as listing:
                    below = [entry.path for entry in listing if entry.is_dir(follow_symlinks=False)]
            except OSError as error:
                # Gone again, or not readable: the walk of the files tells the person.
                log.debug("%s is not watched: %s", above, error)
                continue
            for path in below:
                if rules.ignored(path, True) is None:
                    try:
                        self._watch_folder(path, follow=False)
                    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
                        log.debug("%s is not watched: %s", path, error)
                        continue
                    stack.append(path)

    def _watch_folder(self, folder: str, *, follow: bool) -> None:
        mask = _MASK if follow else _MASK | _DONT_FOLLOW
        wd = self._add_watch(self._fd, os.fsencode(folder), mask)
        if wd < 0:
            raise _error(folder)
        before = self._path.get(wd)
        if before is not None and before != folder and self._wd.get(before) == wd:
            del self._wd[before]
        self._path[wd] = folder
        self._wd[folder] = wd

    def _rename(self, old: str, new: str) -> None:
        self._unwatch(new)
        prefix = old + os.sep
        for path in [p for p in self._wd if p == old or p.startswith(prefix)]:
            wd = self._wd.pop(path)
            self._wd[new + path[len(old) :]] = wd
            self._path[wd] = new + path[len(old) :]

    def _unwatch(self, folder: str) -> None:
        prefix = folder.rstrip(os.sep) + os.sep
        for path in [p for p in self._wd if p == folder or p.startswith(prefix)]:
            wd = self._wd.pop(path)
            self._path.pop(wd, None)
            self._rm_watch(self._fd, wd)  # fails when the folder is gone, which is as well


def _error(path: str | None = None) -> OSError:
    code = ctypes.get_errno() or errno.EINVAL
    return OSError(code, os.strerror(code), path)
