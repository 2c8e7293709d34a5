"""Tells what changed in the library's folders, as long as it runs."""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

from indexer.errors import ShortageError
from indexer.watch.changes import Coalescer, Event, FileChange, merge, settle
from indexer.watch.rules import CONTROL, IGNORE_FILES, Rules
from indexer.watch.volumes import mounted_below, mounts
from indexer.watch.walk import root_device, root_online

log = logging.getLogger(__name__)

State = Literal["live", "sweep", "offline"]

_LIMITS = Path("/proc/sys/fs/inotify")


class Source(Protocol):
    """Where events come from. Methods may be called from any thread."""

    def add(self, root: str, rules: Rules, *, deep: bool = True) -> None:
        """Watch a root, with all below or what `follow` names; OSError when the system refuses."""

    def follow(self, folder: str, wanted: bool) -> None:
        """Watch a folder of a root from now on, or leave it."""

    def remove(self, root: str) -> None:
        """Stop watching a root."""

    def renew(self, folder: str) -> None:
        """The rules changed below a folder."""

    def pending(self) -> bool:
        """Whether events are known to wait."""

    def close(self) -> None:
        """Stop."""


SourceFactory = Callable[[Callable[[Event], None], Callable[[str, OSError], None]], Source]


def system_source(on_event: Callable[[Event], None], on_refused: Callable[[str, OSError], None]) -> Source:
    """The best source of events of this system; OSError when it gives none."""
    if sys.platform.startswith("linux"):
        from indexer.watch.inotify import InotifySource

        return InotifySource(on_event, on_refused)
    from indexer.watch.observer import ObserverSource

    return ObserverSource(on_event, on_refused)


class _Root:
    def __init__(self, path: str, rules: Rules) -> None:
        self.path = path
        self.rules = rules
        self.state: State | None = None
        self.reason = ""
        self.identity: tuple[int, int] | None = None
        self.device: int | None = None
        self.had_files = False
        self.followed = False
        self.next_sweep = 0.0
        self.mounted: list[str] | None = None


