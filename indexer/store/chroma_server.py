"""Chroma on a server: on this machine (`chroma run`), a team's, or Chroma's distributed deployment.

Spoken to in its own HTTP interface (version 2). Each generation of each model of each library is a
collection of its own, named after all three, so that many libraries can share a database and none touches
what is another's. The library's texts and paths never leave it: the server gets numbers and vectors.
"""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np
import numpy.typing as npt

from indexer.api import Notice
from indexer.errors import IndexerError
from indexer.settings import ChromaServer
from indexer.store.engine import EngineAwayError, EngineError, Ids, Vectors

if TYPE_CHECKING:
    import httpx

_API = "/api/v2"
_CONNECT_S = 5.0
_WRITE_S = 60.0
_LARGEST_ANSWER = 64 << 20
_PAGE = 10_000
_LISTED = 1_000
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,200}[A-Za-z0-9]")
_SAID = 200
_HNSW = {"space": "cosine", "max_neighbors": 24, "ef_construction": 128, "ef_search": 128}


class ServerChroma:
    """`Engines` of a Chroma server; see `indexer.store.engine`.

    Args:
        server: Where it is, and whose data it is there.
        identity: The library's own name, which no other library has.
        key: The model's key.
    """

    most = 300
    # Exact search is at hand; nobody should wait long for a network.
    patience_s = 0.5

    def __init__(self, server: ChromaServer, identity: str, key: str) -> None:
        self._server = server
        self._identity = identity
        self._key = key

    def begin(self, on_end: Callable[[], None]) -> _Connection:
        """Set a connection up; the server is asked nothing yet."""
        try:
            check(self._server)
        except IndexerError as error:
            raise EngineAwayError(str(error), Notice(title=error.title, message=error.message)) from error
        return _Connection(self._server, self.name(self._key, 0).rpartition("-")[0])

    def name(self, key: str, generation: int) -> str:
        """The name of a generation's collection."""
        model = hashlib.blake2b(key.encode(), digest_size=6).hexdigest()
        return f"dragoman-{self._identity}-{model}-{generation}"

    def sweep(self, keep: set[tuple[str, int]]) -> None:
        """Delete this library's collections of generations that the catalog has forgotten."""
        kept = {self.name(key, generation) for key, generation in keep}
        ours = f"dragoman-{self._identity}-"
        connection = self.begin(lambda: None)
        try:
            for name in connection.collections():
                if name.startswith(ours) and name not in kept:
                    connection.delete(name)
        finally:
            connection.kill()


def check(server: ChromaServer) -> None:
    """Refuse addresses that are none or not safe.

    Raises:
        IndexerError: Says what is wrong.
    """
    try:
        parts = urlsplit(server.url)
        host = parts.hostname or ""
        _ = parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if parts.scheme not in {"http", "https"} or not host:
        raise IndexerError(
            "No address of a Chroma server", f"{server.url} should be like http://127.0.0.1:8000."
        )
    if parts.scheme == "http" and not server.insecure and not _LOOPBACK.fullmatch(host):
        raise IndexerError(
            "The connection would not be private",
            f"{host} is another computer and the address begins with http. "
            "Use https, or allow it in the settings.",
        )
    for what, name in (("tenant", server.tenant), ("database", server.database)):
        if not _NAME.fullmatch(name):
            raise IndexerError(
                f"No name of a {what}",
                f"{name} will not do: 3 letters, digits, dots, hyphens or underscores at least, "
                "with a letter or digit at both ends.",
            )
    if server.token and not all(" " < c < "\x7f" for c in server.token):
        raise IndexerError("The token cannot be sent", "It has characters that no header may have.")
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", server.token_header):
        raise IndexerError("No name of a header", f"{server.token_header} cannot carry a token.")


