"""A real service that lets its model go, waits for room on the disk, and steps back behind others."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from indexer import api
from indexer.client import IndexerClient
from indexer.embed.load import bundled_info
from indexer.settings import Settings, load, save
from indexer.workers import WorkerPool

MIB = 1 << 20
TEXTS = {
    "boiler.md": "# Boiler\n\nIf the radiators stay cold, bleed the air out with the small brass key.\n",
    "kaffee.txt": "Die Kaffeemaschine muss alle drei Monate mit Zitronensäure entkalkt werden.\n",
    "train.txt": "Le train de nuit pour Vienne part de Paris à dix-neuf heures douze.\n",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@contextlib.contextmanager
def service(data: Path) -> Iterator[IndexerClient]:
    with IndexerClient(data, name="test") as client:
        yield client
        client.stop()


def until(data: Path, condition: Callable[[api.Status], bool]) -> api.Status:
    """What the service says once it is so. Whoever watches wants the model, so it asks anew each time."""
    beat = threading.Event()
    with IndexerClient(data, start=False, name="test") as client:
        for _ in range(600):
            status = client.status()
            if condition(status):
                return status
            beat.wait(0.1)
    raise AssertionError(status)


def found(client: IndexerClient, query: str) -> list[str]:
    return [Path(hit.path).name for hit in client.search(query).hits]


@pytest.mark.timeout(180)
def test_the_model_gives_its_memory_back_and_the_next_search_has_it_again(
    tmp_path: Path, files: Path
) -> None:
    data = tmp_path / "data"
    save(data, Settings(unload_minutes=0.03))
    with service(data) as client:
        process = psutil.Process(client.pid)
        fresh = until(data, lambda s: s.state == "watching")
        assert (fresh.encoder.state, fresh.encoder.model) == ("resting", "multilingual-e5-small")
        without = process.memory_info().rss
        client.add_folder(files)
        until(data, lambda s: s.files == len(TEXTS) and not s.waiting)
        for question, answer in (
            ("why is the heating not warm", "boiler.md"),
            ("cleaning the espresso machine", "kaffee.txt"),
        ):
            assert found(client, question)[0] == answer
            loaded = process.memory_info().rss
            until(data, lambda s: s.encoder.state == "resting")
            resting = process.memory_info().rss
            assert loaded - resting > 0.5 * (loaded - without), (without, loaded, resting)
        # Filters and names need no model.
        assert found(client, "ext:txt") != []
        assert client.status().encoder.state == "resting"


@pytest.mark.timeout(120)
def test_whoever_watches_finds_the_model_loaded(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with service(data):
        assert until(data, lambda s: s.state == "watching").encoder.state == "resting"
        with IndexerClient(data, start=False, name="window") as window:
            for status in window.watch():
                if status.encoder.state == "ready":
                    break


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 MiB, of which a tenth is left to others."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can make a small disk")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("no disk may be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.timeout(180)
def test_indexing_waits_for_room_on_the_disk_and_goes_on_by_itself(small_disk: Path, files: Path) -> None:
    data = small_disk / "data"
    with service(data) as client:
        client.set_paused(True)
        client.add_folder(files)
        filler = small_disk / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - 30 * MIB)
        client.set_paused(False)  # changed settings have it look at once
        status = until(data, lambda s: s.slowed == "disk" and s.waiting == len(TEXTS))
        assert (status.state, status.files) == ("indexing", 0)
        assert [notice.title for notice in status.notices] == ["There is too little room on the disk"]
        filler.unlink()
        status = until(data, lambda s: s.files == len(TEXTS) and not s.waiting)
        assert (status.slowed, status.notices) == ("", ())
        assert found(client, "why is the heating not warm")[0] == "boiler.md"


@pytest.mark.timeout(120)
def test_the_speed_is_chosen_on_the_command_line(tmp_path: Path) -> None:
    data = tmp_path / "data"

    def dragoman(*arguments: str) -> str:
        command = [sys.executable, "-c", "from indexer.cli import main; main()", *arguments]
        done = subprocess.run(
            [*command, "--data-dir", str(data)], capture_output=True, text=True, check=True, timeout=60
        )
        return done.stdout.strip()

    with service(data) as client:
        assert dragoman("speed") == "balanced"
        assert dragoman("speed", "gentle") == "gentle"
        assert client.settings().speed == "gentle"
        assert load(data).speed == "gentle"


@pytest.mark.timeout(60)
def test_a_pool_reads_no_more_files_at_once_than_it_may(files: Path) -> None:
    info = bundled_info()
    pool = WorkerPool(3, tokenizer=info.tokenizer, max_tokens=info.max_tokens, settings=Settings())
    try:
        pool.limit(1)
        readers = [
            threading.Thread(target=pool.hash, args=(files / name,)) for name in (*TEXTS, *TEXTS, *TEXTS)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        children = psutil.Process().children()
        assert len(pool._indexing.children) == 1
        nice = {child.pid: child.nice() for child in children if child.pid in _pids(pool)}
        assert set(nice.values()) == {min(psutil.Process().nice() + 10, 19)}
    finally:
        pool.close()


def _pids(pool: WorkerPool) -> set[int]:
    return {child.pid for child in pool._indexing.children}
