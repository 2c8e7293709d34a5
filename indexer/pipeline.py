"""A file's way: change -> extract and chunk in a child -> embed -> one transaction in the store.

Extraction threads only wait for their child processes; one thread feeds the encoder; one writes.
The queues between them are bounded in files and in bytes, so a slow encoder holds extraction back
and memory does not grow with the library, but for the names of the files that wait.

A file of very many chunks goes to the encoder piece by piece, in turns with other files. What was
embedded of it is stored at once, out of use, and survives a kill; the file itself becomes visible
in one transaction when nothing of it is missing.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import logging
import math
import os
import queue
import stat
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from indexer.api import Notice
from indexer.document import Chunk
from indexer.errors import FileError, IndexerError, TextError, away, shortage
from indexer.extract import kind_of
from indexer.manners import COURTESY
from indexer.store import FileUpdate, ModelChangedError, Store
from indexer.watch import FileChange, Rules, mounted_below, mounts, root_device, root_online, sweep
from indexer.workers import (
    LARGE_CHUNKS,
    ChunkFile,
    FileChangedError,
    FileGoneError,
    NoAnswerError,
    PoolClosedError,
    Prepared,
    WorkerPool,
    lstat,
    not_a_file,
    unreadable,
)

if TYPE_CHECKING:
    from indexer.embed import Vectors
    from indexer.embed.thread import EncoderThread

log = logging.getLogger(__name__)

# One trip to the encoder and one transaction: large enough that the commit's fsync does not show,
# small enough that new files become searchable within seconds on a slow machine.
BATCH_CHUNKS = 128
# What was read and waits for the encoder.
PREPARED_FILES = 64
PREPARED_BYTES = 16 << 20
# The encoder always has its next batches, also while a transaction takes longer than a batch.
ENCODING_BATCHES = 3
UNWRITTEN_BATCHES = 6
# What needs no encoder (touched, copied and unreadable files) is written so many at a time.
NOTES = 1000
NOTES_S = 0.1  # so long more of them are waited for
# Large files that are read or embedded at the same time; others are not held up by more of them.
LARGE_FILES = 2
LARGE_TOKENS = 150 * LARGE_CHUNKS
RATE_WINDOW_S = 15.0
BUSY_WINDOW_S = 5.0
SAMPLE_EVERY_S = 0.5
# The estimate is made from more than the rate that is shown, and not before it means something.
ESTIMATE_WINDOW_S = 60.0
ESTIMATE_AFTER_S = 5.0
TROUBLE_PAUSE_S = 10.0
# How often memory that does not suffice for a file or a batch is waited for, before it is the file's fault.
SHORT_OF_MEMORY = 3
# How long a first sweep waits for the folder to be watched.
WATCH_WAIT_S = 10.0

_FORCED, _ALONE, _READ = 1, 2, 4


class Progress(NamedTuple):
    """Where the pipeline stands.

    Attributes:
        waiting: Files known to need work, those in hand included.
        done: Files stored, or found to be unreadable, since the present run of work began; not those that
            were looked at and turned out to be as they were.
        encoder_busy: Share of the last seconds in which the encoder worked, 0 to 1.
        remaining_s: Estimate in seconds, None until it means something.
        current: A file in hand, empty for none.
        waiting_by_root: `waiting`, folder by folder.
    """

    scanning: bool
    waiting: int
    done: int
    files_per_s: float
    tokens_per_s: float
    encoder_busy: float
    remaining_s: float | None
    current: str
    waiting_by_root: Counter[str]
    trouble: Notice | None


class _Waiting(msgspec.Struct, order=True, gc=False):
    """A file in the queue. There may be a million, so this holds no more than it must.

    Attributes:
        order: 0 for what just changed, 1 for what a sweep found.
        rank: See `_rank`.
        flags: _FORCED: to be read whatever the catalog says. _ALONE: embedded apart from others, as one text
            of its batch could not be. _READ: nothing with its content can be copied.
    """

    order: int
    rank: int
    size: int
    path: str
    root: str
    flags: int = 0


class _Job(msgspec.Struct):
    path: str
    root: str
    size: int
    order: int
    flags: int
    large: bool
    mtime_ns: int = 0
    weight: int = 0  # the bytes it still counts for in the remaining time
    stale: bool = False  # removed or moved while in hand: its result must not be stored
    again: bool = False  # changed while in hand: look once more afterwards


def _rank(size: int, mtime_ns: int) -> int:
    """Small and recently changed files first: 0 to 255, eight steps for every doubling.

    A file of a month ago counts like one twice as large of today: what a person works on is found soon, and
    an old archive does not push thousands of last year's notes back.
    """
    months = max(0.0, time.time() - mtime_ns / 1e9) / (30 * 86400)
    return min(255, max(0, int(8 * math.log2((size + 4096) * (1 + months))) - 96))


class _Large:
    """A large file on its way through the encoder, a piece at a time."""

    def __init__(self, job: _Job, prepared: Prepared, chunks: ChunkFile) -> None:
        self.job, self.prepared, self.chunks = job, prepared, chunks
        self.next = 0  # piece
        self.unwritten = 0
        self.passes = 1
        self.over = False

    @property
    def sent(self) -> bool:
        """Whether no piece is left to be embedded."""
        return self.next >= self.chunks.pieces


class _Part(NamedTuple):
    """What is embedded together: a whole file, or a piece of a large one."""

    job: _Job
    prepared: Prepared
    chunks: Sequence[Chunk]
    large: _Large | None = None


class _Batch(NamedTuple):
    parts: list[_Part]
    hashes: list[bytes]
    vectors: Future[Vectors]
    model: str  # key of the model that makes them


class _Note(NamedTuple):
    """What the catalog is to be told without embedding anything.

    Attributes:
        what: The problem; or the content key of a file that others may have, or that (`same`) is the same.
    """

    job: _Job
    what: FileError | bytes
    same: bool = False


class _Hopper:
    """Files that were read and wait for the encoder."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._small: deque[tuple[_Job, Prepared, int]] = deque()
        self._large: deque[_Large] = deque()
        self._bytes = 0
        self._closed = False
        self._large_turn = False

    def put(self, job: _Job, prepared: Prepared) -> None:
        """Hand on a file, waiting while there is no room."""
        chunks = prepared.chunks
        if isinstance(chunks, ChunkFile):
            self.put_large(_Large(job, prepared, chunks))
            return
        cost = sum(2 * len(chunk.text) + 500 for chunk in chunks)
        with self._wake:
            self._wake.wait_for(
                lambda: (
                    self._closed
                    or not self._small
                    or (len(self._small) < PREPARED_FILES and self._bytes + cost <= PREPARED_BYTES)
                )
            )
            self._small.append((job, prepared, cost))
            self._bytes += cost
            self._wake.notify_all()

    def put_large(self, large: _Large) -> None:
        """Hand on a large file; only LARGE_FILES of them are in hand."""
        with self._wake:
            self._large.append(large)
            self._wake.notify_all()

    def take(self) -> list[_Part] | None:
        """About BATCH_CHUNKS chunks of what is there, waiting for the first; None at the end.

        Large files and others take turns; a book does not hold back notes before it.
        """
        with self._wake:
            while True:
                self._wake.wait_for(lambda: self._closed or self._small or self._large)
                if self._closed:
                    return None
                if not self._large or (self._small and not self._large_turn):
                    break
                self._large_turn = False
                large = self._large[0]
                self._large.rotate(-1)
                if large.over or large.sent:
                    self._large.remove(large)
                    continue
                number = large.next
                large.next += 1
                large.unwritten += 1
                return [_Part(large.job, large.prepared, large.chunks.piece(number), large)]
            self._large_turn = True
            parts: list[_Part] = []
            room = BATCH_CHUNKS
            while self._small:
                job, prepared, cost = self._small[0]
                apart = job.flags & _ALONE or (parts and parts[0].job.flags & _ALONE)
                if parts and (len(prepared.chunks) > room or apart):
                    break
                self._small.popleft()
                self._bytes -= cost
                parts.append(_Part(job, prepared, prepared.chunks))
                room -= len(prepared.chunks)
            self._wake.notify_all()
            return parts

    def close(self) -> None:
        """Nobody waits any more."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()


class _Load:
    """How much is waiting, by folder of the library and kind of file.

    Kept by adding and taking away, because a first scan queues hundreds of thousands of files and
    the progress is asked for four times a second.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], tuple[int, int]] = {}

    def add(self, root: str, path: str, size: int, files: int = 1) -> None:
        """Count a file and its bytes, or with negative ones take them away again."""
        part = (root, _suffix(path))
        known_files, known_size = self._parts.get(part, (0, 0))
        if known_files + files:
            self._parts[part] = known_files + files, known_size + size
        else:
            self._parts.pop(part, None)

    def by_root(self) -> Counter[str]:
        """Files, by folder of the library."""
        total: Counter[str] = Counter()
        for (root, _), (files, _) in self._parts.items():
            total[root] += files
        return total

    def tokens(self, density: _Density) -> float:
        """Tokens to expect in all of them."""
        return sum(density.tokens(suffix, size) for (_, suffix), (_, size) in self._parts.items())


