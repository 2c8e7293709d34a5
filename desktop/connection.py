"""The window's line to the service: requests out, replies to callbacks, back again when it breaks."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import msgspec
from PySide6.QtCore import QObject, QTimer, Signal
from PySide6.QtNetwork import QLocalSocket

from desktop.background import Background, alive
from indexer import api
from indexer.errors import IndexerError

log = logging.getLogger(__name__)

_BACK_OFF_MS = (100, 400, 1000, 2000, 5000, 10000)
_WELCOME_MS = 10_000


class Endpoint(Protocol):
    """Where the service listens and the key that opens it."""

    @property
    def address(self) -> str:
        """The path of its socket."""

    @property
    def key(self) -> str:
        """What `Hello` must say."""


@dataclass
class _Pending:
    done: Callable[[api.Reply], None]
    failed: Callable[[api.Failed], None] | None


class Connection(QObject):
    """A connection to the service of one library that mends itself.

    Requests made while it is down wait for the next connection; requests that were under way when
    it broke fail. Callbacks of Qt objects that are gone are dropped.

    Args:
        locate: Finds or starts the service; may block, runs off the GUI thread, raises IndexerError.
        background: Where `locate` runs.
        parent: Its owner.
    """

    ready = Signal()
    lost = Signal()
    failed = Signal(str, str)
    status = Signal(object)

    def __init__(
        self, locate: Callable[[], Endpoint], background: Background, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._locate = locate
        self._background = background
        self._ids = itertools.count(1)
        self._attempt = 0
        self._failures = 0
        self._closed = False
        self._greeted = False
        self._key = ""
        self._buffer = bytearray()
        self._scanned = 0
        self._pending: dict[int, _Pending] = {}
        self._waiting: dict[int, bytes] = {}
        self._socket = QLocalSocket(self)
        self._socket.connected.connect(self._greet)
        self._socket.disconnected.connect(self._broken)
        self._socket.errorOccurred.connect(self._socket_error)
        self._socket.readyRead.connect(self._read)
        self._again = QTimer(self)
        self._again.setSingleShot(True)
        self._again.timeout.connect(self.open)
        self._welcome = QTimer(self)
        self._welcome.setSingleShot(True)
        self._welcome.setInterval(_WELCOME_MS)
        self._welcome.timeout.connect(self._no_welcome)

    @property
    def is_ready(self) -> bool:
        """Whether the service has let us in."""
        return self._greeted

    def open(self) -> None:
        """Find or start the service and connect to it. Answers with `ready` or `failed`."""
        if self._closed or self._greeted:
            return
        self._again.stop()
        self._attempt += 1
        attempt = self._attempt
        self._background.submit(
            self._locate,
            lambda endpoint: self._connect(attempt, endpoint),
            lambda error: self._could_not_locate(attempt, error),
        )

    def close(self) -> None:
        """End the connection for good; nothing is called back any more."""
        self._closed = True
        self._again.stop()
        self._welcome.stop()
        self._pending.clear()
        self._waiting.clear()
        self._socket.disconnectFromServer()

    def request(
        self,
        message: api.Request,
        done: Callable[[api.Reply], None],
        failed: Callable[[api.Failed], None] | None = None,
    ) -> int:
        """Send a request (its own id is replaced).

        Args:
            message: What to ask.
            done: Called with every reply; more than once for a search, or for what tells how far it is.
            failed: Called instead when it fails; without it `Connection.failed` is emitted.

        Returns:
            The request's id, for `forget` and `cancel`.
        """
        request_id = next(self._ids)
        # Hello is the one request without an id, and it is never sent from here.
        line = api.encode(msgspec.structs.replace(message, id=request_id))
        pending = _Pending(done, failed)
        if len(line) >= api.MAX_REQUEST_BYTES:
            # The service would take it for nonsense and hang up.
            refused = api.Failed(
                id=request_id,
                title=self.tr("This is too long"),
                message=self.tr("The search service takes less at once."),
            )
            QTimer.singleShot(0, self, lambda: self._fail(pending, refused))
            return request_id
        self._pending[request_id] = pending
        if self._greeted:
            self._socket.write(line)
        else:
            self._waiting[request_id] = line
        return request_id

    def forget(self, request_id: int) -> None:
        """Do not call back for a request any more."""
        self._pending.pop(request_id, None)
        self._waiting.pop(request_id, None)

    def cancel(self, request_id: int) -> None:
        """Forget a request and tell the service that nobody waits for it."""
        self._waiting.pop(request_id, None)
        if self._pending.pop(request_id, None) is not None and self._greeted:
            self._socket.write(api.encode(api.Cancel(id=next(self._ids), target=request_id)))

    def interrupt(self, request_id: int) -> None:
        """Ask the service to stop working on a request; what becomes of it is still told."""
        if request_id in self._pending and self._greeted:
            self._socket.write(api.encode(api.Cancel(id=next(self._ids), target=request_id)))

    def _connect(self, attempt: int, endpoint: Endpoint) -> None:
        if self._closed or attempt != self._attempt:
            return
        self._key = endpoint.key
        self._buffer.clear()
        self._scanned = 0
        self._welcome.start()
        self._socket.connectToServer(endpoint.address)

    def _greet(self) -> None:
        hello = api.Hello(key=self._key, version=api.PROTOCOL_VERSION, client="window")
        self._socket.write(api.encode(hello))

    def _read(self) -> None:
        self._buffer += self._socket.readAll().data()
        while (end := self._buffer.find(b"\n", self._scanned)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._scanned = 0
            try:
                reply = api.decode_reply(line)
            except ValueError as error:
                # What the error says may quote the reply.
                log.error("a reply could not be read: %s", type(error).__name__)  # noqa: TRY400
                self._socket.abort()
                return
            self._take(reply)
        self._scanned = len(self._buffer)
        if self._scanned > api.MAX_REPLY_BYTES:
            log.error("a reply is longer than the protocol allows")
            self._socket.abort()

    def _take(self, reply: api.Reply) -> None:
        if isinstance(reply, api.Welcome):
            self._enter()
            return
        if not self._greeted:
            if isinstance(reply, api.Failed):
                self._failures = len(_BACK_OFF_MS) - 1
                self.failed.emit(reply.title, reply.message)
            return
        if isinstance(reply, api.Status) and reply.id == 0:
            self.status.emit(reply)
            return
        more = isinstance(reply, api.Progress) or (isinstance(reply, api.SearchResult) and not reply.final)
        last = not more
        pending = self._pending.pop(reply.id, None) if last else self._pending.get(reply.id)
        if pending is None:
            return
        if isinstance(reply, api.Failed):
            self._fail(pending, reply)
        elif alive(pending.done):
            pending.done(reply)

    def _enter(self) -> None:
        self._welcome.stop()
        self._greeted = True
        self._failures = 0
        waiting, self._waiting = self._waiting, {}
        for line in waiting.values():
            self._socket.write(line)
        self.request(api.Subscribe(id=0), self._first_status)
        self.ready.emit()

    def _first_status(self, reply: api.Reply) -> None:
        if isinstance(reply, api.Status):
            self.status.emit(reply)

    def _fail(self, pending: _Pending, reply: api.Failed) -> None:
        if pending.failed is None:
            self.failed.emit(reply.title, reply.message)
        elif alive(pending.failed):
            pending.failed(reply)

    def _could_not_locate(self, attempt: int, error: Exception) -> None:
        if self._closed or attempt != self._attempt:
            return
        if isinstance(error, IndexerError):
            self.failed.emit(error.title, error.message)
        else:
            title = self.tr("The search service could not be started")
            self.failed.emit(title, f"{type(error).__name__}: {error}")
        self._retry_later()

    def _no_welcome(self) -> None:
        log.warning("the service accepted the connection but did not answer")
        self._socket.abort()

    def _socket_error(self, error: QLocalSocket.LocalSocketError) -> None:
        if error != QLocalSocket.LocalSocketError.PeerClosedError:
            log.warning("connection to the service: %s", self._socket.errorString())
            # A refused connection never emits `disconnected`, and one to an address that is gone by now
            # is still "connecting" when it says so.
            gone = error == QLocalSocket.LocalSocketError.ServerNotFoundError
            if gone or self._socket.state() == QLocalSocket.LocalSocketState.UnconnectedState:
                self._broken()

    def _broken(self) -> None:
        self._welcome.stop()
        if self._closed:
            return
        was_ready, self._greeted = self._greeted, False
        dropped = [self._pending.pop(i) for i in list(self._pending) if i not in self._waiting]
        if was_ready:
            self.lost.emit()
        for pending in dropped:
            if pending.failed is not None and alive(pending.failed):
                title = self.tr("The connection to the search service broke")
                pending.failed(api.Failed(id=0, title=title, message=self.tr("Trying again.")))
        self._retry_later()

    def _retry_later(self) -> None:
        if not self._again.isActive():
            self._again.start(_BACK_OFF_MS[min(self._failures, len(_BACK_OFF_MS) - 1)])
            self._failures += 1
