"""The door of every program that is not the service: find the service of a library, or start it, and ask.

The window uses only `ensure_service` and speaks over its own event loop; the command line and
other plain programs use `IndexerClient`.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self, TypeVar

from indexer import api
from indexer.errors import FatalError, IndexerError
from indexer.settings import EmbeddingServer, Settings, private_folder

ENDPOINT_FILE = "service.json"
LOCK_FILE = "service.lock"
# One that ends takes a moment to let go of the library after it stopped listening.
START_AGAIN_S = 1.0
# What a service may take to accept a connection and to greet.
ANSWER_S = 10.0
_R = TypeVar("_R", bound=api.Reply)
_UCRED = struct.Struct("iII")  # process, user and group


class Endpoint(NamedTuple):
    """Where a running service listens and the key that opens it."""

    address: str
    key: str


def find_service(data_dir: Path) -> Endpoint | None:
    """The running service of a library, or None.

    Args:
        data_dir: The library's data folder.
    """
    endpoint = _read_endpoint(data_dir)
    if endpoint is None:
        return None
    try:
        _connect(endpoint).close()
    except OSError:
        return None
    return endpoint


def ensure_service(data_dir: Path, timeout: float = 60.0) -> Endpoint:
    """The running service of a library; it is started when there is none. May block for seconds.

    Args:
        data_dir: The library's data folder; it is made when it does not exist.
        timeout: Seconds to wait for the service to listen.

    Returns:
        An endpoint that accepted a connection a moment ago.

    Raises:
        FatalError: The service could not start, and why.
    """
    deadline = time.monotonic() + timeout
    endpoint = find_service(data_dir)
    if endpoint is not None:
        return endpoint
    if not hasattr(socket, "AF_UNIX"):
        raise FatalError(
            "This system is not supported yet", "Dragoman needs local (AF_UNIX) sockets: Linux or macOS."
        )
    try:
        private_folder(data_dir)
    except OSError as error:
        raise FatalError("The data folder cannot be used", f"{data_dir}: {error.strerror}.") from error
    while time.monotonic() < deadline:
        _start(data_dir, deadline)
        # Ours stood back if another program started one in the same moment, or if one is just
        # ending: then there is soon none, and it is tried again.
        again = time.monotonic() + START_AGAIN_S
        while time.monotonic() < min(again, deadline):
            endpoint = find_service(data_dir)
            if endpoint is not None:
                return endpoint
            time.sleep(0.05)
    raise FatalError(
        "The indexing service did not start",
        f"It did not answer within {timeout:.0f} seconds. Its log is {data_dir / 'logs' / 'service.log'}.",
    )


def _start(data_dir: Path, deadline: float) -> None:
    """Start the service and wait until it listens, stands back for another one, or fails."""
    process = subprocess.Popen(
        [sys.executable, "-m", "indexer.service", "--data-dir", str(data_dir)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=str(data_dir),
        start_new_session=True,
        # Of several threads NumPy's algebra has nothing on matrices as small as a search's, but they wait for
        # one another in a busy loop: a search beside other work took three times as long.
        env={"OPENBLAS_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(_import_path())},
    )
    # It outlives its starter as a rule; where it does not, somebody must take its exit code.
    threading.Thread(target=process.wait, name="service-reaper", daemon=True).start()
    assert process.stdout is not None
    with process.stdout as report:
        ready, _, _ = select.select([report], [], [], max(0.0, deadline - time.monotonic()))
        line = report.readline() if ready else b""
    if not ready:
        return
    if not line:
        process.wait()
        raise FatalError(
            "The indexing service did not start",
            f"It ended with code {process.returncode}. Its log is {data_dir / 'logs' / 'service.log'}.",
        )
    try:
        answer = json.loads(line)
    except ValueError:
        return  # something else printed there; whether it listens is seen by trying
    if isinstance(answer, dict) and "title" in answer:
        raise FatalError(answer["title"], answer["message"])


def _import_path() -> list[str]:
    """This program's own folder first, so that service and client are of one release."""
    here = str(Path(__file__).resolve().parents[1])
    others = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != here]
    return [here, *others]


