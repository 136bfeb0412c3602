"""Everything that a run needs before its first step, built once: images and network on the device, optimizer, guard."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import torch

from engine.catalog.models import choose_stem, describe_changes, find_model
from engine.control import Control
from engine.cores import OthersMeter
from engine.data.batches import batch_bounds
from engine.data.images import NEWEST_RULES, ImageData
from engine.data.loading import data_key, load_dataset
from engine.data.manifest import MANIFEST_NAME, left_out_by_kind, write_manifest
from engine.device import Placement, describe, share_cores
from engine.errors import MemoryShortageError
from engine.events import DatasetProgressed, MemoryForecasted, RunStarted, SettingsTuned
from engine.forecast.fitting import Plan, fit_run
from engine.forecast.timeline import BYTES_FIELDS, Forecast
from engine.memory.calibration import Calibration
from engine.memory.headroom import bound_gpu, free_bytes, images_fit, room_bytes
from engine.memory.ledger import Holding, Ledger, Part
from engine.memory.shortage import ran_out
from engine.models.building import fetch_imagenet_weights
from engine.paths import Places
from engine.progress import Progress
from engine.spec import RunSpec
from engine.step.forward import evaluation_batch
from engine.step.learner import Learner, build_learner
from engine.text import counted, memory_size
from engine.training.autotune import apply_tuning, is_tunable, known_tuning, tune
from engine.training.compiling import compile_network
from engine.training.cuda_graph import RecordedStep, is_recordable
from engine.training.normalization import normalized_for
from engine.training.out_of_memory import Recovery, free_idle
from engine.training.resume import Resume
from engine.training.shortcuts import settle_shortcuts

if TYPE_CHECKING:
    from engine.training.data_parallel import Crew

T = TypeVar("T")
Bounds = list[tuple[int, int]]
_Prepared = tuple[ImageData, Plan, Placement, Learner, SettingsTuned | None]


@dataclass(frozen=True, slots=True)
class Known:
    """What earlier runs on this machine have taught: what forecasts lack, and what is quickest. `workers` says where it
    trains, as in `Resolved`, if not in the lab's own process.
    """

    calibration: Calibration = field(default_factory=Calibration)
    tunings: Mapping[str, SettingsTuned] = field(default_factory=dict)
    workers: str = ""


@dataclass(frozen=True, slots=True)
class Setup:
    """A run, ready. `bounds` are the batches of an epoch as positions in its order."""

    run: int
    spec: RunSpec
    placement: Placement
    data: ImageData
    learner: Learner
    recovery: Recovery
    bounds: Bounds
    forecast: Forecast | None
    room_bytes: int
    dropped_bytes: int
    crew: Crew | None = None
    workers: str = ""
    tuned: SettingsTuned | None = None  # by which it computes, where that was measured

    @property
    def steps_per_epoch(self) -> int:
        return len(self.bounds)

    @property
    def num_steps(self) -> int:
        return len(self.bounds) * self.spec.epochs

    def started(self) -> RunStarted:
        shape = self.data.shape
        info = find_model(self.spec.model)
        stem = choose_stem(info, self.spec.stem, shape)
        resident = self.data.train.is_on(self.placement.device)
        return RunStarted(
            run=self.run,
            spec=self.spec.to_dict(),
            resolved=describe(self.placement, stem, resident, self.workers),
            num_train=len(self.data.train),
            num_val=len(self.data.val) if self.data.val else 0,
            num_test=len(self.data.test),
            num_unusable=self.data.num_unusable,
            image_shape=(shape.channels, shape.height, shape.width),
            class_names=self.data.class_names,
            mean=self.data.mean,
            std=self.data.std,
            test_sha256=self.data.test_sha256,
            train_sha256=self.data.train_sha256,
            num_parameters=sum(values.numel() for values in self.learner.model.parameters()),
            changes=describe_changes(info, shape, stem),
            num_steps=self.num_steps,
            notes=(*self.learner.notes, *self.data.notes),
            left_out=left_out_by_kind(self.data.manifest),
            shared=dict(self.data.shared),
            data_rules=self.data.rules,
            pixel_range=(self.data.pixel_range.integers, self.data.pixel_range.floats),
            resampler=self.data.resampler,
        )

    def forecasted(self) -> Iterator[MemoryForecasted]:
        """Nothing, where no forecast could be made."""
        if self.forecast is None:
            return
        parts = {name: getattr(self.forecast, name) for name in BYTES_FIELDS}
        yield MemoryForecasted(run=self.run, **parts, room_bytes=self.room_bytes, dropped_bytes=self.dropped_bytes)


def set_up(
    run: int,
    spec: RunSpec,
    places: Places,
    ledger: Ledger,
    control: Control,
    placement: Placement,
    known: Known,
    resume: Resume | None = None,
    crew: Crew | None = None,
) -> Generator[DatasetProgressed | SettingsTuned, None, Setup]:
    """Yield the progress of loading and return the run, ready; with `resume` in the state of its checkpoint.

    With a `crew` this process makes a part of each batch, which must fit as it is.

    Finished runs' things are let go, the least recently used first, until the forecast fits. Where that is not enough
    the run begins in micro-batches, or with activations computed twice, as the spec says.

    Raises:
        DatasetError, ModelError: the images or the weights are not available.
        CheckpointError: the run to go on with has seen other images, or another network.
        MemoryShortageError: the network alone does not fit, or on a host whatever is tried.
        LoadingStopped: `control` asked for a stop.
    """
    with nullcontext() if crew is None else crew.on_the_way():
        prepared = _prepare(run, spec, places, ledger, control, placement, known, resume, crew)
        data, plan, placement, learner, tuned = yield from prepared
    if crew is not None:
        crew.meet()
        learner = crew.join(learner)
    ledger.hold(("model", run), learner.model, Holding("model", spec.model, run, _parts(learner), live=True))
    recovery = _recovery(run, learner, plan, ledger, resume)
    bounds = batch_bounds(len(data.train), spec.batch_size)
    if spec.compile and plan.is_whole and crew is None:
        yield from _told(compile_network(learner, data.shape, *_sizes(data, spec, bounds), control), run, "network")
    return Setup(
        run=run, spec=spec, placement=placement, data=data, learner=learner, recovery=recovery, bounds=bounds,
        forecast=plan.forecast, room_bytes=plan.room_bytes, dropped_bytes=plan.dropped_bytes, crew=crew,
        workers=crew.words(learner.model) if crew else known.workers, tuned=tuned,
    )  # fmt: skip


def _prepare(
    run: int, spec: RunSpec, places: Places, ledger: Ledger, control: Control, placement: Placement, known: Known,
    resume: Resume | None, crew: Crew | None,
) -> Generator[DatasetProgressed | SettingsTuned, None, _Prepared]:  # fmt: skip
    """Images, how the run fits, where and in what it computes, and what learns: all that one process does alone."""
    bound_gpu(placement.device)
    others = OthersMeter()
    rules = NEWEST_RULES if resume is None else resume.data_rules
    data = yield from _images(run, spec, places, control, placement, ledger, rules)
    data = normalized_for(spec, data, resume)
    if resume is not None:
        resume.check_images(data)
    if data.manifest and (crew is None or crew.leads):
        write_manifest(places.run_folder(run) / MANIFEST_NAME, data.manifest)
    weighted = resume is None or resume.checkpoint is None
    if spec.weights == "imagenet" and weighted:
        yield from _told(fetch_imagenet_weights(spec.model, control), run, f"weights of {spec.model}")
    plan = _planned(spec, data, placement, ledger, known, crew)
    if resume is not None and resume.recorded:
        placement = resume.placed(placement)
    elif crew is None:
        placement = share_cores(placement, others)
    tuned = None
    if (resume is None or not resume.recorded) and crew is None and plan.is_whole and is_tunable(spec, placement):
        tuned = yield from _tuned(run, spec, data, placement, control, known, others)
        if tuned is not None:
            placement, plan, tuned = _with(tuned, spec, data, placement, plan, ledger, known)
    return data, plan, placement, _build(spec, data, placement, ledger, crew, weighted), tuned


def _planned(
    spec: RunSpec, data: ImageData, placement: Placement, ledger: Ledger, known: Known, crew: Crew | None
) -> Plan:
    """How the run fits here, or with a `crew` this process's part of it. Raises MemoryShortageError where it cannot."""
    if crew is not None:
        spec = spec.replace(batch_size=-(-spec.batch_size // crew.size))
    plan = fit_run(spec, data.shape, data.resident_bytes, placement, ledger, known.calibration)
    if crew is not None and not (plan.is_whole or plan.fit == "unknown"):
        raise MemoryShortageError(
            f"a worker's share of each batch, {counted(spec.batch_size, 'image')}, does not fit in "
            f"{memory_size(plan.room_bytes)}; take more workers, or a smaller batch size"
        )
    if plan.fit == "not" and placement.device.type == "cpu":
        raise MemoryShortageError(_will_not_fit(spec, plan, ledger))
    return plan


def _images(
    run: int, spec: RunSpec, places: Places, control: Control, placement: Placement, ledger: Ledger, rules: int
) -> Generator[DatasetProgressed, None, ImageData]:
    """The images, those of an earlier run where they still lie in memory; the ledger holds them for this one."""
    key = (*data_key(spec), str(places.data), str(placement.device), rules)
    data: ImageData | None = ledger.get(key)
    if data is None:
        data = yield from _load(run, spec, places, control, placement, ledger, rules)
    ledger.hold(key, data, Holding("dataset", spec.dataset, run, (("dataset", data.resident_bytes),), live=True))
    return data


def _recovery(run: int, learner: Learner, plan: Plan, ledger: Ledger, resume: Resume | None) -> Recovery:
    """Whole batches or parts, as the plan has it; a run that goes on cuts them as it did, finer where room is less."""
    recovery = Recovery(run, learner, ledger)
    if resume is not None and resume.checkpoint is not None:
        resume.put_back(learner)
        recovery.go_on(resume.position.memory)
    now = recovery.micro_batch or learner.spec.batch_size
    smaller = plan.micro_batch if plan.micro_batch is not None and plan.micro_batch < now else None
    recovery.start_small(smaller, plan.recompute and not recovery.recomputing)
    alone = type(learner) is Learner
    if alone and recovery.micro_batch is None and not recovery.recomputing and is_recordable(learner, plan):
        recovery.recorded = RecordedStep(learner)
    return recovery


def _tuned(
    run: int, spec: RunSpec, data: ImageData, placement: Placement, control: Control, known: Known, others: OthersMeter
) -> Generator[DatasetProgressed | SettingsTuned, None, SettingsTuned | None]:
    """What was measured to be quickest, before or now; None where there is no time to measure it."""
    tuned = known_tuning(known.tunings, spec, data.shape, others.read())
    if tuned is not None:
        return tuned
    num_images = spec.epochs * len(data.train)
    trial = tune(run, spec, data.shape, (data.mean, data.std), placement, control, num_images)
    tuned = yield from _told(trial, run, "settings")
    if tuned is not None:
        yield tuned
    return tuned


def _with(
    tuned: SettingsTuned, spec: RunSpec, data: ImageData, placement: Placement, plan: Plan, ledger: Ledger, known: Known
) -> tuple[Placement, Plan, SettingsTuned | None]:
    """The placement that was chosen, and the plan for it, where that fits as well; else all as it was before."""
    num_threads = torch.get_num_threads()
    chosen = apply_tuning(tuned, placement)
    if (chosen.dtype, chosen.memory_format) == (placement.dtype, placement.memory_format):
        return chosen, plan, tuned
    other = fit_run(spec, data.shape, data.resident_bytes, chosen, ledger, known.calibration)
    if other.is_whole:
        return chosen, other, tuned
    torch.set_num_threads(num_threads)
    return placement, plan, None


def _sizes(data: ImageData, spec: RunSpec, bounds: Bounds) -> tuple[list[int], list[int]]:
    """Of every batch, in training and in evaluation."""
    at_once = evaluation_batch(spec.batch_size, data.shape)
    splits = [split for split in (data.val, data.test) if split is not None]
    evaluated = [size for split in splits for size in (min(at_once, len(split)), len(split) % at_once) if size]
    return [stop - start for start, stop in bounds], evaluated


def _build(
    spec: RunSpec, data: ImageData, placement: Placement, ledger: Ledger, crew: Crew | None, weighted: bool
) -> Learner:
    moments = (data.mean, data.std)

    def built() -> Learner:
        sync = crew is not None and crew.sync_batchnorm
        return build_learner(spec, data.shape, moments, placement, sync_batchnorm=sync, weighted=weighted)

    try:
        return settle_shortcuts(built(), data)
    except Exception as error:
        if not ran_out(error):
            raise
    free_idle(ledger)
    try:
        return settle_shortcuts(built(), data)
    except Exception as error:
        if not ran_out(error):
            raise
        free = memory_size(free_bytes(placement.device))
        raise MemoryShortageError(
            f"memory ran out on {placement.device} while {spec.model} was built, {free} are free; choose a smaller "
            "network, or free what others hold"
        ) from None


def _will_not_fit(spec: RunSpec, plan: Plan, ledger: Ledger) -> str:
    """On a host an allocation does not fail: the system ends the process. So such a run is not begun."""
    assert plan.forecast is not None
    held = [f"{item.label} #{item.run} {memory_size(item.num_bytes)}" for item in ledger.holdings()]
    return (
        f"{spec.model} will not fit: it needs {memory_size(plan.forecast.peak_bytes)} with {plan.micro_batch} "
        f"images at once, {memory_size(plan.room_bytes)} available, held are {', '.join(held)}; choose a smaller "
        "image size, batch size or network, or free what others hold"
    )


def release(setup: Setup | None) -> None:
    """Let go of what only training needed: gradients, and the optimizer's hold on the network."""
    if setup is not None:
        if setup.recovery.recorded is not None:
            setup.recovery.recorded.drop()
            setup.recovery.recorded = None
        setup.learner.optimizer.zero_grad(set_to_none=True)
        setup.learner.optimizer.state.clear()


def _parts(learner: Learner) -> tuple[tuple[Part, int], ...]:
    """What the model of a live run holds between two steps."""
    model = learner.model
    state = [value for values in learner.optimizer.state.values() for value in values.values()]
    return (
        ("parameters", sum(values.nbytes for values in (*model.parameters(), *model.buffers()))),
        ("gradients", sum(values.nbytes for values in model.parameters() if values.requires_grad)),
        ("optimizer", sum(value.nbytes for value in state if isinstance(value, torch.Tensor))),
        ("caches", sum(copy.nbytes for copy in learner.guard.copies)),
    )


def _load(
    run: int, spec: RunSpec, places: Places, control: Control, placement: Placement, ledger: Ledger, rules: int
) -> Generator[DatasetProgressed, None, ImageData]:
    """The images in the memory of the device, or left where they are if they would take more than half the room."""
    data: ImageData = yield from _told(load_dataset(spec, places, control, rules), run, spec.dataset)
    device = placement.device

    def fits() -> bool:
        return images_fit(data.num_bytes, room_bytes(device, ledger.num_bytes))

    ledger.make_room(fits)
    for _ in range(2):
        if not fits():
            break
        try:
            val = data.val.to(device) if data.val else None
            return replace(data, train=data.train.to(device), val=val, test=data.test.to(device))
        except Exception as error:
            if not ran_out(error):
                raise
        free_idle(ledger)
    return data


def _told(work: Generator[Progress, None, T], run: int, what: str) -> Generator[DatasetProgressed, None, T]:
    """The progress of `work` as events; returns what it returns."""
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            value: T = end.value
            return value
        yield DatasetProgressed(run, what, progress.stage, progress.done, progress.total, progress.unit)
