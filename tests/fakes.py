"""A service for tests of the window: it speaks indexer.api over a real local socket and knows no index.

What it answers is set by the test; what it was asked is kept in `requests`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import msgspec

from indexer import api
from indexer.settings import Settings

_T = TypeVar("_T", bound=api.Request)


class Endpoint(NamedTuple):
    """As `indexer.client.Endpoint`."""

    address: str
    key: str


def status(**changes: object) -> api.Status:
    """A quiet service's status, with changes."""
    quiet = api.Status(
        id=0,
        state="watching",
        files=2048,
        chunks=18211,
        waiting=0,
        done=0,
        failed=0,
        skipped=0,
        files_per_s=0.0,
        tokens_per_s=0.0,
        remaining_s=None,
        current="",
        encoder=api.EncoderStatus(model="multilingual-e5-small", state="ready", device="cpu", dimensions=384),
        index="chroma",
    )
    return msgspec.structs.replace(quiet, **changes)


def hit(
    path: str,
    *texts: str,
    media: api.Media = "text",
    lang: str = "en",
    similarity: float = 0.8,
    locator: api.Locator | None = None,
    marks: bool = False,
    online: bool = True,
    code_language: str | None = None,
) -> api.Hit:
    """A file with one passage for each text; with `marks`, the first sentence of each is marked."""
    base = 1000 * (sum(path.encode()) % 1000)
    passages = []
    for i, text in enumerate(texts):
        end = next((j + 1 for j, c in enumerate(text) if c in ".。!?؟"), len(text))
        passages.append(
            api.Passage(
                chunk=base + i,
                text=text,
                start=i * 5000,
                locator=locator or api.Locator(line_start=1 + i * 10, line_end=8 + i * 10),
                lang=lang,
                similarity=max(0.0, similarity - 0.07 * i),
                why=api.Why(cosine=0.85, meaning=0.4),
                mark=(0, end) if marks else None,
            )
        )
    return api.Hit(
        path=path,
        root=str(Path(path).parent),
        media=media,
        title=Path(path).stem,
        similarity=similarity,
        passages=tuple(passages),
        code_language=code_language,
        online=online,
    )


def model(reference: str, state: str = "available", **changes: object) -> api.Model:
    """A model with what most have."""
    kind = "server" if reference.startswith("server:") else "hub" if "/" in reference else "bundled"
    kind = {"/": "folder"}.get(reference[0], kind)
    common = {
        "reference": reference,
        "name": reference.removeprefix("server:").rpartition("/")[2],
        "kind": kind,
        "state": state,
        "languages": "100 languages",
        "licence": "MIT",
        "parameters": 117_653_760,
        "memory_bytes": 900 << 20,
        "dimensions": 384,
        "max_tokens": 512,
    }
    return msgspec.convert(common | changes, api.Model)


BUNDLED = "multilingual-e5-small"
QWEN = "Qwen/Qwen3-Embedding-0.6B"


