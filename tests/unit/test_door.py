"""Who knocks at the service: strangers, crowds, clients that are slow, broken or never listen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from indexer import api, client, service
from indexer.client import Endpoint
from indexer.settings import Settings
from tests.unit.test_service import FakeLibrary, Peers, Wire, library, serve

__all__ = ["library"]  # the fixture


async def served(peers: Peers) -> None:
    """A client with the key is let in and answered."""
    wire = await peers.connect()
    await wire.ask(api.GetStatus(id=7))
    assert isinstance(await wire.answer(), api.Status)


@pytest.mark.parametrize(
    "hello",
    [
        api.encode(api.Hello(key="", version=api.PROTOCOL_VERSION)),
        api.encode(api.Hello(key="ключ", version=api.PROTOCOL_VERSION)),
        api.encode(api.GetStatus(id=1)),
        b'{"type":"Hello","key":"\\ud800","version":1}\n',
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\n",
        b"\0" * 1000 + b"\n",
    ],
)
def test_without_the_key_nothing_is_answered_but_a_refusal(library: FakeLibrary, hello: bytes) -> None:
    async def talk(peers: Peers) -> None:
        wire = await peers.connect(greet=False)
        wire.writer.write(hello + api.encode(api.GetStatus(id=1)))
        answer = await wire.answer()
        assert isinstance(answer, api.Failed)
        assert answer.title == "Refused"
        with contextlib.suppress(ConnectionResetError):
            assert await wire.ends()
        assert library.asked == 0
        await served(peers)

    serve(library, talk)


def test_a_stranger_cannot_fill_the_memory(library: FakeLibrary) -> None:
    async def talk(peers: Peers) -> None:
        for _ in range(100):
            wire = await peers.connect(greet=False)
            with contextlib.suppress(OSError):
                wire.writer.write(b"x" * (1 << 20))  # never a line's end
        await served(peers)
        buffers = [connection._reader.__dict__["_buffer"] for connection in _connections()]
        # asyncio takes up to 256 KiB at once before it sees that this is too much.
        assert sum(map(len, buffers)) <= service.MOST_STRANGERS * ((256 << 10) + 2 * service.HELLO_BYTES)

    serve(library, talk)


def _connections() -> list[service._Connection]:
    import gc

    return [thing for thing in gc.get_objects() if isinstance(thing, service._Connection)]


def test_a_thousand_silent_clients_hold_nobody_up(library: FakeLibrary) -> None:
    process = psutil.Process()
    before = process.num_fds()

    async def talk(peers: Peers) -> None:
        # Those who are given up are closed on our side as well, or this process would run out itself.
        for _ in range(1000):
            wire = await peers.connect(greet=False)
            if len(peers._wires) > 200:
                peers._wires.pop(0).writer.close()
        began = time.monotonic()
        await served(peers)
        assert time.monotonic() - began < 5
        # Ours of 200, and the service's.
        assert process.num_fds() - before < 200 + service.MOST_STRANGERS + 30
        assert wire.writer is not None

    serve(library, talk)


def test_more_clients_with_the_key_than_there_is_room_for_are_told_so(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_CLIENTS", 20)

    async def talk(peers: Peers) -> None:
        inside = [await peers.connect() for _ in range(20)]
        late = await peers.connect(greet=False)
        answer = await late.answer()
        assert isinstance(answer, api.Failed)
        assert answer.title == "Too many programs are connected"
        await inside[0].ask(api.GetStatus(id=1))
        assert isinstance(await inside[0].answer(), api.Status)
        inside[1].writer.close()
        await inside[1].writer.wait_closed()
        for _ in range(100):  # it is seen a moment later that one has left
            wire = await peers.connect(greet=False)
            await wire.ask(peers.hello(api.PROTOCOL_VERSION))
            if isinstance(await wire.answer(), api.Welcome):
                return
        raise AssertionError("there is room again")

    serve(library, talk)


def test_who_greets_a_byte_at_a_time_is_given_up(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "HELLO_TIMEOUT_S", 0.3)

    async def talk(peers: Peers) -> None:
        slow = await peers.connect(greet=False)
        hello = api.encode(peers.hello(api.PROTOCOL_VERSION))

        async def dribble() -> None:
            with contextlib.suppress(OSError):
                for byte in hello[:-1]:
                    slow.writer.write(bytes([byte]))
                    await slow.writer.drain()
                    await asyncio.sleep(0.01)

        beside = asyncio.create_task(dribble())
        await served(peers)
        assert await slow.ends()
        beside.cancel()

    serve(library, talk)


def test_requests_of_one_who_never_reads_are_not_piled_up(library: FakeLibrary) -> None:
    library.padding = "x" * 300_000

    async def talk(peers: Peers) -> None:
        deaf = await peers.connect()
        flood = b"".join(api.encode(api.GetStatus(id=i + 1)) for i in range(20_000))

        async def write() -> None:
            with contextlib.suppress(OSError):
                deaf.writer.write(flood)
                await deaf.writer.drain()

        deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
        beside = asyncio.create_task(write())
        most = 0
        # The first answers fill what is between us, which takes some; then nothing more may be begun.
        for _ in range(100):
            await served(peers)
            most = max(most, *(len(c._under_way) for c in _connections()))
        assert 5 < most <= service.MOST_REQUESTS
        assert library.asked < 3 * service.MOST_REQUESTS + 100
        beside.cancel()
        deaf.writer.transport.abort()

    serve(library, talk)


def test_a_setting_out_of_range_is_answered_and_the_connection_goes_on(library: FakeLibrary) -> None:
    async def talk(peers: Peers) -> None:
        wire = await peers.connect()
        good = api.encode(api.PutSettings(id=5, settings=Settings(max_file_mb=63)))
        wire.writer.write(good.replace(b'"max_file_mb":63', b'"max_file_mb":-3'))
        answer = await wire.answer()
        assert isinstance(answer, api.Failed)
        assert (answer.id, answer.title) == (5, "Not understood")
        assert "max_file_mb" in answer.message
        await wire.ask(api.GetStatus(id=6))
        assert isinstance(await wire.answer(), api.Status)

    serve(library, talk)


def test_a_path_that_no_file_can_have_is_no_fault_of_ours(library: FakeLibrary) -> None:
    library.add_folder = lambda path: Path(path).stat()  # type: ignore[assignment, method-assign]

    async def talk(peers: Peers) -> None:
        wire = await peers.connect()
        await wire.ask(api.AddFolder(id=1, path="/tmp/\0"))
        answer = await wire.answer()
        assert isinstance(answer, api.Failed)
        assert answer.title == "There is no such file"

    serve(library, talk)


def test_who_dies_in_the_middle_of_a_message_harms_nobody(library: FakeLibrary) -> None:
    async def talk(peers: Peers) -> None:
        for cut in (1, 10, 40):
            for late in (False, True):
                wire = await peers.connect(greet=late)
                line = api.encode(api.GetStatus(id=1) if late else peers.hello(api.PROTOCOL_VERSION))
                wire.writer.write(line[:cut])
                await wire.writer.drain()
                wire.writer.transport.abort()
        await served(peers)

    serve(library, talk)


def test_what_is_sent_in_single_bytes_is_understood(library: FakeLibrary) -> None:
    async def talk(peers: Peers) -> None:
        wire = await peers.connect()
        for byte in api.encode(api.GetStatus(id=3)) + api.encode(api.GetStatus(id=4)):
            wire.writer.write(bytes([byte]))
            await wire.writer.drain()
        assert {(await _status(wire)).id, (await _status(wire)).id} == {3, 4}

    serve(library, talk)


async def _status(wire: Wire) -> api.Status:
    answer = await wire.answer()
    assert isinstance(answer, api.Status)
    return answer


def test_another_user_is_refused_even_with_the_key(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "peer_uid", lambda _: os.getuid() + 1)
    caplog.set_level(logging.WARNING)

    async def talk(peers: Peers) -> None:
        wire = await peers.connect(greet=False)
        with contextlib.suppress(OSError):
            await wire.ask(peers.hello(api.PROTOCOL_VERSION))
        with contextlib.suppress(ConnectionResetError):
            assert await wire.ends()

    serve(library, talk)
    assert "another user" in caplog.text


def test_the_system_says_whose_process_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert client.peer_uid(ours) == os.getuid()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_the_folder_keeps_another_user_out_and_behind_it_the_service_does(library: FakeLibrary) -> None:
    code = (
        "import os, socket, sys\nos.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX)\n"
        "try: s.connect(sys.argv[1])\nexcept PermissionError: sys.exit(3)\n"
        "s.sendall(sys.argv[2].encode())\nsys.exit(len(s.recv(1000)) and 4)"
    )
    found: list[int] = []

    async def talk(peers: Peers) -> None:
        hello = api.encode(peers.hello(api.PROTOCOL_VERSION)).decode()
        command = [sys.executable, "-c", code, peers.endpoint.address, hello]

        async def attempt() -> int:
            process = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
            return await process.wait()

        library.data_dir.chmod(0o700)
        found.append(await attempt())
        # Even where somebody has opened every door by mistake.
        Path(peers.endpoint.address).chmod(0o777)
        for folder in (library.data_dir, *library.data_dir.parents):
            if folder.stat().st_uid == 0 and folder != Path("/") and folder != Path("/tmp"):
                folder.chmod(0o755)
        found.append(await attempt())

    serve(library, talk)
    assert found[0] == 3
    assert found[1] in (0, 1)  # hung up on before or after it could write: nothing was said to it


def test_the_key_is_not_told_to_somebody_elses_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "peer_uid", lambda _: 4711)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    address = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as trap:
        trap.bind(address)
        trap.listen()
        heard: list[bytes] = []

        def listen() -> None:
            caller, _ = trap.accept()
            with caller:
                heard.append(caller.recv(1000))

        thread = threading.Thread(target=listen)
        thread.start()
        with pytest.raises(PermissionError):
            client._connect(Endpoint(address, "secret"))
        thread.join()
    assert heard == [b""]
