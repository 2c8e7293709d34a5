"""The system runs out of something under a real service: nothing is lost, it says so and goes on by itself.

Full and vanishing disks are small volumes, for which root is needed; elsewhere those tests are skipped. What
needs no root is tested in tests/unit/test_resources.py as well, with SQLite refusing every single write.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import psutil
import pytest

from indexer import api
from indexer.client import ENDPOINT_FILE, IndexerClient, ensure_service, find_service, stop_service
from indexer.errors import FatalError, IndexerError
from indexer.settings import private_folder

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


def resting(files: int) -> Callable[[api.Status], bool]:
    return lambda status: status.state == "watching" and status.files == files


def names(client: IndexerClient, text: str) -> set[str]:
    return {Path(hit.path).name for hit in client.search(text, limit=10).hits}


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


def test_a_full_disk_stops_indexing_only_and_only_until_there_is_room(
    volume: Callable[..., Path], tmp_path: Path
) -> None:
    disk = volume("disk")
    files = tmp_path / "files"
    files.mkdir()
    (files / "boiler.md").write_text("If the radiators stay cold, bleed the air out with the brass key.\n")
    (files / "old.md").write_text("The old bicycle has a flat tyre and no bell.\n")
    data = disk / "data"
    with service(data) as client:
        client.add_folder(files)
        wait(data, resting(2))
        ballast = fill(disk)
        # New, changed and removed while nothing can be written.
        for number in range(30):
            (files / f"new{number}.md").write_text(
                f"Note {number}: the cat goes to the vet in spring.\n" * 40
            )
        (files / "old.md").unlink()
        told = wait(data, lambda status: any("disk" in n.title.lower() for n in status.notices))
        notice = next(n for n in told.notices if "disk" in n.title.lower())
        assert notice.message.endswith(".")
        assert "boiler.md" in names(client, "heating is cold")
        settings = client.settings()
        other = msgspec.structs.replace(settings, max_file_mb=settings.max_file_mb + 1)
        with pytest.raises(IndexerError, match="settings cannot be stored"):
            client.put_settings(other)
        assert client.settings().max_file_mb == settings.max_file_mb
        ballast.unlink()
        after = wait(data, resting(31))
        assert "boiler.md" in names(client, "heating is cold")
        assert "new7.md" in names(client, "Note 7 veterinary")
        assert "old.md" not in names(client, "bicycle")
        wait(data, lambda status: not status.notices)
        assert after.failed == 0
    with service(data):
        assert wait(data, resting(31)).chunks == after.chunks


def test_a_disk_inside_a_folder_goes_and_comes_back(volume: Callable[..., Path], tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "here.md").write_text("Sourdough rises better in a warm kitchen.\n")
    stick = volume("files/stick", "size=2m")
    (stick / "holiday.md").write_text("The night train to Vienna leaves at seven in the evening.\n")
    (stick / "sub").mkdir()
    (stick / "sub/tax.md").write_text("The tax form must be handed in by the end of May.\n")
    kept = {p.relative_to(stick): p.read_text() for p in stick.rglob("*.md")}
    data = tmp_path / "data"
    with service(data) as client:
        client.add_folder(files)
        wait(data, resting(3))
        _unmount(stick)
        told = wait(data, lambda status: any("disk" in n.title.lower() for n in status.notices))
        assert [n.title for n in told.notices] == ["A disk is not there: stick"]
        (files / "more.md").write_text("A folder goes on being watched beside it.\n")
        wait(data, resting(4))
        online = {Path(h.path).name: h.online for h in client.search("night train", limit=10).hits}
        assert online["holiday.md"] is False
        assert online["here.md"] is True
        # Its mount point goes as well, as it does where a desktop makes it.
        stick.rmdir()
        wait(data, resting(4))
        assert "holiday.md" in names(client, "night train")
        # Back, with one file less.
        _mount(stick, "size=2m")
        (stick / "sub").mkdir()
        (stick / "sub/tax.md").write_text(kept[Path("sub/tax.md")])
        after = wait(data, resting(3))
        assert after.notices == ()
        online = {Path(h.path).name: h.online for h in client.search("tax form", limit=10).hits}
        assert online["tax.md"] is True
        assert "holiday.md" not in online


def test_a_disk_that_becomes_read_only(volume: Callable[..., Path], tmp_path: Path) -> None:
    disk = volume("disk")
    files = tmp_path / "files"
    files.mkdir()
    (files / "boiler.md").write_text("If the radiators stay cold, bleed the air out with the brass key.\n")
    data = disk / "data"
    with service(data) as client:
        client.add_folder(files)
        wait(data, resting(1))
        process = psutil.Process(client.pid)
        client.stop()
    process.wait(30)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(FatalError, match="data folder cannot be used") as refused:
        ensure_service(data)
    assert "Read-only" in refused.value.message
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    with service(data) as client:
        assert "boiler.md" in names(client, "heating is cold")


def test_a_start_on_a_full_disk_says_so(volume: Callable[..., Path]) -> None:
    disk = volume("disk", "size=2m,mode=700")
    (disk / "data").mkdir(mode=0o700)
    fill(disk)
    with pytest.raises(FatalError, match="disk is full"):
        ensure_service(disk / "data")
    assert find_service(disk / "data") is None


@linux_only
def test_too_many_open_files_are_waited_for(tmp_path: Path) -> None:
    files, data = tmp_path / "files", tmp_path / "data"
    files.mkdir()
    (files / "boiler.md").write_text("If the radiators stay cold, bleed the air out with the brass key.\n")
    with service(data) as client:
        client.add_folder(files)
        wait(data, resting(1))
        before = resource.prlimit(client.pid, resource.RLIMIT_NOFILE)
        assert before[0] >= min(before[1], 4096)
        # No number is free above those that are open now, and some below are used up by the search.
        resource.prlimit(client.pid, resource.RLIMIT_NOFILE, (3, before[1]))
        (files / "sub").mkdir()
        for number in range(20):
            (files / f"sub/new{number}.md").write_text(f"Note {number}: the cat goes to the vet.\n")
        client.add_folder(tmp_path / "files")  # looked through while nothing can be opened
        told = wait_on(client, lambda status: bool(status.notices))
        assert "files are open" in told.notices[0].title
        assert "ulimit -n" in told.notices[0].message
        resource.prlimit(client.pid, resource.RLIMIT_NOFILE, before)
        status = wait(data, resting(21))
        assert status.failed == 0


def wait_on(client: IndexerClient, wanted: Callable[[api.Status], bool]) -> api.Status:
    """As `wait`, with a client that is connected already."""
    deadline = time.monotonic() + 60
    for status in client.watch():
        if wanted(status):
            return status
        assert time.monotonic() < deadline, status
    raise AssertionError("the service went away")


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
