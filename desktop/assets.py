"""Where pictures and the sample library lie, and icons in the colours of the theme."""

from __future__ import annotations

import json
import logging
from functools import lru_cache
from pathlib import Path

from PySide6.QtCore import QPoint, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QGuiApplication, QIcon, QIconEngine, QPainter, QPalette, QPixmap
from PySide6.QtSvg import QSvgRenderer

log = logging.getLogger(__name__)
_HERE = Path(__file__).resolve().parent
# A wheel carries the pictures inside the package, a source tree beside it.
ASSETS = next((p for p in (_HERE / "assets", _HERE.parent / "assets") if p.is_dir()), _HERE / "assets")


def sample_library() -> Path | None:
    """The folder of the sample library, None when this copy has none."""
    folder = ASSETS / "sample-library"
    return folder if folder.is_dir() else None


def sample_questions() -> tuple[str, ...]:
    """Questions that the sample library answers, in several languages; none when it is not there."""
    try:
        stored = json.loads((ASSETS / "sample-library-questions.json").read_text(encoding="utf-8"))
        return tuple(str(example["query"]) for example in stored["examples"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the sample library's questions cannot be read: %s", error)
        return ()


@lru_cache(maxsize=128)
def _svg(name: str) -> str:
    return (ASSETS / "icons" / f"{name}.svg").read_text(encoding="utf-8")


@lru_cache(maxsize=512)
def _renderer(name: str, color: str) -> QSvgRenderer:
    source = _svg(name).replace('stroke="#000"', f'stroke="{color}"')
    return QSvgRenderer(source.encode("utf-8"))


def paint_icon(painter: QPainter, name: str, rect: QRect, color: QColor) -> None:
    """Draw an icon in one colour, sharp at any scale.

    Args:
        painter: Where to draw.
        name: File name in assets/icons without its ending.
        rect: Square to fill.
        color: Colour of the strokes.
    """
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    _renderer(name, color.name()).render(painter, QRectF(rect))
    painter.restore()


class _ThemedEngine(QIconEngine):
    """Draws an icon in the text colour of the moment, so that a change of theme needs no new icons."""

    def __init__(self, name: str, role: QPalette.ColorRole) -> None:
        super().__init__()
        self._name = name
        self._role = role

    def clone(self) -> QIconEngine:
        return _ThemedEngine(self._name, self._role)

    def paint(self, painter: QPainter, rect: QRect, mode: QIcon.Mode, state: QIcon.State) -> None:
        disabled = mode == QIcon.Mode.Disabled
        group = QPalette.ColorGroup.Disabled if disabled else QPalette.ColorGroup.Active
        paint_icon(painter, self._name, rect, QGuiApplication.palette().color(group, self._role))

    def pixmap(self, size: QSize, mode: QIcon.Mode, state: QIcon.State) -> QPixmap:
        pixmap = QPixmap(size)
        pixmap.fill(Qt.GlobalColor.transparent)
        painter = QPainter(pixmap)
        self.paint(painter, QRect(QPoint(0, 0), size), mode, state)
        painter.end()
        return pixmap


_engines: list[QIconEngine] = []


@lru_cache(maxsize=256)
def icon(name: str, role: QPalette.ColorRole = QPalette.ColorRole.ButtonText) -> QIcon:
    """An icon that follows the palette.

    Args:
        name: File name in assets/icons without its ending.
        role: Colour of the palette to draw it in.
    """
    engine = _ThemedEngine(name, role)
    _engines.append(engine)  # QIcon holds the C++ half only; its Python half must live as long
    return QIcon(engine)


def app_icon() -> QIcon:
    """The application's icon."""
    return QIcon(str(ASSETS / "icons" / "dragoman.svg"))
