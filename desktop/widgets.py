"""Small widgets the panes share."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QCoreApplication, QEvent, QMargins, QPoint, QRect, QSize, Qt, Signal
from PySide6.QtGui import QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import (
    QDialog,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLayoutItem,
    QPushButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from desktop.assets import icon
from desktop.theme import icon_size


class ElidedLabel(QLabel):
    """A one-line label that shortens its text instead of asking for room; the tooltip has it all."""

    def __init__(
        self, mode: Qt.TextElideMode = Qt.TextElideMode.ElideMiddle, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self._mode = mode
        self.setTextFormat(Qt.TextFormat.PlainText)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def setText(self, text: str) -> None:
        super().setText(text)
        self._tip()

    def minimumSizeHint(self) -> QSize:
        return QSize(24, super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._tip()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setPen(self.palette().color(self.foregroundRole()))
        rect = self.contentsRect()
        text = self.fontMetrics().elidedText(self.text(), self._mode, rect.width())
        painter.drawText(rect, int(self.alignment()) | int(Qt.TextFlag.TextSingleLine), text)

    def _tip(self) -> None:
        fits = self.fontMetrics().horizontalAdvance(self.text()) <= self.contentsRect().width()
        self.setToolTip("" if fits else self.text())


class FlowLayout(QLayout):
    """Places its widgets from left to right and wraps like words."""

    def __init__(self, parent: QWidget | None = None, spacing: int = 8) -> None:
        super().__init__(parent)
        self._items: list[QLayoutItem] = []
        self.setContentsMargins(QMargins())
        self.setSpacing(spacing)

    def addItem(self, item: QLayoutItem) -> None:
        self._items.append(item)

    def count(self) -> int:
        return len(self._items)

    def itemAt(self, index: int) -> QLayoutItem | None:
        return self._items[index] if 0 <= index < len(self._items) else None

    def takeAt(self, index: int) -> QLayoutItem | None:
        return self._items.pop(index) if 0 <= index < len(self._items) else None

    def expandingDirections(self) -> Qt.Orientation:
        return Qt.Orientation(0)

    def hasHeightForWidth(self) -> bool:
        return True

    def heightForWidth(self, width: int) -> int:
        return self._place(QRect(0, 0, width, 0), move=False)

    def setGeometry(self, rect: QRect) -> None:
        super().setGeometry(rect)
        self._place(rect, move=True)

    def sizeHint(self) -> QSize:
        return self.minimumSize()

    def minimumSize(self) -> QSize:
        size = QSize()
        for item in self._items:
            size = size.expandedTo(item.minimumSize())
        return size

    def _place(self, rect: QRect, *, move: bool) -> int:
        """Lay out centred rows and return their height."""
        rows: list[list[QLayoutItem]] = [[]]
        width = 0
        for item in self._items:
            hint = item.sizeHint().width()
            if rows[-1] and width + hint > rect.width():
                rows.append([])
                width = 0
            rows[-1].append(item)
            width += hint + self.spacing()
        y = rect.y()
        for row in rows:
            used = sum(i.sizeHint().width() for i in row) + self.spacing() * max(0, len(row) - 1)
            x = rect.x() + max(0, (rect.width() - used) // 2)
            height = max((i.sizeHint().height() for i in row), default=0)
            for item in row:
                if move:
                    hint_size = item.sizeHint()
                    item.setGeometry(QRect(QPoint(x, y), QSize(min(hint_size.width(), rect.width()), height)))
                x += item.sizeHint().width() + self.spacing()
            y += height + self.spacing()
        return max(0, y - self.spacing() - rect.y())


class GrowingDialog(QDialog):
    """A dialog that gets as high as its texts, wrapped at its width, need; it never shrinks by itself."""

    def event(self, event: QEvent) -> bool:
        if event.type() != QEvent.Type.LayoutRequest:
            return super().event(event)  # which may be the end of this object
        done = super().event(event)
        layout = self.layout()
        if layout is not None:
            # Qt keeps to the smallest height of each part, which for wrapped text is that of one line.
            self.resize(self.width(), max(self.height(), layout.totalHeightForWidth(self.width())))
        return done


class Banner(QFrame):
    """One message with a title, what to do, and a button; it takes no focus and blocks nothing."""

    visibility_changed = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("banner")
        self._action: Callable[[], None] | None = None
        row = QHBoxLayout(self)
        row.setContentsMargins(12, 8, 8, 8)
        row.setSpacing(10)
        texts = QVBoxLayout()
        texts.setSpacing(1)
        self.title = QLabel()
        self.title.setObjectName("bannerTitle")
        self.title.setTextFormat(Qt.TextFormat.PlainText)
        self.message = QLabel()
        self.message.setObjectName("bannerMessage")
        self.message.setTextFormat(Qt.TextFormat.PlainText)
        self.message.setWordWrap(True)
        self.message.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        for label in (self.title, self.message):
            texts.addWidget(label)
        font = self.title.font()
        font.setBold(True)
        self.title.setFont(font)
        self.button = QPushButton()
        self.button.setObjectName("bannerButton")
        self.button.clicked.connect(self._act)
        close = tool_button("clear", self.tr("Dismiss"))
        close.setObjectName("bannerDismiss")
        close.clicked.connect(self.dismiss)
        row.addLayout(texts, 1)
        row.addWidget(self.button)
        row.addWidget(close, 0, Qt.AlignmentFlag.AlignTop)
        self.hide()

    def show_message(
        self,
        title: str,
        message: str,
        button: str = "",
        action: Callable[[], None] | None = None,
        *,
        good: bool = False,
    ) -> None:
        """Show a message.

        Args:
            title: What happened.
            message: Why, and what to do.
            button: Its label, empty for none.
            action: What the button does.
            good: Whether it is good news; it looks quieter.
        """
        if self.property("good") != good:
            self.setProperty("good", good)
            for widget in (self, self.title, self.message, self.button):
                restyle(widget)
        self.title.setText(title)
        self.message.setText(message)
        self.message.setVisible(bool(message))
        self._action = action
        self.button.setText(button)
        self.button.setVisible(bool(button))
        self.setAccessibleName(f"{title}. {message}")
        self.show()
        self.visibility_changed.emit(True)

    def dismiss(self) -> None:
        """Take the message away."""
        self.hide()
        self.visibility_changed.emit(False)

    def _act(self) -> None:
        self.dismiss()
        if self._action is not None:
            self._action()


def restyle(widget: QWidget) -> None:
    """Apply the style sheet anew, as a property that it looks at has changed."""
    widget.style().unpolish(widget)
    widget.style().polish(widget)
    # Padding and borders are measured when the style changes, not when a property does.
    QCoreApplication.sendEvent(widget, QEvent(QEvent.Type.StyleChange))


def set_chip(label: QLabel, chip: str) -> None:
    """Give a label the look of a chip: ``true``, ``live`` or ``warn``; see the style sheet."""
    if label.property("chip") != chip:
        label.setProperty("chip", chip)
        restyle(label)


def tool_button(icon_name: str, text: str, name: str = "") -> QToolButton:
    """A flat button that shows an icon; its text is the tooltip and the accessible name.

    Args:
        icon_name: Icon in assets/icons.
        text: What it does.
        name: Its objectName.
    """
    button = QToolButton()
    button.setIcon(icon(icon_name))
    button.setIconSize(icon_size())
    button.setToolTip(text)
    button.setAccessibleName(text)
    button.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    if name:
        button.setObjectName(name)
    return button
