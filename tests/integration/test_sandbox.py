"""What a process that reads files can still do: tried in a real one, and in one that is not held."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from indexer import sandbox
from indexer.api import GetPreview
from indexer.errors import FileError
from indexer.settings import Settings
from indexer.workers import FileGoneError, WorkerPool, pool, reading

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")

SAMPLES = Path(__file__).parent.parent.parent / "assets" / "sample-library"

# Stands in for taking a file apart, in an otherwise real child: tells what of all this could be done.
PROBE = r"""
import sys
sys.path.append(sys.argv[1])
import ctypes, fcntl, json, mmap, os, resource, signal, socket, threading
from pathlib import Path
from indexer.errors import FileError
from indexer.workers import child
folder, parent = Path(sys.argv[2]), os.getppid()
libc = ctypes.CDLL(None, use_errno=True)

def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")

def spawn():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)

def run():
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)

def unix(kind):
    with socket.socket(socket.AF_UNIX) as door:
        door.connect(str(folder / "door") if kind == "path" else "\0" + folder.name)

def vm_read():
    number = {"x86_64": 310, "aarch64": 270}[os.uname().machine]
    there = (ctypes.c_size_t * 2)(int(sys.argv[3]), 8)
    buffer = ctypes.create_string_buffer(8)
    here = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
    call(number, parent, here, 1, there, 1, 0)

def trace():
    number = {"x86_64": 101, "aarch64": 117}[os.uname().machine]
    call(number, 0x4206, parent, 0, 0)  # PTRACE_SEIZE

TRIES = {
    "a UDP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "a TCP socket": lambda: socket.socket(socket.AF_INET),
    "a netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "a pair of sockets": lambda: socket.socketpair(),
    "a socket's path": lambda: unix("path"),
    "a socket's name": lambda: unix("name"),
    "/etc/passwd": lambda: Path("/etc/passwd").read_bytes(),
    "another file": lambda: (folder / "other.txt").read_bytes(),
    "its folder": lambda: os.listdir(folder),
    "the file by its name": lambda: (folder / "a.txt").read_bytes(),
    "memory of the parent": lambda: open(f"/proc/{parent}/mem", "rb").close(),
    "the parent's variables": lambda: open(f"/proc/{parent}/environ", "rb").close(),
    "write": lambda: (folder / "other.txt").write_text("x"),
    "append": lambda: (folder / "other.txt").open("a").close(),
    "create": lambda: (folder / "new.txt").touch(),
    "a folder": lambda: (folder / "new").mkdir(),
    "a link": lambda: os.symlink("/etc", folder / "link"),
    "a second name": lambda: os.link(folder / "other.txt", folder / "second.txt"),
    "truncate": lambda: os.truncate(folder / "other.txt", 1),
    "mode": lambda: (folder / "other.txt").chmod(0o640),
    "times": lambda: os.utime(folder / "other.txt"),
    "attributes": lambda: os.setxattr(folder / "other.txt", "user.x", b"x"),
    "temporary files": lambda: open("/dev/shm/" + folder.name, "wb").close(),
    "a process": spawn,
    "a program": run,
    "signal the parent": lambda: os.kill(parent, 0),
    "signal all": lambda: os.kill(-os.getpgid(parent), 0),
    "trace the parent": trace,
    "the parent's memory": vm_read,
    "the parent's limits": lambda: resource.prlimit(parent, resource.RLIMIT_CORE),
    "shared memory": lambda: call({"x86_64": 29, "aarch64": 194}[os.uname().machine], 0, 4096, 0o1600),
    "remove": lambda: (folder / "other.txt").unlink(),
}

def probe(path, data):
    done = []
    for name, attempt in TRIES.items():
        try:
            attempt()
        except OSError:
            continue
        done.append(name)
    thread = threading.Thread(target=lambda: None)  # threads are allowed
    thread.start()
    thread.join()
    signal.raise_signal(signal.SIGWINCH)
    os.kill(os.getpid(), 0)
    Path("/dev/null").open("wb").close()
    import lzma, timeit  # not imported before
    raise FileError(path, "Probed", json.dumps({"read": data.decode(), "done": done, "all": list(TRIES)}))

if sys.argv[4] == "open":
    from indexer.sandbox import Sandbox
    child.confine = lambda files: Sandbox()
