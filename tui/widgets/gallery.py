"""A gallery of small pictures in half-block cells: two stacked pixels per cell, in 24-bit colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.strip import Strip
from textual.widget import Widget

from engine.text import safe_path, safe_text
from tui.widgets.sharp import ImageWidget

Image = NDArray[np.uint8]
_GAP = 2
_MIN_LINES = 2  # below a picture
_ROW, _TALL_ROW, _WIDE = 13, 17, 150  # lines that a row of pictures takes, and the width from which it takes more
_LEAST_SIDE, _MOST_SIDE = 8, 40  # cells


@dataclass(frozen=True, slots=True)
class Picture:
    """An image, (C, H, W) uint8 with one or three channels, with captions and its file name, if any, below it."""

    pixels: Image
    captions: tuple[str, ...]
    file: str = ""

    def lines(self, side: int) -> list[str]:
        """The lines below the image, cut to `side` columns."""
        return [
            *(safe_text(text, side) for text in self.captions),
            *([safe_path(self.file, side)] if self.file else []),
        ]


class Gallery(Widget, can_focus=True):
    """Pages of as many pictures as fit. If `sharp` is set, its image widgets cover the half-blocks."""

    DEFAULT_CSS = "Gallery { height: 1fr; } Gallery > .sharp { position: absolute; width: auto; height: auto; }"
    sharp: ClassVar[ImageWidget | None] = None
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n,pagedown,space", "page(1)", "Next page", tooltip="the next page of pictures", key_display="n"),
        Binding("b,pageup", "page(-1)", "Page back", tooltip="the previous page of pictures", key_display="b"),
    ]

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._pictures: Sequence[Picture] = ()
        self._empty_text = ""
        self._first = 0
        self._num_lines = 0  # below each picture
        self._strips: list[Strip] = []
        self._drawn_for: Size | None = None

    def show(self, pictures: Sequence[Picture], empty_text: str = "") -> None:
        """Show these pictures from the first page, or `empty_text` if there are none."""
        self._pictures, self._empty_text, self._first = pictures, empty_text, 0
        self._num_lines = self.lines_below(pictures)
        self._changed()

    def lines_below(self, pictures: Sequence[Picture]) -> int:
        """The lines of text below each picture."""
        return max((len(item.captions) + bool(item.file) for item in pictures), default=0)

    def caption_style(self, index: int, base: Style) -> Style:
        """Of the lines below the picture at `index`."""
        return base

    def action_page(self, by: int) -> None:
        across, down, _ = self._layout(self.size)
        page = across * down
        last = max((len(self._pictures) - 1) // page * page, 0)
        self._first = min(max(self._first + by * page, 0), last)
        self._changed()

    def _changed(self) -> None:
        self._drawn_for = None
        self.refresh()
        if Gallery.sharp is not None:
            self.call_after_refresh(self._mount_images, Gallery.sharp)

    def on_resize(self) -> None:
        if Gallery.sharp is not None:
            self._mount_images(Gallery.sharp)

    def _mount_images(self, make: ImageWidget) -> None:
        """Mount an image widget over each picture of the page."""
        from PIL import Image as PillowImage

        self.remove_children(".sharp")
        across, down, side = self._layout(self.size)
        for position, picture in enumerate(self._pictures[self._first : self._first + across * down]):
            _, height, width = picture.pixels.shape
            pixels = np.broadcast_to(picture.pixels.transpose(1, 2, 0), (height, width, 3))
            image = make(PillowImage.fromarray(np.ascontiguousarray(pixels)))
            image.add_class("sharp")
            scale = side / max(height, width)
            image.styles.width = max(round(width * scale), 1)
            image.styles.height = max(round(height * scale / 2), 1)
            image.styles.offset = (
                position % across * (side + _GAP),
                position // across * (side // 2 + self._lines_below + 1),
            )
            self.mount(image)

    def render_line(self, y: int) -> Strip:
        if self._drawn_for != self.size:
            self._drawn_for = self.size
            self._strips = self._draw(self.size)
        style = self.visual_style.rich_style
        if y >= len(self._strips):
            return Strip.blank(self.size.width, style)
        return self._strips[y].extend_cell_length(self.size.width, style)

    @property
    def _lines_below(self) -> int:
        return max(self._num_lines, _MIN_LINES)

    def _layout(self, size: Size) -> tuple[int, int, int]:
        """Pictures across and down, and the width of one in cells."""
        side = self.side_of(size.width, size.height)
        return (
            max((size.width + _GAP) // (side + _GAP), 1),
            max(size.height // (side // 2 + self._lines_below + 1), 1),
            side,
        )

    def side_of(self, width: int, height: int) -> int:
        """The width of a picture in a gallery of this size, in cells."""
        return 16 if width < 100 else 24

    def _draw(self, size: Size) -> list[Strip]:
        across, down, side = self._layout(size)
        shown = self._pictures[self._first : self._first + across * down]
        if not shown:
            return [Strip([Segment(self._empty_text, self.visual_style.rich_style)])]
        base = self.visual_style.rich_style
        strips: list[Strip] = []
        for start in range(0, len(shown), across):
            row = shown[start : start + across]
            drawn = [half_blocks(picture.pixels, side) for picture in row]
            for line in range(side // 2):
                strips.append(_joined([pixels[line] for pixels in drawn], side, base))
            below = [picture.lines(side) for picture in row]
            styles = [self.caption_style(self._first + start + column, base) for column in range(len(row))]
            for texts in zip_longest(*below, [""] * self._lines_below, fillvalue=""):
                cells = zip(texts[:-1], styles, strict=True)
                strips.append(_joined([[Segment(text, style)] for text, style in cells], side, base))
            strips.append(Strip([]))
        range_text = f"{self._first + 1} to {self._first + len(shown)} of {len(self._pictures)}"
        if len(strips) <= size.height and len(self._pictures) > 1:
            strips[-1] = Strip([Segment(range_text, base + Style(dim=True))])
        return strips


class StillGallery(Gallery, inherit_bindings=False, can_focus=False):
    """A gallery whose surroundings have the keys; its pictures fill the height."""

    def side_of(self, width: int, height: int) -> int:
        return filling_side(width, height, self._lines_below)


def filling_side(width: int, height: int, lines_below: int) -> int:
    """The side of pictures whose rows fill the height, in cells."""
    rows = max(round(height / (_ROW if width < _WIDE else _TALL_ROW)), 1)
    side = 2 * (height // rows - lines_below - 1)
    return max(min(side, width, _MOST_SIDE) // 2 * 2, _LEAST_SIDE)


def _joined(parts: Sequence[Sequence[Segment]], side: int, base: Style) -> Strip:
    segments: list[Segment] = []
    for part in parts:
        segments += part
        width = sum(len(segment.text) for segment in part)
        segments.append(Segment(" " * (side - width + _GAP), base))
    return Strip(segments)


def half_blocks(pixels: Image, side: int) -> list[list[Segment]]:
    """The image scaled to side × side pixels (aspect ratio kept; larger ones are averaged, smaller ones keep their
    pixels), as side / 2 lines of cells.
    """
    _, height, width = pixels.shape
    scale = side / max(height, width)
    rows, columns = max(round(height * scale), 1), max(round(width * scale), 1)
    y, x = np.arange(rows) * height // rows, np.arange(columns) * width // columns
    scaled = _averaged(pixels, y, x) if scale < 1 else pixels[:, y][:, :, x]
    fitted = np.zeros((side, side, 3), np.uint8)
    fitted[:rows, :columns] = np.broadcast_to(scaled.transpose(1, 2, 0), (rows, columns, 3))
    lines = []
    for row in range(0, side, 2):
        upper, lower = fitted[row].tolist(), fitted[row + 1].tolist()
        lines.append(
            [
                Segment("▀", Style.from_color(_colour(above), _colour(below)))
                for above, below in zip(upper, lower, strict=True)
            ]
        )
    return lines


def _averaged(pixels: Image, y: NDArray[np.intp], x: NDArray[np.intp]) -> Image:
    """The mean of the pixels from each position in `y` and `x` to the next one."""
    _, height, width = pixels.shape
    sums = np.add.reduceat(np.add.reduceat(pixels, y, axis=1, dtype=np.int64), x, axis=2)
    areas = np.diff(y, append=height)[:, None] * np.diff(x, append=width)
    means: Image = (sums / areas).round().astype(np.uint8)
    return means


def _colour(rgb: Sequence[int]) -> Color:
    return Color.from_rgb(*rgb)
