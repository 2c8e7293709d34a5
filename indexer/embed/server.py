"""An embedding server as an encoder: anything that speaks OpenAI's ``/v1/embeddings``.

Servers are strangers. What they answer is bounded, checked and put in order; the key goes to the host the
person named and nowhere else; neither texts nor keys appear in errors or in the log. A server may be
restarted with another model at any moment, and vectors of two models in one index would be worthless: after
each new connection the vector of a fixed text is asked for and compared with the one that is remembered.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import ipaddress
import itertools
import json
import logging
import os
import random
import re
import ssl
import threading
import time
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np

from indexer.api import Task
from indexer.embed import EncoderInfo, ModelChoice, Vectors
from indexer.embed.bundled import bundled_folder
from indexer.embed.sentence import GEMMA_PASSAGE, GEMMA_QUERY, QWEN_QUERY, family_of, instruction_of, tasks_of
from indexer.embed.tokens import TokenCounter, clean
from indexer.errors import FatalError, IndexerError, TextError
from indexer.settings import EmbeddingServer, Settings, cache_dir, private_folder

if TYPE_CHECKING:
    import httpx

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_Kind = Literal["query", "passage"]

MAX_INPUTS = 1024  # a request

_PROBE = "The ferry leaves at noon. 渡轮中午出发。 Die Fähre legt mittags ab."
# Cosine of its vectors then and now: quantisation, batching and another GPU move one by far less.
_SAME = 0.99
# Cosine of it as query and as passage above which the server makes no difference between them.
_IGNORED = 0.9995
# Behind a balancer the model can change without a new connection.
_CHECK_AFTER_S = 600.0
# Where every request is a new connection, so that not every one costs two.
_CHECK_AGAIN_S = 5.0

_CONNECT_S = 5.0
_ANSWER_S: Mapping[_Kind, float] = {"query": 30.0, "passage": 120.0}
# The longest a stop or the next query may have to wait for a server that is away is the sum of the rests.
_TRIES: Mapping[_Kind, int] = {"query": 3, "passage": 5}
_FIRST_REST_S = 0.25
_LONGEST_REST_S: Mapping[_Kind, float] = {"query": 2.0, "passage": 10.0}
_REDIRECTS = 3
# Inputs of a request; fewer are not spread over several requests at once.
_FEWEST = 16

_HEAD_BYTES = 1 << 20
_BYTES_A_NUMBER = 32
_MOST_DIMENSIONS = 16_384
_TOLD_CHARACTERS = 300

# What a template may put around an input.
_SPECIAL_TOKENS = 16
# Characters; a server that refuses these has another reason than their length.
_SHORTEST_PART = 64

_TOO_MUCH = re.compile(
    r"too (long|large|many|big)|maximum|exceed|at most|less than|longer than|context.(length|size|window)"
    r"|batch size|input length",
    re.IGNORECASE,
)


# --- what a server is ----------------------------------------------------------------------------


def server_info(server: EmbeddingServer, choice: ModelChoice, settings: Settings) -> EncoderInfo:
    """What is behind a server's URL now; a short text is embedded to find out.

    The key stays the same as long as the server, under its name, gives the same vectors for the same text;
    when they change, so does the key.

    Raises:
        FatalError: The server is not described well, such as plain http to another machine.
        IndexerError: It does not answer, or not as an embedding server should.
    """
    memory = _Memory(server, choice)
    line = _Line(server, choice)
    try:
        memory.see(line.run(line.look()))
    finally:
        line.close()
    return memory.info(settings)


def trouble_of(name: str) -> IndexerError | None:
    """What went wrong when a server was used last; None when nothing did, or it was never used."""
    return _troubles.get(name)


# By the servers' names, as encoders of one server come and go. Set and read whole, from any thread.
_troubles: dict[str, IndexerError] = {}


class ServerEncoder:
    """Embeds with a server. Methods may be called from any thread; `abort` ends them all.

    Requests run on an event loop in a thread of its own, as many at once as the server's settings say, so
    that waiting for a server can be broken off at any moment.

    Attributes:
        info: What was found behind the server when it was asked last.
        device: The server's host and port.
    """

    def __init__(self, server: EmbeddingServer, choice: ModelChoice, settings: Settings) -> None:
        """Prepare. A server that was asked before (`server_info`) is asked nothing yet.

        Raises:
            FatalError: As `server_info`.
            IndexerError: As `server_info`.
        """
        memory = _Memory(server, choice)
        if memory.last is None:
            server_info(server, choice, settings)
            memory = _Memory(server, choice)
        self.info = memory.info(settings)
        self._name = server.name
        self._line = _Line(server, choice, memory.current)
        self.device = self._line.host
        self._query_prefix, self._passage_prefix = _prefixes(server, memory.current)
        self._instructions = settings.instructions
        self._counter: TokenCounter | None = None
        self._counting = threading.Lock()

    def encode_queries(self, texts: Sequence[str], task: Task = "notes") -> Vectors:
        """As `Encoder.encode_queries`; a query longer than the server takes is embedded in parts."""
        own = " ".join(getattr(self._instructions, task).split())
        words = own or tasks_of(self._query_prefix).get(task, "")
        return self._encode(texts, self._query_prefix.replace("{task}", words), "query")

    def encode_passages(self, texts: Sequence[str]) -> Vectors:
        """As `Encoder.encode_passages`."""
        return self._encode(texts, self._passage_prefix, "passage")

    def abort(self) -> None:
        """Break off what is under way (it raises IndexerError) and let go of all. May be called twice."""
        self._line.close()

    def _encode(self, texts: Sequence[str], prefix: str, kind: _Kind) -> Vectors:
        if not texts:
            return np.empty((0, self.info.dim), np.float32)
        inputs: list[str] = []
        owners: list[int] = []
        for at, text in enumerate(texts):
            windows = self._windows(clean(text))
            inputs += [prefix + window for window in windows]
            owners += [at] * len(windows)
        try:
            vectors = self._line.run(self._line.embed(inputs, len(prefix), kind))
        except TextError:
            raise  # the text's fault
        except IndexerError as error:
            if not self._line.closed:
                _troubles[self._name] = IndexerError(error.title, error.message)  # without what led to it
            raise
        _troubles.pop(self._name, None)
        if len(inputs) == len(texts):
            return vectors
        sums = np.zeros((len(texts), self.info.dim), np.float32)
        np.add.at(sums, owners, vectors)
        return _unit(sums)

    def _windows(self, text: str) -> list[str]:
        """The text in parts that the server should take, by the bundled tokenizer's count."""
        longest = self.info.max_tokens
        # No tokenizer makes more tokens than there are bytes.
        if len(text) <= longest and len(text.encode()) <= longest:
            return [text]
        with self._counting:
            if self._counter is None:
                self._counter = TokenCounter(self.info.tokenizer)
            starts = [start for start, _ in self._counter.offsets(text)[::longest]]
        cuts = [0, *starts[1:], len(text)]
        return [text[start:end] for start, end in itertools.pairwise(cuts) if start < end] or [text]


