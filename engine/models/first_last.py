"""Fit a network to a dataset: the first convolution to its channels, the last layer to its classes.

ImageNet weights keep what they learned: a one-channel stem gets the sum of the RGB filters, so a grey image and its RGB
copy give the same activations; other numbers of channels get their mean, scaled the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.catalog.models import ModelInfo
from engine.shape import DataShape


def fit_first_last(
    network: nn.Module, info: ModelInfo, shape: DataShape, stem: str, keep_weights: bool, new_last: bool = False
) -> tuple[str, ...]:
    """Change `network` in place to accept and return `shape`; returns the names of the new layers.

    Args:
        network: in its native form, or already fitted to existing weights.
        info: names its first and last layer.
        shape: of the images to come.
        stem: `imagenet` keeps ResNet's 7×7/2 convolution and max-pool; `small` is a 3×3/1 convolution without pool;
            `own` keeps the family's stem.
        keep_weights: a changed first convolution starts from the existing filters (their centre 3×3, their channels
            adapted) instead of random ones. A changed last layer always starts from random weights.
        new_last: make a new last layer even if the number of classes is the same.
    """
    new = [info.last]
    old = network.get_submodule(info.first)
    assert isinstance(old, nn.Conv2d)
    kernel = 3 if stem == "small" else old.kernel_size[0]
    if stem == "small":
        network.maxpool = nn.Identity()
    if (old.in_channels, old.kernel_size[0]) != (shape.channels, kernel):
        _replace(network, info.first, _fitted_conv(old, shape.channels, kernel, keep_weights))
        new.insert(0, info.first)
    last = network.get_submodule(info.last)
    if new_last or shape.num_classes != _num_classes(last):
        _replace(network, info.last, _fitted_last(last, shape.num_classes))
    return tuple(new)


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, layer)


def _fitted_conv(old: nn.Conv2d, channels: int, kernel: int, keep_weights: bool) -> nn.Conv2d:
    """`old` for another number of channels; a smaller kernel has stride 1 and keeps the image size."""
    same = kernel == old.kernel_size[0]
    stride, padding = (old.stride, old.padding) if same else (1, kernel // 2)
    new = nn.Conv2d(channels, old.out_channels, kernel, stride, padding, bias=old.bias is not None)  # type: ignore[arg-type]
    with torch.no_grad():
        if keep_weights:
            edge = (old.kernel_size[0] - kernel) // 2
            centre = old.weight[:, :, edge : edge + kernel, edge : edge + kernel]
            new.weight.copy_(adapt_channels(centre, channels) if channels != old.in_channels else centre)
        elif old.bias is None:
            nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
        else:  # these families have different rules; keep about the same spread
            nn.init.normal_(new.weight).mul_(old.weight.std())
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    return new


def _num_classes(last: nn.Module) -> int:
    return last.out_channels if isinstance(last, nn.Conv2d) else int(last.out_features)  # type: ignore[arg-type]


def _fitted_last(old: nn.Module, num_classes: int) -> nn.Module:
    """A random replacement for `old`: linear, or SqueezeNet's convolution."""
    if isinstance(old, nn.Conv2d):
        return nn.Conv2d(old.in_channels, num_classes, old.kernel_size, bias=old.bias is not None)  # type: ignore[arg-type]
    assert isinstance(old, nn.Linear)
    return nn.Linear(old.in_features, num_classes, bias=old.bias is not None)


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Filters (out, in, kh, kw) for another number of input channels, with the same response to equal channels."""
    total = weight.sum(dim=1, keepdim=True)
    return total.expand(-1, channels, -1, -1) / channels
