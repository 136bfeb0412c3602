"""A run from its spec, or its newest checkpoint, to its end: train, store each event, then yield it.

Every event is stored before it is yielded, and the run's row is completed however the run ends: completed, stopped,
diverged, failed, or its iterator closed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from engine.analysis.remarks import closing_remarks
from engine.catalog.datasets import absolute_dataset, find_dataset
from engine.catalog.models import find_model, misfit
from engine.catalog.own_models import absolute_model
from engine.control import Control, RunControl
from engine.data.exclusion import check_unchanged, with_kept_list
from engine.data.loading import check_dataset
from engine.device import choose_placement, import_torch
from engine.errors import CheckpointError, DatasetError, ModelError, StoreError
from engine.events import CheckpointSaved, Evaluated, Event, Metrics, RunEnded, RunStarted, StepsCompleted
from engine.failures import describe_failure
from engine.launch.backend import Job
from engine.launch.requests import RequestListener
from engine.launch.run_weights import with_run_weights
from engine.launch.stream import remove_stream
from engine.models.building import check_weights
from engine.models.whole import check_model
from engine.normalization import stated_moments
from engine.paths import Folders, absolute_file, absolute_weights
from engine.records import RunDetails, WeightsRecord
from engine.spec import RunSpec
from engine.store.store import Store
from engine.text import safe_text
from engine.training.checkpoint import load_checkpoint, remove_other_checkpoints
from engine.training.loop import Ending
from engine.training.position import Position
from engine.training.resume import FRESH, Resume

_log = logging.getLogger("reslab")


class Trainer(Protocol):
    """Trains the runs that are recorded here. `on_this_machine`: with its devices, and without a delay between a
    checkpoint and its event; a worker elsewhere may be ahead of its events.
    """

    @property
    def on_this_machine(self) -> bool: ...

    def train(
        self, run: int, spec: RunSpec, resume: Resume, control: Control, store: Store
    ) -> Generator[Event, None, Ending]: ...


def check(spec: RunSpec, load_weights: bool = True, on_this_machine: bool = True) -> None:
    """Raise what is wrong with `spec`, as far as can be seen without loading anything.

    Without `load_weights` its weights file is no longer needed; unless `on_this_machine`, its device is not checked.

    Raises:
        ReslabError: a folder, a weights file or a device is missing, or the network cannot take such images.
    """
    import_torch()
    check_dataset(spec)
    shape = find_dataset(spec.dataset).spec_shape(spec.image_size)
    if shape is not None:
        if problem := misfit(find_model(spec.model), shape):
            raise ModelError(problem)
        stated_moments(spec.normalization, shape.channels)
    check_model(spec, shape)
    if load_weights:
        check_weights(spec)
    if on_this_machine:
        choose_placement(spec)


def with_absolute_paths(spec: RunSpec) -> RunSpec:
    """The same run from any folder."""
    return spec.replace(
        dataset=absolute_dataset(spec.dataset),
        model=absolute_model(spec.model),
        weights=absolute_weights(spec.weights),
        exclude=None if spec.exclude is None else absolute_file(spec.exclude),
    )


def record_events(job: Job, folders: Folders, trainer: Trainer, control: RunControl) -> Generator[Event, None, None]:
    """Run `job`, storing each event before it is yielded; the last one is always RunEnded.

    A resumed run continues from its newest intact checkpoint; without any it restarts. Its events are RunStarted, the
    stored events up to that checkpoint, RunContinued, then the rest. On the same machine, with the same versions and
    number of threads, it ends as if it had never been interrupted, to the last bit.

    Raises:
        ReslabError: before the first event, with nothing changed: `check` found a problem, the store cannot be opened,
            or the run to be resumed is missing, complete, diverged, running or tampered with, or its images have
            changed. Later failures end in RunEnded with the status `failed`.
    """
    spec = with_absolute_paths(job.spec)
    if job.resume is None:
        spec = with_run_weights(spec, folders)
        check(spec, on_this_machine=trainer.on_this_machine)
    with Store(folders.database) as store:
        if job.resume is None:
            recording = _Recording(store, folders, trainer, _Tally(store.create_run(spec)), spec, FRESH)
        else:
            recording = _resumed(job, store, folders, trainer)
        with closing(RequestListener(folders.run_folder(recording.run), control)) as requests:
            yield from recording.events(requests)


def _resumed(job: Job, store: Store, folders: Folders, trainer: Trainer) -> _Recording:
    number = job.resume
    assert number is not None
    store.settle_lost_runs()
    details = store.details(number)
    if (why_not := not_resumable(details)) is not None:
        raise StoreError(why_not)
    stored, folder = RunSpec.from_stored(details.record.spec), folders.run_folder(number)
    check_unchanged(stored, folder)
    spec = with_kept_list(_moved(stored, details, job.dataset), folder)
    found = _from_newest(details.started, store.checkpoints(number), folder)
    _check_again(number, spec, found.checkpoint is None, trainer.on_this_machine)
    at = found.position
    tally = _Tally(number, at.elapsed_s, images=at.images, steps=at.step, train_s=at.train_s)
    return _Recording(store, folders, trainer, tally, spec, found)


def _moved(spec: RunSpec, details: RunDetails, dataset: str | None) -> RunSpec:
    """The run's spec, with its images where they are now."""
    if dataset is None:
        return spec
    if details.started is None:
        raise StoreError(
            f"run {details.record.run} ended before it loaded its images, so those of {dataset} cannot be checked; "
            "train a new run on them"
        )
    return spec.replace(dataset=absolute_dataset(dataset))


