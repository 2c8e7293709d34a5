"""Vectors on a real Chroma server: filled, searched, away, emptied, shared, behind a token and TLS."""

from __future__ import annotations

import http.client
import http.server
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from indexer.document import Chunk
from indexer.errors import IndexerError
from indexer.settings import ChromaServer
from indexer.store import FileUpdate, ModelKey, Store
from tests.unit.test_store import ROOT, chunk

DIM = 32
MODEL = ModelKey("server-model-1", DIM)
WAIT_S = 60


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait(condition: Callable[[], bool], seconds: float = WAIT_S) -> None:
    deadline = time.monotonic() + seconds
    beat = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be"
        beat.wait(0.05)


class Chroma:
    """`chroma run`, which can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, data: str = "data") -> None:
        program = Path(sys.executable).with_name("chroma")
        command = [str(program), "run", "--path", str(self.folder / data), "--port", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1"], stdout=log, stderr=log, cwd=self.folder
            )
        wait(self.answers)

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/api/v2/heartbeat")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def collections(self, tenant: str = "default_tenant", database: str = "default_database") -> list[str]:
        import json

        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", f"/api/v2/tenants/{tenant}/databases/{database}/collections")
        found = [one["name"] for one in json.loads(connection.getresponse().read())]
        connection.close()
        return sorted(found)


@pytest.fixture(autouse=True)
def asks_whatever_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library as small as these would be searched exactly, which is quicker."""
    monkeypatch.setattr("indexer.store.vectors._ASKING_US", 0.0)
    monkeypatch.setattr("indexer.store.vectors._CANDIDATE_US", 0.0)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chroma]:
    chroma = Chroma(tmp_path_factory.mktemp("chroma"))
    chroma.start()
    yield chroma
    chroma.kill()


def vector(number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    row = np.random.default_rng(number).standard_normal(DIM).astype(np.float32)
    unit: np.ndarray[tuple[int], np.dtype[np.float32]] = row / np.linalg.norm(row)
    return unit


def fill(store: Store, first: int, last: int) -> None:
    chunks = {number: chunk(f"text {number}") for number in range(first, last)}
    updates = [
        FileUpdate(f"{ROOT}/{number}.txt", ROOT, 1, 1, b"%16d" % number, "text", None, "", (one,))
        for number, one in chunks.items()
    ]
    by_hash: dict[bytes, Chunk] = {one.text_hash: one for one in chunks.values()}
    assert len(by_hash) == len(chunks)
    store.replace(updates, {one.text_hash: vector(number) for number, one in chunks.items()})


def opened(folder: Path, server: ChromaServer) -> Store:
    store = Store(folder, server)
    store.use_model(MODEL)
    store.add_root(ROOT)
    return store


def texts(store: Store, number: int, k: int = 5) -> list[str]:
    found = store.nearest(vector(number), k)
    rows = store.chunks([one.chunk for one in found])
    return [rows[one.chunk].text for one in found]


def right(store: Store, numbers: range) -> None:
    """All vectors are found, by whoever serves, as exact search finds them."""
    for number in numbers:
        assert texts(store, number, 1) == [f"text {number}"]


def test_a_server_serves_and_a_library_moves_to_it_and_back(tmp_path: Path, shared: Chroma) -> None:
    store = opened(tmp_path / "data", ChromaServer())
    try:
        fill(store, 0, 700)
        assert store.wait_accelerator(WAIT_S)
        store.use_chroma(ChromaServer(url=shared.url))
        assert store.wait_accelerator(WAIT_S)
        assert store.accelerator == "chroma"
        assert len(shared.collections()) == 1
        assert not [p for p in (tmp_path / "data/chroma").iterdir() if p.is_dir()], "nothing is left behind"
        right(store, range(0, 700, 50))
        fill(store, 700, 800)
        assert store.wait_accelerator(WAIT_S)
        right(store, range(690, 800, 10))
        assert store.check() == []
        store.use_chroma(ChromaServer())
        assert store.wait_accelerator(WAIT_S)
        assert shared.collections() == [], "nothing of ours is left on the server"
        right(store, range(0, 800, 100))
    finally:
        store.close()


def test_libraries_share_a_server_and_tenants_are_made(tmp_path: Path, shared: Chroma) -> None:
    first = opened(tmp_path / "one", ChromaServer(url=shared.url))
    second = opened(tmp_path / "two", ChromaServer(url=shared.url))
    third = opened(tmp_path / "three", ChromaServer(url=shared.url, tenant="ann", database="notes-of-ann"))
    try:
        fill(first, 0, 120)
        fill(second, 1000, 1050)
        fill(third, 2000, 2080)
        for store in (first, second, third):
            assert store.wait_accelerator(WAIT_S)
        assert len(shared.collections()) == 2
        assert len(shared.collections("ann", "notes-of-ann")) == 1
        right(first, range(0, 120, 20))
        right(second, range(1000, 1050, 10))
        right(third, range(2000, 2080, 20))
        second.use_chroma(ChromaServer())
        assert len(shared.collections()) == 1
        right(first, range(0, 120, 20))
    finally:
        for store in (first, second, third):
            store.close()
    again = opened(tmp_path / "one", ChromaServer(url=shared.url))
    try:
        assert again.wait_accelerator(WAIT_S)
        right(again, range(0, 120, 20))
    finally:
        again.close()


def test_a_lost_connection_queues_writes_and_goes_on(tmp_path: Path) -> None:
    chroma = Chroma(tmp_path)
    chroma.start()
    store = opened(tmp_path / "library", ChromaServer(url=chroma.url))
    try:
        fill(store, 0, 400)
        assert store.wait_accelerator(WAIT_S)
        chroma.kill()
        fill(store, 400, 450)
        right(store, range(0, 450, 30))
        wait(lambda: [n.title for n in store.notices()] == ["The Chroma server is away"])
        assert store.accelerator == "exact"
        chroma.start()
        assert store.wait_accelerator(WAIT_S)
        assert store.notices() == []
        right(store, range(0, 450, 30))
        assert store.check() == []
        # It comes back without anything: all is sent again from the catalog.
        chroma.kill()
        chroma.start("empty")
        assert texts(store, 7, 1) == ["text 7"]
        fill(store, 450, 460)
        wait(lambda: store.wait_accelerator(1) and len(chroma.collections()) == 1)
        right(store, range(0, 460, 30))
        assert store.check() == []
    finally:
        store.close()
        chroma.kill()


def test_killed_in_the_middle_of_writing(tmp_path: Path) -> None:
    chroma = Chroma(tmp_path)
    chroma.start()
    store = opened(tmp_path / "library", ChromaServer(url=chroma.url))
    try:
        filling = threading.Thread(target=fill, args=(store, 0, 3000))
        filling.start()
        wait(lambda: store.counts().chunks > 1000)
        chroma.kill()
        chroma.start()
        filling.join()
        assert store.wait_accelerator(WAIT_S)
        right(store, range(0, 3000, 250))
        assert store.check() == []
    finally:
        store.close()
        chroma.kill()


# --- a token, TLS, and what may go wrong ------------------------------------------------------------


class Gate(http.server.BaseHTTPRequestHandler):
    """A reverse proxy that asks for a token, as a team would put one before its server."""

    upstream = 0
    token = "Bearer a-secret"
    delay: threading.Event | None = None
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.delay is not None:
            self.delay.wait(20)
        status, data = 401, b"{}"
        if self.headers.get("Authorization") == self.token:
            connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=30)
            connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            status, data = answer.status, answer.read()
            connection.close()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _pass_on  # noqa: N815  the base class's way

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def gate(shared: Chroma, tmp_path: Path) -> Iterator[tuple[str, Path, type[Gate]]]:
    kind = type("TheGate", (Gate,), {"upstream": shared.port})
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", certificate, kind
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_token_over_a_private_connection(tmp_path: Path, gate: tuple[str, Path, type[Gate]]) -> None:
    url, certificate, _ = gate
    good = ChromaServer(url=url, token="a-secret", certificate=str(certificate), database="gated")
    store = opened(tmp_path / "library", good)
    try:
        fill(store, 0, 50)
        assert store.wait_accelerator(WAIT_S)
        right(store, range(0, 50, 10))
    finally:
        store.close()


