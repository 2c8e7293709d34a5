"""Colours, fonts and the few style rules of the window, light and dark."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QObject, QSize, Qt, Signal
from PySide6.QtGui import QColor, QFont, QFontDatabase, QGuiApplication, QPalette
from PySide6.QtWidgets import QApplication, QStyleFactory

from desktop.assets import ASSETS

_CJK = ("Noto Sans CJK SC", "Source Han Sans SC", "PingFang SC", "Microsoft YaHei UI", "WenQuanYi Micro Hei")
_CJK_JA = ("Noto Sans CJK JP", "Hiragino Sans", "Yu Gothic UI")
_CJK_MONO = ("Noto Sans Mono CJK SC", "PingFang SC", "Microsoft YaHei UI")
_EMOJI = ("Noto Color Emoji", "Apple Color Emoji", "Segoe UI Emoji")


@dataclass(frozen=True)
class Colors:
    """One scheme. Text colours reach a contrast of 4.5:1 on every surface they are used on."""

    dark: bool
    window: str
    surface: str
    raised: str
    text: str
    muted: str
    border: str
    control: str
    accent: str
    on_accent: str
    accent_text: str
    selection: str
    hover: str
    mark: str
    mark_text: str
    passage: str
    warning_surface: str
    warning_text: str
    danger: str
    chip: str
    track: str
    code: tuple[tuple[str, str], ...]


LIGHT = Colors(
    dark=False,
    window="#f6f6f4",
    surface="#ffffff",
    raised="#ffffff",
    text="#1d2125",
    muted="#5b626b",
    border="#dfdfdb",
    control="#8b9098",
    accent="#0d7269",
    on_accent="#ffffff",
    accent_text="#0b665e",
    selection="#dcf0ed",
    hover="#f0f0ed",
    mark="#ffe28a",
    mark_text="#1d2125",
    passage="#fff8e1",
    warning_surface="#fdf3dc",
    warning_text="#6b4a00",
    danger="#b3261e",
    chip="#ebebe7",
    track="#e2e2de",
    code=(
        ("keyword", "#8b2f8f"),
        ("string", "#226b2e"),
        ("comment", "#646b73"),
        ("number", "#0a5ea8"),
        ("name", "#1d4f9c"),
        ("builtin", "#0b665e"),
        ("decorator", "#8a4b08"),
        ("error", "#b3261e"),
    ),
)

DARK = Colors(
    dark=True,
    window="#191b1d",
    surface="#202326",
    raised="#272b2e",
    text="#e9e7e3",
    muted="#a4abb2",
    border="#34393d",
    control="#737b83",
    accent="#4cc0b0",
    on_accent="#06231f",
    accent_text="#62cfc0",
    selection="#1f3f3c",
    hover="#292d30",
    mark="#705a14",
    mark_text="#fff6da",
    passage="#2d2a1d",
    warning_surface="#3a3018",
    warning_text="#f6dfa4",
    danger="#ff8a80",
    chip="#31363a",
    track="#3a4045",
    code=(
        ("keyword", "#d8a0dc"),
        ("string", "#9fd08f"),
        ("comment", "#98a0a8"),
        ("number", "#8cc2f5"),
        ("name", "#9cc0ff"),
        ("builtin", "#62cfc0"),
        ("decorator", "#e6b673"),
        ("error", "#ff8a80"),
    ),
)


class Theme(QObject):
    """The colours and fonts in use; follows the system's light or dark scheme while it runs.

    Args:
        app: The application that is styled.
        scheme: ``light`` or ``dark`` to stay with one, None to follow the system.
    """

    changed = Signal()

    def __init__(self, app: QApplication, scheme: str | None = None) -> None:
        super().__init__(app)
        self._app = app
        self._scheme = scheme
        self.colors = LIGHT
        app.setStyle(QStyleFactory.create("Fusion"))
        self.base_font = _base_font(app.font())
        self.mono_font = _mono_font(self.base_font)
        app.setFont(self.base_font)
        QGuiApplication.styleHints().colorSchemeChanged.connect(self._follow)
        self._follow()

    def set_scheme(self, scheme: str | None) -> None:
        """Stay with ``light`` or ``dark``, or follow the system with None."""
        self._scheme = scheme
        self._follow()

    def color(self, name: str) -> QColor:
        """A colour of the present scheme by its field name."""
        return QColor(getattr(self.colors, name))

    def code_color(self, kind: str) -> QColor:
        """The colour of a kind of token in source code."""
        return QColor(dict(self.colors.code).get(kind, self.colors.text))

    def font(self, scale: float = 1.0, *, bold: bool = False) -> QFont:
        """The window's font at a multiple of its normal size."""
        font = QFont(self.base_font)
        font.setPointSizeF(self.base_font.pointSizeF() * scale)
        if bold:
            font.setWeight(QFont.Weight.DemiBold)
        return font

    def _follow(self) -> None:
        scheme = QGuiApplication.styleHints().colorScheme()
        dark = self._scheme == "dark" or (self._scheme is None and scheme == Qt.ColorScheme.Dark)
        self.colors = DARK if dark else LIGHT
        self._app.setPalette(_palette(self.colors))
        self._app.setStyleSheet(_style_sheet(self.colors))
        self.changed.emit()


