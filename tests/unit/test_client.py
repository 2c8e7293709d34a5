"""The client, with services that it cannot speak with."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from indexer import client
from indexer.client import IndexerClient, stop_service
from indexer.errors import FatalError

# A service as one of another release is for us: it owns the library, listens, and refuses or says nothing.
STRANGER = """
import fcntl, json, os, pathlib, signal, socket, sys
folder, address, owns, speaks = pathlib.Path(sys.argv[1]), *sys.argv[2:5]
if owns == "owns":
    lock = open(folder / "service.lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
listener = socket.socket(socket.AF_UNIX)
listener.bind(address)
listener.listen()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
(folder / "service.json").write_text(json.dumps({"address": address, "key": "k", "pid": os.getpid()}))
print("listening", flush=True)
kept = []
while True:
    peer, _ = listener.accept()
    kept.append(peer)
    if speaks == "refuses" and peer.recv(1000):
        refusal = {"type": "Failed", "id": 0, "title": "Another version is running", "message": "9"}
        peer.sendall(json.dumps(refusal).encode() + b"\\n")
"""


@contextmanager
def stranger(folder: Path, *, owns: bool = True, speaks: bool = True) -> Iterator[subprocess.Popen[str]]:
    with tempfile.TemporaryDirectory(prefix="s-") as short:
        kind = ("owns" if owns else "lies", "refuses" if speaks else "silent")
        process = subprocess.Popen(
            [sys.executable, "-c", STRANGER, str(folder), f"{short}/s", *kind],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        with process, process.stdout:
            assert process.stdout.readline() == "listening\n"
            try:
                yield process
            finally:
                process.kill()


def test_a_service_of_another_release_can_be_stopped(tmp_path: Path) -> None:
    with stranger(tmp_path) as process:
        with pytest.raises(FatalError, match="Another version"):
            IndexerClient(tmp_path, start=False)
        assert stop_service(tmp_path)
        assert process.wait(10) == 0, "it ended in good order"
    assert not stop_service(tmp_path)


def test_a_service_that_says_nothing_is_called_busy_and_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.3)
    with stranger(tmp_path, speaks=False) as process:
        with pytest.raises(FatalError, match="does not answer"):
            IndexerClient(tmp_path, start=False)
        assert stop_service(tmp_path)
        assert process.wait(10) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only there it is known who has a lock")
def test_a_service_whose_files_may_not_be_looked_into_can_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an encrypted library, and where the file is spoiled that says where it listens."""

    def denied(self: psutil.Process) -> None:
        raise psutil.AccessDenied(self.pid)

    monkeypatch.setattr(psutil.Process, "open_files", denied)
    with stranger(tmp_path) as process:
        (tmp_path / "service.json").write_bytes(b"\xff{")
        assert stop_service(tmp_path)
        assert process.wait(10) == 0
    assert not stop_service(tmp_path)


def test_a_process_that_is_no_service_is_left_alone(tmp_path: Path) -> None:
    with stranger(tmp_path, owns=False) as process:
        with pytest.raises(FatalError, match="Another version"):
            stop_service(tmp_path)
        assert process.poll() is None


def test_a_service_that_does_not_end_is_named(tmp_path: Path) -> None:
    with stranger(tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        pid = json.loads((tmp_path / "service.json").read_text())["pid"]
        with pytest.raises(FatalError, match=f"kill -9 {pid}"):
            client._end(pid, 0.2)
        assert client._owner(tmp_path) == pid
