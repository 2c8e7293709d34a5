"""Debian packages as a source of real documents in many languages, without installing anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def fetch(packages: Sequence[str], root: Path) -> dict[str, str]:
    """Fetch packages with apt and unpack them below `root`.

    Returns:
        The version of each package.

    Raises:
        RuntimeError: There is no apt, it does not know a package, or it could not fetch it.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise RuntimeError(
            "The texts are Debian packages, and this machine has no apt-get to fetch them with. "
            "Run it on Debian or Ubuntu (a container will do)."
        )
    with tempfile.TemporaryDirectory(dir=root) as folder:
        downloads = Path(folder)
        done = _apt(packages, downloads)
        if done.returncode and os.geteuid() == 0:
            # In a fresh container nothing is known yet.
            subprocess.run(["apt-get", "update", "-qq"], check=False, capture_output=True)
            done = _apt(packages, downloads)
        if done.returncode:
            raise RuntimeError(
                f"apt-get could not fetch {', '.join(packages)} (has `apt-get update` been run?):\n"
                f"{done.stderr.strip()}"
            )
        found = {}
        for package in sorted(downloads.glob("*.deb")):
            _run("dpkg-deb", "-x", str(package), str(root))
            name, version = _run(
                "dpkg-deb", "--show", "--showformat=${Package} ${Version}", str(package)
            ).split()
            found[name] = version
    return found


def _apt(packages: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", "download", "-qq", *packages], cwd=folder, capture_output=True, text=True, check=False
    )


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
    return done.stdout
