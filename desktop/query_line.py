"""What belongs to the search field: completions, what was not understood, what is searched like."""

from __future__ import annotations

import re

from PySide6.QtCore import QPoint, Qt, Signal
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QListWidget, QListWidgetItem, QWidget

from desktop import wording
from desktop.theme import Theme
from indexer import api

_KEYS = ("ext", "type", "lang", "in", "name", "after", "before", "size")
_WORD = re.compile(r"[-(]*([A-Za-z]+)([:：]?)")


def wants_completions(text: str, cursor: int) -> bool:
    """Whether the word at the cursor is, or may become, a filter."""
    begin = max(text.rfind(" ", 0, cursor), text.rfind("\u3000", 0, cursor)) + 1
    found = _WORD.match(text[begin:cursor])
    if found is None:
        return False
    key, colon = found.group(1).lower(), found.group(2)
    if colon:
        return key in _KEYS
    return found.end() == cursor - begin and len(key) >= 2 and any(k.startswith(key) for k in _KEYS)


class CompletionList(QListWidget):
    """Ways to go on writing a filter, under the field; the field keeps the focus."""

    taken = Signal(str, int, int)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setObjectName("completions")
        self.setAccessibleName(self.tr("Completions"))
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self._span = (0, 0)
        self.itemClicked.connect(self._take)
        self.hide()

    def offer(self, reply: api.Completions, corner: QPoint, width: int) -> None:
        """Show an answer below a corner, or hide when there is nothing to show.

        Args:
            reply: What may be taken, best first.
            corner: Where, in the parent's coordinates.
            width: At most so wide, in pixels.
        """
        self.clear()
        self._span = (reply.start, reply.end)
        for one in reply.items:
            text = f"{one.label}    {one.detail}" if one.detail else one.label
            item = QListWidgetItem(wording.printable(text))
            item.setData(Qt.ItemDataRole.UserRole, one.insert)
            self.addItem(item)
        if not reply.items:
            self.hide()
            return
        self.setCurrentRow(0)
        rows = min(8, self.count())
        wide = max(220, self.sizeHintForColumn(0) + 40)
        self.setGeometry(corner.x(), corner.y(), min(width, wide), self.sizeHintForRow(0) * rows + 8)
        self.show()
        self.raise_()

    def step(self, step: int) -> None:
        """Go to another line."""
        self.setCurrentRow((self.currentRow() + step) % max(1, self.count()))

    def take(self) -> None:
        """Take the line chosen."""
        if (item := self.currentItem()) is not None:
            self._take(item)

    def _take(self, item: QListWidgetItem) -> None:
        self.hide()
        self.taken.emit(item.data(Qt.ItemDataRole.UserRole), *self._span)


class WhyPopup(QFrame):
    """Why a passage was found, in plain words; any click beside it or Esc closes it."""

    def __init__(self, theme: Theme, row_passage: api.Passage, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setObjectName("whyPopup")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setFrameShape(QFrame.Shape.StyledPanel)
        grid = QGridLayout(self)
        grid.setContentsMargins(18, 14, 18, 16)
        grid.setHorizontalSpacing(20)
        grid.setVerticalSpacing(6)
        title = QLabel(self.tr("Why this was found"))
        title.setFont(theme.font(1.05, bold=True))
        grid.addWidget(title, 0, 0, 1, 2)
        for i, (name, value) in enumerate(self._facts(row_passage), 1):
            label = QLabel(name)
            label.setProperty("muted", True)
            text = QLabel(value)
            text.setObjectName("whyValue")
            text.setTextFormat(Qt.TextFormat.PlainText)
            text.setWordWrap(True)
            text.setMinimumWidth(260)
            grid.addWidget(label, i, 0, Qt.AlignmentFlag.AlignTop)
            grid.addWidget(text, i, 1)

    def _facts(self, passage: api.Passage) -> list[tuple[str, str]]:
        why = passage.why
        percent = str(max(0, min(100, round(passage.similarity * 100))))
        facts = [
            (self.tr("Similarity"), self.tr("%1 of 100").replace("%1", percent)),
            (self.tr("Meaning"), self.tr("cosine %1").replace("%1", f"{why.cosine:.3f}")),
        ]
        if why.terms:
            words = wording.printable(", ".join(why.terms[:12]))
        else:
            words = self.tr("none, found by its meaning alone")
        facts.append((self.tr("Words in common"), words))
        if why.words:
            facts.append((self.tr("What the words changed"), f"{why.words:+.3f}"))
        if passage.lang and passage.lang != "code":
            facts.append((self.tr("Language"), wording.language_name(passage.lang)))
        if why.reranked is not None:
            facts.append((self.tr("Reranker"), f"{why.reranked:.2f}"))
        return facts
