"""An encrypted library through real processes and the real model: locked, opened, searched, read raw."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from indexer import api
from indexer.client import IndexerClient
from indexer.errors import IndexerError
from indexer.settings import ChromaServer, Settings
from indexer.store import cipher

pytestmark = pytest.mark.skipif(not cipher.available(), reason="apsw without ciphers is installed")

FIRST, SECOND = "correct horse battery", "staple zebra lantern"
SECRETS = (b"zanzibarmarker", b"geheimerplan", b"Ofenkatze", b"verzeichnisname")


def raw(data: Path) -> list[str]:
    """Where in a data folder a secret can be read, or one of the passphrases."""
    found = []
    for file in data.rglob("*"):
        content = str(file.relative_to(data)).encode()
        if file.is_file():
            content += file.read_bytes()
        wanted = (*SECRETS, FIRST.encode(), SECOND.encode())
        found += [f"{secret!r} in {file.name}" for secret in wanted if secret in content]
    return found


def until(client: IndexerClient, files: int) -> api.Status:
    """Wait until so many files are indexed."""
    for status in client.watch():
        if status.state == "watching" and status.files == files:
            return status
    raise AssertionError("the service went away")


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """The data folder of a library that has indexed two files."""
    files = tmp_path / "verzeichnisname"
    files.mkdir()
    (files / "geheimerplan.md").write_text("# Plan\n\nThe zanzibarmarker treasure is below the lighthouse.\n")
    (files / "tier.txt").write_text("Die Ofenkatze schläft auf dem warmen Ofen.\n", encoding="utf-8")
    folder = tmp_path / "data"
    with IndexerClient(folder) as client:
        client.add_folder(files)
    with IndexerClient(folder) as client:
        until(client, 2)
    assert raw(folder)  # else the search for secrets finds nothing ever
    yield folder
    with IndexerClient(folder) as client:
        client.stop()


def refused(client: IndexerClient) -> str:
    """The title of what a search is answered with."""
    with pytest.raises(IndexerError) as failure:
        client.search("treasure")
    return failure.value.title


def dragoman(data: Path, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line; passphrases come by standard input."""
    command = [sys.executable, "-c", "from indexer.cli import main; main()", *words, "--data-dir", str(data)]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=60)


def test_locked_opened_searched_killed_and_read_raw(data: Path) -> None:
    with IndexerClient(data) as client:
        assert client.lock().state == "off"
        list(client.set_lock(new=FIRST))
        status = client.status()
        assert (client.lock().state, status.lock, status.index) == ("open", "open", "exact")
        assert client.search("where is the treasure").hits[0].path.endswith("geheimerplan.md")
        # While it is open, and with what comes later.
        later = data.parent / "verzeichnisname" / "später.txt"
        later.write_text(
            "Ein zanzibarmarker, der später kam: der Kranich fliegt nach Süden.\n", encoding="utf-8"
        )
    with IndexerClient(data) as client:
        until(client, 3)
    with IndexerClient(data) as client:
        assert client.search("bird that flies south").hits[0].path.endswith("später.txt")
        assert raw(data) == []
        with pytest.raises(IndexerError, match="encrypted"):
            client.put_settings(Settings(chroma=ChromaServer(url="http://127.0.0.1:9")))
        process = psutil.Process(client.pid)
        told = " ".join((*process.cmdline(), *process.environ().values()))
        assert FIRST not in told
        limits = Path(f"/proc/{client.pid}/limits").read_text()
        assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]
        client.stop()
    assert raw(data) == []

    with IndexerClient(data) as client:
        assert client.lock().state == "locked"
        status = client.status()
        assert (status.state, status.lock, status.files) == ("locked", "locked", 0)
        assert refused(client) == api.LOCKED
        for ask in (client.folders, client.problems, client.models, client.settings):
            with pytest.raises(IndexerError, match="locked"):
                ask()
        with pytest.raises(IndexerError, match="wrong"):
            client.unlock("correct horse batterY")
        assert client.lock().state == "locked"
        client.unlock(FIRST)
        assert client.search("where is the treasure").hits[0].path.endswith("geheimerplan.md")
        with pytest.raises(IndexerError, match="wrong"):
            list(client.set_lock("not it", new=SECOND))
        with pytest.raises(IndexerError, match="too short"):
            list(client.set_lock(FIRST, new=""))  # which is no way to say that it is to be decrypted
        assert client.lock().state == "open"
        assert client.search("katze auf dem ofen").hits[0].path.endswith("tier.txt")
        list(client.set_lock(FIRST, new=SECOND))
        assert client.status().files == 3
        killed = psutil.Process(client.pid)
        killed.kill()
        psutil.wait_procs([killed], 10)
    assert raw(data) == []

    assert dragoman(data, "search", "treasure").returncode == 1  # nobody is there to be asked
    assert dragoman(data, "lock", "open", "--passphrase-fd", "0", given=SECOND + "\n").returncode == 0
    assert "geheimerplan.md" in dragoman(data, "search", "treasure").stdout
    assert dragoman(data, "lock", "off", "--passphrase-fd", "0", given=SECOND).returncode == 0
    with IndexerClient(data) as client:
        assert client.lock().state == "off"
        assert client.search("where is the treasure").hits[0].path.endswith("geheimerplan.md")
