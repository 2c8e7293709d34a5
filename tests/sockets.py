"""Run a program, with all that it starts, so that every use of a socket is seen, and refused unless allowed.

`python -m tests.sockets -- COMMAND...` prints what COMMAND tried. A seccomp filter stops each thread of it
in front of the calls that name a peer or make a socket other than a local one, and asks us
(`seccomp_unotify(2)`, Linux 5.5). So native code is seen like Python's, in children and grandchildren. What
it does not see: calls that a program's own seccomp filter refuses first, since the stricter answer wins;
those fail, but unrecorded. The audit hook in `tests/hooks` sees Python's attempts there, too.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import ipaddress
import os
import platform
import secrets
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

_CALLS = {
    "x86_64": (
        0xC000003E,
        {"socket": 41, "connect": 42, "sendto": 44, "sendmsg": 46, "bind": 49, "sendmmsg": 307},
        317,
    ),
    "aarch64": (
        0xC00000B7,
        {"socket": 198, "bind": 200, "connect": 203, "sendto": 206, "sendmsg": 211, "sendmmsg": 269},
        277,
    ),
}
_IO_URING_SETUP = 425  # its rings make calls that no filter sees
_NO_NEW_PRIVS, _SET_MODE_FILTER, _NEW_LISTENER = 38, 1, 1 << 3
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_ALLOW, _ASK = 0x7FFF0000, 0x7FC00000
_CONTINUE = 1
_NOTIFICATION = struct.Struct("<QIIiIQ6Q")
_ANSWER = struct.Struct("<QqiI")
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K


class Attempt(NamedTuple):
    """One use of a socket.

    Attributes:
        program: The command line of who did it.
        call: Which system call.
        family: ``AF_INET`` and the like, or its number.
        address: Path of a local socket (``@name`` for an abstract one), or address and port.
        allowed: Whether it was let through.
    """

    program: str
    call: str
    family: str
    address: str
    allowed: bool


Allowed = Callable[[Attempt], bool]


def unavailable() -> str:
    """Why nothing can be watched here; empty when it can."""
    if sys.platform != "linux" or platform.machine() not in _CALLS:
        return "seccomp's notifications are Linux's, on x86-64 and ARM"
    try:
        run([sys.executable, "-c", ""], lambda _: True)
    except OSError as error:
        return f"the kernel refuses: {error}"
    return ""


def run(
    command: Sequence[str], allowed: Allowed, *, timeout: float = 600.0, **more: Any
) -> tuple[int, list[Attempt]]:
    """Run a command and watch it until it and everything it has started has ended.

    Args:
        command: What to run.
        allowed: Which attempts are let through. Local sockets without a name (pairs) are not asked about.
        timeout: Seconds.
        more: Passed to `subprocess.Popen`.

    Returns:
        Its exit status, and every attempt.

    Raises:
        OSError: The kernel has no such thing, or forbids it.
        TimeoutError: Something still runs.
    """
    watch = _Watch(command, allowed, more)
    watch.follow(timeout)
    return watch.status, watch.attempts


class _Watch:
    def __init__(self, command: Sequence[str], allowed: Allowed, more: dict[str, Any]) -> None:
        self._command, self._allowed, self._more = command, allowed, more
        self._mark = secrets.token_hex(8)
        self._more["env"] = {**more.get("env", os.environ), "DRAGOMAN_WATCHED": self._mark}
        self.attempts: list[Attempt] = []
        self.status = -1
        self._listener = -1
        self._error: OSError | None = None
        self._began = threading.Event()
        _, numbers, _ = _CALLS[platform.machine()]
        self._names = {number: name for name, number in numbers.items()} | {_IO_URING_SETUP: "io_uring_setup"}
        # Filters are a thread's: this one and what it starts are watched, the rest of this process is not.
        self._thread = threading.Thread(target=self._start, daemon=True)
        self._thread.start()
        self._began.wait()
        if self._error is not None:
            raise self._error

    def _start(self) -> None:
        try:
            self._listener = _install()
            process = subprocess.Popen(self._command, **self._more)
        except OSError as error:
            self._error = error
            return
        finally:
            self._began.set()
        self.status = process.wait()

    def follow(self, timeout: float) -> None:
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        deadline = time.monotonic() + timeout
        try:
            while time.monotonic() < deadline:
                events = poll.poll(1000 * max(0.0, deadline - time.monotonic()))
                if any(event & select.POLLIN for _, event in events):
                    self._next()
                elif any(event & select.POLLHUP for _, event in events):
                    self._thread.join()
                    return
            raise TimeoutError(f"{self._command[0]} or what it started still runs: {self._kill()}")
        finally:
            os.close(self._listener)

    def _kill(self) -> list[str]:
        """End what still runs; its command lines."""
        import psutil

        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("DRAGOMAN_WATCHED") == self._mark:
                    found.append(" ".join(process.cmdline())[:200])
                    process.kill()
        return found

    def _next(self) -> None:
        buffer = bytearray(_NOTIFICATION.size)
        try:
            _ioctl(self._listener, _RECEIVE, buffer)
        except OSError:  # whoever asked was killed meanwhile
            return
        number, pid, _, call, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        attempt = self._describe(pid, call, arguments)
        error, flags = 0, _CONTINUE
        if attempt is not None:
            good = self._allowed(attempt)
            self.attempts.append(attempt._replace(allowed=good))
            if not good:
                error, flags = -errno.EACCES, 0
        with contextlib.suppress(OSError):
            _ioctl(self._listener, _SEND, bytearray(_ANSWER.pack(number, 0, error, flags)))

    def _describe(self, pid: int, call: int, arguments: Sequence[int]) -> Attempt | None:
        name = self._names.get(call, f"call {call} of another architecture")
        program = _program(pid)
        if name == "socket":
            return Attempt(program, name, _family(arguments[0] & 0xFFFFFFFF), "", False)
        try:
            if name in {"connect", "bind"}:
                where = _memory(pid, arguments[1], min(arguments[2], 128))
            elif name == "sendto":
                where = _memory(pid, arguments[4], min(arguments[5], 128))
            elif name in {"sendmsg", "sendmmsg"}:
                # Only the first of several: whoever writes to two addresses with one call is not found here.
                place, length = struct.unpack("<QI", _memory(pid, arguments[1], 12))
                if not place or not length:
                    return None
                where = _memory(pid, place, min(length, 128))
            else:
                return Attempt(program, name, "", "", False)
        except OSError as error:
            return Attempt(program, name, "", f"unreadable: {error}", False)
        return Attempt(program, name, *_address(pid, where), False)


def _install() -> int:
    """Put the filter on this thread; the descriptor through which it asks."""
    architecture, numbers, seccomp = _CALLS[platform.machine()]
    low = 16  # of an argument's two halves; both machines are little endian
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _ASK),
        (_LOAD, 0, 0, 0),
        # Local sockets are asked about when they get a peer.
        (_EQUAL, 0, 4, numbers["socket"]),
        (_LOAD, 0, 0, low),
        (_EQUAL, 0, 1, int(socket.AF_UNIX)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ASK),
        # Sending without an address goes where the socket is connected to.
        (_EQUAL, 0, 6, numbers["sendto"]),
        (_LOAD, 0, 0, low + 4 * 8),
        (_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, low + 4 * 8 + 4),
        (_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ASK),
    ]
    for name in ("connect", "bind", "sendmsg", "sendmmsg"):
        code += [(_EQUAL, 0, 1, numbers[name]), (_RETURN, 0, 0, _ASK)]
    code += [(_EQUAL, 0, 1, _IO_URING_SETUP), (_RETURN, 0, 0, _ASK), (_RETURN, 0, 0, _ALLOW)]
    program = b"".join(struct.pack("<HBBI", *step) for step in code)
    held = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    listener = libc.syscall(
        ctypes.c_long(seccomp),
        ctypes.c_long(_SET_MODE_FILTER),
        ctypes.c_long(_NEW_LISTENER),
        ctypes.create_string_buffer(header, len(header)),
    )
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(listener)


def _ioctl(listener: int, request: int, buffer: bytearray) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    place = (ctypes.c_char * len(buffer)).from_buffer(buffer)
    if libc.ioctl(ctypes.c_int(listener), ctypes.c_ulong(request), place) < 0:
        raise OSError(ctypes.get_errno(), "ioctl")


def _memory(pid: int, place: int, length: int) -> bytes:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(place)
        return memory.read(length)


def _program(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return "?"
    return " ".join(word.decode("utf-8", "replace") for word in words)


def _family(number: int) -> str:
    try:
        return socket.AddressFamily(number).name
    except ValueError:
        return str(number)


def _address(pid: int, where: bytes) -> tuple[str, str]:
    if len(where) < 2:
        return "", where.hex()
    family = int.from_bytes(where[:2], "little")
    rest = where[2:]
    if family == socket.AF_UNIX:
        if rest[:1] == b"\0":
            return _family(family), "@" + rest[1:].decode("utf-8", "replace")
        path = os.fsdecode(rest.split(b"\0")[0])
        if path and not path.startswith("/"):
            with contextlib.suppress(OSError):
                path = str(Path(f"/proc/{pid}/cwd").readlink() / path)
        return _family(family), path
    if family in {socket.AF_INET, socket.AF_INET6}:
        start, size = (2, 4) if family == socket.AF_INET else (6, 16)
        address = ipaddress.ip_address(rest[start : start + size])
        return _family(family), f"{address} {int.from_bytes(rest[:2], 'big')}"
    return _family(family), rest.hex()


def main() -> int:
    """Run a command and say which sockets it asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.sockets", description=main.__doc__)
    parser.add_argument(
        "--allow", action="append", default=[], metavar="ADDRESS", help="let this one through"
    )
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    status, attempts = run(options.command, lambda attempt: attempt.address in options.allow)
    for attempt in attempts:
        done = "allowed" if attempt.allowed else "refused"
        sys.stderr.write(f"{done}: {attempt.call} {attempt.family} {attempt.address}  by {attempt.program}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
