"""The app's modes and theme. Each mode's screen is imported when it is first shown, to keep the first paint fast."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from textual.screen import Screen
from textual.theme import Theme

from tui.commands import Commands
from tui.state import AppState

# Okabe and Ito's colours, distinct for colour-blind readers (jfly.uni-koeln.de/color, 2008).
THEME = Theme(
    name="reslab", primary="#56B4E9", secondary="#0072B2", accent="#E69F00", warning="#E69F00", error="#D55E00",
    success="#009E73", dark=True,
)  # fmt: skip


def modes(state: AppState, commands: Commands) -> dict[str, Callable[[], Screen[Any]]]:
    """A factory for each mode's screen."""
    makers = {"setup": setup_screen, "train": _train_screen, "results": _results_screen, "compare": _compare_screen}
    return {mode: partial(make, state, commands) for mode, make in makers.items()}


def setup_screen(state: AppState, commands: Commands) -> Screen[Any]:
    from tui.screens.setup import SetupScreen

    return SetupScreen(state, commands)


def _train_screen(state: AppState, commands: Commands) -> Screen[Any]:
    from tui.screens.train import TrainScreen

    return TrainScreen(state, commands)


def _results_screen(state: AppState, commands: Commands) -> Screen[Any]:
    from tui.screens.results import ResultsScreen

    return ResultsScreen(state, commands)


def _compare_screen(state: AppState, commands: Commands) -> Screen[Any]:
    from tui.screens.compare import CompareScreen

    return CompareScreen(state, commands)
