"""The top line: the modes with their keys, and the status of the live run."""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from engine.text import safe_text
from tui.text import fitted

MODES = (("setup", " 1 Set up "), ("train", " 2 Train "), ("results", " 3 Results "), ("compare", " 4 Compare "))
_NAME = " reslab "


class ModeBar(Widget, can_focus=False):
    """Clickable. An arrow and bold text mark the current mode, not colour alone."""

    ALLOW_SELECT = False
    COMPONENT_CLASSES = {"mode-bar--name"}  # noqa: RUF012  # as in Textual
    DEFAULT_CSS = """
    ModeBar { height: 1; background: $panel; }
    ModeBar > .mode-bar--name { color: $primary; text-style: bold; }
    """

    status: reactive[str] = reactive("")
    """The state of the live run and of the queue."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self._mode = mode

    def render_line(self, y: int) -> Strip:
        base = self.visual_style.rich_style
        segments = [Segment(_NAME, self.get_visual_style("mode-bar--name").rich_style)]
        for name, title in MODES:
            if name == self._mode:
                segments.append(Segment(f"▸{title[1:]}", base + Style(bold=True)))
            else:
                link = Segment(title.strip(), base + Style(underline=True))
                segments += [Segment(" ", base), link, Segment(" ", base)]
        room = self.size.width - sum(segment.cell_length for segment in segments) - 1
        segments.append(Segment(fitted(safe_text(self.status), max(room, 0), right=True), base))
        return Strip(segments).adjust_cell_length(self.size.width, base)

    async def on_click(self, event: events.Click) -> None:
        start = cell_len(_NAME)
        for name, title in MODES:
            if start <= event.x < start + len(title):
                await self.run_action(f"app.mode('{name}')")
            start += len(title)
