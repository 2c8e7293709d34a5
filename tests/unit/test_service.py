"""The service's socket and life, with a stand-in for the library behind it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from indexer import api, service, settings
from indexer.client import Endpoint, _read_endpoint
from indexer.errors import FatalError, IndexerError
from indexer.library import Library
from indexer.service import Server
from indexer.settings import Settings


class FakeLibrary:
    """Says what it is told to say."""

    busy = True

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.asked = 0
        self.padding = ""
        self.failures: list[Exception] = []

    def start(self) -> None:
        pass

    def close(self) -> None:
        pass

    def follow_file(self) -> None:
        pass

    def add_folder(self, path: str) -> None:
        raise OSError(36, "File name too long")

    def attend(self, request: api.Request) -> None:
        pass

    def status(self, request_id: int) -> api.Status:
        self.asked += 1
        if self.failures:
            raise self.failures.pop()
        notices = (api.Notice(title=str(self.asked), message=self.padding),)
        encoder = api.EncoderStatus(model="", state="loading")
        return api.Status(
            id=request_id,
            state="starting",
            files_per_s=0.0,
            tokens_per_s=0.0,
            remaining_s=None,
            current="",
            encoder=encoder,
            index="exact",
            notices=notices,
            files=0,
            chunks=0,
            waiting=0,
            done=0,
            failed=0,
            skipped=0,
        )


class Wire:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, *messages: api.Request) -> None:
        self.writer.write(b"".join(api.encode(message) for message in messages))
        await self.writer.drain()

    async def answer(self) -> api.Reply | None:
        line = await asyncio.wait_for(self.reader.readline(), 20)
        return api.decode_reply(line) if line else None

    async def ends(self) -> bool:
        return await asyncio.wait_for(self.reader.read(), 20) == b""


class Peers:
    """Connects, and hangs up at the end."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._wires: list[Wire] = []

    async def connect(self, *, greet: bool = True) -> Wire:
        wire = Wire(*await asyncio.open_unix_connection(self.endpoint.address, limit=1 << 24))
        self._wires.append(wire)
        if greet:
            await wire.ask(self.hello(api.PROTOCOL_VERSION))
            assert isinstance(await wire.answer(), api.Welcome)
        return wire

    def hello(self, version: int) -> api.Hello:
        return api.Hello(key=self.endpoint.key, version=version)

    async def hang_up(self) -> None:
        for wire in self._wires:
            wire.writer.close()
        for wire in self._wires:
            with contextlib.suppress(OSError):
                await wire.writer.wait_closed()


def serve(library: FakeLibrary, talk: Callable[[Peers], Awaitable[None]]) -> None:
    async def run() -> None:
        server = Server(library, idle_seconds=60)  # type: ignore[arg-type]
        listening = asyncio.Event()
        life = asyncio.create_task(server.run(listening.set))
        await listening.wait()
        endpoint = _read_endpoint(library.data_dir)
        assert endpoint is not None
        peers = Peers(endpoint)
        try:
            await talk(peers)
        finally:
            await peers.hang_up()
            server.stop()
            await asyncio.wait_for(life, 20)

    asyncio.run(run())


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    monkeypatch.setattr(service, "STATUS_EVERY_S", 0.01)
    return FakeLibrary(tmp_path)


def test_a_client_that_never_reads_is_given_up_and_holds_up_no_other(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "SEND_TIMEOUT_S", 0.5)
    library.padding = "x" * 500_000
    caplog.set_level(logging.INFO)

    async def talk(peers: Peers) -> None:
        deaf = await peers.connect()
        deaf.reader._limit = 1  # type: ignore[attr-defined]  # asyncio stops to read from the socket
        await deaf.ask(api.Subscribe(id=1))
        lively = await peers.connect()
        await lively.ask(api.Subscribe(id=1))
        began, seen = asyncio.get_running_loop().time(), 0
        while "given up" not in caplog.text:
            assert isinstance(await lively.answer(), api.Status)
            seen += 1
            assert asyncio.get_running_loop().time() - began < 20
        assert seen > 5, "statuses came while the other was waited for"

    serve(library, talk)


def test_a_status_that_fails_once_does_not_end_the_pushing(library: FakeLibrary) -> None:
    async def talk(peers: Peers) -> None:
        wire = await peers.connect()
        await wire.ask(api.Subscribe(id=1))
        assert isinstance(await wire.answer(), api.Status)
        library.failures = [IndexerError("The disk is full", ""), RuntimeError()]
        while library.failures:
            await wire.answer()
        for _ in range(3):
            assert isinstance(await wire.answer(), api.Status)

    serve(library, talk)


def test_what_the_system_refuses_is_answered(library: FakeLibrary) -> None:
    async def talk(peers: Peers) -> None:
        wire = await peers.connect()
        await wire.ask(api.AddFolder(id=7, path="/" + "a" * 300))
        answer = await wire.answer()
        assert isinstance(answer, api.Failed)
        assert (answer.id, answer.message) == (7, "File name too long.")

    serve(library, talk)


