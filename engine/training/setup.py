"""Everything that a run needs before its first step: images and network on the device, optimizer, guard."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from engine.catalog.models import choose_stem, describe_changes, find_model, short_model
from engine.cores import OthersMeter
from engine.data.batches import batch_bounds
from engine.data.exclusion import keep_list
from engine.data.images import ImageData
from engine.data.loading import data_key, load_dataset
from engine.data.manifest import MANIFEST_NAME, left_out_by_kind, write_manifest
from engine.device import Placement, describe, share_cores
from engine.errors import MemoryShortageError
from engine.events import DatasetProgressed, MemoryForecasted, RunStarted, SettingsTuned
from engine.forecast.memory_plan import Plan, fit_run
from engine.forecast.step_memory import Step
from engine.forecast.timeline import BYTES_FIELDS
from engine.memory.headroom import bound_gpu, free_bytes, headroom_bytes, images_fit
from engine.memory.ledger import Holding, HoldingPart, Ledger
from engine.memory.out_of_memory import is_out_of_memory
from engine.models.imagenet import fetch_imagenet_weights
from engine.models.whole import check_forward, fingerprint, packages_of
from engine.progress import Progress
from engine.spec import RunSpec
from engine.step.forward import evaluation_batch
from engine.step.learner import BuildOptions, Learner, build_learner
from engine.text import counted, memory_size
from engine.training.autotune import TrialImages, apply_choice, is_tunable, known_choice, tune
from engine.training.compiling import compile_network
from engine.training.context import RunContext
from engine.training.cuda_graph import GraphedStep, is_capturable
from engine.training.foreign_shortcuts import settle_shortcuts
from engine.training.normalization import normalized_for
from engine.training.out_of_memory import Recovery, free_idle

T = TypeVar("T")
Bounds = list[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Execution:
    """How a run computes: device and precision, the memory plan, and the measured settings if any."""

    placement: Placement
    plan: Plan
    tuned: SettingsTuned | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What each process prepares on its own."""

    data: ImageData
    execution: _Execution
    learner: Learner


@dataclass(frozen=True, slots=True)
class Setup:
    """A run that is ready to train. `bounds` are the batches of an epoch as positions in its order. `tuned` are the
    measured settings in use, if any.
    """

    spec: RunSpec
    context: RunContext
    placement: Placement
    data: ImageData
    learner: Learner
    recovery: Recovery
    bounds: Bounds
    plan: Plan
    tuned: SettingsTuned | None = None

    @property
    def run(self) -> int:
        return self.context.run

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
        workers = self.context.group.describe(self.learner.model)
        return RunStarted(
            run=self.run,
            spec=self.spec.to_dict(),
            resolved=describe(self.placement, stem, self._where_images_are, workers, packages_of(self.spec.model)),
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
            model_sha256=fingerprint(self.spec.model),
        )

    @property
    def _where_images_are(self) -> str:
        if self.data.is_streamed:
            return "decoded"
        return "resident" if self.data.train.is_on(self.placement.device) else "streamed"

    def forecasted(self) -> Iterator[MemoryForecasted]:
        """Yields nothing without a forecast."""
        plan = self.plan
        if plan.forecast is None:
            return
        parts = {name: getattr(plan.forecast, name) for name in BYTES_FIELDS}
        yield MemoryForecasted(run=self.run, **parts, room_bytes=plan.room_bytes, dropped_bytes=plan.dropped_bytes)


def set_up(spec: RunSpec, context: RunContext) -> Generator[DatasetProgressed | SettingsTuned, None, Setup]:
    """Yield loading progress and return the run, ready to train, with the state of the checkpoint that it resumes from.

    Finished runs are unloaded, least recently used first, until the forecast fits. If that is not enough, the run
    begins in micro-batches or recomputes activations, as the spec says. A process of a group computes a part of each
    batch, which must fit as it is.

    Raises:
        DatasetError, ModelError: the images or the weights are not available.
        CheckpointError: the run to be resumed was trained on other images, or with another network.
        MemoryShortageError: the network alone does not fit; on a host, no variant fits.
        LoadingStopped: `control` requested a stop.
    """
    group = context.group
    with group.starting():
        prepared = yield from _prepare(spec, context)
    group.barrier()
    data, execution, learner = prepared.data, prepared.execution, group.join(prepared.learner)
    holding = Holding("model", short_model(spec.model), context.run, _parts(learner), live=True)
    context.ledger.hold(("model", context.run), learner.model, holding)
    recovery = _recovery(context, learner, execution.plan)
    bounds = batch_bounds(len(data.train), spec.batch_size)
    if spec.compile and spec.epochs and execution.plan.is_whole and group.adapts:
        compiling = compile_network(learner, data.shape, *_sizes(data, spec, bounds), context.control)
        yield from _reported(compiling, context.run, "network")
    return Setup(spec, context, execution.placement, data, learner, recovery, bounds, execution.plan, execution.tuned)


