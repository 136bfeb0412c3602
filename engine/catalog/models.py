"""The table of architectures, and what fitting one to a dataset changes, computed arithmetically.

Loads no torch, so the menus can show "conv1 3→1 channels · fc 1000→10 classes · 11,175,370 parameters" before torch is
loaded. A test checks every figure against the built network.
"""

from __future__ import annotations

from engine.catalog import torchvision_table
from engine.catalog.model_info import ModelInfo as ModelInfo
from engine.catalog.own_models import find_own_model, own_path
from engine.errors import SpecError, unknown_name
from engine.shape import DataShape
from engine.text import counted

NATIVE_CHANNELS = 3  # in every row
SMALL_IMAGE = 64  # pixels: below this the 7×7/2 stem and its max-pool discard most of the image


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
        stem_kernel=3,
        builder="engine.models.cifar:build",
        pretrained=False,
        own_stem=True,
        twin=twin,
        padded_shortcuts=not plain,
        in_padded_pair=True,
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


def _other(row: torchvision_table.Row) -> ModelInfo:
    name, num_parameters, first, width, kernel, last, features, min_size = row
    return ModelInfo(
        name,
        torchvision_table.title(name),
        torchvision_table.depth(name),
        num_parameters,
        features,
        stem_width=width,
        stem_kernel=kernel,
        first=first,
        last=last,
        last_bias=name not in torchvision_table.NO_LAST_BIAS,
        builder="engine.models.building:build_torchvision",
        own_stem=True,
        resnet=False,
        min_size=min_size,
        multiple=torchvision_table.MULTIPLES.get(name, 1),
    )


MORE_MODELS: tuple[ModelInfo, ...] = (
    ModelInfo("resnext101_32x8d", "ResNeXt-101 32×8d", 101, 88_791_336, 2048),
    ModelInfo("resnext101_64x4d", "ResNeXt-101 64×4d", 101, 83_455_272, 2048),
    ModelInfo("wide_resnet101_2", "Wide ResNet-101-2", 101, 126_886_696, 2048),
    *(_other(row) for row in torchvision_table.ROWS),
)
"""The rest of torchvision's classification networks, behind `reslab models --all`."""


def find_model(name: str) -> ModelInfo:
    """The row for `name`: of the tables, or of a form that `engine.catalog.own_models` lists. Opens no file.

    Raises:
        SpecError: there is no such architecture.
    """
    found = _find_in_table(name) or find_own_model(name)
    if found is not None:
        return found
    names = [info.name for info in MODELS]
    hidden = [info.name for info in MORE_MODELS]
    rest = "and those of reslab models --all; or a file of your own, ./net.py:NAME or ./net.toml"
    raise unknown_name("architecture", name, names, "model", hidden, rest)


def _find_in_table(name: str) -> ModelInfo | None:
    return next((info for info in (*MODELS, *MORE_MODELS) if info.name == name), None)


def is_in_table(name: str) -> bool:
    return _find_in_table(name) is not None


def short_model(name: str) -> str:
    """A model's name for titles and tables: of a path, its last part. Any text is accepted."""
    return name.rsplit("/", 1)[-1] if name.endswith(".toml") or ".py:" in name else name


def misfit(info: ModelInfo, shape: DataShape) -> str | None:
    """Why `info` does not accept images of `shape`, in a sentence; None if it does, or if only building it can tell."""
    if info.origin == "described":
        return _misfit_of_layers(info, shape)
    sides = {shape.height, shape.width}
    if info.multiple > 1 and (len(sides) > 1 or shape.height % info.multiple):
        near = max(round(shape.height / info.multiple), 1) * info.multiple
        return (
            f"{info.name} needs square images whose side is a multiple of {info.multiple} pixels; these are "
            f"{shape.height}×{shape.width}: set image size to {near}, or choose another architecture"
        )
    if min(sides) < info.min_size:
        return (
            f"{info.name} needs images of at least {info.min_size} pixels; these are {shape.height}×{shape.width}: "
            f"set image size to {info.min_size} or more, or choose another architecture"
        )
    return None


def _misfit_of_layers(info: ModelInfo, shape: DataShape) -> str | None:
    from engine.catalog.described import fit_layers

    try:
        fit_layers(own_path(info.name), shape)
    except SpecError as error:
        return str(error)
    return None


def choose_stem(info: ModelInfo, stem: str, shape: DataShape) -> str:
    """Resolve `auto`: `small` for images under 64 pixels, else `imagenet`. Other families have `own`."""
    if info.own_stem:
        return "own"
    if stem != "auto":
        return stem
    return "small" if min(shape.height, shape.width) < SMALL_IMAGE else "imagenet"


def count_parameters(info: ModelInfo, shape: DataShape, stem: str) -> int | None:
    """Trainable values of `info` fitted to `shape` with a resolved `stem` (`imagenet`, `small` or `own`); None if only
    the built network can tell.
    """
    if info.origin == "described":
        from engine.catalog.described import fit_layers

        return sum(layer.num_parameters for layer in fit_layers(own_path(info.name), shape))
    if info.origin == "timm":
        from engine.catalog.timm_table import count_timm

        return count_timm(info.name, shape)
    if info.num_parameters is None:
        return None
    kernel = 3 if stem == "small" else info.stem_kernel
    first = info.stem_width * (shape.channels * kernel**2 - NATIVE_CHANNELS * info.stem_kernel**2)
    last = (info.features + info.last_bias) * (shape.num_classes - info.num_classes)
    return info.num_parameters + first + last + _positions(info, shape)


def _positions(info: ModelInfo, shape: DataShape) -> int:
    """Difference in size of a ViT's position table from its native 224 pixels: one row per patch."""
    if not info.name.startswith("vit_"):
        return 0
    return info.stem_width * ((shape.height // info.multiple) ** 2 - (224 // info.multiple) ** 2)


def describe_changes(info: ModelInfo, shape: DataShape, stem: str) -> tuple[str, ...]:
    """The changes that fitting makes, in words: ("conv1 3→1 channels", "fc 1000→10 classes")."""
    if info.is_whole:
        return (f"built for {counted(shape.channels, 'channel')} and {counted(shape.num_classes, 'class', 'classes')}",)
    changes = []
    if stem == "small":
        changes.append("conv1 7×7/2→3×3/1, no max-pool")
    if shape.channels != NATIVE_CHANNELS:
        changes.append(f"{info.first} {NATIVE_CHANNELS}→{shape.channels} channels")
    if shape.num_classes != info.num_classes:
        changes.append(f"{info.last} {info.num_classes}→{shape.num_classes} classes")
    return tuple(changes)
