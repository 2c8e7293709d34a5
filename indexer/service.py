"""The one process that owns a library: its socket, its clients, its beginning and its end.

Started by the first client that needs it (`indexer.client`), it ends when no client is connected
and no file waits. Everything that blocks runs in threads; the event loop only moves messages.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import fcntl
import hmac
import json
import logging
import logging.handlers
import os
import resource
import secrets
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO

import msgspec

from indexer import __version__, api
from indexer.client import ENDPOINT_FILE, LOCK_FILE, peer_uid
from indexer.errors import FatalError, IndexerError, shortage
from indexer.library import Library
from indexer.query import complete
from indexer.settings import Settings, identity, private_folder
from indexer.store.database import errors
from indexer.vault import Closed, Vault, opened

log = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 10.0
SEND_TIMEOUT_S = 30.0
GOODBYE_S = 2.0
STATUS_EVERY_S = 0.25
SETTINGS_EVERY_S = 2.0
IDLE_SECONDS = 120.0
# How often it is looked whether the data folder is still there; so many looks in turn say that it is not.
PLACE_EVERY_S = 2.0
PLACE_LOOKS = 2
# Files and connections that may be open at once, where the system lets us say so.
OPEN_FILES = 16384
_UNLOCKED_PATIENCE = 5
# Clients at once. Of those that have not shown the key yet, the oldest gives way to a new one.
MOST_CLIENTS = 512
MOST_STRANGERS = 64
HELLO_BYTES = 16 << 10
# Of one client; while so many are under way no more is read from it.
MOST_REQUESTS = 64
SOCKET_PATH_LIMIT = 100  # bytes; sockaddr_un holds 108 on Linux and 104 on macOS


class _Connection:
    """One client. Requests run as tasks; answers are written whole, one after the other."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._write_lock = asyncio.Lock()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._fewer = asyncio.Event()
        self._read = bytearray()
        self._channels: dict[str, int] = {}
        self._hung_up = False
        self.greeted = False
        self.subscribed = False
        self._settings: Settings | None = None  # as the client knows them
        self._last_status = b""

    async def run(self) -> None:
        """Serve until the client leaves."""
        try:
            if not await self._greet():
                return
            while line := await self._line():
                try:
                    request = api.decode_request(line)
                except ValueError as error:
                    request_id = api.request_id(line)
                    await self.send(api.Failed(id=request_id, title="Not understood", message=str(error)))
                    if not request_id:
                        return
                    continue
                self._dispatch(request)
                while len(self._under_way) >= MOST_REQUESTS:
                    self._fewer.clear()
                    await self._fewer.wait()
        except (asyncio.LimitOverrunError, ValueError):
            with contextlib.suppress(OSError):
                await self.send(
                    api.Failed(id=0, title="Message too long", message="The connection is closed.")
                )
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            log.debug("A client left in the middle of a message")
        finally:
            self._hung_up = True
            for task in list(self._under_way):
                task.cancel()
            self._writer.close()

    async def _line(self) -> bytes:
        """The next line; what is left when the client has gone.

        Only for those who have shown the key: what others send is read in less room.

        Raises:
            ValueError: It is longer than any request.
        """
        searched = 0
        while (end := self._read.find(b"\n", searched)) < 0:
            searched = len(self._read)
            if searched > api.MAX_REQUEST_BYTES:
                raise ValueError("too long")
            more = await self._reader.read(1 << 16)
            if not more:
                end = len(self._read) - 1
                break
            self._read += more
        line = bytes(self._read[: end + 1])
        del self._read[: end + 1]
        return line

    async def _greet(self) -> bool:
        line = await asyncio.wait_for(self._reader.readline(), HELLO_TIMEOUT_S)
        try:
            hello = api.decode_request(line)
        except ValueError:
            hello = None
        if not isinstance(hello, api.Hello) or not hmac.compare_digest(
            hello.key.encode("utf-8", "replace"), self._server.key.encode()
        ):
            await self.send(api.Failed(id=0, title="Refused", message="The key does not fit this library."))
            return False
        if hello.version != api.PROTOCOL_VERSION:
            message = (
                f"The service speaks version {api.PROTOCOL_VERSION}, this program {hello.version}. "
                "Run `dragoman stop` and start again."
            )
            await self.send(api.Failed(id=0, title="Another version is running", message=message))
            return False
        await self.send(
            api.Welcome(version=api.PROTOCOL_VERSION, pid=os.getpid(), release=self._server.release)
        )
        self.greeted = True
        return True

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def abort(self) -> None:
        """Hang up at once, whatever is still to be sent."""
        self._writer.transport.abort()

    async def send(self, message: api.Reply) -> None:
        """Write one message; a client that does not read for long is given up."""
        await self.send_line(api.encode(message))

    async def send_line(self, line: bytes) -> None:
        """Write one encoded message."""
        async with self._write_lock:
            if self._writer.is_closing():
                raise ConnectionResetError
            self._writer.write(line)
            try:
                # Not wait_for, which may swallow a cancellation: https://github.com/python/cpython/issues/86296
                async with asyncio.timeout(SEND_TIMEOUT_S):
                    await self._writer.drain()
            except TimeoutError:
                log.info("A client that does not read was given up")
                self._writer.transport.abort()
                raise

    async def push(self, line: bytes) -> None:
        """Send a status that nobody asked for, unless the same, or the last one, is still on its way."""
        if line != self._last_status and not self._write_lock.locked():
            self._last_status = line
            with contextlib.suppress(OSError, TimeoutError):
                await self.send_line(line)

    def _dispatch(self, request: api.Request) -> None:
        if isinstance(request, api.Hello):
            return
        if isinstance(request, api.Cancel):
            task = self._tasks.get(request.target)
            if task is not None:
                task.cancel()
            self._begin(request.id, self.send(api.Done(id=request.id)))
            return
        if isinstance(request, api.Search) and request.channel:
            older = self._tasks.get(self._channels.get(request.channel, 0))
            if older is not None:
                older.cancel()
            self._channels[request.channel] = request.id
        self._begin(request.id, self._answer(request))

    def _begin(self, request_id: int, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks[request_id] = task
        self._under_way.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._under_way.discard(done)
            self._fewer.set()
            if self._tasks.get(request_id) is done:
                del self._tasks[request_id]
            if self._hung_up:
                return
            if done.cancelled():
                # Said here, because a task that is cancelled before its first step runs no line of its own.
                gone = api.Failed(id=request_id, title="Cancelled", message="It was cancelled.")
                self._begin(0, self.send(gone))
            elif (error := done.exception()) is not None:
                log.debug("An answer could not be sent: %s", type(error).__name__)

        task.add_done_callback(ended)

    async def _answer(self, request: api.Request) -> None:
        assert not isinstance(request, api.Hello)
        try:
            await self._carry_out(request)
        except IndexerError as error:
            said = self._why(request, error)
            await self.send(api.Failed(id=request.id, title=said.title, message=said.message))
        except (ConnectionError, TimeoutError):
            raise  # the client is gone
        except OSError as error:
            await self.send(
                api.Failed(id=request.id, title="The system refuses", message=f"{error.strerror or error}.")
            )
        except Exception as error:
            if isinstance(error, ValueError) and "null byte" in str(error):  # how Python refuses such a path
                message = "It holds a character that no file can have in its name."
                await self.send(api.Failed(id=request.id, title="There is no such file", message=message))
                return
            log.exception("A request of kind %s failed", type(request).__name__)
            message = f"{type(error).__name__}. This is a fault in Dragoman; its log says more."
            await self.send(api.Failed(id=request.id, title="Internal error", message=message))

    def _why(self, request: api.Request, error: IndexerError) -> IndexerError:
        """What to say: a library that was locked under a request has other troubles than that."""
        try:
            if isinstance(self._server.library, Closed):
                self._server.library.attend(request)
        except IndexerError as locked:
            return locked
        return error

    async def _carry_out(self, request: api.Request) -> None:
        vault = self._server.vault
        await vault.ready(request)
        library = self._server.library
        run = asyncio.to_thread
        library.attend(request)
        match request:
            case api.Search():
                await self._search(request)
            case api.Complete(id=i, query=text, cursor=cursor):
                start, end, items = await run(lambda: complete(text, cursor, library.store.facts()))
                await self.send(api.Completions(id=i, start=start, end=end, items=items))
            case api.GetStatus(id=i):
                await self.send(await run(library.status, i))
            case api.Subscribe(id=i):
                await self.send(await run(library.status, i))
                self.subscribed = True
            case api.ListFolders(id=i):
                await self.send(api.Folders(id=i, folders=await run(library.folders)))
            case api.ListProblems(id=i, kind=kind, limit=limit, offset=offset):
                problems, total = await run(
                    lambda: library.store.problems(kind=kind, limit=limit, offset=offset)
                )
                await self.send(api.Problems(id=i, problems=tuple(problems), total=total))
            case api.GetSettings(id=i):
                if self._server.started.is_set():
                    await run(library.follow_file)  # so that who changes them begins with what holds
                self._settings = library.settings
                await self.send(api.SettingsReply(id=i, settings=self._settings))
            case api.GetPreview():
                await self._server.started.wait()
                # Apart from the threads that answer searches: a file may take minutes to be read.
                loop = asyncio.get_running_loop()
                preview = await loop.run_in_executor(self._server.previews, library.preview, request)
                await self.send(msgspec.structs.replace(preview, id=request.id))
            case api.AddFolder(id=i, path=path):
                await self._do(i, lambda: library.add_folder(api.local_path(path)))
            case api.RemoveFolder(id=i, path=path):
                await self._do(i, lambda: library.remove_folder(api.local_path(path)))
            case api.Retry(id=i, paths=paths):
                await self._do(i, lambda: library.pipeline.retry([api.local_path(path) for path in paths]))
            case api.SetPaused(id=i, paused=paused):
                await self._do(i, lambda: library.set_paused(paused))
            case api.PutSettings(id=i, settings=new):
                base = self._settings

                def put() -> None:
                    library.put_settings(new, base)
                    self._settings = new

                await self._do(i, put)
            case api.ListModels(id=i):
                await self.send(api.Models(id=i, models=await run(library.list_models)))
            case api.InstallModel(id=i):
                async with contextlib.aclosing(library.install_model(request)) as installing:
                    async for progress in installing:
                        await self.send(progress)
                await self.send(api.Done(id=i))
            case api.RemoveModel(id=i, reference=reference):
                await self._do(i, lambda: library.remove_model(reference))
            case api.VerifyModel():
                await self.send(await run(library.verify_model, request))
            case api.PlanModel():
                await self.send(await run(library.plan_model, request))
            case api.UseModel(id=i, reference=reference, dimensions=dimensions, keep=keep):
                await self._do(i, lambda: library.use_model(reference, dimensions, keep=keep))
            case api.CancelSwitch(id=i, reference=reference):
                await self._do(i, lambda: library.models.cancel(reference))
            case api.Embed():
                await self._server.started.wait()
                await self.send(await library.embed(request))
            case api.Check():
                await self._server.started.wait()
                async with contextlib.aclosing(library.check(request)) as checking:
                    async for told in checking:
                        await self.send(told)
            case api.GetLock(id=i):
                await self.send(await vault.describe(request))
            case api.Unlock(id=i):
                await vault.unlock(request)
                await self.send(api.Done(id=i))
            case api.Remember(id=i):
                await vault.remember(request)
                await self.send(api.Done(id=i))
            case api.SetLock(id=i):
                async with contextlib.aclosing(vault.change(request)) as changing:
                    async for progress in changing:
                        await self.send(progress)
                await self.send(api.Done(id=i))
            case api.Stop(id=i):
                await self.send(api.Done(id=i))
                self._server.stop()

    async def _search(self, request: api.Search) -> None:
        library, started = self._server.library, self._server.started
        by_words = None
        if not started.is_set():
            # The catalog is open before anything else is.
            by_words = await library.by_words.answer(request)
            if by_words is not None:
                await self.send(by_words)
                if by_words.final:
                    return
            await started.wait()
        try:
            # Another than the active one may have to be loaded first.
            model = request.model
            if model:
                # Apart from the threads that answer everything else, as it may take seconds.
                loop = asyncio.get_running_loop()
                searcher = await loop.run_in_executor(self._server.openers, library.searcher, model)
            else:
                searcher = library.searcher()
        except FatalError as error:
            by_words = await library.by_words.answer(request, error)
            if by_words is None or request.model:
                raise
            await self.send(by_words)
            return
        async for result in searcher.search(request, words_given=by_words is not None):
            await self.send(result)

    async def _do(self, request_id: int, action: Callable[[], None]) -> None:
        await self._server.started.wait()
        await asyncio.to_thread(action)
        await self.send(api.Done(id=request_id))


class Server:
    """The socket and the life of the process."""

    def __init__(self, library: Library | Closed, *, idle_seconds: float) -> None:
        self.library: Any = library  # while it is locked, what refuses in its place
        self.vault = Vault(library.data_dir, library, self._exchange)
        self.key = secrets.token_urlsafe(32)
        self.release = __version__
        self.started = asyncio.Event()
        self.previews = ThreadPoolExecutor(2, thread_name_prefix="preview")
        self.openers = ThreadPoolExecutor(4, thread_name_prefix="open")
        self._idle_seconds = idle_seconds
        self._connections: set[_Connection] = set()
        self._in_order: dict[_Connection, None] = {}  # of coming
        self._serving: set[asyncio.Task[None]] = set()
        self._needed_at = time.monotonic()
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Begin to end."""
        self._stop.set()

    async def run(self, on_listening: Callable[[], None]) -> None:
        """Listen, start the library beside, and serve until told to stop or until nobody needs it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        address, folder = _socket_place(self.library.data_dir)
        old_mask = os.umask(0o177)
        try:
            listener = await asyncio.start_unix_server(
                self._serve, address, limit=HELLO_BYTES, backlog=MOST_CLIENTS
            )
        finally:
            os.umask(old_mask)
        endpoint = self.library.data_dir / ENDPOINT_FILE
        told = json.dumps({"address": address, "key": self.key, "pid": os.getpid()})
        _write_private(endpoint, told)
        place = identity(self.library.data_dir)
        on_listening()
        self._start = asyncio.create_task(self._start_library())
        self.vault.begin()
        works = (
            self._push_statuses(),
            self._end_when_unneeded(),
            self._follow_settings(),
            self._mind_place(place, endpoint, told),
        )
        beside = [asyncio.create_task(work) for work in works]
        try:
            await self._stop.wait()
        finally:
            for task in beside:
                task.cancel()
            listener.close()
            if identity(self.library.data_dir) == place:  # else what is there now is another service's
                for left in (endpoint, Path(address)):
                    with contextlib.suppress(OSError):
                        left.unlink(missing_ok=True)
            await self.vault.end()
            await self._start
            await asyncio.to_thread(self.library.close)
            # Clients that wait for the end see it only now, when the library is free again.
            for connection in list(self._connections):
                connection.close()
            if self._serving:
                await asyncio.wait(self._serving, timeout=GOODBYE_S)
            if folder is not None:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    async def _start_library(self) -> None:
        try:
            await asyncio.to_thread(self.library.start)
        finally:
            self.started.set()

    async def _exchange(self, library: Library | Closed) -> None:
        """Put another library, or what stands for it, in the place of the present one."""
        await self._start
        self.library = library
        self.started.clear()
        self._start = asyncio.create_task(self._start_library())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = peer_uid(writer.get_extra_info("socket"))
        if peer not in (None, os.getuid(), 0):
            log.warning("A connection of another user was refused")
            writer.transport.abort()
            return
        strangers = [c for c in self._in_order if not c.greeted]
        if len(strangers) >= MOST_STRANGERS:
            strangers[0].abort()
            self._in_order.pop(strangers[0], None)
        connection = _Connection(self, reader, writer)
        if len(self._connections) >= MOST_CLIENTS:
            with contextlib.suppress(OSError, TimeoutError):
                message = "Close some of the programs that use this library, and try again."
                await connection.send(
                    api.Failed(id=0, title="Too many programs are connected", message=message)
                )
            connection.close()
            return
        self._in_order[connection] = None
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(connection)
        self._serving.add(task)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._in_order.pop(connection, None)
            self._needed_at = time.monotonic()  # it may have come and gone between two looks
            self._serving.discard(task)

    async def _push_statuses(self) -> None:
        pushes: set[asyncio.Task[None]] = set()
        while True:
            await asyncio.sleep(STATUS_EVERY_S)
            listeners = [c for c in self._connections if c.subscribed]
            if not listeners:
                continue
            try:
                line = api.encode(await asyncio.to_thread(self.library.status, 0))
            except Exception:
                log.exception("The status could not be made")  # it may go well the next time
                continue
            for connection in listeners:
                # Beside each other: one client that does not read holds up no other.
                task = asyncio.create_task(connection.push(line))
                pushes.add(task)
                task.add_done_callback(pushes.discard)

    async def _follow_settings(self) -> None:
        await self.started.wait()
        while True:
            await asyncio.sleep(SETTINGS_EVERY_S)
            try:
                await asyncio.to_thread(self.library.follow_file)
            except Exception:
                log.exception("The settings' file could not be followed")  # it may go well the next time

    async def _mind_place(self, place: tuple[int, int] | None, endpoint: Path, told: str) -> None:
        """End when the data folder went away: what is written into a deleted folder helps nobody.

        Its disk may have been pulled out, or the folder deleted or put elsewhere. A new service begins where
        the next client finds the folder.
        """
        missed = 0
        while missed < PLACE_LOOKS:
            await asyncio.sleep(PLACE_EVERY_S)
            present = await asyncio.to_thread(identity, self.library.data_dir)
            missed = 0 if present == place else missed + 1
            if not missed and not await asyncio.to_thread(endpoint.exists):
                log.warning("The file that says where the service listens was gone and is written anew")
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(_write_private, endpoint, told)
        log.error("The data folder is not there any more: the service ends")
        self.stop()

    async def _end_when_unneeded(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self._idle_seconds / 4))
            if self._connections or self.library.busy:
                self._needed_at = time.monotonic()
            elif time.monotonic() - self._needed_at > self._idle_seconds * (
                # Its end forgets the key, and somebody has to enter the passphrase again.
                _UNLOCKED_PATIENCE if self.vault.encrypted else 1
            ):
                log.info("Nobody needs the service any more")
                self._stop.set()


