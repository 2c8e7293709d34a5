"""The system runs out of something under a real service: nothing is lost, it says so and goes on by itself.

Full and vanishing disks are small volumes, for which root is needed; elsewhere those tests are skipped. What
needs no root is tested in tests/unit/test_resources.py, with SQLite refusing at every page it would add.
"""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest

from indexer import api
from indexer.client import IndexerClient, ensure_service
from indexer.errors import FatalError, IndexerError
from tests.integration.test_resources import _mount, _unmount, fill, linux_only, service, volume, wait

__all__ = ["volume"]


def resting(files: int) -> Callable[[api.Status], bool]:
    return lambda status: status.state == "watching" and status.files == files


def names(client: IndexerClient, text: str) -> set[str]:
    return {Path(hit.path).name for hit in client.search(text, limit=10).hits}


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


def test_forgetting_and_a_check_while_the_disk_is_full(volume: Callable[..., Path], tmp_path: Path) -> None:
    disk = volume("disk")
    data = disk / "data"
    places = [tmp_path / "kept", tmp_path / "dropped"]
    for place in places:
        place.mkdir()
        for number in range(40):
            text = f"{place.name} {number}: a ship with eight sails came into the harbour.\n" * 20
            (place / f"{place.name}{number}.md").write_text(text)
    with service(data) as client:
        for place in places:
            client.add_folder(place)
        wait(data, resting(80))
        ballast = fill(disk)
        # Either it is done at once or refused with the reason; it is never done by halves.
        refused = False
        try:
            client.remove_folder(places[1])
        except IndexerError as error:
            refused = "full" in error.title
        assert client.search("harbour", limit=3).hits
        assert len(client.folders()) == (2 if refused else 1)
        ballast.unlink()
        if refused:
            client.remove_folder(places[1])
        after = wait(data, lambda status: resting(40)(status) and not status.notices)
        assert after.chunks
        assert all(name.startswith("kept") for name in names(client, "dropped harbour"))
        process = psutil.Process(client.pid)
        client.stop()
        process.wait(60)
    with service(data):
        assert wait(data, resting(40)).chunks == after.chunks


def test_a_data_folder_on_a_disk_that_is_pulled_out(volume: Callable[..., Path], tmp_path: Path) -> None:
    disk = volume("disk")
    data = disk / "data"
    with IndexerClient(data) as client:
        wait(data, lambda status: status.state == "watching")
        process = psutil.Process(client.pid)
        _unmount(disk)
        process.wait(60)
        with pytest.raises(IndexerError):
            client.status()
    assert sorted(map(str, disk.rglob("*"))) == [], "nothing is begun where the disk was"
