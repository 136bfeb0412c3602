"""A run from its spec to its end: train, record each event, then yield it on.

Whoever iterates sees only what is already in the record, and the record gets its last row however the run ends: when
it is finished, stopped, diverged, failed, or its iterator is closed.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field

from engine.control import Control
from engine.datasets.loading import check_dataset
from engine.datasets.registry import find_dataset
from engine.device import choose_placement, device_name, import_torch
from engine.errors import ModelError, ReslabError
from engine.events import CheckpointSaved, Evaluated, Event, Metrics, RunEnded, StepsCompleted
from engine.log import write_report
from engine.memory.calibration import uncalibrated
from engine.memory.ledger import Ledger
from engine.models.building import check_weights
from engine.models.registry import find_model, misfit
from engine.paths import Places
from engine.results.store import Store
from engine.spec import RunSpec
from engine.training.checkpoint import remove_other_checkpoints
from engine.training.setup import Known
from engine.training.train import Ending, train


@dataclass(frozen=True, slots=True)
class Lab:
    """What runs of one process share: the folders, and the ledger of what is in memory."""

    places: Places
    ledger: Ledger = field(default_factory=Ledger)


def check(spec: RunSpec) -> None:
    """Raise what is wrong with `spec` on this machine, as far as it shows without loading anything.

    Raises:
        ReslabError: a folder, a weights file or a device is not there, or the network cannot take such images.
    """
    import_torch()
    check_dataset(spec)
    shape = find_dataset(spec.dataset).spec_shape(spec.image_size)
    if shape is not None and (problem := misfit(find_model(spec.model), shape)):
        raise ModelError(problem)
    check_weights(spec)
    choose_placement(spec)


def run(spec: RunSpec, lab: Lab, control: Control) -> Generator[Event, None, None]:
    """Train `spec`, recording each event before it is yielded; the last one is always RunEnded.

    Raises:
        ReslabError: at the first step, before anything is recorded, where `check` finds something wrong or the record
            cannot be opened. Later failures end in RunEnded with the status `failed`.
    """
    check(spec)
    with Store(lab.places.database) as store:
        tally = _Tally(store.create_run(spec))
        folder = lab.places.run_folder(tally.run)
        ending = Ending("stopped")
        try:
            device = choose_placement(spec).device
            calibration = store.calibration(device_name(device)) or uncalibrated(device.type)
            known = Known(calibration, store.tunings(tally.run))
            events = train(tally.run, spec, lab.places, lab.ledger, control, known)
            while True:
                try:
                    event = next(events)
                except StopIteration as stop:
                    ending = stop.value
                    break
                tally.add(event)
                store.record(event)
                if isinstance(event, CheckpointSaved):
                    remove_other_checkpoints(folder, event.file)
                yield event
        except Exception as error:
            ending = Ending("failed", _explain(error, lab.places, tally.run))
        except BaseException:  # closed, or interrupted a second time
            store.record(tally.ended(ending))
            raise
        # Out of the except block: until then its traceback holds on to every tensor of the run.
        ended = tally.ended(ending)
        store.record(ended)
        yield ended


@dataclass(slots=True)
class _Tally:
    """What RunEnded needs to know of the events before it."""

    run: int
    began: float = field(default_factory=time.perf_counter)
    untrained: Metrics | None = None
    final: Metrics | None = None
    images: int = 0
    steps: int = 0
    train_s: float = 0.0

    def add(self, event: Event) -> None:
        if isinstance(event, StepsCompleted):
            self.images, self.train_s, self.steps = event.images, event.train_s, event.last_step
        elif isinstance(event, Evaluated) and event.split == "test":
            if event.moment == "untrained":
                self.untrained = event.metrics
            else:
                self.final = event.metrics

    def ended(self, ending: Ending) -> RunEnded:
        return RunEnded(
            run=self.run,
            status=ending.status,
            untrained=self.untrained,
            final=self.final,
            elapsed_s=time.perf_counter() - self.began,
            train_images_per_s=self.images / self.train_s if self.train_s > 0 else None,
            steps=self.steps,
            error=ending.error,
            peak_bytes=ending.peak_bytes,
            context_bytes=ending.context_bytes,
        )


def _explain(error: Exception, places: Places, run: int) -> str:
    """One sentence for a person; whatever is not a ReslabError goes to the log in full."""
    if isinstance(error, ReslabError):
        return str(error)
    written = write_report(places.log, error, f"run {run} failed")
    where = f"; the full report is in {places.log}" if written else ""
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return f"memory ran out; free some, or choose a smaller batch, image size or network{where}"
    first_line = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first_line}{where}"
