"""Who may keep the key, and how the service opens a library, with stand-ins for keyring and library."""

from __future__ import annotations

import asyncio
import errno
import sys
import threading
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from indexer import api, keys
from indexer import vault as service
from indexer.errors import FatalError, IndexerError
from indexer.settings import VAULT_FILE
from indexer.store import vault
from indexer.store.cipher import Key
from tests.end2end.vault import CHEAP


class Backend:
    """A keyring that says it is of some module."""

    def __init__(self, module: str, priority: float = 5.0) -> None:
        self.kept: dict[tuple[str, str], str] = {}
        self.priority = priority
        self.__class__ = type("Keyring", (Backend,), {"__module__": module})

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.priority < 0:
            raise RuntimeError("the person said no")
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture
def keyrings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which keyrings the system has."""

    def have(*backends: Backend) -> None:
        package, module = types.ModuleType("keyring"), types.ModuleType("keyring.backend")
        package.get_keyring = lambda: backends[0]  # type: ignore[attr-defined]
        module.get_all_keyring = lambda: list(backends)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "keyring", package)
        monkeypatch.setitem(sys.modules, "keyring.backend", module)

    return have


def test_only_the_systems_own_keyrings_are_trusted(keyrings: Callable[..., None]) -> None:
    plain = Backend("keyrings.alt.file", priority=9)
    keyrings(plain)
    assert keys.keyring_name() == ""
    with pytest.raises(IndexerError, match="no keyring"):
        keys.keep("library", "00ff")
    assert plain.kept == {}
    good, better = Backend("keyring.backends.kwallet", 4), Backend("keyring.backends.SecretService", 5)
    keyrings(plain, good, better)
    assert keys.keyring_name() == "Secret Service"
    keys.keep("library", "00ff")
    assert (plain.kept, good.kept, list(better.kept.values())) == ({}, {}, ["00ff"])
    assert keys.recall("library") == "00ff"
    assert keys.recall("another") is None
    keys.forget("another")
    keys.forget("library")
    assert better.kept == {}


def test_who_has_turned_keyrings_off_has_none(keyrings: Callable[..., None]) -> None:
    for module in ("keyring.backends.null", "keyring.backends.fail"):
        keyrings(Backend(module), Backend("keyring.backends.SecretService"))
        assert keys.keyring_name() == ""


def test_a_keyring_that_refuses_is_said_without_the_key(keyrings: Callable[..., None]) -> None:
    keyrings(Backend("keyring.backends.macOS", priority=-1))
    with pytest.raises(IndexerError, match="refused") as failure:
        keys.keep("library", "00ff00ff")
    assert "00ff00ff" not in str(failure.value)


class FakeLibrary:
    """Stands for an open library."""

    def __init__(self, data_dir: Path, key: Key | None = None, place: object = None) -> None:
        self.data_dir, self.key = data_dir, key
        self.closed = False
        self.told: list[str] = []

    def close(self) -> None:
        self.closed = True

    def tell(self, name: str, title: str, message: str) -> None:
        self.told.append(title)


class Stage:
    """A locked library and what the service has in its place."""

    def __init__(self, folder: Path, *, remembered: bool) -> None:
        header, self.key = vault.new_header("the right one", cost=CHEAP)
        self.header = msgspec.structs.replace(header, remembered=remembered)
        (folder / VAULT_FILE).write_bytes(msgspec.json.encode(self.header))
        self.now: Any = service.Closed(folder)
        self.vault = service.Vault(folder, self.now, self._exchange)

    async def _exchange(self, library: Any) -> None:
        self.now = library

    @property
    def open(self) -> bool:
        return isinstance(self.now, FakeLibrary)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Stage]:
    monkeypatch.setattr(service, "Library", FakeLibrary)
    monkeypatch.setattr(keys, "harden", lambda: None)  # this process goes on
    return lambda **how: Stage(tmp_path, **how)


def run(work: Awaitable[None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(within())


def test_the_keyring_opens_what_is_remembered(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        at = stage(remembered=True)
        asked: list[str] = []
        waiting = threading.Event()

        def recall(name: str) -> str:
            asked.append(name)
            waiting.wait(10)
            return at.key.hex()

        monkeypatch.setattr(keys, "recall", recall)
        monkeypatch.setattr(vault, "fits", lambda folder, key: key.hex() == at.key.hex())
        at.vault.begin()
        searching = asyncio.create_task(at.vault.ready(api.Search(id=1, query="x")))
        await at.vault.ready(api.GetStatus(id=2))  # a status does not wait
        assert not searching.done()
        waiting.set()
        await searching
        assert at.open
        assert at.vault.encrypted
        assert asked == [at.header.name]

    run(work())


@pytest.mark.parametrize("kept", [None, "", "no hexadecimal digits", "00", "11" * 32])
def test_what_the_keyring_gives_may_be_nonsense(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch, kept: str | None
) -> None:
    async def work() -> None:
        at = stage(remembered=True)
        monkeypatch.setattr(keys, "recall", lambda name: kept)
        monkeypatch.setattr(vault, "fits", lambda folder, key: False)
        at.vault.begin()
        await at.vault.ready(api.Search(id=1, query="x"))
        assert not at.open
        await at.vault.unlock(api.Unlock(id=2, passphrase="the right one"))
        assert at.open

    run(work())


def test_a_keyring_that_hangs_holds_nobody_up(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        at = stage(remembered=True)
        never = threading.Event()
        monkeypatch.setattr(keys, "recall", lambda name: never.wait(15))
        monkeypatch.setattr(service, "_KEYRING_S", 0.1)
        at.vault.begin()
        await at.vault.ready(api.Search(id=1, query="x"))
        assert not at.open
        await at.vault.unlock(api.Unlock(id=2, passphrase="the right one"))
        assert at.open
        await at.vault.end()

    run(work())


def test_wrong_passphrases_wait_longer_and_longer(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def work() -> None:
        at = stage(remembered=False)
        monkeypatch.setattr("indexer.vault.asyncio.sleep", sleep)
        for _ in range(10):
            with pytest.raises(IndexerError, match="wrong"):
                await at.vault.unlock(api.Unlock(id=1, passphrase="another one"))
        assert waited == [1, 2, 4, 8, 16, 30, 30]
        assert not at.open
        await at.vault.unlock(api.Unlock(id=1, passphrase="the right one"))
        assert at.open
        await at.vault.unlock(api.Unlock(id=1, passphrase="whatever"))  # it is open, nothing is asked

    run(work())


def test_a_keyring_that_refuses_does_not_keep_the_library_closed(
    stage: Callable[..., Stage], keyrings: Callable[..., None]
) -> None:
    async def work() -> None:
        at = stage(remembered=False)
        keyrings(Backend("keyring.backends.SecretService", priority=-1))
        await at.vault.unlock(api.Unlock(id=1, passphrase="the right one", remember=True))
        assert at.open
        assert at.now.told == ["The keyring refused"]

    run(work())


def test_a_change_that_fails_leaves_the_library_open_as_it_was(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise MemoryError

    async def work() -> None:
        at = stage(remembered=False)
        await at.vault.unlock(api.Unlock(id=1, passphrase="the right one"))
        before = at.now
        monkeypatch.setattr(vault, "convert", broken)
        with pytest.raises(MemoryError):
            async for _ in at.vault.change(api.SetLock(id=2, passphrase="the right one")):
                pass
        assert before.closed
        assert at.open
        assert at.now.key.hex() == at.key.hex()

    run(work())


def test_a_library_that_cannot_be_closed_well_is_opened_again(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def work() -> None:
        at = stage(remembered=False)
        await at.vault.unlock(api.Unlock(id=1, passphrase="the right one"))
        before = at.now
        monkeypatch.setattr(FakeLibrary, "close", full)
        with pytest.raises(OSError, match="No space"):
            async for _ in at.vault.change(api.SetLock(id=2, passphrase="the right one")):
                pass
        assert at.open
        assert at.now is not before
        assert vault.header(tmp_path) is not None

    tmp_path = stage(remembered=False).now.data_dir
    run(work())


def test_a_data_folder_that_went_away_is_said_and_comes_back(
    stage: Callable[..., Stage], tmp_path: Path
) -> None:
    async def work() -> None:
        at = stage(remembered=False)
        away = tmp_path.with_name(tmp_path.name + " away")
        tmp_path.rename(away)
        for mounted in (False, True):
            if mounted:
                tmp_path.mkdir()
            with pytest.raises(FatalError, match="not there any more"):
                await at.vault.unlock(api.Unlock(id=1, passphrase="the right one"))
            with pytest.raises(FatalError, match="not there any more"):
                await anext(
                    at.vault.change(api.SetLock(id=2, passphrase="the right one", new="a better one"))
                )
        assert list(tmp_path.iterdir()) == []
        tmp_path.rmdir()
        away.rename(tmp_path)
        await at.vault.unlock(api.Unlock(id=3, passphrase="the right one"))
        assert at.open

    run(work())


def test_an_empty_new_passphrase_does_not_decrypt(stage: Callable[..., Stage]) -> None:
    async def work() -> None:
        at = stage(remembered=False)
        await at.vault.unlock(api.Unlock(id=1, passphrase="the right one"))
        with pytest.raises(IndexerError, match="too short"):
            async for _ in at.vault.change(api.SetLock(id=2, passphrase="the right one", new="")):
                pass
        assert at.now.key.hex() == at.key.hex()
        assert not at.now.closed

    run(work())


def test_a_closed_library_refuses_whatever_needs_its_key(tmp_path: Path) -> None:
    closed = service.Closed(tmp_path)
    allowed = (api.GetStatus(id=1), api.GetLock(id=1), api.Unlock(id=1, passphrase=""), api.Stop(id=1))
    for request in (*allowed, api.SetLock(id=1), api.Subscribe(id=1)):
        closed.attend(request)
    refused = 0
    for kind in api.Request.__args__:
        if kind in {type(r) for r in allowed} | {api.SetLock, api.Subscribe, api.Hello, api.Cancel}:
            continue
        fields = {f.name: msgspec.NODEFAULT for f in msgspec.structs.fields(kind) if f.required}
        request = kind(**dict.fromkeys(fields, 1))
        with pytest.raises(IndexerError) as failure:
            closed.attend(request)
        assert failure.value.title == api.LOCKED
        refused += 1
    assert refused > 20
