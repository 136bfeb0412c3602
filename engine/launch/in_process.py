"""Runs in this process. Torch is loaded with the first event, in the thread that iterates."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from engine.control import Control, RunControl
from engine.events import Event
from engine.launch.backend import Handle, Job, Slot
from engine.memory.ledger import Ledger
from engine.paths import Folders
from engine.spec import RunSpec

if TYPE_CHECKING:
    from engine.store.store import Store
    from engine.training.loop import Ending
    from engine.training.resume import Resume


class InProcess:
    """`ledger` records what earlier runs left in memory."""

    survives = False
    on_this_machine = True

    def __init__(self, folders: Folders, ledger: Ledger | None = None) -> None:
        self.ledger = Ledger() if ledger is None else ledger
        self._folders = folders

    def start(self, job: Job, control: RunControl | None = None, slot: Slot | None = None) -> Handle:
        def events(control: RunControl) -> Generator[Event, None, None]:
            from engine.device import import_torch

            import_torch()  # another thread may be importing it
            from engine.launch.recording import record_events

            yield from record_events(job, self._folders, self, control)

        return Handle(events, control or RunControl())

    def train(
        self, run: int, spec: RunSpec, resume: Resume, control: Control, store: Store
    ) -> Generator[Event, None, Ending]:
        from engine.device import choose_placement, device_name
        from engine.memory.calibration import uncalibrated
        from engine.training.context import History, RunContext
        from engine.training.loop import train

        placement = choose_placement(spec)
        calibration = store.calibration(device_name(placement.device)) or uncalibrated(placement.device)
        history = History(calibration, store.autotune_choices(run))
        return train(spec, RunContext(run, self._folders, self.ledger, control, placement, history, resume=resume))