class _Sample(NamedTuple):
    at: float
    done: int
    tokens: int
    busy_s: float


class _Density:
    """Tokens in a byte of a file, by its kind; a guess at first, then what was seen.

    Time goes into tokens, and a PDF has far fewer of them in a byte than a note.
    """

    # Guesses count as much as this many bytes of real files.
    _WEIGHT = 200_000

    def __init__(self) -> None:
        guesses = {".pdf": 0.05, ".epub": 0.2, ".html": 0.15, ".htm": 0.15}
        self._seen: dict[str, tuple[float, float]] = {
            suffix: (guess * self._WEIGHT, self._WEIGHT) for suffix, guess in guesses.items()
        }

    def learn(self, suffix: str, size: int, tokens: int) -> None:
        """Take account of a file that was read."""
        known_tokens, known_bytes = self._seen.get(suffix, (0.28 * self._WEIGHT, self._WEIGHT))
        self._seen[suffix] = (known_tokens + tokens, known_bytes + size)

    def tokens(self, suffix: str, size: int) -> float:
        """Tokens to expect in so many bytes of files of this kind; none in those that nothing here reads."""
        if suffix not in self._seen and not _readable(suffix):
            return 0.0
        tokens, read = self._seen.get(suffix, (0.28, 1.0))
        return size * tokens / read


def _suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()  # noqa: PTH122  called for every file of every first scan


@functools.cache
def _readable(suffix: str) -> bool:
    return kind_of(Path("name" + suffix)) is not None