def _base_font(system: QFont) -> QFont:
    """The system's own font, with fallbacks for the scripts it lacks."""
    installed = set(QFontDatabase.families())
    family = system.family()
    if family in {"", "Sans", "Sans Serif", "DejaVu Sans", "Bitstream Vera Sans"}:
        family = next((f for f in ("Inter", "Noto Sans", "DejaVu Sans") if f in installed), family)
    font = QFont(system)
    fallbacks = [f for f in (*_CJK, *_CJK_JA, *_EMOJI) if f in installed]
    font.setFamilies([family, *fallbacks])
    if font.pointSizeF() <= 0:
        font.setPointSizeF(10.0)
    font.setPointSizeF(max(9.0, font.pointSizeF()))
    return font


def _mono_font(base: QFont) -> QFont:
    installed = set(QFontDatabase.families())
    system = QFontDatabase.systemFont(QFontDatabase.SystemFont.FixedFont)
    font = QFont(system)
    fallbacks = [f for f in (*_CJK_MONO, *_EMOJI) if f in installed]
    names: list[str] = [f for f in ("JetBrains Mono", "Noto Sans Mono", "DejaVu Sans Mono") if f in installed]
    generic = system.family().lower() in {"", "mono", "monospace"}
    family = system.family() if not generic else (names or ["Monospace"])[0]
    font.setFamilies([family, *fallbacks])
    font.setStyleHint(QFont.StyleHint.Monospace)
    font.setFixedPitch(True)
    font.setPointSizeF(base.pointSizeF() * 0.96)
    return font


def _palette(c: Colors) -> QPalette:
    palette = QPalette()
    role = QPalette.ColorRole
    roles = {
        role.Window: c.window,
        role.WindowText: c.text,
        role.Base: c.surface,
        role.AlternateBase: c.window,
        role.Text: c.text,
        role.Button: c.raised,
        role.ButtonText: c.text,
        role.BrightText: c.on_accent,
        role.ToolTipBase: c.raised,
        role.ToolTipText: c.text,
        role.PlaceholderText: c.muted,
        role.Highlight: c.accent,
        role.HighlightedText: c.on_accent,
        role.Link: c.accent_text,
        role.LinkVisited: c.accent_text,
        role.Mid: c.border,
        role.Midlight: c.border,
        role.Light: c.raised,
        role.Dark: c.border,
        role.Shadow: "#000000",
        role.Accent: c.accent,
    }
    for key, value in roles.items():
        palette.setColor(key, QColor(value))
    for key in (role.WindowText, role.Text, role.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, key, QColor(c.control))
    return palette


def _checked(c: Colors) -> str:
    """The tick of a box, as style sheets want it: a file, in the colour it has on the accent."""
    return (ASSETS / "icons" / f"checked-{'dark' if c.dark else 'light'}.svg").as_posix()


