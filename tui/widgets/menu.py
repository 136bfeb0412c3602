"""A list of rows with cells, moved through with arrows or j and k; the last cells fall away where it is narrow."""

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
    """`id` names the row; the first of `cells` stands at the left, the others at the right."""

    id: str
    cells: tuple[str, ...]


class Menu(Rows):
    """Rows of cells. Enter posts Menu.Selected; `chosen` is then the row's id."""

    WRAP = True

    class Marked(Rows.Told):
        """A row has a mark now, or has it no more."""

    def __init__(self, rows: Sequence[Row], id: str, always: int = 1, title: str = "") -> None:
        """The first `always` cells stay however narrow it is; the name is cut short for them. `title` gives a frame."""
        super().__init__(id=id, classes="pane" if title else None)
        if title:
            self.border_title = title
        self.marked: list[str] = []
        self._rows: list[Row] = []
        self._always = always
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
        """The marked rows, or where there are none the highlighted one."""
        return self.marked or [self.chosen]

    def mark(self) -> None:
        """Mark the highlighted row, or take its mark away, and go to the next."""
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
        """Other cells for the same rows, or other rows; the highlight stays at its place, or goes to `highlight`."""
        self._rows = list(rows)
        columns = zip(*(row.cells for row in rows), strict=True)
        self._widths = [max(cell_len(safe_text(cell)) for cell in column) for column in columns]
        self.set_number(len(rows), (self.highlighted or 0) if highlight is None else highlight)

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def draw_row(self, index: int, width: int, style: Style) -> list[Segment]:
        """The cells that fit, the first padded so that the others line up at the right."""
        row, widths = self._rows[index], self._widths
        shown = len(widths)
        while shown > self._always and sum(widths[:shown]) + 2 * (shown - 1) > width:
            shown -= 1
        cells = zip(row.cells[1:shown], widths[1:], strict=False)
        rest = "".join("  " + fitted(safe_text(cell), wide, right=True) for cell, wide in cells)
        mark = "● " if row.id in self.marked else ""
        name = fitted(safe_text(mark + row.cells[0]), max(width - cell_len(rest), 1))
        return [Segment(name + rest, style)]
