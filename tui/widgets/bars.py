"""Progress bars as lines of text: no animation, and no redraw without a change."""

from __future__ import annotations

from dataclasses import dataclass

from rich.cells import cell_len
from textual.content import Content
from textual.reactive import reactive, var
from textual.widgets import Static

from engine.text import safe_text
from tui.text import plain_content


@dataclass(frozen=True, slots=True)
class Progress:
    """`share` is the part done, from 0 to 1; None if the total is unknown."""

    title: str
    share: float | None
    figures: str


class Bar(Static):
    """One line with a title, a bar and figures, or with a sentence instead."""

    DEFAULT_CSS = "Bar { height: 1; }"
    line: reactive[str | Progress] = reactive("")

    def __init__(self, id: str) -> None:
        super().__init__(id=id)

    def show_text(self, text: str) -> None:
        self.line = text

    def show(self, title: str, share: float | None, figures: str) -> None:
        self.line = Progress(title, None if share is None else round(share, 3), figures)

    def render(self) -> Content:
        if isinstance(self.line, str):
            return Content(safe_text(self.line))
        title, figures = safe_text(self.line.title), safe_text(self.line.figures)
        cells = max(self.size.width - cell_len(title) - cell_len(figures) - 2, 0)
        filled = round(cells * min(max(self.line.share or 0.0, 0.0), 1.0))
        done, rest = ("━" * filled, "$primary"), ("─" * (cells - filled), "$surface-lighten-3")
        return Content.assemble(title, " ", done, rest, " ", figures)


class Title(Static):
    """A bold sentence of variable height; the screen is laid out again only when the height changes."""

    text: var[str] = var("", init=False)

    def __init__(self, id: str) -> None:
        super().__init__(Content(""), id=id)

    def watch_text(self, before: str, text: str) -> None:
        width = max(self.size.width, 1)
        heights = {cell_len(safe_text(shown)) // width for shown in (before, text)}
        self.update(plain_content(text, "bold"), layout=not before or len(heights) > 1)