def _prepare(spec: RunSpec, context: RunContext) -> Generator[DatasetProgressed | SettingsTuned, None, _Prepared]:
    """Load the images, plan memory, choose how to compute, build the learner."""
    placement, resume, group = context.group.placed(context.placement), context.resume, context.group
    bound_gpu(placement.device, context.ledger.bound_bytes)
    others = OthersMeter()
    data = yield from load_images(spec, context, placement.device)
    data = normalized_for(spec, data, resume)
    resume.check_images(data)
    resume.check_network(spec.model)
    if group.is_rank_zero:
        _keep_files(data, context.folders.run_folder(context.run))
    is_timm = find_model(spec.model).origin == "timm"  # which fetches its own
    if spec.weights == "imagenet" and resume.checkpoint is None and not is_timm:
        fetching = fetch_imagenet_weights(spec.model, context.control)
        yield from _reported(fetching, context.run, f"weights of {spec.model}")
    execution = _Execution(placement, _planned(spec, data, placement, context))
    if resume.recorded:
        execution = replace(execution, placement=resume.placed(placement))
    elif group.adapts:
        execution = replace(execution, placement=share_cores(placement, others))
        if execution.plan.is_whole and is_tunable(spec, execution.placement):
            execution = yield from _tuned(spec, context, data, execution, others)
    return _Prepared(data, execution, _build(spec, data, execution.placement, context))


def _keep_files(data: ImageData, folder: Path) -> None:
    """The manifest and the exclude list, in the run's folder."""
    if data.manifest:
        write_manifest(folder / MANIFEST_NAME, data.manifest)
    keep_list(data.exclusion, folder)


def _planned(spec: RunSpec, data: ImageData, placement: Placement, context: RunContext) -> Plan:
    """The memory plan for this process's part of the run. Raises MemoryShortageError if it cannot fit."""
    group = context.group
    spec = spec.replace(batch_size=group.share_of(spec.batch_size))
    plan = fit_run(_step_of(spec, data, placement, context), context.ledger)
    if not (group.adapts or plan.is_whole or plan.fit == "unknown"):
        raise MemoryShortageError(
            f"a worker's share of each batch, {counted(spec.batch_size, 'image')}, does not fit in "
            f"{memory_size(plan.room_bytes)}; use more workers or a smaller batch size"
        )
    if plan.fit == "not" and placement.device.type == "cpu":
        raise MemoryShortageError(_will_not_fit(spec, plan, context.ledger))
    return plan


def _step_of(spec: RunSpec, data: ImageData, placement: Placement, context: RunContext) -> Step:
    """The step to forecast."""
    return Step(spec, data.shape, placement, data.resident_bytes, context.history.calibration)


def load_images(
    spec: RunSpec, context: RunContext, device: torch.device
) -> Generator[DatasetProgressed, None, ImageData]:
    """The images, reused if an earlier run still holds them in memory; the ledger holds them for this run."""
    key = (*data_key(spec), str(context.folders.data), str(device), context.resume.data_rules)
    data: ImageData | None = context.ledger.get(key)
    if data is None:
        data = yield from _load(spec, context, device)
    parts: tuple[tuple[HoldingPart, int], ...] = (("dataset", data.resident_bytes),)
    context.ledger.hold(key, data, Holding("dataset", spec.dataset, context.run, parts, live=True))
    return data


def _recovery(context: RunContext, learner: Learner, plan: Plan) -> Recovery:
    """Whole batches or parts, as planned; a resumed run splits them as before, or finer if there is less memory."""
    recovery = Recovery(context.run, learner, context.ledger)
    if context.resume.checkpoint is not None:
        context.resume.restore(learner)
        recovery.restore(context.resume.position.memory)
    now = recovery.micro_batch or learner.spec.batch_size
    smaller = plan.micro_batch if plan.micro_batch is not None and plan.micro_batch < now else None
    recovery.start_small(smaller, plan.recompute and not recovery.recomputing)
    whole = recovery.micro_batch is None and not recovery.recomputing
    if context.group.adapts and whole and is_capturable(learner, plan):
        recovery.graphed = GraphedStep(learner)
    return recovery


def _tuned(
    spec: RunSpec, context: RunContext, data: ImageData, execution: _Execution, others: OthersMeter
) -> Generator[DatasetProgressed | SettingsTuned, None, _Execution]:
    """The execution measured to be fastest, now or earlier; unchanged if there is no time to measure."""
    tuned = known_choice(context.history.autotune_choices, spec, data.shape, others.read())
    if tuned is None:
        images = TrialImages(data.shape, data.mean, data.std, spec.epochs * len(data.train))
        trial = tune(context.run, spec, images, execution.placement, context.control)
        tuned = yield from _reported(trial, context.run, "settings")
        if tuned is not None:
            yield tuned
    return execution if tuned is None else _applied(tuned, spec, context, data, execution)