def _read_endpoint(data_dir: Path) -> Endpoint | None:
    try:
        stored = json.loads((data_dir / ENDPOINT_FILE).read_text(encoding="utf-8"))
        endpoint = Endpoint(stored["address"], stored["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Nothing but what a service writes: an absolute path to its socket.
    good = all(isinstance(part, str) for part in endpoint) and endpoint.address.startswith("/")
    return endpoint if good and "\0" not in endpoint.address else None


def _connect(endpoint: Endpoint) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(ANSWER_S)
        connection.connect(endpoint.address)
        if peer_uid(connection) not in (None, os.getuid(), 0) and os.getuid() != 0:
            raise PermissionError(errno.EACCES, "Somebody else listens there")
    except OSError:
        connection.close()
        raise
    return connection


def peer_uid(connection: socket.socket) -> int | None:
    """Whose process is at the other end of a local socket; None where the system does not say."""
    if sys.platform == "linux":
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return int(_UCRED.unpack(told)[1])
    if sys.platform == "darwin":
        # SOL_LOCAL and LOCAL_PEERCRED of sys/un.h; a version and the user come first in struct xucred.
        return int.from_bytes(connection.getsockopt(0, 1, 76)[4:8], sys.byteorder)
    return None


def stop_service(data_dir: Path, timeout: float = 60.0) -> bool:
    """End the service of a library, of whatever release it is, and wait until it has let go of the library.

    Args:
        data_dir: The library's data folder.
        timeout: Seconds to wait for one that cannot be spoken with.

    Returns:
        Whether there was one.

    Raises:
        FatalError: It does not end, or it cannot be told which process it is.
    """
    if find_service(data_dir) is None and _owner(data_dir) is None:
        return False
    try:
        with IndexerClient(data_dir, start=False, name="stop") as client:
            client.stop()
    except FatalError:
        # One of another release does not understand us, one that hangs does not listen, and where the file is
        # damaged that says where it listens, it cannot be found. All end in good order at this signal.
        pid = _owner(data_dir)
        if pid is None:
            raise
        _end(pid, timeout)
    return True


def _owner(data_dir: Path) -> int | None:
    """The process that is the service of a library: the one that has locked its lock file."""
    import psutil

    try:
        said = json.loads((data_dir / ENDPOINT_FILE).read_text(encoding="utf-8"))["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        said = None
    locker = _locker(data_dir / LOCK_FILE, said)
    if locker is not None or not isinstance(said, int):
        return locker
    try:
        open_files = {file.path for file in psutil.Process(said).open_files()}
    except (OSError, ValueError, OverflowError, psutil.Error):
        return None
    return said if str(data_dir.resolve() / LOCK_FILE) in open_files else None


def _locker(file: Path, said: object) -> int | None:
    """Who has locked a file, where the system says so.

    Linux tells everybody, also of an encrypted library's service, whose open files it tells nobody. On Btrfs
    and the like it names another device than `stat`; then the process must be the one that is `said` to be.
    """
    try:
        state = file.stat()
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    for words in map(str.split, lines):
        # 12: FLOCK  ADVISORY  WRITE 4711 fd:01:1234567 0 EOF
        if len(words) >= 6 and words[1] == "FLOCK" and words[4].isdigit():
            major, minor, inode = words[5].split(":")
            same = (os.major(state.st_dev), os.minor(state.st_dev)) == (int(major, 16), int(minor, 16))
            if int(inode) == state.st_ino and (same or int(words[4]) == said) and int(words[4]):
                return int(words[4])
    return None


def _end(pid: int, timeout: float) -> None:
    import psutil

    try:
        process = psutil.Process(pid)
        process.terminate()
        process.wait(timeout)
    except psutil.NoSuchProcess:
        return
    except psutil.TimeoutExpired:
        raise FatalError(
            "The indexing service does not end",
            f"It was asked to {timeout:.0f} seconds ago. Its process is {pid}: kill -9 {pid}",
        ) from None
    except psutil.AccessDenied:
        raise FatalError(
            "The indexing service is somebody else's", f"Its process is {pid}; its owner can end it."
        ) from None


class IndexerClient:
    """A blocking connection to the service of one library. For one thread at a time.

    Args:
        data_dir: The library's data folder.
        start: Start the service when none runs; otherwise `FatalError` is raised.
        name: Who asks, for the service's log.

    Raises:
        FatalError: There is no service and none could be started, or it refused the connection.
    """

    def __init__(self, data_dir: Path, *, start: bool = True, name: str = "client") -> None:
        endpoint = ensure_service(data_dir) if start else find_service(data_dir)
        if endpoint is None:
            raise FatalError("Nothing is running", "There is no indexing service for this library.")
        try:
            self._socket = _connect(endpoint)
        except OSError as error:
            raise _lost(error) from error
        self._lines = self._socket.makefile("rb")
        self._ids = itertools.count(1)
        try:
            self.pid = self._greet(endpoint.key, name).pid
        except BaseException:
            self.close()
            raise
        self._socket.settimeout(None)

    def _greet(self, key: str, name: str) -> api.Welcome:
        self._send(api.Hello(key=key, version=api.PROTOCOL_VERSION, client=name))
        welcome = self._receive()
        if isinstance(welcome, api.Failed):
            raise FatalError(welcome.title, welcome.message)
        if not isinstance(welcome, api.Welcome):
            raise FatalError("The service answers strangely", "Stop it with `dragoman stop` and try again.")
        return welcome

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the service goes on as long as it has work."""
        with contextlib.suppress(OSError):
            self._lines.close()
            self._socket.close()

    def search(
        self,
        query: str,
        *,
        limit: int = 20,
        passages: int = 3,
        mark: bool = True,
        folders: tuple[str, ...] = (),
        like: api.Like | None = None,
        fold: bool = True,
        rerank: bool | None = None,
        task: api.Task | Literal[""] = "",
        model: str = "",
    ) -> api.SearchResult:
        """Find files by meaning, or what is similar to something, and return the final answer."""
        request = api.Search(
            id=next(self._ids),
            query=query,
            like=like,
            fold=fold,
            rerank=rerank,
            limit=limit,
            passages=passages,
            mark=mark,
            folders=folders,
            task=task,
            model=model,
        )
        self._send(request)
        while True:
            result = self._answer(request.id, api.SearchResult)
            if result.final:
                return result

    def complete(self, query: str, cursor: int | None = None) -> api.Completions:
        """Ways to go on with a query at the cursor (a place in characters; None for its end)."""
        at = len(query) if cursor is None else cursor
        return self._ask(api.Complete(id=next(self._ids), query=query, cursor=at), api.Completions)

    def status(self) -> api.Status:
        """What the service is doing."""
        return self._ask(api.GetStatus(id=next(self._ids)), api.Status)

    def watch(self) -> Iterator[api.Status]:
        """Statuses as they change, for ever; the connection can be used for nothing else meanwhile."""
        self._send(api.Subscribe(id=next(self._ids)))
        while True:
            message = self._receive()
            if isinstance(message, api.Failed):
                raise IndexerError(message.title, message.message)
            if isinstance(message, api.Status):
                yield message

    def folders(self) -> tuple[api.Folder, ...]:
        """The folders of the library."""
        return self._ask(api.ListFolders(id=next(self._ids)), api.Folders).folders

    def add_folder(self, path: Path) -> None:
        """Add a folder to the library; it is indexed in the background."""
        self._ask(api.AddFolder(id=next(self._ids), path=os.fspath(path)), api.Done)

    def remove_folder(self, path: Path) -> None:
        """Forget a folder and everything indexed in it."""
        self._ask(api.RemoveFolder(id=next(self._ids), path=os.fspath(path)), api.Done)

    def problems(self, *, limit: int = 500, offset: int = 0) -> api.Problems:
        """Files that are not in the index, newest first."""
        return self._ask(api.ListProblems(id=next(self._ids), limit=limit, offset=offset), api.Problems)

    def retry(self, paths: tuple[str, ...] = ()) -> None:
        """Try files again; none means all that failed."""
        self._ask(api.Retry(id=next(self._ids), paths=paths), api.Done)

    def set_paused(self, paused: bool) -> None:
        """Pause or resume indexing."""
        self._ask(api.SetPaused(id=next(self._ids), paused=paused), api.Done)

    def preview(self, path: str, *, start: int = 0, end: int = 0, page: int | None = None) -> api.Preview:
        """A file's page or text around a passage."""
        request = api.GetPreview(id=next(self._ids), path=path, start=start, end=end, page=page)
        return self._ask(request, api.Preview)

    def settings(self) -> Settings:
        """The library's settings."""
        return self._ask(api.GetSettings(id=next(self._ids)), api.SettingsReply).settings

    def put_settings(self, settings: Settings) -> None:
        """Store new settings."""
        self._ask(api.PutSettings(id=next(self._ids), settings=settings), api.Done)

    def models(self) -> tuple[api.Model, ...]:
        """Known and installed models."""
        return self._ask(api.ListModels(id=next(self._ids)), api.Models).models

    def install_model(self, reference: str) -> Generator[api.Progress, None, None]:
        """Download a model; the end of the generator means that it is installed.

        Closing the generator stops the download; use it in `contextlib.closing`.
        """
        request = api.InstallModel(id=next(self._ids), reference=reference)
        ended = False
        try:
            self._send(request)
            while True:
                message = self._receive()
                if isinstance(message, api.Welcome) or message.id not in (request.id, 0):
                    continue
                if isinstance(message, api.Failed):
                    ended = True
                    raise IndexerError(message.title, message.message)
                if isinstance(message, api.Done):
                    ended = True
                    return
                if isinstance(message, api.Progress):
                    yield message
        finally:
            if not ended:
                self._cancel(request.id)

    def _cancel(self, target: int) -> None:
        """Stop a request and wait until it has ended."""
        self._send(api.Cancel(id=next(self._ids), target=target))
        while True:
            try:
                message = self._receive()
            except FatalError as error:
                if isinstance(error.__cause__, ValueError):
                    continue  # the rest of a line that was being read when Ctrl-C came
                raise
            if isinstance(message, api.Failed | api.Done) and message.id == target:
                return

    def plan_model(
        self, reference: str, dimensions: int = 0, *, server: EmbeddingServer | None = None
    ) -> api.Plan:
        """What building the index of an installed model costs; `server` to try one that is not stored."""
        request = api.PlanModel(id=next(self._ids), reference=reference, dimensions=dimensions, server=server)
        return self._ask(request, api.Plan)

    def use_model(self, reference: str, dimensions: int = 0, *, keep: bool = False) -> None:
        """Build the index of a model in the background, then switch to it."""
        request = api.UseModel(id=next(self._ids), reference=reference, dimensions=dimensions, keep=keep)
        self._ask(request, api.Done)

    def cancel_switch(self, reference: str = "") -> None:
        """Stop building an index, or drop the one of a model that was kept."""
        self._ask(api.CancelSwitch(id=next(self._ids), reference=reference), api.Done)

    def remove_model(self, reference: str) -> None:
        """Remove a downloaded model that is not in use."""
        self._ask(api.RemoveModel(id=next(self._ids), reference=reference), api.Done)

    def verify_model(self, reference: str, dimensions: int = 0) -> api.Verified:
        """Compare a model's similarities with published ones; loads the model, so it takes a while."""
        request = api.VerifyModel(id=next(self._ids), reference=reference, dimensions=dimensions)
        return self._ask(request, api.Verified)

    def check(self, *, repair: bool = False) -> Generator[api.Progress | api.Checked, None, None]:
        """Compare all parts of the library, and mend what differs; the last message is the answer.

        Closing the generator stops it; use it in `contextlib.closing`.
        """
        request = api.Check(id=next(self._ids), repair=repair)
        ended = False
        try:
            self._send(request)
            while not ended:
                message = self._receive()
                if isinstance(message, api.Welcome) or message.id not in (request.id, 0):
                    continue
                if isinstance(message, api.Failed):
                    ended = True
                    raise IndexerError(message.title, message.message)
                if isinstance(message, api.Progress | api.Checked):
                    ended = isinstance(message, api.Checked)
                    yield message
        finally:
            if not ended:
                self._cancel(request.id)

    def lock(self) -> api.Lock:
        """Whether the library is encrypted, and open."""
        return self._ask(api.GetLock(id=next(self._ids)), api.Lock)

    def unlock(self, passphrase: str, *, remember: bool = False) -> None:
        """Open a locked library; `remember` puts its key into the system's keyring."""
        request = api.Unlock(id=next(self._ids), passphrase=passphrase, remember=remember)
        self._ask(request, api.Done)

    def remember(self, remember: bool) -> None:
        """Put the key of an open library into the system's keyring, or take it out of there."""
        self._ask(api.Remember(id=next(self._ids), remember=remember), api.Done)

    def set_lock(
        self, passphrase: str = "", *, new: str | None = None, remember: bool = False
    ) -> Iterator[api.Progress]:
        """Encrypt the library, change its passphrase, or decrypt it; done when the iterator ends.

        Args:
            passphrase: The present one; empty when there is none.
            new: The one it is to have; None to decrypt the library.
            remember: As for `unlock`.
        """
        request = api.SetLock(id=next(self._ids), passphrase=passphrase, new=new, remember=remember)
        self._send(request)
        while True:
            message = self._receive()
            if isinstance(message, api.Welcome) or message.id not in (request.id, 0):
                continue
            if isinstance(message, api.Failed):
                raise IndexerError(message.title, message.message)
            if isinstance(message, api.Done):
                return
            if isinstance(message, api.Progress):
                yield message

    def stop(self) -> None:
        """End the service and wait until it has let go of the library."""
        self._ask(api.Stop(id=next(self._ids)), api.Done)
        with contextlib.suppress(OSError):
            while self._socket.recv(1 << 16):
                pass

    def _ask(self, request: api.Request, kind: type[_R]) -> _R:
        self._send(request)
        assert not isinstance(request, api.Hello)
        return self._answer(request.id, kind)

    def _answer(self, request_id: int, kind: type[_R]) -> _R:
        while True:
            message = self._receive()
            if isinstance(message, api.Failed) and message.id in (request_id, 0):
                raise IndexerError(message.title, message.message)
            if isinstance(message, api.Welcome) or message.id != request_id:
                continue
            if not isinstance(message, kind):
                raise FatalError(
                    "The service answers strangely", f"{type(message).__name__} was not expected."
                )
            return message

    def _send(self, request: api.Request) -> None:
        line = api.encode(request)
        if len(line) > api.MAX_REQUEST_BYTES:
            raise IndexerError("The question is too long", "Ask in fewer words.")
        try:
            self._socket.sendall(line)
        except TimeoutError as error:
            raise _busy() from error
        except OSError as error:
            raise _lost(error) from error

    def _receive(self) -> api.Reply:
        try:
            line = self._lines.readline(api.MAX_REPLY_BYTES)
        except TimeoutError as error:
            raise _busy() from error
        except OSError as error:
            raise _lost(error) from error
        if not line.endswith(b"\n"):
            raise _lost(None)
        try:
            return api.decode_reply(line)
        except ValueError as error:
            raise FatalError(
                "The service answers strangely", "It may be of another release. Stop it and try again."
            ) from error


def _busy() -> FatalError:
    return FatalError(
        "The indexing service does not answer",
        f"It has been busy for {ANSWER_S:.0f} seconds. Try again in a moment; `dragoman stop` ends it.",
    )


def _lost(error: OSError | None) -> FatalError:
    why = f" ({error.strerror})" if error is not None and error.strerror else ""
    return FatalError(
        "The connection to the indexing service was lost", f"Try again; it is started anew{why}."
    )
