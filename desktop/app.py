"""The composition root: the one place where the window's objects are wired together."""

from __future__ import annotations

import argparse
import logging
import logging.handlers
import os
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from PySide6.QtCore import QCoreApplication, QLibraryInfo, QLocale, QSettings, QTimer, QTranslator
from PySide6.QtWidgets import QApplication

from desktop.assets import app_icon
from desktop.background import Background
from desktop.connection import Connection
from desktop.theme import Theme
from desktop.window import MainWindow
from indexer.client import ensure_service
from indexer.errors import FatalError
from indexer.settings import default_data_dir, private_folder

_I18N = Path(__file__).resolve().parent / "i18n"


def main(argv: Sequence[str] | None = None) -> int:
    """Open the window and stay until it is closed.

    Args:
        argv: Arguments without the program's name; those of the process when None.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="dragoman window", description="Open Dragoman's window.")
    parser.add_argument("--data-dir", type=Path, default=None, help="data folder of the library")
    options, rest = parser.parse_known_args(sys.argv[1:] if argv is None else list(argv))
    data_dir = (options.data_dir or default_data_dir()).absolute()
    app = make_application([sys.argv[0], *rest])
    log_to_file(data_dir)
    window = build_window(app, data_dir)
    window.show()
    # Python sees a signal only between two of its own instructions; the timer makes some.
    heartbeat = QTimer()
    heartbeat.timeout.connect(lambda: None)
    heartbeat.start(500)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: window.close())
    return app.exec()


def make_application(argv: Sequence[str]) -> QApplication:
    """The application object, with its name, icon and language."""
    QCoreApplication.setApplicationName("Dragoman")
    QCoreApplication.setOrganizationName("dragoman")
    app = QApplication(list(argv))
    app.setDesktopFileName("dragoman")
    app.setWindowIcon(app_icon())
    install_translators(app, os.environ.get("DRAGOMAN_LANG"))
    return app


def install_translators(app: QApplication, language: str | None = None) -> list[QTranslator]:
    """Speak the person's language.

    Args:
        app: The application.
        language: Such as ``zh_CN`` or ``en``; the system's when None or empty.

    Returns:
        The translators that were installed.
    """
    locale = QLocale(language) if language else QLocale.system()
    QLocale.setDefault(locale)
    installed = []
    qt_folder = QLibraryInfo.path(QLibraryInfo.LibraryPath.TranslationsPath)
    english = QTranslator(app)
    # English itself needs a table: it says "1 file" and "2 files".
    if english.load(str(_I18N / "dragoman_en.qm")):
        app.installTranslator(english)
        installed.append(english)
    if locale.language() == QLocale.Language.English:
        return installed
    for base, folder in (("qtbase", qt_folder), ("dragoman", str(_I18N))):
        translator = QTranslator(app)
        if translator.load(locale, base, "_", folder):
            app.installTranslator(translator)
            installed.append(translator)
    return installed


def build_window(app: QApplication, data_dir: Path, scheme: str | None = None) -> MainWindow:
    """Wire the window of one library and open its connection.

    Args:
        app: The application.
        data_dir: The library's data folder.
        scheme: ``light`` or ``dark``; None follows the system.
    """
    theme = Theme(app, scheme)
    background = Background()
    connection = Connection(lambda: ensure_service(data_dir), background)
    state = QSettings(_own(data_dir / "window.ini"), QSettings.Format.IniFormat)
    window = MainWindow(theme, connection, background, state)
    connection.setParent(window)
    background.setParent(window)
    connection.open()
    return window


def _own(file: Path) -> str:
    """The path of a file that only its owner can read; it is made, so that Qt keeps its mode."""
    try:
        private_folder(file.parent)
        file.touch(mode=0o600)
        file.chmod(0o600)
    except OSError as error:  # the window goes on without it
        logging.getLogger(__name__).warning("no %s: %s", file.name, error.strerror)
    return str(file)


def log_to_file(data_dir: Path) -> None:
    """Keep the window's log beside the service's; without a folder for it, go on without a log."""
    try:
        folder = private_folder(data_dir) / "logs"
        private_folder(folder)
        handler = _OwnFile(
            folder / "window.log", maxBytes=500_000, backupCount=1, encoding="utf-8", delay=True
        )
    except (OSError, FatalError) as error:
        logging.getLogger(__name__).warning("no log file: %s", error)
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)


class _OwnFile(logging.handlers.RotatingFileHandler):
    """A log that only its owner can read, whatever files are made like elsewhere."""

    def _open(self) -> TextIOWrapper:
        _own(Path(self.baseFilename))
        return super()._open()


if __name__ == "__main__":
    sys.exit(main())
