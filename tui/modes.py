"""The app's modes and theme. A mode's screen is imported when it is first shown, so that the first paint is early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual.screen import Screen
from textual.theme import Theme

# Okabe and Ito's colours: told apart by colour-blind eyes (jfly.uni-koeln.de/color, 2008).
THEME = Theme(
    name="reslab", primary="#56B4E9", secondary="#0072B2", accent="#E69F00", warning="#E69F00", error="#D55E00",
    success="#009E73", dark=True,
)  # fmt: skip


def first_screen() -> Screen[Any]:
    """Set up: the app begins with it, so it is none of `MODES` before."""
    from tui.screens.setup import SetupScreen

    return SetupScreen()


def _train_screen() -> Screen[Any]:
    from tui.screens.train import TrainScreen

    return TrainScreen()


def _results_screen() -> Screen[Any]:
    from tui.screens.results import ResultsScreen

    return ResultsScreen()


def _compare_screen() -> Screen[Any]:
    from tui.screens.compare import CompareScreen

    return CompareScreen()


MODES: dict[str, Callable[[], Screen[Any]]] = {
    "train": _train_screen,
    "results": _results_screen,
    "compare": _compare_screen,
}
