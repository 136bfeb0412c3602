"""Batch-norm over the parts of all processes, on processors as well as GPUs (torch's own supports only GPUs).

Forward exchanges each channel's count, mean and sum of squared deviations once and combines them as in Chan, Golub and
LeVeque (Updating formulae and a pairwise algorithm for computing sample variances, 1979), without subtracting two large
sums. Backward exchanges the two sums that the gradient of the images needs. So the processes together compute what one
process would for the whole batch, up to the order of summation.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.errors import ModelError


class SharedBatchNorm(nn.BatchNorm2d):
    """Replaces torch's BatchNorm1d, 2d or 3d, for images (N, C) or (N, C, …), with the same parameter names.

    If `counts` is false, this process's images are normalised with the other processes' statistics and contribute
    nothing.
    """

    counts = True

    @classmethod
    def like(cls, norm: _BatchNorm) -> SharedBatchNorm:
        """One that shares the parameters and statistics of `norm`."""
        own = cls(
            norm.num_features,
            norm.eps,
            norm.momentum,
            norm.affine,
            norm.track_running_stats,
            device=torch.device("meta"),
        )
        own._parameters.update(norm._parameters)
        own._buffers.update(norm._buffers)
        own.train(norm.training)
        return own

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected images of at least two dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        count, mean, variance = self._statistics(input.detach())
        self._remember(count, mean, variance)
        statistics = (count, mean, variance, self.counts, self.eps)
        normalised: Tensor = _Normalise.apply(input, self.weight, self.bias, *statistics)
        return normalised

    def _statistics(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values per channel over all parts, (1,), and their mean and biased variance, (C,)."""
        wide = images if images.dtype is torch.float64 else images.float()
        over = _all_but_channels(images)
        variance, mean = torch.var_mean(wide, dim=over, correction=0)
        size = images.numel() // images.shape[1] if self.counts else 0
        own = torch.cat((mean.new_full((1,), size), mean, variance * size))
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        counts, means, squares = torch.split(torch.stack(parts), [1, len(mean), len(mean)], dim=1)
        count = counts.sum(dim=0)
        mean = (counts * means).sum(dim=0) / count
        squares = squares.sum(dim=0) + (counts * (means - mean).square()).sum(dim=0)
        return count, mean, squares / count

    @torch.no_grad()
    def _remember(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics, with the unbiased variance as in torch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * (count / (count - 1)), share)


class _Normalise(torch.autograd.Function):
    """(x - mean) / √(variance + eps) · weight + bias, where mean and variance are those of all processes' images."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor | None, bias: Tensor | None, count: Tensor, mean: Tensor,
        variance: Tensor, counts: bool, eps: float,
    ) -> Tensor:  # fmt: skip
        ctx.counts = counts
        ctx.save_for_backward(images, weight, count, mean, torch.rsqrt(variance + eps))
        return F.batch_norm(images, mean, variance, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, count, mean, scale = ctx.saved_tensors
        grad = grads[0]
        over = _all_but_channels(images)
        shape = (1, -1, *(1,) * (images.dim() - 2))
        unit = (images - mean.view(shape)).mul_(scale.view(shape))
        wide = grad if grad.dtype is torch.float64 else grad.float()
        own = torch.stack((wide.sum(dim=over), (wide * unit).sum(dim=over)))
        total = own.clone()
        dist.all_reduce(total)
        factor = (scale if weight is None else scale * weight).view(shape)
        if ctx.counts:  # mean and variance depend on these images
            along, turning = (part.view(shape) for part in total / count)
            wide = (wide - along).sub_(unit.mul_(turning))
        learned = (None, None) if weight is None else (own[1], own[0])
        return (wide * factor).to(images.dtype), *learned, *(None,) * 5


def _all_but_channels(images: Tensor) -> tuple[int, ...]:
    return (0, *range(2, images.dim()))


def share_batchnorm(model: nn.Module) -> nn.Module:
    """Replace every batch-norm of `model` that is not frozen by a SharedBatchNorm; returns the model."""
    if isinstance(model, _BatchNorm) and model.training:
        if type(model).forward is not _BatchNorm.forward:
            raise ModelError(
                f"its {type(model).__name__} computes more than batch-norm, which cannot be shared between workers; "
                "leave --sync-batchnorm out"
            )
        return SharedBatchNorm.like(model)
    for name, child in model.named_children():
        shared = share_batchnorm(child)
        if shared is not child:
            setattr(model, name, shared)
    return model


def shared_norms(model: nn.Module) -> tuple[SharedBatchNorm, ...]:
    return tuple(module for module in model.modules() if isinstance(module, SharedBatchNorm))
