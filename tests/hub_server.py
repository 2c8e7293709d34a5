"""A stand-in for the Hugging Face Hub: real HTTP on loopback, as much of its API as a download uses.

Large files are given by a second server on another port, as the real Hub redirects to a storage host.
It can break connections, send other bytes, want a token, be slow, or be gone.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit

_LARGE = (".safetensors", ".bin", ".pt", ".gguf", "tokenizer.json")
_PIECE = 1 << 14


class Served(NamedTuple):
    """One answer that carried a file's bytes."""

    path: str
    start: int
    sent: int
    authorization: str


@dataclass
class Repository:
    """A repository of models; `revisions` by commit or reference, each with the bytes of its files."""

    name: str
    revisions: dict[str, dict[str, bytes]]
    gated: bool = False
    token: str = ""
    card: dict[str, object] = field(default_factory=dict)
    requests: list[dict[str, object]] = field(default_factory=list)

    def commit(self, revision: str) -> str:
        """The commit of a revision."""
        text = json.dumps(
            sorted((n, hashlib.sha256(b).hexdigest()) for n, b in self.revisions[revision].items())
        )
        return hashlib.sha1(f"{revision}{text}".encode(), usedforsecurity=False).hexdigest()


class HubServer:
    """The two servers; a context manager.

    Attributes:
        break_after: Bytes of a file's body after which a connection is cut; used up one by one, by file.
        corrupt: How many times a file is given with one byte changed.
        more_bytes: So many bytes are sent behind the end of a file.
        cdn: Where large files are said to be, if not at the second server.
        gate: Called before each piece of a file's body that is sent; may wait.
        served: Every answer that carried a file's bytes.
        asked: Every request: method and path.
        agents: Every user agent that came.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.break_after: dict[str, list[int]] = {}
        self.corrupt: dict[str, int] = {}
        self.gate: Callable[[str, int], None] = lambda path, sent: None
        self.status: int = 0
        self.no_ranges = False
        self.cdn = ""
        self.more_bytes: dict[str, int] = {}
        self.served: list[Served] = []
        self.asked: list[tuple[str, str]] = []
        self.agents: set[str] = set()
        self._servers: list[ThreadingHTTPServer] = []

    def add(self, name: str, files: dict[str, bytes], **more: Any) -> Repository:
        """Put a repository there."""
        self.repositories[name] = repository = Repository(name, {"main": files}, **more)
        return repository

    def add_folder(self, name: str, folder: Path, **more: Any) -> Repository:
        """Put a folder's files there."""
        files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        return self.add(name, files, **more)

    @property
    def url(self) -> str:
        """Where the Hub is."""
        return f"http://127.0.0.1:{self._servers[0].server_address[1]}"

    def bytes_of(self, path: str) -> int:
        """Bytes of a file's body that were sent, over all answers."""
        return sum(one.sent for one in self.served if one.path == path)

    def __enter__(self) -> Self:
        for _ in range(2):
            server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
            server.daemon_threads = True
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.cdn = self.cdn or f"http://127.0.0.1:{self._servers[1].server_address[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Be gone."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        self._servers.clear()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.hub
        path = unquote(urlsplit(self.path).path)
        hub.asked.append((self.command, path))
        hub.agents.add(self.headers.get("User-Agent", ""))
        if hub.status:
            self._reply(hub.status, b"")
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/discussions", path):
            self._with(found[1], self._discussions)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._with(found[1], partial(self._index, revision=found[2] or "main"))
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/(.+)", path):
            self._with(found[1], partial(self._resolve, commit=found[2], name=found[3]))
        elif found := re.fullmatch(r"/cdn/([^/]+/[^/]+)/([0-9a-f]{40})/(.+)", path):
            files = _at(hub.repositories[found[1]], found[2])
            self._body(found[3], files[found[3]], {})
        else:
            self._reply(404, b"")

    def _with(self, name: str, answer: Callable[[Repository], None]) -> None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._reply(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            answer(repository)

    def _may(self, repository: Repository) -> bool:
        if not repository.token or self.headers.get("Authorization") == f"Bearer {repository.token}":
            return True
        self._reply(403, b"{}", {"X-Error-Code": "GatedRepo"})
        return False

    def _index(self, repository: Repository, revision: str) -> None:
        if not repository.gated and not self._may(repository):
            return
        siblings = []
        for name, content in repository.revisions[revision].items():
            blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
            sibling: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": blob}
            if name.endswith(_LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
            siblings.append(sibling)
        info = {
            "id": repository.name,
            "sha": repository.commit(revision),
            "gated": "manual" if repository.gated else False,
            "private": False,
            "cardData": repository.card,
            "siblings": siblings,
        }
        self._reply(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _discussions(self, repository: Repository) -> None:
        found = {"count": len(repository.requests), "start": 0, "discussions": repository.requests}
        self._reply(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repository: Repository, commit: str, name: str) -> None:
        if not self._may(repository):
            return
        content = _at(repository, commit).get(name)
        if content is None:
            self._reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        etag = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag}"'}
        if name.endswith(_LARGE):
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{etag}"'}
            headers["Location"] = f"{self.hub.cdn}/cdn/{repository.name}/{commit}/{name}"
            self._reply(302, b"", headers)
        else:
            self._body(name, content, headers)

    def _body(self, name: str, content: bytes, headers: dict[str, str]) -> None:
        hub = self.hub
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and not hub.no_ranges:
            start = int(asked[1])
            if start >= len(content):
                self._reply(416, b"")
                return
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if self.command == "HEAD":
            self._reply(200, content, headers)
            return
        if hub.corrupt.get(name, 0) > 0:
            hub.corrupt[name] -= 1
            content = content[:-1] + bytes([content[-1] ^ 1])
        content += bytes(hub.more_bytes.get(name, 0))
        cuts = hub.break_after.get(name)
        cut = cuts.pop(0) if cuts else None
        end = len(content) if cut is None else min(len(content), start + cut)
        self.send_response(206 if start else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        sent = 0
        try:
            while start + sent < end:
                hub.gate(name, sent)
                piece = content[start + sent : min(end, start + sent + _PIECE)]
                self.wfile.write(piece)
                sent += len(piece)
            self.wfile.flush()
        except OSError:
            pass
        finally:
            hub.served.append(Served(name, start, sent, self.headers.get("Authorization", "")))
        if cut is not None:
            self.close_connection = True

    def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _at(repository: Repository, commit: str) -> dict[str, bytes]:
    return next(files for name, files in repository.revisions.items() if repository.commit(name) == commit)
