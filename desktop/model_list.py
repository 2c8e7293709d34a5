"""What the window knows of the models: which there are, downloads under way, when the service switched."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from functools import partial

import msgspec
from PySide6.QtCore import QObject, Signal

from desktop.connection import Connection
from indexer import api

_RATE_S = 8.0


@dataclass
class Download:
    """A download under way.

    Attributes:
        model: What is downloaded, as far as it is known.
        progress: How far it is; None before the first word of it.
        stopping: Whether it was asked to stop.
    """

    model: api.Model
    request: int = 0
    progress: api.Progress | None = None
    stopping: bool = False
    _samples: deque[tuple[float, int]] = field(default_factory=deque)

    def take(self, progress: api.Progress) -> None:
        """Note how far it is now."""
        self.progress = progress
        now = time.monotonic()
        self._samples.append((now, progress.done))
        while len(self._samples) > 2 and self._samples[0][0] < now - _RATE_S:
            self._samples.popleft()

    @property
    def bytes_per_s(self) -> float | None:
        """Rate over the last seconds; None while there is none."""
        if len(self._samples) < 2:
            return None
        (began, first), (now, last) = self._samples[0], self._samples[-1]
        return (last - first) / (now - began) if now - began > 0.2 and last > first else None


class ModelList(QObject):
    """The models of the library, brought up to date whenever the service does something to them.

    Args:
        connection: The service.
    """

    changed = Signal()
    # The model that searches use from now on; only when it was another before.
    switched = Signal(object)

    def __init__(self, connection: Connection, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._connection = connection
        self.models: tuple[api.Model, ...] | None = None
        self.failure: api.Failed | None = None
        self.switch: api.SwitchStatus | None = None
        self.downloads: dict[str, Download] = {}
        self.errors: dict[str, api.Failed] = {}
        self.stopped: dict[str, api.Progress] = {}
        self._strays: dict[str, api.Model] = {}
        self._request = 0
        self._again = False
        self._seen: tuple[object, ...] = ()
        self._serving: tuple[str, int] | None = None
        connection.ready.connect(self.refresh)
        connection.lost.connect(self._lost)

    @property
    def active(self) -> api.Model | None:
        """The model that searches use."""
        return next((m for m in self.models or () if m.state == "active"), None)

    @property
    def kept(self) -> list[api.Model]:
        """Models whose index is kept beside that one."""
        return [m for m in self.models or () if m.state == "kept"]

    def find(self, reference: str) -> api.Model | None:
        """The model of a reference."""
        return next((m for m in self.models or () if m.reference == reference), None)

    def refresh(self) -> None:
        """Ask for the list; `changed` says when it is here."""
        if self._request:
            self._again = True
            return
        self._again = False
        self._request = self._connection.request(api.ListModels(id=0), self._listed, self._not_listed)

    def take_status(self, status: api.Status) -> None:
        """The service did something."""
        switch, encoder = status.switch, status.encoder
        seen = (switch.reference if switch else None, encoder.model, encoder.dimensions, encoder.state)
        if seen != self._seen:
            self._seen = seen
            self.refresh()
        if switch != self.switch:
            self.switch = switch
            self.changed.emit()

    def install(self, model: api.Model) -> None:
        """Download a model, or go on with it; also takes a folder or file into the list."""
        reference = model.reference
        if reference in self.downloads:
            return
        self.forget(reference)
        self.downloads[reference] = download = Download(model)
        download.request = self._connection.request(
            api.InstallModel(id=0, reference=reference),
            partial(self._progressed, reference),
            partial(self._not_installed, reference),
        )
        self.changed.emit()

    def stop(self, reference: str) -> None:
        """Stop a download. What there is of it is kept."""
        download = self.downloads.get(reference)
        if download is not None and not download.stopping:
            download.stopping = True
            self._connection.interrupt(download.request)
            self.changed.emit()

    def forget(self, reference: str) -> None:
        """Take away what went wrong with a model, and the model itself where it could not be added."""
        self._strays.pop(reference, None)
        self.errors.pop(reference, None)
        self.stopped.pop(reference, None)
        self.changed.emit()

    def fail(self, reference: str, reply: api.Failed) -> None:
        """Show at a model that something did not work."""
        self.errors[reference] = reply
        self.changed.emit()

    def _listed(self, reply: api.Reply) -> None:
        self._request = 0
        if not isinstance(reply, api.Models):
            return
        self.failure = None
        # Before the first model of a library serves, there is nothing to switch from.
        before = self._serving
        self.models = reply.models
        active = self.active
        if active is not None:
            self._serving = (active.reference, active.dimensions)
        self.changed.emit()
        if active is not None and before not in (None, self._serving):
            self.switched.emit(active)
        if self._again:
            self.refresh()

    def _not_listed(self, reply: api.Failed) -> None:
        self._request = 0
        self.failure = reply
        self.changed.emit()

    def _progressed(self, reference: str, reply: api.Reply) -> None:
        download = self.downloads.get(reference)
        if download is None:
            return
        if isinstance(reply, api.Progress):
            download.take(reply)
        else:
            del self.downloads[reference]
            self.refresh()
        self.changed.emit()

    def _not_installed(self, reference: str, reply: api.Failed) -> None:
        download = self.downloads.pop(reference, None)
        if download is not None and download.stopping:
            self.stopped[reference] = download.progress or api.Progress(id=0, done=0, total=0)
        else:
            self.errors[reference] = reply
        if download is not None:
            self._strays[reference] = download.model
        self.changed.emit()

    def _lost(self) -> None:
        self._request = 0
        self._seen = ()
        self.switch = None

    def entries(self) -> list[api.Model]:
        """The models to show: the service's, and those that are being added."""
        shown = {m.reference: m for m in self.models or ()}
        added = {reference: download.model for reference, download in self.downloads.items()}
        return [*shown.values(), *(m for r, m in (self._strays | added).items() if r not in shown)]

    def is_stray(self, reference: str) -> bool:
        """Whether only this window knows of a model, which could not be added."""
        return reference in self._strays and self.find(reference) is None


def named(reference: str, name: str, kind: str) -> api.Model:
    """A model of which nothing else is known yet."""
    entry = {"reference": reference, "name": name, "kind": kind, "state": "available"}
    return msgspec.convert(entry, api.Model)
