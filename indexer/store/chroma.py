"""Our own Chroma: a supervised child process on folders of the library, one folder a generation."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
import numpy.typing as npt

from indexer.manners import step_back
from indexer.store.engine import EngineError, Ids, Vectors
from indexer.store.wire import (
    LENGTH,
    AllIds,
    Answer,
    Close,
    Done,
    Fetch,
    Found,
    Open,
    Opened,
    Query,
    Refused,
    Request,
    Upsert,
    read_frame,
)

log = logging.getLogger(__name__)

_SYNC_THRESHOLD = 1000
_QUERY_S = 2.0
_OPEN_S = 90.0
_WRITE_S = 120.0


class OwnChroma:
    """`Engines` of our own child; see `indexer.store.engine`.

    Args:
        folder: Where generations lie, for all models.
        key: The model's key.
    """

    most = 2000
    patience_s = _QUERY_S

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._key = key

    def begin(self, on_end: Callable[[], None]) -> Child:
        """Start the child."""
        if not self._folder.is_dir():
            self._folder.unlink(missing_ok=True)  # something else of that name
            self._folder.mkdir(mode=0o700)
        return Child(self._folder / "chroma.log", on_end, lambda n: self._folder / f"{self._key}-{n}")

    def sweep(self, keep: set[tuple[str, int]]) -> None:
        """Delete the folders of generations that the catalog has forgotten."""
        kept = {f"{key}-{generation}" for key, generation in keep}
        for entry in self._folder.iterdir() if self._folder.is_dir() else ():
            if entry.name != "chroma.log" and entry.name.removesuffix(".lock") not in kept:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink(missing_ok=True)


class ChildError(EngineError):
    """The child died, hung or refused; what it owned is in doubt."""


class Child:
    """One child process, an `Engine`; any thread may ask it, each for its own answer."""

    program = "indexer.store.chroma_child"

    def __init__(self, log_file: Path, on_end: Callable[[], None], folder_of: Callable[[int], Path]) -> None:
        self._folder_of = folder_of
        with log_file.open("wb") as output:
            log_file.chmod(0o600)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", self.program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                cwd=log_file.parent,
                env=_environment(),
            )
        # Its disk only: searches wait for its processor.
        step_back(self._process.pid, niceness=0)
        self._on_end = on_end
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[Answer | None]] = {}
        self._ended = False
        self._encoder = msgspec.msgpack.Encoder()
        self._reader = threading.Thread(target=self._read, name="chroma-answers", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def _read(self) -> None:
        decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
        stream = self._pipe(self._process.stdout)
        try:
            while (frame := read_frame(stream)) is not None:
                answer = decoder.decode(frame)
                with self._lock:
                    waiting = self._waiting.pop(answer.id, None)
                if waiting is not None:  # else the question was given up
                    waiting.put(answer)
        except (OSError, ValueError, RecursionError) as error:
            log.warning("the Chroma process sent something unreadable: %s", type(error).__name__)
            self._process.kill()
        with self._lock:
            self._ended = True
            for waiting in self._waiting.values():
                waiting.put(None)
            self._waiting.clear()
        self._on_end()

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None  # Popen was given PIPE
        return pipe

    def ask(self, make: Callable[[int], Request], timeout: float) -> Answer:
        """Send one request and wait for its answer.

        Raises:
            ChildError: No answer within `timeout` seconds, the child is gone, or it refused.
        """
        deadline = time.monotonic() + timeout
        number = next(self._numbers)
        box: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        with self._lock:
            if self._ended:
                raise ChildError("the Chroma process has ended")
            self._waiting[number] = box
        data = self._encoder.encode(make(number))
        try:
            if not self._sending.acquire(timeout=timeout):
                raise ChildError("the Chroma process does not read")
            try:
                stdin = self._pipe(self._process.stdin)
                stdin.write(LENGTH.pack(len(data)) + data)
                stdin.flush()
            except (OSError, ValueError) as error:
                raise ChildError(f"the Chroma process is gone: {error}") from error
            finally:
                self._sending.release()
            answer = box.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise ChildError(f"no answer within {timeout:g} s") from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if answer is None:
            raise ChildError("the Chroma process ended")
        if isinstance(answer, Refused):
            raise ChildError(answer.reason)
        return answer

    def open(self, generation: int, *, create: bool) -> int:
        """Open or make a generation's folder; returns how many vectors it says it has."""
        folder = str(self._folder_of(generation))
        answer = self.ask(lambda n: Open(n, os.getpid(), folder, create, _SYNC_THRESHOLD), _OPEN_S)
        assert isinstance(answer, Opened)
        return answer.count

    def upsert(self, ids: list[int], vectors: Vectors) -> None:
        """Store unit vectors (n, dim) under their ids; acknowledged when this returns."""
        data = np.array(ids, np.int64).tobytes(), np.ascontiguousarray(vectors, np.float32).tobytes()
        answer = self.ask(lambda n: Upsert(n, *data), _WRITE_S)
        assert isinstance(answer, Done)

    def query(self, vector: Vectors, k: int, timeout: float) -> tuple[Ids, npt.NDArray[np.float32]]:
        """Ids and cosine distances of the `k` nearest."""
        answer = self.ask(lambda n: Query(n, vector.tobytes(), k), timeout)
        assert isinstance(answer, Found)
        return np.frombuffer(answer.ids, np.int64), np.frombuffer(answer.distances, np.float32)

    def all_ids(self) -> Ids:
        """Every id that Chroma has."""
        answer = self.ask(AllIds, _OPEN_S)
        assert isinstance(answer, Found)
        return np.frombuffer(answer.ids, np.int64)

    def vectors(self, ids: Ids) -> tuple[Ids, Vectors]:
        """The vectors that Chroma has under these ids."""
        answer = self.ask(lambda n: Fetch(n, ids.tobytes()), _OPEN_S)
        assert isinstance(answer, Found)
        found = np.frombuffer(answer.ids, np.int64)
        return found, np.frombuffer(answer.distances, np.float32).reshape(len(found), -1 if len(found) else 0)

    def close(self) -> bool:
        """End in good order; False when it had to be killed."""
        try:
            self.ask(Close, _WRITE_S)
            self._pipe(self._process.stdin).close()
            orderly = self._process.wait(20) == 0
        except (ChildError, OSError, subprocess.TimeoutExpired):
            orderly = False
        self.kill()
        return orderly

    def abort(self) -> None:
        """End at once; whoever waits for an answer gets an error."""
        self._process.kill()

    def kill(self) -> None:
        """End at once, and leave nothing behind."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        with contextlib.suppress(OSError):
            self._pipe(self._process.stdin).close()
        self._pipe(self._process.stdout).close()


def _environment() -> dict[str, str]:
    here = str(Path(__file__).resolve().parents[2])
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != here]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([here, *others]),
        "ANONYMIZED_TELEMETRY": "False",
        "DO_NOT_TRACK": "1",
        "OTEL_SDK_DISABLED": "true",
        "POSTHOG_DISABLED": "1",
    }
