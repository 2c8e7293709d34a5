"""Cut the power at random moments of a library's life; what was acknowledged must be there afterwards, whole.

    python -m tests.end2end.powerloss [--cuts 200] [--seed 0] [--synchronous full]

A shim below SQLite records every write, truncation, sync, and what happens to names, in order. For each cut
a moment is picked, and the disk is made as it may look then: what was synced is there; of what was not, each
file has nothing, a beginning, or any subset of its 512-byte sectors; of changed names, a beginning of them in
order, as journaling file systems have it. The library is opened from that, must hold exactly what was
acknowledged (or the transaction that was under way, as a whole), and must find nothing wrong with itself.

`--synchronous normal` and `off` show why it is `full`, and that this can fail.

Not covered: a disk that lies about having synced, or that damages what was written long before (the checksums
are for that), and file systems that reorder changes of names. Chroma's files are not recorded: they are
copies, judged at every start, and `dragoman check` compares them to the last vector. Nor is the matrix, which
is written again from the catalog after an unclean end.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import apsw

from indexer import settings
from indexer.errors import IndexerError
from indexer.store import Store
from indexer.store import catalog as catalog_module
from indexer.store.traces import Traces
from tests.unit.test_store import MODEL, put, update

SECTOR = 512
ROOTS = ("/one", "/two")

State = dict[str, tuple[str, ...]]


class Event(NamedTuple):
    """Something that happened: to a file (by number), to names, or a state that was acknowledged."""

    what: str
    file: int = 0
    at: int = 0
    data: bytes = b""
    names: tuple[str, ...] = ()
    state: State | None = None


class Recorder:
    """Everything that was done to the files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Event] = []
        self.names: dict[str, int] = {}
        self._next = 0

    def opened(self, name: str) -> int:
        """The number of the file that has this name now; a new one where there is none."""
        if name not in self.names:
            self._next += 1
            self.names[name] = self._next
            self.events.append(Event("create", self._next, names=(name,)))
        return self.names[name]

    def deleted(self, name: str) -> None:
        """A name is gone."""
        if self.names.pop(name, None) is not None:
            self.events.append(Event("delete", names=(name,)))

    def renamed(self, old: str, new: str) -> None:
        """A file has another's name."""
        if old in self.names:
            self.names[new] = self.names.pop(old)
            self.events.append(Event("rename", names=(old, new)))

    def acknowledged(self, state: State) -> None:
        """A change was said to be done."""
        self.events.append(Event("state", state=state))