class FakeService:
    """Serves any number of windows on a thread each.

    Attributes:
        requests: Everything that was asked, in order.
        search: Answers a search with one or more lists of hits, of which the last is final.
        preview: Answers a preview.
        models: What is listed; downloads, switches and removals change it.
        plan: Answers what an index costs.
        install: Answers a download, one message at a time; `hold_install` holds back all but the first.
        verified: Answers a verification.
        reranked: Whether the last of several answers to a search is the reranker's.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dragoman-fake-")
        self.key = "a-key"
        self.requests: list[api.Request] = []
        self.status = status()
        # What a check finds, one after the other; with none left it does not end.
        self.checked: list[api.Checked] = []
        self.folders: tuple[api.Folder, ...] = ()
        self.problems: tuple[api.Problem, ...] = ()
        self.settings = Settings(ignore=("*.log", "node_modules/"))
        self.search: Callable[[api.Search], Sequence[Sequence[api.Hit]]] = lambda _: [[]]
        self.preview: Callable[[api.GetPreview], api.Preview | api.Failed] = lambda m: api.Preview(
            id=m.id, path=m.path, media="text", text="Some text."
        )
        self.complete: Callable[[api.Complete], api.Completions] = lambda m: api.Completions(
            id=m.id, start=m.cursor, end=m.cursor, items=()
        )
        self.models: tuple[api.Model, ...] = (
            model(BUNDLED, "active", vectors=18211, vector_bytes=30 << 20, installed_bytes=490 << 20),
            model(QWEN, download_bytes=1_207_000_000, dimensions=1024, choices=(768, 512, 256)),
        )
        self.plan: Callable[[api.PlanModel], api.Plan | api.Failed] = lambda m: api.Plan(
            id=m.id,
            texts=9311,
            disk_bytes=(m.dimensions or 1024) * 100_000,
            free_bytes=34 << 30,
            seconds=740.0,
        )
        self.install: Callable[[api.InstallModel], Sequence[api.Reply]] = lambda m: [api.Done(id=m.id)]
        self.verified: Callable[[api.VerifyModel], api.Verified | api.Failed] = lambda m: api.Verified(
            id=m.id,
            pairs=(api.Pair(first="One text.", second="Another.", similarity=0.853, published=0.862),),
            is_reference=False,
            tokens_per_s=420.0,
            device="cpu",
        )
        self.hold_install = threading.Event()  # cleared: what comes after the first word of a download waits
        self.hold_install.set()
        self._cancelled: set[int] = set()
        self.reranked = False
        self.words_first = False  # whether the first answer is by words
        self.query_problems: tuple[api.QueryProblem, ...] = ()
        self.lock = api.Lock(id=0, state="off", keyring="Secret Service")
        self.passphrase = ""
        self.fail: dict[type[api.Request], tuple[str, str]] = {}
        self.hold = threading.Event()  # cleared: searches wait for it
        self.hold.set()
        self.hold_final = threading.Event()  # cleared: answers after the first wait for it
        self.hold_final.set()
        self._connections: list[socket.socket] = []
        self._subscribers: list[socket.socket] = []
        self._write = threading.Lock()
        self._number = 0
        self._listener: socket.socket | None = None
        self.start()

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens now."""
        return Endpoint(self._address, self.key)

    def start(self) -> None:
        """Listen, at a new address."""
        self._number += 1
        self._address = str(Path(self._folder.name) / f"s{self._number}")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self._address)
        listener.listen(8)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def die(self) -> None:
        """End like a killed process: the listener and every connection are gone."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._connections.clear()
        self._subscribers.clear()
        with contextlib.suppress(FileNotFoundError):
            Path(self._address).unlink()

    def close(self) -> None:
        """End and clean up."""
        self.hold.set()
        self.hold_final.set()
        self.hold_install.set()
        self.die()
        self._folder.cleanup()

    def push(self, **changes: object) -> None:
        """Send a changed status to everybody who subscribed."""
        self.status = msgspec.structs.replace(self.status, **changes)
        for connection in list(self._subscribers):
            self._send(connection, msgspec.structs.replace(self.status, id=0))

    def asked(self, kind: type[_T]) -> list[_T]:
        """All requests of one kind."""
        return [r for r in list(self.requests) if isinstance(r, kind)]

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection, connection.makefile("rb") as lines:
            for line in lines:
                request = api.decode_request(line)
                self.requests.append(request)
                if isinstance(request, api.Search):
                    # As in the service, a search does not hold up what comes after it.
                    threading.Thread(target=self._search, args=(connection, request), daemon=True).start()
                    continue
                if isinstance(request, api.InstallModel) and api.InstallModel not in self.fail:
                    threading.Thread(target=self._install, args=(connection, request), daemon=True).start()
                    continue
                for reply in self._answer(connection, request):
                    self._send(connection, reply)

    def _search(self, connection: socket.socket, request: api.Search) -> None:
        self.hold.wait(30)
        if (failure := self.fail.get(api.Search)) is not None:
            self._send(connection, api.Failed(id=request.id, title=failure[0], message=failure[1]))
            return
        answers = list(self.search(request))
        for i, hits in enumerate(answers):
            if i:
                self.hold_final.wait(30)
            final = i == len(answers) - 1
            reply = api.SearchResult(
                id=request.id,
                hits=tuple(hits),
                final=final,
                took_ms=38.0 + i * 21,
                problems=self.query_problems,
                reranked=self.reranked and final and i > 0,
                by_words=self.words_first and i == 0,
            )
            self._send(connection, reply)

    def _install(self, connection: socket.socket, request: api.InstallModel) -> None:
        for i, reply in enumerate(self.install(request)):
            if i:
                self.hold_install.wait(30)
            if request.id in self._cancelled:
                return
            if isinstance(reply, api.Done):
                known = [m for m in self.models if m.reference == request.reference]
                new = known[0] if known else model(request.reference)
                self.change_model(msgspec.structs.replace(new, state="installed", installed_bytes=1 << 30))
            self._send(connection, reply)

    def change_model(self, changed: api.Model) -> None:
        """Put a model in the place of the one of that reference, or behind all others."""
        others = [m for m in self.models if m.reference != changed.reference]
        at = next((i for i, m in enumerate(self.models) if m.reference == changed.reference), len(others))
        self.models = (*others[:at], changed, *others[at:])

    def switch_to(self, reference: str, *, keep: bool) -> None:
        """The index of a model is complete: it serves from now on."""
        state = "kept" if keep else "installed"
        replace = msgspec.structs.replace
        self.models = tuple(
            replace(m, state="active") if m.reference == reference
            else replace(m, state=state) if m.state == "active"
            else m
            for m in self.models
        )  # fmt: skip
        chosen = next(m for m in self.models if m.reference == reference)
        self.push(
            switch=None,
            encoder=api.EncoderStatus(
                model=chosen.name, state="ready", device="cpu", dimensions=chosen.dimensions
            ),
        )

    def set_lock(self, state: api.LockState, *, remembered: bool = False) -> None:
        """The library is encrypted, opened or locked from now on."""
        self.lock = msgspec.structs.replace(self.lock, state=state, remembered=remembered)
        self.push(state="locked" if state in ("locked", "changing") else "watching", lock=state)

    def _send(self, connection: socket.socket, reply: api.Reply) -> None:
        with contextlib.suppress(OSError), self._write:
            connection.sendall(api.encode(reply))

    def _answer(self, connection: socket.socket, request: api.Request) -> list[api.Reply]:
        failure = self.fail.get(type(request))
        if failure is not None and not isinstance(request, api.Hello):
            return [api.Failed(id=request.id, title=failure[0], message=failure[1])]
        match request:
            case api.Hello():
                if request.key != self.key or request.version != api.PROTOCOL_VERSION:
                    return [api.Failed(id=0, title="Not let in", message="The key is wrong.")]
                return [api.Welcome(version=api.PROTOCOL_VERSION, pid=os.getpid(), release="0.1.0")]
            case api.Subscribe():
                self._subscribers.append(connection)
                return [msgspec.structs.replace(self.status, id=request.id)]
            case api.GetStatus():
                return [msgspec.structs.replace(self.status, id=request.id)]
            case api.ListFolders():
                return [api.Folders(id=request.id, folders=self.folders)]
            case api.AddFolder():
                added = api.Folder(
                    path=request.path, online=True, files=0, chunks=0, bytes=0, waiting=12, problems=0
                )
                self.folders = (*self.folders, added)
            case api.RemoveFolder():
                self.folders = tuple(f for f in self.folders if f.path != request.path)
            case api.ListProblems():
                kept = tuple(p for p in self.problems if request.kind in (None, p.kind))
                shown = kept[request.offset : request.offset + request.limit]
                return [api.Problems(id=request.id, problems=shown, total=len(kept))]
            case api.Retry():
                self.problems = tuple(
                    p
                    for p in self.problems
                    if (p.path not in request.paths if request.paths else p.kind != "failed")
                )
            case api.SetPaused():
                state = "paused" if request.paused else "indexing"
                self._send(connection, api.Done(id=request.id))
                self.push(state=state)
                return []
            case api.Check():
                told: list[api.Reply] = [api.Progress(id=request.id, done=3, total=9, current="words")]
                if self.checked:
                    told.append(msgspec.structs.replace(self.checked.pop(0), id=request.id))
                return told
            case api.Complete():
                return [self.complete(request)]
            case api.GetPreview():
                return [self.preview(request)]
            case api.GetSettings():
                return [api.SettingsReply(id=request.id, settings=self.settings)]
            case api.PutSettings():
                self.settings = request.settings
            case api.ListModels():
                return [api.Models(id=request.id, models=self.models)]
            case api.PlanModel():
                return [self.plan(request)]
            case api.VerifyModel():
                return [self.verified(request)]
            case api.UseModel():
                self._send(connection, api.Done(id=request.id))
                chosen = next(m for m in self.models if m.reference == request.reference)
                self.change_model(msgspec.structs.replace(chosen, state="building"))
                self.push(
                    switch=api.SwitchStatus(
                        reference=request.reference,
                        dimensions=request.dimensions or chosen.dimensions,
                        done=0,
                        total=9311,
                        remaining_s=None,
                        state="loading",
                    )
                )
                return []
            case api.CancelSwitch():
                wanted = "kept" if request.reference else "building"
                self.models = tuple(
                    msgspec.structs.replace(m, state="installed")
                    if m.state == wanted and request.reference in ("", m.reference)
                    else m
                    for m in self.models
                )
                self._send(connection, api.Done(id=request.id))
                self.push(switch=None if not request.reference else self.status.switch)
                return []
            case api.RemoveModel():
                self.models = tuple(m for m in self.models if m.reference != request.reference)
            case api.GetLock():
                return [msgspec.structs.replace(self.lock, id=request.id)]
            case api.Unlock() | api.SetLock():
                if request.passphrase != self.passphrase:
                    wrong = api.WRONG_PASSPHRASE
                    return [api.Failed(id=request.id, title=wrong, message="It is another.")]
                remembered = request.remember
                if isinstance(request, api.SetLock):
                    self.passphrase = request.new or ""
                    self._send(connection, api.Progress(id=request.id, done=1, total=2))
                self._send(connection, api.Done(id=request.id))
                self.set_lock("open" if self.passphrase else "off", remembered=remembered)
                return []
            case api.Remember():
                self.lock = msgspec.structs.replace(self.lock, remembered=request.remember)
            case api.Cancel():
                self._cancelled.add(request.target)
                return [api.Failed(id=request.target, title="Cancelled", message="Nobody waits for it.")]
            case _:
                pass
        return [api.Done(id=cast(api.Cancel, request).id)]
