"""The CIFAR family of He et al. 2015 (section 4.2): depth 6n + 2, n blocks in each of three stages, and plain twins.

A 3×3 convolution of 16 channels; stages of 16, 32 and 64 channels at 32, 16 and 8 pixels; global average; one linear
layer. Shortcuts are the paper's option A: identity, zeros for the new channels, every second pixel. They have no
parameters, so a plain network has exactly its twin's. The paper does not say where the zeros go: here, after the
existing channels ("end"); other implementations put half of them before ("both-sides").
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from engine.catalog.models import ModelInfo
from engine.shape import DataShape

_WIDTHS = (16, 32, 64)
PADDINGS = {"end": "at the end", "both-sides": "on both sides"}  # of the existing channels, in words


class Block(nn.Module):
    """Two 3×3 convolutions; `shortcut` adds the input back."""

    def __init__(self, before: int, after: int, stride: int, norm: Callable[[int], nn.Module], shortcut: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.bn1 = norm(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = norm(after)
        self.stride = stride
        self.num_new = after - before
        self.shortcut = shortcut
        self.padding = "end"

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self._identity(x) if self.shortcut else out)

    def _identity(self, x: Tensor) -> Tensor:
        if not self.num_new:
            return x
        before = self.num_new // 2 if self.padding == "both-sides" else 0
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.num_new - before))


class CifarNet(nn.Module):
    """With torchvision's names (`conv1`, `bn1`, `layer1` …, `fc`), so that it can be fitted like any other ResNet."""

    def __init__(self, depth: int, num_classes: int, norm: Callable[[int], nn.Module], shortcut: bool) -> None:
        super().__init__()
        num_blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = norm(_WIDTHS[0])
        before = _WIDTHS[0]
        for number, width in enumerate(_WIDTHS, start=1):
            blocks = [
                Block(before if first else width, width, 2 if first and number > 1 else 1, norm, shortcut)
                for first in (True, *(False,) * (num_blocks - 1))
            ]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            before = width
        self.fc = nn.Linear(_WIDTHS[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al. 2015a, as torchvision does
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        for name in ("layer1", "layer2", "layer3"):
            out = self.get_submodule(name)(out)
        logits: Tensor = self.fc(out.mean(dim=(2, 3)))
        return logits


def build(
    info: ModelInfo, norm_layer: Callable[[int], nn.Module] | None, shape: DataShape, pretrained: bool
) -> nn.Module:
    """`resnet20` … `resnet110`, `plain20` … `plain110`."""
    assert info.depth is not None
    return CifarNet(info.depth, info.num_classes, norm_layer or nn.BatchNorm2d, info.name.startswith("resnet"))
