"""Children that read files, started as they are needed, watched, and killed past their deadline."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import msgspec

from indexer.api import GetPreview, Preview
from indexer.errors import FatalError, FileError, IndexerError
from indexer.manners import NICENESS, step_back
from indexer.sandbox import Sandbox
from indexer.settings import Settings
from indexer.workers.messages import (
    Answer,
    Failed,
    HashedAnswer,
    HashJob,
    Job,
    PreparedAnswer,
    PrepareJob,
    PreviewedAnswer,
    PreviewJob,
    Ready,
    Setup,
    answer_decoder,
    encode,
    receive,
    request,
)
from indexer.workers.patience import PATIENCE
from indexer.workers.reading import FileChangedError, FileGoneError, deadline_s, open_file, supported
from indexer.workers.results import PIECE_CHUNKS, ChunkFile, ChunkMemory, Hashed, Prepared

_START_DEADLINE_S = 60.0
# A start takes as long as hundreds of small files; what makes a child grow is seen by its size.
_RETIRE_AFTER_FILES = 5000
_RETIRE_RSS_BYTES = 400 << 20
_IDLE_S = 60.0


class CrashedError(FileError):
    """The process that read the file died on it."""


class PoolClosedError(IndexerError):
    """The pool was closed before the work was done; nothing is known of the file."""


_Result = TypeVar("_Result", Hashed, Prepared, Preview)


class WorkerPool:
    """Reads files in child processes. Every method may be called from any thread and blocks its caller.

    Indexing and previews run in lanes of their own, so that a preview never waits for a long file.
    """

    def __init__(
        self,
        size: int,
        *,
        tokenizer: Path,
        max_tokens: int,
        settings: Settings,
        scratch: Path | None = None,
        secret: bool = False,
        roots: Callable[[], Iterable[str]] | None = None,
    ) -> None:
        """Make a pool; no process is started before the first call.

        Args:
            size: Most children that index at the same time; one more serves previews.
            tokenizer: The encoder's ``tokenizer.json``.
            max_tokens: Most tokens of a chunk, special tokens not counted.
            settings: For the limits of size, memory and time.
            scratch: Where chunks of large files are kept; None for the system's temporary files.
            secret: Whether nothing of a file may be on a disk, not even for a moment; then in memory.
            roots: Asked for the library's folders, below which no link is followed; every file that is
                read is in one of them then.
        """
        self._roots = roots
        self._sandbox: Sandbox | None = None
        self._secret = secret
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens
        self._settings = settings
        self._scratch = scratch
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._closed = False
        self._generation = 0
        self._indexing = _Lane(max(size, 1), niceness=NICENESS)
        self._previews = _Lane(1, niceness=0)
        self._supervisor: threading.Thread | None = None
        self._next_look = 0.0  # when the supervisor wakes of itself

    def hash(self, path: Path) -> Hashed:
        """The content key of a file, without extracting it.

        Raises:
            FileError: The file cannot be read or is of no supported kind; or one of its subclasses here.
            PoolClosedError: The pool was closed.
            FatalError: No child process can be started.
        """
        supported(path)
        answer = self._ask(self._indexing, path, HashJob(path=os.fsencode(path)))
        return self._result(answer, Hashed, path)

    def prepare(self, path: Path) -> Prepared:
        """Read, extract and cut a file.

        Raises:
            FileError: The file cannot be read, took too long or needed too much memory; `FileGoneError`,
                `FileChangedError`.
            PoolClosedError: The pool was closed.
            FatalError: No child process can be started.
            IndexerError: There is no room on the disk for the chunks of a large file.
        """
        supported(path)
        answer = self._ask(self._indexing, path, PrepareJob(path=os.fsencode(path)))
        return self._result(answer, Prepared, path)

    def preview(self, request: GetPreview) -> Preview:
        """What to show of a file, with the id and path of the request.

        Raises:
            FileError: As for `prepare`, or the file has no such page.
            PoolClosedError: The pool was closed.
            FatalError: No child process can be started.
        """
        path = Path(request.path)
        job = PreviewJob(
            path=os.fsencode(path),
            start=request.start,
            end=request.end,
            page=request.page,
            rects=request.rects,
            width=request.width,
        )
        preview = self._result(self._ask(self._previews, path, job), Preview, path)
        return msgspec.structs.replace(preview, id=request.id, path=request.path)

    def update(self, settings: Settings) -> None:
        """Follow new settings; children at work finish their file under the old ones."""
        with self._lock:
            self._settings = settings
            self._generation += 1
            if settings.extraction_workers > 0:
                self._indexing.size = settings.extraction_workers
            idle = self._indexing.take_idle() + self._previews.take_idle()
            self._wake.notify_all()
        for child in idle:
            child.end()

    def limit(self, most: int) -> None:
        """Read at most so many files at once from now on, previews apart; 0 for as many as there can be."""
        with self._lock:
            self._indexing.limit = most
            self._wake.notify_all()

    def close(self) -> None:
        """End all children at once; calls in progress raise `PoolClosedError`."""
        with self._lock:
            self._closed = True
            children = [*self._indexing.children, *self._previews.children]
            self._indexing.take_idle()
            self._previews.take_idle()
            supervisor = self._supervisor
            self._wake.notify_all()
        for child in children:
            child.end()
        if supervisor is not None and supervisor is not threading.current_thread():
            supervisor.join()

    def _result(self, answer: Answer, kind: type[_Result], path: Path) -> _Result:
        if isinstance(answer, (HashedAnswer, PreparedAnswer, PreviewedAnswer)) and isinstance(
            answer.result, kind
        ):
            return answer.result
        if isinstance(answer, Failed):
            if answer.cause == "fatal":
                raise FatalError(answer.title, answer.message)
            by_cause: dict[str, type[FileError]] = {"changed": FileChangedError, "gone": FileGoneError}
            error = by_cause.get(answer.cause, FileError)
            raise error(path, answer.title, answer.message, kind=answer.kind)
        message = "The process that reads files answered out of turn."
        raise FileError(path, "Could not be read", message)

    def _ask(self, lane: _Lane, path: Path, job: Job) -> Answer:
        try:
            return self._ask_once(lane, path, job)
        except CrashedError:
            # A system short of memory kills what it finds; only a second death speaks against the file.
            return self._ask_once(lane, path, job)

    def _ask_once(self, lane: _Lane, path: Path, job: Job) -> Answer:
        child = self._acquire(lane)
        keep = False
        try:
            keep = True
            root = self._root(path)
            descriptor = PATIENCE.call(path, lambda: open_file(path, root), os.close)
            keep = False
            try:
                answer = self._converse(child, path, job, descriptor)
            finally:
                os.close(descriptor)
            # Reading bytes leaves nothing behind.
            worn = not isinstance(job, HashJob) and child.worn()
            keep = not (isinstance(answer, Failed) and answer.cause == "memory") and not worn
        finally:
            self._release(lane, child, keep=keep)
        return answer

    def _acquire(self, lane: _Lane) -> _Child:
        """A child of the lane that is alive and ready, waiting for one where all are at work."""
        while True:
            with self._lock:
                self._wake.wait_for(lambda: self._closed or lane.free)
                if self._closed:
                    raise _closed()
                child = lane.idle.pop() if lane.idle else None
                if child is None:
                    child = _Child(self._generation)
                    lane.children.add(child)
                settings = self._settings
                if self._supervisor is None:
                    self._supervisor = threading.Thread(
                        target=self._supervise, name="extraction-supervisor", daemon=True
                    )
                    self._supervisor.start()
            if child.started and not child.dead():
                return child
            if child.started:  # it was killed while it had nothing to do: no file's fault
                self._release(lane, child, keep=False)
                continue
            try:
                self._start(child, settings, lane.niceness)
            except BaseException:
                self._release(lane, child, keep=False)
                raise
            return child

    def _start(self, child: _Child, settings: Settings, niceness: int) -> None:
        setup = Setup(
            tokenizer=str(self._tokenizer),
            max_tokens=self._max_tokens,
            max_bytes=settings.max_file_mb << 20,
            memory_bytes=settings.extraction_memory_mb << 20,
            deadline_s=settings.extraction_deadline_s,
        )
        child.start()
        if niceness and child.pid:
            step_back(child.pid, niceness)
        self._set_deadline(child, _START_DEADLINE_S)
        answer = child.ask(setup)
        self._set_deadline(child, None)
        if not isinstance(answer, Ready):
            with self._lock:
                if self._closed:
                    raise _closed()
            message = f"The process that reads files does not start ({child.epitaph()}). The log says more."
            raise FatalError("Files cannot be read", message)
        self._sandbox = Sandbox(answer.landlock, answer.seccomp)
        if not all(self._sandbox):
            _warn_open(self._sandbox)

    @property
    def sandbox(self) -> str:
        """How the processes that read files are held, for people; empty before the first was started."""
        return "" if self._sandbox is None else str(self._sandbox)

    def _root(self, path: Path) -> Path | None:
        """The folder of the library that a file is in.

        Raises:
            FileGoneError: It is in none (any more).
        """
        if self._roots is None:
            return None
        holding = [root for root in map(Path, self._roots()) if path.is_relative_to(root)]
        if not holding:
            raise FileGoneError(path, "Not in the library", "No folder of the library holds this file.")
        return max(holding, key=lambda root: len(root.parts))

    def _converse(self, child: _Child, path: Path, job: Job, descriptor: int) -> Answer:
        allowed_s = deadline_s(self._settings.extraction_deadline_s, descriptor)
        self._set_deadline(child, allowed_s)
        answer = child.ask(job, descriptor)
        if isinstance(answer, PreparedAnswer) and answer.pieces:
            answer = self._collect(child, answer)
        self._set_deadline(child, None)
        child.files += not isinstance(job, HashJob)
        if answer is not None:
            return answer
        epitaph = child.epitaph()
        with self._lock:
            if self._closed:
                raise _closed()
        if child.expired or child.returncode == -getattr(signal, "SIGALRM", 0):
            message = f"Reading it took longer than {allowed_s:.3g} seconds and was stopped."
            raise FileError(path, "Took too long", message)
        message = f"The process that read it ended ({epitaph}). The file may be damaged or made to do harm."
        raise CrashedError(path, "Crashed while being read", message)

    def _collect(self, child: _Child, answer: PreparedAnswer) -> PreparedAnswer | None:
        """The pieces of a large file that follow its answer; None when the child ends instead."""
        try:
            chunks = ChunkMemory() if self._secret else ChunkFile(self._scratch)
            for number in range(answer.pieces):
                body = child.next()
                if body is None:
                    return None
                chunks.add(body, min(PIECE_CHUNKS, answer.chunks - number * PIECE_CHUNKS))
        except OSError as error:
            child.kill()  # it waits for somebody to read the rest
            message = f"A large file could not be prepared ({error.strerror}). Make room on the disk."
            raise IndexerError("No room for temporary files", message) from error
        return PreparedAnswer(result=msgspec.structs.replace(answer.result, chunks=chunks))

    def _release(self, lane: _Lane, child: _Child, *, keep: bool) -> None:
        with self._lock:
            keep = keep and not self._closed and child.generation == self._generation and not child.expired
            keep = keep and len(lane.children) <= lane.size
            if keep:
                child.idle_since = time.monotonic()
                lane.idle.append(child)
            else:
                lane.children.discard(child)
            self._wake.notify_all()
        if not keep:
            child.end()

    def _set_deadline(self, child: _Child, seconds: float | None) -> None:
        with self._lock:
            child.deadline = None if seconds is None else time.monotonic() + seconds
            if child.deadline is not None and child.deadline < self._next_look:
                self._wake.notify_all()

    def _supervise(self) -> None:
        """Kill children that are past their deadline, end those that idle."""
        while True:
            with self._lock:
                if self._closed:
                    return
                now = time.monotonic()
                due = [now + _IDLE_S]
                tired: list[_Child] = []
                for lane in (self._indexing, self._previews):
                    for child in lane.children:
                        if child.deadline is None:
                            continue
                        if child.deadline <= now:
                            child.expired = True
                            child.deadline = None
                            child.kill()
                        else:
                            due.append(child.deadline)
                    for child in [child for child in lane.idle if child.idle_since + _IDLE_S <= now]:
                        lane.idle.remove(child)
                        lane.children.discard(child)
                        tired.append(child)
                    due.extend(child.idle_since + _IDLE_S for child in lane.idle)
                if not tired:
                    self._next_look = min(due)
                    self._wake.wait(max(min(due) - now, 0.001))
            for child in tired:
                child.end()


@functools.cache  # once, not for every child
def _warn_open(sandbox: Sandbox) -> None:
    logging.getLogger(__name__).warning("the processes that read files are %s", sandbox)


def _closed() -> PoolClosedError:
    return PoolClosedError("Stopped", "The program is being closed.")


class _Lane:
    def __init__(self, size: int, *, niceness: int) -> None:
        self.size = size
        self.limit = 0
        self.niceness = niceness
        self.children: set[_Child] = set()
        self.idle: list[_Child] = []  # last in, first out: what is warm is used

    @property
    def free(self) -> bool:
        """Whether a child can be had now."""
        at_work = len(self.children) - len(self.idle)
        most = min(self.limit, self.size) if self.limit else self.size
        return at_work < most and (bool(self.idle) or len(self.children) < self.size)

    def take_idle(self) -> list[_Child]:
        """Take all idle children out of the lane."""
        idle, self.idle = self.idle, []
        self.children.difference_update(idle)
        return idle


class _Child:
    """One process. `ask` belongs to the thread that acquired it; the rest may be called from any."""

    def __init__(self, generation: int) -> None:
        self.generation = generation
        self.deadline: float | None = None  # guarded by the pool's lock
        self.expired = False
        self.files = 0
        self.idle_since = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._door: socket.socket | None = None
        self._ended = False
        self._guard = threading.Lock()

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    @property
    def returncode(self) -> int | None:
        return self._process.returncode if self._process else None

    def start(self) -> None:
        """Start the process.

        Raises:
            FatalError: The system refuses.
        """
        try:
            with self._guard:
                if self._ended:
                    return
                self._door, inside = socket.socketpair()
                with inside:
                    self._process = subprocess.Popen(
                        _command(), stdin=inside.fileno(), stdout=subprocess.PIPE, env=_environment()
                    )
        except OSError as error:
            message = f"The process that reads files cannot be started: {error.strerror}."
            raise FatalError("Files cannot be read", message) from error

    def ask(self, message: Setup | Job, descriptor: int | None = None) -> Answer | None:
        """Send a message and wait for the answer; None when the process ends instead."""
        process, door = self._process, self._door
        if process is None or door is None or process.stdout is None:
            return None
        try:
            request(door, encode(message), descriptor)
            body = receive(process.stdout)
            return None if body is None else answer_decoder.decode(body)
        except (OSError, ValueError, RecursionError):  # a broken pipe, a closed file, no JSON
            return None

    def next(self) -> bytes | None:
        """One more frame of an answer; None when the process ends instead."""
        process = self._process
        if process is None or process.stdout is None:
            return None
        try:
            return receive(process.stdout)
        except (OSError, ValueError):  # a broken pipe, a closed file
            return None

    def dead(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def worn(self) -> bool:
        """Whether it took so many files apart, or grew so large, that a fresh one is better."""
        import psutil

        if self.files >= _RETIRE_AFTER_FILES:
            return True
        try:
            return bool(psutil.Process(self.pid).memory_info().rss > _RETIRE_RSS_BYTES)
        except psutil.Error:
            return True

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def epitaph(self) -> str:
        """How it ended, for people."""
        self.end()
        code = self.returncode
        if code is None:
            return "it never ran"
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"signal {signal.Signals(-code).name}"
            return f"signal {-code}"
        return f"exit status {code}"

    def end(self) -> None:
        """Kill it and give back what it holds; may be called again."""
        with self._guard:
            self._ended = True
            process = self._process
            if process is None:
                if self._door is not None:  # it could not be started
                    self._door.close()
                return
            process.kill()
            # A process inside a call to a dead network disk ends when that call does.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            if self._door is not None:
                self._door.close()
            if process.stdout is not None:
                process.stdout.close()


def _command() -> list[str]:
    if getattr(sys, "frozen", False):  # the bundle's program looks for this argument first
        return [sys.executable, CHILD_ARGUMENT]
    # -P: never import from the folder the person happens to be in.
    program = "import sys; sys.path.append(sys.argv[1]); from indexer.workers.child import main; main()"
    return [sys.executable, "-P", "-c", program, str(Path(__file__).parent.parent.parent)]


CHILD_ARGUMENT = "--extraction-child"


def _environment() -> dict[str, str]:
    # One thread each: every further one reserves address space, which the limit counts.
    return os.environ | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RAYON_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MALLOC_ARENA_MAX": "2",
    }
