"""Keeps the state from before the first step whose loss is not finite, without synchronising with the device.

By the time a loss is read back, the next steps have long been queued, and a NaN in the forward pass is already in the
batch-norm statistics. So the device itself skips the update: a flag that stays set is passed to the fused optimizer as
its `found_inf`, and the statistics are restored from a copy. Both cost a few small operations a step and no
synchronisation.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def what_is_not_finite(model: nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """Which of weights, running statistics and optimizer state has a value that is not finite; None if all are finite.

    Waits for the device.
    """
    state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    groups = {
        "weights": model.parameters(), "running statistics": model.buffers(), "values of the optimizer's state": state,
    }  # fmt: skip
    return next((name for name, tensors in groups.items() if not _all_finite(tensors)), None)


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    """Checks the largest absolute value of each: a sum of squares overflows at a weight of 1e19."""
    floats = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not floats:
        return True
    greatest = [value.float().to(floats[0].device) for value in torch._foreach_norm(floats, float("inf"))]
    return bool(torch.isfinite(torch.stack(greatest)).all())


class StepGuard:
    """Wraps each step: `before_forward`, then `after_loss`, then the optimizer's step, which may be skipped.

    The model's float buffers become views of one tensor, so that one operation copies all of them; build the guard once
    the model is on its device.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.flag = torch.zeros((), dtype=torch.float32, device=device)
        self._live = [_flatten(model, dtype) for dtype in dict.fromkeys(buffer.dtype for buffer in model.buffers())]
        self._kept = [flat.clone() for flat in self._live]
        self._within = False
        optimizer.found_inf = self.flag  # type: ignore[attr-defined]  # read by every fused step of torch.optim
        optimizer.grad_scale = None  # type: ignore[attr-defined]

    def before_forward(self) -> None:
        self._within = True
        for kept, live in zip(self._kept, self._live, strict=True):
            kept.copy_(live)

    @property
    def copies(self) -> list[Tensor]:
        """The copies of the statistics, and the flag."""
        return [*self._kept, self.flag]

    def done(self) -> None:
        """The step is computed: there is nothing to restore any more."""
        self._within = False

    def restore(self) -> None:
        """Restore the statistics as of `before_forward`, if the step was aborted after it."""
        if not self._within:
            return
        self._within = False
        for kept, live in zip(self._kept, self._live, strict=True):
            live.copy_(kept)

    def after_loss(self, loss: Tensor) -> None:
        """Set the flag if `loss` is not finite; if the flag is set, restore the statistics."""
        self.flag.copy_(torch.maximum(self.flag, (~torch.isfinite(loss)).float()))
        for kept, live in zip(self._kept, self._live, strict=True):
            torch.where(self.flag > 0, kept, live, out=live)


def _flatten(model: nn.Module, dtype: torch.dtype) -> Tensor:
    """Put all buffers of `model` of one dtype into one tensor, and make them views of it."""
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.dtype is dtype
    ]
    flat = torch.cat([buffer.flatten() for _, _, buffer in buffers])
    parts = torch.split(flat, [buffer.numel() for _, _, buffer in buffers])
    for (module, name, buffer), part in zip(buffers, parts, strict=True):
        # .data: a view with its own version counter. Otherwise autograd would take each layer's update for a change
        # of what another layer saved for its backward pass.
        module._buffers[name] = (part if part.shape == buffer.shape else part.view(buffer.shape)).data
    return flat
