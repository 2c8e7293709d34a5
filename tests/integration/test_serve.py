"""`dragoman serve` as other programs see it: real processes, the real model, the real clients."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from indexer import api, http
from indexer.client import ENDPOINT_FILE, IndexerClient
from indexer.embed import ModelChoice, Vectors
from indexer.embed.load import load_encoder
from indexer.embed.server import ServerEncoder, server_info
from indexer.settings import EmbeddingServer, Settings

KEY = "a-key-for-tests"
PASSAGES = [
    "Le train de nuit pour Vienne part de Paris à dix-neuf heures douze.",
    "Die Kaffeemaschine muss alle drei Monate mit Zitronensäure entkalkt werden.",
    "我们的猫每年春天都要去兽医那里打疫苗。",
    "If the radiators stay cold, bleed the air out with the small brass key.",
    "def standard_deviation(values):\n    mean = sum(values) / len(values)",
]
QUERIES = [
    "When does the cat get its vaccination?",
    "Wann fährt der Nachtzug nach Österreich?",
    "暖气不热怎么办",
    "咖啡机多久除一次垢?",
    "how spread out numbers are",
]


class Serving:
    """A `dragoman serve` that was started by its command."""

    def __init__(self, data_dir: Path, *options: str, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "indexer.cli", "serve", "--data-dir", str(data_dir), "--port", "0"]
        self.process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        found = re.search(r"http://\S+:(\d+)/v1", self.line)
        assert found is not None, self.line + (self.process.stderr.read() if self.process.stderr else "")
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def end(self) -> int:
        """Ctrl-C, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        code = self.process.wait(30)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.rest, self.errors = self.process.stdout.read(), self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return code


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("serve") / "data"
    yield folder
    with IndexerClient(folder, start=False) as client:
        client.stop()


@pytest.fixture(scope="module")
def serving(data_dir: Path) -> Iterator[Serving]:
    server = Serving(data_dir, "--key", KEY)
    yield server
    assert server.end() == 0
    assert not server.errors


@pytest.fixture(scope="module")
def client(serving: Serving) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=serving.url, headers=headers, timeout=60, trust_env=False) as client:
        yield client


class Truth:
    """The vectors of this program's own encoder."""

    def __init__(self) -> None:
        encoder = load_encoder(Settings())
        self.passages = encoder.encode_passages(PASSAGES)
        self.queries = encoder.encode_queries(QUERIES)
        self.as_passages = encoder.encode_passages(QUERIES)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth()


def same(found: Any, wanted: Vectors) -> None:
    vectors = np.asarray(found, np.float32)
    assert vectors.shape == wanted.shape
    assert (np.sum(vectors * wanted, axis=1) > 0.9999).all()


def same_order(queries: Any, passages: Any, truth: Truth) -> None:
    """Every query puts the passages in the same order as our own vectors do."""
    found = np.argsort(-np.asarray(queries) @ np.asarray(passages).T, axis=1)
    wanted = np.argsort(-truth.queries @ truth.passages.T, axis=1)
    assert (found == wanted).all()
    assert (found[:, 0] == [2, 0, 3, 1, 4]).all()


# --- the clients that people have ---------------------------------------------------------------------


