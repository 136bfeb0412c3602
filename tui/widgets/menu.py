"""A list of rows with cells. Move with the arrows or j and k; on narrow screens the last cells are hidden."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size

from engine.text import safe_text
from tui.text import fitted
from tui.widgets.rows import Rows


@dataclass(frozen=True, slots=True)
class Row:
    """`id` identifies the row; the first cell aligns left, the others right."""

    id: str
    cells: tuple[str, ...]


class Menu(Rows):
    """Rows of cells. Enter posts Menu.Selected; `chosen` is the id of the highlighted row."""

    WRAP = True

    class Marked(Rows.RowsMessage):
        """A row was marked or unmarked."""

    def __init__(self, rows: Sequence[Row], id: str, num_fixed: int = 1, title: str = "") -> None:
        """The first `num_fixed` cells are never hidden; the name is cut instead. `title` adds a border."""
        super().__init__(id=id, classes="pane" if title else None)
        if title:
            self.border_title = title
        self.marked: list[str] = []
        self._rows: list[Row] = []
        self._num_fixed = num_fixed
        self.set_rows(rows)

    @property
    def chosen(self) -> str:
        """The id of the highlighted row."""
        return self._rows[self.highlighted or 0].id

    @property
    def rows(self) -> list[Row]:
        return self._rows

    @property
    def ids(self) -> list[str]:
        return [row.id for row in self._rows]

    @property
    def marked_or_chosen(self) -> list[str]:
        """The marked rows, or the highlighted one if none is marked."""
        return self.marked or [self.chosen]

    def mark(self) -> None:
        """Mark or unmark the highlighted row and go to the next."""
        chosen = self.chosen
        self.marked = (
            [other for other in self.marked if other != chosen] if chosen in self.marked else [*self.marked, chosen]
        )
        self.action_cursor(1)
        self.post_message(self.Marked(self))

    def unmark_all(self) -> None:
        self.marked = []
        self.refresh()

    def choose(self, row_id: str) -> None:
        self.highlighted = self.ids.index(row_id)

    def set_rows(self, rows: Sequence[Row], highlight: int | None = None) -> None:
        """Replace the rows. The highlight stays at its position, or moves to `highlight`."""
        self._rows = list(rows)
        columns = zip(*(row.cells for row in rows), strict=True)
        self._widths = [max(cell_len(safe_text(cell)) for cell in column) for column in columns]
        self.set_num_rows(len(rows), (self.highlighted or 0) if highlight is None else highlight)

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def draw_row(self, index: int, width: int, style: Style) -> list[Segment]:
        """The cells that fit, the first padded so that the others align right."""
        row, widths = self._rows[index], self._widths
        shown = len(widths)
        while shown > self._num_fixed and sum(widths[:shown]) + 2 * (shown - 1) > width:
            shown -= 1
        cells = zip(row.cells[1:shown], widths[1:], strict=False)
        rest = "".join("  " + fitted(safe_text(cell), wide, right=True) for cell, wide in cells)
        mark = "● " if row.id in self.marked else ""
        name = fitted(safe_text(mark + row.cells[0]), max(width - cell_len(rest), 1))
        return [Segment(name + rest, style)]
