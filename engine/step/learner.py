"""The learner: network, optimizer, guard and preparation, and the step that they compute together.

The forecast runs this same step on tensors without contents, so its memory figures hold for the real step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torchvision.ops import StochasticDepth

from engine.catalog.models import find_model
from engine.data.batches import Preparation, step_seed
from engine.data.feeding import Batch
from engine.device import Placement
from engine.models.building import build_model, freeze_backbone
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.step.batchnorm import share_batchnorm
from engine.step.guard import StepGuard
from engine.step.optim import build_optimizer

MIN_MICRO_BATCH = 2  # images: batch-norm cannot take one alone


@dataclass(frozen=True, slots=True)
class Learner:
    """`uses_rng`: the network uses random numbers in training, as dropout does."""

    spec: RunSpec
    placement: Placement
    model: nn.Module
    optimizer: torch.optim.Optimizer
    guard: StepGuard
    prepare: Preparation
    uses_rng: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What the initial weights are and what was found out about them, in a few words each."""
        found = (getattr(module, "notes", None) for module in self.model.modules())
        return next((notes for notes in found if notes is not None), ())

    @property
    def num_bytes(self) -> int:
        """Size of weights, statistics and optimizer state: the contents of a checkpoint."""
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        tensors = (*self.model.parameters(), *self.model.buffers(), *state)
        return sum(value.nbytes for value in tensors if isinstance(value, Tensor))

    def compute_gradients(
        self, batch: Batch, epoch: int, number: int, micro_batch: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the batch's mean loss; return that loss and the number of right images, on the
        device.

        Changes nothing that `undo` cannot restore. `number` is the step within the epoch, from 0. With parts of at most
        `micro_batch` images the gradients add up to the same, but batch-norm sees each part on its own.
        """
        pixels, labels = batch
        if self.uses_rng:
            torch.manual_seed(step_seed(self.spec.seed, epoch, number))
        pixels = self.prepare.augment(pixels, self.spec.seed, epoch, number)
        if micro_batch is None or micro_batch >= len(labels):
            return self.whole_gradients(pixels, labels)
        self._begin()
        parts = [
            self.one_part(pixels[start:stop], labels[start:stop], (stop - start) / len(labels))
            for start, stop in micro_batch_bounds(len(labels), micro_batch)
        ]
        losses, rights = zip(*parts, strict=True)
        self.guard.done()
        return torch.stack(losses).sum(), torch.stack(rights).sum()

    def whole_gradients(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The same for augmented images as one part: device work only, so that it can be captured."""
        self._begin()
        whole = self.one_part(pixels, labels, None)
        self.guard.done()
        return whole

    def _begin(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.guard.before_forward()

    def one_part(self, pixels: Tensor, labels: Tensor, share: float | None) -> tuple[Tensor, Tensor]:
        """Forward and backward; the loss is weighted by this part's `share` of the batch (None: the whole batch)."""
        with torch.autocast(self.placement.device.type, self.placement.dtype, enabled=self.placement.autocast):
            logits = self.model(self.prepare(pixels))
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=self.spec.label_smoothing)
        self.guard.after_loss(loss.detach())
        if share is not None:
            loss = loss * share
        torch.autograd.backward(loss)
        return loss.detach(), (logits.detach().argmax(dim=1) == labels).sum()

    def undo(self) -> None:
        """Restore the state from before a `compute_gradients` that was aborted."""
        self.optimizer.zero_grad(set_to_none=True)
        self.guard.restore()


def micro_batch_bounds(num_images: int, micro_batch: int) -> Iterator[tuple[int, int]]:
    """Parts as equal as possible, each of at most `micro_batch` images and at least two."""
    num_parts = min(-(-num_images // max(micro_batch, MIN_MICRO_BATCH)), num_images // MIN_MICRO_BATCH)
    edges = [num_images * part // num_parts for part in range(num_parts + 1)]
    yield from pairwise(edges)


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """A forecast builds without a seed, and `frozen` without the weights that freezing needs. With `sync_batchnorm`,
    batch-norm sees the parts of all processes. Without `load_weights`, a checkpoint is loaded later. `class_names`: of
    the images, which decide whether trained weights keep their last layer.
    """

    seeded: bool = True
    frozen: bool = False
    sync_batchnorm: bool = False
    load_weights: bool = True
    class_names: tuple[str, ...] = ()


_USUAL = BuildOptions()


def build_learner(
    spec: RunSpec, shape: DataShape, moments: tuple[tuple[float, ...], tuple[float, ...]], placement: Placement,
    options: BuildOptions = _USUAL,
) -> Learner:  # fmt: skip
    """Build everything on the device. `moments` are mean and std per channel for pixels from 0 to 1.

    Raises:
        ModelError: the network does not accept such images, or the weights do not fit it.
    """
    model = build_model(spec, shape, options.seeded, options.load_weights, options.class_names)
    if options.frozen:
        freeze_backbone(model)
    if options.sync_batchnorm:
        model = share_batchnorm(model)
    if placement.device.type != "cpu":
        model = model.to(placement.device, memory_format=placement.memory_format)  # type: ignore[call-overload]
    elif placement.memory_format is not torch.contiguous_format:
        for values in model.parameters():  # as `to` does, which rejects a forecast's tensors
            if values.dim() == 4:
                values.data = values.data.contiguous(memory_format=placement.memory_format)
    optimizer = build_optimizer(spec, model)
    return Learner(
        spec=spec,
        placement=placement,
        model=model,
        optimizer=optimizer,
        guard=StepGuard(model, optimizer, placement.device),
        prepare=Preparation.build(*moments, placement.device, placement.memory_format, spec.flip, spec.crop_padding),
        uses_rng=options.seeded and (find_model(spec.model).may_draw or _uses_rng(model)),
    )


def _uses_rng(model: nn.Module) -> bool:
    return any(isinstance(module, _DropoutNd | StochasticDepth) and module.p > 0 for module in model.modules())
