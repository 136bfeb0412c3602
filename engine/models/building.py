"""Build a spec's network: architecture, normalisation, weights, fitted to the dataset's shape."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.catalog.models import ModelInfo, choose_stem, find_model, misfit
from engine.errors import ModelError
from engine.models import loading
from engine.models.cifar import PADDINGS
from engine.models.first_last import fit_first_last
from engine.models.form import apply_form, form_of
from engine.models.one_pixel import fold_one_pixel
from engine.models.whole import build_whole
from engine.paths import expand
from engine.shape import DataShape
from engine.spec import RunSpec


class Builder(Protocol):
    """Builds a row of the table in its native form, with three channels; `norm_layer` None: the family's own."""

    def __call__(
        self, info: ModelInfo, norm_layer: Callable[[int], nn.Module] | None, shape: DataShape, pretrained: bool
    ) -> nn.Module: ...


_GROUPS = 32  # Wu and He 2018, "Group Normalization", the default


def build_model(
    spec: RunSpec, shape: DataShape, seeded: bool = True, load_weights: bool = True, class_names: tuple[str, ...] = ()
) -> nn.Module:
    """Return the network on the CPU, in training mode; the same seed gives the same initial weights.

    torch's global random state is left unchanged. `fetch_imagenet_weights` must have fetched ImageNet weights before.
    Without `load_weights` the spec's weights are not loaded, because others will be. `class_names`: of the images, if
    known; with them trained weights keep their last layer only for the same classes.

    Raises:
        ModelError: the network does not accept such images, or the weights are missing, unreadable or do not fit.
    """
    info = find_model(spec.model)
    if problem := misfit(info, shape):
        raise ModelError(problem)
    with torch.random.fork_rng(devices=[], enabled=seeded):
        if seeded:  # otherwise another thread may be using the same global state
            torch.manual_seed(spec.seed)
        if info.is_whole:
            network = build_whole(spec, info, shape, load_weights, class_names)
        else:
            network = _fitted(spec, shape, load_weights, class_names)
    if spec.shortcut_padding != "auto":
        apply_form(network, {"shortcut_padding": spec.shortcut_padding})
    if load_weights:
        network.notes = (*network.notes, *_padding_notes(network, info, spec))  # type: ignore[assignment,misc]
    if spec.freeze == "backbone":
        freeze_backbone(network)
    fold_one_pixel(network)
    return network


def _fitted(spec: RunSpec, shape: DataShape, load_weights: bool, class_names: tuple[str, ...]) -> nn.Module:
    """A network of the tables in its native form, fitted to `shape`."""
    info = find_model(spec.model)
    module, function = info.builder.split(":")
    pretrained = spec.weights != "random"
    builder: Builder = getattr(import_module(module), function)
    network = builder(info, group_norm if spec.norm == "group" else None, shape, pretrained)
    stem = choose_stem(info, spec.stem, shape)
    network.notes, network.is_foreign, new_last = (), False, False  # type: ignore[assignment]
    if pretrained and load_weights:
        loaded = loading.load_weights(network, spec, stem, shape, class_names)
        network.notes, network.is_foreign = loaded.notes, loaded.is_foreign  # type: ignore[assignment]
        new_last = not loaded.head.is_kept
    network.new_names = fit_first_last(network, info, shape, stem, pretrained, new_last)  # type: ignore[assignment]
    return network


def new_layers(network: nn.Module) -> list[nn.Parameter]:
    """The parameters of newly made layers: the last one, and the first if it was changed."""
    names: tuple[str, ...] = network.new_names  # type: ignore[assignment]
    return [values for name in names for values in network.get_submodule(name).parameters()]


def freeze_backbone(network: nn.Module) -> None:
    """Train only the new layers; the other layers' normalisation keeps its statistics, in training too."""
    learning = {id(values) for values in new_layers(network)}
    for values in network.parameters():
        values.requires_grad_(id(values) in learning)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign,misc]


def build_resnet(
    info: ModelInfo, norm_layer: Callable[[int], nn.Module] | None, shape: DataShape, pretrained: bool
) -> nn.Module:
    """torchvision's ResNets, ResNeXts and Wide ResNets: a row has the name of its builder."""
    from torchvision import models

    network: nn.Module = getattr(models, info.name)(weights=None, norm_layer=norm_layer)
    return network


def build_torchvision(
    info: ModelInfo, norm_layer: Callable[[int], nn.Module] | None, shape: DataShape, pretrained: bool
) -> nn.Module:
    """torchvision's other families, without the auxiliary outputs of GoogLeNet and Inception.

    Vision transformers and MaxViT are built for the size of the images.
    """
    from torchvision import models

    options: dict[str, Any] = {}
    if info.name in ("googlenet", "inception_v3"):
        # Their ImageNet weights expect pixels scaled differently; torchvision's layer for that needs three channels.
        options = {"aux_logits": False, "init_weights": True, "transform_input": pretrained and shape.channels == 3}
    elif info.name.startswith("vit_"):
        options = {"image_size": shape.height}
    elif info.name.startswith("maxvit"):
        options = {"input_size": (shape.height, shape.width)}
    network: nn.Module = getattr(models, info.name)(weights=None, **options)
    return network


def group_norm(num_channels: int) -> nn.GroupNorm:
    """32 groups (Wu and He 2018, the default), or groups of four channels if they would have fewer."""
    return nn.GroupNorm(min(_GROUPS, num_channels // 4), num_channels)


def _padding_notes(network: nn.Module, info: ModelInfo, spec: RunSpec) -> tuple[str, ...]:
    """Where the shortcuts' zeros go, if the user or a run's weights say so."""
    stated, padding = spec.shortcut_padding != "auto", form_of(network).get("shortcut_padding")
    if padding is None:
        return (f"{info.name} has no shortcuts, so shortcut padding changes nothing",) if stated else ()
    if not stated and (spec.weights == "random" or network.is_foreign):
        return ()
    return (f"shortcuts padded {PADDINGS[padding]}",)


def check_weights(spec: RunSpec) -> None:
    """Raise ModelError at once if a weights file is missing, before a run is recorded."""
    if spec.weights == "imagenet" and not find_model(spec.model).pretrained:
        raise ModelError(f"there are no ImageNet weights for {spec.model}; expected random or the path of a file")
    if spec.weights not in ("random", "imagenet") and not expand(spec.weights).is_file():
        raise ModelError(f"no weights file {spec.weights}; expected random, imagenet, run:NUMBER or the path of a file")
