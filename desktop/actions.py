"""What the window does with files outside itself: open, show in the file manager, copy."""

from __future__ import annotations

import sys
from pathlib import Path

from PySide6.QtCore import QProcess, QUrl
from PySide6.QtDBus import QDBusConnection, QDBusMessage, QDBusPendingCallWatcher
from PySide6.QtGui import QDesktopServices, QGuiApplication

# What Windows would run rather than show; such a file is shown in its folder instead.
_RUNS = {
    ".bat", ".cmd", ".com", ".exe", ".hta", ".js", ".jse", ".lnk", ".msi", ".ps1", ".py", ".pyw", ".reg",
    ".scr", ".url", ".vbe", ".vbs", ".wsf", ".wsh", ".desktop",
}  # fmt: skip


class FileActions:
    """The person's own programs. Tests give the window another one."""

    def __init__(self) -> None:
        self._calls: list[QDBusPendingCallWatcher] = []

    def open(self, path: str) -> bool:
        """Open a file with the program that is set for it; False when there is none."""
        target = Path(path)
        if not target.exists():
            return False
        if target.suffix.lower() in _RUNS and (sys.platform == "win32" or target.suffix == ".desktop"):
            return self.reveal(path)
        return QDesktopServices.openUrl(_url(target))

    def reveal(self, path: str) -> bool:
        """Show a file or folder in the file manager, selected where that is possible."""
        target = Path(path)
        if not target.exists():
            return False
        if sys.platform == "darwin":
            return QProcess.startDetached("open", ["-R", path])[0]
        if sys.platform == "win32":
            return QProcess.startDetached("explorer", ["/select,", str(target)])[0]
        if not target.is_dir() and self._show_item(target):
            return True
        folder = target if target.is_dir() else target.parent
        return QDesktopServices.openUrl(_url(folder))

    def _show_item(self, target: Path) -> bool:
        """Ask the file manager over D-Bus; when it declines, its folder is opened."""
        bus = QDBusConnection.sessionBus()
        if not bus.isConnected():
            return False
        name = "org.freedesktop.FileManager1"
        call = QDBusMessage.createMethodCall(name, "/org/freedesktop/FileManager1", name, "ShowItems")
        call.setArguments([[_url(target).toString(QUrl.ComponentFormattingOption.FullyEncoded)], ""])
        watcher = QDBusPendingCallWatcher(bus.asyncCall(call))
        self._calls.append(watcher)

        def answered() -> None:
            self._calls.remove(watcher)
            if watcher.isError():
                QDesktopServices.openUrl(_url(target.parent))

        watcher.finished.connect(answered)
        return True

    def browse(self, url: QUrl) -> bool:
        """Open a web address in the browser."""
        return QDesktopServices.openUrl(url)

    def copy(self, text: str) -> None:
        """Put a text on the clipboard."""
        QGuiApplication.clipboard().setText(text)


def _url(path: Path) -> QUrl:
    """A file's address; bytes of its name that are no UTF-8 stay what they are."""
    return QUrl.fromEncoded(path.absolute().as_uri().encode("ascii"))