def _check_again(number: int, spec: RunSpec, load_weights: bool, on_this_machine: bool) -> None:
    try:
        check(spec, load_weights, on_this_machine)
    except DatasetError as error:
        if not (kind := find_dataset(spec.dataset)).is_own:
            raise
        raise DatasetError(f"{error}; if it has moved, use reslab resume {number} --dataset {kind.name}") from None


def not_resumable(details: RunDetails) -> str | None:
    """Why a run cannot be resumed, as a sentence; None if it can."""
    record = details.record
    match record.status:
        case "completed":
            return f"run {record.run} is complete; there is nothing left to train"
        case "diverged":
            return f"run {record.run} diverged and would again; train a new run with a lower learning rate"
        case "running":
            return f"run {record.run} is still running; reslab stop {record.run} ends it"
    if details.intact is False:
        return f"run {record.run} was changed after it ended and cannot be resumed; train a new run"
    return None


def _from_newest(started: RunStarted | None, recorded: Sequence[WeightsRecord], folder: Path) -> Resume:
    """From the newest checkpoint whose hash matches its row; from the beginning if there never was one.

    Raises:
        CheckpointError: there are checkpoints but none is usable. Restarting would discard the stored curves.
    """
    problems = []
    for weights in recorded:
        try:
            found = load_checkpoint(folder / weights.file, weights.sha256)
            Position.from_dict(found.header)
            return Resume(started, found, weights.file, weights.sha256)
        except CheckpointError as error:
            _log.warning("%s; using the one before it", error)
            problems.append(str(error))
    if problems:
        raise CheckpointError(f"no usable checkpoint: {problems[0]}; restore the file, or train a new run")
    return Resume(started)


class _Recording:
    """Stores one run, from its first event to its last. The row of a resumed run is reopened once its data and network
    are ready.
    """

    def __init__(
        self, store: Store, folders: Folders, trainer: Trainer, tally: _Tally, spec: RunSpec, resume: Resume
    ) -> None:
        self.run = tally.run
        self._store, self._folders, self._trainer = store, folders, trainer
        self._tally, self._spec, self._resume = tally, spec, resume
        self._is_open, self._has_started = resume.is_fresh, False

    def events(self, requests: RequestListener) -> Generator[Event, None, None]:
        ending = Ending("stopped")
        try:
            events = self._trainer.train(self.run, self._spec, self._resume, requests.control, self._store)
            while True:
                try:
                    event = next(events)
                except StopIteration as end:
                    ending = end.value
                    break
                for stored in self._stored(event):
                    requests.announce(stored)
                    yield stored
        except Exception as error:
            ending = Ending("failed", describe_failure(error, self._folders, f"run {self.run} failed"))
        except BaseException:  # closed, or interrupted a second time
            if self._is_open:
                self._store.record(self._tally.ended(ending))
            raise
        # Outside the except block, where the traceback would keep every tensor of the run alive.
        if not self._is_open and ending.status == "failed":
            raise StoreError(str(ending.error))
        yield self._end(ending)

    def _stored(self, event: Event) -> Iterator[Event]:
        """Store an event; yields what the caller should see of it."""
        if isinstance(event, RunStarted):
            if not self._has_started:  # else workers on a cluster start again
                self._has_started = True
                yield from self._begin(event)
            return
        self._tally.add(event)
        self._store.record(event)
        if isinstance(event, CheckpointSaved):
            self._remove_others(newer=self._trainer.on_this_machine)
        yield event

    def _begin(self, event: RunStarted) -> Iterator[Event]:
        if self._resume.is_fresh:
            self._store.record(event)
            yield event
            return
        position, before = self._resume.position, self._resume.started
        self._store.reopen(self.run, position.step, position.epochs_done, position.evaluated, self._spec)
        remove_stream(self._folders.run_folder(self.run))
        self._is_open = True
        event = replace(event, notes=(before and before.notes) or event.notes)
        if before is None:
            self._store.record(event)
        yield event
        for past in self._store.past(self.run):  # the past counts as well
            self._tally.add(past)
            yield past

    def _end(self, ending: Ending) -> RunEnded:
        ended = self._tally.ended(ending, self._closing_remarks() if ending.status == "completed" else ())
        if self._is_open:
            self._store.record(ended)
        if ended.status == "completed":
            self._remove_others()
        return ended

    def _closing_remarks(self) -> tuple[str, ...]:
        try:
            return closing_remarks(self._store.details(self.run))
        except StoreError:
            _log.warning("no remarks on the figures of run %d", self.run, exc_info=True)
            return ()

    def _remove_others(self, newer: bool = True) -> None:
        """Delete checkpoint files that the store no longer names; files newer than those only if `newer`."""
        named = [weights.file for weights in self._store.checkpoints(self.run)]
        remove_other_checkpoints(self._folders.run_folder(self.run), named, newer)


@dataclass(slots=True)
class _Tally:
    """What RunEnded sums up from earlier events."""

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
