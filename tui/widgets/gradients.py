"""Gradient norms by depth as bars on a logarithmic scale, with the twin's below each."""

from __future__ import annotations

import math
from dataclasses import dataclass

from textual.content import Content
from textual.reactive import var
from textual.widgets import Static

from engine.events import GradientsMeasured
from tui.text import plain_content

_DECADES = 5  # the scale's range, down from the largest norm


@dataclass(frozen=True, slots=True)
class _Shown:
    """The measurements, and the width to fit the bars to."""

    name: str
    now: GradientsMeasured
    twin_name: str
    twin: GradientsMeasured | None
    width: int


class GradientBars(Static):
    """One bar per stage, first layers on top, followed by the norm and the update-to-weight ratio."""

    DEFAULT_CSS = "GradientBars { height: auto; }"
    shown: var[_Shown | None] = var(None, init=False)

    def __init__(self, id: str) -> None:
        super().__init__(plain_content("no step measured yet", "dim"), id=id)

    def show(self, name: str, now: GradientsMeasured | None, twin_name: str, twin: GradientsMeasured | None) -> None:
        if now is not None:
            self.shown = _Shown(name, now, twin_name, twin, self.content_size.width or 28)

    def watch_shown(self, shown: _Shown | None) -> None:
        if shown is not None:
            self.update(Content("\n").join(_lines(shown)))


def _lines(shown: _Shown) -> list[Content]:
    now, twin, width = shown.now, shown.twin, shown.width
    greatest = max([*filter(math.isfinite, (*now.norms, *(twin.norms if twin else ()))), 1e-30])
    lines = [plain_content("gradient norm, update / weight", "dim")]
    for index, stage in enumerate(now.stages):
        lines.append(_line(stage, (now.norms[index], now.ratios[index]), greatest, width, ("█", "$primary")))
        if twin is not None and index < len(twin.norms):
            lines.append(_line("", (twin.norms[index], twin.ratios[index]), greatest, width, ("▒", "#CC79A7")))
    if twin is not None:
        lines.append(plain_content(f"█ {shown.name}  ▒ {shown.twin_name}", "dim"))
    return lines


def _line(stage: str, measured: tuple[float, float], greatest: float, width: int, ink: tuple[str, str]) -> Content:
    """`measured` is (norm, ratio); `ink` is the bar's (character, colour)."""
    (norm, ratio), (cell, colour) = measured, ink
    figures = f" {norm:.1e} {ratio:.0e}"
    room = max(width - 7 - len(figures), 1)
    share = 1 + math.log10(max(norm, 1e-30) / greatest) / _DECADES if math.isfinite(norm) else 1.0
    filled = round(room * min(max(share, 0.0), 1.0))
    return Content.assemble(f"{stage:<7}", (cell * filled, colour), " " * (room - filled), figures)
