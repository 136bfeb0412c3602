"""The last line: the screen's keys, greyed out while they are disabled.

One widget draws the line. Textual's Footer rebuilds one widget per key at every change: sixteen widgets on Set up, a
third of the time to the first paint.
"""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from textual import events
from textual.binding import ActiveBinding
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget


class KeyBar(Widget, can_focus=False):
    """Follows its screen's bindings. Clicking a key acts like pressing it."""

    ALLOW_SELECT = False
    COMPONENT_CLASSES = {"key-bar--key"}  # noqa: RUF012  # as in Textual
    DEFAULT_CSS = """
    KeyBar { dock: bottom; height: 1; color: $footer-foreground; background: $footer-background; }
    KeyBar > .key-bar--key { color: $footer-key-foreground; text-style: bold; }
    """

    keys: reactive[list[tuple[str, ActiveBinding]]] = reactive(list[tuple[str, ActiveBinding]])
    """Each key's display text and its binding."""

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda screen: self.update_keys())

    def update_keys(self) -> None:
        """Read the screen's bindings again."""
        if not self.is_attached:
            return
        shown = [active for active in self.screen.active_bindings.values() if active.binding.show]
        once = {active.binding.action: active for active in reversed(shown)}  # show one key per action
        self.keys = [
            (self.app.get_key_display(active.binding), active)
            for active in shown
            if once[active.binding.action] is active
        ]

    def _fitting(self) -> tuple[list[tuple[str, ActiveBinding]], str]:
        """The keys that fit and the gap before each. If not all fit, disabled keys are left out."""
        for keys in (self.keys, [item for item in self.keys if item[1].enabled]):
            for gap in (" ", ""):
                if sum(self._width(key, active, gap) for key, active in keys) <= self.size.width:
                    return keys, gap
        return keys, gap

    @staticmethod
    def _width(key: str, active: ActiveBinding, gap: str) -> int:
        return len(gap) + cell_len(key) + 1 + cell_len(active.binding.description) + 1

    def render_line(self, y: int) -> Strip:
        base = self.visual_style.rich_style
        name = self.get_visual_style("key-bar--key").rich_style
        dim = base.from_color() + type(base)(dim=True)
        segments = []
        keys, gap = self._fitting()
        for key, active in keys:
            off = dim if not active.enabled else type(base)()
            segments.append(Segment(f"{gap}{key} ", name + off))
            segments.append(Segment(f"{active.binding.description} ", base + off))
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def _at(self, x: int) -> ActiveBinding | None:
        start = 0
        keys, gap = self._fitting()
        for key, active in keys:
            start += self._width(key, active, gap)
            if x < start:
                return active
        return None

    def on_click(self, event: events.Click) -> None:
        active = self._at(event.x)
        if active is None:
            return
        if active.enabled:
            self.app.simulate_key(active.binding.key)
        else:
            self.app.bell()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        active = self._at(event.x)
        self.tooltip = active.binding.tooltip if active is not None else None