def test_openai(serving: Serving, truth: Truth) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=serving.url, api_key=KEY) as client:
        assert [model.id for model in client.models.list()] == ["multilingual-e5-small"]
        # Base64 is what it asks for when it is not told.
        answer = client.embeddings.create(model="text-embedding-3-small", input=PASSAGES)
        assert answer.model == "multilingual-e5-small"
        assert answer.usage.prompt_tokens > 50
        same([item.embedding for item in answer.data], truth.passages)
        floats = client.embeddings.create(model="any", input=PASSAGES[0], encoding_format="float")
        same([floats.data[0].embedding], truth.passages[:1])
        queries = client.embeddings.create(model="any", input=QUERIES, extra_body={"input_type": "query"})
        same([item.embedding for item in queries.data], truth.queries)
        named = client.embeddings.create(model="multilingual-e5-small:query", input=QUERIES)
        same_order([item.embedding for item in named.data], [item.embedding for item in answer.data], truth)
        with pytest.raises(openai.BadRequestError, match="cannot be shortened"):
            client.embeddings.create(model="any", input="a", dimensions=128)
        with pytest.raises(openai.BadRequestError, match="token ids"):
            client.embeddings.create(model="any", input=[[1, 2, 3]])
    with (
        openai.OpenAI(base_url=serving.url, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.embeddings.create(model="any", input="a")


def test_langchain(serving: Serving, truth: Truth) -> None:
    langchain_openai = pytest.importorskip("langchain_openai")

    def embeddings(model: str, **more: Any) -> Any:
        return langchain_openai.OpenAIEmbeddings(
            model=model, base_url=serving.url, api_key=KEY, check_embedding_ctx_length=False, **more
        )

    async def without_blocking() -> list[list[float]]:
        # A client of its own, since LangChain never closes the one that it would share.
        async with httpx.AsyncClient() as client:
            found: list[list[float]] = await embeddings("any", http_async_client=client).aembed_documents(
                PASSAGES
            )
        return found

    passages = embeddings("multilingual-e5-small").embed_documents(PASSAGES)
    same(passages, truth.passages)
    queries = embeddings("multilingual-e5-small:query")
    same_order([queries.embed_query(text) for text in QUERIES], passages, truth)
    same(asyncio.run(without_blocking()), truth.passages)


@pytest.mark.parametrize("name", ["OpenAIEmbedding", "OpenAILikeEmbedding"])
def test_llama_index(serving: Serving, truth: Truth, name: str) -> None:
    if name == "OpenAIEmbedding":
        module = pytest.importorskip("llama_index.embeddings.openai")
    else:
        module = pytest.importorskip("llama_index.embeddings.openai_like")

    def embedding(model: str) -> Any:
        return getattr(module, name)(model_name=model, api_base=serving.url, api_key=KEY)

    passages = embedding("multilingual-e5-small").get_text_embedding_batch(PASSAGES)
    same(passages, truth.passages)
    queries = embedding("multilingual-e5-small:query")
    same_order([queries.get_query_embedding(text) for text in QUERIES], passages, truth)


def test_our_own_client(
    serving: Serving, truth: Truth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One Dragoman embeds with another's model, and is told queries from passages."""
    described = EmbeddingServer(name="other", url=serving.url, key=KEY)
    with monkeypatch.context() as patch:
        patch.setattr("indexer.embed.server.cache_dir", lambda: tmp_path)
        info = server_info(described, ModelChoice("server:other"), Settings())
        encoder = ServerEncoder(described, ModelChoice("server:other"), Settings())
    assert info.dim == 384
    assert info.name == "multilingual-e5-small (other)"
    same(encoder.encode_passages(PASSAGES), truth.passages)
    same_order(encoder.encode_queries(QUERIES), truth.passages, truth)
    encoder.abort()


# --- the protocol ---------------------------------------------------------------------------------------


def test_floats_and_base64_are_the_same_vectors(client: httpx.Client) -> None:
    answers = [
        client.post("/embeddings", json={"input": PASSAGES, "encoding_format": kind}).json()["data"]
        for kind in ("float", "base64")
    ]
    assert [item["index"] for item in answers[0]] == list(range(len(PASSAGES)))
    floats = np.array([item["embedding"] for item in answers[0]], np.float32)
    decoded = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answers[1]]
    np.testing.assert_allclose(floats, np.stack(decoded), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(floats, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        {"input_type": "query"},
        {"input_type": "search_query"},
        {"prompt_name": "query"},
        {"model": "any:query"},
        {"input_type": "query", "task": "code"},
    ],
)
def test_queries_are_told_in_the_ways_of_other_servers(
    client: httpx.Client, truth: Truth, kind: dict[str, str]
) -> None:
    answer = client.post("/embeddings", json={"input": QUERIES, **kind}).json()
    same([item["embedding"] for item in answer["data"]], truth.queries)
    plain = client.post("/embeddings", json={"input": QUERIES, "input_type": "document"}).json()
    same([item["embedding"] for item in plain["data"]], truth.as_passages)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a", None]}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2], [3]]}, "input"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": "a" * (1 << 20)}, "input"),
        ({"input": "a", "model": 5}, "model"),
        ({"input": "a", "dimensions": -1}, "dimensions"),
        ({"input": "a", "dimensions": "8"}, "dimensions"),
        ({"input": "a", "dimensions": 8}, "dimensions"),
        ({"input": "a", "dimensions": 385}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "input_type": "clustering"}, "input_type"),
        ({"input": "a", "prompt_name": ["query"]}, "prompt_name"),
        ({"input": "a", "task": "retrieval"}, "task"),
        ([], None),
        ("a", None),
    ],
)
def test_what_cannot_be_answered_is_told_as_openai_does(
    client: httpx.Client, body: object, param: str | None
) -> None:
    answer = client.post("/embeddings", json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert error["message"]


def test_what_is_no_request(client: httpx.Client) -> None:
    assert client.post("/embeddings", content=b"{").status_code == 400
    assert client.post("/embeddings", content=b"[" * 100_000).status_code == 400
    assert client.post("/embeddings", content=b" " * (http.MAX_BODY_BYTES + 1)).status_code == 413
    assert client.get("/embeddings").status_code == 405
    assert client.post("/chat/completions", json={}).status_code == 404
    assert client.get("/models/gpt-4").status_code == 404
    assert client.get("/models/multilingual-e5-small").json()["owned_by"] == "dragoman"


def test_strange_texts(client: httpx.Client) -> None:
    texts = ["\\ud800 lone", "\\u0000 zero", "\\u2028", "🦆" * 1000, "x" * 10_000]
    content = ", ".join(f'"{text}"' for text in texts)
    answer = client.post("/embeddings", content=f'{{"input": [{content}]}}'.encode())
    assert answer.status_code == 200, answer.text
    vectors = np.array([item["embedding"] for item in answer.json()["data"]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_many_texts_keep_their_order(client: httpx.Client) -> None:
    texts = [f"{n % 7}" for n in range(300)]
    data = client.post("/embeddings", json={"input": texts}).json()["data"]
    vectors = np.array([item["embedding"] for item in data], np.float32)
    assert vectors.shape == (300, 384)
    for n in (7, 100, 299):
        assert vectors[n] @ vectors[n % 7] > 0.999
        assert vectors[n] @ vectors[(n + 1) % 7] < 0.999


def test_it_answers_while_the_service_indexes(client: httpx.Client, data_dir: Path, tmp_path: Path) -> None:
    for number in range(60):
        text = "\n\n".join(f"Note {number}.{line}: {PASSAGES[line % 4]} " * 8 for line in range(10))
        (tmp_path / f"{number}.md").write_text(text, encoding="utf-8")
    with IndexerClient(data_dir) as indexer:
        indexer.add_folder(tmp_path)
        for status in indexer.watch():
            if status.state == "indexing" and status.tokens_per_s:
                break
    with IndexerClient(data_dir) as indexer:
        for number in range(5):
            assert client.post("/embeddings", json={"input": f"meanwhile {number}"}).status_code == 200
        assert indexer.status().waiting
        indexer.remove_folder(tmp_path)


# --- who may use it ---------------------------------------------------------------------------------------


def test_without_the_key_there_is_nothing_but_health(serving: Serving) -> None:
    with httpx.Client(base_url=serving.url, trust_env=False) as client:
        for authorization in ("", KEY, "Bearer", "Bearer wrong", f"Basic {KEY}", "Bearer \xff"):
            headers = httpx.Headers({"Authorization": authorization}, encoding="latin-1")
            answer = client.post("/embeddings", json={"input": "a"}, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/models").status_code == 401
        health = client.get(f"http://127.0.0.1:{serving.port}/health")
        assert health.json() == {"status": "ok", "model": "multilingual-e5-small"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1"}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "LOCALHOST."}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "127.0.0.1.evil.example"}, 421),
        ({"Host": "evil.example"}, 421),
        ({"Host": "192.0.2.7"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8765"}, 403),
    ],
)
def test_web_pages_are_kept_out(client: httpx.Client, headers: dict[str, str], status: int) -> None:
    assert client.get("/models", headers=headers).status_code == status
    assert "access-control-allow-origin" not in client.get("/models", headers=headers).headers


def test_other_machines_need_a_key_that_is_made(data_dir: Path, serving: Serving) -> None:
    other = Serving(data_dir, "--host", "0.0.0.0", "--allow-origin", "https://good.example")
    assert other.process.stdout is not None
    key = other.process.stdout.readline().rpartition(" ")[2].strip()
    assert len(key) >= 32
    good, evil = {"Origin": "https://good.example"}, {"Origin": "https://evil.example"}
    with httpx.Client(base_url=other.url, trust_env=False) as client:
        assert client.get("/models").status_code == 401
        client.headers["Authorization"] = f"Bearer {key}"
        assert client.get("/models").status_code == 200
        assert client.get("/models", headers={"Host": "192.0.2.7:8765"}).status_code == 200
        assert client.get("/models", headers={"Host": socket.gethostname()}).status_code == 200
        assert client.get("/models", headers={"Host": "evil.example"}).status_code == 421
        allowed = client.get("/models", headers=good)
        assert allowed.headers["access-control-allow-origin"] == "https://good.example"
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        del client.headers["Authorization"]
        assert client.options("/embeddings", headers={**good, **asks}).status_code == 200
        assert client.options("/embeddings", headers={**evil, **asks}).status_code == 403
    assert other.end() == 0
    assert key not in other.rest + other.errors


def test_a_port_that_is_taken_is_told(data_dir: Path, serving: Serving) -> None:
    command = [sys.executable, "-m", "indexer.cli", "serve", "--data-dir", str(data_dir)]
    taken = subprocess.run(
        [*command, "--port", str(serving.port)], capture_output=True, text=True, timeout=60
    )
    assert taken.returncode == 1
    assert "The address cannot be used" in taken.stderr
    wrong = subprocess.run([*command, "--host", "192.0.2.1"], capture_output=True, text=True, timeout=60)
    assert wrong.returncode == 1
    assert "Traceback" not in wrong.stderr


def test_ctrl_c_finishes_what_is_under_way(data_dir: Path, serving: Serving) -> None:
    other = Serving(data_dir)
    body = b'{"input": [' + b", ".join(b'"some words to embed %d"' % n for n in range(200)) + b"]}"
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", other.port), timeout=60) as connection:
        connection.sendall(head.encode())
        # Only now it is sure that the request was taken, and not merely waits to be.
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        other.process.send_signal(signal.SIGINT)
        connection.sendall(body)
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert other.process.wait(30) == 0
    assert other.end() == 0


# --- embedding together -------------------------------------------------------------------------------------


class FakeService:
    """A service that embeds when it is let; it keeps the messages that it was sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.messages: list[api.Embed] = []
        self.let = asyncio.Event()
        self.answer: Callable[[api.Embed], api.Reply | None] = self.good
        self.model = "fake"
        self.waiting = 0
        self._writers: list[asyncio.StreamWriter] = []

    def good(self, asked: api.Embed) -> api.Embedded:
        rows = np.array([[len(text), float(text)] for text in asked.texts], "<f4")
        return api.Embedded(
            id=asked.id, model=self.model, dimensions=2, vectors=rows.tobytes(), tokens=(1,) * len(rows)
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        await reader.readline()
        writer.write(api.encode(api.Welcome(version=api.PROTOCOL_VERSION, pid=1, release="1")))
        while line := await reader.readline():
            assert len(line) <= api.MAX_REQUEST_BYTES
            request = api.decode_request(line)
            assert isinstance(request, api.Embed)
            self.messages.append(request)
            await self.let.wait()
            reply = self.answer(request)
            if reply is None:
                break
            writer.write(api.encode(reply))
        writer.close()


@asynccontextmanager
async def asking(tmp_path: Path) -> AsyncIterator[tuple[FakeService, httpx.AsyncClient]]:
    """The application in this process, in front of a fake service."""
    fake = FakeService(tmp_path)
    address = str(tmp_path / "s")
    listener = await asyncio.start_unix_server(fake.serve, address, limit=api.MAX_REQUEST_BYTES)
    (tmp_path / ENDPOINT_FILE).write_text(json.dumps({"address": address, "key": "k"}))
    embed = http._Together.embed

    async def counted(self: http._Together, texts: list[str], how: http._How) -> http._Found:
        fake.waiting += 1
        return await embed(self, texts, how)

    patch = pytest.MonkeyPatch()
    patch.setattr(http._Together, "embed", counted)
    app = http.create_app(tmp_path, http.Door())
    transport = httpx.ASGITransport(app=app)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1/v1", timeout=60) as client,
        app.router.lifespan_context(app),
    ):
        yield fake, client
    patch.undo()
    listener.close()
    await listener.wait_closed()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def post(client: httpx.AsyncClient, *numbers: int, **more: Any) -> asyncio.Task[httpx.Response]:
    body = {"input": [str(number) for number in numbers], **more}
    return asyncio.create_task(client.post("/embeddings", json=body))


def numbers_of(answer: httpx.Response) -> list[int]:
    assert answer.status_code == 200, answer.text
    return [int(item["embedding"][1]) for item in answer.json()["data"]]


def test_requests_that_come_while_the_model_works_are_embedded_together(tmp_path: Path) -> None:
    async def run() -> None:
        async with asking(tmp_path) as (fake, client):
            first = [post(client, 0), post(client, 1)]
            await until(lambda: len(fake.messages) == 1)
            others = [post(client, number, number + 1000) for number in range(2, 100)]
            queries = [post(client, number, input_type="query") for number in range(100, 110)]
            await until(lambda: fake.waiting == 110)
            fake.let.set()
            answers = await asyncio.gather(*first, *others, *queries)
            assert [numbers_of(answer)[0] for answer in answers] == list(range(110))
            assert all(numbers_of(answer)[1] == n + 1000 for n, answer in enumerate(answers[2:100], 2))
            assert {answer.json()["usage"]["total_tokens"] for answer in answers} == {1, 2}
            assert len(fake.messages) < 20  # 110 requests
            assert {message.kind for message in fake.messages} == {"query", "passage"}
            assert sum(len(message.texts) for message in fake.messages) == 2 + 2 * 98 + 10

    asyncio.run(run())


def test_a_large_request_does_not_hold_up_small_ones(tmp_path: Path) -> None:
    async def run() -> None:
        async with asking(tmp_path) as (fake, client):
            large = post(client, *range(http.MAX_INPUTS))
            await until(lambda: len(fake.messages) == 1)
            small = [post(client, number) for number in range(5000, 5020)]
            await until(lambda: fake.waiting == 21)
            fake.let.set()
            for answer, number in zip(await asyncio.gather(*small), range(5000, 5020), strict=True):
                assert numbers_of(answer) == [number]
            in_messages = [n for n, message in enumerate(fake.messages) if "5000" in message.texts]
            assert in_messages[0] <= 3
            assert numbers_of(await large) == list(range(http.MAX_INPUTS))

    asyncio.run(run())


def test_one_request_that_fails_does_not_spoil_the_others(tmp_path: Path) -> None:
    async def run() -> None:
        async with asking(tmp_path) as (fake, client):
            fake.answer = lambda asked: (
                api.Failed(id=asked.id, title="No", message="Not that one.")
                if "13" in asked.texts
                else fake.good(asked)
            )
            waiting = [post(client, 0), post(client, 1)]
            await until(lambda: len(fake.messages) == 1)
            waiting += [post(client, number) for number in range(2, 30)]
            await until(lambda: fake.waiting == 30)
            fake.let.set()
            answers = await asyncio.gather(*waiting)
            assert [answer.status_code for answer in answers] == [200] * 13 + [503] + [200] * 16
            assert "Not that one" in answers[13].json()["error"]["message"]

    asyncio.run(run())


def test_a_service_that_was_restarted_is_asked_again(tmp_path: Path) -> None:
    async def run() -> None:
        async with asking(tmp_path) as (fake, client):
            fake.let.set()
            assert numbers_of(await post(client, 1)) == [1]
            dropped = iter([True])
            fake.answer = lambda asked: None if next(dropped, False) else fake.good(asked)
            assert numbers_of(await post(client, 2)) == [2]
            assert len(fake.messages) == 3

    asyncio.run(run())


def test_a_switch_of_models_in_the_middle_of_a_request_is_told(tmp_path: Path) -> None:
    async def run() -> None:
        async with asking(tmp_path) as (fake, client):

            def switching(asked: api.Embed) -> api.Embedded:
                answer = fake.good(asked)
                return msgspec.structs.replace(answer, model="other") if "999" in asked.texts else answer

            fake.answer = switching
            fake.let.set()
            answer = await post(client, *range(1000))
            assert answer.status_code == 503
            assert "model was changed" in answer.json()["error"]["message"]

    asyncio.run(run())


def test_long_texts_are_sent_in_several_messages(tmp_path: Path) -> None:
    async def run() -> None:
        async with asking(tmp_path) as (fake, client):
            fake.let.set()
            texts = ["1" + " " * 300_000 + "\n" * 10_000 for _ in range(12)]
            answer = await client.post("/embeddings", json={"input": texts})
            assert numbers_of(answer) == [1] * 12
            assert len(fake.messages) >= 4

    asyncio.run(run())
