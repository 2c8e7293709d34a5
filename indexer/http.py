"""`dragoman serve`: the active model as an OpenAI-compatible embedding server.

A thin door onto the indexing service, which owns the model. Requests that arrive while the model works are
embedded together when it is free again, so that many small ones cost little more than a large one. The server
speaks to this machine only, unless told otherwise; then it wants a key. Web pages may not use it: a request
with an Origin is refused unless that origin was allowed, and so is one whose Host is not this server's,
which is how a page that rebinds its own name to 127.0.0.1 gives itself away.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import ipaddress
import itertools
import json
import logging
import secrets
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import msgspec

from indexer import api
from indexer.api import Task
from indexer.client import Endpoint, ensure_service
from indexer.embed.tokens import clean
from indexer.errors import FatalError, IndexerError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

_log = logging.getLogger(__name__)
_R = TypeVar("_R", bound=api.Reply)
_Kind = Literal["query", "passage"]

MAX_INPUTS = 2048
MAX_BODY_BYTES = 32 << 20

_BODY_S = 60.0
_HEAD_S = 10.0
_END_S = 10
_LOADING_TRIES, _LOADING_REST_S = 100, 0.2
_KEEP_ALIVE_S = 75
_WAITING_REQUESTS = 256
# Of one message to the service, which takes `api.MAX_REQUEST_BYTES`. Queries go before everything else, a
# message at a time, so that somebody who searches waits for one message.
_MESSAGE_BYTES = api.MAX_REQUEST_BYTES - (64 << 10)
_MESSAGE_TEXTS: Mapping[_Kind, int] = {"passage": 256, "query": 16}
# Texts that one request may put into a message when others wait, too.
_TURN = 32
# Messages under way: one that the model works on and one that is ready when it has done so.
_UNDER_WAY = 2

_QUERY = {"query", "search_query", "retrieval.query"}
_PASSAGE = {"passage", "document", "search_document", "retrieval.passage"}
_TASKS: tuple[Task, ...] = ("notes", "code", "question")


@dataclass(frozen=True)
class Door:
    """Who may use the server, and where it listens.

    Attributes:
        host: An address of this machine, or a name of one.
        port: 0 for one that is free.
        key: What clients must send as a bearer token; empty for none.
        hosts: Names that the server may be called by, besides its address.
        origins: Origins (``https://example.org``) of web pages that may use it.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    key: str = ""
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    @property
    def private(self) -> bool:
        """Whether only this machine can reach it."""
        return _is_loopback(self.host)


def serve(data_dir: Path, door: Door, tell: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or a termination signal; what is under way then is finished.

    Args:
        data_dir: The library whose active model is served.
        door: Who may use it. Without a key, one is made when other machines can reach it.
        tell: Called with lines for the person.

    Raises:
        FatalError: The address cannot be used, or the indexing service cannot be started.
    """
    import uvicorn

    made = not door.key and not door.private
    if made:
        door = Door(door.host, door.port, secrets.token_urlsafe(24), door.hosts, door.origins)
    listener = _listen(door)
    try:
        port = listener.getsockname()[1]
        ensure_service(data_dir)
        config = uvicorn.Config(
            create_app(data_dir, door),
            http=_hurried(),
            log_config=None,
            access_log=False,
            server_header=False,
            loop="asyncio",  # uvloop's rings (io_uring) are past what a sandbox or an audit sees
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_END_S,
            limit_concurrency=_WAITING_REQUESTS,
        )
        host = f"[{door.host}]" if ":" in door.host else door.host
        tell(f"Serving embeddings at http://{host}:{port}/v1 until Ctrl-C.")
        if made:
            tell(f"Clients need this key, which is shown only now: {door.key}")
        with contextlib.suppress(KeyboardInterrupt):
            _until_told(uvicorn.Server(config), listener)
    finally:
        listener.close()


def _hurried() -> type[asyncio.Protocol]:
    """The protocol of uvicorn, but who does not finish the head of a request is given up, not waited for."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol

    class Hurried(base):  # type: ignore[misc]
        _watch: asyncio.TimerHandle | None = None
        _seen_late = False

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._watch = asyncio.get_running_loop().call_later(_HEAD_S, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._watch is not None:
                self._watch.cancel()
            super().connection_lost(exc)

        def _look(self) -> None:
            # After an answer uvicorn waits for the next request until the first byte of it comes.
            done = self.cycle is not None and self.cycle.response_complete
            late = self.cycle is None or (done and self.timeout_keep_alive_task is None)
            if late and (self.cycle is None or self._seen_late):
                self.transport.abort()
                return
            self._seen_late = late
            self._watch = asyncio.get_running_loop().call_later(_HEAD_S, self._look)

    return Hurried


def _until_told(server: Any, listener: socket.socket) -> None:
    """Run a uvicorn server; the signal that ended it has done its work and is not raised again."""

    def ended(*_: object) -> None:
        """Takes the signal that uvicorn raises once more for those who were there before it."""

    before = {number: signal.signal(number, ended) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(door: Door) -> socket.socket:
    """A listening socket.

    Raises:
        FatalError: There can be none.
    """
    try:
        family, *_, address = socket.getaddrinfo(door.host, door.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FatalError("There is no such address", f"{door.host} is not a name of this machine.") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_WAITING_REQUESTS)  # who reads the line that says so may connect at once
    except OSError as error:
        listener.close()
        raise FatalError(
            "The address cannot be used",
            f"{door.host}, port {door.port}: {error.strerror}. Try another --port.",
        ) from error
    return listener


def create_app(data_dir: Path, door: Door) -> Starlette:
    """The server as an ASGI application."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.cors import CORSMiddleware
    from starlette.routing import Route

    service = _Service(data_dir)
    endpoints = _Endpoints(service)

    @contextlib.asynccontextmanager
    async def life(_: Starlette) -> AsyncIterator[None]:
        with contextlib.suppress(IndexerError):  # the first request says what is wrong
            await service.open()
        try:
            yield
        finally:
            await service.close()

    routes = [
        Route("/health", endpoints.health),
        *(Route(f"{base}/models", endpoints.models) for base in ("/v1", "")),
        *(Route(f"{base}/models/{{name:path}}", endpoints.model) for base in ("/v1", "")),
        *(Route(f"{base}/embeddings", endpoints.embeddings, methods=["POST"]) for base in ("/v1", "")),
    ]
    guards = [Middleware(_Guard, door=door)]
    if door.origins:
        guards.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(door.origins),
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
            )
        )
    return Starlette(
        routes=routes,
        middleware=guards,
        lifespan=life,
        exception_handlers={404: _not_found, 405: _not_found, Exception: _fault, _WrongError: _wrong},
    )


# --- who may come in ------------------------------------------------------------------------------


class _Guard:
    """Refuses requests by their Host, Origin and key before anything else looks at them."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door
        self._names = {name.lower().rstrip(".") for name in (*door.hosts, door.host, "localhost")}
        if not door.private:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._origins = {origin.lower().rstrip("/") for origin in door.origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from starlette.datastructures import Headers

        headers = Headers(scope=scope)
        refusal: Response | None = None
        origin = headers.get("origin")
        if not self._is_ours(headers.get("host", "")):
            refusal = _error(
                421, "This server is not called by that name; see --allow-host.", code="wrong_host"
            )
        elif origin is not None and origin.lower() not in self._origins:
            refusal = _error(
                403, "Web pages may not use this server; see --allow-origin.", code="wrong_origin"
            )
        elif self._needs_key(scope) and not self._has_key(headers.get("authorization", "")):
            refusal = _error(
                401,
                "The key is missing or wrong. Send it as a bearer token.",
                kind="authentication_error",
                code="invalid_api_key",
            )
        await (refusal or self._app)(scope, receive, send)

    def _is_ours(self, host: str) -> bool:
        name = host.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name.rstrip(".") in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # A name can be rebound, a number cannot.
        return address.is_loopback if self._door.private else True

    def _needs_key(self, scope: Scope) -> bool:
        # Browsers send no key with the question whether they may ask.
        asks_first = scope["method"] == "OPTIONS" and self._origins
        return bool(self._door.key) and scope["path"] != "/health" and not asks_first

    def _has_key(self, authorization: str) -> bool:
        kind, _, key = authorization.partition(" ")
        return kind.lower() == "bearer" and hmac.compare_digest(
            key.strip().encode("latin-1"), self._door.key.encode()
        )


# --- what is asked ----------------------------------------------------------------------------------


class _WrongError(Exception):
    """A request that cannot be answered, as OpenAI's clients are told."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code


class _Asked(NamedTuple):
    """A request for embeddings, checked."""

    texts: list[str]
    how: _How
    base64: bool


class _How(NamedTuple):
    """What texts must have in common to be embedded together."""

    kind: _Kind
    task: Task
    dimensions: int


class _Endpoints:
    """What the routes do."""

    def __init__(self, service: _Service) -> None:
        self._service = service
        self._together = _Together(service)
        self._began = int(time.time())

    async def health(self, _: Request) -> Response:
        try:
            encoder = (await self._service.status()).encoder
        except IndexerError as error:
            return _json({"status": "failed", "message": str(error)}, 503)
        good = encoder.state in {"ready", "resting"}
        state = {"status": "ok" if good else encoder.state, "model": encoder.model}
        return _json(state, 200 if good else 503)

    async def models(self, _: Request) -> Response:
        return _json({"object": "list", "data": [await self._model()]})

    async def model(self, request: Request) -> Response:
        model = await self._model()
        if request.path_params["name"] != model["id"]:
            raise _WrongError(404, "There is no such model here.", param="model", code="model_not_found")
        return _json(model)

    async def _model(self) -> dict[str, Any]:
        for _ in range(_LOADING_TRIES):  # clients ask for it first of all, and do not ask twice
            encoder = (await self._answer(self._service.status())).encoder
            if encoder.state != "loading":
                break
            await asyncio.sleep(_LOADING_REST_S)
        if encoder.state not in {"ready", "resting"}:
            raise _WrongError(503, encoder.message or "The model is being loaded.", code="model_not_ready")
        return {
            "id": encoder.model,
            "object": "model",
            "created": self._began,
            "owned_by": "dragoman",
            "dimensions": encoder.dimensions,
        }

    async def embeddings(self, request: Request) -> Response:
        asked = _understand(await _body(request))
        found = await self._answer(self._together.embed(asked.texts, asked.how))
        data = [
            {
                "object": "embedding",
                "index": at,
                "embedding": base64.b64encode(row).decode() if asked.base64 else row.cast("f").tolist(),
            }
            for at, row in enumerate(found.rows)
        ]
        usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
        return _json({"object": "list", "data": data, "model": found.model, "usage": usage})

    async def _answer(self, work: Any) -> Any:
        try:
            return await work
        except IndexerError as error:
            if error.title == api.WRONG_LENGTH:
                raise _WrongError(400, error.message, param="dimensions") from error
            raise _WrongError(503, str(error), code="unavailable") from error


async def _body(request: Request) -> Any:
    """The JSON in a request.

    Raises:
        _WrongError: There is none, or too much.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > MAX_BODY_BYTES:
                    raise _WrongError(413, f"A request may have {MAX_BODY_BYTES >> 20} MiB.")
    except TimeoutError:
        raise _WrongError(408, "The request did not arrive in time.") from None
    try:
        # Not msgspec's: half a pair of surrogates is wrong, but common where texts were cut.
        return json.loads(body)
    except (ValueError, RecursionError):
        raise _WrongError(400, "The request is not JSON.") from None


def _understand(body: Any) -> _Asked:
    """Check a request.

    Raises:
        _WrongError: It cannot be answered.
    """
    if not isinstance(body, dict):
        raise _WrongError(400, "The request is not a JSON object.")
    model = body.get("model", "")
    if not isinstance(model, str):
        raise _WrongError(400, "'model' is not a string.", param="model")
    dimensions = body.get("dimensions") or 0
    if type(dimensions) is not int or not 0 <= dimensions <= 1 << 16:
        raise _WrongError(400, "'dimensions' is not a positive whole number.", param="dimensions")
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise _WrongError(400, "'encoding_format' is neither float nor base64.", param="encoding_format")
    how = _How(_kind(body, model), _task(body), dimensions)
    return _Asked(_texts(body.get("input")), how, encoding == "base64")


def _texts(given: Any) -> list[str]:
    """The texts in a request; OpenAI refuses empty ones, too."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts:
        raise _WrongError(400, "'input' is neither a string nor a list of strings.", param="input")
    if len(texts) > MAX_INPUTS:
        raise _WrongError(400, f"'input' has {len(texts)} texts; {MAX_INPUTS} are allowed.", param="input")
    for text in texts:
        if isinstance(text, int | list):
            raise _WrongError(
                400,
                "'input' holds token ids, which are another tokenizer's and mean nothing to this model. Send "
                "text. (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False).)",
                param="input",
            )
        if not isinstance(text, str):
            raise _WrongError(400, "'input' holds what is no string.", param="input")
        if not text:
            raise _WrongError(400, "'input' holds an empty text.", param="input")
        if len(text) > _MESSAGE_BYTES or _size(clean(text)) > _MESSAGE_BYTES:
            raise _WrongError(
                400,
                "A text of 'input' is too long. Send it in parts.",
                param="input",
                code="context_length_exceeded",
            )
    return [clean(text) for text in texts]


def _kind(body: dict[str, Any], model: str) -> _Kind:
    """Queries and passages are told apart as the clients of other servers do it; OpenAI's cannot."""
    for name in ("input_type", "prompt_name"):
        given = body.get(name)
        if given is None:
            continue
        if isinstance(given, str):
            if given in _QUERY:
                return "query"
            if given in _PASSAGE:
                return "passage"
        raise _WrongError(400, f"'{name}' is neither query nor passage.", param=name)
    return "query" if model.endswith(":query") else "passage"


def _task(body: dict[str, Any]) -> Task:
    given = body.get("task")
    if given is None:
        return "notes"
    for task in _TASKS:
        if given == task:
            return task
    raise _WrongError(400, f"'task' is none of {', '.join(_TASKS)}.", param="task")


# --- what is answered -------------------------------------------------------------------------------


def _json(value: object, status: int = 200) -> Response:
    from starlette.responses import Response

    return Response(msgspec.json.encode(value), status, media_type="application/json")


def _error(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
) -> Response:
    error = {"message": message, "type": kind, "param": param, "code": code}
    return _json({"error": error}, status)


def _wrong(_: Request, error: Exception) -> Response:
    assert isinstance(error, _WrongError)
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    return _error(error.status, str(error), kind=kind, param=error.param, code=error.code)


def _not_found(_: Request, error: Exception) -> Response:
    status = int(getattr(error, "status_code", 404))
    return _error(status, "There is only POST /v1/embeddings, GET /v1/models and GET /health.")


def _fault(_: Request, error: Exception) -> Response:
    _log.error("A request failed: %s", type(error).__name__)
    return _error(500, "This is a fault in Dragoman.", kind="server_error")


# --- embedding together -------------------------------------------------------------------------------


@dataclass
class _Found:
    """Vectors of a request's texts: float32, little endian, one row a text."""

    model: str
    rows: list[memoryview]
    tokens: int


@dataclass(eq=False)
class _Wanted:
    """A request whose texts are embedded, some of them at a time."""

    texts: list[str]
    done: asyncio.Future[_Found]
    next: int = 0
    found: int = 0
    model: str = ""
    tokens: int = 0
    rows: list[memoryview] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = [memoryview(b"")] * len(self.texts)


class _Part(NamedTuple):
    """Texts of one request in a message to the service."""

    wanted: _Wanted
    first: int
    end: int


class _Together:
    """Puts texts of several requests into one message, as long as the model is busy with the one before.

    A message that fails is tried again request by request: one that asks for something impossible does not
    spoil the others'.
    """

    def __init__(self, service: _Service) -> None:
        self._service = service
        self._waiting: dict[_How, deque[_Wanted]] = {}
        self._under_way: dict[_How, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def embed(self, texts: list[str], how: _How) -> _Found:
        """Embed texts.

        Raises:
            IndexerError: It cannot be done, or not now.
        """
        wanted = _Wanted(texts, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(how, deque()).append(wanted)
        self._send(how)
        return await wanted.done

    def _send(self, how: _How) -> None:
        """Send what waits, as long as not enough is under way."""
        waiting = self._waiting[how]
        while waiting and self._under_way.get(how, 0) < _UNDER_WAY:
            parts = self._next(waiting, _MESSAGE_TEXTS[how.kind])
            if not parts:
                break
            self._under_way[how] = self._under_way.get(how, 0) + 1
            task = asyncio.create_task(self._embed(parts, how))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not waiting and not self._under_way.get(how):
            self._waiting.pop(how, None)
            self._under_way.pop(how, None)

    def _next(self, waiting: deque[_Wanted], most: int) -> list[_Part]:
        """The next message: some texts of every request in turn, until it is full."""
        parts: list[_Part] = []
        texts, size = 0, 0
        while waiting and texts < most:
            wanted = waiting[0]
            if wanted.done.done():
                waiting.popleft()
                continue
            first = end = wanted.next
            while end < len(wanted.texts) and end - first < _TURN and texts < most:
                more = _size(wanted.texts[end])
                if texts and size + more > _MESSAGE_BYTES:
                    break
                texts, size, end = texts + 1, size + more, end + 1
            if end == first:
                break
            parts.append(_Part(wanted, first, end))
            wanted.next = end
            waiting.popleft()
            if end < len(wanted.texts):
                waiting.append(wanted)
        return parts

    async def _embed(self, parts: list[_Part], how: _How) -> None:
        try:
            try:
                await self._ask(parts, how)
            except IndexerError as error:
                alone = len({id(part.wanted) for part in parts}) == 1
                if alone or isinstance(error, FatalError):  # a lost connection is nobody's text's fault
                    for part in parts:
                        _fail(part.wanted, error)
                    return
                for part in parts:
                    try:
                        await self._ask([part], how)
                    except IndexerError as own:
                        _fail(part.wanted, own)
        except BaseException as error:
            for part in parts:
                _fail(
                    part.wanted,
                    error if isinstance(error, Exception) else IndexerError("Stopped", "It ends."),
                )
            raise
        finally:
            self._under_way[how] -= 1
            self._send(how)

    async def _ask(self, parts: Sequence[_Part], how: _How) -> None:
        texts = tuple(text for part in parts for text in part.wanted.texts[part.first : part.end])
        embedded = await self._service.ask(
            lambda number: api.Embed(
                id=number, texts=texts, kind=how.kind, task=how.task, dimensions=how.dimensions
            ),
            api.Embedded,
        )
        width = 4 * embedded.dimensions
        if len(embedded.vectors) != width * len(texts) or len(embedded.tokens) != len(texts):
            raise FatalError("The service answers strangely", "It may be of another release. Stop it.")
        vectors = memoryview(embedded.vectors)
        at = 0
        for wanted, first, end in parts:
            if wanted.model and wanted.model != embedded.model:
                _fail(wanted, IndexerError("The model was changed", "Ask again."))
            wanted.model = embedded.model
            for place in range(first, end):
                wanted.rows[place] = vectors[at * width : (at + 1) * width]
                wanted.tokens += embedded.tokens[at]
                at += 1
            wanted.found += end - first
            if wanted.found == len(wanted.texts) and not wanted.done.done():
                wanted.done.set_result(_Found(wanted.model, wanted.rows, wanted.tokens))


def _fail(wanted: _Wanted, error: Exception) -> None:
    if not wanted.done.done():
        wanted.done.set_exception(error)


def _size(text: str) -> int:
    """Bytes of a text in a message."""
    return 1 + len(msgspec.json.encode(text))


# --- the service --------------------------------------------------------------------------------------


class _Service:
    """A connection to the indexing service for many requests at once; made anew when it was lost."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._connecting = asyncio.Lock()
        self._link: _Link | None = None

    async def status(self) -> api.Status:
        """What the service is doing.

        Raises:
            IndexerError: It cannot be asked.
        """
        return await self.ask(lambda number: api.GetStatus(id=number), api.Status)

    async def ask(self, make: Callable[[int], api.Request], kind: type[_R]) -> _R:
        """Ask, and once more when the connection was lost meanwhile; the service is started where needed.

        Raises:
            IndexerError: What the service answered, or why it cannot be asked.
        """
        with contextlib.suppress(_LostError):
            return await (await self._connected()).ask(make, kind)
        return await (await self._connected()).ask(make, kind)

    async def open(self) -> None:
        """Connect, so that the service loads the model and stays.

        Raises:
            IndexerError: It cannot be reached or started.
        """
        await self._connected()

    async def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            await self._link.close()

    async def _connected(self) -> _Link:
        async with self._connecting:
            if self._link is None or self._link.lost:
                if self._link is not None:
                    await self._link.close()
                endpoint = await asyncio.to_thread(ensure_service, self._data_dir)
                self._link = await _Link.open(endpoint)
            return self._link


class _LostError(FatalError):
    """The connection was lost."""

    def __init__(self) -> None:
        super().__init__("The connection to the indexing service was lost", "Try again.")


class _Link:
    """One connection; requests are told apart by their ids."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._open: dict[int, asyncio.Future[api.Reply]] = {}
        self._reading: asyncio.Task[None] | None = None
        self.lost = False

    @classmethod
    async def open(cls, endpoint: Endpoint) -> _Link:
        """Connect and greet.

        Raises:
            FatalError: The service refuses, or went away.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(endpoint.address, limit=api.MAX_REPLY_BYTES)
        except OSError:
            raise _LostError from None
        link = cls(reader, writer)
        try:
            hello = api.Hello(key=endpoint.key, version=api.PROTOCOL_VERSION, client="http")
            writer.write(api.encode(hello))
            welcome = await link._receive()
        except BaseException:
            await link.close()
            raise
        if isinstance(welcome, api.Failed):
            await link.close()
            raise FatalError(welcome.title, welcome.message)
        link._reading = asyncio.create_task(link._read())
        return link

    async def ask(self, make: Callable[[int], api.Request], kind: type[_R]) -> _R:
        """Send a request and wait for its answer.

        Raises:
            IndexerError: The service failed it, or the connection was lost.
        """
        number = next(self._ids)
        answer = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            if self.lost:
                raise _LostError
            self._writer.write(api.encode(make(number)))
            try:
                await self._writer.drain()
            except OSError:
                raise _LostError from None
            reply = await answer
        finally:
            del self._open[number]
        if isinstance(reply, api.Failed):
            raise IndexerError(reply.title, reply.message)
        if not isinstance(reply, kind):
            raise FatalError("The service answers strangely", "It may be of another release. Stop it.")
        return reply

    async def close(self) -> None:
        """Hang up."""
        self.lost = True
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _receive(self) -> api.Reply:
        try:
            line = await self._reader.readline()
        except (OSError, ValueError):
            raise _LostError from None
        if not line.endswith(b"\n"):
            raise _LostError
        try:
            return api.decode_reply(line)
        except ValueError:
            raise FatalError("The service answers strangely", "It may be of another release.") from None

    async def _read(self) -> None:
        error: IndexerError = _LostError()
        try:
            while True:
                reply = await self._receive()
                answer = None if isinstance(reply, api.Welcome) else self._open.get(reply.id)
                if answer is not None and not answer.done():
                    answer.set_result(reply)
        except IndexerError as reason:
            error = reason
        finally:
            self.lost = True
            for answer in self._open.values():
                if not answer.done():
                    answer.set_exception(error)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
