"""The app as a process of its own, with a scripted run: `python -m tests.tui.terminal_child HOME [live]`.

When it leaves, what it was like is in HOME/left.json; a live run's own end is in HOME/ended.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tui.app
from engine.control import Control
from engine.events import Event, RunEnded
from engine.launch.opening import Opening
from engine.paths import Folders
from engine.spec import RunSpec
from tests.fakes import ScriptedRun
from tui.__main__ import open_app
from tui.session import Session


class Child(tui.app.ReslabApp):
    """Draws all of itself all the time, as it would beside a run that is quick."""

    CSS_PATH = str(Path(tui.app.__file__).with_name("styles") / "reslab.tcss")  # Textual looks beside this file

    def __init__(self, folders: Folders, *arguments: Any, **more: Any) -> None:
        super().__init__(folders, *arguments, backend_of=_Written(folders.home / "ended"), **more)  # type: ignore[misc]

    def on_mount(self) -> None:  # Textual calls that of the class above as well
        self.set_interval(0.02, lambda: self.screen.refresh())

    def exit(self, *arguments: Any, **more: Any) -> None:
        left = {
            "mode": self.current_mode,
            "values": self.get_screen_stack("setup")[0].recipe.values,  # type: ignore[attr-defined]
            "filters": [getattr(field, "value", "") for field in self.screen_stack[0].query("#filter")],
        }
        (self.state.folders.home / "left.json").write_text(json.dumps(left))
        super().exit(*arguments, **more)


class _Written(ScriptedRun):
    """Writes down how its run ended, and why it was stopped."""

    def __init__(self, path: Path) -> None:
        super().__init__(hold_at=7)
        self._path = path

    def play(self, spec: RunSpec, control: Control, resumed: int | None = None) -> Iterator[Event]:
        for event in super().play(spec, control, resumed):
            yield event
            if isinstance(event, RunEnded):
                self._path.write_text(f"{event.status}: {control.stop_reason}")


def main(home: Path, live: bool) -> int:
    Session.load_torch = lambda self: None  # type: ignore[method-assign]
    Session.watch_memory = lambda self: None  # type: ignore[method-assign]
    tui.app.ReslabApp = Child  # type: ignore[misc]
    home.mkdir(parents=True, exist_ok=True)
    specs = (RunSpec("digits", "resnet18"),) if live else ()
    return open_app(Opening(Folders(home, home / "data", home / "cache"), specs))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), "live" in sys.argv[2:]))
