"""Everything that a run needs before its first step, built once: images and network on the device, optimizer, guard."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from engine.control import Control
from engine.datasets.batches import Preparation, batch_bounds
from engine.datasets.images import ImageData
from engine.datasets.loading import data_key, load_dataset
from engine.datasets.manifest import MANIFEST_NAME, write_manifest
from engine.device import Placement, describe
from engine.events import DatasetProgressed, RunStarted
from engine.memory.ledger import Holding, Ledger
from engine.memory.room import room_bytes
from engine.models.building import build_model, fetch_imagenet_weights
from engine.models.registry import choose_stem, describe_changes, find_model
from engine.paths import Places
from engine.progress import Progress
from engine.spec import RunSpec
from engine.training.guard import StepGuard
from engine.training.optim import build_optimizer

T = TypeVar("T")
_SHARE_FOR_IMAGES = 0.5  # of the room on the device; the network, its gradients and activations need the rest


@dataclass(frozen=True, slots=True)
class Setup:
    """A run, ready. `bounds` are the batches of an epoch as positions in its order; `draws` says whether the network
    draws random numbers in training, as dropout does.
    """

    run: int
    spec: RunSpec
    placement: Placement
    data: ImageData
    model: nn.Module
    optimizer: torch.optim.Optimizer
    guard: StepGuard
    prepare: Preparation
    bounds: list[tuple[int, int]]
    draws: bool

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
        return RunStarted(
            run=self.run,
            spec=self.spec.to_dict(),
            resolved=describe(self.placement, stem, self.data.train.is_on(self.placement.device)),
            num_train=len(self.data.train),
            num_val=len(self.data.val) if self.data.val else 0,
            num_test=len(self.data.test),
            num_unusable=self.data.num_unusable,
            image_shape=(shape.channels, shape.height, shape.width),
            class_names=self.data.class_names,
            mean=self.data.mean,
            std=self.data.std,
            test_sha256=self.data.test_sha256,
            num_parameters=sum(values.numel() for values in self.model.parameters()),
            changes=describe_changes(info, shape, stem),
            num_steps=self.num_steps,
        )


def set_up(
    run: int, spec: RunSpec, places: Places, ledger: Ledger, control: Control, placement: Placement
) -> Generator[DatasetProgressed, None, Setup]:
    """Yield the progress of loading and return the run, ready.

    Raises:
        DatasetError, ModelError: the images or the weights are not to be had.
        LoadingStopped: `control` asked for a stop.
    """
    key = (*data_key(spec), str(places.data), str(placement.device))
    ledger.drop_idle(keep=key)
    data: ImageData | None = ledger.get(key)
    if data is None:
        data = yield from _load(run, spec, places, control, placement, ledger.num_bytes)
    if data.manifest:
        write_manifest(places.run_folder(run) / MANIFEST_NAME, data.manifest)
    ledger.hold(key, data, Holding("dataset", spec.dataset, run, data.resident_bytes, live=True))
    if spec.weights == "imagenet":
        yield from _told(fetch_imagenet_weights(spec.model, control), run, f"weights of {spec.model}")
    model = build_model(spec, data.shape).to(placement.device, memory_format=placement.memory_format)  # type: ignore[call-overload]
    num_bytes = sum(values.nbytes for values in (*model.parameters(), *model.buffers()))
    ledger.hold(("model", run), model, Holding("model", spec.model, run, num_bytes, live=True))
    optimizer = build_optimizer(spec, model)
    return Setup(
        run=run,
        spec=spec,
        placement=placement,
        data=data,
        model=model,
        optimizer=optimizer,
        guard=StepGuard(model, optimizer, placement.device),
        prepare=Preparation.build(
            data.mean, data.std, placement.device, placement.memory_format, spec.flip, spec.crop_padding
        ),
        bounds=batch_bounds(len(data.train), spec.batch_size),
        draws=any(isinstance(module, _DropoutNd | StochasticDepth) and module.p > 0 for module in model.modules()),
    )


def _load(
    run: int, spec: RunSpec, places: Places, control: Control, placement: Placement, held_bytes: int
) -> Generator[DatasetProgressed, None, ImageData]:
    """The images in the memory of the device, or left where they are if they would take more than half the room."""
    data: ImageData = yield from _told(load_dataset(spec, places, control), run, spec.dataset)
    device = placement.device
    if data.num_bytes > room_bytes(device, held_bytes) * _SHARE_FOR_IMAGES:
        return data
    val = data.val.to(device) if data.val else None
    return replace(data, train=data.train.to(device), val=val, test=data.test.to(device))


def _told(work: Generator[Progress, None, T], run: int, what: str) -> Generator[DatasetProgressed, None, T]:
    """The progress of `work` as events; returns what it returns."""
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            value: T = end.value
            return value
        yield DatasetProgressed(run, what, progress.stage, progress.done, progress.total, progress.unit)


def all_finite(model: nn.Module) -> bool:
    """Whether every weight and statistic is a finite number. Waits for the device."""
    values = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    norms = torch._foreach_norm([tensor.detach().float() for tensor in values])
    return math.isfinite(float(torch.stack([norm.to(norms[0].device) for norm in norms]).sum()))
