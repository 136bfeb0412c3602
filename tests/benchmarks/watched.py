"""The app for the benchmark `watching`: one run, and in turns Train and an empty screen over it.

Whole runs of a machine that others use scatter by 15 %; neighbouring windows of one run do not.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Generator
from pathlib import Path

from textual import work
from textual.screen import Screen

import tui.app
from engine.control import RunControl
from engine.events import Event, StepsCompleted
from engine.launch.backend import Backend, Handle, Job, Slot
from engine.launch.in_process import InProcess
from engine.memory.ledger import Ledger
from engine.paths import Folders
from engine.spec import RunSpec
from tests.benchmarks.reporting import data_folder
from tui.app import ReslabApp

WINDOW_S, SETTLE_S = 1.5, 0.3


class _Counted(InProcess):
    """Hands each event to `seen` as well."""

    def __init__(self, folders: Folders, ledger: Ledger, seen: Callable[[Event], None]) -> None:
        super().__init__(folders, ledger)
        self._seen = seen

    def start(self, job: Job, control: RunControl | None = None, slot: Slot | None = None) -> Handle:
        handle = super().start(job, control, slot)

        def events(control: RunControl) -> Generator[Event, None, None]:
            for event in handle.events():
                self._seen(event)
                yield event

        return Handle(events, handle.control)


class Watched(ReslabApp):
    """Writes pairs of images/s, watched and not, to pairs.json in the home folder."""

    CSS_PATH = str(Path(tui.app.__file__).with_name("styles") / "reslab.tcss")  # Textual looks beside the subclass

    def __init__(self, home: Path, num_pairs: int, dataset: str) -> None:
        spec = RunSpec(dataset, "resnet18", epochs=10_000, image_size=8)
        super().__init__(Folders(home, data_folder(), home), [spec], True, self._counted)
        self._num_pairs = num_pairs
        self._latest: StepsCompleted | None = None

    def _counted(self, folders: Folders, ledger: Ledger) -> Backend:
        return _Counted(folders, ledger, self._keep)

    def _keep(self, event: Event) -> None:
        if isinstance(event, StepsCompleted):
            self._latest = event

    def _after_first_paint(self) -> None:
        super()._after_first_paint()
        self.take_turns()

    @work
    async def take_turns(self) -> None:
        while self._latest is None or self._latest.last_step < 50:
            await asyncio.sleep(0.1)
        pairs = []
        for number in range(self._num_pairs):
            speeds = {}
            for watched in (number % 2 == 0, number % 2 == 1):
                speeds[watched] = await self._window(watched)
            pairs.append((speeds[True], speeds[False]))
        (self.state.folders.home / "pairs.json").write_text(json.dumps(pairs))
        self.stop_run()

    async def _window(self, watched: bool) -> float:
        if not watched:
            await self.push_screen(Screen())
        await asyncio.sleep(SETTLE_S)
        first = self._latest
        await asyncio.sleep(WINDOW_S)
        last = self._latest
        if not watched:
            await self.pop_screen()
        assert first is not None
        assert last is not None
        return (last.images - first.images) / (last.train_s - first.train_s)


if __name__ == "__main__":
    app = Watched(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    app.run()
    app.session.wait()
