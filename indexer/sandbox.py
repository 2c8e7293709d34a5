"""What a process that reads strangers' files gives up before it reads the first.

No Python package for Landlock or seccomp is a dependency here: both are a few system calls.
Landlock's rights and seccomp's filters are those of the kernel's documentation
(https://docs.kernel.org/userspace-api/landlock.html, .../seccomp_filter.html).
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 4, 22, 38
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_EPERM = 1
# By machine: the kernel's name of it, then socket, connect, bind, sendto, sendmsg, ptrace,
# process_vm_readv, process_vm_writev, execve, execveat, io_uring_setup and bpf; then what changes
# a file's mode, owner, times and attributes, which Landlock leaves alone.
_MARKS_X86 = (90, 91, 268, 452, 92, 93, 94, 260, 280, 132, 235, 261, 188, 189, 190, 197, 198, 199)
_MARKS_ARM = (52, 53, 452, 54, 55, 88, 5, 6, 7, 14, 15, 16)
_CALLS = {
    "x86_64": (0xC000003E, (41, 42, 49, 44, 46, 101, 310, 311, 59, 322, 425, 321, *_MARKS_X86)),
    "aarch64": (0xC00000B7, (198, 203, 200, 206, 211, 117, 270, 271, 221, 281, 425, 280, *_MARKS_ARM)),
}


def confine() -> tuple[str, ...]:
    """Give up, for this process and for good, all that reading a file does not need.

    Afterwards nothing can be written or created in any folder, no socket be made, no program be
    run and no other process be signalled or traced. To be called before any thread is started.

    Returns:
        What the system does not offer, of "no new privileges", "landlock" and "seccomp".
    """
    if sys.platform != "linux":
        return ("no new privileges", "landlock", "seccomp")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return ("no new privileges", "landlock", "seccomp")
    missing = []
    if not _landlock(libc):
        missing.append("landlock")
    if not _seccomp(libc):
        missing.append("seccomp")
    return tuple(missing)


def _landlock(libc: ctypes.CDLL) -> bool:
    version = libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    known = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    files = ((1 << known) - 1) & ~(_READ_FILE | _READ_DIR)
    # Truncating came with version 3 and device ioctls with 5, in this order, so that the rights
    # of a version are its lowest bits. Reading stays: files are opened by their names.
    network = 0b11 if version >= 4 else 0
    scopes = 0b11 if version >= 6 else 0
    rules = struct.pack("=QQQ", files, network, scopes)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(size), 0)
    return ruleset >= 0 and bool(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0)


def _seccomp(libc: ctypes.CDLL) -> bool:
    machine = platform.machine()
    if machine not in _CALLS:
        return False
    kernel_name, calls = _CALLS[machine]
    refused = len(calls)
    steps = [
        (0x20, 0, 0, 4),  # the machine of the call
        (0x15, 0, refused + 2, kernel_name),  # another (32 bits): refused
        (0x20, 0, 0, 0),  # its number
        (0x35, refused, 0, 0x40000000),  # x32: refused
        *((0x15, refused - at, 0, number) for at, number in enumerate(calls)),
        (0x06, 0, 0, 0x7FFF0000),  # allowed
        (0x06, 0, 0, 0x00050000 | _EPERM),
    ]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    head = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(program)))
    return bool(libc.prctl(_PR_SET_SECCOMP, 2, ctypes.c_void_p(ctypes.addressof(head)), 0, 0) == 0)