# --- what is remembered of a server ---------------------------------------------------------------


class _Edition(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was behind a server once.

    Attributes:
        model: Its name there.
        dim: Length of its vectors.
        kinds: Whether it tells queries from passages by ``input_type``.
        path: Where below the URL it embeds.
        probe: Vector of `_PROBE` as a passage, unit length.
    """

    model: str
    dim: int
    kinds: bool
    path: str
    probe: tuple[float, ...]

    @property
    def name(self) -> tuple[str, int, bool]:
        """What tells it from others before any vector is compared."""
        return self.model, self.dim, self.kinds

    def gives(self, probe: Sequence[float]) -> bool:
        """Whether this is the vector that it gives for `_PROBE`, as nearly as servers repeat themselves."""
        return len(probe) == self.dim and float(np.dot(self.probe, probe)) >= _SAME


class _Memory:
    """All models that were seen behind one server, in a file of the cache.

    Attributes:
        last: Which of them was seen last; None when none ever was.
    """

    def __init__(self, server: EmbeddingServer, choice: ModelChoice) -> None:
        """Read it; a damaged file is as good as none."""
        self._server = server
        asked = (server.name, server.model, choice.dimensions or server.dimensions, server.passage_prefix)
        self._file = cache_dir() / "servers" / f"{_slug(server.name)}-{_digest(asked)}.json"
        self._editions: list[_Edition] = []
        self.last: int | None = None
        try:
            stored = msgspec.json.decode(self._file.read_bytes(), type=tuple[int, list[_Edition]])
        except (OSError, msgspec.DecodeError):
            return
        last, editions = stored
        if 0 <= last < len(editions) and all(len(edition.probe) == edition.dim for edition in editions):
            self.last, self._editions = last, editions

    @property
    def current(self) -> _Edition:
        """The model that was seen last."""
        assert self.last is not None
        return self._editions[self.last]

    def see(self, found: _Edition) -> None:
        """Recognise a model or learn it, and remember that it was seen last.

        Raises:
            FatalError: The cache cannot be written.
        """
        for at, known in enumerate(self._editions):
            if known.name == found.name and known.gives(found.probe):
                # The first vector stays the measure: otherwise it could drift, a little each time.
                self._editions[at] = msgspec.structs.replace(known, path=found.path)
                self.last = at
                break
        else:
            self._editions.append(found)
            self.last = len(self._editions) - 1
        try:
            private_folder(self._file.parent)
            new = self._file.with_suffix(f".{os.getpid()}.new")
            new.write_bytes(msgspec.json.encode((self.last, self._editions)))
            new.replace(self._file)
        except OSError as error:
            raise FatalError("The cache cannot be written", f"{self._file}: {error.strerror}.") from error

    def info(self, settings: Settings) -> EncoderInfo:
        """The model that was seen last, for the rest of the program."""
        server, edition = self._server, self.current
        longest = min(server.max_tokens, settings.context_tokens or server.max_tokens)
        prefix = len(_prefixes(server, edition)[1].encode())
        return EncoderInfo(
            key=self._key(),
            name=f"{_last(edition.model)} ({server.name})",
            dim=edition.dim,
            max_tokens=max(16, longest - _SPECIAL_TOKENS - prefix),
            tokenizer=bundled_folder().info.tokenizer,
        )

    def _key(self) -> str:
        """Without the URL, so that a server may move to another port."""
        edition = self.current
        before = sum(other.name == edition.name for other in self._editions[: self.last])
        made_of = (self._server.name, _prefixes(self._server, edition)[1], edition.name, before)
        return f"server-{_slug(edition.model)}-{_digest(made_of)}"


def _prefixes(server: EmbeddingServer, edition: _Edition) -> tuple[str, str]:
    """What is put in front of queries and of passages.

    What the person set, or what a well-known model wants by its name: servers do not add it, and without it
    queries are embedded as if they were passages. One that tells the two apart by itself gets nothing.
    """
    if server.query_prefix or server.passage_prefix or edition.kinds:
        return server.query_prefix, server.passage_prefix
    name = _last(edition.model).lower()
    family = family_of(frozenset({"bert", "xlm-roberta"}), [name])
    query, passage = (family.query, family.passage) if family is not None else ("", "")
    if "qwen3-embedding" in name:
        query = QWEN_QUERY
    elif "embeddinggemma" in name:
        query, passage = GEMMA_QUERY, GEMMA_PASSAGE
    template, _ = instruction_of(query)
    return template.replace("{}", "{task}") or query, passage


# --- the way to it ----------------------------------------------------------------------------------


class _AwayError(IndexerError):
    """The server cannot answer now; `status` is what it said, 0 for nothing."""

    def __init__(self, title: str, message: str, status: int = 0) -> None:
        super().__init__(title, message)
        self.status = status


class _RefusedError(IndexerError):
    """The server does not take a request, and will not if it is sent again.

    Attributes:
        status: HTTP status.
        too_much: Whether it may take less at a time.
    """

    def __init__(self, title: str, message: str, status: int, *, too_much: bool = False) -> None:
        super().__init__(title, message)
        self.status = status
        self.too_much = too_much


class _UnusableError(IndexerError):
    """The answer is not one vector for each input, in an order that can be known, made of numbers.

    Attributes:
        numbers: Whether the vectors themselves are at fault.
    """

    def __init__(self, title: str, message: str, *, numbers: bool = False) -> None:
        super().__init__(title, message)
        self.numbers = numbers


class _Reply(NamedTuple):
    status: int
    headers: httpx.Headers
    body: bytes


class _Line:
    """Requests to one server and what comes back, checked. Its coroutines run by `run` only."""

    def __init__(self, server: EmbeddingServer, choice: ModelChoice, edition: _Edition | None = None) -> None:
        """Prepare; `edition` is the model that is expected there."""
        self._server = server
        self._edition = edition
        self._dimensions = choice.dimensions or server.dimensions
        self._base, self._exact = _base_url(server)
        self.host = _host(self._base)
        self._where = f"{server.name} ({self.host})"
        self._path = edition.path if edition else "/embeddings"
        self._loopback = _is_loopback(self._base.host)
        if self._base.scheme != "https" and not (self._loopback or server.insecure):
            raise FatalError(
                "Plain http is not safe there",
                f"{self._where} is another machine, and everybody on the way could read your texts and the "
                "key. Use https, or allow plain http for this server in the settings.",
            )
        if not server.key.isascii() or not server.key.isprintable():
            raise FatalError("The key cannot be sent", f"The key for {self._where} holds strange characters.")
        self._batch = max(1, min(server.batch, MAX_INPUTS))
        self._concurrency = max(1, min(server.concurrency, 64))
        self._rest_until = 0.0
        self._opened = self._opened_when_checked = 0
        self._checked_at = float("-inf")
        self._keeps_connections = True
        self._noted: set[str] = set()
        self._starting = threading.Lock()
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    # --- the thread -----------------------------------------------------------------------------

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine of this object and wait for it.

        Raises:
            IndexerError: The line was closed, before or meanwhile.
        """
        with self._starting:
            if self._closed:
                work.close()
                raise self._stopped()
            loop = self._loop or self._start()
            future = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            return future.result()
        except CancelledError:
            raise self._stopped() from None

    def _start(self) -> asyncio.AbstractEventLoop:
        self._loop = loop = asyncio.new_event_loop()
        self._client = client = self._new_client()
        self._slots = asyncio.Semaphore(self._concurrency)
        self._checking = asyncio.Lock()
        self._thread = threading.Thread(
            target=_serve, args=(loop, client), name=f"server {self._server.name}", daemon=True
        )
        self._thread.start()
        # Nothing in the thread holds on to this object, so one that is forgotten ends its thread, too.
        self._end = weakref.finalize(self, loop.call_soon_threadsafe, loop.stop)
        return loop

    def close(self) -> None:
        """Cancel everything and end the thread."""
        with self._starting:
            self._closed = True
            if self._loop is None:
                return
            self._end()
        if self._thread is not threading.current_thread():
            self._thread.join()

    @property
    def closed(self) -> bool:
        """Whether it was closed, which breaks off what is under way."""
        return self._closed

    def _stopped(self) -> IndexerError:
        return IndexerError("Stopped", f"The connection to {self._where} was closed.")

    def _new_client(self) -> httpx.AsyncClient:
        import httpx

        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "dragoman"}
        if self._server.key:
            headers["Authorization"] = f"Bearer {self._server.key}"
        verify: ssl.SSLContext | bool = False  # there is nothing to verify without TLS
        if self._base.scheme == "https":
            import certifi

            # Both: a company's own authority is in the system's store, which some Pythons do not have.
            verify = ssl.create_default_context()
            verify.load_verify_locations(certifi.where())
        return httpx.AsyncClient(
            headers=headers,
            verify=verify,
            trust_env=not self._loopback,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=_CONNECT_S),
            limits=httpx.Limits(
                max_connections=self._concurrency + 1, max_keepalive_connections=self._concurrency + 1
            ),
        )

    # --- what is there --------------------------------------------------------------------------

    async def look(self) -> _Edition:
        """Find out what is there.

        Raises:
            IndexerError: It is no embedding server, or does not answer.
        """
        model = self._server.model or await self._first_model()
        paths = ["/embeddings"] if self._exact else ["/v1/embeddings", "/embeddings"]
        for path in paths[:-1]:
            try:
                return await self._look(model, path)
            except _RefusedError as error:
                if error.status not in (404, 405):
                    raise
        return await self._look(model, paths[-1])

    async def _look(self, model: str, path: str) -> _Edition:
        """As `look`, at one path.

        Some servers tell queries from passages by a field ``input_type``, others refuse it, most ignore it;
        it is used where it makes a difference, unless the person has set prefixes.
        """
        self._path = path
        text = self._server.passage_prefix + _PROBE

        async def probe(kind: _Kind, *, typed: bool) -> Vectors:
            asked = _Edition(model=model, dim=0, kinds=typed, path=path, probe=())
            vectors = await self._ask([text], kind, asked, told=True, patience="query")
            return np.asarray(vectors[0], np.float32)

        kinds = False
        if self._server.passage_prefix or self._server.query_prefix:
            passage = await probe("passage", typed=False)
        else:
            try:
                passage = await probe("passage", typed=True)
                kinds = float(passage @ await probe("query", typed=True)) < _IGNORED
            except _RefusedError as error:
                if error.status not in (400, 422):
                    raise
                passage = await probe("passage", typed=False)
        return _Edition(
            model=model,
            dim=len(passage),
            kinds=kinds,
            path=path,
            probe=tuple(float(number) for number in passage),
        )

    async def _first_model(self) -> str:
        """The first model that is listed, one that is called an embedding model before others."""
        listed: list[str] = []
        for path in ["/models"] if self._exact else ["/v1/models", "/models"]:
            try:
                reply = await self._request("GET", path, b"", _HEAD_BYTES, "query", told=True)
            except _RefusedError as error:
                if error.status not in (404, 405):
                    raise
                continue
            try:
                items = _parsed(reply)["data"]
                listed = [item["id"] for item in items if isinstance(item["id"], str)]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
            break
        # One that lists none serves one, and does not care how it is called.
        return next((name for name in listed if "embed" in name.lower()), listed[0] if listed else "default")

    async def _check(self, edition: _Edition) -> None:
        """Make sure that the same model is there as ever, if there is a reason to doubt it.

        Raises:
            IndexerError: It is another one.
        """
        async with self._checking:
            since = time.monotonic() - self._checked_at
            if self._keeps_connections:
                doubt = self._opened > self._opened_when_checked or since > _CHECK_AFTER_S
            else:
                doubt = since > _CHECK_AGAIN_S
            if not doubt:
                return
            opened = self._opened
            text = self._server.passage_prefix + _PROBE
            probe = (await self._ask([text], "passage", edition, patience="query"))[0]
            if not edition.gives([float(number) for number in probe]):
                raise self._other_model("gives other vectors for the same text than it did")
            # Not what was opened meanwhile: the server may have been restarted since it answered.
            self._opened_when_checked = opened
            self._checked_at = time.monotonic()

    def _other_model(self, what: str) -> IndexerError:
        model = self._edition.model if self._edition else ""
        return IndexerError(
            "Another model answers",
            f"{self._where} {what} when {model} was chosen. Start it with that model again, or choose the "
            "server once more in the list of models, so that the index is built anew.",
        )

    # --- embedding ------------------------------------------------------------------------------

    async def embed(self, inputs: Sequence[str], prefix: int, kind: _Kind) -> Vectors:
        """Embed inputs, several requests at a time.

        Args:
            inputs: With their prefixes.
            prefix: Characters that each input begins with and that parts of it must begin with, too.
            kind: As what.

        Raises:
            IndexerError: It cannot be done now, or never; the message says which.
        """
        spread = max(_FEWEST, -(-len(inputs) // self._concurrency))
        size = min(self._batch, spread)
        batches = [inputs[first : first + size] for first in range(0, len(inputs), size)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._embed(batch, prefix, kind)) for batch in batches]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return np.concatenate([task.result() for task in tasks])

    async def _embed(self, inputs: Sequence[str], prefix: int, kind: _Kind, tries: int = 0) -> Vectors:
        """Embed a batch; one that is refused or answered badly is halved, and so is a single input."""
        edition = self._edition
        assert edition is not None
        try:
            vectors = await self._ask(inputs, kind, edition, tries=tries)
        except _RefusedError as error:
            if not error.too_much:
                # By these the server may mean a single text.
                fault = await self._one_text(edition, error) if error.status in (400, 422) else error
                if fault is error or len(inputs) == 1:
                    raise fault from None
            refusal: IndexerError = error
        except _UnusableError as error:
            if len(inputs) == 1 and not error.numbers:
                raise
            refusal = error
        except _AwayError as error:
            # One text may be what the server stumbles over; it shows when the others go well.
            if error.status != 500:
                raise
            if len(inputs) == 1:
                raise await self._one_text(edition, error) from None
            refusal, tries = error, 1
        else:
            # Before they are believed: a connection that was opened for them may lead to another model.
            await self._check(edition)
            return vectors
        if len(inputs) == 1:
            return await self._in_parts(inputs[0], prefix, kind, refusal)
        half = (len(inputs) + 1) // 2
        first = await self._embed(inputs[:half], prefix, kind, tries)
        if isinstance(refusal, _RefusedError) and refusal.too_much and half < self._batch:
            self._batch = half
            _log.info("The embedding server %s takes at most %d inputs now", self._server.name, half)
        return np.concatenate([first, await self._embed(inputs[half:], prefix, kind, tries)])

    async def _one_text(self, edition: _Edition, refusal: IndexerError) -> IndexerError:
        """What a refusal of a single text is: the text's fault, if the server does embed a harmless one."""
        try:
            await self._ask([self._server.passage_prefix + _PROBE], "passage", edition)
        except IndexerError:
            return refusal
        return TextError("A text cannot be embedded", f"{refusal.title}: {refusal.message}")

    async def _in_parts(self, text: str, prefix: int, kind: _Kind, refusal: IndexerError) -> Vectors:
        """Embed the halves of an input that is too long, and take their mean."""
        head, body = text[:prefix], text[prefix:]
        if len(body) < 2 * _SHORTEST_PART:
            assert self._edition is not None
            raise await self._one_text(self._edition, refusal)
        middle = len(body) // 2
        space = body.rfind(" ", middle - _SHORTEST_PART, middle)
        cut = space if space > 0 else middle
        halves = [await self._embed([head + half], prefix, kind) for half in (body[:cut], body[cut:])]
        return _unit(halves[0] + halves[1])

    async def _ask(
        self,
        inputs: Sequence[str],
        kind: _Kind,
        edition: _Edition,
        *,
        told: bool = False,
        patience: _Kind | None = None,
        tries: int = 0,
    ) -> Vectors:
        """Embed inputs in one request.

        Args:
            inputs: With their prefixes.
            kind: As what.
            edition: How to ask, and what to expect; a `dim` of 0 for anything.
            told: Whether the server's own words may be shown: only when it was sent nothing of the person's.
            patience: Whose it is, when not that of `kind`.
            tries: 0 for the usual number.

        Returns:
            float32 (len(inputs), dim), unit length.
        """
        # Some servers refuse an empty text; a space is as little to say.
        body: dict[str, Any] = {"model": edition.model, "input": [text or " " for text in inputs]}
        body["encoding_format"] = "float"
        if self._dimensions:
            body["dimensions"] = self._dimensions
        if edition.kinds:
            body["input_type"] = kind
        reply = await self._request(
            "POST",
            self._path,
            msgspec.json.encode(body),
            _HEAD_BYTES + len(inputs) * (edition.dim or _MOST_DIMENSIONS) * _BYTES_A_NUMBER,
            patience or kind,
            told=told,
            tries=tries,
        )
        vectors = self._vectors(reply, len(inputs))
        if edition.dim and vectors.shape[1] != edition.dim:
            raise self._other_model(
                f"gives vectors of {vectors.shape[1]} numbers, not of {edition.dim} as it did"
            )
        return vectors

    def _vectors(self, reply: bytes, count: int) -> Vectors:
        """The vectors in an answer, in the order of the inputs."""
        rows: list[Any] = [None] * count
        seen: set[int] = set()
        try:
            data = _parsed(reply)["data"]
            for item in data:
                at = item["index"]
                if type(at) is not int or not 0 <= at < count or at in seen:
                    raise self._unusable("does not say which vector belongs to which text")
                seen.add(at)
                rows[at] = item["embedding"]
        except (ValueError, RecursionError):
            raise self._no_embeddings() from None
        except (KeyError, TypeError):
            if count > 1 and b'"embedding"' in reply:
                raise self._unusable("does not say which vector belongs to which text") from None
            raise self._no_embeddings() from None
        if len(seen) != count:
            raise self._unusable(f"gives {len(seen)} vectors for {count} texts")
        try:
            arrays = [_numbers(row) for row in rows]
        except (ValueError, TypeError, OverflowError, binascii.Error):
            raise self._unusable("gives vectors that are not made of numbers", numbers=True) from None
        if len({len(array) for array in arrays}) != 1 or not 1 < len(arrays[0]) <= _MOST_DIMENSIONS:
            raise self._unusable("gives vectors of different or impossible lengths", numbers=True)
        vectors = np.stack(arrays)
        asked = self._dimensions
        if asked and vectors.shape[1] < asked:
            raise IndexerError(
                "The vectors are shorter than was asked for",
                f"{self._where} gives {vectors.shape[1]} numbers. Set its dimensions to that, or to 0.",
            )
        if asked and vectors.shape[1] > asked:
            self._note("does not shorten vectors by itself; they are cut here")
            vectors = vectors[:, :asked]
        lengths = np.linalg.norm(vectors, axis=1)
        if not np.isfinite(lengths).all() or not (lengths > 1e-12).all():
            raise self._unusable("gives vectors that are zero or not made of numbers", numbers=True)
        if np.abs(lengths - 1).max() > 1e-3:
            self._note("gives vectors that are not of unit length; they are brought to it here")
        return _unit(vectors)

    def _note(self, what: str) -> None:
        if what not in self._noted:
            self._noted.add(what)
            _log.info("The embedding server %s %s", self._server.name, what)

    def _unusable(self, what: str, *, numbers: bool = False) -> _UnusableError:
        message = f"{self._where} {what}."
        return _UnusableError("The server's answer cannot be used", message, numbers=numbers)

    def _no_embeddings(self) -> IndexerError:
        return IndexerError(
            "This is no embedding server",
            f"What {self._where} answers is not what OpenAI's protocol says. Check its URL; it often ends "
            "with /v1.",
        )

    # --- one request ----------------------------------------------------------------------------

    async def _request(
        self, method: str, path: str, content: bytes, limit: int, kind: _Kind, *, told: bool, tries: int = 0
    ) -> bytes:
        """The body of a good answer; tried again a few times where that may help."""
        import httpx

        tries = tries or _TRIES[kind]
        rest = _FIRST_REST_S
        url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
        redirects = 0
        while True:
            tries -= 1
            await self._wait_for_it(kind)
            try:
                async with self._slots, asyncio.timeout(_ANSWER_S[kind]):
                    reply = await self._once(method, url, content, limit)
            except TimeoutError:
                message = f"{self._where} did not answer within {_ANSWER_S[kind]:.0f} seconds."
                again = "" if told else " It is tried again later."  # a person who looks has to look again
                raise _AwayError("The server is too slow", message + again) from None
            except httpx.TransportError as error:
                trouble = self._unreachable(error, again="" if told else " It is tried again and again.")
            except httpx.HTTPError:
                raise self._no_embeddings() from None
            else:
                if reply.status == 200:
                    return reply.body
                if 300 <= reply.status < 400 and redirects < _REDIRECTS:
                    url = self._redirected(url, reply)
                    redirects += 1
                    tries += 1
                    continue
                trouble = self._told_off(reply, told=told)
            if tries <= 0:
                raise trouble
            await asyncio.sleep(rest * random.uniform(0.5, 1.5))
            rest *= 2

    async def _wait_for_it(self, kind: _Kind) -> None:
        """Wait as long as the server asked for; not longer than a caller can be expected to."""
        rest = self._rest_until - time.monotonic()
        if rest <= 0:
            return
        if rest > _LONGEST_REST_S[kind]:
            raise _AwayError(
                "The server is busy", f"{self._where} wants to be asked again in {rest:.0f} seconds.", 429
            )
        await asyncio.sleep(rest)

    async def _once(self, method: str, url: httpx.URL, content: bytes, limit: int) -> _Reply:
        async def trace(event: str, _: Mapping[str, Any]) -> None:
            if event == "connection.connect_tcp.complete":
                self._opened += 1

        headers = {"Content-Type": "application/json"} if content else {}
        async with self._client.stream(
            method, url, content=content or None, headers=headers, extensions={"trace": trace}
        ) as response:
            body = bytearray()
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > limit:
                    raise IndexerError(
                        "The server's answer is too long", f"{self._where} sends more than was asked for."
                    )
            self._keeps_connections = (
                response.http_version != "HTTP/1.0"
                and "close" not in response.headers.get("connection", "").lower()
            )
            return _Reply(response.status_code, response.headers, bytes(body))

    def _redirected(self, url: httpx.URL, reply: _Reply) -> httpx.URL:
        """Where the server says that it is now, as long as that is the same server."""
        import httpx

        try:
            target = url.join(reply.headers.get("location", ""))
        except httpx.InvalidURL:
            raise self._no_embeddings() from None
        if (target.scheme, target.host, target.port) != (url.scheme, url.host, url.port):
            raise _RefusedError(
                "The server sends elsewhere",
                f"{self._where} redirects to {_printable(_host(target))}. Your texts and the key are not "
                "sent there. If it is right, set that as the server's URL.",
                reply.status,
            )
        return target

    def _unreachable(self, error: httpx.TransportError, again: str) -> _AwayError:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                raise _RefusedError(
                    "The server's certificate is not trusted",
                    f"{self._where}: {cause.verify_message}. Nothing was sent.",
                    0,
                )
            cause = cause.__cause__ or cause.__context__
        message = f"{self._where} cannot be reached. Is it running?{again}"
        return _AwayError("The embedding server is away", message)

    def _told_off(self, reply: _Reply, *, told: bool) -> _AwayError:
        """The trouble that an answer means, when it may pass.

        Raises:
            IndexerError: It will not.
        """
        status = reply.status
        words = _words(reply.body)
        if not told and (status == 413 or (status in (400, 422, 500) and _TOO_MUCH.search(words))):
            message = f"{self._where} refuses a text as too long ({status})."
            raise _RefusedError("The server takes less at a time", message, status, too_much=True)
        if status in (408, 425, 429) or status >= 500:
            wait = _retry_after(reply.headers.get("retry-after", ""))
            self._rest_until = max(self._rest_until, time.monotonic() + wait)
            what = "is busy" if status in (429, 503) else "has trouble"
            return _AwayError(
                f"The server {what}", f"{self._where} answers {status}. It is tried again.", status
            )
        if status in (401, 403):
            what = "The server refuses the key" if self._server.key else "The server wants a key"
            raise _RefusedError(
                what, f"{self._where} answers {status}. Correct the key in the settings.", status
            )
        if status in (404, 405):
            message = f"{self._where} knows no embeddings at this URL, or no such model ({status})."
        else:
            message = f"{self._where} answers {status}."
        if told and words:
            if self._server.key:
                words = words.replace(self._server.key, "...")
            message += f" It says: {_printable(words[:_TOLD_CHARACTERS])}"
        raise _RefusedError("The server does not embed", message, status)


def _serve(loop: asyncio.AbstractEventLoop, client: httpx.AsyncClient) -> None:
    """Run an event loop until it is stopped, then cancel what is left."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(client.aclose())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


# --- small things -----------------------------------------------------------------------------------


def _base_url(server: EmbeddingServer) -> tuple[httpx.URL, bool]:
    """What paths are put behind, and whether it is exact; otherwise ``/v1`` may belong in between.

    Raises:
        FatalError: It is no URL.
    """
    import httpx

    text = server.url.strip()
    if "://" not in text:
        host = text.partition("/")[0].rpartition("@")[2]
        host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        text = f"{'http' if _is_loopback(host) else 'https'}://{text}"
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise FatalError(
            "The server's URL is not understood",
            f"{server.name}: a URL looks like http://127.0.0.1:30000/v1 or https://example.org/v1.",
        )
    path = url.path.rstrip("/")
    pasted = path.endswith("/embeddings")
    path = path.removesuffix("/embeddings").rstrip("/")
    exact = pasted or re.search(r"/v\d+$", path) is not None
    return url.copy_with(path=path or "/", fragment=None), exact


def _host(url: httpx.URL) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return host if url.port is None else f"{host}:{url.port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _numbers(row: object) -> Vectors:
    """A vector as it came: a list of numbers, or base64 of little-endian float32.

    Raises:
        ValueError: It is neither (TypeError for what is no vector at all).
    """
    if isinstance(row, str):
        return np.frombuffer(base64.b64decode(row, validate=True), "<f4").astype(np.float32)
    if not isinstance(row, list):
        raise TypeError
    vector = np.array(row, np.float64)
    if vector.ndim != 1:
        raise ValueError
    with np.errstate(over="ignore"):  # what becomes infinite is found with the rest that is
        return vector.astype(np.float32)


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


def _parsed(body: bytes) -> Any:
    """JSON, with the NaN that some servers write.

    Raises:
        ValueError: It is none.
        RecursionError: It is nested too deep.
    """
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        return json.loads(body)


def _words(body: bytes) -> str:
    """What a server says that refuses: the message in its JSON, or its text."""
    text = body[:65_536].decode("utf-8", "replace")
    try:
        value = _parsed(text.encode())
    except (ValueError, RecursionError):
        return "" if text.lstrip().startswith("<") else text.strip()
    for name in ("error", "message", "detail"):
        if isinstance(value, dict) and name in value:
            value = value[name]
    return value if isinstance(value, str) else text.strip()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _retry_after(text: str) -> float:
    """Seconds that a server wants to be left alone; dates are not understood."""
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), 3600.0) if seconds == seconds else 0.0


def _last(name: str) -> str:
    """A model's name without its organisation, or without the folders that llama.cpp's server tells, too."""
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2]


def _slug(text: str) -> str:
    """Letters, digits, dots and hyphens, at most 40, that still look like the text."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", _last(text))[:40].strip("-.") or "model"


def _digest(value: object) -> str:
    return hashlib.blake2b(msgspec.json.encode(value), digest_size=4).hexdigest()