class _Connection:
    """An `Engine`: one generation's collection on the server."""

    def __init__(self, server: ChromaServer, prefix: str) -> None:
        self._server = server
        self._prefix = prefix
        self._where = urlsplit(server.url).netloc.rpartition("@")[2]
        self._lock = threading.Lock()
        self._made: httpx.Client | None = None
        self._ended = False
        self._collection = ""

    # --- as an engine --------------------------------------------------------------------------

    def open(self, generation: int, *, create: bool) -> int:
        """Open the generation's collection, or make it anew, its tenant and database too where missing."""
        name = f"{self._prefix}-{generation}"
        if create:
            self._make_home()
            self.delete(name)
            found = self._ask(
                "POST", self._database("/collections"), {"name": name, "configuration": {"hnsw": _HNSW}}
            )
        else:
            found = self._ask("GET", self._database(f"/collections/{name}"), missing=True)
            if found is None:
                raise EngineError(f"the server has no collection {name}")
        try:
            self._collection = str(found["id"])
        except (KeyError, TypeError) as error:
            raise self._strange() from error
        count = self._ask("GET", self._mine("/count"), missing=True)
        if not isinstance(count, int):
            raise self._strange()
        return count

    def upsert(self, ids: list[int], vectors: Vectors) -> None:
        """Store unit vectors (n, dim) under their ids; acknowledged when this returns."""
        rows = np.ascontiguousarray(vectors, "<f4")
        body = {
            "ids": [str(number) for number in ids],
            "embeddings": [base64.b64encode(row.tobytes()).decode() for row in rows],
        }
        self._ask("POST", self._mine("/upsert"), body)

    def query(self, vector: Vectors, k: int, timeout: float) -> tuple[Ids, npt.NDArray[np.float32]]:
        """Ids and cosine distances of the `k` nearest."""
        body = {
            "query_embeddings": [np.asarray(vector, np.float32).tolist()],
            "n_results": k,
            "include": ["distances"],
        }
        found = self._ask("POST", self._mine("/query"), body, timeout=timeout)
        try:
            ids = np.array([int(number) for number in found["ids"][0]], np.int64)
            distances = np.array(found["distances"][0], np.float32)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._strange() from error
        if len(ids) != len(distances):
            raise self._strange()
        return ids, distances

    def all_ids(self) -> Ids:
        """Every id there is."""
        found: list[int] = []
        while True:
            page = self._ask(
                "POST", self._mine("/get"), {"include": [], "limit": _PAGE, "offset": len(found)}
            )
            try:
                ids = [int(number) for number in page["ids"]]
            except (KeyError, TypeError, ValueError) as error:
                raise self._strange() from error
            found += ids
            if not ids:
                return np.array(found, np.int64)

    def vectors(self, ids: Ids) -> tuple[Ids, Vectors]:
        """The vectors that the server has under these ids."""
        wanted = [str(number) for number in ids.tolist()]
        answer = self._ask("POST", self._mine("/get"), {"ids": wanted, "include": ["embeddings"]})
        try:
            found = np.array([int(number) for number in answer["ids"]], np.int64)
            return found, np.array(answer["embeddings"], np.float32).reshape(
                len(found), -1 if len(found) else 0
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._strange() from error

    def close(self) -> bool:
        """Hang up; the server keeps what it acknowledged."""
        self.kill()
        return True

    def abort(self) -> None:
        """Hang up; whoever waits gets an error."""
        self.kill()

    def kill(self) -> None:
        """Hang up."""
        with self._lock:
            self._ended = True
            made, self._made = self._made, None
        if made is not None:
            made.close()

    # --- collections ---------------------------------------------------------------------------

    def collections(self) -> list[str]:
        """Names of all collections in the database, the others' included; none where it does not exist."""
        names: list[str] = []
        while True:
            path = self._database(f"/collections?limit={_LISTED}&offset={len(names)}")
            page = self._ask("GET", path, missing=True)
            try:
                listed = [str(one["name"]) for one in page or ()]
            except (KeyError, TypeError) as error:
                raise self._strange() from error
            names += listed
            if len(listed) < _LISTED:
                return names

    def delete(self, name: str) -> None:
        """Remove a collection, if it is there."""
        self._ask("DELETE", self._database(f"/collections/{name}"), missing=True)

    def _make_home(self) -> None:
        """Make tenant and database where they are missing; where that is not ours to do, it shows later."""
        tenant = f"{_API}/tenants/{quote(self._server.tenant, safe='')}"
        if self._ask("GET", tenant, missing=True) is None:
            self._ask("POST", f"{_API}/tenants", {"name": self._server.tenant})
        if self._ask("GET", self._database(""), missing=True) is None:
            self._ask("POST", f"{tenant}/databases", {"name": self._server.database})

    # --- asking --------------------------------------------------------------------------------

    def _database(self, path: str) -> str:
        tenant, database = (quote(name, safe="") for name in (self._server.tenant, self._server.database))
        return f"{_API}/tenants/{tenant}/databases/{database}{path}"

    def _mine(self, path: str) -> str:
        return self._database(f"/collections/{quote(self._collection, safe='')}{path}")

    def _client(self) -> httpx.Client:
        import httpx

        with self._lock:
            if self._ended:
                raise EngineError("the connection was closed")
            if self._made is None:
                headers = {"User-Agent": "dragoman"}
                if self._server.token:
                    bearer = self._server.token_header.casefold() == "authorization"
                    token = f"Bearer {self._server.token}" if bearer else self._server.token
                    headers[self._server.token_header] = token
                self._made = httpx.Client(
                    base_url=self._server.url.rstrip("/"),
                    headers=headers,
                    verify=self._trusted(),
                    timeout=httpx.Timeout(_WRITE_S, connect=_CONNECT_S),
                    follow_redirects=False,
                    # A proxy of the environment would see what goes to this very machine.
                    trust_env=not _LOOPBACK.fullmatch(urlsplit(self._server.url).hostname or ""),
                )
            return self._made

    def _trusted(self) -> Any:
        import ssl

        if not self._server.certificate:
            return True
        try:
            return ssl.create_default_context(cafile=self._server.certificate)
        except (OSError, ssl.SSLError) as error:
            raise self._away(
                "The certificate for the Chroma server cannot be read",
                f"{self._server.certificate} is not a file with a certificate. Correct it in the settings.",
            ) from error

    def _ask(
        self, method: str, path: str, body: Any = None, *, missing: bool = False, timeout: float = _WRITE_S
    ) -> Any:
        """One request; the decoded answer, None where `missing` is allowed and it is.

        Raises:
            EngineError: It was refused, or the answer is not Chroma's.
            EngineAwayError: The server cannot be reached, is overloaded, or does not let us in.
        """
        import httpx

        limit = httpx.Timeout(timeout, connect=min(timeout, _CONNECT_S))
        try:
            with self._client().stream(method, path, json=body, timeout=limit) as answer:
                data = bytearray()
                for piece in answer.iter_bytes():
                    data += piece
                    if len(data) > _LARGEST_ANSWER:
                        raise self._strange()
                status = answer.status_code
        except httpx.TimeoutException as error:
            raise self._unreachable(f"{self._where} does not answer in time") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, RuntimeError) as error:
            raise self._unreachable(_reason(error, self._where)) from error
        if status == HTTPStatus.NOT_FOUND and missing:
            return None
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise self._away(
                "The Chroma server does not let Dragoman in",
                f"{self._where} refuses the token, or tenant {self._server.tenant} and database "
                f"{self._server.database} are not open to it. Correct them in the settings.",
            )
        if status in {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS} or status >= 500:
            raise self._unreachable(f"{self._where} answers with status {status}")
        if status == HTTPStatus.NOT_FOUND:
            raise EngineError(f"{self._where} does not know what was asked for")
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise self._refused(status, bytes(data))
        import msgspec

        try:
            return msgspec.json.decode(bytes(data)) if data else {}
        except msgspec.DecodeError as error:
            raise self._strange() from error

    def _unreachable(self, reason: str) -> EngineAwayError:
        return self._away(
            "The Chroma server is away",
            f"{reason}. Searching is exact meanwhile; what changes is sent when the server is back.",
        )

    @staticmethod
    def _away(title: str, message: str) -> EngineAwayError:
        return EngineAwayError(message, Notice(title=title, message=message))

    def _refused(self, status: int, data: bytes) -> EngineError:
        """What the server said against a request, if it is a Chroma server at all."""
        import msgspec

        try:
            said = str(msgspec.json.decode(data)["message"])
        except (msgspec.DecodeError, KeyError, TypeError):
            return self._strange()
        said = "".join(c for c in said if c.isprintable())[:_SAID]
        reason = f"{self._where} answered with status {status}: {said}"
        return EngineError(reason, Notice(title="The Chroma server refuses", message=reason))

    def _strange(self) -> EngineAwayError:
        notice = self._notice_strange()
        return EngineAwayError(notice.message, notice)

    def _notice_strange(self) -> Notice:
        return Notice(
            title="This is not a Chroma server",
            message=f"{self._where} answers, but not as Chroma (version 1) does. Correct the address.",
        )


def _reason(error: BaseException, where: str) -> str:
    """What is wrong with a connection, in people's words."""
    import ssl

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"{where} shows a certificate that is not trusted here ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError):
            return f"{where} does not speak https as it should"
        cause = cause.__cause__ or cause.__context__
    return f"{where} cannot be reached"