child.extract = probe
child.main()
"""


def probe(folder: Path, held: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[set[str], set[str]]:
    """What could be done, and what was tried."""
    folder.mkdir()
    (folder / "a.txt").write_text("handed over")
    (folder / "other.txt").write_text("kept")
    secret = b"secrets!"
    import ctypes

    buffer = ctypes.create_string_buffer(secret)
    place = str(ctypes.addressof(buffer))
    package = str(Path(sandbox.__file__).parent.parent)
    command = [sys.executable, "-P", "-c", PROBE, package, str(folder), place, "held" if held else "open"]
    monkeypatch.setattr(pool, "_command", lambda: command)
    with socket.socket(socket.AF_UNIX) as by_path, socket.socket(socket.AF_UNIX) as by_name:
        by_path.bind(str(folder / "door"))
        by_path.listen()
        by_name.bind("\0" + folder.name)
        by_name.listen()
        workers = WorkerPool(1, tokenizer=folder / "none", max_tokens=50, settings=Settings())
        try:
            with pytest.raises(FileError) as caught:
                workers.prepare(folder / "a.txt")
        finally:
            workers.close()
    Path("/dev/shm", folder.name).unlink(missing_ok=True)
    assert caught.value.title == "Probed", caught.value.message
    told = json.loads(caught.value.message)
    assert told["read"] == "handed over"
    return set(told["done"]), set(told["all"])


def available() -> bool:
    code = "from indexer.sandbox import confine; import sys; sys.exit(0 if all(confine()) else 3)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_child_reads_what_it_is_handed_and_does_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not available():
        pytest.skip("this kernel has no Landlock or no seccomp")
    done, _ = probe(tmp_path / "held", True, monkeypatch)
    assert done == set()
    assert (tmp_path / "held" / "other.txt").read_text() == "kept"
    assert sorted(file.name for file in (tmp_path / "held").iterdir()) == ["a.txt", "door", "other.txt"]


def test_without_it_all_of_that_can_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, tried = probe(tmp_path / "open", False, monkeypatch)
    # Where the system itself is strict (Yama, a container) these fail without a sandbox too.
    elsewhere = {"trace the parent", "the parent's memory", "memory of the parent", "attributes"}
    assert tried - done <= elsewhere, tried - done


def test_the_system_says_what_it_lacks() -> None:
    assert str(sandbox.Sandbox(7, True)) == "sandboxed (Landlock 7, seccomp)"
    assert str(sandbox.Sandbox(0, True)) == "sandboxed (seccomp; no Landlock)"
    assert str(sandbox.Sandbox()).startswith("not sandboxed")


# --- the way to the file ------------------------------------------------------------------


@pytest.mark.parametrize("stepwise", [False, True])
def test_no_link_is_followed_below_the_root(
    tmp_path: Path, stepwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stepwise:
        monkeypatch.setattr(reading, "_open_below", reading._open_stepwise)
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a" / "b").mkdir(parents=True)
    outside.mkdir()
    (outside / "note.txt").write_text("outside")
    (root / "a" / "b" / "note.txt").write_text("inside")
    (root / "linked").symlink_to(outside)
    (root / "a" / "leaf.txt").symlink_to(outside / "note.txt")
    os.mkfifo(root / "pipe.txt")
    (tmp_path / "way").symlink_to(root)
    for good in (root, tmp_path / "way"):  # the root itself may be reached through a link
        descriptor = reading.open_file(good / "a" / "b" / "note.txt", good)
        assert os.read(descriptor, 100) == b"inside"
        os.close(descriptor)
    for bad in ("linked/note.txt", "a/leaf.txt", "pipe.txt", "a", "a/../../outside/note.txt", "a/none.txt"):
        with pytest.raises(FileError):
            reading.open_file(root / bad, root)


@pytest.mark.parametrize("stepwise", [False, True])
def test_a_folder_swapped_for_a_link_meanwhile_leads_nowhere(
    tmp_path: Path, stepwise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stepwise:
        monkeypatch.setattr(reading, "_open_below", reading._open_stepwise)
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "a", outside):
        folder.mkdir(parents=True)
        (folder / "note.txt").write_text(folder.name)
    (root / "link").symlink_to(outside)
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            (root / "a").rename(root / "kept")
            (root / "link").rename(root / "a")
            (root / "a").rename(root / "link")
            (root / "kept").rename(root / "a")

    thread = threading.Thread(target=swap)
    thread.start()

    def outcomes(opened: Callable[[], int], count: int) -> set[bytes]:
        seen = set()
        for _ in range(count):
            try:
                descriptor = opened()
            except (FileError, OSError):
                seen.add(b"")
                continue
            seen.add(os.read(descriptor, 100))
            os.close(descriptor)
        return seen

    try:
        file = root / "a" / "note.txt"
        assert outcomes(lambda: reading.open_file(file, root), 5_000) <= {b"a", b""}
        naive = set()
        for _ in range(100):  # the race is there: who opens by the name is led out
            naive |= outcomes(lambda: os.open(file, os.O_RDONLY | os.O_NOFOLLOW), 500)
            if b"outside" in naive:
                break
        assert b"outside" in naive
    finally:
        over.set()
        thread.join()


def test_a_file_of_no_folder_is_not_opened(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for place in (root, tmp_path):
        (place / "note.txt").write_text("A note.")
    workers = WorkerPool(
        1, tokenizer=tmp_path / "none", max_tokens=50, settings=Settings(), roots=lambda: [str(root)]
    )
    try:
        assert workers.hash(root / "note.txt").size == 7
        with pytest.raises(FileGoneError):
            workers.hash(tmp_path / "note.txt")
    finally:
        workers.close()


# --- what still works ---------------------------------------------------------------------


def test_every_kind_of_file_is_still_read_and_shown(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    by_suffix = {file.suffix: file for file in sorted(SAMPLES.rglob("*")) if file.is_file()}
    workers = WorkerPool(
        1,
        tokenizer=tmp_path / "tokenizer.json",
        max_tokens=100,
        settings=Settings(),
        roots=lambda: [str(SAMPLES)],
    )
    try:
        for suffix, file in by_suffix.items():
            prepared = workers.prepare(file)
            assert prepared.chunks, suffix
            shown = workers.preview(GetPreview(id=1, path=str(file)))
            assert shown.png or shown.text, suffix
        assert {".pdf", ".epub", ".html", ".md", ".py", ".txt"} <= set(by_suffix)
    finally:
        workers.close()
