"""Events through watchdog: macOS (FSEvents) and Windows (ReadDirectoryChangesW)."""

from __future__ import annotations

import os
from collections.abc import Callable

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

from indexer.watch.changes import Event
from indexer.watch.rules import Rules

# Without a filter watchdog also reports every opening and closing of a file, which drowns the rest.
_WANTED: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]


class ObserverSource:
    """Watches folders with everything below; these systems watch a whole tree at no cost a folder."""

    def __init__(self, on_event: Callable[[Event], None], on_refused: Callable[[str, OSError], None]) -> None:
        """Start watchdog's threads. Refusals can only come from `add` here."""
        del on_refused
        self._on_event = on_event
        self._observer = Observer()
        self._watches: dict[str, ObservedWatch] = {}
        self._observer.start()

    def add(self, root: str, rules: Rules, *, deep: bool = True) -> None:
        """Watch a root; what the rules ignore is dropped by the caller.

        Raises:
            OSError: The system refuses, or the root is not there.
        """
        del rules, deep
        self._watches[root] = self._observer.schedule(
            _Handler(self._on_event), root, recursive=True, event_filter=_WANTED
        )

    def remove(self, root: str) -> None:
        """Stop watching a root."""
        watch = self._watches.pop(root, None)
        if watch is not None:
            self._observer.unschedule(watch)

    def follow(self, folder: str, wanted: bool) -> None:
        """Nothing to do: a root is watched with everything below."""

    def renew(self, folder: str) -> None:
        """Nothing to do: ignored folders are watched as well."""

    def pending(self) -> bool:
        """Whether events wait in watchdog's queue (what the system still holds cannot be known)."""
        return not self._observer.event_queue.empty()

    def close(self) -> None:
        """End watchdog's threads."""
        self._observer.stop()
        self._observer.join()


class _Handler(FileSystemEventHandler):
    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event

    def dispatch(self, event: FileSystemEvent) -> None:
        if event.is_synthetic:
            return  # made up for the children of a moved folder, which need none
        path, is_dir = os.fsdecode(event.src_path), event.is_directory
        if event.event_type == "moved":
            self._on_event(Event("moved", path, is_dir, os.fsdecode(event.dest_path)))
        elif event.event_type == "created":
            self._on_event(Event("created", path, is_dir))
        elif event.event_type == "deleted":
            self._on_event(Event("deleted", path, is_dir))
        elif not is_dir:
            self._on_event(Event("modified", path, False))
