"""A table with a header and a row cursor. A narrow first column stays fixed when scrolling sideways.

Formats only the visible rows. Texts must be safe already and are never markup.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Offset
from textual.message import Message
from textual.strip import Strip

from tui.text import fitted
from tui.widgets.rows import Rows

_PAN_CELLS = 8  # per key press
_MARK = "● "


class Table(Rows):
    """Rows are (id, cells); marked rows have a dot before their first cell."""

    HEADER = 1
    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--header", "table--even"}
    DEFAULT_CSS = """
    Table { overflow-x: auto; }
    Table > .table--header { color: $foreground; background: $panel; text-style: bold; }
    Table > .table--even { background: $surface-darken-1 40%; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "pan(-1)", "Left", show=False),
        Binding("right,l", "pan(1)", "Right", show=False),
        Binding("g", "to(0)", "First", show=False),
        Binding("G", "to(-1)", "Last", show=False),
    ]

    class HeaderSelected(Message):
        """The title of column `column` was clicked."""

        def __init__(self, column: int) -> None:
            super().__init__()
            self.column = column

    def __init__(self, id: str, left: Collection[int] = (0,), markable: bool = False) -> None:
        """Columns in `left` align left, the others right. `markable` reserves space for the marks."""
        super().__init__(id=id)
        self.ids: Sequence[int] = ()
        self._left = left
        self._mark_width = len(_MARK) if markable else 0
        self._cells: Sequence[Sequence[str]] = ()
        self._titles: Sequence[str] = ()
        self._widths: Sequence[int] = ()
        self._marked: Collection[int] = ()

    def align_left(self, columns: Collection[int]) -> None:
        """Which columns align left from now on."""
        self._left = columns

    def show(
        self,
        titles: Sequence[str],
        widths: Sequence[int],
        rows: Sequence[tuple[int, Sequence[str]]],
        marked: Collection[int] = (),
    ) -> None:
        """Show these rows. The cursor stays on the row with its id, or at its position if that row is gone."""
        chosen = self.chosen
        self._titles, self._marked = titles, marked
        self._widths = [widths[0] + self._mark_width, *widths[1:]]
        self.ids, self._cells = [row for row, _ in rows], [cells for _, cells in rows]
        position = self.ids.index(chosen) if chosen in self.ids else self.highlighted or 0
        self.set_num_rows(len(rows), position, sum(self._widths) + 2 * len(self._widths))

    @property
    def chosen(self) -> int | None:
        """The id of the row under the cursor."""
        return None if self.highlighted is None else self.ids[self.highlighted]

    def action_pan(self, by: int) -> None:
        self.scroll_relative(x=by * _PAN_CELLS, animate=False)

    def row_component(self, index: int) -> str:
        return "" if index % 2 else "table--even"

    def draw_row(self, index: int, width: int, style: Style) -> list[Segment]:
        first, *rest = self._cells[index]
        mark = _MARK if self.ids[index] in self._marked else " " * self._mark_width
        first = fitted(first, self._widths[0] - self._mark_width, right=0 not in self._left)
        return self._line([mark + first, *rest], width, style)

    def draw_header(self, width: int) -> list[Segment]:
        style = self.get_visual_style("table--header").rich_style
        return list(Strip(self._line(self._titles, width, style)).adjust_cell_length(width, style))

    def _line(self, cells: Sequence[str], width: int, style: Style) -> list[Segment]:
        """Each cell with a space on both sides, shifted by the scroll offset."""
        texts = [
            f" {fitted(cell, wide, right=number not in self._left)} "
            for number, (cell, wide) in enumerate(zip(cells, self._widths, strict=True))
        ]
        if not texts:
            return []
        start, fixed = self.scroll_offset.x, self._fixed_width(width)
        first, rest = (texts[0], texts[1:]) if fixed else ("", texts)
        return [Segment(first, style), *Strip([Segment("".join(rest), style)]).crop(start, start + width - fixed)]

    def _fixed_width(self, width: int) -> int:
        """Cells of the first column; 0 if it takes more than half of `width`, because then it scrolls as well."""
        first = self._widths[0] + 2
        return first if first <= width // 2 else 0

    def clicked(self, offset: Offset) -> None:
        super().clicked(offset)
        column = self._column_at(offset.x) if offset.y < self.HEADER else None
        if column is not None:
            self.post_message(self.HeaderSelected(column))

    def _column_at(self, x: int) -> int | None:
        if self._widths and x >= self._fixed_width(self.scrollable_content_region.width):
            x += self.scroll_offset.x
        for number, wide in enumerate(self._widths):
            x -= wide + 2
            if x < 0:
                return number
        return None
