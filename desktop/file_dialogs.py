"""The system's own dialogs for folders and files. Tests give the window others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QWidget

# Asks the person for a path and calls back with it; not at all when they think better of it.
ChoosePath = Callable[[QWidget, Callable[[str], None]], None]


def choose_folder_natively(parent: QWidget, chosen: Callable[[str], None]) -> None:
    """Ask for a folder."""
    dialog = QFileDialog(parent)
    dialog.setFileMode(QFileDialog.FileMode.Directory)
    dialog.setOption(QFileDialog.Option.ShowDirsOnly)
    _open(dialog, chosen)


def choose_file_natively(parent: QWidget, chosen: Callable[[str], None]) -> None:
    """Ask for a file."""
    _open(QFileDialog(parent), chosen)


def choose_gguf(parent: QWidget, chosen: Callable[[str], None]) -> None:
    """Ask for a .gguf file."""
    dialog = QFileDialog(parent)
    dialog.setNameFilter("GGUF (*.gguf *.GGUF)")
    _open(dialog, chosen)


def _open(dialog: QFileDialog, chosen: Callable[[str], None]) -> None:
    if dialog.fileMode() == QFileDialog.FileMode.AnyFile:
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
    dialog.setDirectory(str(Path.home()))
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.fileSelected.connect(chosen)
    dialog.open()
