"""The table of architectures, and what fitting one to a dataset changes, worked out by arithmetic.

Loads no torch, so that the menus can say "conv1 3→1 channels · fc 1000→10 classes · 11,175,370 parameters" before
torch is there. A test holds every figure here against the built network.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import unknown_name
from engine.shape import DataShape

IMAGENET_CHANNELS = 3
IMAGENET_CLASSES = 1000
SMALL_IMAGE = 64  # pixels: under this the 7×7/2 stem and its max-pool throw most of the image away

_STEM_WIDTH = 64  # channels after the first convolution, for every row (He et al. 2015, table 1)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One row of the menu.

    `num_parameters` counts trainable values of the ImageNet form (3 channels, 1000 classes, as torchvision's
    documentation prints them); `features` is the width of the input of the last layer.
    """

    name: str
    title: str
    depth: int
    num_parameters: int
    features: int


MODELS: tuple[ModelInfo, ...] = (
    ModelInfo("resnet18", "ResNet-18", 18, 11_689_512, 512),
    ModelInfo("resnet34", "ResNet-34", 34, 21_797_672, 512),
    ModelInfo("resnet50", "ResNet-50", 50, 25_557_032, 2048),
    ModelInfo("resnet101", "ResNet-101", 101, 44_549_160, 2048),
    ModelInfo("resnet152", "ResNet-152", 152, 60_192_808, 2048),
    ModelInfo("resnext50_32x4d", "ResNeXt-50 32×4d", 50, 25_028_904, 2048),
    ModelInfo("wide_resnet50_2", "Wide ResNet-50-2", 50, 68_883_240, 2048),
)


def find_model(name: str) -> ModelInfo:
    """The row for `name`.

    Raises:
        SpecError: there is no such architecture.
    """
    for info in MODELS:
        if info.name == name:
            return info
    raise unknown_name("architecture", name, [info.name for info in MODELS], "model")


def choose_stem(stem: str, shape: DataShape) -> str:
    """Resolve `auto`: `small` for images under 64 pixels, else `imagenet`."""
    if stem != "auto":
        return stem
    return "small" if min(shape.height, shape.width) < SMALL_IMAGE else "imagenet"


def count_parameters(info: ModelInfo, shape: DataShape, stem: str) -> int:
    """Trainable values of `info` once fitted to `shape` with a resolved `stem` (`imagenet` or `small`)."""
    kernel = 3 if stem == "small" else 7
    first = _STEM_WIDTH * (shape.channels * kernel**2 - IMAGENET_CHANNELS * 7**2)
    last = (info.features + 1) * (shape.num_classes - IMAGENET_CLASSES)
    return info.num_parameters + first + last


def describe_changes(shape: DataShape, stem: str) -> tuple[str, ...]:
    """What fitting changes, in words: ("conv1 3→1 channels", "fc 1000→10 classes")."""
    changes = []
    if stem == "small":
        changes.append("conv1 7×7/2→3×3/1, no max-pool")
    if shape.channels != IMAGENET_CHANNELS:
        changes.append(f"conv1 {IMAGENET_CHANNELS}→{shape.channels} channels")
    if shape.num_classes != IMAGENET_CLASSES:
        changes.append(f"fc {IMAGENET_CLASSES}→{shape.num_classes} classes")
    return tuple(changes)
