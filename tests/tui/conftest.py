"""An app with a scripted run, fixed gauges and screens that can be compared with the stored ones."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from textual.app import App
from textual.pilot import Pilot

from engine.memory.gauges import MemoryReading
from engine.paths import Folders
from tests.fakes import GPU_READING, ScriptedRun
from tests.waiting import WITHIN_S
from tui.app import ReslabApp
from tui.messages import GaugesRead
from tui.screens.train import TrainScreen
from tui.session import Session

SCREENS = Path(__file__).parent / "screens"
SIZES = ((80, 24), (120, 36), (200, 60))
at_every_size = pytest.mark.parametrize(
    "size",
    [pytest.param(size, marks=() if size == SIZES[0] else pytest.mark.slow) for size in SIZES],  # the narrowest always
    ids=lambda size: f"{size[0]}x{size[1]}",
)

MakeApp = Callable[..., ReslabApp]
Compare = Callable[[App[None], str], None]


@pytest.fixture
def reading() -> MemoryReading:
    return GPU_READING


@pytest.fixture
def make_app(folders: Folders, monkeypatch: pytest.MonkeyPatch, reading: MemoryReading) -> MakeApp:
    """An app whose runs are scripted and that neither loads torch nor reads real gauges."""

    def watch_memory(self: Session) -> None:
        self._post(GaugesRead(reading, self.ledger.holdings()))

    monkeypatch.setattr(Session, "watch_memory", watch_memory)
    monkeypatch.setattr(Session, "load_torch", lambda self: None)
    monkeypatch.setattr("engine.catalog.timm_table.find_spec", lambda name: None)  # screens are stored without timm

    def make(script: ScriptedRun | None = None, **more: object) -> ReslabApp:
        return ReslabApp(folders, backend_of=script or ScriptedRun(), **more)  # type: ignore[arg-type]

    return make


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    """Wait until `condition` is true; fail where it never is."""
    began = time.monotonic()
    while time.monotonic() - began < WITHIN_S:
        await pilot.pause(0.02)
        if condition():
            return
    raise AssertionError("waited in vain")


async def drawn(pilot: Pilot[None]) -> None:
    """Let what was posted be handled and drawn."""
    app = pilot.app
    assert isinstance(app, ReslabApp)
    await pilot.pause()
    if isinstance(app.screen, TrainScreen):
        app.screen.redraw()
    if not app.screen.is_modal:  # a worker that waits for an answer waits for long
        await asyncio.wait_for(app.workers.wait_for_complete(), WITHIN_S)
    await pilot.pause()


def text_of(app: ReslabApp) -> str:
    """What stands on the screen, line by line."""
    return "\n".join("".join(segment.text for segment in line) for line in app.screen._compositor.render_strips())


def told(app: ReslabApp) -> str:
    """All passing notes, for on the screen they are broken into lines."""
    return " ".join(str(note.message) for note in app._notifications)


@pytest.fixture
def compare_screen(request: pytest.FixtureRequest) -> Compare:
    """Compare the screen with the stored SVG; `--update-screens` stores it instead."""

    def compare(app: App[None], name: str) -> None:
        path = SCREENS / f"{name}-{app.size.width}x{app.size.height}.svg"
        svg = re.sub(r"terminal-\d+", "terminal", app.export_screenshot(title="reslab"))
        if request.config.getoption("--update-screens"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(svg, encoding="utf-8")
            return
        assert path.exists(), f"no stored screen {path.name}; look at it, then run pytest --update-screens"
        if svg != path.read_text(encoding="utf-8"):
            now = path.with_suffix(".now.svg")
            now.write_text(svg, encoding="utf-8")
            raise AssertionError(f"the screen is not as stored: compare {path.name} with {now.name}")

    return compare
