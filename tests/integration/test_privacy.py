"""Nothing leaves the machine, and no log tells: the whole program, watched from below and from within."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import sockets
from tests.end2end import private

WATCHABLE = sockets.unavailable()
pytestmark = pytest.mark.skipif(bool(WATCHABLE), reason=f"sockets cannot be watched: {WATCHABLE}")


@pytest.fixture(scope="module")
def seen() -> Iterator[private.Seen]:
    # Not pytest's folder: a socket's path has to be short.
    with tempfile.TemporaryDirectory(prefix="private-") as folder:
        yield private.watch(Path(folder))


def test_no_socket_but_the_services_own_is_used(seen: private.Seen) -> None:
    assert seen.refused == []
    used = {(attempt.call, attempt.family) for attempt in seen.attempts}
    assert ("connect", "AF_UNIX") in used  # it was watched indeed
    assert seen.served == 1  # and the door that was opened answered


def test_python_looks_up_no_name_and_opens_no_address(seen: private.Seen) -> None:
    assert seen.suspicious == []
    programs = " ".join(" ".join(map(str, note["program"])) for note in seen.audited)  # type: ignore[call-overload]
    for program in ("indexer.service", "chroma_child", "indexer.cli", "tests.end2end.private"):
        assert program in programs


def test_who_is_referred_to_by_files_hears_nothing(seen: private.Seen) -> None:
    assert seen.heard == []


def test_logs_hold_no_question_no_text_and_no_name(seen: private.Seen) -> None:
    assert "service.log" in seen.logs
    assert seen.quoting(private.ASKED, private.WRITTEN, private.NAMED) == []


def test_files_are_their_owners_whatever_the_mask(seen: private.Seen) -> None:
    assert seen.open_to_others == []


# --- the watch itself can see -------------------------------------------------------------------------

_NATIVE = """
import ctypes, os, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.socket(2, 1, 0) == -1 and ctypes.get_errno() == 13
assert libc.socket(1, 1, 0) >= 0
assert libc.connect(libc.socket(1, 1, 0), b"\\1\\0/tmp/elsewhere\\0", 18) == -1
os.fork() or os._exit(libc.socket(10, 2, 0) != -1)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
_PYTHON = """
import socket, subprocess, sys
try: socket.create_connection(("127.0.0.1", 9))
except PermissionError: pass
try: socket.socket(socket.AF_UNIX).connect("\\0abstract")
except PermissionError: pass
"""


def test_native_code_and_detached_children_are_seen_and_refused() -> None:
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_NATIVE!r}], check=True)"
    status, attempts = sockets.run([sys.executable, "-c", outer], lambda _: False, start_new_session=True)
    assert status == 0
    seen = [(attempt.call, attempt.family, attempt.address) for attempt in attempts]
    assert seen == [
        ("socket", "AF_INET", ""),
        ("connect", "AF_UNIX", "/tmp/elsewhere"),
        ("socket", "AF_INET6", ""),
    ]


def test_what_python_does_is_seen_from_below_and_from_within(tmp_path: Path) -> None:
    audit = tmp_path / "audit"
    environment = {**os.environ, "PYTHONPATH": str(private.HOOKS), "DRAGOMAN_AUDIT": str(audit)}
    status, attempts = sockets.run([sys.executable, "-c", _PYTHON], lambda _: False, env=environment)
    assert status == 0
    assert [(a.call, a.address) for a in attempts] == [("socket", ""), ("connect", "@abstract")]
    noted = [json.loads(line)["event"] for line in audit.read_text(encoding="utf-8").splitlines()]
    assert {"began", "socket.getaddrinfo", "socket.connect"} <= set(noted)
    notes = [json.loads(line) for line in audit.read_text(encoding="utf-8").splitlines()]
    assert private.Seen(audited=notes).suspicious


def test_what_is_allowed_goes_through(tmp_path: Path) -> None:
    code = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1])"
    _, attempts = sockets.run([sys.executable, "-c", code], lambda _: True, stdout=subprocess.DEVNULL)
    assert [(a.call, a.allowed) for a in attempts] == [("socket", True), ("bind", True)]