@pytest.mark.parametrize(
    ("wrong", "title"),
    [
        ({"token": "another"}, "The Chroma server does not let Dragoman in"),
        ({"certificate": ""}, "The Chroma server is away"),
        ({"certificate": "/nowhere.pem"}, "The certificate for the Chroma server cannot be read"),
    ],
)
def test_what_is_wrong_is_said_and_exact_search_serves(
    tmp_path: Path,
    gate: tuple[str, Path, type[Gate]],
    wrong: dict[str, str],
    title: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url, certificate, _ = gate
    good = {"url": url, "token": "a-secret", "certificate": str(certificate), "database": "gated"}
    store = opened(tmp_path / "library", msgspec.convert(good | wrong, ChromaServer))
    try:
        fill(store, 0, 50)
        wait(lambda: [notice.title for notice in store.notices()] == [title])
        right(store, range(0, 50, 10))
        assert "a-secret" not in caplog.text
        assert "another" not in caplog.text
        if wrong == {"certificate": ""}:
            assert "certificate" in store.notices()[0].message
    finally:
        store.close()


def test_a_slow_server_does_not_slow_searches(tmp_path: Path, gate: tuple[str, Path, type[Gate]]) -> None:
    url, certificate, kind = gate
    server = ChromaServer(url=url, token="a-secret", certificate=str(certificate), database="slow")
    store = opened(tmp_path / "library", server)
    try:
        fill(store, 0, 200)
        assert store.wait_accelerator(WAIT_S)
        kind.delay = threading.Event()
        right(store, range(0, 1))
        assert store.accelerator == "exact", "it is not asked again for a while"
        right(store, range(0, 200, 10))
    finally:
        assert kind.delay is not None
        kind.delay.set()
        store.close()


@pytest.mark.parametrize(
    "server",
    [
        ChromaServer(url="127.0.0.1:8000"),
        ChromaServer(url="ftp://127.0.0.1"),
        ChromaServer(url="http://"),
        ChromaServer(url="http://127.0.0.1:port"),
        ChromaServer(url="http://192.168.1.9:8000"),
        ChromaServer(url="http://chroma.example.org"),
        ChromaServer(url="http://127.0.0.1.example.org"),
        ChromaServer(url="https://chroma.example.org", tenant="../other"),
        ChromaServer(url="https://chroma.example.org", database="x"),
        ChromaServer(url="https://chroma.example.org", token="a\nb"),
        ChromaServer(url="https://chroma.example.org", token_header="X Y"),
    ],
)
def test_addresses_that_are_none_or_not_private_are_refused(tmp_path: Path, server: ChromaServer) -> None:
    store = opened(tmp_path / "library", ChromaServer())
    try:
        with pytest.raises(IndexerError):
            store.use_chroma(server)
        assert store.wait_accelerator(WAIT_S)
    finally:
        store.close()


def test_something_else_that_answers_is_not_taken_for_chroma(tmp_path: Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    store = opened(tmp_path / "library", ChromaServer(url=f"http://127.0.0.1:{server.server_port}"))
    try:
        fill(store, 0, 20)
        wait(lambda: bool(store.notices()))
        right(store, range(20))
    finally:
        store.close()
        server.shutdown()
        server.server_close()
        thread.join()
