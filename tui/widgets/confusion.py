"""The confusion matrix as a heat map with a cursor: counts if they fit, shades if there are many classes.

The line below always spells out the cell under the cursor, so that 100 classes stay readable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from engine.text import percent, safe_text
from tui.text import fitted

_SHADES = " ·░▒▓█"  # distinct without colour
_DARK = (18, 18, 18)
_RIGHT, _WRONG = (0, 114, 178), (213, 94, 0)  # Okabe and Ito's blue and vermillion
_CORNER = "true╲predicted"
_LABEL, _LONG_LABEL = 14, 30  # maximum width of a class name in cells, normally and if there is space


class ConfusionMap(Widget, can_focus=True):
    """Rows are true classes, columns predicted classes; shaded by the share of the true class."""

    class Chosen(Message):
        """Enter on a cell: `true` and `predicted` are its classes."""

        def __init__(self, true: int, predicted: int) -> None:
            super().__init__()
            self.true, self.predicted = true, predicted

    DEFAULT_CSS = "ConfusionMap { height: 1fr; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Images", tooltip="the test images of the cell under the cursor"),
        Binding("n", "confusion(1)", "Next confusion", tooltip="go to the next most frequent confusion"),
        Binding("b", "confusion(-1)", "Previous confusion", show=False, tooltip="go to the previous confusion"),
        Binding("left,h", "move(0,-1)", "Left", show=False),
        Binding("right,l", "move(0,1)", "Right", show=False),
        Binding("up,k", "move(-1,0)", "Up", show=False),
        Binding("down,j", "move(1,0)", "Down", show=False),
    ]
    cursor: reactive[tuple[int, int]] = reactive((0, 0))

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._names: list[str] = []
        self._counts: Sequence[Sequence[int]] = ()
        self._totals: list[int] = []
        self._confusions: list[tuple[int, int]] = []

    def show(self, names: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
        """`counts[i][j]` images of class i were classified as class j."""
        self._names = [safe_text(name) for name in names]
        self._counts = counts
        self._totals = [max(sum(row), 1) for row in counts]
        wrong = [(-count, i, j) for i, row in enumerate(counts) for j, count in enumerate(row) if count and i != j]
        self._confusions = [(i, j) for _, i, j in sorted(wrong)]
        self.cursor = self._confusions[0] if self._confusions else (0, 0)
        self.refresh()

    # --- keys --------------------------------------------------------------------------------------------------------

    def action_move(self, down: int, right: int) -> None:
        last = len(self._names) - 1
        row, column = self.cursor
        if self._names:
            self.cursor = (min(max(row + down, 0), last), min(max(column + right, 0), last))

    def action_confusion(self, by: int) -> None:
        if self._confusions:
            position = self._confusions.index(self.cursor) + by if self.cursor in self._confusions else 0
            self.cursor = self._confusions[position % len(self._confusions)]

    def action_choose(self) -> None:
        if self._names:
            self.post_message(self.Chosen(*self.cursor))

    # --- drawing -----------------------------------------------------------------------------------------------------

    @property
    def _widths(self) -> tuple[int, int]:
        """Label and cell widths. Cells are as wide as the names if all fit, else as the largest count, else two or one
        character wide.
        """
        longest = max(map(cell_len, self._names))
        count = max(len(f"{max(map(max, self._counts))}") + 1, 3)
        short, long = (max(min(longest, most), len(_CORNER)) + 1 for most in (_LABEL, _LONG_LABEL))
        name, long_name = (min(longest, most) + 1 for most in (_LABEL, _LONG_LABEL))
        possible = [(long, max(long_name, count + 2)), (long, max(name, count + 2)), (short, max(name, count))]
        possible += [(short, width) for width in (count + 2, count, 2)]
        fitting = (both for both in possible if both[0] + both[1] * len(self._names) <= self.size.width)
        return next(fitting, (short, 1))

    def _window(self, cursor: int, room: int) -> range:
        """The visible rows or columns: all, or as many as fit around the cursor."""
        number = len(self._names)
        start = min(max(cursor - room // 2, 0), max(number - room, 0))
        return range(start, min(start + max(room, 1), number))

    def render_line(self, y: int) -> Strip:
        base = self.visual_style.rich_style
        if not self._names:
            return Strip([Segment("not evaluated on the test set after training" if y == 0 else "", base)])
        label, width = self._widths
        columns = self._window(self.cursor[1], (self.size.width - label) // width)
        rows = self._window(self.cursor[0], self.size.height - 3)
        if y == 0:
            return self._header(columns, label, width, base)
        if y <= len(rows):
            return self._row(rows[y - 1], columns, label, width, base)
        return Strip([Segment(self._cell_text() if y == self.size.height - 1 else "", base + Style(bold=True))])

    def _header(self, columns: range, label: int, width: int, base: Style) -> Strip:
        corner = _CORNER.ljust(label)
        if width > 2:
            texts = [" " + fitted(self._names[column], width - 1, right=True) for column in columns]
            return Strip([Segment(corner + "".join(texts), base + Style(dim=True))])
        offset = (self.cursor[1] - columns.start) * width
        name = safe_text(self._names[self.cursor[1]], _LABEL)
        line = " " * offset + "▼ " + name
        if len(line) > len(columns) * width and offset >= len(name) + 1:
            line = " " * (offset - len(name) - 1) + name + " ▼"
        return Strip([Segment(corner + line, base + Style(dim=True))])

    def _row(self, row: int, columns: range, label: int, width: int, base: Style) -> Strip:
        chosen = row == self.cursor[0]
        name = fitted(self._names[row], label - 1) + " "
        segments = [Segment(name, base + Style(bold=chosen))]
        for column in columns:
            count, share = self._counts[row][column], self._counts[row][column] / self._totals[row]
            if width > 2:
                text, style = (f"{count}" if count else "·").rjust(width), _background(share, row == column)
            else:
                text, style = _SHADES[_level(share)] * width, _foreground(row == column)
            if (row, column) == self.cursor:
                style = style + Style(reverse=True, bold=True)
                text = text if text.strip() else "◆" * width
            segments.append(Segment(text, base + style))
        return Strip(segments)

    def _cell_text(self) -> str:
        true, predicted = self.cursor
        count = self._counts[true][predicted]
        names = [safe_text(self._names[index], 24) for index in (true, predicted)]
        total = self._totals[true]
        return f"true {names[0]} → {names[1]}: {count:,} of {total:,}, {percent(count / total, 1)}"


def _level(share: float) -> int:
    """0 for none; even one image in a hundred gets a visible shade."""
    return 0 if not share else min(1 + int(share**0.5 * (len(_SHADES) - 1)), len(_SHADES) - 1)


def _background(share: float, right: bool) -> Style:
    """Darker is rarer, by share of the true class; the square root keeps rare mistakes visible."""
    depth = share**0.5
    shade = [
        round(low + (high - low) * depth * 0.8) for low, high in zip(_DARK, _RIGHT if right else _WRONG, strict=True)
    ]
    return Style(bgcolor=Color.from_rgb(*shade), bold=right, dim=not share)


def _foreground(right: bool) -> Style:
    return Style(color=Color.from_rgb(*(_RIGHT if right else _WRONG)))
