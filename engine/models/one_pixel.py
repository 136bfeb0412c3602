"""A convolution with an output of one pixel is a matrix product, and is computed as one on a processor.

Small images leave the later layers only single pixels: 15 of ResNet-18's 20 convolutions at 8×8. The libraries still
compute all taps of the kernel, most of which only meet padding, and their gradients, which are zero. The product uses
only the taps that meet the image; it differs by nothing but rounding.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class OnePixelConv2d(nn.Conv2d):
    """`nn.Conv2d` with the same parameters and the same function."""

    def forward(self, images: Tensor) -> Tensor:
        used = self.used_kernel(images)
        if used is None:
            return super().forward(images)
        (height, width), (top, left) = used, self._sides
        taps = self.weight[:, :, top : top + height, left : left + width]
        pixels = images[:, :, :height, :width]
        return F.linear(pixels.flatten(1), taps.flatten(1), self.bias)[:, :, None, None]

    @property
    def _sides(self) -> tuple[int, int]:
        """The padding; `fold_one_pixel` skips strings such as "same"."""
        assert not isinstance(self.padding, str)
        return (self.padding[0], self.padding[1])

    def used_kernel(self, images: Tensor) -> tuple[int, int] | None:
        """Height and width of the part of `images` (N, C, H, W) that the kernel meets; None unless the output is one
        pixel.
        """
        if images.device.type != "cpu" or images.dim() != 4:
            return None
        found = []
        for size, kernel, stride, padding in zip(
            images.shape[2:], self.kernel_size, self.stride, self._sides, strict=True
        ):
            used = min(size, kernel - padding)
            if (size + 2 * padding - kernel) // stride != 0 or used < 1:
                return None
            found.append(used)
        return found[0], found[1]


def fold_one_pixel(network: nn.Module) -> None:
    """Replace every convolution of `network` that may have an output of one pixel."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = OnePixelConv2d


def _is_plain(module: nn.Conv2d) -> bool:
    whole = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
    return whole and not isinstance(module.padding, str)
