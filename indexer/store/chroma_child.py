"""The child process that owns Chroma: `python -m indexer.store.chroma_child`, requests on stdin.

Chroma's binding holds the interpreter's lock while it writes and a damaged folder can take the
process down, so it lives here. The child ends when stdin does, that is, also when its
parent dies, and only between two requests, because Chroma rewrites its files in place.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import struct
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import msgspec
import numpy as np

from indexer.store.wire import (
    LENGTH,
    AllIds,
    Answer,
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

if TYPE_CHECKING:
    import chromadb

COLLECTION = "vectors"
# Candidates that a search keeps in hand. At a million vectors 160 found 0.940 of the true ten nearest, 320
# finds 0.990 in 1.35 instead of 0.97 ms; more finds no more.
_EF_SEARCH = 320
# A damaged index makes Chroma write a sparse file of a terabyte and more.
LARGEST_FILE = 32 << 30
_LOCK_WAIT_S = 20.0
_PAGE = 200_000  # Chroma walks over all that come before a page
# Chroma rewrites its files after so many new vectors: this share of all, since that takes the longer the more
# there are (0.1 s for 60,000, at every thousand a fifth of all writing), within bounds, since what is not in
# the files yet is put into the graph again at every start and read at every write.
_SYNC_SHARE = 20
_SYNC_MOST = 20_000
_RETUNE = 10_000
_HNSW_HEADER = struct.Struct("<iQQQQ")  # version, offset, capacity, elements, bytes an element


def hnsw_doubts(folder: Path) -> str:
    """Compare the HNSW files below a Chroma folder with their headers; empty when they agree.

    The layout is hnswlib's: `data_level0.bin` holds one record an element, `length.bin` one norm, and
    `link_lists.bin` for each element a 32-bit size and so many bytes of links.
    """
    for header in folder.glob("*/header.bin"):
        try:
            _, _, capacity, elements, record = _HNSW_HEADER.unpack(header.read_bytes()[: _HNSW_HEADER.size])
            sizes = {
                name: (header.parent / f"{name}.bin").stat().st_size for name in ("data_level0", "length")
            }
            if not elements and not (header.parent / "index_metadata.pickle").exists():
                continue  # nothing was written out yet, all is in Chroma's log
            if elements > capacity or not (header.parent / "index_metadata.pickle").stat().st_size:
                return f"{header}: {elements} elements in {capacity} places"
            if sizes["data_level0"] != elements * record or sizes["length"] != elements * 4:
                return f"{header}: {elements} elements of {record} bytes, but {sizes}"
            links = header.parent / "link_lists.bin"
            if links.stat().st_size > elements * record:
                return f"{header}: link lists of {links.stat().st_size} bytes"
            words = array("I", links.read_bytes())
            at = 0
            for _ in range(elements):
                at += 1 + words[at] // 4
            if at != len(words):
                return f"{header}: link lists end after {at} of {len(words)} words"
            norms = np.fromfile(header.parent / "length.bin", "<f4")
            if not np.allclose(norms, 1.0, atol=0.01):
                return f"{header}: norms that are not 1"
        except (OSError, struct.error, IndexError, ValueError) as error:
            return f"{header}: {error}"
    return ""


class Holder(Protocol):
    """Who holds the vectors of an open folder; whatever it raises is told to the parent."""

    def count(self) -> int:
        """How many vectors there are."""

    def upsert(self, request: Upsert) -> None:
        """Store vectors over what was there under their ids."""

    def query(self, request: Query) -> Found:
        """The nearest, nearest first."""

    def all_ids(self, request: AllIds) -> Found:
        """Every id."""

    def fetch(self, request: Fetch) -> Found:
        """What is held of some ids."""

    def close(self) -> None:
        """Put the folder to rest."""


class _Folder:
    """The open Chroma folder."""

    def __init__(self, request: Open) -> None:
        folder = Path(request.folder)
        self._lock = take(folder, request)
        doubts = "" if request.create else hnsw_doubts(folder)
        if doubts:
            raise ValueError(doubts)
        if not request.create and not (folder / "chroma.sqlite3").is_file():
            raise FileNotFoundError(str(folder / "chroma.sqlite3"))
        self._folder = folder
        self._least = request.sync_threshold
        self._threshold = request.sync_threshold
        self._since = 0
        self._client: Any = self._connect()
        if request.create:
            self._collection: chromadb.Collection = self._client.create_collection(
                COLLECTION,
                embedding_function=None,
                configuration={
                    "hnsw": {
                        "space": "cosine",
                        "max_neighbors": 20,
                        "ef_construction": 128,
                        "ef_search": _EF_SEARCH,
                        "sync_threshold": self._threshold,
                    }
                },
            )
        else:
            self._attach()

    def _connect(self) -> Any:
        import chromadb
        from chromadb.config import Settings

        if not self._folder.is_dir():
            # Its disk went away meanwhile. Chroma would make the whole path anew, where nobody looks for it.
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder))
        return chromadb.PersistentClient(
            str(self._folder), settings=Settings(anonymized_telemetry=False, allow_reset=False)
        )

    def _attach(self) -> None:
        """Open the collection with what fits its size; it heeds that only before it was first used."""
        self._collection = self._client.get_collection(COLLECTION, embedding_function=None)
        self._threshold = self._fitting()
        self._collection.modify(
            configuration={"hnsw": {"ef_search": _EF_SEARCH, "sync_threshold": self._threshold}}
        )
        self._collection = self._client.get_collection(COLLECTION, embedding_function=None)

    def _fitting(self) -> int:
        return min(max(self._least, self._collection.count() // _SYNC_SHARE), _SYNC_MOST)

    def _retune(self) -> None:
        """Open again what has outgrown its threshold by far."""
        self._since = 0
        if self._fitting() >= 2 * self._threshold:
            self._client.close()
            self._client = self._connect()
            self._attach()

    def count(self) -> int:
        return self._collection.count()

    def upsert(self, request: Upsert) -> None:
        ids = np.frombuffer(request.ids, np.int64)
        vectors = np.frombuffer(request.vectors, np.float32).reshape(len(ids), -1)
        self._since += len(ids)
        if self._since >= _RETUNE:
            self._retune()
        self._collection.upsert(ids=[str(number) for number in ids.tolist()], embeddings=vectors)

    def query(self, request: Query) -> Found:
        vector = np.frombuffer(request.vector, np.float32)
        answer = self._collection.query(
            query_embeddings=vector[None, :], n_results=request.k, include=["distances"]
        )
        distances = answer["distances"] or [[]]
        return found(request.id, answer["ids"][0], distances[0])

    def all_ids(self, request: AllIds) -> Found:
        ids: list[str] = []
        while page := self._collection.get(include=[], limit=_PAGE, offset=len(ids))["ids"]:
            ids.extend(page)
        return found(request.id, ids, [])

    def fetch(self, request: Fetch) -> Found:
        wanted = [str(number) for number in np.frombuffer(request.ids, np.int64).tolist()]
        answer = self._collection.get(ids=wanted, include=["embeddings"])
        return found(request.id, answer["ids"], answer["embeddings"])

    def close(self) -> None:
        self._client.close()


def remove(entry: Path) -> None:
    """Delete a file or a folder, whatever it is; links are not followed."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def take(folder: Path, request: Open) -> IO[bytes]:
    """Take possession of a folder, made anew where it is to be; the lock that is held while it is open."""
    lock = _own(folder.with_name(folder.name + ".lock"))
    if os.name != "nt" and os.getppid() != request.parent:
        raise ProcessLookupError("the parent is gone; the folder may belong to another child")
    if request.create:
        remove(folder)
        folder.mkdir(mode=0o700)
    return lock


