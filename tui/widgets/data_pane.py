"""The data of Set up at a glance: bars by class and part, kinds of files, sample pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from engine.text import safe_text
from tui.text import fitted

if TYPE_CHECKING:  # numpy
    import numpy as np
    from numpy.typing import NDArray

_MOST_NAME = 14
_LEAST_BAR, _MOST_BAR = 4, 24
_GAP = 2
_LEAST_SIDE, _MOST_SIDE = 8, 20  # cells of a sample picture
_LEAST_TEXT, _MOST_ACROSS, _TWO_ROWS = 36, 4, 11
_COLOURS = {"train": "#56B4E9", "val": "#009E73", "test": "#E69F00"}


@dataclass(frozen=True, slots=True)
class DataView:
    """Counts of each part by class, sentences below them, and `samples` (N, 3, H, W) uint8, None if there are none."""

    class_names: Sequence[str]
    parts: Sequence[tuple[str, Sequence[int]]]
    facts: Sequence[str]
    samples: NDArray[np.uint8] | None = None


class DataPane(Widget):
    """Not focusable: Set up's key opens the whole screen."""

    def __init__(self, id: str) -> None:
        super().__init__(id=id, classes="pane")
        self._view: DataView | None = None
        self._text = ""
        self._drawn: tuple[object, list[Strip]] | None = None

    def show(self, view: DataView) -> None:
        if view is not self._view:
            self._view, self._drawn = view, None
            self.refresh()

    def show_text(self, text: str) -> None:
        self._view, self._text, self._drawn = None, text, None
        self.refresh()

    def render_line(self, y: int) -> Strip:
        base = self.visual_style.rich_style
        if self._drawn is None or self._drawn[0] != (self.size, base):
            self._drawn = (self.size, base), self._draw(base)
        strips = self._drawn[1]
        return (strips[y] if y < len(strips) else Strip([])).adjust_cell_length(self.size.width, base)

    def _draw(self, base: Style) -> list[Strip]:
        width, height, view = self.size.width, self.size.height, self._view
        if view is None:
            return [Strip([Segment(safe_text(self._text), base + Style(dim=True))])]
        side, across, down = self._grid(view, width, height)
        text_width = width - across * (side + _GAP)
        left = self._text_lines(view, text_width, height, base)
        right = self._pictures(view, side, across, down, base)
        strips = []
        for y in range(height):
            text = Strip(left[y] if y < len(left) else []).adjust_cell_length(text_width, base)
            strips.append(Strip([*text, *(right[y] if y < len(right) else [])]))
        return strips

    @staticmethod
    def _grid(view: DataView, width: int, height: int) -> tuple[int, int, int]:
        """The side of a picture in cells, and how many stand side by side and one below the other."""
        down = 2 if height >= _TWO_ROWS else 1
        side = min(2 * ((height - down + 1) // down), _MOST_SIDE)
        if view.samples is None or side < _LEAST_SIDE:
            return side, 0, 0
        across = max(width - _LEAST_TEXT, 0) // (side + _GAP)
        return side, min(across, -(-len(view.samples) // down), _MOST_ACROSS), down

    @staticmethod
    def _pictures(view: DataView, side: int, across: int, down: int, base: Style) -> list[list[Segment]]:
        """The lines of a grid of pictures, a gap to the left of each and between the rows."""
        if view.samples is None or not across:
            return []
        from tui.widgets.gallery import half_blocks  # numpy: not before the first paint

        gap, lines = Segment(" " * _GAP, base), list[list[Segment]]()
        for row in range(down):
            drawn = [half_blocks(image, side) for image in view.samples[row * across : (row + 1) * across]]
            lines += [[]] if row else []
            for line in range(side // 2):
                lines.append([segment for picture in drawn for segment in (gap, *picture[line])])
        return lines

    def _text_lines(self, view: DataView, width: int, height: int, base: Style) -> list[list[Segment]]:
        facts = [[Segment(fitted(safe_text(fact), max(width - 1, 0)), base + Style(dim=True))] for fact in view.facts]
        room = max(height - len(facts), 1)
        names = list(view.class_names)
        shown = len(names) if len(names) <= room else room - 1
        lines = self._bars(view, shown, width, base)
        if shown < len(names):
            totals = [sum(counts[row] for _, counts in view.parts) for row in range(len(names))]
            rest = f"… {len(names) - shown:,} more classes; all have {min(totals):,} to {max(totals):,} images"
            lines.append([Segment(fitted(rest, max(width - 1, 0)), base)])
        return [*lines, *facts]

    @staticmethod
    def _bars(view: DataView, number: int, width: int, base: Style) -> list[list[Segment]]:
        """One line a class: its name, and a bar and a count for each part."""
        names = [safe_text(name, _MOST_NAME) for name in view.class_names[:number]]
        wide = max(map(len, names), default=0)
        figures = [[f"{counts[row]:,}" for row in range(number)] for _, counts in view.parts]
        widths = [max(map(len, column), default=1) for column in figures]
        taken = wide + 1 + sum(len(part) + 3 + of_part for (part, _), of_part in zip(view.parts, widths, strict=True))
        bar = min((width - taken) // max(len(view.parts), 1), _MOST_BAR)
        most = max((max(counts, default=0) for _, counts in view.parts), default=0) or 1
        lines = []
        for row, name in enumerate(names):
            line = [Segment(fitted(name, wide) + " ", base)]
            for (part, counts), column, of_part in zip(view.parts, figures, widths, strict=True):
                cells = max(round(counts[row] / most * bar), 1 if counts[row] else 0) if bar >= _LEAST_BAR else 0
                line += [
                    Segment(f"{part} ", base + Style(dim=True)),
                    Segment("█" * cells, base + Style.parse(_COLOURS[part])),
                    Segment(f" {fitted(column[row], of_part)} ".ljust(of_part + 2 + max(bar, 0) - cells), base),
                ]
            lines.append(line)
        return lines
