"""The line at the top: the modes and their keys, and what the live run is at."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from tui.text import plain_content

MODES = (("setup", "1 Set up"), ("train", "2 Train"), ("results", "3 Results"), ("compare", "4 Compare"))


class ModeBar(Horizontal):
    """Clickable; the current mode is marked by brackets and weight, not by colour alone."""

    DEFAULT_CSS = """
    ModeBar { height: 1; background: $panel; }
    ModeBar #modes { width: auto; }
    ModeBar #live { width: 1fr; text-align: right; padding-right: 1; }
    """

    def __init__(self, mode: str) -> None:
        super().__init__()
        self._mode = mode
        self._live = ""

    def compose(self) -> ComposeResult:
        parts = [Content.styled(" reslab ", "bold $primary")]
        for name, title in MODES:
            if name == self._mode:
                parts.append(Content.styled(f"▸{title} ", "bold"))
            else:
                parts.append(Content.from_markup(f"[@click=app.mode('{name}')] {title} [/]"))
        yield Static(Content("").join(parts), id="modes")
        yield Static("", id="live", markup=False)

    def show_live(self, text: str) -> None:
        if text != self._live:
            self._live = text
            self.query_one("#live", Static).update(plain_content(text))
