"""A list of rows with a cursor. Draws only the visible rows, so that 100,000 rows cost as much as 20.

Textual's OptionList keeps an object and a drawing per row, its DataTable one per cell. This class handles the number of
rows, the cursor, keys and mouse; subclasses draw the rows.
"""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Offset, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip


class Rows(ScrollView, can_focus=True):
    """Rows of one line each, below `HEADER` fixed lines. Enter or a click posts Selected."""

    HEADER: ClassVar[int] = 0
    WRAP: ClassVar[bool] = False
    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {"rows--cursor", "rows--hover"}
    DEFAULT_CSS = """
    Rows { height: 1fr; overflow-x: hidden; }
    Rows > .rows--cursor { color: $foreground; background: $block-cursor-blurred-background; }
    Rows:focus > .rows--cursor {
        color: $block-cursor-foreground; background: $block-cursor-background; text-style: $block-cursor-text-style;
    }
    Rows > .rows--hover { background: $block-hover-background; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "cursor(1)", "Down", show=False),
        Binding("up,k", "cursor(-1)", "Up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("home", "to(0)", "First", show=False),
        Binding("end", "to(-1)", "Last", show=False),
        Binding("enter", "select", "Select", show=False),
    ]

    class RowsMessage(Message):
        """Base of the messages: holds the widget that sent it."""

        def __init__(self, rows: Rows) -> None:
            super().__init__()
            self.rows = rows

        @property
        def control(self) -> Rows:
            return self.rows

    class Highlighted(RowsMessage):
        """The cursor has moved to another row."""

    class Selected(RowsMessage):
        """Enter was pressed, or a row was clicked."""

    highlighted: reactive[int | None] = reactive(None, repaint=False)
    """The row under the cursor; None only if there are no rows."""

    def __init__(self, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.num_rows = 0
        self._hover: int | None = None

    # --- for subclasses ----------------------------------------------------------------------------------------------

    def draw_row(self, index: int, width: int, style: Style) -> list[Segment]:
        """One row, at least `width` cells wide; the excess is cut off."""
        raise NotImplementedError

    def draw_header(self, width: int) -> list[Segment]:
        """The fixed top line if `HEADER` is 1, `width` cells wide."""
        raise NotImplementedError

    def row_component(self, index: int) -> str:
        """The component class of a row without cursor or mouse; "" for none."""
        return ""

    def set_num_rows(self, num_rows: int, cursor: int | None, width: int = 0) -> None:
        """Set the number of rows, their width in cells and the cursor, and redraw."""
        self.num_rows, self._hover = num_rows, None
        self.virtual_size = Size(width, num_rows + self.HEADER)
        self.refresh()
        self.highlighted = cursor
        self._show_cursor()

    # --- the cursor --------------------------------------------------------------------------------------------------

    def validate_highlighted(self, row: int | None) -> int | None:
        if row is None or not self.num_rows:
            return None
        return min(max(row, 0), self.num_rows - 1)

    def watch_highlighted(self, before: int | None, row: int | None) -> None:
        self._refresh_rows(before, row)
        if row is not None and self.is_mounted:
            self._show_cursor()
            self.post_message(self.Highlighted(self))

    def action_cursor(self, by: int) -> None:
        row = (-1 if by > 0 else 0) if self.highlighted is None else self.highlighted
        self.highlighted = (row + by) % self.num_rows if self.WRAP and self.num_rows else row + by

    def action_page(self, by: int) -> None:
        self.highlighted = (self.highlighted or 0) + by * max(self._num_visible - 1, 1)

    def action_to(self, row: int) -> None:
        self.highlighted = row % self.num_rows if self.num_rows else None

    def action_select(self) -> None:
        if self.highlighted is not None:
            self.post_message(self.Selected(self))

    @property
    def _num_visible(self) -> int:
        return max(self.scrollable_content_region.height - self.HEADER, 1)

    def _show_cursor(self) -> None:
        """Scroll just enough to make the cursor visible."""
        row = self.highlighted
        if row is None or not self.is_mounted:
            return
        top = self.scroll_offset.y
        at = min(max(top, row - self._num_visible + 1), row)
        if at != top:
            self.scroll_to(y=at, animate=False, force=True)

    def on_resize(self) -> None:
        self._show_cursor()

    # --- the mouse ---------------------------------------------------------------------------------------------------

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        if offset is not None:
            self.clicked(offset)

    def clicked(self, offset: Offset) -> None:
        """Subclasses extend this, because Textual calls the `on_click` of every class in the hierarchy."""
        row = self._row_at(offset.y)
        if row is not None:
            self.highlighted = row
            self.action_select()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        offset = event.get_content_offset(self)
        self._hover_over(self._row_at(offset.y) if offset is not None else None)

    def on_leave(self) -> None:
        self._hover_over(None)

    def _hover_over(self, row: int | None) -> None:
        if row != self._hover:
            before, self._hover = self._hover, row
            self._refresh_rows(before, row)

    # --- drawing -----------------------------------------------------------------------------------------------------

    def _row_at(self, y: int) -> int | None:
        row = self.scroll_offset.y + y - self.HEADER
        return row if y >= self.HEADER and row < self.num_rows else None

    def _refresh_rows(self, *rows: int | None) -> None:
        for row in rows:
            if row is not None:
                self.refresh_line(row + self.HEADER)

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        base = self.visual_style.rich_style
        if y < self.HEADER:
            return Strip(self.draw_header(width))
        row = self._row_at(y)
        if row is None:
            return Strip.blank(width, base)
        style = self._style_of(row)
        return Strip(self.draw_row(row, width, style)).adjust_cell_length(width, style)

    def _style_of(self, row: int) -> Style:
        name = self.row_component(row)
        if row == self.highlighted:
            name = "rows--cursor"
        elif row == self._hover:
            name = "rows--hover"
        return self.get_visual_style(name).rich_style if name else self.visual_style.rich_style
