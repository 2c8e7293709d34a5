"""What a confined process can still do, in a real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TRY = """
import os, signal, socket, subprocess, sys, threading
from pathlib import Path
from indexer.sandbox import confine
assert Path(sys.argv[1]).read_text() == "kept"
missing = confine()
def refused(what, call):
    try:
        call()
    except OSError:
        return
    print(what)
if "seccomp" not in missing:
    refused("socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    refused("unix", lambda: socket.socket(socket.AF_UNIX))
    refused("exec", lambda: os.execv("/bin/true", ["true"]))
    refused("mode", lambda: Path(sys.argv[1]).chmod(0o777))
    refused("times", lambda: os.utime(sys.argv[1]))
if "landlock" not in missing:
    refused("write", lambda: Path(sys.argv[1]).write_text("lost"))
    refused("create", lambda: Path(sys.argv[1] + ".new").touch())
    refused("remove", lambda: Path(sys.argv[1]).unlink())
    refused("program", lambda: subprocess.run(["/bin/true"]))
assert Path(sys.argv[1]).read_text() == "kept"
thread = threading.Thread(target=lambda: None)
thread.start()
thread.join()
print("done", *missing)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")
def test_a_confined_process_reads_and_does_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    done = subprocess.run([sys.executable, "-c", TRY, str(file)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("done"), done.stdout
    assert file.read_text() == "kept"
    assert list(tmp_path.iterdir()) == [file]