@pytest.mark.parametrize(
    ("line", "title"),
    [
        (b"{}\n", "Not understood"),
        (b"\xff\xfe\n", "Not understood"),
        (b'{"type": "Format", "id": 1}\n', "Not understood"),
        (b"[" * 100_000 + b"\n", "Not understood"),
        (b"x" * (api.MAX_REQUEST_BYTES + 100_000), "Message too long"),
    ],
)
def test_nonsense_ends_its_connection_and_no_other(library: FakeLibrary, line: bytes, title: str) -> None:
    async def talk(peers: Peers) -> None:
        good, bad, half = await peers.connect(), await peers.connect(), await peers.connect()
        bad.writer.write(line)
        answer = await bad.answer()
        assert isinstance(answer, api.Failed)
        assert answer.title == title
        half.writer.write(b'{"type": "GetSt')
        half.writer.close()
        await good.ask(api.GetStatus(id=1))
        assert isinstance(await good.answer(), api.Status)

    serve(library, talk)


def test_another_version_is_told_and_hundreds_of_idle_connections_do_no_harm(library: FakeLibrary) -> None:
    async def talk(peers: Peers) -> None:
        idle = [await peers.connect(greet=False) for _ in range(300)]
        await idle[-1].ask(peers.hello(api.PROTOCOL_VERSION + 1))
        answer = await idle[-1].answer()
        assert isinstance(answer, api.Failed)
        assert answer.title == "Another version is running"
        wire = await peers.connect()
        await wire.ask(api.GetStatus(id=1))
        assert isinstance(await wire.answer(), api.Status)

    serve(library, talk)


def test_a_model_that_has_to_be_loaded_for_a_search_holds_up_nobody(library: FakeLibrary) -> None:
    loaded = threading.Event()

    def searcher(model: str = "") -> Any:
        assert loaded.wait(30)
        raise IndexerError(f"{model} is still being prepared", "")

    library.searcher = searcher  # type: ignore[attr-defined]

    async def talk(peers: Peers) -> None:
        wire = await peers.connect()
        await wire.ask(api.Search(id=1, query="x", model="large"), api.GetStatus(id=2))
        assert isinstance(await wire.answer(), api.Status)
        loaded.set()
        answer = await wire.answer()
        assert isinstance(answer, api.Failed)
        assert answer.title == "large is still being prepared"

    try:
        serve(library, talk)
    finally:
        loaded.set()


def test_ending_with_clients_connected_says_goodbye_and_logs_no_fault(
    library: FakeLibrary, caplog: pytest.LogCaptureFixture
) -> None:
    wires: list[Wire] = []

    async def talk(peers: Peers) -> None:
        wires.extend([await peers.connect(), await peers.connect(greet=False)])
        await wires[0].ask(api.Stop(id=1))
        assert isinstance(await wires[0].answer(), api.Done)
        assert await wires[0].ends()
        assert await wires[1].ends()

    serve(library, talk)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_settings_that_cannot_be_stored_are_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(data_dir: Path, settings: Settings) -> None:
        raise OSError(28, "No space left on device")

    library = Library(tmp_path)
    try:
        monkeypatch.setattr("indexer.settings.save", full)
        with pytest.raises(IndexerError, match="No space left"):
            library.put_settings(Settings(paused=True))
        assert not library.settings.paused
    finally:
        library.close()


def test_what_a_person_writes_into_the_settings_file_stays(tmp_path: Path) -> None:
    library = Library(tmp_path)
    file = tmp_path / "settings.toml"
    try:
        file.write_text("max_file_mb = 7\nunload_minutes = 3.0\n# mine\n", encoding="utf-8")
        library.put_settings(msgspec.structs.replace(library.settings, paused=True))
        assert (library.settings.max_file_mb, library.settings.paused) == (7, True)
        file.write_text("max_file_mb = 9\npaused = true\n# mine\n", encoding="utf-8")
        library.follow_file()
        assert (library.settings.max_file_mb, library.settings.unload_minutes) == (9, 10.0)
        assert "# mine" in file.read_text(encoding="utf-8"), "following writes nothing"
        library.put_settings(msgspec.structs.replace(library.settings, max_file_mb=11))
        assert settings.load(tmp_path) == Settings(max_file_mb=11, paused=True)
    finally:
        library.close()