class Watcher:
    """Watches roots and reports settled changes.

    A root that is added is reported with a ``rescan`` of all of it as soon as it is watched, so that
    nothing falls between a first sweep and the first event; again from time to time, because events are
    only a hint; and when the system says that events were lost.
    """

    def __init__(
        self,
        on_changes: Callable[[list[FileChange]], None],
        on_state: Callable[[str, State, str], None],
        *,
        quiet_s: float = 1.0,
        longest_s: float = 10.0,
        poll_s: float = 5.0,
        sweep_s: float = 1800.0,
        unwatched_sweep_s: float = 300.0,
        limit: int = 5000,
        source: SourceFactory = system_source,
    ) -> None:
        """Start the thread that reports.

        Args:
            on_changes: Called with changes to follow in this order, on the watcher's own thread. While it
                runs, events are held and folded, so it may block to slow the watcher down.
            on_state: Called with a root, its new state and, unless it is live, a reason for the person.
            quiet_s: Seconds without an event after which a path is reported.
            longest_s: Seconds after which a path that keeps changing is reported all the same.
            poll_s: Seconds between two looks whether the roots are there.
            sweep_s: Seconds between two rescans of a root that is watched.
            unwatched_sweep_s: The same for one that the system does not watch for us.
            limit: Events of a root held at most before they become one rescan.
            source: Where events come from.
        """
        self._on_changes = on_changes
        self._on_state = on_state
        self._quiet_s = quiet_s
        self._poll_s = poll_s
        self._sweep_s = sweep_s
        self._unwatched_sweep_s = unwatched_sweep_s
        self._make_source = source
        self._source: Source | None = None
        self._wake = threading.Condition()
        self._held = Coalescer(quiet_s, longest_s, limit)
        self._roots: dict[str, _Root] = {}
        self._removed: list[str] = []
        self._refused: dict[str, OSError] = {}
        self._renew: set[str] = set()
        self._busy = False
        self._at_once = False
        self._closed = False
        self._next_poll = 0.0
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    # --- doors ----------------------------------------------------------------------------

    def add(
        self,
        root: Path | str,
        rules: Rules,
        *,
        had_files: bool = False,
        device: int | None = None,
        followed: bool = False,
    ) -> None:
        """Watch a root from now on, or follow new rules for one that is watched. Returns at once.

        Args:
            root: Absolute path, links in it resolved.
            rules: Made for this root.
            had_files: Whether the catalog has files of it (see `root_online`).
            device: `root_device` of the last time it was seen online, if known.
            followed: Whether the sweep that follows on the first ``rescan`` names the folders through
                `follow`, so that the tree need not be walked for them once more.

        Raises:
            ValueError: It lies in another root, or another in it, and the outer one's rules do not
                leave the inner one out: a file must not be indexed twice.
        """
        path = os.fspath(root)
        with self._wake:
            for other in self._roots.values():
                outer, inner = (other.rules, path) if _inside(path, other.path) else (rules, other.path)
                if other.path != path and _inside(inner, outer.root) and inner not in outer.excluded:
                    raise ValueError(f"{path} and {other.path} lie in one another")
            new = _Root(path, rules)
            new.had_files, new.device, new.followed = had_files, device, followed
            if path in self._roots:
                self._removed.append(path)
            self._roots[path] = new
            self._next_poll = 0.0
            self._wake.notify_all()

    def follow(self, folder: str, wanted: bool) -> None:
        """Watch a folder of a root that was added as `followed`, before it is looked into; see `sweep`."""
        source = self._source
        if source is not None:
            source.follow(folder, wanted)

    def remove(self, root: Path | str) -> None:
        """Stop watching a root and drop what is held of it."""
        path = os.fspath(root)
        with self._wake:
            if self._roots.pop(path, None) is not None:
                self._removed.append(path)
                self._held.forget(path)
                self._wake.notify_all()

    def rescan(self, root: Path | str) -> None:
        """Report a rescan of a root soon, as the person asked for one."""
        path = os.fspath(root)
        with self._wake:
            if path in self._roots:
                self._hold(Event("rescan", path, True), self._roots[path])

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything that happened up to now has been reported.

        Returns:
            False when `timeout` seconds did not suffice.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            # Asked without our lock: the source calls us with its own lock held.
            source = self._source
            pending = source is not None and source.pending()
            with self._wake:
                unseen = any(root.state is None for root in self._roots.values())
                idle = not (
                    self._held or self._busy or self._removed or self._refused or self._renew or unseen
                )
                if idle and not pending:
                    return True
                self._wake.wait(0.02)
        return False

    def close(self) -> None:
        """Stop; nothing is reported any more when it returns. Not to be called from a callback."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self._thread.join()
        if self._source is not None:
            self._source.close()

    # --- from the source's thread ---------------------------------------------------------

    def _event(self, event: Event) -> None:
        with self._wake:
            root = self._root_of(event.path)
            into = self._root_of(event.dest) if event.dest else None
            if event.is_dir:
                # A folder that comes may bring ignore files along.
                for one in (root, into):
                    if one is not None and event.kind != "deleted":
                        one.rules.forget()
            for place in (event.path, event.dest):
                self._mind_rules(event, place)
            if event.kind == "moved":
                here = root is not None and root.rules.ignored(event.path, event.is_dir) is None
                there = into is not None and into.rules.ignored(event.dest, event.is_dir) is None
                if here and there:
                    pass
                elif here:
                    event = Event("deleted", event.path, event.is_dir)
                elif there:
                    event, root = Event("created", event.dest, event.is_dir), into
                else:
                    return
            elif root is None or (
                event.kind != "rescan" and root.rules.ignored(event.path, event.is_dir) is not None
            ):
                return
            if root is not None:
                self._hold(event, root, into if event.dest else None)

    def _hold(self, event: Event, root: _Root, into: _Root | None = None) -> None:
        idle = not self._held
        self._held.add(event, root.path, time.monotonic(), "" if into is None else into.path)
        if idle:
            self._wake.notify_all()  # else it looks again soon anyway; 20,000 wakings would cost seconds

    def _mind_rules(self, event: Event, place: str) -> None:
        """Follow an event on a file that says what is ignored beside it."""
        folder, _, name = place.rpartition(os.sep)
        if name not in CONTROL or (event.kind == "modified" and name not in (*IGNORE_FILES, "CACHEDIR.TAG")):
            return
        root = self._root_of(place)
        if root is None:
            return
        root.rules.forget()
        if folder != root.path:
            above = folder.rpartition(os.sep)[0]
            if root.rules.ignored(above, True) is not None:
                return
        self._renew.add(folder)
        self._hold(Event("rescan", folder, True), root)

    def _refuse(self, root: str, error: OSError) -> None:
        with self._wake:
            self._refused.setdefault(root, error)
            self._wake.notify_all()

    def _root_of(self, path: str) -> _Root | None:
        """The innermost root of a path."""
        found = self._roots.get(path)
        while found is None and len(path) > 1:
            path = path[: path.rfind(os.sep)] or os.sep
            found = self._roots.get(path)
        return found

    # --- the watcher's own thread ---------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                if not (self._removed or self._refused or self._renew or self._at_once):
                    wait = self._next_poll - time.monotonic()
                    if self._held:
                        wait = min(wait, self._quiet_s / 4)
                    if wait > 0 and not self._closed:
                        # New events need no earlier waking than the next look at what has settled.
                        self._wake.notify_all()
                        self._wake.wait(wait)
                if self._closed:
                    return
                self._busy = True
                self._at_once = False
                removed, self._removed = self._removed, []
                refused, self._refused = self._refused, {}
                renew, self._renew = self._renew, set()
                roots = list(self._roots.values())
                events = self._held.due(time.monotonic())
            for path in removed:
                if self._source is not None:
                    self._source.remove(path)
            for folder in renew:
                if self._source is not None:
                    self._source.renew(folder)
            for root in roots:
                error = refused.get(root.path)
                if error is not None and error.errno == errno.ENOENT:
                    root.identity = None  # the root itself went: see whether there is a new one
                    self._next_poll = 0.0
                elif error is not None and root.state == "live":
                    self._unwatched(root, error)
            if time.monotonic() >= self._next_poll:
                self._look(roots)
                with self._wake:
                    if all(root.state is not None for root in self._roots.values()):
                        self._next_poll = time.monotonic() + self._poll_s
            if events:
                self._report(events)

    def _report(self, events: list[Event]) -> None:
        with self._wake:
            places = dict(self._roots)

        def place(path: str) -> Rules | None:
            root = places.get(path)
            while root is None and len(path) > 1:
                path = path[: path.rfind(os.sep)] or os.sep
                root = places.get(path)
            return None if root is None else root.rules

        changes = settle(merge(events, places), place)
        # A disk that was pulled out takes every path along; none of that may reach the index.
        gone = {path for path, root in places.items() if not self._certainly_online(root)}
        for change in changes:
            if change.root in gone:
                places[change.root].identity = None  # it may be back before it is missed
        changes = [change for change in changes if change.root in places and change.root not in gone]
        for change in changes:
            if change.kind != "remove":
                places[change.root].had_files = True
        if changes:
            try:
                self._on_changes(changes)
            except Exception:
                log.exception("changes were not taken; the roots are reported again")
                with self._wake:
                    for path in {change.root for change in changes}:
                        places[path].next_sweep = 0.0

    def _online(self, root: _Root) -> bool:
        return root_online(root.path, root.had_files, root.device)

    def _certainly_online(self, root: _Root) -> bool:
        try:
            return self._online(root)
        except ShortageError:
            root.next_sweep = 0.0  # what is dropped now is found then
            return False

    def _look(self, roots: list[_Root]) -> None:
        """See which roots are there, and which disks are inside them."""
        mounted = mounts()
        for root in roots:
            try:
                self._poll(root)
            except ShortageError as error:
                log.warning("%s: a folder is looked at again later", error.title)
                root.identity = None  # so that it is watched, and looked through, as soon as it can be
                if root.state is None:
                    self._set(root, "sweep", error.message)
                continue
            if mounted is None or root.state == "offline":
                continue
            now = mounted_below(root.path, mounted)
            before, root.mounted = root.mounted, now
            if before is not None and before != now:
                # No event tells of a disk that comes or goes, and it hides or shows everything below.
                with self._wake:
                    for place in sorted(set(before) ^ set(now)):
                        self._hold(Event("rescan", place, True), root)

    def _poll(self, root: _Root) -> None:
        now = time.monotonic()
        if not self._online(root):
            if root.state != "offline":
                if self._source is not None:
                    self._source.remove(root.path)
                with self._wake:
                    self._held.forget(root.path)
                self._set(root, "offline", "The folder is not there now. Its files stay in the index.")
            return
        try:
            info = os.stat(root.path)  # noqa: PTH116
        except OSError:
            return  # gone in this instant; the next look says so
        identity = (info.st_dev, info.st_ino)
        swept = root.state == "sweep"
        if root.state in (None, "offline") or identity != root.identity:
            root.identity = identity
            root.device = root_device(root.path)
            root.next_sweep = now
            self._watch(root)
        if now >= root.next_sweep:
            root.next_sweep = now + (self._sweep_s if root.state == "live" else self._unwatched_sweep_s)
            if swept:
                self._watch(root)  # the limit may have been raised
            with self._wake:
                if self._roots.get(root.path) is root:
                    # Nothing has to settle: it is reported at once.
                    self._held.add(Event("rescan", root.path, True), root.path, now - self._quiet_s)
                    self._at_once = True

    def _watch(self, root: _Root) -> None:
        try:
            if self._source is None:
                self._source = self._make_source(self._event, self._refuse)
            self._source.remove(root.path)
            # Where the system refused once, it is tried as a whole, and the person is told once.
            self._source.add(root.path, root.rules, deep=not root.followed or root.state == "sweep")
        except OSError as error:
            self._unwatched(root, error)
        else:
            self._set(root, "live", "")

    def _unwatched(self, root: _Root, error: OSError) -> None:
        if self._source is not None:
            self._source.remove(root.path)  # half a tree watched would only use up what others need
        minutes = max(1, round(self._unwatched_sweep_s / 60))
        often = f"The folder is looked through every {minutes} minutes instead."
        if error.errno == errno.ENOSPC:
            reason = (
                f"The system's limit of watched folders is reached. {_raised('max_user_watches', 524288)}"
            )
        elif error.errno == errno.EMFILE:
            reason = (
                "The system gives out no more watchers. Close other programs that watch files. "
                + _raised("max_user_instances", 1024)
            )
        else:
            reason = f"The system does not report changes here ({error.strerror or error})"
        root.next_sweep = min(root.next_sweep, time.monotonic() + self._unwatched_sweep_s)
        self._set(root, "sweep", f"{reason}. {often}")

    def _set(self, root: _Root, state: State, reason: str) -> None:
        with self._wake:
            changed = (state, reason) != (root.state, root.reason)
            root.state, root.reason = state, reason
            current = self._roots.get(root.path) is root
        if changed and current:
            try:
                self._on_state(root.path, state, reason)
            except Exception:
                log.exception("the state of a folder was not taken")


def _raised(limit: str, least: int) -> str:
    """What raises a limit of inotify, to at least twice what it is."""
    try:
        present = int((_LIMITS / limit).read_text())
    except (OSError, ValueError):
        present = 0
    return (
        f"Raise it with: echo fs.inotify.{limit}={max(least, 2 * present)} | "
        f"sudo tee /etc/sysctl.d/60-{limit.replace('_', '-')}.conf && sudo sysctl --system"
    )


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
