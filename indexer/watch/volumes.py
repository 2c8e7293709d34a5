"""Which disks are mounted where: those below a library's folder come and go without the folder itself."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

_MOUNTS = Path("/proc/self/mountinfo")
_ESCAPED = re.compile(rb"\\([0-7]{3})")

# File systems that another machine holds too; also those that pass on a host's folder to a guest.
_NETWORK = frozenset(
    {
        "9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "coda", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs",
        "nfs4", "orangefs", "pvfs2", "smb3", "smbfs", "vboxsf", "webdav",
    }
)  # fmt: skip
_NETWORK_FUSE = ("sshfs", "rclone", "davfs", "s3fs", "glusterfs", "ceph", "smb", "nfs", "gvfsd-fuse", "kio")


class Mount(NamedTuple):
    """A mounted file system.

    Attributes:
        path: Where, absolute.
        kind: As the system calls it (``ext4``, ``nfs4``, ``fuse.sshfs``).
        device: Number of the device as `os.stat` has it, 0 where unknown.
    """

    path: str
    kind: str
    device: int


def mounts() -> list[Mount] | None:
    """All that is mounted, in the order in which it was; None when the system does not say."""
    if not sys.platform.startswith("linux"):
        import psutil

        try:
            return [Mount(p.mountpoint, p.fstype.lower(), 0) for p in psutil.disk_partitions(all=True)]
        except (OSError, psutil.Error):
            return None
    try:
        lines = _MOUNTS.read_bytes().splitlines()
    except OSError:
        return None
    return [found for line in lines if (found := _parsed(line)) is not None]


def _parsed(line: bytes) -> Mount | None:
    """A line of mountinfo, see proc(5): id parent major:minor root place options... - kind source options."""
    before, dash, after = line.partition(b" - ")
    fields, rest = before.split(b" "), after.split(b" ")
    if not dash or len(fields) < 5:
        return None
    major, _, minor = fields[2].partition(b":")
    place = _ESCAPED.sub(lambda escaped: bytes([int(escaped[1], 8) & 0xFF]), fields[4])
    return Mount(os.fsdecode(place), os.fsdecode(rest[0]), os.makedev(int(major), int(minor)))


def mounted_below(folder: str, known: list[Mount]) -> list[str]:
    """Where file systems are mounted inside a folder, itself not counted."""
    prefix = folder.rstrip("/") + "/"
    return sorted({mount.path for mount in known if mount.path.startswith(prefix) and mount.path != prefix})


def network_kind(path: Path) -> str:
    """The kind of network file system that a folder lies on; empty for a disk of this machine, or unknown."""
    there = os.fspath(path.resolve())
    best: Mount | None = None
    for mount in mounts() or []:
        inside = there == mount.path or there.startswith(mount.path.rstrip("/") + "/")
        # Of two at one place the later one is on top.
        if inside and (best is None or len(mount.path) >= len(best.path)):
            best = mount
    if best is None:
        return ""
    kind, _, program = best.kind.partition(".")
    if kind in _NETWORK or (kind == "fuse" and program.startswith(_NETWORK_FUSE)):
        return best.kind
    return ""