def _style_sheet(c: Colors) -> str:
    """Rules for what Fusion cannot say; everything else follows the palette."""
    return f"""
    QToolTip {{ color: {c.text}; background: {c.raised}; border: 1px solid {c.border}; padding: 4px 6px; }}
    QLineEdit#searchField {{
        border: 1px solid {c.control}; border-radius: 10px; padding: 9px 12px 9px 8px;
        background: {c.surface}; color: {c.text}; placeholder-text-color: {c.muted};
        selection-background-color: {c.accent}; selection-color: {c.on_accent};
    }}
    QLineEdit#searchField:focus {{ border: 2px solid {c.accent}; padding: 8px 11px 8px 7px; }}
    QPushButton {{
        border: 1px solid {c.control}; border-radius: 7px; padding: 6px 14px;
        background: {c.raised}; color: {c.text};
    }}
    QPushButton:hover {{ background: {c.hover}; }}
    QPushButton:pressed {{ background: {c.chip}; }}
    QPushButton:focus {{ border: 2px solid {c.accent}; padding: 5px 13px; }}
    QPushButton:disabled {{ color: {c.control}; border-color: {c.border}; }}
    QPushButton[primary="true"] {{
        background: {c.accent}; color: {c.on_accent}; border: 1px solid {c.accent}; font-weight: 600;
    }}
    QPushButton[primary="true"]:hover {{ background: {c.accent_text}; }}
    QPushButton[primary="true"]:focus {{ border: 2px solid {c.text}; }}
    QPushButton[primary="true"]:disabled {{
        background: {c.chip}; color: {c.control}; border-color: {c.border};
    }}
    QPushButton[danger="true"] {{ color: {c.danger}; }}
    QPushButton[example="true"] {{
        border: 1px solid {c.border}; border-radius: 15px; padding: 6px 14px; background: {c.surface};
        color: {c.accent_text}; text-align: left;
    }}
    QPushButton[example="true"]:hover {{ background: {c.selection}; border-color: {c.accent}; }}
    QPushButton[example="true"]:focus {{ border: 2px solid {c.accent}; padding: 5px 13px; }}
    QPushButton[link="true"] {{
        border: 1px solid transparent; background: transparent; color: {c.accent_text}; padding: 3px 6px;
    }}
    QPushButton[link="true"]:hover {{ text-decoration: underline; }}
    QPushButton[link="true"]:focus {{ border: 1px solid {c.accent}; padding: 3px 6px; }}
    QToolButton {{
        border: 1px solid transparent; border-radius: 6px; padding: 4px; background: transparent;
    }}
    QToolButton:hover {{ background: {c.chip}; }}
    QToolButton:pressed, QToolButton:checked {{ background: {c.track}; }}
    QToolButton:focus {{ border: 1px solid {c.accent}; }}
    QToolButton::menu-indicator {{ image: none; }}
    QLabel[muted="true"] {{ color: {c.muted}; }}
    QLabel[danger="true"] {{ color: {c.danger}; }}
    QLabel[chip="true"] {{ background: {c.chip}; color: {c.text}; border-radius: 8px; padding: 1px 8px; }}
    QLabel[chip="live"] {{
        background: {c.selection}; color: {c.accent_text}; border-radius: 8px; padding: 1px 8px;
    }}
    QLabel[chip="warn"] {{
        background: {c.warning_surface}; color: {c.warning_text}; border-radius: 8px; padding: 1px 8px;
    }}
    QFrame#banner {{ background: {c.warning_surface}; border: 1px solid {c.border}; border-radius: 8px; }}
    QFrame#banner QLabel {{ color: {c.warning_text}; }}
    QFrame#banner QPushButton {{
        background: transparent; color: {c.warning_text}; border: 1px solid {c.warning_text};
    }}
    QFrame#banner QPushButton:focus {{ border: 2px solid {c.warning_text}; }}
    QFrame#banner[good="true"] {{ background: {c.selection}; }}
    QFrame#banner[good="true"] QLabel {{ color: {c.text}; }}
    QFrame#banner[good="true"] QPushButton {{ color: {c.accent_text}; border: 1px solid {c.accent}; }}
    QFrame#banner[good="true"] QPushButton:focus {{ border: 2px solid {c.accent}; }}
    QLabel[notice="true"] {{
        background: {c.warning_surface}; color: {c.warning_text}; border-radius: 7px; padding: 6px 10px;
    }}
    QFrame#statusStrip {{ background: {c.window}; border: none; border-top: 1px solid {c.border}; }}
    QFrame#previewPane, QFrame#resultsPane, QFrame#comparePane {{ background: {c.surface}; border: none; }}
    QFrame#previewHeader, QFrame#resultsHeader, QFrame#compareHeader {{
        background: {c.surface}; border: none; border-bottom: 1px solid {c.border};
    }}
    QFrame#card {{ background: {c.surface}; border: 1px solid {c.border}; border-radius: 10px; }}
    QListWidget#completions, QFrame#whyPopup {{
        background: {c.raised}; border: 1px solid {c.control}; color: {c.text};
    }}
    QPushButton#showWeak {{
        border: none; border-top: 1px solid {c.border}; border-radius: 0; padding: 8px;
        background: {c.surface};
    }}
    QPushButton#showWeak:hover {{ background: {c.hover}; }}
    QPushButton#showWeak:focus {{ border: 2px solid {c.accent}; padding: 7px; }}
    QMenu {{ background: {c.raised}; border: 1px solid {c.control}; padding: 4px; }}
    QMenu::item {{ padding: 6px 28px 6px 14px; border-radius: 5px; color: {c.text}; }}
    QMenu::item:selected {{ background: {c.selection}; }}
    QMenu::separator {{ height: 1px; background: {c.border}; margin: 4px 8px; }}
    QCheckBox {{ spacing: 8px; }}
    QCheckBox::indicator {{
        width: 16px; height: 16px; border: 1px solid {c.control}; border-radius: 4px;
        background: {c.surface};
    }}
    QCheckBox::indicator:hover {{ border-color: {c.accent}; }}
    QCheckBox::indicator:focus {{ border: 2px solid {c.accent}; width: 14px; height: 14px; }}
    QCheckBox::indicator:checked {{
        background: {c.accent}; border-color: {c.accent}; image: url("{_checked(c)}");
    }}
    QCheckBox:focus, QRadioButton:focus {{ color: {c.accent_text}; }}
    QRadioButton {{ spacing: 8px; }}
    QRadioButton::indicator {{
        width: 16px; height: 16px; border: 1px solid {c.control}; border-radius: 9px;
        background: {c.surface};
    }}
    QRadioButton::indicator:hover {{ border-color: {c.accent}; }}
    QRadioButton::indicator:focus {{ border: 2px solid {c.accent}; width: 14px; height: 14px; }}
    QRadioButton::indicator:checked {{ border: 5px solid {c.accent}; width: 8px; height: 8px; }}
    QListView#results, QListView#otherResults, QTextBrowser#textView, QPlainTextEdit#codeView,
    QAbstractScrollArea#pageView {{
        background: {c.surface}; border: none;
    }}
    QAbstractScrollArea#pageView {{ background: {c.window}; }}
    QAbstractScrollArea::corner {{ background: transparent; border: none; }}
    QSplitter::handle {{ background: {c.border}; }}
    QProgressBar {{
        border: none; border-radius: 3px; background: {c.track}; max-height: 6px; min-height: 6px;
    }}
    QProgressBar::chunk {{ background: {c.accent}; border-radius: 3px; }}
    QScrollBar:vertical {{ background: transparent; width: 12px; margin: 0; }}
    QScrollBar:horizontal {{ background: transparent; height: 12px; margin: 0; }}
    QScrollBar::handle {{ background: {c.track}; border-radius: 4px; margin: 2px; }}
    QScrollBar::handle:vertical {{ min-height: 32px; }}
    QScrollBar::handle:horizontal {{ min-width: 32px; }}
    QScrollBar::handle:hover {{ background: {c.control}; }}
    QScrollBar::add-line, QScrollBar::sub-line {{ width: 0; height: 0; }}
    QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; }}
    QTabWidget::tab-bar {{ left: 8px; }}
    QTabWidget::pane {{ border: none; border-top: 1px solid {c.border}; }}
    QTabBar::tab {{
        background: transparent; color: {c.muted}; padding: 9px 14px; border: none;
        border-bottom: 2px solid transparent;
    }}
    QTabBar::tab:selected {{ color: {c.text}; border-bottom: 2px solid {c.accent}; }}
    QTabBar::tab:hover {{ color: {c.text}; }}
    QTabBar::tab:focus {{ color: {c.accent_text}; }}
    QHeaderView::section {{
        background: {c.window}; color: {c.muted}; border: none; border-bottom: 1px solid {c.border};
        padding: 6px 8px; text-align: left;
    }}
    QTreeView {{
        border: 1px solid {c.border}; background: {c.surface}; padding: 0; outline: 0;
        show-decoration-selected: 1;
    }}
    QTreeView::item {{ padding: 5px 4px; }}
    QTreeView::item:hover {{ background: {c.hover}; }}
    QTreeView::item:selected {{ background: {c.selection}; color: {c.text}; }}
    QTreeView:focus {{ border: 1px solid {c.accent}; }}
    QLineEdit[field="true"] {{
        border: 1px solid {c.control}; border-radius: 7px; background: {c.surface}; padding: 5px 8px;
    }}
    QLineEdit[field="true"]:focus {{ border: 2px solid {c.accent}; padding: 4px 7px; }}
    QLineEdit[field="true"]:disabled {{ color: {c.control}; border-color: {c.border}; }}
    QPlainTextEdit#ignoreField {{
        border: 1px solid {c.control}; border-radius: 7px; background: {c.surface}; padding: 4px;
    }}
    QPlainTextEdit#ignoreField:focus {{ border: 2px solid {c.accent}; padding: 3px; }}
    """


def icon_size() -> QSize:
    """The size of icons in buttons, in device-independent pixels."""
    return QSize(18, 18)
