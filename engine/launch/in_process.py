"""A run from its spec to its end, or from where it was cut off: train, record each event, then yield it on.

Whoever iterates sees only what is already in the record, and the record gets its last row however the run ends: when
it is finished, stopped, diverged, failed, or its iterator is closed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.analysis.remarks import closing_remarks
from engine.catalog.datasets import FOLDER, absolute_dataset, find_dataset
from engine.catalog.models import find_model, misfit
from engine.control import Control, RunControl
from engine.data.loading import check_dataset
from engine.device import choose_placement, device_name, import_torch
from engine.errors import CheckpointError, DatasetError, ModelError, StoreError
from engine.events import CheckpointSaved, Evaluated, Event, Metrics, RunEnded, RunStarted, StepsCompleted
from engine.failures import describe_failure
from engine.launch.ray import Cluster, require_ray
from engine.launch.requests import Requests
from engine.launch.stream import remove_stream
from engine.memory.calibration import uncalibrated
from engine.memory.ledger import Ledger
from engine.models.building import check_weights
from engine.paths import Places, absolute_weights
from engine.records import RunDetails, WeightsRecord
from engine.spec import RunSpec
from engine.store.store import Store
from engine.text import safe_text
from engine.training.checkpoint import load_checkpoint, remove_other_checkpoints
from engine.training.context import History, RunContext
from engine.training.loop import Ending, train
from engine.training.position import Position
from engine.training.resume import FRESH, Resume

_log = logging.getLogger("reslab")


@dataclass(frozen=True, slots=True)
class Lab:
    """What runs of one process share: the folders, the ledger of what is in memory, the cluster that they train on."""

    places: Places
    ledger: Ledger = field(default_factory=Ledger)
    cluster: Cluster | None = None


def check(spec: RunSpec, weighted: bool = True, here: bool = True) -> None:
    """Raise what is wrong with `spec` on this machine, as far as it shows without loading anything.

    Not `weighted`, the weights that it names are not needed any more; not `here`, other machines have the devices.

    Raises:
        ReslabError: a folder, a weights file or a device is not there, or the network cannot take such images.
    """
    import_torch()
    check_dataset(spec)
    shape = find_dataset(spec.dataset).spec_shape(spec.image_size)
    if shape is not None and (problem := misfit(find_model(spec.model), shape)):
        raise ModelError(problem)
    if weighted:
        check_weights(spec)
    if here:
        choose_placement(spec)


def run(spec: RunSpec, lab: Lab, control: RunControl) -> Generator[Event, None, None]:
    """Train `spec`, recording each event before it is yielded; the last one is always RunEnded.

    Raises:
        ReslabError: at the first step, before anything is recorded, where `check` finds something wrong or the record
            cannot be opened. Later failures end in RunEnded with the status `failed`.
    """
    spec = spec.replace(dataset=absolute_dataset(spec.dataset), weights=absolute_weights(spec.weights))
    check(spec, here=lab.cluster is None)
    with Store(lab.places.database) as store:
        number = store.create_run(spec)
        with closing(Requests(lab.places.run_folder(number), control)) as requests:
            yield from _record(store, _Tally(number), spec, lab, requests, FRESH)


def resume(number: int, lab: Lab, control: RunControl, dataset: str | None = None) -> Generator[Event, None, None]:
    """Go on with run `number` from its newest checkpoint that is whole; without any it begins anew.

    After RunStarted what was recorded up to there is told again, then RunContinued, then the rest as by `run`. On the
    same machine, versions and number of threads it ends as if it had never been cut off, to the last bit. `dataset` is
    where its images lie now, if they have moved: only the very same ones will do.

    Raises:
        ReslabError: before RunStarted, and with nothing changed: there is no such run, it is complete, diverged,
            running or was tampered with, its images are others now, or `check` finds something wrong.
    """
    with Store(lab.places.database) as store:
        store.settle_lost_runs()
        details = store.details(number)
        why_not = not_resumable(details)
        if why_not is not None:
            raise StoreError(why_not)
        spec = _moved(RunSpec.from_stored(details.record.spec), details, dataset)
        found = _from_newest(details.started, store.checkpoints(number), lab.places.run_folder(number))
        _check_again(number, spec, weighted=found.checkpoint is None, here=lab.cluster is None)
        position = found.position
        tally = _Tally(
            number, position.elapsed_s, images=position.images, steps=position.step, train_s=position.train_s
        )
        with closing(Requests(lab.places.run_folder(number), control)) as requests:
            yield from _record(store, tally, spec, lab, requests, found)


def _moved(spec: RunSpec, details: RunDetails, dataset: str | None) -> RunSpec:
    """The run's spec, with its images where they lie now."""
    if dataset is None:
        return spec
    if details.started is None:
        raise StoreError(
            f"run {details.record.run} ended before it had seen its images, so those of {dataset} cannot be checked; "
            "train a new run on them"
        )
    return spec.replace(dataset=absolute_dataset(dataset))


def _check_again(number: int, spec: RunSpec, weighted: bool, here: bool) -> None:
    try:
        check(spec, weighted, here)
    except DatasetError as error:
        if find_dataset(spec.dataset) is not FOLDER:
            raise
        raise DatasetError(f"{error}; if it has moved, reslab resume {number} --dataset folder:PATH") from None


