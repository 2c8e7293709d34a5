"""A file's way: change -> extract and chunk in a child -> embed -> one transaction in the store.

Extraction threads only wait for their child processes; one thread feeds the encoder; one writes.
The queues between them are bounded, so a slow encoder holds extraction back and memory does not
grow with the library.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from indexer.api import Notice
from indexer.errors import FileError, IndexerError, TextError
from indexer.store import FileUpdate, ModelChangedError, Store
from indexer.watch import FileChange, Rules, root_device, root_online, sweep
from indexer.workers import FileChangedError, FileGoneError, PoolClosedError, Prepared, WorkerPool

if TYPE_CHECKING:
    from indexer.embed import Vectors
    from indexer.embed.thread import EncoderThread

log = logging.getLogger(__name__)

# One trip to the encoder and one transaction: large enough that the commit's fsync does not show,
# small enough that new files become searchable within seconds on a slow machine.
BATCH_CHUNKS = 128
PREPARED_FILES = 32
# Two, so that the encoder has its next batch while the last one is written.
ENCODING_BATCHES = 2
RATE_WINDOW_S = 15.0
SAMPLE_EVERY_S = 0.5
TROUBLE_PAUSE_S = 10.0


class Progress(NamedTuple):
    """Where the pipeline stands.

    Attributes:
        waiting: Files known to need work, those in hand included.
        done: Files finished since the present run of work began.
        remaining_s: Estimate in seconds, None while there is no rate yet.
        current: A file in hand, empty for none.
        waiting_by_root: `waiting`, folder by folder.
    """

    scanning: bool
    waiting: int
    done: int
    files_per_s: float
    tokens_per_s: float
    remaining_s: float | None
    current: str
    waiting_by_root: Counter[str]
    trouble: Notice | None


class _Job(msgspec.Struct):
    path: str
    root: str
    size: int
    mtime_ns: int
    order: int
    forced: bool = False
    stale: bool = False  # removed or moved while in hand: its result must not be stored
    again: bool = False  # changed while in hand: look once more afterwards
    alone: bool = False  # embedded apart from others, as one text of its batch could not be
    weight: int = 0  # the size it is counted with in the remaining time

    def __post_init__(self) -> None:
        self.weight = self.size


class _Batch(NamedTuple):
    work: list[tuple[_Job, Prepared]]
    hashes: list[bytes]
    vectors: Future[Vectors]
    model: str  # key of the model that makes them


class _Load:
    """How much is waiting, by folder of the library and kind of file.

    Kept by adding and taking away, because a first scan queues hundreds of thousands of files and
    the progress is asked for four times a second.
    """

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], tuple[int, int]] = {}

    def add(self, job: _Job, sign: int = 1) -> None:
        """Count a job, or with -1 take it away again."""
        part = (job.root, _suffix(job.path))
        files, size = self._parts.get(part, (0, 0))
        if files + sign:
            self._parts[part] = files + sign, size + sign * job.weight
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
        """Tokens to expect in so many bytes of files of this kind."""
        tokens, read = self._seen.get(suffix, (0.28, 1.0))
        return size * tokens / read


def _suffix(path: str) -> str:
    return Path(path).suffix.lower()


class Pipeline:
    """Turns file changes into store content, in the background.

    Args:
        store: Where results go; the pipeline is its only writer of files.
        encoder: The thread that owns the model.
        pool: Child processes that read files.
        model: Key of that model; empty for whatever the store has active.
        rules: The ignore rules that hold now, for a folder of the library.
        extractors: Threads that wait for children; as many as the pool has.
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
    ) -> None:
        self._store = store
        self._encoder, self._model = encoder, model
        self._pool = pool
        self._rules = rules
        # Order of locks: _apply (changes of the store), then _state (queues and counters).
        self._apply = threading.Lock()
        # Both conditions have the one lock. Those who take files wait apart, so that waking one of
        # them for a file wakes nobody else in its place.
        lock = threading.RLock()
        self._state, self._work = threading.Condition(lock), threading.Condition(lock)
        self._pending: dict[str, _Job] = {}
        self._heap: list[tuple[int, int, int, str]] = []
        self._in_hand: dict[str, _Job] = {}
        self._sequence = itertools.count()
        self._scans: deque[tuple[str, str]] = deque()
        self._scanning = ""
        self._scanning_root: str | None = None
        self._load = _Load()
        self._paused = False
        self._stopping = False
        self._prepared: queue.Queue[tuple[_Job, Prepared] | None] = queue.Queue(PREPARED_FILES)
        self._encoded: queue.Queue[_Batch | None] = queue.Queue()
        self._encoding = threading.BoundedSemaphore(ENCODING_BATCHES)
        self._done = 0
        self._samples: deque[_Sample] = deque()
        self._density = _Density()
        self._current = ""
        self._trouble: Notice | None = None
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
        self._pool.close()
        if self._threads[0].ident is None:
            return  # it was never started
        for thread in self._extractors:
            thread.join()
        self._prepared.put(None)
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

    def rescan(self, root: str, folder: str | None = None) -> None:
        """Compare a folder of the library (or a folder inside one) with the store, in the background."""
        with self._state:
            entry = (root, folder or root)
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

    def forget(self, root: str) -> None:
        """Drop everything queued for a folder that is leaving the library or has gone offline."""
        with self._apply, self._state:
            self._scans = deque(scan for scan in self._scans if scan[0] != root)
            if self._scanning_root == root:
                self._scanning_root = None  # the scan ends at its next file
            for path in [p for p, job in self._pending.items() if job.root == root]:
                self._load.add(self._pending.pop(path), -1)
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
            now = _Sample(time.monotonic(), self._done, self._encoder.tokens_embedded)
            if not self._samples or now.at - self._samples[-1].at >= SAMPLE_EVERY_S:
                self._samples.append(now)
            while len(self._samples) > 1 and now.at - self._samples[1].at > RATE_WINDOW_S:
                self._samples.popleft()
            then = self._samples[0]
            span = max(now.at - then.at, 1e-3)
            files_per_s = (now.done - then.done) / span
            tokens_per_s = (now.tokens - then.tokens) / span
            remaining: float | None = None
            if tokens_per_s > 0 and span >= SAMPLE_EVERY_S:
                remaining = self._load.tokens(self._density) / tokens_per_s
            return Progress(
                scanning=bool(self._scans or self._scanning),
                waiting=waiting,
                done=self._done,
                files_per_s=files_per_s,
                tokens_per_s=tokens_per_s,
                remaining_s=remaining if waiting else None,
                current=self._current if self._in_hand else "",
                waiting_by_root=self._load.by_root(),
                trouble=self._trouble,
            )

    # --- changes that are visible at once ------------------------------------------------------

    def _remove(self, paths: list[str]) -> None:
        with self._apply:
            with self._state:
                for path in paths:
                    self._drop(path)
            self._store.remove(paths)

    def _remove_below(self, folder: str) -> None:
        with self._apply:
            with self._state:
                for path in self._known_below(folder):
                    self._drop(path)
            self._store.remove_below(folder)

    def _move(self, old: str, new: str, root: str, *, is_dir: bool) -> None:
        with self._apply:
            with self._state:
                for path in self._known_below(old) if is_dir else [old]:
                    self._drop(path)
            self._store.move(old, new, root)
        # The catalog moved what it knew; a look at the disk finds what it did not know, such as
        # files that were waiting under the old name.
        if is_dir:
            self.rescan(root, new)
        else:
            with contextlib.suppress(OSError):
                stat = Path(new).lstat()
                self._enqueue(new, root, stat.st_size, stat.st_mtime_ns, order=0)

    def _known_below(self, folder: str) -> list[str]:
        prefix = folder.rstrip("/") + "/"
        return [p for p in (*self._pending, *self._in_hand) if p.startswith(prefix) or p == folder]

    def _drop(self, path: str) -> None:
        waiting = self._pending.pop(path, None)
        if waiting is not None:
            self._load.add(waiting, -1)
        job = self._in_hand.get(path)
        if job is not None:
            job.stale, job.again = True, False

    # --- the queue -----------------------------------------------------------------------------

    def _enqueue(
        self, path: str, root: str, size: int, mtime_ns: int, *, order: int, forced: bool = False
    ) -> None:
        """Queue a file. Live changes (order 0) go first; of a scan, small files first."""
        with self._state:
            in_hand = self._in_hand.get(path)
            if in_hand is not None:
                in_hand.again = True
                in_hand.forced |= forced
                return
            if not (self._pending or self._in_hand or self._scans or self._scanning):
                self._begin_run()
            known = self._pending.get(path)
            job = _Job(path, root, size, mtime_ns, order if known is None else min(order, known.order))
            job.forced = forced or (known is not None and known.forced)
            if known is not None:
                self._load.add(known, -1)
            self._load.add(job)
            self._pending[path] = job
            heapq.heappush(self._heap, (job.order, size, next(self._sequence), path))
            self._work.notify()

    def _begin_run(self) -> None:
        self._done = 0
        self._samples.clear()
        self._samples.append(_Sample(time.monotonic(), 0, self._encoder.tokens_embedded))

    def _take(self) -> _Job | None:
        with self._state:
            while True:
                if self._stopping:
                    return None
                while self._heap and not self._paused:
                    path = heapq.heappop(self._heap)[3]
                    job = self._pending.pop(path, None)
                    if job is not None:
                        self._in_hand[path] = job
                        self._current = path
                        return job
                self._work.wait()

    def _finish(self, job: _Job) -> None:
        with self._state:
            if self._in_hand.get(job.path) is job:
                del self._in_hand[job.path]
                self._load.add(job, -1)
            self._done += 1
            self._state.notify_all()
            if job.again:
                self._enqueue(job.path, job.root, job.size, job.mtime_ns, order=0, forced=job.forced)

    def _give_back(self, jobs: Iterable[_Job], trouble: IndexerError | None) -> None:
        """Queue files again that could not be finished through no fault of their own, and wait a while."""
        with self._state:
            for job in jobs:
                if self._in_hand.get(job.path) is job:
                    del self._in_hand[job.path]
                    self._load.add(job, -1)
                if (job.again or not job.stale) and job.path not in self._pending:
                    job.again = job.stale = False
                    self._pending[job.path] = job
                    self._load.add(job)
                    heapq.heappush(self._heap, (job.order, job.size, next(self._sequence), job.path))
                    self._work.notify()
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
                self._state.wait_for(lambda: self._stopping or self._scans)
                if self._stopping:
                    return
                root, folder = self._scans[0]
                if not (self._pending or self._in_hand or self._scanning):
                    self._begin_run()
                self._scanning, self._scanning_root = folder, root
                self._scans.popleft()
            try:
                self._scan(root, folder)
            except IndexerError as error:
                with self._state:
                    if self._scanning_root == root:
                        self.rescan(root, folder)
                self._rest(error)
            except Exception:
                log.exception("A folder could not be scanned")
            else:
                self._recovered()
            finally:
                with self._state:
                    self._scanning, self._scanning_root = "", None
                    self._state.notify_all()

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
        for change in sweep(rules, self._store.known(root, folder), folder):
            with self._state:
                if self._stopping or self._scanning_root != root:
                    return
                queued.discard(change.path)
                if change.kind == "upsert":
                    self._enqueue(change.path, root, change.size or 0, change.mtime_ns or 0, order=1)
                elif change.kind == "remove":
                    gone.append(change.path)
        gone += [path for path in queued if rules.ignored(path, False) or not os.path.lexists(path)]
        # A disk that is unmounted while it is walked looks like a folder whose files are gone.
        if gone and root_online(root, True, device):
            for start in range(0, len(gone), 1000):
                self._remove(gone[start : start + 1000])

    # --- extraction --------------------------------------------------------------------------------

    def _extract_loop(self) -> None:
        while (job := self._take()) is not None:
            try:
                prepared = self._prepare(job)
            except FileError as error:
                self._failed(job, error)
            except PoolClosedError:
                return
            except IndexerError as error:
                self._give_back([job], error)
            except Exception as error:
                log.exception("Extraction went wrong in the service")
                self._own_fault([job], error)
            else:
                if prepared is None:
                    self._finish(job)
                else:
                    with self._state:
                        tokens = sum(chunk.tokens for chunk in prepared.chunks)
                        self._density.learn(_suffix(job.path), job.size, tokens)
                    self._hand_on(job, prepared)

    def _hand_on(self, job: _Job, prepared: Prepared) -> None:
        while not self._stopping:
            try:
                self._prepared.put((job, prepared), timeout=0.5)
            except queue.Full:
                continue
            return

    def _prepare(self, job: _Job) -> Prepared | None:
        """Read a file, or find out that nothing needs to be read (None)."""
        path = Path(job.path)
        try:
            stat = path.lstat()
        except FileNotFoundError:
            self._gone(job)
            return None
        except OSError as error:
            raise FileError(path, "Cannot be read", f"{error.strerror}.") from error
        job.size, job.mtime_ns = stat.st_size, stat.st_mtime_ns
        known = self._store.file(job.path)
        if known is not None and not job.forced and (known.size, known.mtime_ns) == (job.size, job.mtime_ns):
            return None
        try:
            content = self._pool.hash(path).key
            with self._apply:
                if job.stale:
                    return None
                if known is not None and known.status == "indexed" and known.content == content:
                    self._store.touch(job.path, job.size, job.mtime_ns)
                    return None
                if self._store.adopt(job.path, job.root, job.size, job.mtime_ns, content):
                    return None
            return self._pool.prepare(path)
        except FileGoneError:
            self._gone(job)
            return None
        except FileChangedError:
            # The store must not take the present size and time for what it knows of the file.
            job.size, job.mtime_ns = -1, -1
            raise

    def _gone(self, job: _Job) -> None:
        # The mount point of a disk that was pulled out is a folder too, and an empty one.
        device = next((r.device for r in self._store.roots() if r.path == job.root), None)
        if root_online(job.root, True, device):
            self._remove([job.path])

    def _failed(self, job: _Job, error: FileError) -> None:
        try:
            with self._apply:
                if not job.stale:
                    self._store.fail(job.path, job.root, job.size, job.mtime_ns, error)
        except IndexerError as trouble:
            self._give_back([job], trouble)
        else:
            self._finish(job)

    def _own_fault(self, jobs: Iterable[_Job], error: Exception) -> None:
        """One strange file or batch must not stop a thread: name its files and go on."""
        reason = f"{type(error).__name__}. This is a fault in Dragoman; the log says more."
        for job in jobs:
            self._failed(job, FileError(Path(job.path), "Internal error", reason))

    # --- embedding and writing -----------------------------------------------------------------------

    def _embed_loop(self) -> None:
        for work in self._batches():
            try:
                self._send_to_encoder(work)
            except Exception as error:
                log.exception("A batch could not be handed to the encoder")
                self._own_fault([job for job, _ in work], error)
        self._encoded.put(None)

    def _batches(self) -> Iterator[list[tuple[_Job, Prepared]]]:
        """Files that were read, about BATCH_CHUNKS at a time; a book does not hold back notes before it."""
        work: list[tuple[_Job, Prepared]] = []
        room = BATCH_CHUNKS
        while True:
            try:
                item = self._prepared.get(block=not work)
            except queue.Empty:
                yield work
                work, room = [], BATCH_CHUNKS
                continue
            if work and (item is None or len(item[1].chunks) > room or item[0].alone or work[0][0].alone):
                yield work
                work, room = [], BATCH_CHUNKS
            if item is None:
                return
            work.append(item)
            room -= len(item[1].chunks)

    def _send_to_encoder(self, work: list[tuple[_Job, Prepared]]) -> None:
        for job in [job for job, _ in work if job.stale]:
            self._finish(job)
        work = [(job, prepared) for job, prepared in work if not job.stale]
        if not work:
            return
        texts = {chunk.text_hash: chunk.embed_text for _, prepared in work for chunk in prepared.chunks}
        with self._state:
            encoder, model = self._encoder, self._model
        try:
            missing = list(self._store.missing(texts.keys()))
        except IndexerError as error:
            self._give_back([job for job, _ in work], error)
            return
        self._encoding.acquire()
        batch = _Batch(work, missing, encoder.passages([texts[h] for h in missing]), model)
        batch.vectors.add_done_callback(lambda _: self._encoded.put(batch))

    def _write_loop(self) -> None:
        while (batch := self._encoded.get()) is not None:
            self._encoding.release()
            jobs = [job for job, _ in batch.work]
            try:
                self._write(batch)
            except ModelChangedError:
                self._give_back(jobs, None)
            except TextError as error:
                # Which file it is shows when each is embedded by itself.
                if len(jobs) == 1:
                    self._failed(jobs[0], FileError(Path(jobs[0].path), error.title, error.message))
                else:
                    for job in jobs:
                        job.alone = True
                    self._give_back(jobs, None)
            except IndexerError as error:
                with self._state:
                    changed = batch.model != self._model
                self._give_back(jobs, None if changed else error)
            except Exception as error:
                log.exception("A batch could not be embedded or stored")
                self._own_fault(jobs, error)

    def _write(self, batch: _Batch) -> None:
        vectors = dict(zip(batch.hashes, batch.vectors.result(), strict=True))
        while not self._store_batch(batch, vectors):
            if self._stopping:
                return
        self._recovered()
        for job, _ in batch.work:
            self._finish(job)

    def _store_batch(self, batch: _Batch, vectors: Mapping[bytes, Vectors]) -> bool:
        """Write a batch; False, after a while, when the store cannot take it now (a full disk).

        The batch is kept, not queued again: nothing is embedded twice, and what comes behind it waits.
        """
        try:
            with self._apply:
                live = [(job, prepared) for job, prepared in batch.work if not job.stale]
                updates = [_update(job, prepared) for job, prepared in live]
                self._store.replace(updates, vectors, model=batch.model)
        except ModelChangedError:
            raise
        except IndexerError as error:
            self._rest(error)
            return False
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
        chunks=tuple(prepared.chunks),
    )
