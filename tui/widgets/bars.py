"""The two progress bars of a run, as lines of text: no animation, no redraw without a change."""

from __future__ import annotations

from rich.cells import cell_len
from textual.content import Content
from textual.widgets import Static

from engine.text import safe_text


class Bar(Static):
    """A title, a bar and figures behind it, on one line."""

    DEFAULT_CSS = "Bar { height: 1; }"

    def __init__(self, id: str) -> None:
        super().__init__(Content(""), id=id)
        self._shown: tuple[object, ...] = ()

    def say(self, text: str) -> None:
        """A sentence in the bar's place."""
        if self._shown != (text,):
            self._shown = (text,)
            self.update(Content(safe_text(text)), layout=False)

    def show(self, title: str, share: float | None, figures: str) -> None:
        """`share` from 0 to 1 is what is done; None where nobody knows how much there is."""
        key = (title, None if share is None else round(share, 3), figures, self.size.width)
        if key == self._shown:
            return
        self._shown = key
        title, figures = safe_text(title), safe_text(figures)
        cells = max(self.size.width - cell_len(title) - cell_len(figures) - 2, 0)
        filled = round(cells * min(max(share or 0.0, 0.0), 1.0))
        done, rest = ("━" * filled, "$primary"), ("─" * (cells - filled), "$surface-lighten-3")
        self.update(Content.assemble(title, " ", done, rest, " ", figures), layout=False)


class Title(Static):
    """A sentence as high as it needs; the screen is laid out anew only where that changes."""

    def __init__(self, id: str) -> None:
        super().__init__(Content(""), id=id)
        self._shown: Content | None = None

    def show(self, text: Content) -> None:
        if self._shown is not None and text.is_same(self._shown):
            return
        width = max(self.size.width, 1)
        before = -1 if self._shown is None else self._shown.cell_length // width
        self._shown = text
        self.update(text, layout=before != text.cell_length // width)
