"""Opening, closing and changing an encrypted library while the service runs.

While it is locked, `Closed` stands where the library would: it answers what can be answered without the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from indexer import api, keys
from indexer import settings as settings_module
from indexer.errors import FatalError, IndexerError
from indexer.library import Library
from indexer.store import cipher, vault
from indexer.store.cipher import Key

log = logging.getLogger(__name__)

# After so many wrong passphrases in a row each one waits longer.
_FREE_TRIES = 3
_LONGEST_WAIT_S = 30.0
_KEYRING_S = 30.0
_PATIENCE_S = 10.0
_TOLD_S = 0.25
_OPEN_REQUESTS = (api.GetStatus, api.Subscribe, api.GetLock, api.Unlock, api.SetLock, api.Stop)


class Closed:
    """Stands for a library that is locked, or is just being written anew."""

    busy = False

    def __init__(self, data_dir: Path, state: Literal["locked", "changing"] = "locked") -> None:
        self.data_dir = data_dir
        self.state: Literal["locked", "changing"] = state
        self.stopping = False

    def start(self) -> None:
        """There is nothing to start."""

    def close(self) -> None:
        """There is nothing to close."""

    def follow_file(self) -> None:
        """The settings are read when it opens."""

    def attend(self, request: api.Request) -> None:
        """Refuse what needs the key.

        Raises:
            FatalError: It does.
        """
        if isinstance(request, _OPEN_REQUESTS):
            return
        if self.state == "changing":
            raise FatalError(
                api.LOCKED, "It is just being written anew; `dragoman lock status` says how far that is."
            )
        raise vault.LockedError

    def status(self, request_id: int) -> api.Status:
        """What can be said: that it is locked."""
        return api.Status(
            id=request_id,
            state="stopping" if self.stopping else "locked",
            files=0,
            chunks=0,
            waiting=0,
            done=0,
            failed=0,
            skipped=0,
            files_per_s=0.0,
            tokens_per_s=0.0,
            remaining_s=None,
            current="",
            encoder=api.EncoderStatus(model="", state="resting"),
            index="exact",
            lock=self.state,
        )


def opened(data_dir: Path) -> Library | Closed:
    """The library of a data folder, or what stands for it when it is locked.

    Raises:
        IndexerError: It cannot be opened.
    """
    place = settings_module.identity(data_dir)
    vault.settle(data_dir)
    return Library(data_dir, place=place) if vault.header(data_dir) is None else Closed(data_dir)


class Vault:
    """The lock of the service's library.

    Args:
        data_dir: The library's data folder.
        library: What there is now; see `opened`.
        exchange: Puts another in its place, starts it, and returns.
    """

    def __init__(
        self,
        data_dir: Path,
        library: Any,
        exchange: Callable[[Library | Closed], Awaitable[None]],
    ) -> None:
        self._data_dir = data_dir
        self._place = settings_module.identity(data_dir)
        self._library = library
        self._exchange = exchange
        self._one = asyncio.Lock()
        self._wrong = 0
        self._changing: asyncio.Task[None] | None = None
        self._recalled: asyncio.Task[None] | None = None
        self._key_now: Key | None = None

    def begin(self) -> None:
        """Try the system's keyring, where the person wanted the key to be there."""
        if isinstance(self._library, Closed):
            self._recalled = asyncio.create_task(self._recall())

    async def _recall(self) -> None:
        found = vault.header(self._data_dir)
        if found is None or not found.remembered:
            return
        async with self._one:
            kept = await self._asked(keys.recall, found.name)
            try:
                key = Key(bytes.fromhex(kept or ""))
            except ValueError:
                log.warning("The keyring does not have the key; the passphrase is asked for")
                return
            if not await asyncio.to_thread(vault.fits, self._data_dir, key):
                log.warning("The keyring has another key; the passphrase is asked for")
                return
            try:
                await self._open(key)
            except IndexerError as error:
                log.warning("%s", error.title)

    async def ready(self, request: api.Request) -> None:
        """Let a request wait while the keyring is asked: perhaps the library need not be locked to it."""
        if self._recalled is not None and not isinstance(request, _OPEN_REQUESTS):
            await asyncio.wait([self._recalled], timeout=_PATIENCE_S)

    @property
    def encrypted(self) -> bool:
        """Whether the library is encrypted and open."""
        return self._key_now is not None

    async def end(self) -> None:
        """Wait for a change that is under way; it cannot be left in the middle without being done again."""
        if self._recalled is not None:
            self._recalled.cancel()
        if self._changing is not None:
            with contextlib.suppress(IndexerError, asyncio.CancelledError):
                await self._changing

    async def describe(self, request: api.GetLock) -> api.Lock:
        """The answer to `api.GetLock`."""
        found = vault.header(self._data_dir)
        state: api.LockState = "off" if found is None else "open"
        if isinstance(self._library, Closed):
            state = self._library.state
        return api.Lock(
            id=request.id,
            state=state,
            remembered=found is not None and found.remembered,
            keyring=(await self._asked(keys.keyring_name) or "") if found or request.keyring else "",
            possible=cipher.available(),
        )

    async def unlock(self, request: api.Unlock) -> None:
        """Open the library with its passphrase.

        Raises:
            IndexerError: It is not the passphrase, or the library cannot be opened.
        """
        async with self._one:
            settings_module.make_sure_of(self._data_dir, self._place)
            found = vault.header(self._data_dir)
            if found is None or not isinstance(self._library, Closed):
                return  # somebody else was quicker
            key = await self._key(found, request.passphrase)
            await self._open(key)
            if request.remember:
                await self._remember(found.name, key)

    async def remember(self, request: api.Remember) -> None:
        """Put the key into the keyring, or take it out of there.

        Raises:
            IndexerError: There is no keyring, or it refuses; or the library is locked, or not encrypted.
        """
        async with self._one:
            found = vault.header(self._data_dir)
            if found is None or (request.remember and self._key_now is None):
                raise IndexerError("There is nothing to remember", "The library is locked, or not encrypted.")
            if request.remember and self._key_now is not None:
                await self._keep(found.name, self._key_now)
            else:
                await asyncio.to_thread(vault.remember, self._data_dir, False)
                await self._asked(keys.forget, found.name)

    async def change(self, request: api.SetLock) -> AsyncGenerator[api.Progress, None]:
        """Encrypt, decrypt, or change the passphrase; goes on when the client leaves.

        Raises:
            IndexerError: It cannot be done; the library is as it was.
        """
        if self._changing is not None and not self._changing.done():
            raise IndexerError("The library is just being written anew", "Wait until that is done.")
        task = self._changing = asyncio.create_task(self._change(request))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # told where it is awaited
        while not task.done():
            await asyncio.wait([task], timeout=_TOLD_S)
            done, total = await asyncio.to_thread(vault.progress, self._data_dir)
            if total:
                yield api.Progress(id=request.id, done=min(done, total), total=total)
        await task

    async def _change(self, request: api.SetLock) -> None:
        async with self._one:
            settings_module.make_sure_of(self._data_dir, self._place)
            found = vault.header(self._data_dir)
            key = None
            if found is not None:
                key = await self._key(found, request.passphrase)
            elif request.new is None:
                raise IndexerError("The library is not encrypted", "There is nothing to turn off.")
            to, new_key = None, None
            if request.new is not None:
                self._check_settings()
                to, new_key = await asyncio.to_thread(vault.new_header, request.new)
            await asyncio.to_thread(vault.make_sure_of_room, self._data_dir)
            before = self._library
            await self._put(Closed(self._data_dir, "changing"))
            failure: Exception | None = None
            try:
                await asyncio.to_thread(before.close)
                await asyncio.to_thread(vault.convert, self._data_dir, key, to, new_key)
                key = new_key
                log.info("The library was written anew; it is %s", "open" if to is None else "encrypted")
            except Exception as error:
                log.exception("The library was not written anew")
                failure = error
            await self._open(key)
            if failure is not None:
                raise failure
            if found is not None and found.remembered:
                await self._asked(keys.forget, found.name)  # that one opens nothing any more
            if request.remember and to is not None and new_key is not None:
                await self._remember(to.name, new_key)

    def _check_settings(self) -> None:
        if settings_module.load(self._data_dir).chroma.url:
            raise IndexerError(
                "A Chroma server has the vectors",
                "What it keeps is not encrypted by Dragoman. Choose the one that comes with it first: "
                "dragoman chroma own",
            )

    async def _key(self, found: vault.Header, passphrase: str) -> Key:
        if self._wrong >= _FREE_TRIES:
            await asyncio.sleep(min(2.0 ** (self._wrong - _FREE_TRIES), _LONGEST_WAIT_S))
        try:
            key = await asyncio.to_thread(vault.key_of, found, passphrase)
        except IndexerError as error:
            self._wrong += error.title == api.WRONG_PASSPHRASE
            raise
        self._wrong = 0
        return key

    async def _open(self, key: Key | None) -> None:
        try:
            if key is not None:
                keys.harden()
                logging.getLogger().setLevel(logging.INFO)  # paths are told at the level below
            library = await asyncio.to_thread(Library, self._data_dir, key, place=self._place)
        except BaseException:
            await self._put(Closed(self._data_dir))
            raise
        self._key_now = key
        if vault.unfinished(self._data_dir):
            library.tell(
                "unencrypted",
                "Something that can be read was left",
                f"What the library was before could not all be removed from {self._data_dir}. It is tried "
                "again at every start; the log says why.",
            )
        await self._put(library)

    async def _put(self, library: Library | Closed) -> None:
        self._library = library
        await self._exchange(library)

    async def _remember(self, name: str, key: Key) -> None:
        try:
            await self._keep(name, key)
        except IndexerError as error:
            log.warning("%s", error.title)
            if isinstance(self._library, Library):
                self._library.tell("keyring", error.title, error.message)

    async def _keep(self, name: str, key: Key) -> None:
        await self._asked(keys.keep, name, key.hex(), strict=True)
        await asyncio.to_thread(vault.remember, self._data_dir, True)

    async def _asked(self, what: Callable[..., Any], *args: str, strict: bool = False) -> Any:
        """What the keyring answers, which may wait for a person for ever; None when it takes too long."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()

        def tell(value: Any, error: Exception | None) -> None:
            if not answer.done():
                answer.set_exception(error) if error is not None else answer.set_result(value)

        def ask() -> None:
            value, problem = None, None
            try:
                value = what(*args)
            except IndexerError as error:
                problem = error
            with contextlib.suppress(RuntimeError):  # the service has ended meanwhile
                loop.call_soon_threadsafe(tell, value, problem)

        # Not one of asyncio's threads: the service would wait for it at its end.
        threading.Thread(target=ask, name="keyring", daemon=True).start()
        try:
            async with asyncio.timeout(_KEYRING_S):
                return await answer
        except TimeoutError as error:
            log.warning("The keyring does not answer")
            if strict:
                message = "The passphrase was not remembered."
                raise IndexerError("The keyring does not answer", message) from error
            return None
