"""What the screens have in common: the app's state, the commands that they may give, and the bar of modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from textual.screen import ModalScreen, Screen, ScreenResultType

from tui.commands import Commands
from tui.state import AppState, Signal
from tui.widgets.mode_bar import ModeBar

T = TypeVar("T")


def follow(screen: Screen[Any], signal: Signal[T], show: Callable[[T], object]) -> None:
    """Call `show` at each change while the screen can be seen. What it misses it must read when it is resumed."""
    signal.subscribe(screen, lambda data: show(data) if screen.is_current else None)


class LabDialog(ModalScreen[ScreenResultType]):
    """A dialog that shows the app's state."""

    def __init__(self, state: AppState, commands: Commands) -> None:
        super().__init__()
        self.state = state
        self.commands = commands


class LabScreen(Screen[ScreenResultType]):
    """A screen that shows the app's state, with the status in the bar of modes.

    Textual calls the `on_…` methods of every class: a subclass has its own and does not call these.
    """

    def __init__(self, state: AppState, commands: Commands) -> None:
        super().__init__()
        self.state = state
        self.commands = commands

    def on_mount(self) -> None:
        follow(self, self.state.status, self._show_status)

    def on_screen_resume(self) -> None:
        self.state.update_status()
        self._show_status(self.state.status.value)

    def _show_status(self, status: str) -> None:
        for bar in self.query(ModeBar):
            bar.status = status


class ReadingScreen(LabScreen[ScreenResultType]):
    """A screen that keys mean nothing to before it has read what it shows; `filled` says that it has."""

    filled = False