class Pipeline:
    """Turns file changes into store content, in the background.

    Args:
        store: Where results go; the pipeline is its only writer of files.
        encoder: The thread that owns the model.
        pool: Child processes that read files.
        model: Key of that model; empty for whatever the store has active.
        rules: The ignore rules that hold now, for a folder of the library.
        extractors: Threads that wait for children; as many as the pool has.
        entering: Told of the folders that sweeps look into; see `sweep`.
    """

    def __init__(
        self,
        store: Store,
        encoder: EncoderThread,
        pool: WorkerPool,
        *,
        model: str = "",
        rules: Callable[[str], Rules],
        extractors: int = 2,
        entering: Callable[[str, bool], None] | None = None,
    ) -> None:
        self._store = store
        self._encoder, self._model = encoder, model
        self._pool = pool
        self._rules, self._entering = rules, entering
        # Order of locks: _apply (changes of the store), then _state (queues and counters).
        self._apply = threading.Lock()
        # Both conditions have the one lock. Those who take files wait apart, so that waking one of
        # them for a file wakes nobody else in its place.
        lock = threading.RLock()
        self._state, self._work = threading.Condition(lock), threading.Condition(lock)
        self._pending: dict[str, _Waiting] = {}
        self._heap: list[_Waiting] = []
        self._large_heap: list[_Waiting] = []
        self._in_hand: dict[str, _Job] = {}
        self._scans: deque[tuple[str, str]] = deque()
        self._unwatched: dict[str, float] = {}  # roots whose first sweep waits, and how long at most
        self._scanning = ""
        self._scanning_root: str | None = None
        self._load = _Load()
        self._paused = False
        self._stopping = False
        self._prepared = _Hopper()
        self._encoded: queue.Queue[_Batch | _Large | _Note | None] = queue.Queue()
        self._encoding = threading.BoundedSemaphore(ENCODING_BATCHES)
        self._unwritten = threading.BoundedSemaphore(UNWRITTEN_BATCHES)
        self._done = 0
        self._samples: deque[_Sample] = deque()
        self._density = _Density()
        self._current = ""
        self._trouble: Notice | None = None
        self._lost: dict[str, list[str]] = {}
        self._short: Counter[str] = Counter()  # files for which memory did not suffice, and how often
        self._extractors = [
            threading.Thread(target=self._extract_loop, name=f"extract-{n}", daemon=True)
            for n in range(extractors)
        ]
        self._threads = [
            threading.Thread(target=self._scan_loop, name="scan", daemon=True),
            threading.Thread(target=self._embed_loop, name="feed-encoder", daemon=True),
            threading.Thread(target=self._write_loop, name="write", daemon=True),
        ]

    # --- doors ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work on what is submitted."""
        for thread in (*self._threads, *self._extractors):
            thread.start()

    def use(self, encoder: EncoderThread, model: str) -> None:
        """Embed with another encoder from now on; batches under way are taken back and embedded again."""
        with self._state:
            self._encoder, self._model = encoder, model
            self._samples.clear()

    def stop(self) -> None:
        """Finish the transaction in hand and end; what is waiting is found again by the next sweep."""
        with self._state:
            self._stopping = True
            self._state.notify_all()
            self._work.notify_all()
        self._prepared.close()
        self._pool.close()
        if self._threads[0].ident is None:
            return  # it was never started
        for thread in self._extractors:
            thread.join()
        for thread in self._threads:
            thread.join()

    def submit(self, changes: Iterable[FileChange]) -> None:
        """Take over what the watcher or a sweep saw. Removals and moves are visible at once."""
        removed: list[str] = []
        for change in changes:
            if change.kind == "remove":
                if change.is_dir:
                    self._remove_below(change.path)
                else:
                    removed.append(change.path)
                continue
            if removed:
                self._remove(removed)
                removed = []
            if change.kind == "upsert":
                self._enqueue(change.path, change.root, change.size or 0, change.mtime_ns or 0, order=0)
            elif change.kind == "move" and change.old is not None:
                self._move(change.old, change.path, change.root, is_dir=change.is_dir)
            elif change.kind == "rescan":
                self.rescan(change.root, change.path)
        if removed:
            self._remove(removed)

    def rescan(self, root: str, folder: str | None = None, *, when_watched: bool = False) -> None:
        """Compare a folder of the library (or a folder inside one) with the store, in the background.

        Args:
            root: The folder of the library.
            folder: The part of it; None for all.
            when_watched: The watcher is about to report a rescan of the root, when it would see all that
                comes later. That one is waited for a while, so that the tree is walked once and not twice.
        """
        with self._state:
            entry = (root, folder or root)
            if when_watched:
                self._unwatched[root] = time.monotonic() + WATCH_WAIT_S
            elif entry[1] == root:
                self._unwatched.pop(root, None)
            if entry not in self._scans:
                self._scans.append(entry)
            self._state.notify_all()

    def retry(self, paths: Sequence[str]) -> None:
        """Try files again whatever the store says of them.

        Args:
            paths: The files; empty for all that failed.
        """
        if not paths:
            problems, _ = self._store.problems(kind="failed", limit=1_000_000)
            paths = [problem.path for problem in problems]
        self.retry_all(paths)

    def retry_all(self, paths: Iterable[str]) -> None:
        """Try exactly these files again, of which there may be none."""
        for path in paths:
            state = self._store.file(path)
            if state is not None:
                self._enqueue(path, state.root, state.size, state.mtime_ns, order=0, forced=True)

    def awaits(self, path: str) -> bool:
        """Whether a file waits for its turn or is in hand."""
        with self._state:
            return path in self._pending or path in self._in_hand

    def forget(self, root: str) -> None:
        """Drop everything queued for a folder that is leaving the library or has gone offline."""
        with self._apply, self._state:
            self._unwatched.pop(root, None)
            self._lost.pop(root, None)
            self._scans = deque(scan for scan in self._scans if scan[0] != root)
            if self._scanning_root == root:
                self._scanning_root = None  # the scan ends at its next file
            for path in [p for p, waiting in self._pending.items() if waiting.root == root]:
                self._drop(path)
            for job in self._in_hand.values():
                if job.root == root:
                    job.stale, job.again = True, False
            self._state.notify_all()

    @property
    def paused(self) -> bool:
        """Whether files wait although there is work."""
        return self._paused

    @paused.setter
    def paused(self, value: bool) -> None:
        with self._state:
            self._paused = value
            self._state.notify_all()
            self._work.notify_all()

    @property
    def idle(self) -> bool:
        """Nothing waits, nothing is in hand, nothing is being scanned."""
        with self._state:
            return not (self._pending or self._in_hand or self._scans or self._scanning)

    def progress(self) -> Progress:
        """A consistent picture of the moment; cheap."""
        with self._state:
            waiting = len(self._pending) + len(self._in_hand)
            now = self._sample()
            if not self._samples or now.at - self._samples[-1].at >= SAMPLE_EVERY_S:
                self._samples.append(now)
            while len(self._samples) > 1 and now.at - self._samples[1].at > ESTIMATE_WINDOW_S:
                self._samples.popleft()
            then = self._since(now, RATE_WINDOW_S)
            span = max(now.at - then.at, 1e-3)
            lately = self._since(now, BUSY_WINDOW_S)
            scanning = bool(self._scans or self._scanning)
            if not (waiting or scanning):
                self._trouble = None  # what could not be done is not wanted any more
            return Progress(
                scanning=scanning,
                waiting=waiting,
                done=self._done,
                files_per_s=(now.done - then.done) / span,
                tokens_per_s=(now.tokens - then.tokens) / span,
                encoder_busy=min(1.0, (now.busy_s - lately.busy_s) / max(now.at - lately.at, 1e-3)),
                remaining_s=self._remaining_s(now) if waiting and not scanning else None,
                current=self._current if self._in_hand else "",
                waiting_by_root=self._load.by_root(),
                trouble=self._trouble,
            )

    def _sample(self) -> _Sample:
        encoder = self._encoder
        return _Sample(time.monotonic(), self._done, encoder.tokens_embedded, encoder.busy_seconds)

    def _since(self, now: _Sample, seconds: float) -> _Sample:
        """The newest sample that is so old, or the oldest."""
        found = self._samples[0]
        for sample in self._samples:
            if now.at - sample.at < seconds:
                break
            found = sample
        return found

    def _remaining_s(self, now: _Sample) -> float | None:
        samples = list(self._samples)
        # Until the first text is through, a model is loaded and children are started.
        first = next((i for i, s in enumerate(samples) if s.tokens > samples[0].tokens), len(samples))
        then = samples[first - 1]
        span, tokens = now.at - then.at, now.tokens - then.tokens
        if span < ESTIMATE_AFTER_S or not tokens or self._paused:
            return None
        return self._load.tokens(self._density) / tokens * span

    # --- changes that are visible at once ------------------------------------------------------

    def _remove(self, paths: list[str]) -> None:
        lost = self._lost_volumes()
        paths = [path for path in paths if not path.startswith(lost)]
        with self._apply:
            with self._state:
                for path in paths:
                    self._drop(path)
            self._store.remove(paths)

    def _remove_below(self, folder: str) -> None:
        prefix = folder.rstrip("/") + "/"
        lost = self._lost_volumes()
        if any(prefix.startswith(place) or place.startswith(prefix) for place in lost):
            # The mount point of a disk went with it, as those do that are made when it is plugged in.
            for root in self._store.roots():
                if folder == root.path or folder.startswith(root.path.rstrip("/") + "/"):
                    self.rescan(root.path, folder)
            return
        with self._apply:
            with self._state:
                for path in self._known_below(folder):
                    self._drop(path)
            self._store.remove_below(folder)

    def _move(self, old: str, new: str, root: str, *, is_dir: bool) -> None:
        # Another name may make it a file of another kind, which is read in another way.
        other = not is_dir and kind_of(Path(old)) != kind_of(Path(new))
        if other:
            self._remove([old])
        with self._apply:
            with self._state:
                for path in self._known_below(old) if is_dir else [old]:
                    self._drop(path)
            if not other:
                self._store.move(old, new, root)
        # The catalog moved what it knew; a look at the disk finds what it did not know, such as
        # files that were waiting under the old name.
        if is_dir:
            self.rescan(root, new)
        else:
            with contextlib.suppress(OSError):
                stat = Path(new).lstat()
                self._enqueue(new, root, stat.st_size, stat.st_mtime_ns, order=0, forced=other)

    def _lost_volumes(self) -> tuple[str, ...]:
        """Beginnings of the paths on disks that were mounted inside a folder and are not there now."""
        known = {path for root in self._store.roots() for path in self._store.volumes(root.path)}
        if not known:
            return ()
        there = {mount.path for mount in mounts() or ()}
        return tuple(path.rstrip("/") + "/" for path in sorted(known - there))

    def _see_volumes(self, root: str, rules: Rules) -> tuple[str, ...]:
        """Note which disks are inside a folder, and which were and are not there now; the latter as prefixes.

        One that is gone is forgotten when nothing of it is known, or the rules leave its place out.
        """
        mounted = mounts()
        if mounted is None:
            return ()
        known = self._store.volumes(root)
        now = {place: True for place in mounted_below(root, mounted) if rules.ignored(place, True) is None}
        for place in known.keys() - now.keys():
            files = self._store.known(root, place)
            if rules.ignored(place, True) is None and next(iter(files), None) is not None:
                now[place] = False
        if now != known:
            self._store.set_volumes(root, now)
        lost = [place for place, online in now.items() if not online]
        with self._state:
            self._lost[root] = lost
        return tuple(place.rstrip("/") + "/" for place in lost)

    @property
    def lost_volumes(self) -> list[str]:
        """Where disks were mounted inside folders of the library that are not there now."""
        with self._state:
            return [place for places in self._lost.values() for place in places]

    def _known_below(self, folder: str) -> list[str]:
        prefix = folder.rstrip("/") + "/"
        return [p for p in (*self._pending, *self._in_hand) if p.startswith(prefix) or p == folder]

    def _drop(self, path: str) -> None:
        waiting = self._pending.pop(path, None)
        if waiting is not None:
            self._load.add(waiting.root, path, -waiting.size, -1)
        job = self._in_hand.get(path)
        if job is not None:
            job.stale, job.again = True, False

    # --- the queue -----------------------------------------------------------------------------

    def _enqueue(
        self, path: str, root: str, size: int, mtime_ns: int, *, order: int, forced: bool = False
    ) -> None:
        """Queue a file. Live changes (order 0) go first; of a scan, small and new files first."""
        flags = _FORCED if forced else 0
        with self._state:
            in_hand = self._in_hand.get(path)
            if in_hand is not None:
                in_hand.again = True
                in_hand.flags |= flags
                return
            if not (self._pending or self._in_hand or self._scans or self._scanning):
                self._begin_run()
            self._queue(_Waiting(order, _rank(size, mtime_ns), size, path, root, flags))

    def _queue(self, new: _Waiting, *, large: bool = False) -> None:
        known = self._pending.get(new.path)
        if known is not None:
            new.flags |= known.flags
            self._load.add(known.root, known.path, -known.size, -1)
        self._load.add(new.root, new.path, new.size)
        if known is not None and known.root == new.root and known.order <= new.order:
            # It keeps its place, so that a file which changes all the time is in the queue once.
            known.size, known.flags = new.size, new.flags
            return
        self._pending[new.path] = new
        large = large or self._density.tokens(_suffix(new.path), new.size) > LARGE_TOKENS
        heapq.heappush(self._large_heap if large else self._heap, new)
        self._work.notify()

    def _begin_run(self) -> None:
        self._done = 0
        self._samples.clear()
        self._samples.append(self._sample())

    def _take(self) -> _Job | None:
        with self._state:
            while True:
                if self._stopping:
                    return None
                job = None if self._paused else self._next()
                if job is not None:
                    self._in_hand[job.path] = job
                    self._current = job.path
                    return job
                self._work.wait()

    def _next(self) -> _Job | None:
        """The file whose turn it is; large ones have none while LARGE_FILES of them are in hand."""
        heaps = [self._heap]
        if self._large_heap and sum(job.large for job in self._in_hand.values()) < LARGE_FILES:
            heaps.append(self._large_heap)
        for heap in heaps:
            while heap and self._pending.get(heap[0].path) is not heap[0]:
                heapq.heappop(heap)  # it was dropped, or queued again
        heaps = [heap for heap in heaps if heap]
        if not heaps:
            return None
        heap = min(heaps, key=lambda heap: heap[0])
        taken = heapq.heappop(heap)
        del self._pending[taken.path]
        return _Job(
            taken.path,
            taken.root,
            taken.size,
            taken.order,
            taken.flags,
            large=heap is self._large_heap,
            weight=taken.size,
        )

    def _let_go(self, job: _Job) -> None:
        if self._in_hand.get(job.path) is job:
            del self._in_hand[job.path]
            self._load.add(job.root, job.path, -job.weight, -1)
            if job.large:
                self._work.notify()  # there may be a turn for another

    def _finish(self, job: _Job, *, counted: bool = True) -> None:
        with self._state:
            self._let_go(job)
            self._done += counted
            self._state.notify_all()
            if job.again:
                self._enqueue(
                    job.path, job.root, job.size, job.mtime_ns, order=0, forced=bool(job.flags & _FORCED)
                )

    def _give_back(self, jobs: Iterable[_Job], trouble: IndexerError | None) -> None:
        """Queue files again that could not be finished through no fault of their own, and wait a while."""
        with self._state:
            for job in jobs:
                self._let_go(job)
                if job.again or not job.stale:
                    rank = _rank(job.size, job.mtime_ns)
                    self._queue(
                        _Waiting(job.order, rank, max(job.size, 0), job.path, job.root, job.flags),
                        large=job.large,
                    )
            self._state.notify_all()
        if trouble is not None:
            self._rest(trouble)

    def _rest(self, trouble: IndexerError) -> None:
        """Show what is wrong and wait a while, or until the pipeline stops."""
        with self._state:
            if self._stopping:
                return  # it ends because of the stop
            log.warning("%s", trouble.title)
            self._trouble = Notice(title=trouble.title, message=trouble.message)
            self._state.wait_for(lambda: self._stopping, TROUBLE_PAUSE_S)

    def _recovered(self) -> None:
        with self._state:
            self._trouble = None

    # --- scanning --------------------------------------------------------------------------------

    def _scan_loop(self) -> None:
        while True:
            with self._state:
                entry = None
                while entry is None and not self._stopping:
                    now = time.monotonic()
                    held = [self._unwatched.get(root, 0.0) - now for root, _ in self._scans]
                    entry = next((s for s, wait in zip(self._scans, held, strict=True) if wait <= 0), None)
                    if entry is None:
                        self._state.wait(min(held, default=None))
                if entry is None:
                    return
                root, folder = entry
                if not (self._pending or self._in_hand or self._scanning):
                    self._begin_run()
                self._scanning, self._scanning_root = folder, root
                self._scans.remove(entry)
                self._unwatched.pop(root, None)
            try:
                self._scan(root, folder)
            except IndexerError as error:
                self._scan_again(root, folder, error)
            except Exception as error:
                short = shortage(error)
                if short is not None:
                    self._scan_again(root, folder, short)
                else:
                    log.exception("A folder could not be scanned")
            else:
                self._recovered()
            finally:
                with self._state:
                    self._scanning, self._scanning_root = "", None
                    self._state.notify_all()

    def _scan_again(self, root: str, folder: str, error: IndexerError) -> None:
        with self._state:
            if self._scanning_root == root:
                self.rescan(root, folder)
        self._rest(error)

    def _scan(self, root: str, folder: str) -> None:
        state = next((r for r in self._store.roots() if r.path == root), None)
        if state is None:
            return
        if not root_online(root, state.files > 0, state.device):
            self._store.set_online(root, False)
            return
        device = root_device(root)
        if not state.online or device != state.device:
            self._store.set_online(root, True, device)
        gone: list[str] = []
        # The catalog does not know these yet: the sweep cannot say that they are gone or ignored now.
        with self._state:
            queued = set(self._known_below(folder))
        rules = self._rules(root)
        lost = self._see_volumes(root, rules)
        for change in sweep(rules, self._store.known(root, folder), folder, entering=self._entering):
            with self._state:
                if self._stopping or self._scanning_root != root:
                    return
                queued.discard(change.path)
                if change.kind == "upsert":
                    self._enqueue(change.path, root, change.size or 0, change.mtime_ns or 0, order=1)
                elif change.kind == "remove":
                    gone.append(change.path)
        gone += [path for path in queued if rules.ignored(path, False) or not os.path.lexists(path)]
        gone = [path for path in gone if not path.startswith(lost) or rules.ignored(path, False) is not None]
        # A disk that is unmounted while it is walked looks like a folder whose files are gone.
        if gone and root_online(root, True, device):
            for start in range(0, len(gone), 1000):
                self._remove(gone[start : start + 1000])

    # --- extraction --------------------------------------------------------------------------------

    def _extract_loop(self) -> None:
        while (job := self._take()) is not None:
            COURTESY.give_way()
            try:
                prepared = self._prepare(job)
            except FileError as error:
                self._note(_Note(job, error))
            except PoolClosedError:
                return
            except IndexerError as error:
                self._give_back([job], error)
            except Exception as error:
                if shortage(error) is None:
                    log.exception("Extraction went wrong in the service")
                self._refused([job], error)
            else:
                if prepared is not None:
                    self._hand_on(job, prepared)
            with self._state:
                # Where writing notes, many at a time, takes longer than making them, it is waited for.
                self._state.wait_for(lambda: self._stopping or self._encoded.qsize() < NOTES)

    def _hand_on(self, job: _Job, prepared: Prepared) -> None:
        with self._state:
            self._density.learn(_suffix(job.path), max(job.size, 0), prepared.tokens)
            if isinstance(prepared.chunks, ChunkFile) and not job.large:
                others = sum(other.large for other in self._in_hand.values())
                job.large = True
                if others >= LARGE_FILES:
                    self._give_back([job], None)  # it is read again when its turn comes
                    return
        self._prepared.put(job, prepared)

    def _prepare(self, job: _Job) -> Prepared | None:
        """Read a file; None where nothing needs to be read, and the file is taken care of."""
        try:
            return self._read(job)
        except NoAnswerError:
            known = self._store.file(job.path)
            if known is not None and known.status == "indexed":
                # What is known of it stays. The next sweep asks again.
                self._finish(job, counted=False)
                return None
            job.size, job.mtime_ns = -1, -1
            raise

    def _read(self, job: _Job) -> Prepared | None:
        path = Path(job.path)
        try:
            found = lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            self._gone(job)
            return None
        except OSError as error:
            if away(error):
                # A server or disk that does not answer says nothing of the file. The next sweep asks again.
                self._finish(job, counted=False)
                return None
            raise unreadable(path, error) from error
        job.size, job.mtime_ns = found.st_size, found.st_mtime_ns
        known = self._store.file(job.path)
        forced = job.flags & _FORCED
        if known is not None and not forced and (known.size, known.mtime_ns) == (job.size, job.mtime_ns):
            self._finish(job, counted=False)
            return None
        if stat.S_ISDIR(found.st_mode):
            self._look_into(job, path)
            return None
        if not stat.S_ISREG(found.st_mode):
            raise not_a_file(path, found.st_mode)
        try:
            # Only a file of the same size can have the same content; where there is none, it is read once.
            if not job.flags & _READ and self._store.has_size(job.size):
                content = self._pool.hash(path).key
                same = known is not None and known.status == "indexed" and known.content == content
                if same or self._store.find_content(content):
                    self._note(_Note(job, content, same))
                    return None
            return self._pool.prepare(path)
        except FileGoneError:
            self._gone(job)
            return None
        except FileChangedError:
            # The store must not take the present size and time for what it knows of the file.
            job.size, job.mtime_ns = -1, -1
            raise

    def _look_into(self, job: _Job, path: Path) -> None:
        """A folder in a file's place: one that the sweep could not look into, or that came meanwhile.

        Raises:
            FileError: It cannot be looked into.
        """
        try:
            with os.scandir(path):
                pass
        except OSError as error:
            known = unreadable(path, error)
            if isinstance(known, FileGoneError):
                self._gone(job)
                return
            message = f"The files in this folder are not known. {known.message}"
            raise FileError(path, known.title, message, kind=known.kind) from error
        self._finish(job, counted=False)
        self.rescan(job.root, job.path)

    def _gone(self, job: _Job) -> None:
        try:
            lstat(Path(job.path))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, NoAnswerError):
            # A server that does not answer (ESTALE and others) does not say that the file is gone.
            self._finish(job, counted=False)
            return
        # The mount point of a disk that was pulled out is a folder too, and an empty one.
        device = next((r.device for r in self._store.roots() if r.path == job.root), None)
        if root_online(job.root, True, device):
            self._remove([job.path])
        self._finish(job, counted=False)

    def _refused(self, jobs: list[_Job], error: Exception) -> None:
        """Something that no file is known to be to blame for: try again, or name the one file that it is."""
        short = shortage(error)
        if short is None and len(jobs) == 1:
            self._own_fault(jobs, error)
            return
        for job in jobs:
            job.flags |= _ALONE  # less is asked for at once, and which file it is shows
        if short is None:
            self._give_back(jobs, None)
            return
        with self._state:
            self._short.update(job.path for job in jobs)
            spent = [job for job in jobs if self._short[job.path] > SHORT_OF_MEMORY]
            for job in spent:
                del self._short[job.path]
        if len(jobs) == 1 and spent and isinstance(error, (MemoryError, RuntimeError)):
            reason = "It did not suffice for this file, several times. It can be retried."
            self._note(_Note(jobs[0], FileError(Path(jobs[0].path), short.title, reason)))
        else:
            self._give_back(jobs, short)

    def _own_fault(self, jobs: Iterable[_Job], error: Exception) -> None:
        """One strange file or batch must not stop a thread: name its files and go on."""
        reason = f"{type(error).__name__}. This is a fault in Dragoman; the log says more."
        for job in jobs:
            self._note(_Note(job, FileError(Path(job.path), "Internal error", reason)))

    def _note(self, note: _Note) -> None:
        self._encoded.put(note)

    # --- embedding -----------------------------------------------------------------------------------

    def _embed_loop(self) -> None:
        while True:
            # First a place at the encoder: until there is one, more files come to be embedded together.
            self._unwritten.acquire()
            self._encoding.acquire()
            parts = self._prepared.take()
            sent = False
            try:
                sent = parts is not None and self._send_to_encoder(parts)
            except Exception as error:
                if shortage(error) is None:
                    log.exception("A batch could not be handed to the encoder")
                self._abandon(parts or [])
                self._refused([part.job for part in parts or []], error)
            if not sent:
                self._encoding.release()
                self._unwritten.release()
            if parts is None:
                break
        self._encoded.put(None)

    def _send_to_encoder(self, parts: list[_Part]) -> bool:
        """Have what is missing embedded; False when there was nothing to do, or it could not be done."""
        for part in parts:
            if part.job.stale:
                self._abandon([part])
                self._finish(part.job, counted=False)
        parts = [part for part in parts if not part.job.stale]
        if not parts:
            return False
        texts = {chunk.text_hash: chunk.embed_text for part in parts for chunk in part.chunks}
        with self._state:
            encoder, model = self._encoder, self._model
        try:
            missing = list(self._store.missing(texts.keys()))
        except IndexerError as error:
            self._abandon(parts)
            self._give_back([part.job for part in parts], error)
            return False
        large = parts[0].large
        if large is not None and not missing:
            self._piece_done(large)
            return False
        batch = _Batch(parts, missing, encoder.passages([texts[h] for h in missing]), model)

        def embedded(_: Future[Vectors]) -> None:
            self._encoding.release()
            self._encoded.put(batch)

        batch.vectors.add_done_callback(embedded)
        return True

    def _abandon(self, parts: Iterable[_Part]) -> None:
        """What is left of large files among these is not embedded."""
        for part in parts:
            if part.large is not None:
                part.large.over = True

    def _piece_done(self, large: _Large) -> None:
        with self._state:
            large.unwritten -= 1
            job = large.job
            if self._in_hand.get(job.path) is job:
                left = int(max(job.size, 0) * (1 - large.next / large.chunks.pieces))
                self._load.add(job.root, job.path, left - job.weight, 0)
                job.weight = left
            if large.sent and not large.unwritten and not large.over:
                self._encoded.put(large)

    # --- writing -------------------------------------------------------------------------------------

    def _write_loop(self) -> None:
        waiting: deque[_Batch | _Large | None] = deque()
        while True:
            item = waiting.popleft() if waiting else self._encoded.get()
            if isinstance(item, _Note):
                notes, until = [item], time.monotonic() + NOTES_S
                with contextlib.suppress(queue.Empty):
                    while len(notes) < NOTES and not waiting:
                        after = self._encoded.get(timeout=max(0.0, until - time.monotonic()))
                        if isinstance(after, _Note):
                            notes.append(after)
                        else:
                            waiting.append(after)
                self._write_notes(notes)
            elif isinstance(item, _Batch):
                self._unwritten.release()
                self._guarded(item.parts, item.model, functools.partial(self._write, item))
            elif isinstance(item, _Large):
                part = _Part(item.job, item.prepared, (), item)
                self._guarded([part], "", functools.partial(self._complete, item))
            else:
                return

    def _write_notes(self, notes: list[_Note]) -> None:
        """Tell the catalog of many files in few transactions."""
        try:
            with self._apply:
                live = [note for note in notes if not note.job.stale]
                same = [n.job for n in live if n.same]
                failed = [(n.job, n.what) for n in live if isinstance(n.what, FileError)]
                copies = [(n.job, n.what) for n in live if isinstance(n.what, bytes) and not n.same]
                if same:
                    self._store.touch_all([(job.path, job.size, job.mtime_ns) for job in same])
                if failed:
                    self._store.fail_all(
                        [(job.path, job.root, job.size, job.mtime_ns, error) for job, error in failed]
                    )
                taken = self._store.adopt_all(
                    [(job.path, job.root, job.size, job.mtime_ns, content) for job, content in copies]
                ) if copies else []  # fmt: skip
        except IndexerError as trouble:
            self._give_back([note.job for note in notes], trouble)
            return
        except Exception:
            log.exception("What was found out about files could not be stored")
            for note in notes:
                self._finish(note.job, counted=False)  # the next sweep finds them again
            return
        again = {job.path for (job, _), done in zip(copies, taken, strict=True) if not done}
        with self._state:
            for note in notes:
                if note.job.path in again:
                    note.job.flags |= _READ
                    self._give_back([note.job], None)
                else:
                    self._finish(note.job, counted=not (note.same or note.job.stale))

    def _guarded(self, parts: list[_Part], model: str, write: Callable[[], None]) -> None:
        """Write, and see to the files when it fails."""
        jobs = [part.job for part in parts]
        if any(part.large is not None and part.large.over for part in parts):
            return  # the file went another way already
        after: IndexerError | None
        try:
            write()
        except ModelChangedError:
            after = None
        except TextError as error:
            # Which file it is shows when each is embedded by itself.
            if len(jobs) == 1:
                self._abandon(parts)
                self._note(_Note(jobs[0], FileError(Path(jobs[0].path), error.title, error.message)))
                return
            for job in jobs:
                job.flags |= _ALONE
            after = None
        except IndexerError as error:
            with self._state:
                after = None if model and model != self._model else error
        except Exception as error:
            if shortage(error) is None:
                log.exception("A batch could not be embedded or stored")
            self._abandon(parts)
            self._refused(jobs, error)
            return
        else:
            if self._short:
                with self._state:
                    for job in jobs:
                        self._short.pop(job.path, None)
            return
        self._abandon(parts)
        self._give_back(jobs, after)

    def _write(self, batch: _Batch) -> None:
        vectors = dict(zip(batch.hashes, batch.vectors.result(), strict=True))
        large = batch.parts[0].large
        if large is not None:
            chunks = batch.parts[0].chunks
            if self._stored(lambda: self._store.put_ahead(chunks, vectors, model=batch.model)):
                self._piece_done(large)
            return

        def store() -> None:
            live = [part for part in batch.parts if not part.job.stale]
            self._store.replace(
                [_update(part.job, part.prepared) for part in live], vectors, model=batch.model
            )

        if self._stored(store):
            for part in batch.parts:
                self._finish(part.job, counted=not part.job.stale)

    def _complete(self, large: _Large) -> None:
        """Make a large file visible, all of whose pieces were embedded, or embed what is missing again."""
        job, chunks = large.job, large.chunks
        with self._state:
            model = self._model
        missing = any(
            self._store.missing({chunk.text_hash for chunk in chunks.piece(number)})
            for number in range(chunks.pieces)
        )
        if missing and not job.stale:
            if large.passes >= 3:
                raise IndexerError("A large file could not be stored", "It is tried again.")
            large.passes += 1
            large.next = 0
            self._prepared.put_large(large)
            return

        def store() -> None:
            if not job.stale:
                self._store.replace([_update(job, large.prepared)], {}, model=model)

        if self._stored(store):
            self._finish(job, counted=not job.stale)

    def _stored(self, write: Callable[[], None]) -> bool:
        """Write something, as often as it takes; False when the store cannot take it before the end.

        A batch is kept, not queued again, while the disk is full: nothing is embedded twice, and what comes
        behind it waits.
        """
        while True:
            try:
                with self._apply:
                    write()
            except ModelChangedError:
                raise
            except IndexerError as error:
                self._rest(error)
                if self._stopping:
                    return False
            else:
                self._recovered()
                return True


def _update(job: _Job, prepared: Prepared) -> FileUpdate:
    return FileUpdate(
        path=job.path,
        root=job.root,
        size=prepared.size,
        mtime_ns=prepared.mtime_ns,
        content=prepared.key,
        media=prepared.media,
        code_language=prepared.code_language,
        title=prepared.title,
        chunks=prepared.chunks,
    )
