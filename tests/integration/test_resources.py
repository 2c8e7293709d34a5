"""The system runs out of something under a real service: nothing is lost, it says so and goes on by itself.

What takes longer is in tests/end2end/test_resources.py, what needs no process in tests/unit.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from indexer import api
from indexer.client import ENDPOINT_FILE, IndexerClient, ensure_service, find_service, stop_service
from indexer.errors import FatalError, IndexerError
from indexer.settings import private_folder
from indexer.store import cipher

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


def _mount(place: Path, options: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no volume can be mounted here: {done.stderr.strip()}")


def _unmount(place: Path) -> None:
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts small volumes and takes them away again."""
    places: list[Path] = []

    def mount(name: str, options: str = "size=160m,mode=700") -> Path:
        if shutil.which("mount") is None or not sys.platform.startswith("linux"):
            pytest.skip("needs Linux and its mount command")
        _mount(tmp_path / name, options)
        places.append(tmp_path / name)
        return tmp_path / name

    yield mount
    for place in places:
        _unmount(place)


def wait(data: Path, wanted: Callable[[api.Status], bool]) -> api.Status:
    """The first status that is as wanted."""
    deadline = time.monotonic() + 90
    with IndexerClient(data, start=False) as client:
        for status in client.watch():
            if wanted(status):
                return status
            assert time.monotonic() < deadline, status
    raise AssertionError("the service went away")


@contextlib.contextmanager
def service(data: Path) -> Iterator[IndexerClient]:
    """A client of a library whose service is ended afterwards."""
    try:
        with IndexerClient(data) as client:
            yield client
    finally:
        with contextlib.suppress(IndexerError):
            stop_service(data)


def fill(volume: Path) -> Path:
    """Take all the room there is."""
    ballast = volume / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    return ballast


def test_a_start_on_a_full_disk_says_so(volume: Callable[..., Path]) -> None:
    disk = volume("disk", "size=2m,mode=700")
    (disk / "data").mkdir(mode=0o700)
    fill(disk)
    with pytest.raises(FatalError, match="disk is full"):
        ensure_service(disk / "data")
    assert find_service(disk / "data") is None


def test_a_full_disk_leaves_a_library_that_was_to_be_encrypted_open(
    volume: Callable[..., Path], tmp_path: Path
) -> None:
    if not cipher.available():
        pytest.skip("apsw without ciphers is installed")
    disk = volume("disk", "size=60m,mode=700")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("The lighthouse keeper trims the lamp at dusk.")
    with service(disk / "data") as client:
        client.add_folder(tmp_path / "files")
        wait(disk / "data", lambda status: status.files == 1)
        ballast = fill(disk)
        with pytest.raises(IndexerError, match="too little room"):
            list(client.set_lock("", new="correct horse"))
        assert client.lock().state == "off"
        assert [Path(hit.path).name for hit in client.search("lighthouse").hits] == ["a.txt"]
        ballast.unlink()
        list(client.set_lock("", new="correct horse"))
        assert client.lock().state == "open"
    assert b"lighthouse" not in b"".join(f.read_bytes() for f in (disk / "data").rglob("*") if f.is_file())


def test_programs_that_start_at_the_same_moment_share_one_service(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    # What a crash left behind: a socket nobody listens at, and the id of a process that is another by now.
    (data / "service.sock").touch()
    stale = {"address": str(data / "service.sock"), "key": "x", "pid": os.getpid()}
    (data / ENDPOINT_FILE).write_text(json.dumps(stale))
    with service(data):

        def come(_: int) -> int:
            with IndexerClient(data) as client:
                return client.pid

        with ThreadPoolExecutor(6) as programs:
            pids = set(programs.map(come, range(6)))
        assert len(pids) == 1
        assert pids != {os.getpid()}
        # Killed without a word, it is started anew although its files say that it is there.
        killed = psutil.Process(pids.pop())
        killed.kill()
        killed.wait(30)
        with IndexerClient(data) as client:
            assert client.status().state


@linux_only
def test_a_data_folder_that_goes_away_ends_its_service(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with IndexerClient(data) as client:
        process = psutil.Process(client.pid)
        deadline = time.monotonic() + 120
        while client.status().state != "watching":
            assert time.monotonic() < deadline, "the service did not start"
            time.sleep(0.05)
        (data / ENDPOINT_FILE).unlink()
        deadline = time.monotonic() + 30
        while find_service(data) is None:
            assert time.monotonic() < deadline, "the file that was deleted is not written anew"
            time.sleep(0.05)
        data.rename(tmp_path / "elsewhere")
        process.wait(60)
    assert not data.exists()
    with service(tmp_path / "elsewhere") as client:
        assert client.status().state


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to be two people")
def test_another_person_cannot_use_a_data_folder(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    os.chown(other, 4711, 4711)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUDO_UID", "4711")
        with pytest.raises(FatalError, match="belongs to another user"):
            ensure_service(other)
        patch.delenv("SUDO_UID")
        assert private_folder(other) == other, "a container's root may"
