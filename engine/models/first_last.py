"""The fit to a dataset, in one place: the first convolution to its channels, the last layer to its classes.

Weights that were trained on ImageNet keep what they know: a one-channel stem gets the sum of the RGB filters, so that
a grey image and its RGB copy give the same activations; other counts of channels get their mean, scaled alike.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.shape import DataShape


def fit_first_last(network: nn.Module, shape: DataShape, stem: str, keep_weights: bool) -> None:
    """Change `network` (torchvision's ResNet form: `conv1`, `maxpool`, `fc`) in place to take and give `shape`.

    Args:
        network: with the 3 channels and the classes of its native form.
        shape: of the images to come.
        stem: `imagenet` keeps the 7×7/2 convolution and max-pool; `small` is a 3×3/1 convolution without pool.
        keep_weights: a changed first convolution starts from the filters that were there (their centre 3×3, their
            channels adapted) instead of random ones. A changed last layer always starts from random ones.
    """
    kernel = 3 if stem == "small" else 7
    if stem == "small" and hasattr(network, "maxpool"):
        network.maxpool = nn.Identity()
    old = network.get_submodule("conv1")
    assert isinstance(old, nn.Conv2d)
    if (old.in_channels, old.kernel_size[0]) != (shape.channels, kernel):
        stride = 1 if stem == "small" else 2
        network.conv1 = _fitted_conv(old, shape.channels, kernel, stride, keep_weights)
    last = network.get_submodule("fc")
    assert isinstance(last, nn.Linear)
    if last.out_features != shape.num_classes:
        network.fc = nn.Linear(last.in_features, shape.num_classes)


def _fitted_conv(old: nn.Conv2d, channels: int, kernel: int, stride: int, keep_weights: bool) -> nn.Conv2d:
    new = nn.Conv2d(channels, old.out_channels, kernel, stride, padding=kernel // 2, bias=False)
    if keep_weights:
        edge = (old.kernel_size[0] - kernel) // 2
        centre = old.weight[:, :, edge : edge + kernel, edge : edge + kernel]
        with torch.no_grad():
            new.weight.copy_(adapt_channels(centre, channels) if channels != old.in_channels else centre)
    else:
        nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's own
    return new


def adapt_channels(weight: Tensor, channels: int) -> Tensor:
    """Filters (out, in, kh, kw) for another number of input channels; their response to equal channels stays."""
    total = weight.sum(dim=1, keepdim=True)
    return total.expand(-1, channels, -1, -1) / channels
