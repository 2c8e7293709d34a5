"""Programs started as a person at a terminal starts them."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence


def _heed_ctrl_c() -> None:
    # What runs the tests in its background has told them to ignore Ctrl-C, and children inherit that.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(command: Sequence[str]) -> subprocess.Popen[str]:
    """A program with pipes for its output, which heeds Ctrl-C whoever runs the tests."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_ctrl_c,
    )