def _socket_place(data_dir: Path) -> tuple[str, Path | None]:
    """A socket path short enough for the system, and the folder made for it, if any."""
    inside = data_dir / "service.sock"
    if len(os.fsencode(inside)) <= SOCKET_PATH_LIMIT:
        inside.unlink(missing_ok=True)
        return str(inside), None
    folder = Path(tempfile.mkdtemp(prefix="dragoman-"))
    return str(folder / "s"), folder


def _allow_files() -> None:
    """Have as many files open at once as the system gives without asking; shells often say 1,024 or 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS refuses some values
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _write_private(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)


class _Discreet(logging.Formatter):
    """Leaves out what exceptions say, as it may quote a person's files or questions; where remains."""

    def formatException(self, ei: Any) -> str:  # noqa: N802
        """The traceback with the types of the exceptions only."""
        lines = []
        error: BaseException | None = ei[1]
        while error is not None:
            lines += [*traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}\n"]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "".join(lines).rstrip()


def _set_up_log(data_dir: Path) -> None:
    folder = private_folder(data_dir / "logs")
    handler = logging.handlers.RotatingFileHandler(
        folder / "service.log", maxBytes=1_000_000, backupCount=3, encoding="utf-8"
    )
    debug = bool(os.environ.get("DRAGOMAN_DEBUG"))
    form = logging.Formatter if debug else _Discreet
    handler.setFormatter(form("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for chatty in ("httpx", "httpcore"):  # a line for every request
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _redirect_output(data_dir: Path) -> None:
    """Point fd 1 and 2 at the log, so that a library's print harms nothing."""
    target = os.open(data_dir / "logs" / "service.out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)


def _lock(data_dir: Path) -> TextIO | None:
    """The open lock file that makes this process the library's only service, or None."""
    file = (data_dir / LOCK_FILE).open("w", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _unusable(data_dir: Path, error: IndexerError | OSError) -> dict[str, object]:
    """Why the service cannot begin, for its starter."""
    if isinstance(error, OSError):
        short = shortage(error)
        if short is None:
            where, advice = data_dir, "Dragoman must be able to write there; another folder can be chosen "
            advice += "with --data-dir."
            odd = error.filename2 or error.filename
            if odd and error.errno in (errno.EISDIR, errno.EEXIST, errno.ENOTDIR):
                where, advice = odd, "Move it away: Dragoman has something else of that name."
            message = f"{where}: {error.strerror or error}. {advice}"
            return {"title": "The data folder cannot be used", "message": message}
        error = short
    return {"title": error.title, "message": error.message}


def main(argv: list[str] | None = None) -> int:
    """Run the service of one library until nobody needs it.

    The first line on standard output tells the starter how it went: ``{"ready": pid}`` or
    ``{"title": ..., "message": ...}``.
    """
    parser = argparse.ArgumentParser(prog="dragoman-service", description=main.__doc__)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS)
    options = parser.parse_args(argv)
    os.umask(0o077)
    # Said for NumPy, which is loaded by now (see `client._start`); torch may bring an OpenBLAS of its own.
    os.environ.pop("OPENBLAS_NUM_THREADS", None)
    data_dir: Path = options.data_dir.resolve()
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")

    def tell(answer: dict[str, object]) -> None:
        if report.closed:
            return
        with contextlib.suppress(OSError):
            report.write(json.dumps(answer) + "\n")
            report.close()

    _allow_files()
    try:
        private_folder(data_dir)
        lock = _lock(data_dir)
        if lock is None:
            # Another client started it in the same moment, or it is just ending; the starter looks again.
            tell({"other": True})
            return 0
        _set_up_log(data_dir)
        _redirect_output(data_dir)
    except OSError as error:
        tell(_unusable(data_dir, error))
        return 1
    try:
        with errors():
            library = opened(data_dir)
    except (IndexerError, OSError) as error:
        told = _unusable(data_dir, error)
        log.warning("%s", told["title"])
        tell(told)
        return 1
    log.info("Service %s begins", os.getpid())
    try:
        server = Server(library, idle_seconds=options.idle_seconds)
        asyncio.run(server.run(lambda: tell({"ready": os.getpid()})))
    except Exception as error:
        log.exception("The service ends by a fault")
        if isinstance(error, OSError):
            tell(_unusable(data_dir, error))
            return 1
        raise
    log.info("Service %s has ended", os.getpid())
    return 0


if __name__ == "__main__":
    code = main()
    if any(thread.name == "encoder" for thread in threading.enumerate()):
        # A model is still being loaded. Everything is written; taking the interpreter down beside it crashes.
        logging.shutdown()
        os._exit(code)
    sys.exit(code)
