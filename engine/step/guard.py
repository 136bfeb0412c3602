"""Keeps the state from before the first step whose loss is not finite, without asking the device about it.

By the time that a loss has been read back, the steps after it have long been queued, and a NaN in the forward pass
has already gone into the batch-norm statistics. So the device itself leaves the update out: a flag that, once set,
stays set, is handed to the fused optimizer as its `found_inf`, and the statistics are put back from a copy. Both cost
a few small operations a step and no synchronisation.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def what_is_not_finite(model: nn.Module, optimizer: torch.optim.Optimizer) -> str | None:
    """Which of weights, running statistics and optimizer state holds a number that is not finite; None where none does.

    Waits for the device.
    """
    state = [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]
    groups = {
        "weights": model.parameters(), "running statistics": model.buffers(), "values of the optimizer's state": state,
    }  # fmt: skip
    return next((name for name, tensors in groups.items() if not _all_finite(tensors)), None)


def _all_finite(tensors: Iterable[Tensor]) -> bool:
    """By the greatest absolute value of each: a sum of squares overflows at a weight of 1e19."""
    floats = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if not floats:
        return True
    greatest = [value.float().to(floats[0].device) for value in torch._foreach_norm(floats, float("inf"))]
    return bool(torch.isfinite(torch.stack(greatest)).all())


class StepGuard:
    """Wraps each step: `before_forward`, then `after_loss`, then the optimizer's step, which may be left out.

    The model's float buffers become views of one tensor, so that a copy of all of them is one operation; build the
    guard after the model is on its device.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.flag = torch.zeros((), dtype=torch.float32, device=device)
        self._live = [flat for flat in (_flatten(model, True), _flatten(model, False)) if flat is not None]
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
        """The kept copies of the statistics, the flag among them."""
        return [*self._kept, self.flag]

    def done(self) -> None:
        """The step is computed: there is nothing to restore any more."""
        self._within = False

    def restore(self) -> None:
        """Put the statistics back as `before_forward` found them, if a step broke off after it."""
        if not self._within:
            return
        self._within = False
        for kept, live in zip(self._kept, self._live, strict=True):
            live.copy_(kept)

    def after_loss(self, loss: Tensor) -> None:
        """Set the flag where `loss` is not finite, and where it is set put the statistics back."""
        self.flag.copy_(torch.maximum(self.flag, (~torch.isfinite(loss)).float()))
        for kept, live in zip(self._kept, self._live, strict=True):
            torch.where(self.flag > 0, kept, live, out=live)


def _flatten(model: nn.Module, floating: bool) -> Tensor | None:
    """Lay all floating (or all integer) buffers of `model` end to end in one tensor, and make them views of it."""
    buffers = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point() == floating
    ]
    if not buffers:
        return None
    flat = torch.cat([buffer.flatten() for _, _, buffer in buffers])
    parts = torch.split(flat, [buffer.numel() for _, _, buffer in buffers])
    for (module, name, buffer), part in zip(buffers, parts, strict=True):
        # .data: a view with a version counter of its own, else each layer's update would look to autograd like a
        # change of what another layer had saved for its backward pass.
        module._buffers[name] = (part if part.shape == buffer.shape else part.view(buffer.shape)).data
    return flat
