"""A gallery with a cursor and marks, over any number of pictures, each read only when it is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, overload

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from tui.widgets.gallery import Gallery, Picture, filling_side, half_blocks


class LazyPictures(Sequence[Picture]):
    """`number` pictures, made by `make` from their position when they are looked at."""

    def __init__(self, number: int, make: Callable[[int], Picture]) -> None:
        self._number, self._make = number, make

    def __len__(self) -> int:
        return self._number

    @overload
    def __getitem__(self, position: int) -> Picture: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[Picture]: ...
    def __getitem__(self, position: int | slice) -> Picture | Sequence[Picture]:
        if isinstance(position, slice):
            return [self._make(index) for index in range(*position.indices(self._number))]
        return self._make(range(self._number)[position])


class Picker(Gallery):
    """Arrows move the cursor, space marks, enter posts Picker.Chosen. Three lines stand below each picture."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Zoom", tooltip="show the picture as large as the screen allows"),
        Binding("space", "mark", "Mark", tooltip="mark the picture, or unmark it"),
        Binding("left,h", "move(-1,0)", "Left", show=False),
        Binding("right,l", "move(1,0)", "Right", show=False),
        Binding("up,k", "move(0,-1)", "Up", show=False),
        Binding("down,j", "move(0,1)", "Down", show=False),
        Binding("n,pagedown", "page(1)", "Next page", show=False, tooltip="the next page of pictures", key_display="n"),
        Binding("b,pageup", "page(-1)", "Page back", show=False, tooltip="the previous page of pictures"),
        Binding("home,g", "to(0)", "First", show=False),
        Binding("end,G", "to(-1)", "Last", show=False),
    ]

    class Chosen(Message):
        """Enter was pressed, or the picture was clicked."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    class Marked(Message):
        """The picture at `index` is to be marked, or unmarked."""

        def __init__(self, index: int) -> None:
            super().__init__()
            self.index = index

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self.cursor = 0

    def show(self, pictures: Sequence[Picture], empty_text: str = "") -> None:
        self.cursor = 0
        super().show(pictures, empty_text)

    def side_of(self, width: int, height: int) -> int:
        return filling_side(width, height, self._lines_below)

    def lines_below(self, pictures: Sequence[Picture]) -> int:
        return 3

    def caption_style(self, index: int, base: Style) -> Style:
        return base + Style(reverse=True) if index == self.cursor and self.has_focus else base

    def on_focus(self) -> None:
        self._changed()

    def on_blur(self) -> None:
        self._changed()

    def redraw(self) -> None:
        """Marks have changed."""
        self._changed()

    def action_move(self, across: int, down: int) -> None:
        columns, _, _ = self._layout(self.size)
        target = self.cursor + across + down * columns
        if 0 <= target < len(self._pictures):
            self.action_to(target)

    def action_to(self, index: int) -> None:
        if not self._pictures:
            return
        self.cursor = range(len(self._pictures))[index]
        columns, rows, _ = self._layout(self.size)
        page = columns * rows
        self._first = self.cursor // page * page
        self._changed()

    def action_page(self, by: int) -> None:
        super().action_page(by)
        self.cursor = self._first
        self._changed()

    def action_mark(self) -> None:
        if self._pictures:
            self.post_message(self.Marked(self.cursor))

    def action_choose(self) -> None:
        if self._pictures:
            self.post_message(self.Chosen(self.cursor))

    def on_click(self, event: events.Click) -> None:
        columns, rows, side = self._layout(self.size)
        offset = event.get_content_offset(self)
        if offset is None:
            return
        column, row = offset.x // (side + 2), offset.y // (side // 2 + self._lines_below + 1)
        index = self._first + row * columns + column
        if column < columns and row < rows and index < len(self._pictures):
            self.action_to(index)


class LargePicture(Widget):
    """One picture, as large as fits, with its lines below it."""

    def __init__(self, picture: Picture) -> None:
        super().__init__()
        self._picture = picture

    def render_line(self, y: int) -> Strip:
        base = self.visual_style.rich_style
        texts = self._picture.lines(self.size.width)
        side = max(min(self.size.width, 2 * (self.size.height - len(texts))) // 2 * 2, 2)
        lines = half_blocks(self._picture.pixels, side)
        if y < len(lines):
            return Strip([Segment(" " * ((self.size.width - side) // 2), base), *lines[y]])
        row = y - len(lines)
        return Strip([Segment(texts[row].center(self.size.width), base)]) if row < len(texts) else Strip([])