class RecordingVFS(apsw.VFS):
    """The system's files, with a note of everything that is done to them."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        super().__init__("recording", "unix", makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> RecordingFile:  # noqa: N802
        """Open."""
        return RecordingFile(self.recorder, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        """Delete."""
        super().xDelete(filename, syncdir)
        self.recorder.deleted(filename)
        if syncdir:
            self.recorder.events.append(Event("syncdir"))


class RecordingFile(apsw.VFSFile):
    """One open file."""

    def __init__(self, recorder: Recorder, name: Any, flags: list[int]) -> None:
        self._recorder = recorder
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._number = recorder.opened(path) if path else 0
        super().__init__("unix", name, flags)

    def _note(self, event: Event) -> None:
        if self._number:
            self._recorder.events.append(event)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        """Write."""
        self._note(Event("write", self._number, offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        """Cut short."""
        self._note(Event("truncate", self._number, newsize))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        """Wait for the disk."""
        super().xSync(flags)
        self._note(Event("sync", self._number))


@contextlib.contextmanager
def recording(folder: Path) -> Iterator[Recorder]:
    """Record what is done in a folder, by SQLite and by the catalog itself."""
    recorder = Recorder(folder)
    vfs = RecordingVFS(recorder)
    replace, unlink, synced = Path.replace, Path.unlink, settings.synced

    def note_replace(path: Path, target: Path) -> Path:
        done = replace(path, target)
        recorder.renamed(str(path), str(target))
        return done

    def note_unlink(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok=missing_ok)
        recorder.deleted(str(path))

    def note_synced(path: Path) -> None:
        synced(path)
        number = recorder.names.get(str(path))
        recorder.events.append(Event("syncdir") if number is None else Event("sync", number))

    try:
        with (
            mock.patch.object(Path, "replace", note_replace),
            mock.patch.object(Path, "unlink", note_unlink),
            mock.patch.object(catalog_module, "synced", note_synced),
        ):
            yield recorder
    finally:
        vfs.unregister()


# --- a life --------------------------------------------------------------------------------------


def live(store: Store, recorder: Recorder, rng: random.Random, changes: int) -> Counter[str]:
    """Change a library in every way; each change is one transaction, and what holds then is recorded."""
    state: State = {}
    done: Counter[str] = Counter()
    catalog = store._catalog
    for root in ROOTS:
        store.add_root(root)
    recorder.acknowledged({})
    for number in range(changes):
        root = rng.choice(ROOTS)
        kind = rng.choices(("put", "remove", "move", "forget", "scrub"), (60, 12, 12, 3, 4))[0]
        new = dict(state)
        known = sorted(state)
        if kind == "put":
            path = rng.choice(known) if known and rng.random() < 0.4 else f"{root}/{number}"
            texts = tuple(
                f"text {rng.randrange(60)} " + "and more of it " * rng.randrange(80)
                for _ in range(rng.randrange(1, 7))
            )
            put(store, update(path, *texts, root="/" + path.split("/")[1]))
            new[path] = texts
        elif kind == "remove" and known:
            store.remove([path := rng.choice(known)])
            del new[path]
        elif kind == "move" and known:
            path = rng.choice(known)
            target = f"{root}/{number} moved"
            store.move(path, target, root)
            new[target] = new.pop(path)
        elif kind == "forget":
            store.remove_root(root)
            new = {path: texts for path, texts in state.items() if not path.startswith(root + "/")}
            recorder.acknowledged(new)
            store.add_root(root)
        elif kind == "scrub":
            while catalog.collect(0.0):
                pass
            Traces(catalog).scrub(everything=True)
        done[kind] += 1
        state = new
        recorder.acknowledged(state)
    return done


def content(store: Store) -> State:
    """What a library holds."""
    with store._catalog.read() as db:
        rows = db.ask(
            "SELECT files.path, text FROM files LEFT JOIN chunks ON chunks.file = files.id"
            " ORDER BY path, slot"
        )
    found: dict[str, list[str]] = {}
    for path, text in rows:
        found.setdefault(path.decode(), []).append(text)
    return {path: tuple(texts) for path, texts in found.items()}


# --- a cut ---------------------------------------------------------------------------------------


class Disk:
    """What is on the disk for certain, and what may be, at one moment of a recording."""

    def __init__(self) -> None:
        self.files: dict[int, bytearray] = {}
        self.pending: dict[int, list[Event]] = {}
        self.names: dict[str, int] = {}
        self.renames: list[Event] = []
        self.states: list[State] = [{}]

    def feed(self, event: Event) -> None:
        """Take note of what happened next."""
        if event.what == "state":
            assert event.state is not None
            self.states.append(event.state)
        elif event.what in {"write", "truncate"}:
            self.pending.setdefault(event.file, []).append(event)
        elif event.what == "sync":
            data = self.files.setdefault(event.file, bytearray())
            for change in self.pending.pop(event.file, []):
                _apply(data, change)
            # A synced file has its name.
            while any(change.file == event.file for change in self.renames):
                self._rename(self.renames.pop(0))
        elif event.what == "syncdir":
            while self.renames:
                self._rename(self.renames.pop(0))
        else:
            self.renames.append(event)

    def _rename(self, event: Event, names: dict[str, int] | None = None) -> None:
        names = self.names if names is None else names
        if event.what == "create":
            names[event.names[0]] = event.file
        elif event.what == "delete":
            names.pop(event.names[0], None)
        elif event.names[0] in names:
            names[event.names[1]] = names.pop(event.names[0])

    def after_cut(self, folder: Path, rng: random.Random) -> None:
        """Lay out what may be left."""
        names = dict(self.names)
        for event in self.renames[: rng.randint(0, len(self.renames))]:
            self._rename(event, names)
        folder.mkdir()
        for name, number in names.items():
            data = bytearray(self.files.get(number, b""))
            pending = self.pending.get(number, [])
            how = rng.choice(("nothing", "beginning", "sectors", "sectors"))
            if how == "beginning":
                for change in pending[: rng.randint(0, len(pending))]:
                    _apply(data, change)
            elif how == "sectors":
                share = rng.random()
                for change in pending:
                    if change.what == "truncate":
                        if rng.random() < share:
                            _apply(data, change)
                        continue
                    for part in _sectors(change):
                        if rng.random() < share:
                            _apply(data, part)
            (folder / Path(name).name).write_bytes(data)


def _sectors(change: Event) -> Iterator[Event]:
    """A write in the pieces that a disk writes whole."""
    at, data = change.at, change.data
    while data:
        room = SECTOR - at % SECTOR
        yield change._replace(at=at, data=data[:room])
        at, data = at + room, data[room:]


def _apply(data: bytearray, change: Event) -> None:
    if change.what == "truncate":
        del data[change.at :]
        return
    if len(data) < change.at:
        data.extend(bytes(change.at - len(data)))
    data[change.at : change.at + len(change.data)] = change.data


class Result(NamedTuple):
    """What came of the cuts."""

    cuts: int
    events: int
    changes: Counter[str]
    under_way: int
    lost: int
    faults: list[str]


def cut(seed: int, cuts: int, changes: int = 120, synchronous: str = "full") -> Result:
    """Record a life and cut it at random moments.

    Args:
        seed: Of everything random.
        cuts: How many.
        changes: Transactions of the life.
        synchronous: SQLite's setting, to compare.
    """
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="dragoman-power-") as base:
        with recording(Path(base) / "data") as recorder:
            store = Store(Path(base) / "data")
            store._use_chroma = False
            store.use_model(MODEL)
            store._keeper.stop()
            writer = store._catalog._writer
            writer.pragma("synchronous", synchronous)
            writer.wal_autocheckpoint(60)
            done = live(store, recorder, rng, changes)
            store.close()
        events = recorder.events
        first = next(at for at, event in enumerate(events) if event.what == "state")
        moments = sorted(rng.randrange(first + 1, len(events)) for _ in range(cuts))
        disk, fed = Disk(), 0
        under_way = lost = 0
        faults: list[str] = []
        for number, moment in enumerate(moments):
            while fed < moment:
                disk.feed(events[fed])
                fed += 1
            following = next((e.state for e in events[moment:] if e.state is not None), disk.states[-1])
            left = Path(base) / f"cut-{number}"
            disk.after_cut(left, rng)
            try:
                with contextlib.closing(Store(left)) as again:
                    again._use_chroma = False
                    again.use_model(MODEL)
                    found, wrong = content(again), again.check()
            except (IndexerError, apsw.Error) as error:
                faults.append(f"event {moment}: {type(error).__name__}: {error}")
                continue
            if wrong:
                faults.append(f"event {moment}: {wrong}")
            if found == disk.states[-1]:
                continue
            if found == following:
                under_way += 1
            elif found in disk.states:
                lost += 1
                faults.append(f"event {moment}: acknowledged changes are lost")
            else:
                faults.append(f"event {moment}: a state that never was")
    return Result(cuts, len(events), done, under_way, lost, faults)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--changes", type=int, default=120)
    parser.add_argument("--synchronous", choices=("full", "normal", "off"), default="full")
    options = parser.parse_args()
    began = time.monotonic()
    result = cut(options.seed, options.cuts, options.changes, options.synchronous)
    print(
        f"{result.cuts} cuts in a life of {sum(result.changes.values())} changes and {result.events} writes"
        f" and syncs, synchronous={options.synchronous}, seed {options.seed}:"
        f" {time.monotonic() - began:.0f} s"
    )
    print(f"changes: {', '.join(f'{count} {name}' for name, count in sorted(result.changes.items()))}")
    print(f"whole with the transaction under way: {result.under_way}; acknowledged and lost: {result.lost}")
    print(f"faults: {len(result.faults)}")
    for fault in result.faults[:10]:
        print(f"  {fault}")
    return int(bool(result.faults))


if __name__ == "__main__":
    sys.exit(main())
