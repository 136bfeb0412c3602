"""What all screens share: the app's state, its commands and the mode bar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from textual.screen import ModalScreen, Screen, ScreenResultType

from tui.commands import Commands
from tui.state import AppState, Signal
from tui.widgets.mode_bar import ModeBar

T = TypeVar("T")


def follow(screen: Screen[Any], signal: Signal[T], show: Callable[[T], object]) -> None:
    """Call `show` at each change while the screen is current. On resume, the screen must read what it missed."""
    signal.subscribe(screen, lambda data: show(data) if screen.is_current else None)


class LabDialog(ModalScreen[ScreenResultType]):
    """A dialog with access to the app's state."""

    def __init__(self, state: AppState, commands: Commands) -> None:
        super().__init__()
        self.state = state
        self.commands = commands


class LabScreen(Screen[ScreenResultType]):
    """A screen with access to the app's state; shows the status in the mode bar.

    Textual calls the `on_…` methods of every class in the hierarchy, so subclasses must not call these.
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
    """A screen that cannot handle keys until its data is read; then it sets `loaded`."""

    loaded = False
