"""What a process that reads strangers' files gives up before it reads the first.

No Python package for Landlock or seccomp is a dependency here: both are a few system calls.
Landlock's rights and seccomp's filters are those of the kernel's documentation
(https://docs.kernel.org/userspace-api/landlock.html, .../seccomp_filter.html).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import stat
import struct
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_OPEN_FILES = 64
_LOG_BYTES = 1 << 20

# What is refused whatever its arguments, by machine: sockets, other processes, programs, rings and
# kernel programs, mounts, keys, the machine itself, memory and queues shared with others, others'
# turn on the processor; then what changes a file's mode, owner, times and attributes, which Landlock
# leaves alone. The two tables are in the same order (fork and vfork are only the first machine's).
_REFUSED_X86 = (
    *(41, 53, 42, 43, 288, 49, 50, 44, 46, 307),
    *(101, 310, 311, 312, 434, 424, 438, 440, 200, 129, 297),
    *(59, 322, 57, 58),
    *(425, 426, 427, 321, 298, 323),
    *(165, 166, 155, 161, 272, 308, 428, 429, 430, 431, 432, 433, 442),
    *(248, 249, 250),
    *(175, 313, 176, 246, 320, 169, 167, 168, 163, 164, 227, 159, 305, 170, 171, 103, 179, 304, 300),
    *(29, 30, 31, 68, 69, 64, 65, 240),
    *(141, 142, 144, 314, 251),
    *(90, 91, 268, 452, 92, 93, 94, 260, 280, 132, 235, 261, 188, 189, 190, 197, 198, 199),
)
_REFUSED_ARM = (
    *(198, 199, 203, 202, 242, 200, 201, 206, 211, 269),
    *(117, 270, 271, 272, 434, 424, 438, 440, 130, 138, 240),
    *(221, 281),
    *(425, 426, 427, 280, 241, 282),
    *(40, 39, 41, 51, 97, 268, 428, 429, 430, 431, 432, 433, 442),
    *(217, 218, 219),
    *(105, 273, 106, 104, 294, 142, 224, 225, 89, 170, 112, 171, 266, 161, 162, 116, 60, 265, 262),
    *(194, 196, 195, 186, 189, 190, 193, 180),
    *(140, 118, 119, 274, 30),
    *(52, 53, 452, 54, 55, 88, 5, 6, 7, 14, 15, 16),
)


class _Machine(NamedTuple):
    name: int  # the kernel's, AUDIT_ARCH_...
    refused: tuple[int, ...]
    clone: int
    kill: int
    tgkill: int
    prlimit: int
    ioctl: int


_CLONE3 = 435
_MACHINES = {
    "x86_64": _Machine(0xC000003E, _REFUSED_X86, 56, 62, 234, 302, 16),
    "aarch64": _Machine(0xC00000B7, _REFUSED_ARM, 220, 129, 131, 261, 29),
}


class Sandbox(NamedTuple):
    """What holds a process.

    Attributes:
        landlock: The kernel's version of it, 0 for none.
        seccomp: Whether system calls are filtered.
    """

    landlock: int = 0
    seccomp: bool = False

    def __str__(self) -> str:
        """For people."""
        parts = []
        if self.landlock:
            parts.append(f"Landlock {self.landlock}")
        if self.seccomp:
            parts.append("seccomp")
        lacks = [name for name, has in (("Landlock", self.landlock), ("seccomp", self.seccomp)) if not has]
        if not parts:
            return "not sandboxed (this system has neither Landlock nor seccomp)"
        return f"sandboxed ({', '.join(parts)}{'; no ' + lacks[0] if lacks else ''})"


def confine(files: Iterable[Path] = ()) -> Sandbox:
    """Give up, for this process and for good, all that taking files apart does not need.

    Afterwards no file can be opened but the program's own and those named, nothing be written or
    created in any folder, no socket be made, no program be run, no process be started, signalled or
    traced. What is open already stays so. To be called before any thread is started.

    Args:
        files: What may still be read: files, or folders with all that is below them.

    Returns:
        What the system offered of it; elsewhere than on Linux only the limits of open and written files.
    """
    _limit()
    if sys.platform != "linux":
        return Sandbox()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return Sandbox()
    landlock = _landlock(libc, [*_own(), *files])
    return Sandbox(landlock, _seccomp(libc))


def _limit() -> None:
    """Few open files, none written: what there is of a sandbox where there is no Landlock."""
    if sys.platform == "win32":
        return
    import resource

    room = 0
    with contextlib.suppress(OSError):
        log = os.fstat(2)
        if stat.S_ISREG(log.st_mode):  # what a library complains of last may be worth knowing
            room = log.st_size + _LOG_BYTES
    for what, most in ((resource.RLIMIT_FSIZE, room), (resource.RLIMIT_NOFILE, _OPEN_FILES)):
        _, hard = resource.getrlimit(what)
        if hard == resource.RLIM_INFINITY or hard > most:
            with contextlib.suppress(OSError, ValueError):  # macOS refuses some values
                resource.setrlimit(what, (most, most))


def _own() -> list[Path]:
    """Where Python, its packages, the libraries of the system and what those look up are."""
    found = [Path(__file__).parent]  # of this package: its parent is a person's folder, in a checkout
    found += [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    bundle = getattr(sys, "_MEIPASS", None)
    if bundle is not None:
        found.append(Path(bundle))
    for prefix in (sys.prefix, sys.base_prefix, "/usr", "/usr/local", "/"):
        found += [Path(prefix, name) for name in ("lib", "lib64", "lib32", "share/zoneinfo", "share/locale")]
    found += [Path(entry) for entry in sys.path if entry.endswith((".zip", "site-packages", "dist-packages"))]
    found += [Path("/etc", name) for name in ("ld.so.cache", "localtime", "locale.alias")]
    found += [Path("/dev/null"), Path("/dev/zero"), Path("/dev/urandom"), Path("/dev/random")]
    found += [Path("/proc/cpuinfo"), Path("/proc/meminfo"), Path("/sys/devices/system/cpu")]
    found.append(Path("/nix/store"))
    return found


def _landlock(libc: ctypes.CDLL, readable: Iterable[Path]) -> int:
    """Apply it; its version, 0 where it is not to be had."""
    version = int(libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))
    if version < 1:
        return 0
    # Moving between folders came with version 2, truncating with 3 and device ioctls with 5, in this
    # order, so that the rights of a version are its lowest bits.
    known = (1 << 13 + (version >= 2) + (version >= 3) + (version >= 5)) - 1
    network = 0b11 if version >= 4 else 0
    scopes = 0b11 if version >= 6 else 0
    rules = struct.pack("=QQQ", known, network, scopes)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        return 0
    try:
        for path in dict.fromkeys(readable):
            _allow(libc, ruleset, path, known)
        applied = libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0
    finally:
        os.close(ruleset)
    return version if applied else 0


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, known: int) -> None:
    try:
        descriptor = os.open(path, getattr(os, "O_PATH", 0) | os.O_CLOEXEC)
    except OSError:  # not on this system
        return
    try:
        rights = _READ_FILE
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights |= _READ_DIR
        elif path == Path("/dev/null"):
            rights |= (_WRITE_FILE | _TRUNCATE) & known
        rule = struct.pack("=Qi", rights, descriptor)
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0)
    finally:
        os.close(descriptor)


_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
_FIRST, _SECOND = 16, 24  # where the arguments of a call are (low halves)
_CLONE_THREAD = 0x10000
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # typing into the person's terminal

_Step = tuple[int, int, int, int]


def _filter(machine: _Machine, pid: int) -> list[_Step]:
    """The filter: each step is (operation, steps to skip if so, if not, value)."""
    allow, refuse = (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)
    itself: list[_Step] = [(_LOAD, 0, 0, _FIRST), (_EQUAL, 0, 1, pid), allow, refuse]
    by_arguments: dict[int, list[_Step]] = {
        # Threads, not processes. The flags of clone3 are in memory, which no filter sees; the C
        # library falls back to clone where the kernel does not know it.
        machine.clone: [(_LOAD, 0, 0, _FIRST), (_ANY_BIT, 0, 1, _CLONE_THREAD), allow, refuse],
        _CLONE3: [(_RETURN, 0, 0, _UNKNOWN)],
        machine.kill: itself,
        machine.tgkill: itself,
        machine.prlimit: [itself[0], (_EQUAL, 1, 0, 0), *itself[1:]],
        machine.ioctl: [
            (_LOAD, 0, 0, _SECOND),
            (_EQUAL, 2, 0, _TIOCSTI),
            (_EQUAL, 1, 0, _TIOCLINUX),
            allow,
            refuse,
        ],
    }
    steps: list[_Step] = [
        (_LOAD, 0, 0, 4),  # the machine of the call: another one (32 bits) is refused
        (_EQUAL, 1, 0, machine.name),
        refuse,
        (_LOAD, 0, 0, 0),  # its number: those of x32 are refused
        (_AT_LEAST, 0, 1, 0x40000000),
        refuse,
    ]
    for number, block in by_arguments.items():
        steps += [(_EQUAL, 0, len(block), number), *block]
    count = len(machine.refused)
    steps += [(_EQUAL, count - at, 0, number) for at, number in enumerate(machine.refused)]
    return [*steps, allow, refuse]


def _seccomp(libc: ctypes.CDLL) -> bool:
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    steps = _filter(machine, os.getpid())
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    return bool(libc.prctl(_PR_SET_SECCOMP, 2, ctypes.c_void_p(ctypes.addressof(head)), 0, 0) == 0)
