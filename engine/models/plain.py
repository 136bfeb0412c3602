"""The residual networks without their shortcuts: same layers, same initial weights, same order, nothing added back.

He et al. 2015 (section 4.1) compare exactly these. The blocks are torchvision's own, so everything else stays equal;
only the addition and the projections that feed it are removed.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from engine.catalog.models import ModelInfo
from engine.shape import DataShape


class PlainBasicBlock(BasicBlock):  # type: ignore[misc]  # torchvision has no types
    """Two 3×3 convolutions, each normalised and rectified, without a shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        rectified: Tensor = self.relu(self.bn2(self.conv2(out)))
        return rectified


class PlainBottleneck(Bottleneck):  # type: ignore[misc]
    """1×1, 3×3, 1×1 convolutions, each normalised and rectified, without a shortcut."""

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        rectified: Tensor = self.relu(self.bn3(self.conv3(out)))
        return rectified


_DEPTHS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "plain18": (PlainBasicBlock, [2, 2, 2, 2]),
    "plain34": (PlainBasicBlock, [3, 4, 6, 3]),
    "plain50": (PlainBottleneck, [3, 4, 6, 3]),
}


def build(
    info: ModelInfo, norm_layer: Callable[[int], nn.Module] | None, shape: DataShape, pretrained: bool
) -> nn.Module:
    """ResNet-18, 34 or 50 (He et al. 2015, table 1) without shortcuts, in torchvision's form.

    The projections are initialised and discarded, so that with the same seed every other weight equals the residual
    twin's.
    """
    block, layers = _DEPTHS[info.name]
    network: nn.Module = ResNet(block, layers, norm_layer=norm_layer)
    for module in network.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            module.downsample = None
    return network
