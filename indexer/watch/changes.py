"""Events as the system reports them, and what is left of them when they have settled."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import Literal, NamedTuple

import msgspec

from indexer.watch.rules import Rules


class FileChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something the index must follow.

    Attributes:
        kind: ``upsert``: the file is new or its content may have changed. ``remove``: it is gone; with
            `is_dir` everything below it is gone too, as well as a file of that name. ``move``: what was
            at `old` is now at `path`, with `is_dir` together with everything below it (a ``rescan`` of
            `path` follows then, for what changed meanwhile); a moved file's content may have changed as
            well, which size and time tell, and an `old` that the index does not have makes it an
            ``upsert``. ``rescan``: run `sweep` below `path`, which may be a folder, a file that replaced
            one, or gone.
            A file that is gone when the turn of its ``upsert`` comes can be left alone: the change
            that tells so follows.
        root: The root that `path` is in (`old` may have been in another).
        size: Bytes, when the change was reported; for ``upsert`` and for ``move`` of a file. None when
            the file could not be looked at.
        mtime_ns: Nanoseconds since the epoch, likewise.
    """

    kind: Literal["upsert", "remove", "move", "rescan"]
    path: str
    root: str
    old: str | None = None
    is_dir: bool = False
    size: int | None = None
    mtime_ns: int | None = None


class Event(NamedTuple):
    """One event of the system.

    Attributes:
        kind: ``moved`` goes from `path` to `dest`. A move into or out of what is watched is a
            ``created`` or ``deleted``. ``rescan``: events were lost below `path`.
    """

    kind: Literal["created", "modified", "deleted", "moved", "rescan"]
    path: str
    is_dir: bool
    dest: str = ""


class Merged(NamedTuple):
    """What events come to, before a look at the disk.

    Attributes:
        moves: (old, new, is_dir); no path of one is at, above or below a path of another.
        files: Paths to look at.
        folders: Paths to look at with everything below; none is below another.
    """

    moves: list[tuple[str, str, bool]]
    files: list[str]
    folders: list[str]


def merge(events: Iterable[Event], roots: Collection[str] = ()) -> Merged:
    """Fold events into as little work as follows them safely. Pure.

    What lies in one of `roots` is looked at with that root: a folder around it leaves it out.

    Only which events there were counts, not their order or number, so that duplicates and a wrong order
    cannot mislead: every path that is named is looked at in the end, and a move is kept as a move only
    where it is the one event that says where either of its paths went.
    """
    batch = dict.fromkeys(events)
    moves = {(e.path, e.dest): e.is_dir for e in batch if e.kind == "moved"}
    # Some systems report the files of a moved folder as well.
    along = {pair for pair in moves if _moved_along(*pair, moves)}
    dirty: dict[str, bool] = {}  # path -> whether everything below must be looked at
    placed: dict[str, int] = {}  # path -> events that say that something came or went there
    for kind, path, is_dir, dest in batch:
        if kind == "moved" and (path, dest) in along:
            continue
        for place in (path, dest) if dest else (path,):
            dirty[place] = dirty.get(place, False) or is_dir
            if kind != "modified":
                placed[place] = placed.get(place, 0) + 1
    kept = {
        pair: is_dir
        for pair, is_dir in moves.items()
        if pair not in along
        and placed[pair[0]] == placed[pair[1]] == 1
        and not _below(pair[1], {pair[0]}, ())
    }
    # Two moves that touch each other, or lie in a folder that came or went, are left to the look.
    whole = {path for path, is_dir in dirty.items() if is_dir}
    kept = {
        pair: is_dir
        for pair, is_dir in kept.items()
        if not any(_below(place, whole, roots) for place in pair)
    }
    ends = {place for pair in kept for place in pair}
    folders = [path for path in whole if path not in ends and not _below(path, whole - ends, roots)]
    covered = set(folders).union(new for (_, new), is_dir in kept.items() if is_dir)
    files = [
        p for p, is_dir in dirty.items() if not is_dir and p not in ends and not _below(p, covered, roots)
    ]
    return Merged([(old, new, is_dir) for (old, new), is_dir in kept.items()], files, folders)


def settle(merged: Merged, place: Callable[[str], Rules | None]) -> list[FileChange]:
    """Look at the disk and say what the index must follow.

    Args:
        merged: From `merge`.
        place: The rules of the root that a path is in, None for a path in no root.

    Returns:
        Moves first, each folder's followed by its rescan; then upserts, rescans, and removes last, so
        that a file which was moved in a way nobody reported is still recognised by its content.
    """
    first: list[FileChange] = []
    upserts: list[FileChange] = []
    rescans: list[FileChange] = []
    removes: list[FileChange] = []

    def look(path: str, whole: bool) -> None:
        rules = place(path)
        if rules is None:
            return
        root = rules.root
        try:
            info = rules.look(path)
        except (FileNotFoundError, NotADirectoryError):
            removes.append(FileChange(kind="remove", path=path, root=root, is_dir=whole))
            return
        except OSError:
            if rules.ignored(path, whole) is None:
                upserts.append(FileChange(kind="upsert", path=path, root=root))
            return
        is_dir = stat.S_ISDIR(info.st_mode)
        wanted = (is_dir or rules.told(path, info.st_mode)) and rules.ignored(path, is_dir) is None
        if not wanted:
            removes.append(FileChange(kind="remove", path=path, root=root, is_dir=whole))
        elif is_dir or whole:
            rescans.append(FileChange(kind="rescan", path=path, root=root, is_dir=is_dir))
        else:
            upserts.append(_with_stat("upsert", path, root, info))

    for old, new, is_dir in merged.moves:
        rules = place(new)
        info = None if rules is None else _present(rules, new)
        before = place(old)
        if (
            rules is None
            or info is None
            or before is None
            or _present(before, old) is not None
            or stat.S_ISDIR(info.st_mode) != is_dir
            or not (is_dir or stat.S_ISREG(info.st_mode))
            or rules.ignored(new, is_dir) is not None
        ):
            look(old, is_dir)
            look(new, is_dir)
        elif is_dir:
            first.append(FileChange(kind="move", path=new, old=old, root=rules.root, is_dir=True))
            first.append(FileChange(kind="rescan", path=new, root=rules.root, is_dir=True))
        else:
            first.append(_with_stat("move", new, rules.root, info, old))
    for path in merged.files:
        look(path, False)
    for path in merged.folders:
        look(path, True)
    return first + upserts + rescans + removes


