"""An embedding server that misbehaves in every way that a test can make it, over real sockets."""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import logging
import math
import re
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from indexer.embed import ModelChoice, Vectors
from indexer.embed import server as module
from indexer.embed.load import info_of, load_encoder
from indexer.embed.server import ServerEncoder, server_info, trouble_of
from indexer.embed.thread import EncoderThread
from indexer.errors import FatalError, IndexerError, TextError
from indexer.settings import EmbeddingServer, Instructions, Settings

DIM = 8
KEY = "sk-very-secret"
SECRET = "the person's own words"


@dataclass
class Asked:
    """A request as the stand-in saw it."""

    path: str
    key: str
    body: dict[str, Any]

    @property
    def texts(self) -> list[str]:
        texts = self.body["input"]
        assert isinstance(texts, list)
        return texts

    @property
    def is_probe(self) -> bool:
        return self.texts[0].endswith(module._PROBE)


@dataclass
class Says:
    """What it answers; `endless` bytes are repeated for ever after `body`."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    endless: bytes = b""
    cut: bool = False


def says(value: object, status: int = 200, **headers: str) -> Says:
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    return Says(status, json.dumps(value).encode(), names)


def vector(text: str, model: str = "model") -> Vectors:
    """What the stand-in makes of a text, of some length other than 1."""
    noise = np.random.default_rng(zlib.crc32(f"{model}\n{text}".encode()))
    return np.asarray(noise.normal(size=DIM), np.float32)


def rows(vectors: Sequence[object], order: Sequence[int] | None = None) -> dict[str, Any]:
    items = [{"object": "embedding", "index": at, "embedding": row} for at, row in enumerate(vectors)]
    return {"object": "list", "data": [items[at] for at in order] if order else items}


class StandIn:
    """A server on loopback. `behave` may answer in its place; what it was asked is kept in `asked`."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.behave: Callable[[Asked], Says | None] = lambda _: None
        self.model = "stand-in"
        self.models: Says | None = None
        self.embeddings = "/v1/embeddings"
        self.ending = threading.Event()
        self.under_way = self.most_under_way = 0
        self.connections = 0
        self._counting = threading.Lock()
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                stand_in.connections += 1

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                good = says({"object": "list", "data": [{"id": "stand-in"}, {"id": "other"}]})
                known = self.path == stand_in.embeddings.removesuffix("embeddings") + "models"
                self.answer((stand_in.models or good) if known else says({"error": "none"}, 404))

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path != stand_in.embeddings:
                    self.answer(says({"detail": "Not Found"}, 404))
                    return
                asked = Asked(self.path, self.headers.get("Authorization", ""), json.loads(raw))
                with stand_in._counting:
                    stand_in.asked.append(asked)
                    stand_in.under_way += 1
                    stand_in.most_under_way = max(stand_in.most_under_way, stand_in.under_way)
                try:
                    self.answer(stand_in.behave(asked) or stand_in.good(asked))
                finally:
                    with stand_in._counting:
                        stand_in.under_way -= 1

            def answer(self, said: Says) -> None:
                self.send_response(said.status)
                for name, text in said.headers.items():
                    self.send_header(name, text)
                if said.endless:
                    self.send_header("Connection", "close")
                else:
                    self.send_header("Content-Length", str(len(said.body)))
                self.end_headers()
                try:
                    self.wfile.write(said.body[: len(said.body) // 2] if said.cut else said.body)
                    while said.endless and not stand_in.ending.is_set():
                        self.wfile.write(said.endless)
                except OSError:
                    self.close_connection = True
                if said.cut:
                    self.close_connection = True

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                pass  # clients that leave in the middle are what is tested

        self._server = Listener(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def good(self, asked: Asked) -> Says:
        return says(rows([vector(text, self.model).tolist() for text in asked.texts]))

    @property
    def sent(self) -> list[Asked]:
        """What it was asked apart from the fixed text."""
        return [asked for asked in self.asked if not asked.is_probe]

    def close(self) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, a tokenizer that takes words for tokens, and short rests."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    bundled = SimpleNamespace(info=SimpleNamespace(tokenizer=tmp_path / "tokenizer.json"))
    monkeypatch.setattr(module, "bundled_folder", lambda: bundled)
    monkeypatch.setattr(module, "_FIRST_REST_S", 0.002)
    monkeypatch.setenv("DRAGOMAN_CACHE", str(tmp_path / "cache"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    server = StandIn()
    yield server
    server.close()


class Opened:
    """Encoders that are closed at the end of a test."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self._encoders: list[ServerEncoder] = []

    def described(self, **changes: Any) -> EmbeddingServer:
        plain = EmbeddingServer(name="desk", url=f"http://127.0.0.1:{self._stand_in.port}", key=KEY)
        return msgspec.structs.replace(plain, **changes)

    def __call__(
        self, *, dimensions: int = 0, settings: Settings | None = None, **changes: Any
    ) -> ServerEncoder:
        server, choice = self.described(**changes), ModelChoice("server:desk", dimensions)
        settings = settings or Settings()
        server_info(server, choice, settings)
        encoder = ServerEncoder(server, choice, settings)
        self._encoders.append(encoder)
        return encoder

    def close(self) -> None:
        for encoder in self._encoders:
            encoder.abort()


@pytest.fixture
def connect(stand_in: StandIn) -> Iterator[Opened]:
    opened = Opened(stand_in)
    yield opened
    opened.close()


def unit(vectors: Vectors) -> Vectors:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def expected(texts: Sequence[str], model: str = "stand-in") -> Vectors:
    return unit(np.stack([vector(text, model) for text in texts]))


TEXTS = ["one", "zwei", "trois", "四", "пять", "six", "sieben", "八"]


# --- what goes well -------------------------------------------------------------------------------


def test_vectors_come_in_the_order_of_the_texts_whatever_order_the_server_answers_in(
    stand_in: StandIn, connect: Opened
) -> None:
    stand_in.behave = lambda asked: says(
        rows(
            [vector(text, "stand-in").tolist() for text in asked.texts],
            order=range(len(asked.texts))[::-1],
        )
    )
    encoder = connect(batch=3)
    vectors = encoder.encode_passages(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(TEXTS), atol=1e-6)
    assert sorted(len(asked.texts) for asked in stand_in.sent) == [2, 3, 3]
    assert {asked.key for asked in stand_in.asked} == {f"Bearer {KEY}"}
    assert {asked.body["model"] for asked in stand_in.asked} == {"stand-in"}


def test_base64_is_read_as_well(stand_in: StandIn, connect: Opened) -> None:
    def as_base64(asked: Asked) -> Says:
        return says(
            rows([base64.b64encode(vector(text, "stand-in").tobytes()).decode() for text in asked.texts])
        )

    stand_in.behave = as_base64
    np.testing.assert_allclose(connect().encode_queries(TEXTS), expected(TEXTS), atol=1e-6)


def test_a_thousand_texts_go_out_several_requests_at_once(stand_in: StandIn, connect: Opened) -> None:
    together = threading.Barrier(4)

    def wait(asked: Asked) -> None:
        if not asked.is_probe:
            together.wait(timeout=20)  # fails unless four requests are there at the same time

    stand_in.behave = wait
    texts = [f"text {number}" for number in range(1024)]
    encoder = connect(batch=2000, concurrency=4)
    np.testing.assert_allclose(encoder.encode_passages(texts), expected(texts), atol=1e-6)
    assert sorted(len(asked.texts) for asked in stand_in.sent) == [256] * 4
    together.reset()
    stand_in.behave = lambda _: None
    stand_in.asked.clear()
    connect(batch=2000, concurrency=1).encode_passages([*texts, "one more"])
    assert [len(asked.texts) for asked in stand_in.sent] == [1024, 1]


def test_no_more_requests_than_allowed_are_under_way(stand_in: StandIn, connect: Opened) -> None:
    together = threading.Barrier(3)

    def wait(asked: Asked) -> None:
        if not asked.is_probe:
            together.wait(timeout=20)

    stand_in.behave = wait
    connect(batch=1, concurrency=3).encode_passages([str(n) for n in range(30)])
    assert len(stand_in.sent) == 30
    assert stand_in.most_under_way == 3


@pytest.mark.parametrize(
    ("ending", "path"),
    [
        ("", "/v1/embeddings"),
        ("/", "/v1/embeddings"),
        ("/v1", "/v1/embeddings"),
        ("/v1/", "/v1/embeddings"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/v1/embeddings/", "/v1/embeddings"),
        ("", "/embeddings"),
        ("/embeddings", "/embeddings"),
        ("/team/a", "/team/a/v1/embeddings"),
        ("/team/a/v2", "/team/a/v2/embeddings"),
    ],
)
def test_a_url_may_be_pasted_in_any_shape(stand_in: StandIn, connect: Opened, ending: str, path: str) -> None:
    stand_in.embeddings = path
    encoder = connect(url=f" 127.0.0.1:{stand_in.port}{ending} ")
    np.testing.assert_allclose(encoder.encode_passages(["a"]), expected(["a"]), atol=1e-6)
    assert encoder.info.name == "stand-in (desk)"
    assert stand_in.sent[-1].path == path


def test_the_model_is_the_first_that_embeds_or_the_one_that_is_named(
    stand_in: StandIn, connect: Opened
) -> None:
    assert connect(model="mine").info.name == "mine (desk)"
    stand_in.models = says({"data": [{"id": "chat"}, {"id": "text-embedding-small"}]})
    assert connect().info.name == "text-embedding-small (desk)"
    stand_in.models = says({"data": []})
    assert connect().info.name == "default (desk)"
    stand_in.models = Says(404)
    assert connect().info.name == "default (desk)"


def test_info_names_the_vector_space(stand_in: StandIn, connect: Opened) -> None:
    settings = Settings(servers=(connect.described(max_tokens=512),))
    info = info_of(settings, ModelChoice("server:desk"))
    assert re.fullmatch(r"server-stand-in-[0-9a-f]{8}", info.key)
    assert (info.dim, info.max_tokens) == (DIM, 512 - 16)
    encoder = load_encoder(settings, ModelChoice("server:desk"))
    assert isinstance(encoder, ServerEncoder)
    assert encoder.info == info
    assert encoder.device == f"127.0.0.1:{stand_in.port}"
    with contextlib.closing(StandIn()) as elsewhere:
        keys = {
            info.key,
            connect(query_prefix="q: ").info.key,
            connect(url=f"127.0.0.1:{elsewhere.port}").info.key,
            connect(settings=Settings(instructions=Instructions(notes="Find it"))).info.key,
        }
    assert len(keys) == 1
    keys |= {
        connect(name="other").info.key,
        connect(passage_prefix="passage: ").info.key,
        connect(model="other").info.key,
        connect(dimensions=4).info.key,
    }
    assert len(keys) == 5
    with pytest.raises(FatalError, match="No embedding server in the settings is called gone"):
        info_of(settings, ModelChoice("server:gone"))
    encoder.abort()


def test_prefixes_and_instructions(stand_in: StandIn, connect: Opened) -> None:
    settings = Settings(instructions=Instructions(code="Find {the} function"))
    encoder = connect(query_prefix="Instruct: {task}\nQuery: ", passage_prefix="passage: ", settings=settings)
    encoder.encode_queries(["sort"], "code")
    encoder.encode_queries(["sort"], "notes")
    encoder.encode_passages(["a list"])
    sent = [asked.texts[0] for asked in stand_in.sent]
    assert sent[0] == "Instruct: Find {the} function\nQuery: sort"
    assert re.fullmatch(r"Instruct: \S.+\nQuery: sort", sent[1])
    assert sent[2] == "passage: a list"


@pytest.mark.parametrize(
    ("model", "query", "passage"),
    [
        ("Qwen/Qwen3-Embedding-0.6B", r"Instruct: \S.+\nQuery:ferry", "The ferry"),
        ("/models/qwen3-embedding-0.6b-q4_k_m.gguf", r"Instruct: \S.+\nQuery:ferry", "The ferry"),
        ("embeddinggemma:300m", r"task: search result \| query: ferry", "title: none | text: The ferry"),
        ("intfloat/multilingual-e5-large", "query: ferry", "passage: The ferry"),
        ("intfloat/multilingual-e5-large-instruct", r"Instruct: \S.+\nQuery: ferry", "The ferry"),
        ("BAAI/bge-m3", "ferry", "The ferry"),
        ("text-embedding-3-small", "ferry", "The ferry"),
    ],
)
def test_what_well_known_models_want_in_front_is_added(
    stand_in: StandIn, connect: Opened, model: str, query: str, passage: str
) -> None:
    encoder = connect(model=model)
    encoder.encode_queries(["ferry"])
    encoder.encode_passages(["The ferry"])
    assert re.fullmatch(query, stand_in.sent[0].texts[0])
    assert stand_in.sent[1].texts == [passage]
    stand_in.asked.clear()
    as_set = connect(model=model, query_prefix=" ")
    as_set.encode_queries(["ferry"])
    as_set.encode_passages(["The ferry"])
    assert [asked.texts for asked in stand_in.sent] == [[" ferry"], ["The ferry"]]
    assert (as_set.info.key == encoder.info.key) == (passage == "The ferry")


def test_a_server_that_tells_queries_from_passages_is_told(stand_in: StandIn, connect: Opened) -> None:
    plain = connect()
    plain.encode_queries(["a"])
    assert "input_type" not in stand_in.sent[-1].body

    def by_kind(asked: Asked) -> Says:
        kind = asked.body.get("input_type", "query")
        return says(rows([vector(text, kind).tolist() for text in asked.texts]))

    stand_in.behave = by_kind
    encoder = connect()
    assert encoder.info.key != plain.info.key
    np.testing.assert_allclose(encoder.encode_queries(["a"]), expected(["a"], "query"), atol=1e-6)
    np.testing.assert_allclose(encoder.encode_passages(["a"]), expected(["a"], "passage"), atol=1e-6)


def test_a_server_that_refuses_to_be_told_is_not(stand_in: StandIn, connect: Opened) -> None:
    stand_in.behave = lambda asked: (
        says({"error": {"message": "Unrecognized request argument: input_type"}}, 400)
        if "input_type" in asked.body
        else None
    )
    encoder = connect()
    np.testing.assert_allclose(encoder.encode_queries(["a"]), expected(["a"]), atol=1e-6)


def test_dimensions_are_asked_for_and_cut_where_the_server_does_not(
    stand_in: StandIn, connect: Opened
) -> None:
    encoder = connect(dimensions=4)
    assert encoder.info.dim == 4
    found = encoder.encode_passages(["a"])
    assert stand_in.sent[-1].body["dimensions"] == 4
    np.testing.assert_allclose(found, unit(vector("a", "stand-in")[None, :4]), atol=1e-6)
    with pytest.raises(IndexerError, match="gives 8 numbers"):
        connect(dimensions=16)


def test_vectors_that_are_not_of_unit_length_are_noted_once(
    stand_in: StandIn, connect: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    encoder = connect()
    caplog.clear()
    for _ in range(3):
        found = encoder.encode_passages(["a", "b"])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert sum("unit length" in record.message for record in caplog.records) == 1


def test_strange_texts_are_sent(stand_in: StandIn, connect: Opened) -> None:
    texts = ["", "\ud800 lone", "\0 zero", "a\nb", '"quoted" \\ \u2028', "🦆" * 50]
    found = connect().encode_passages(texts)
    sent = stand_in.sent[-1].texts
    np.testing.assert_allclose(found, expected(sent), atol=1e-6)
    assert sent == [" ", "\ufffd lone", *texts[2:]]


def test_nothing_to_embed_asks_nothing(stand_in: StandIn, connect: Opened) -> None:
    encoder = connect()
    before = len(stand_in.asked)
    assert encoder.encode_passages([]).shape == (0, DIM)
    assert len(stand_in.asked) == before


def test_a_long_passage_is_embedded_in_windows(stand_in: StandIn, connect: Opened) -> None:
    words = " ".join(f"word{number}" for number in range(100))
    encoder = connect(max_tokens=56, passage_prefix="")  # 40 words are left
    found = encoder.encode_passages(["short", words, "also short"])
    sent = stand_in.sent[-1].texts
    assert [len(text.split()) for text in sent] == [1, 40, 40, 20, 2]
    assert "".join(sent[1:4]) == words
    np.testing.assert_allclose(found[[0, 2]], expected(["short", "also short"]), atol=1e-6)
    np.testing.assert_allclose(found[1:2], unit(expected(sent[1:4]).mean(0, keepdims=True)), atol=1e-6)


def test_threads_may_share_an_encoder(stand_in: StandIn, connect: Opened) -> None:
    encoder = connect()
    found: dict[int, Vectors] = {}

    def embed(number: int) -> None:
        found[number] = encoder.encode_passages([f"{number} {n}" for n in range(40)])

    threads = [threading.Thread(target=embed, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        np.testing.assert_allclose(found[number], expected([f"{number} {n}" for n in range(40)]), atol=1e-6)


# --- what passes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_trouble_that_passes_is_not_seen(stand_in: StandIn, connect: Opened, status: int) -> None:
    encoder = connect()
    troubles = iter([says({"error": "later"}, status)] * 2)
    stand_in.behave = lambda _: next(troubles, None)
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), expected(TEXTS), atol=1e-6)


def test_an_answer_that_breaks_off_is_asked_for_again(stand_in: StandIn, connect: Opened) -> None:
    encoder = connect()
    broken = iter([True, True])

    def behave(asked: Asked) -> Says | None:
        return Says(200, stand_in.good(asked).body, cut=True) if next(broken, False) else None

    stand_in.behave = behave
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), expected(TEXTS), atol=1e-6)


def test_retry_after_is_honoured(stand_in: StandIn, connect: Opened) -> None:
    encoder = connect()
    busy = iter([says({}, 429, Retry_After="0.4")])
    stand_in.behave = lambda _: next(busy, None)
    begun = time.monotonic()
    encoder.encode_passages(["a"])
    assert time.monotonic() - begun >= 0.4


def test_a_server_that_wants_a_long_rest_gets_it_without_anybody_waiting(
    stand_in: StandIn, connect: Opened
) -> None:
    encoder = connect()
    stand_in.behave = lambda _: says({}, 429, Retry_After="300")
    begun = time.monotonic()
    with pytest.raises(IndexerError, match=r"asked again in 300 seconds"):
        encoder.encode_passages(["a"])
    asked = len(stand_in.asked)
    with pytest.raises(IndexerError, match="busy"):
        encoder.encode_queries(["a"])
    assert len(stand_in.asked) == asked
    assert time.monotonic() - begun < 5


def test_an_outage_is_told_and_passes(stand_in: StandIn, connect: Opened) -> None:
    encoder = connect()
    stand_in.behave = lambda _: says({"error": f"{SECRET} {KEY}"}, 503)
    with pytest.raises(IndexerError, match="tried again") as caught:
        encoder.encode_passages([SECRET])
    assert "desk (127.0.0.1" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)
    assert not isinstance(caught.value, FatalError)
    stand_in.behave = lambda _: None
    np.testing.assert_allclose(encoder.encode_passages(["a"]), expected(["a"]), atol=1e-6)


def test_a_server_that_is_gone_is_what_it_was_but_has_to_answer_to_be_chosen(
    stand_in: StandIn, connect: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, choice = connect.described(), ModelChoice("server:desk")
    info = server_info(server, choice, Settings())
    stand_in.close()
    with pytest.raises(IndexerError, match="cannot be reached"):
        server_info(server, choice, Settings())
    encoder = ServerEncoder(server, choice, Settings())
    assert encoder.info == info
    with pytest.raises(IndexerError, match="cannot be reached"):
        encoder.encode_queries(["a"])
    encoder.abort()
    with pytest.raises(IndexerError, match="cannot be reached"):
        server_info(msgspec.structs.replace(server, name="never seen"), choice, Settings())


def test_what_is_wrong_with_a_server_is_known_until_it_answers_again(
    stand_in: StandIn, connect: Opened
) -> None:
    encoder = connect()
    encoder.encode_queries(["a"])
    assert trouble_of("desk") is None
    stand_in.behave = lambda _: says({"error": "no"}, 401)
    with pytest.raises(IndexerError):
        encoder.encode_queries(["a"])
    trouble = trouble_of("desk")
    assert trouble is not None
    assert trouble.title == "The server refuses the key"
    stand_in.behave = lambda _: None
    encoder.encode_passages(["a"])
    assert trouble_of("desk") is None
    encoder.abort()
    with pytest.raises(IndexerError, match="closed"):
        encoder.encode_queries(["a"])
    assert trouble_of("desk") is None, "it was we who hung up"


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (413, "payload"),
        (422, "batch size 8 > maximum allowed batch size 3"),
        (400, "too many inputs"),
        (500, "input is too large to process. increase the physical batch size"),
    ],
)
def test_a_batch_that_is_refused_is_halved_and_the_limit_learned(
    stand_in: StandIn, connect: Opened, status: int, words: str
) -> None:
    stand_in.behave = lambda asked: (
        says({"error": {"message": words}}, status) if len(asked.texts) > 3 else None
    )
    encoder = connect()
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), expected(TEXTS), atol=1e-6)
    assert [len(asked.texts) for asked in stand_in.sent] == [8, 4, 2, 2, 4, 2, 2]
    stand_in.asked.clear()
    encoder.encode_passages(TEXTS)
    assert [len(asked.texts) for asked in stand_in.sent] == [2, 2, 2, 2]


def test_a_text_that_is_refused_as_too_long_is_embedded_in_halves(stand_in: StandIn, connect: Opened) -> None:
    stand_in.behave = lambda asked: (
        says({"error": {"message": "maximum context length is 512 tokens"}}, 400)
        if any(len(text) > 200 for text in asked.texts)
        else None
    )
    long = "a few words " * 25  # 300 characters
    encoder = connect(passage_prefix="p: ")
    found = encoder.encode_passages(["short", long, "also short"])
    np.testing.assert_allclose(found[[0, 2]], expected(["p: short", "p: also short"]), atol=1e-6)
    halves = [text for asked in stand_in.sent for text in asked.texts if 100 < len(text) <= 200]
    assert "".join(half.removeprefix("p: ") for half in halves) == long
    np.testing.assert_allclose(found[1:2], unit(expected(halves).mean(0, keepdims=True)), atol=1e-6)


def test_everything_too_long_ends(stand_in: StandIn, connect: Opened) -> None:
    encoder = connect()
    stand_in.behave = lambda _: Says(413)
    with pytest.raises(IndexerError, match="too long"):
        encoder.encode_passages([SECRET * 40] * 64)
    assert len(stand_in.sent) <= 4 * 8


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "key"), (403, "key"), (404, "no such model"), (400, "answers 400"), (418, "answers 418")],
)
def test_what_is_refused_is_told_at_once(stand_in: StandIn, connect: Opened, status: int, words: str) -> None:
    encoder = connect()
    stand_in.behave = lambda asked: says({"error": {"message": f"no: {asked.texts} {KEY}"}}, status)
    with pytest.raises(IndexerError, match=words) as caught:
        encoder.encode_passages([SECRET, "b"])
    assert SECRET not in str(caught.value)
    assert KEY not in str(caught.value)
    assert not isinstance(caught.value, TextError)
    assert len(stand_in.sent) == 1


def test_one_text_that_is_refused_is_told_from_a_server_that_refuses(
    stand_in: StandIn, connect: Opened
) -> None:
    encoder = connect()
    stand_in.behave = lambda asked: says({"detail": "invalid"}, 422) if "四" in asked.texts else None
    with pytest.raises(TextError, match="A text cannot be embedded"):
        encoder.encode_passages(TEXTS)
    others = [text for text in TEXTS if text != "四"]
    np.testing.assert_allclose(encoder.encode_passages(others), expected(others), atol=1e-6)


def test_the_servers_own_words_are_told_when_it_was_sent_nothing_of_the_persons(
    stand_in: StandIn, connect: Opened
) -> None:
    stand_in.behave = lambda _: says({"detail": "dimensions may be at most 7"}, 422)
    with pytest.raises(IndexerError, match=r"It says: dimensions may be at most 7"):
        connect()
    stand_in.behave = lambda _: says({"error": {"message": f"no model\x1b[2J loaded, {KEY}"}}, 400)
    with pytest.raises(IndexerError, match=r"It says: no model \[2J loaded, \.\.\.") as caught:
        connect()
    assert KEY not in str(caught.value)


# --- what cannot be used ----------------------------------------------------------------------------


def spoil(
    spoilt: Callable[[list[dict[str, Any]]], object], more_than: int = 1
) -> Callable[[Asked], Says | None]:
    """Spoil the answers to requests with more than so many texts."""

    def behave(asked: Asked) -> Says | None:
        if len(asked.texts) <= more_than or asked.is_probe:
            return None
        items = rows([vector(text, "stand-in").tolist() for text in asked.texts])["data"]
        spoilt(items)
        return says({"data": items})

    return behave


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda items: items.pop(),
        lambda items: items.append({"index": len(items), "embedding": [1.0] * DIM}),
        lambda items: items[-1].update(index=0 if len(items) > 1 else 1),
        lambda items: items[0].pop("index"),
        lambda items: [item.pop("index") for item in items],
        lambda items: items[0].update(index="0"),
        lambda items: items[0].update(index=-1),
        lambda items: items[0].update(index=True),
        lambda items: items[-1].update(embedding=[0.0] * DIM),
        lambda items: items[0].update(embedding=[math.nan] * DIM),
        lambda items: items[0].update(embedding=[math.inf] + [0.0] * (DIM - 1)),
        lambda items: items[0].update(embedding=[None] * DIM),
        lambda items: items[0].update(embedding=[]),
        lambda items: items[0].update(embedding=[[0.1] * DIM]),
        lambda items: items[0].update(embedding=["a"] * DIM),
        lambda items: items[0].update(embedding="not base64!"),
        lambda items: items[0].update(embedding=[1e300] * DIM),
        lambda items: items[0].update(embedding=[1.0] * (DIM + 1)),
        lambda items: items[0].pop("embedding"),
        lambda items: items.insert(0, "a"),
    ],
)
def test_a_spoilt_answer_never_mixes_up_vectors(
    stand_in: StandIn, connect: Opened, spoilt: Callable[[list[dict[str, Any]]], object]
) -> None:
    """What goes wrong with several texts goes right one by one; what goes wrong with one is told."""
    encoder = connect()
    stand_in.behave = spoil(spoilt)
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), expected(TEXTS), atol=1e-6)
    stand_in.behave = spoil(spoilt, more_than=0)
    with pytest.raises(IndexerError, match=r"answer|model"):
        encoder.encode_passages(["a"])


def test_one_text_that_the_server_makes_nan_of_does_not_hold_up_the_others(
    stand_in: StandIn, connect: Opened
) -> None:
    encoder = connect()
    bad = "x" * 300

    def behave(asked: Asked) -> Says | None:
        numbers = [
            ([math.nan] * DIM if text == bad else vector(text, "stand-in").tolist()) for text in asked.texts
        ]
        return says(rows(numbers))

    stand_in.behave = behave
    texts = [*TEXTS, bad]
    found = encoder.encode_passages(texts)
    np.testing.assert_allclose(found[:-1], expected(TEXTS), atol=1e-6)
    np.testing.assert_allclose(found[-1:], expected(["x" * 150]), atol=1e-6)


def test_one_text_that_the_server_stumbles_over_is_found(stand_in: StandIn, connect: Opened) -> None:
    encoder = connect()
    stand_in.behave = lambda asked: says({}, 500) if "四" in asked.texts else None
    with pytest.raises(IndexerError, match="answers 500"):
        encoder.encode_passages(TEXTS)
    stand_in.behave = lambda asked: says({}, 500) if len(asked.texts) > 1 else None
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), expected(TEXTS), atol=1e-6)


@pytest.mark.parametrize(
    "said",
    [
        Says(body=b"<html><body>Welcome to nginx</body></html>", headers={"Content-Type": "text/html"}),
        Says(body=b""),
        Says(body=b"\xff\xfe\x00"),
        Says(body=b"[" * 100_000),
        says([]),
        says({"data": None}),
        says({"data": {"embedding": [1.0]}}),
        says({"embeddings": [[1.0] * DIM]}),
        Says(body=b"not gzip", headers={"Content-Encoding": "gzip"}),
    ],
)
def test_what_is_no_embedding_server_is_told(stand_in: StandIn, connect: Opened, said: Says) -> None:
    stand_in.behave = lambda _: said
    with pytest.raises(IndexerError, match="no embedding server"):
        connect()
    stand_in.behave = lambda _: None
    encoder = connect()
    stand_in.behave = lambda _: said
    with pytest.raises(IndexerError, match="no embedding server"):
        encoder.encode_passages(TEXTS)


@pytest.mark.parametrize("endless", [b" " * 65_536, b'{"data": [' * 6_000])
def test_an_endless_answer_is_cut_off(stand_in: StandIn, connect: Opened, endless: bytes) -> None:
    encoder = connect()
    stand_in.behave = lambda _: Says(endless=endless)
    with pytest.raises(IndexerError, match="too long"):
        encoder.encode_passages(["a"])


def test_a_slow_answer_is_given_up(
    stand_in: StandIn, connect: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = connect()
    monkeypatch.setattr(module, "_ANSWER_S", {"query": 0.2, "passage": 0.2})

    def drip(_: Asked) -> Says | None:
        stand_in.ending.wait(20)
        return None

    stand_in.behave = drip
    with pytest.raises(IndexerError, match="did not answer within"):
        encoder.encode_passages(["a"])
    stand_in.ending.set()


# --- another model ----------------------------------------------------------------------------------


def test_another_model_behind_the_same_url_is_noticed_on_the_next_connection(
    stand_in: StandIn, connect: Opened
) -> None:
    encoder = connect()
    encoder.encode_passages(["a"])
    probes = len(stand_in.asked) - len(stand_in.sent)
    encoder.encode_passages(["b"])
    assert len(stand_in.asked) - len(stand_in.sent) == probes  # nothing to doubt on the same connection
    stand_in.model = "another"
    stand_in.behave = lambda asked: Says(200, stand_in.good(asked).body, {"Connection": "close"}, cut=True)
    with pytest.raises(IndexerError, match="cannot be reached"):
        encoder.encode_passages(["c"])
    stand_in.behave = lambda _: None
    with pytest.raises(IndexerError, match="Another model answers"):
        encoder.encode_passages(["c"])
    with pytest.raises(IndexerError, match="Another model answers"):
        encoder.encode_queries(["c"])
    changed = connect()
    assert changed.info.key != encoder.info.key
    np.testing.assert_allclose(changed.encode_passages(["c"]), expected(["c"], "another"), atol=1e-6)
    stand_in.model = "stand-in"
    assert connect().info == encoder.info  # the old one is known again


def test_another_length_of_vectors_is_noticed_at_once(stand_in: StandIn, connect: Opened) -> None:
    encoder = connect()
    encoder.encode_passages(["a"])
    stand_in.behave = lambda asked: says(rows([[1.0] * 16 for _ in asked.texts]))
    with pytest.raises(IndexerError, match=r"vectors of 16 numbers, not of 8"):
        encoder.encode_passages(["c"])


def test_a_server_that_repeats_itself_only_nearly_is_the_same(stand_in: StandIn, connect: Opened) -> None:
    info = connect().info
    noise = np.random.default_rng(5)
    stand_in.behave = lambda asked: says(
        rows([(vector(text, "stand-in") + noise.normal(size=DIM) * 0.02).tolist() for text in asked.texts])
    )
    for _ in range(5):
        assert connect().info == info


def test_a_damaged_memory_is_as_good_as_none(stand_in: StandIn, connect: Opened, tmp_path: Path) -> None:
    info = connect().info
    (file,) = (tmp_path / "cache" / "servers").iterdir()
    for damage in (b"", b"[3, []]", b"{}", b'[0, [{"model": "m", "dim": 3, "kinds": false}]]'):
        file.write_bytes(damage)
        assert connect().info == info


# --- where the key goes -----------------------------------------------------------------------------


def test_a_redirect_to_another_host_is_not_followed(stand_in: StandIn, connect: Opened) -> None:
    encoder = connect()
    other = StandIn()
    try:
        target = f"http://127.0.0.1:{other.port}/v1/embeddings"
        stand_in.behave = lambda _: Says(307, headers={"Location": target})
        with pytest.raises(IndexerError, match=f"redirects to 127.0.0.1:{other.port}"):
            encoder.encode_passages([SECRET])
        assert not other.asked
        assert not other.connections
    finally:
        other.close()


def test_a_redirect_on_the_same_host_is_followed_but_not_for_ever(stand_in: StandIn, connect: Opened) -> None:
    encoder = connect()
    first = iter([Says(308, headers={"Location": "/v1/embeddings"})])
    stand_in.behave = lambda _: next(first, None)
    np.testing.assert_allclose(encoder.encode_passages(["a"]), expected(["a"]), atol=1e-6)
    stand_in.behave = lambda _: Says(308, headers={"Location": "/v1/embeddings"})
    with pytest.raises(IndexerError, match="answers 308"):
        encoder.encode_passages(["a"])


@pytest.mark.parametrize(
    "url", ["http://192.0.2.1:8000/v1", "http://embed.example.org", "http://127.0.0.1.example.org"]
)
def test_plain_http_goes_to_this_machine_only(connect: Opened, url: str) -> None:
    server = connect.described(url=url)
    with pytest.raises(FatalError, match="Plain http is not safe"):
        server_info(server, ModelChoice("server:desk"), Settings())


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1/v1", "http://", "http://[::1", "file:///etc/passwd"])
def test_what_is_no_url_is_told(connect: Opened, url: str) -> None:
    with pytest.raises(FatalError, match="URL is not understood"):
        server_info(connect.described(url=url), ModelChoice("server:desk"), Settings())


def test_a_key_that_no_header_can_carry_is_told(connect: Opened) -> None:
    for key in ("a\nb", "schlüssel"):
        with pytest.raises(FatalError, match="strange characters") as caught:
            server_info(connect.described(key=key), ModelChoice("server:desk"), Settings())
        assert key not in str(caught.value)


# --- the end ----------------------------------------------------------------------------------------


def test_abort_breaks_off_a_request_under_way(stand_in: StandIn, connect: Opened) -> None:
    encoder = connect()
    arrived = threading.Event()

    def hang(_: Asked) -> Says | None:
        arrived.set()
        stand_in.ending.wait(60)
        return None

    stand_in.behave = hang
    caught: list[BaseException] = []

    def embed() -> None:
        try:
            encoder.encode_passages(["a"])
        except IndexerError as error:
            caught.append(error)

    thread = threading.Thread(target=embed)
    thread.start()
    assert arrived.wait(20)
    begun = time.monotonic()
    encoder.abort()
    thread.join(20)
    assert time.monotonic() - begun < 5
    assert isinstance(caught[0], IndexerError)
    with pytest.raises(IndexerError, match="closed"):
        encoder.encode_passages(["a"])
    encoder.abort()
    stand_in.ending.set()


def test_the_encoders_thread_stops_without_waiting_for_a_server(stand_in: StandIn, connect: Opened) -> None:
    encoder = connect()
    arrived = threading.Event()

    def hang(_: Asked) -> Says | None:
        arrived.set()
        stand_in.ending.wait(60)
        return None

    stand_in.behave = hang
    thread = EncoderThread(lambda: encoder)
    thread.start()
    vectors = thread.passages(["a"])
    assert arrived.wait(20)
    begun = time.monotonic()
    thread.stop()
    assert time.monotonic() - begun < 5
    with pytest.raises(IndexerError):
        vectors.result(0)
    stand_in.ending.set()


def test_a_forgotten_encoder_ends_its_thread(stand_in: StandIn, connect: Opened) -> None:
    server, choice = connect.described(name="forgotten"), ModelChoice("server:forgotten")
    encoder = ServerEncoder(server, choice, Settings())
    encoder.encode_passages(["a"])
    thread = next(thread for thread in threading.enumerate() if thread.name == "server forgotten")
    del encoder
    gc.collect()
    thread.join(20)
    assert not thread.is_alive()