def found(number: int, ids: Any, distances: Any) -> Found:
    """The answer to a question for ids, with cosine distances or none."""
    return Found(number, np.array(ids, np.int64).tobytes(), np.array(distances, np.float32).tobytes())


def _own(file: Path) -> IO[bytes]:
    """Keep other children away from the folder; one whose parent died may still be at its last request."""
    handle = file.open("ab")
    if os.name == "nt":
        return handle
    import fcntl

    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return handle


def main(open_folder: Callable[[Open], Holder] = _Folder) -> None:
    """Serve requests until stdin ends."""
    os.umask(0o077)
    for name in (signal.SIGINT, signal.SIGTERM):  # the parent decides when it is over
        signal.signal(name, signal.SIG_IGN)
    if os.name != "nt":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = LARGEST_FILE if hard == resource.RLIM_INFINITY else min(hard, LARGEST_FILE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    # What a library prints must not get among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _serve(sys.stdin.buffer, answers, open_folder)


def _serve(requests: IO[bytes], answers: IO[bytes], open_folder: Callable[[Open], Holder]) -> None:
    decoder = msgspec.msgpack.Decoder(Request)
    encoder = msgspec.msgpack.Encoder()
    folder: Holder | None = None
    while (frame := read_frame(requests)) is not None:
        request: Request = decoder.decode(frame)
        answer: Answer
        try:
            if isinstance(request, Open):
                folder = open_folder(request)
                answer = Opened(request.id, folder.count())
            elif folder is None:
                answer = Refused(request.id, "no folder is open")
            elif isinstance(request, Upsert):
                folder.upsert(request)
                answer = Done(request.id)
            elif isinstance(request, Query):
                answer = folder.query(request)
            elif isinstance(request, AllIds):
                answer = folder.all_ids(request)
            elif isinstance(request, Fetch):
                answer = folder.fetch(request)
            else:
                folder.close()
                folder = None
                answer = Done(request.id)
        # Whatever goes wrong inside Chroma (its Rust panics included) is the parent's to judge.
        except BaseException as error:  # noqa: BLE001
            answer = Refused(request.id, f"{type(error).__name__}: {error}")
        data = encoder.encode(answer)
        try:
            answers.write(LENGTH.pack(len(data)) + data)
            answers.flush()
        except BrokenPipeError:
            break
        if folder is None and isinstance(answer, Done):  # closed
            break
    if folder is not None:
        with contextlib.suppress(Exception):
            folder.close()


if __name__ == "__main__":
    main()