def not_resumable(details: RunDetails) -> str | None:
    """Why a run cannot go on, as a sentence; None where it can."""
    record = details.record
    match record.status:
        case "completed":
            return f"run {record.run} is complete; there is nothing left to train"
        case "diverged":
            return f"run {record.run} diverged and would again; train a new run with a lower learning rate"
        case "running":
            return f"run {record.run} is still running; reslab stop {record.run} ends it"
    if details.intact is False:
        return f"run {record.run} was changed after it had ended, so it cannot go on as itself; train a new run"
    return None


def _from_newest(started: RunStarted | None, recorded: Sequence[WeightsRecord], folder: Path) -> Resume:
    """From the newest checkpoint that is what was recorded; from the beginning where there never was one.

    Raises:
        CheckpointError: none of them can be used. To begin anew would throw away what is recorded of the run.
    """
    problems = []
    for weights in recorded:
        try:
            found = load_checkpoint(folder / weights.file, weights.sha256)
            Position.from_dict(found.header)
            return Resume(started, found, weights.file, weights.sha256)
        except CheckpointError as error:
            _log.warning("%s; the one before it is taken", error)
            problems.append(str(error))
    if problems:
        raise CheckpointError(f"no checkpoint to go on from: {problems[0]}; bring the file back, or train a new run")
    return Resume(started)


def _record(
    store: Store, tally: _Tally, spec: RunSpec, lab: Lab, requests: Requests, resume: Resume
) -> Generator[Event, None, None]:
    """Train and record to the end, whatever that is. A resumed run is reopened when all is ready for it."""
    ending = Ending("stopped")
    taken, started = resume.is_fresh, False
    try:
        events = _events(store, tally.run, spec, lab, requests.control, resume)
        while True:
            try:
                event = next(events)
            except StopIteration as stop:
                ending = stop.value
                break
            if isinstance(event, RunStarted) and started:
                continue  # workers on a cluster that begin again
            if isinstance(event, RunStarted) and not resume.is_fresh:
                _take_up(store, spec, tally.run, lab.places, resume)
                taken = True
                event = replace(event, notes=(resume.started and resume.started.notes) or event.notes)
            started = started or isinstance(event, RunStarted)
            tally.add(event)
            if not (isinstance(event, RunStarted) and resume.started is not None):
                store.record(event)
            if isinstance(event, CheckpointSaved):
                _remove_others(store, tally.run, lab.places, newer=lab.cluster is None)
            requests.note(event)
            yield event
            if isinstance(event, RunStarted) and not resume.is_fresh:
                yield from tally.told_again(store.past(tally.run))
    except Exception as error:
        ending = Ending("failed", describe_failure(error, lab.places, f"run {tally.run} failed"))
    except BaseException:  # closed, or interrupted a second time
        if taken:
            store.record(tally.ended(ending))
        raise
    # Out of the except block: until then its traceback holds on to every tensor of the run.
    if not taken and ending.status == "failed":
        raise StoreError(str(ending.error))
    ended = tally.ended(ending, _closing_remarks(store, tally.run) if ending.status == "completed" else ())
    if taken:
        store.record(ended)
    if ended.status == "completed":
        _remove_others(store, tally.run, lab.places)
    yield ended


def _closing_remarks(store: Store, run: int) -> tuple[str, ...]:
    try:
        return closing_remarks(store.details(run))
    except StoreError:
        _log.warning("nothing can be said of the figures of run %d", run, exc_info=True)
        return ()


def _events(
    store: Store, run: int, spec: RunSpec, lab: Lab, control: Control, resume: Resume
) -> Generator[Event, None, Ending]:
    """The run's own events, from this process or from the workers of a cluster."""
    if lab.cluster is not None:
        require_ray()
        from engine.launch.ray.driver import train_on_ray

        return train_on_ray(run, spec, lab.places, control, lab.cluster, resume, store.tunings(run))
    placement = choose_placement(spec)
    calibration = store.calibration(device_name(placement.device)) or uncalibrated(placement.device)
    history = History(calibration, store.tunings(run))
    return train(spec, RunContext(run, lab.places, lab.ledger, control, placement, history, resume=resume))


def _take_up(store: Store, spec: RunSpec, run: int, places: Places, resume: Resume) -> None:
    """The run is running again, in this process, and what was recorded after its checkpoint is taken back."""
    position = resume.position
    store.reopen(run, position.step, position.epochs_done, position.evaluated, spec)
    remove_stream(places.run_folder(run))


def _remove_others(store: Store, run: int, places: Places, newer: bool = True) -> None:
    """Delete the files that the record no longer names. A worker elsewhere is ahead of what was heard of it: its
    `newer` ones stay.
    """
    remove_other_checkpoints(places.run_folder(run), [weights.file for weights in store.checkpoints(run)], newer)


@dataclass(slots=True)
class _Tally:
    """What RunEnded needs to know of the events before it."""

    run: int
    elapsed_before_s: float = 0.0
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

    def told_again(self, past: Iterable[Event]) -> Iterator[Event]:
        """The run's past, which counts here as it did then."""
        for event in past:
            self.add(event)
            yield event

    def ended(self, ending: Ending, remarks: tuple[str, ...] = ()) -> RunEnded:
        return RunEnded(
            run=self.run,
            status=ending.status,
            untrained=self.untrained,
            final=self.final,
            elapsed_s=self.elapsed_before_s + time.perf_counter() - self.began,
            train_images_per_s=self.images / self.train_s if self.train_s > 0 else None,
            steps=self.steps,
            error=None if ending.error is None else safe_text(ending.error),  # SQLite takes no surrogates
            peak_bytes=ending.peak_bytes,
            context_bytes=ending.context_bytes,
            grown_bytes=ending.grown_bytes,
            remarks=tuple(map(safe_text, remarks)),
        )
