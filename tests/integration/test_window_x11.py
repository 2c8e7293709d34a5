"""The window on a real X server: Qt's xcb plugin loads and the window is drawn on the screen."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from indexer.client import IndexerClient, find_service

pytestmark = pytest.mark.skipif(shutil.which("Xvfb") is None, reason="there is no Xvfb")

# The program as it is, but for its event loop: that ends as soon as the X server shows the window.
CHILD = """
import runpy, sys
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication

run = QApplication.exec

def watched(*_):
    timer = QTimer()
    def look():
        if any(window.isExposed() for window in QApplication.topLevelWindows()):
            timer.stop()
            print(QApplication.platformName(), flush=True)
            QApplication.exit(0)
    timer.timeout.connect(look)
    timer.start(20)
    return run()

QApplication.exec = staticmethod(watched)
runpy.run_module("desktop", run_name="__main__")
"""


@pytest.fixture
def display() -> Iterator[str]:
    """An X server of our own."""
    reading, writing = os.pipe()
    command = ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x800x24", "-nolisten", "tcp"]
    with subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.DEVNULL) as server:
        os.close(writing)
        try:
            with os.fdopen(reading) as answer:
                number = answer.readline().strip()
            assert number, "Xvfb did not start"
            yield f":{number}"
        finally:
            server.terminate()


def test_the_window_appears(display: str, tmp_path: Path) -> None:
    environment = {**os.environ, "DISPLAY": display, "QT_QPA_PLATFORM": "xcb"}
    environment.pop("WAYLAND_DISPLAY", None)
    command = [sys.executable, "-c", CHILD, "--data-dir", str(tmp_path / "library")]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=120, check=False
        )
        assert done.stdout.split() == ["xcb"], done.stderr
        assert done.returncode == 0, done.stderr
    finally:
        # The window has started a service, which would stay for two minutes.
        if find_service(tmp_path / "library") is not None:
            with IndexerClient(tmp_path / "library", start=False) as client:
                client.stop()
