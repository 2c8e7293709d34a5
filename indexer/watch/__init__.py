"""Folders of the library: what belongs in the index, what is there now, and what changes."""

from indexer.watch.changes import FileChange
from indexer.watch.rules import Rules
from indexer.watch.volumes import mounted_below, mounts, network_kind
from indexer.watch.walk import Entry, Known, root_device, root_online, scan, sweep
from indexer.watch.watcher import State, Watcher

__all__ = [
    "Entry",
    "FileChange",
    "Known",
    "Rules",
    "State",
    "Watcher",
    "mounted_below",
    "mounts",
    "network_kind",
    "root_device",
    "root_online",
    "scan",
    "sweep",
]