@pytest.mark.parametrize("mounted", [False, True])
def test_a_data_folder_that_went_away_is_not_begun_anew(tmp_path: Path, mounted: bool) -> None:
    """Moved away, or another one in its place, such as what a disk was mounted over."""
    folder = tmp_path / "data"
    folder.mkdir()
    place = settings.identity(folder)
    library = Library(folder, place=place)
    try:
        folder.rename(tmp_path / "elsewhere")
        if mounted:
            folder.mkdir()
        with pytest.raises(FatalError, match="not there any more"):
            library.put_settings(Settings(paused=True))
    finally:
        library.close()
    with pytest.raises(FatalError, match="not there any more"):
        Library(folder, place=place)
    assert list(tmp_path.glob("data/*")) == []
    assert folder.exists() == mounted
    if mounted:
        folder.rmdir()
    (tmp_path / "elsewhere").rename(folder)
    Library(folder, place=place).close()


def test_a_client_sets_what_it_changed_and_nothing_else(tmp_path: Path) -> None:
    library = Library(tmp_path)
    try:
        base = library.settings
        library.put_settings(msgspec.structs.replace(base, max_file_mb=3))
        library.put_settings(msgspec.structs.replace(base, unload_minutes=4.0), base)
        assert settings.load(tmp_path) == Settings(max_file_mb=3, unload_minutes=4.0)
        library.put_settings(base, msgspec.structs.replace(base, max_file_mb=3))
        assert settings.load(tmp_path) == Settings(unload_minutes=4.0), "what is set back is a change, too"
    finally:
        library.close()


def test_the_service_knows_what_each_client_saw(library: FakeLibrary) -> None:
    put: list[tuple[Settings, Settings | None]] = []
    library.settings = seen = Settings(max_file_mb=5)  # type: ignore[attr-defined]
    library.put_settings = lambda new, base: put.append((new, base))  # type: ignore[attr-defined]

    async def talk(peers: Peers) -> None:
        one, other = await peers.connect(), await peers.connect()
        await one.ask(api.GetSettings(id=1))
        assert isinstance(await one.answer(), api.SettingsReply)
        library.settings = Settings(max_file_mb=9)  # type: ignore[attr-defined]
        for wire, size in ((one, 6), (one, 7), (other, 8)):
            await wire.ask(api.PutSettings(id=2, settings=Settings(max_file_mb=size)))
            assert isinstance(await wire.answer(), api.Done)

    serve(library, talk)
    assert put == [
        (Settings(max_file_mb=6), seen),
        (Settings(max_file_mb=7), Settings(max_file_mb=6)),
        (Settings(max_file_mb=8), None),
    ]


def test_a_broken_edit_of_the_settings_is_told_and_never_overwritten(tmp_path: Path) -> None:
    library = Library(tmp_path)
    file = tmp_path / "settings.toml"
    try:
        for broken in ("max_file_mb = ", "extraction_workers = -3", '[chroma]\nurl = "http://far.example"\n'):
            file.write_text(broken, encoding="utf-8")
            library.follow_file()
            assert len(library.status(1).notices) == 1
            with pytest.raises(IndexerError):
                library.set_paused(True)
            assert file.read_text(encoding="utf-8") == broken
            assert library.settings == Settings()
        file.write_text("max_file_mb = 5", encoding="utf-8")
        library.follow_file()
        assert library.status(1).notices == ()
        library.set_paused(True)
        assert settings.load(tmp_path) == Settings(max_file_mb=5, paused=True)
    finally:
        library.close()


def test_a_library_that_fails_to_start_in_an_unknown_way_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Any:
        raise RuntimeError("a library of another release")

    monkeypatch.setattr("indexer.library.bundled_info", broken)
    library = Library(tmp_path)
    try:
        library.start()
        assert [notice.title for notice in library.status(1).notices] == ["The library cannot be opened"]
        assert library.status(1).state == "failed", "it is not starting for ever"
        assert library.status(1).encoder.state != "failed", "the model is not to blame"
        assert not library.busy, "it may end when nobody is connected"
        with pytest.raises(IndexerError, match="another release"):
            library.searcher()
    finally:
        library.close()


def test_the_log_holds_no_words_of_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        try:
            Path("/home/person/secret.txt").read_bytes()
        except OSError as error:
            raise ValueError("what did I ask the landlord") from error
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "It failed", None, sys.exc_info())
    text = service._Discreet("%(message)s").format(record)
    assert "landlord" not in text.replace('raise ValueError("what did I ask the landlord")', "")
    assert "No such file" not in text
    assert "ValueError" in text
    assert "FileNotFoundError" in text
    assert "test_service.py" in text


@pytest.mark.parametrize(
    "content",
    [
        "",
        "garbage",
        "[]",
        "{}",
        '{"address": 5, "key": "k"}',
        '{"address": ["x"], "key": "k"}',
        '{"address": "relative", "key": "k"}',
        '{"address": "/a\\u0000b", "key": "k"}',
        '{"address": "/a", "key": null}',
    ],
)
def test_a_damaged_endpoint_file_is_no_endpoint(tmp_path: Path, content: str) -> None:
    (tmp_path / "service.json").write_text(content)
    assert _read_endpoint(tmp_path) is None
