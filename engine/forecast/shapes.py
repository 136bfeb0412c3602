"""Results of a step's costliest operations as empty tensors, stated here instead of derived.

For tensors without contents torch runs these operations through a decomposition in Python, two thirds of the time of a
forecast (ResNet-50: 2.7 s of 4.5 s, 2 cores). Their results are specified in torch's `native_functions.yaml`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten

# In inference mode these arrive undecomposed; they consist of the operations that matter here.
COMPOSITES = (_aten.conv2d.default, _aten.batch_norm.default, _aten._batch_norm_impl_index.default)


def _batch_norm(
    images: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, variance: Tensor | None,
    training: bool, momentum: float, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    kept = images.shape[1] if training else 0
    dtype = torch.promote_types(images.dtype, torch.float32)
    saved_mean, saved_variance = (images.new_empty(kept, dtype=dtype) for _ in range(2))
    return torch.empty_like(images), saved_mean, saved_variance


def _batch_norm_backward(
    gradient: Tensor, images: Tensor, weight: Tensor | None, mean: Tensor | None, variance: Tensor | None,
    save_mean: Tensor | None, save_invstd: Tensor | None, train: bool, eps: float, wanted: list[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:  # fmt: skip
    of_weight = images.new_empty(images.shape[1]) if weight is None else weight
    of_images, *of_others = (torch.empty_like(one) if want else None for one, want in zip(
        (images, of_weight, of_weight), wanted, strict=True))  # fmt: skip
    return (of_images, of_others[0], of_others[1])


def _norms(tensors: list[Tensor], *arguments: Any, **more: Any) -> list[Tensor]:
    return [tensor.new_empty(()) for tensor in tensors]


def _nothing(*arguments: Any, **more: Any) -> None:
    """The update writes in place."""


def _itself(tensor: Tensor, *arguments: Any, **more: Any) -> Tensor:
    """Filled in place."""
    return tensor


RETURNS: dict[Any, Callable[..., Any]] = {
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_batch_norm_backward.default: _batch_norm_backward,
    _aten._foreach_norm.Scalar: _norms,
    _aten.normal_.default: _itself,
    _aten.uniform_.default: _itself,
    _aten.fill_.Scalar: _itself,
    _aten.zero_.default: _itself,
    _aten._fused_sgd_.default: _nothing,
    _aten._fused_adam_.default: _nothing,
    _aten._fused_adamw_.default: _nothing,
}
