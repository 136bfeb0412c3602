"""The table of architectures, and what fitting one to a dataset changes, worked out by arithmetic.

Loads no torch, so that the menus can say "conv1 3→1 channels · fc 1000→10 classes · 11,175,370 parameters" before
torch is there. A test holds every figure here against the built network.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import unknown_name
from engine.shape import DataShape

NATIVE_CHANNELS = 3  # of every row
SMALL_IMAGE = 64  # pixels: under this the 7×7/2 stem and its max-pool throw most of the image away


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One row of the menu.

    `num_parameters` counts trainable values of the native form: 3 channels, `num_classes` classes. `stem_width` is the
    number of channels after the first convolution, `features` the width of the input of the last layer. `builder` is
    "module:function", a function (name, num_classes, norm_layer); `pretrained` says whether torchvision has ImageNet
    weights for it; `own_stem` that its 3×3 first convolution is part of the architecture. `twin` is the same network
    without, or with, its shortcuts.
    """

    name: str
    title: str
    depth: int
    num_parameters: int
    features: int
    num_classes: int = 1000
    stem_width: int = 64
    builder: str = "engine.models.building:build_torchvision"
    pretrained: bool = True
    own_stem: bool = False
    twin: str | None = None


def _plain(depth: int, num_parameters: int, features: int) -> ModelInfo:
    return ModelInfo(
        f"plain{depth}",
        f"ResNet-{depth} without shortcuts",
        depth,
        num_parameters,
        features,
        builder="engine.models.plain:build",
        pretrained=False,
        twin=f"resnet{depth}",
    )


def _cifar(depth: int, num_parameters: int, plain: bool) -> ModelInfo:
    name, twin = (f"plain{depth}", f"resnet{depth}") if plain else (f"resnet{depth}", f"plain{depth}")
    title = f"CIFAR ResNet-{depth}" + (" without shortcuts" if plain else "")
    return ModelInfo(
        name,
        title,
        depth,
        num_parameters,
        64,
        num_classes=10,
        stem_width=16,
        builder="engine.models.cifar:build",
        pretrained=False,
        own_stem=True,
        twin=twin,
    )


_CIFAR_SIZES = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}

MODELS: tuple[ModelInfo, ...] = (
    ModelInfo("resnet18", "ResNet-18", 18, 11_689_512, 512, twin="plain18"),
    ModelInfo("resnet34", "ResNet-34", 34, 21_797_672, 512, twin="plain34"),
    ModelInfo("resnet50", "ResNet-50", 50, 25_557_032, 2048, twin="plain50"),
    ModelInfo("resnet101", "ResNet-101", 101, 44_549_160, 2048),
    ModelInfo("resnet152", "ResNet-152", 152, 60_192_808, 2048),
    ModelInfo("resnext50_32x4d", "ResNeXt-50 32×4d", 50, 25_028_904, 2048),
    ModelInfo("wide_resnet50_2", "Wide ResNet-50-2", 50, 68_883_240, 2048),
    _plain(18, 11_515_688, 512),
    _plain(34, 21_623_848, 512),
    _plain(50, 22_780_456, 2048),
    *(_cifar(depth, size, plain=False) for depth, size in _CIFAR_SIZES.items()),
    *(_cifar(depth, size, plain=True) for depth, size in _CIFAR_SIZES.items()),
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


def choose_stem(info: ModelInfo, stem: str, shape: DataShape) -> str:
    """Resolve `auto`: `small` for images under 64 pixels, else `imagenet`. The CIFAR family has its own, `small`."""
    if info.own_stem:
        return "small"
    if stem != "auto":
        return stem
    return "small" if min(shape.height, shape.width) < SMALL_IMAGE else "imagenet"


def count_parameters(info: ModelInfo, shape: DataShape, stem: str) -> int:
    """Trainable values of `info` once fitted to `shape` with a resolved `stem` (`imagenet` or `small`)."""
    native, kernel = 3 if info.own_stem else 7, 3 if stem == "small" else 7
    first = info.stem_width * (shape.channels * kernel**2 - NATIVE_CHANNELS * native**2)
    last = (info.features + 1) * (shape.num_classes - info.num_classes)
    return info.num_parameters + first + last


def describe_changes(info: ModelInfo, shape: DataShape, stem: str) -> tuple[str, ...]:
    """What fitting changes, in words: ("conv1 3→1 channels", "fc 1000→10 classes")."""
    changes = []
    if stem == "small" and not info.own_stem:
        changes.append("conv1 7×7/2→3×3/1, no max-pool")
    if shape.channels != NATIVE_CHANNELS:
        changes.append(f"conv1 {NATIVE_CHANNELS}→{shape.channels} channels")
    if shape.num_classes != info.num_classes:
        changes.append(f"fc {info.num_classes}→{shape.num_classes} classes")
    return tuple(changes)
