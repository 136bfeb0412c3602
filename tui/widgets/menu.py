"""A list of rows with cells, moved through with arrows or j and k; the last cells fall away where it is narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.text import safe_text


@dataclass(frozen=True, slots=True)
class Row:
    """`id` names the row; the first of `cells` stands at the left, the others at the right."""

    id: str
    cells: tuple[str, ...]


class Menu(OptionList):
    """Rows of cells. Enter posts OptionList.OptionSelected with the row's id."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "Down", show=False),
        Binding("k", "cursor_up", "Up", show=False),
    ]

    def __init__(self, rows: Sequence[Row], id: str, always: int = 1) -> None:
        """The first `always` cells stay however narrow it is; the name is cut short for them."""
        self.marked: list[str] = []
        self._rows = list(rows)
        self._always = always
        super().__init__(*(Option(Content(safe_text(row.cells[0])), id=row.id) for row in rows), id=id)

    @property
    def chosen(self) -> str:
        """The id of the highlighted row."""
        return self._rows[self.highlighted or 0].id

    @property
    def ids(self) -> list[str]:
        return [row.id for row in self._rows]

    @property
    def marked_or_chosen(self) -> list[str]:
        """The marked rows, or where there are none the highlighted one."""
        return self.marked or [self.chosen]

    def mark(self) -> None:
        """Mark the highlighted row, or take its mark away, and go to the next."""
        row = self._rows[self.highlighted or 0]
        self.marked = (
            [other for other in self.marked if other != row.id] if row.id in self.marked else [*self.marked, row.id]
        )
        self.replace_option_prompt(row.id, self._prompt(row))
        self.action_cursor_down()

    def unmark_all(self) -> None:
        self.marked = []
        self.on_resize()

    def choose(self, row_id: str) -> None:
        self.highlighted = self.ids.index(row_id)

    def set_rows(self, rows: Sequence[Row]) -> None:
        """Other cells for the same rows, or other rows; the highlight stays at its place."""
        place = self.highlighted
        if [row.id for row in rows] == self.ids:
            changed = [row for row, old in zip(rows, self._rows, strict=True) if row != old]
            self._rows = list(rows)
            for row in changed:
                self.replace_option_prompt(row.id, self._prompt(row))
            return
        self._rows = list(rows)
        self.clear_options()
        self.add_options(Option(self._prompt(row), id=row.id) for row in rows)
        self.highlighted = min(place or 0, len(rows) - 1) if rows else None

    def on_resize(self) -> None:
        for row in self._rows:
            self.replace_option_prompt(row.id, self._prompt(row))

    def _prompt(self, row: Row) -> Content:
        """The cells that fit, the first padded so that the others line up at the right."""
        width = self.scrollable_content_region.width - self.get_component_styles("option-list--option").padding.width
        columns = list(zip(*(other.cells for other in self._rows), strict=True))
        widths = [max(len(safe_text(cell)) for cell in column) for column in columns]
        shown = len(widths)
        while shown > self._always and sum(widths[:shown]) + 2 * (shown - 1) > width:
            shown -= 1
        rest = "".join("  " + safe_text(cell).rjust(w) for cell, w in zip(row.cells[1:shown], widths[1:], strict=False))
        mark = "● " if row.id in self.marked else ""
        name = safe_text(mark + row.cells[0], max(width - len(rest), 1))
        return Content(name.ljust(width - len(rest)) + rest)
