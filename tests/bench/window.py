"""Run as a child: open the window, print the time when a person could type into the search field, and leave.

``python -m tests.bench.window --data-dir FOLDER`` prints time.monotonic_ns() of that moment, which
all processes of a machine share.
"""

from __future__ import annotations

import runpy
import sys
import time

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication, QLineEdit

_EVERY_MS = 1


def main() -> None:
    """Wrap the event loop's start, which every window program comes to, and run the program as it is."""
    run = QApplication.exec

    def measured() -> int:
        timer = QTimer()
        timer.setInterval(_EVERY_MS)

        def look() -> None:
            field = QApplication.focusWidget()
            # Visible, painted at least once and with the keyboard's focus: what is typed now arrives.
            if isinstance(field, QLineEdit) and field.isVisible() and field.isEnabled():
                timer.stop()
                print(time.monotonic_ns(), flush=True)
                QApplication.exit(0)

        timer.timeout.connect(look)
        timer.start()
        return run()

    QApplication.exec = staticmethod(measured)  # type: ignore[method-assign]
    sys.argv = ["dragoman", *sys.argv[1:]]
    runpy.run_module("desktop", run_name="__main__")


if __name__ == "__main__":
    main()