class Coalescer:
    """Holds events until the paths they name have been quiet. Knows no clock and no thread."""

    def __init__(self, quiet_s: float, longest_s: float, limit: int) -> None:
        """An empty one.

        Args:
            quiet_s: Seconds without an event after which a path has settled.
            longest_s: Seconds after which a path that keeps changing is reported all the same.
            limit: Events of one root held at most; above, they become one rescan of the root.
        """
        self._quiet = quiet_s
        self._longest = longest_s
        self._limit = limit
        self._events: dict[Event, tuple[str, str]] = {}  # with the roots that it is in and goes to
        self._times: dict[str, tuple[float, float]] = {}
        self._count: dict[str, int] = {}
        self._whole: set[str] = set()

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: Event, root: str, now: float, into: str = "") -> None:
        """Take an event in.

        Args:
            event: What happened.
            root: The root that its path is in.
            now: Seconds, on any clock that only goes forward.
            into: Of a move to another root, that root.
        """
        if root in self._whole:
            self._touch(root, now)
            if into and into != root:
                self.add(Event("created", event.dest, event.is_dir), into, now)
            return
        self._hold(event, root, into, now)
        if (event.kind == "rescan" and event.path == root) or self._count.get(root, 0) > self._limit:
            self._collapse(root, now)

    def due(self, now: float) -> list[Event]:
        """Take out the events that have settled at time `now`."""
        ready = {
            path
            for path, (first, last) in self._times.items()
            if now - last >= self._quiet or now - first >= self._longest
        }
        taken = [e for e in self._events if e.path in ready and (not e.dest or e.dest in ready)]
        for event in taken:
            root, _ = self._events.pop(event)
            self._count[root] -= 1
            if event.kind == "rescan":
                self._whole.discard(event.path)
        if taken:
            held = {place for e in self._events for place in (e.path, e.dest)}
            self._times = {path: times for path, times in self._times.items() if path in held}
        return taken

    def forget(self, root: str) -> None:
        """Drop what is held of a root, but for what moved from it to another."""
        self._whole.discard(root)
        self._count.pop(root, None)
        kept: dict[Event, tuple[str, str]] = {}
        for event, (of, into) in self._events.items():
            if of != root:
                kept[event] = of, into
            elif into and into != root and into not in self._whole:
                kept.setdefault(Event("created", event.dest, True), (into, ""))
        self._count |= Counter(of for of, _ in kept.values())
        self._events = kept
        held = {place for e in self._events for place in (e.path, e.dest)}
        self._times = {path: times for path, times in self._times.items() if path in held}

    def _hold(self, event: Event, root: str, into: str, now: float) -> None:
        if event not in self._events:
            self._events[event] = root, into
            self._count[root] = self._count.get(root, 0) + 1
        self._touch(event.path, now)
        if event.dest:
            self._touch(event.dest, now)

    def _touch(self, path: str, now: float) -> None:
        first, _ = self._times.get(path, (now, now))
        self._times[path] = (first, now)

    def _collapse(self, root: str, now: float) -> None:
        self.forget(root)
        self._whole.add(root)
        self._hold(Event("rescan", root, True), root, "", now)


def _with_stat(
    kind: Literal["upsert", "move"], path: str, root: str, info: os.stat_result, old: str | None = None
) -> FileChange:
    return FileChange(kind=kind, path=path, root=root, old=old, size=info.st_size, mtime_ns=info.st_mtime_ns)


def _present(rules: Rules, path: str) -> os.stat_result | None:
    try:
        return rules.look(path)
    except OSError:
        return None


def _below(path: str, folders: set[str], roots: Collection[str]) -> bool:
    """Whether a folder above `path`, no further up than its root, is one of `folders`."""
    if not folders or path in roots:
        return False
    cut = path.rfind(os.sep)
    while cut > 0:
        path = path[:cut]
        if path in folders:
            return True
        if path in roots:
            return False
        cut = path.rfind(os.sep)
    return os.sep in folders


def _moved_along(old: str, new: str, moves: dict[tuple[str, str], bool]) -> bool:
    """Whether a folder above moved from `old` to `new` takes this one along."""
    while True:
        old, _, old_name = old.rpartition(os.sep)
        new, _, new_name = new.rpartition(os.sep)
        if not old or not new or old_name != new_name:
            return False
        if moves.get((old, new)):
            return True
