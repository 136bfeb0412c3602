"""Networks that are built for the images' channels and classes as a whole: a user's own, timm's, other packages'.

Nothing is fitted to a dataset afterwards. Their `fingerprint` says which form of a file or package a run was trained
with.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

import torch
from torch import nn

from engine.catalog.described import read_layers
from engine.catalog.model_info import ModelInfo
from engine.catalog.models import find_model
from engine.catalog.own_models import own_path
from engine.code_reference import CodeReference
from engine.errors import ModelError
from engine.models.own_code import check_outputs
from engine.models.own_weights import last_layer, load_own_weights
from engine.own_code import OwnModelError, file_sha256, load_from_file, require_provided
from engine.shape import DataShape
from engine.spec import RunSpec


class WholeBuilder(Protocol):
    """Builds a network for images of `shape`; `pretrained`: with the weights that its package has for it."""

    def __call__(self, info: ModelInfo, shape: DataShape, pretrained: bool) -> nn.Module: ...


def build_whole(
    spec: RunSpec, info: ModelInfo, shape: DataShape, load_weights: bool, class_names: tuple[str, ...] = ()
) -> nn.Module:
    """The network of `spec`, with the attributes that `engine.models.building` gives every network.

    Raises:
        ReslabError: the network does not work for such images, or the weights are missing, unreadable or do not fit.
    """
    module, function = info.builder.split(":")
    builder: WholeBuilder = getattr(import_module(module), function)
    own_weights = spec.weights not in ("random", "imagenet")
    network: Any = builder(info, shape, pretrained=spec.weights == "imagenet" and load_weights)
    network.notes, network.is_foreign = (), False
    network.new_names = _last_layers(network, info, shape)
    if spec.freeze != "none" and not network.new_names:
        raise ModelError(
            f"freeze: {info.short_name} has no Linear or Conv2d with one output per class at its end, so it is unknown "
            "which layer to train; leave freeze at none"
        )
    if own_weights and load_weights:
        network.notes = load_own_weights(network, spec, shape, class_names)
    elif spec.weights == "imagenet" and load_weights:
        network.notes = (f"weights {network.pretrained_cfg['architecture']}.{network.pretrained_cfg['tag']} of timm",)
    built: nn.Module = network
    return built


def _last_layers(network: nn.Module, info: ModelInfo, shape: DataShape) -> tuple[str, ...]:
    if info.origin == "timm":
        from engine.models.timm_models import last_layers

        if found := last_layers(network):
            return found
    last = last_layer(network, shape.num_classes)
    return () if last is None else (last,)


def check_model(spec: RunSpec, shape: DataShape | None) -> None:
    """Raise what is wrong with a network before a run of it is recorded; for networks of the tables, nothing.

    Files are read and run, packages imported. If the images' `shape` is known, the network is built and passes two
    blank images through.

    Raises:
        ReslabError: a file or package is missing or does not work, or the network cannot take such images.
    """
    info = find_model(spec.model)
    match info.origin:
        case "described":
            read_layers(own_path(info.name))
        case "code":
            load_from_file(CodeReference.of(info.name), OwnModelError)
        case "package":
            require_provided("models", info.name, OwnModelError)
        case "timm":
            from engine.models.timm_models import check_name

            check_name(info, spec.weights == "imagenet")
    if info.is_whole and info.origin != "described" and shape is not None:
        with torch.random.fork_rng(devices=[]):
            check_forward(build_whole(spec, info, shape, load_weights=False), info, shape)


def check_forward(network: nn.Module, info: ModelInfo, shape: DataShape) -> None:
    """Raise ModelError unless the network returns one value per image and class."""
    if info.origin != "timm":
        check_outputs(network, info, shape)
        return
    from engine.models.timm_models import cannot_take

    try:
        check_outputs(network, info, shape)
    except OwnModelError as error:
        raise cannot_take(info, shape, str(error).removeprefix(f"{info.name}: ")) from None


def fingerprint(model: str) -> str:
    """Which form of a network a run trains: the SHA-256 of the user's own file; "" for networks without a file."""
    info = find_model(model)
    return file_sha256(own_path(info.name)) if info.origin in ("code", "described") else ""


def changed_since(model: str, before: str, now: str, advice: str) -> str:
    """That the file of a network is not the one of a run, in a sentence."""
    found = f"its SHA-256 is {now[:12]}…, the run had {before[:12]}…" if now else "it cannot be read"
    return f"{own_path(model)} has changed since the run began ({found}); {advice}"


def packages_of(model: str) -> tuple[str, ...]:
    """The packages whose versions affect what a network computes, besides those of every network."""
    info = find_model(model)
    match info.origin:
        case "timm":
            return ("timm",)
        case "package":
            return (info.name.partition(":")[0],)
    return ()