def _applied(
    tuned: SettingsTuned, spec: RunSpec, context: RunContext, data: ImageData, execution: _Execution
) -> _Execution:
    """The chosen execution and its plan, if that fits as well; otherwise unchanged."""
    num_threads = torch.get_num_threads()
    chosen, before = apply_choice(tuned, execution.placement), execution.placement
    if (chosen.dtype, chosen.memory_format) == (before.dtype, before.memory_format):
        return _Execution(chosen, execution.plan, tuned)
    other = fit_run(_step_of(spec, data, chosen, context), context.ledger)
    if other.is_whole:
        return _Execution(chosen, other, tuned)
    torch.set_num_threads(num_threads)
    return execution


def _sizes(data: ImageData, spec: RunSpec, bounds: Bounds) -> tuple[list[int], list[int]]:
    """The sizes of all batches, in training and in evaluation."""
    at_once = evaluation_batch(spec.batch_size, data.shape.height, data.shape.width)
    splits = [split for split in (data.val, data.test) if split is not None]
    evaluated = [size for split in splits for size in (min(at_once, len(split)), len(split) % at_once) if size]
    return [stop - start for start, stop in bounds], evaluated


def _build(spec: RunSpec, data: ImageData, placement: Placement, context: RunContext) -> Learner:
    moments, ledger = (data.mean, data.std), context.ledger
    load_weights = context.resume.checkpoint is None
    options = BuildOptions(
        sync_batchnorm=context.group.sync_batchnorm, load_weights=load_weights, class_names=data.class_names
    )

    def built() -> Learner:
        learner = build_learner(spec, data.shape, moments, placement, options)
        if (info := find_model(spec.model)).is_whole:
            check_forward(learner.model, info, data.shape)
        return learner

    try:
        return settle_shortcuts(built(), data)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    free_idle(ledger)
    try:
        return settle_shortcuts(built(), data)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        free = memory_size(free_bytes(placement.device))
        raise MemoryShortageError(
            f"memory ran out on {placement.device} while building {spec.model}, {free} are free; choose a smaller "
            "network, or free memory that others hold"
        ) from None


def _will_not_fit(spec: RunSpec, plan: Plan, ledger: Ledger) -> str:
    """Allocations on a host do not fail: the system kills the process. So such a run does not start."""
    assert plan.forecast is not None
    held = [f"{item.label} #{item.run} {memory_size(item.num_bytes)}" for item in ledger.holdings()]
    return (
        f"{spec.model} will not fit: it needs {memory_size(plan.forecast.peak_bytes)} with {plan.micro_batch} "
        f"images at once, {memory_size(plan.room_bytes)} available, held are {', '.join(held)}; choose a smaller "
        "image size, batch size or network, or free memory that others hold"
    )


def release(setup: Setup | None) -> None:
    """Drop what only training needs: gradients, and the optimizer's references to the network."""
    if setup is not None:
        if setup.recovery.graphed is not None:
            setup.recovery.graphed.drop()
            setup.recovery.graphed = None
        setup.learner.optimizer.zero_grad(set_to_none=True)
        setup.learner.optimizer.state.clear()


def _parts(learner: Learner) -> tuple[tuple[HoldingPart, int], ...]:
    """Memory that a live run's model holds between two steps."""
    model = learner.model
    state = [value for values in learner.optimizer.state.values() for value in values.values()]
    return (
        ("parameters", sum(values.nbytes for values in (*model.parameters(), *model.buffers()))),
        ("gradients", sum(values.nbytes for values in model.parameters() if values.requires_grad)),
        ("optimizer", sum(value.nbytes for value in state if isinstance(value, torch.Tensor))),
        ("caches", sum(copy.nbytes for copy in learner.guard.copies)),
    )


def _load(spec: RunSpec, context: RunContext, device: torch.device) -> Generator[DatasetProgressed, None, ImageData]:
    """Load the images onto the device, or leave them where they are if they need more than half of its free memory, or
    are decoded as they are used.
    """
    loading = load_dataset(spec, context.folders, context.control, context.resume.data_rules)
    data: ImageData = yield from _reported(loading, context.run, spec.dataset)
    if data.is_streamed:
        return data
    ledger = context.ledger

    def fits() -> bool:
        return images_fit(data.num_bytes, headroom_bytes(device, ledger.num_bytes, ledger.bound_bytes))

    ledger.evict_until(fits)
    for _ in range(2):
        if not fits():
            break
        try:
            val = data.val.to(device) if data.val else None
            return replace(data, train=data.train.to(device), val=val, test=data.test.to(device))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        free_idle(ledger)
    return data


def _reported(work: Generator[Progress, None, T], run: int, what: str) -> Generator[DatasetProgressed, None, T]:
    """Run `work`, yielding its progress as events; returns its result."""
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            value: T = end.value
            return value
        where = (progress.stage, progress.done, progress.total, progress.unit)
        yield DatasetProgressed(run, what, *where, progress.note)
