"""The HTTP door as raw bytes meet it: half requests, floods of headers, large bodies, odd paths."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from indexer import http

KEY = "the-key"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[int]:
    """A door with a key and little patience; nothing is behind it."""
    monkeypatch.setattr(http, "_HEAD_S", 0.2)
    monkeypatch.setattr(http, "_BODY_S", 0.4)
    app = http.create_app(tmp_path, http.Door(key=KEY))
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=http._hurried(), lifespan="off", log_config=None, loop="asyncio", limit_concurrency=50
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


def say(port: int, data: bytes) -> bytes:
    """Send something and take what comes until the other side hangs up, or is silent for a while."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
        answer = b""
        with contextlib.suppress(OSError):
            wire.sendall(data)
        with contextlib.suppress(OSError):
            while piece := wire.recv(1 << 16):
                answer += piece
        return answer


def head(path: str, *more: str, host: str = "127.0.0.1", key: str = KEY, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {key}", *more]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


@pytest.mark.parametrize("half", [b"", b"GET", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "])
def test_who_never_finishes_the_head_is_given_up(port: int, half: bytes) -> None:
    assert say(port, half) == b""


def test_a_crowd_of_half_requests_does_not_keep_others_out_for_long(port: int) -> None:
    crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
    for wire in crowd:
        wire.sendall(b"GET / HTTP/1.1\r\n")
    for wire in crowd:
        wire.settimeout(10)
        with contextlib.suppress(ConnectionResetError):
            assert wire.recv(100) == b""
        wire.close()
    assert status(say(port, head("/v1/nothing"))) == 404


def test_a_half_request_after_a_whole_one_is_given_up(port: int) -> None:
    whole = head("/v1/nothing").replace(b"Connection: close\r\n", b"")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as wire:
        wire.sendall(whole)
        answer = b""
        while not answer.endswith(b"}}"):
            answer += wire.recv(1 << 16)
        wire.sendall(b"GET /hea")
        with contextlib.suppress(ConnectionResetError):
            assert wire.recv(100) == b""


def test_a_body_that_does_not_come_is_told_so(port: int) -> None:
    begun = head("/v1/embeddings", "Content-Length: 100", method="POST") + b'{"input": '
    assert status(say(port, begun)) == 408


def test_floods_are_refused(port: int) -> None:
    many = head("/v1/nothing", *(f"X-{number}: {'y' * 100}" for number in range(20_000)))
    assert status(say(port, many)) in (0, 400, 404, 431)
    assert status(say(port, head("/" + "a" * 1_000_000))) in (0, 400, 404, 414, 431)
    length = http.MAX_BODY_BYTES + 1
    body = head("/v1/embeddings", f"Content-Length: {length}", method="POST") + b" " * length
    assert status(say(port, body)) in (0, 413)
    assert status(say(port, head("/v1/nothing"))) == 404


@pytest.mark.parametrize(
    ("request_head", "wanted"),
    [
        (head("/v1/models", key="wrong"), 401),
        (head("/v1/models", key=""), 401),
        (head("/v1/models", key=KEY + "é"), 401),
        (head("/health/../v1/models", key="wrong"), 401),
        (head("/%2e%2e/%2e%2e/etc/passwd"), 404),
        (head("/v1/../../etc/passwd"), 404),
        (head("//v1/nothing"), 404),
        (head("http://127.0.0.1/v1/models", key="wrong"), 401),
        (head("http://evil.example/health", host="evil.example", key="wrong"), 421),
        (head("/health", host="evil.example:80"), 421),
        (head("/health", host="127.0.0.1@evil.example"), 421),
        (head("/health", host="localhost.evil.example"), 421),
        (head("/v1/models", "Origin: https://evil.example"), 403),
        (head("/v1/models", "Origin: null"), 403),
        (head("/v1/models", "Origin: https://evil.example", method="OPTIONS"), 403),
        (head("/v1/embeddings", method="TRACE"), 404),
    ],
)
def test_who_may_not_come_in_is_told_why(port: int, request_head: bytes, wanted: int) -> None:
    answer = say(port, request_head)
    assert status(answer) == wanted or (wanted == 404 and status(answer) in (400, 405))
    assert b"access-control-" not in answer.lower()
    assert b"root:" not in answer


def test_two_hosts_are_not_a_way_in(port: int) -> None:
    both = head("/v1/nothing", "Host: evil.example")
    assert status(say(port, both)) in (400, 404, 421)
    turned = head("/v1/nothing", "Host: 127.0.0.1", host="evil.example")
    assert status(say(port, turned)) in (400, 421)
