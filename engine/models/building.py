"""Build a spec's network: architecture, normalisation, weights, fitted to the dataset's shape."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from engine.catalog.models import ModelInfo, choose_stem, find_model, misfit
from engine.control import Control
from engine.errors import FetchError, ModelError
from engine.fetching import fetch
from engine.models.cifar import PADDINGS, CifarNet
from engine.models.first_last import fit_first_last
from engine.models.form import apply_form, form_of
from engine.models.one_pixel import fold_one_pixel
from engine.models.weights import Weights, check_fit, read_weights
from engine.models.whole import build_whole
from engine.paths import expand
from engine.progress import Progress
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.text import safe_text


class Builder(Protocol):
    """Builds a row of the table in its native form, with three channels; `norm_layer` None: the family's own."""

    def __call__(
        self, info: ModelInfo, norm_layer: Callable[[int], nn.Module] | None, shape: DataShape, pretrained: bool
    ) -> nn.Module: ...


_GROUPS = 32  # Wu and He 2018, "Group Normalization", the default


def build_model(spec: RunSpec, shape: DataShape, seeded: bool = True, load_weights: bool = True) -> nn.Module:
    """Return the network on the CPU, in training mode; the same seed gives the same initial weights.

    torch's global random state is left unchanged. `fetch_imagenet_weights` must have fetched ImageNet weights before.
    Without `load_weights` the spec's weights are not loaded, because others will be.

    Raises:
        ModelError: the network does not accept such images, or the weights are missing, unreadable or do not fit.
    """
    info = find_model(spec.model)
    if problem := misfit(info, shape):
        raise ModelError(problem)
    with torch.random.fork_rng(devices=[], enabled=seeded):
        if seeded:  # otherwise another thread may be using the same global state
            torch.manual_seed(spec.seed)
        network = build_whole(spec, info, shape, load_weights) if info.is_whole else _fitted(spec, shape, load_weights)
    if spec.shortcut_padding != "auto":
        apply_form(network, {"shortcut_padding": spec.shortcut_padding})
    if load_weights:
        network.notes = (*network.notes, *_padding_notes(network, info, spec))  # type: ignore[assignment,misc]
    if spec.freeze == "backbone":
        freeze_backbone(network)
    fold_one_pixel(network)
    return network


def _fitted(spec: RunSpec, shape: DataShape, load_weights: bool) -> nn.Module:
    """A network of the tables in its native form, fitted to `shape`."""
    info = find_model(spec.model)
    module, function = info.builder.split(":")
    pretrained = spec.weights != "random"
    builder: Builder = getattr(import_module(module), function)
    network = builder(info, group_norm if spec.norm == "group" else None, shape, pretrained)
    stem = choose_stem(info, spec.stem, shape)
    network.notes, network.is_foreign = (), False  # type: ignore[assignment]
    if pretrained and load_weights:
        _load_weights(network, spec, stem, shape)
    network.new_names = fit_first_last(network, info, shape, stem, keep_weights=pretrained)  # type: ignore[assignment]
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


def _load_weights(network: nn.Module, spec: RunSpec, stem: str, shape: DataShape) -> None:
    """Load trained weights into `network`, strictly: a run's, or others in the network's native form."""
    path = _imagenet_file(spec.model)[1] if spec.weights == "imagenet" else expand(spec.weights)
    weights = read_weights(path, sum(values.nbytes for values in network.state_dict().values()))
    if weights.header is not None:
        _load_own(network, spec, stem, shape, weights, weights.header)
        return
    if spec.norm != "batch":
        raise ModelError(_group_norm_refusal(spec, weights.state))
    _load_native(network, spec, weights.state)
    network.is_foreign = spec.weights != "imagenet" and isinstance(network, CifarNet)  # type: ignore[assignment]
    if spec.weights != "imagenet" and form_of(network).get("transform_input"):
        network.notes = ("pixels are rescaled as for torchvision's weights",)  # type: ignore[assignment]


def _group_norm_refusal(spec: RunSpec, state: dict[str, Tensor]) -> str:
    """Group-norms of 16 and of 32 groups have the same names and shapes; only a run's own header tells them apart."""
    if any(name.endswith("running_mean") for name in state):
        return "weights trained with batch-norm do not fit norm=group; choose norm=batch or weights=random"
    return (
        f"the weights {spec.weights} do not say how many groups their group-norm has; with norm=group, expected the "
        "weights file of a reslab run, or weights=random"
    )


def _padding_notes(network: nn.Module, info: ModelInfo, spec: RunSpec) -> tuple[str, ...]:
    """Where the shortcuts' zeros go, if the user or a run's weights say so."""
    stated, padding = spec.shortcut_padding != "auto", form_of(network).get("shortcut_padding")
    if padding is None:
        return (f"{info.name} has no shortcuts, so shortcut padding changes nothing",) if stated else ()
    if not stated and (spec.weights == "random" or network.is_foreign):
        return ()
    return (f"shortcuts padded {PADDINGS[padding]}",)


def _load_own(
    network: nn.Module, spec: RunSpec, stem: str, shape: DataShape, weights: Weights, header: dict[str, Any]
) -> None:
    """Weights of a reslab run: first fit `network` to that run's dataset, as its own network was."""
    theirs, info = header["spec"], find_model(spec.model)
    run = f"the weights {spec.weights} are from run {header.get('run', '?')}"
    if (name := safe_text(theirs["model"], 40)) != spec.model:
        raise ModelError(f"{run}, which trained {name}; expected {spec.model}: choose its network, or other weights")
    if (norm := safe_text(theirs.get("norm", "batch"), 40)) != spec.norm:
        raise ModelError(f"{run}, with norm={norm}; expected norm={spec.norm}: set norm to {norm}")
    form: dict[str, Any] = {"shortcut_padding": "end", "transform_input": _scaled_its_input(info, theirs, weights)}
    form |= header.get("form", {})
    form["transform_input"] = form["transform_input"] and shape.channels == 3  # torchvision's layer needs three
    apply_form(network, form)
    padding = form["shortcut_padding"]
    if info.padded_shortcuts and spec.shortcut_padding not in ("auto", padding):
        raise ModelError(f"{run}, with shortcuts padded {PADDINGS[padding]}; set shortcut padding to auto or {padding}")
    first, last = (weights.state.get(f"{name}.weight") for name in (info.first, info.last))
    if first is not None and last is not None and first.dim() == 4 and last.dim() >= 2:
        their_stem = "own" if info.own_stem else "small" if first.shape[-1] == 3 else "imagenet"
        if their_stem != stem:
            raise ModelError(f"{run}, with stem={their_stem}; expected stem={stem}: set stem to {their_stem}")
        their_shape = DataShape(first.shape[1], 1, 1, last.shape[0])
        fit_first_last(network, info, their_shape, their_stem, keep_weights=True)
    if problem := check_fit(weights.state, network):
        raise ModelError(f"{run}, and do not fit {spec.model} here ({problem}); expected another image size or network")
    network.load_state_dict(weights.state)
    network.notes = (f"weights of run {header.get('run', '?')}",)  # type: ignore[assignment]


def _scaled_its_input(info: ModelInfo, theirs: dict[str, Any], weights: Weights) -> bool:
    """For GoogLeNet and Inception, in old checkpoints whose headers do not say."""
    first = weights.state.get(f"{info.first}.weight")
    has_three_channels = first is not None and first.dim() == 4 and first.shape[1] == 3
    return theirs.get("weights", "random") != "random" and has_three_channels


def _load_native(network: nn.Module, spec: RunSpec, state: dict[str, Tensor]) -> None:
    # DenseNet's published files have norm.1 for torchvision's norm1.
    state = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name): value
        for name, value in state.items()
        if not name.startswith(("aux", "AuxLogits"))
    }
    problem = check_fit(state, network)
    if problem is not None:
        raise ModelError(
            f"the weights {spec.weights} do not fit {spec.model} ({problem}); expected a state dict of {spec.model} "
            f"with 3 channels and {find_model(spec.model).num_classes} classes"
        )
    network.load_state_dict(state)


def fetch_imagenet_weights(name: str, control: Control) -> Generator[Progress, None, None]:
    """Download torchvision's weights for `name` into torch's cache, unless they are there.

    Raises:
        ModelError: they could not be downloaded; the text says where they are expected.
        LoadingStopped: `control` requested a stop.
    """
    url, path = _imagenet_file(name)
    try:
        # torch's naming: the file's SHA-256 begins with the eight digits after the hyphen.
        yield from fetch([url], path, path.stem.rpartition("-")[2], control, "sha256")
    except (FetchError, OSError) as error:
        raise ModelError(
            f"torchvision's ImageNet weights for {name} are not in {path.parent} and {error}; "
            f"put {path.name} there, or choose weights=random"
        ) from None


def _imagenet_file(name: str) -> tuple[str, Path]:
    from torchvision import models

    url: str = models.get_model_weights(name).DEFAULT.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name


def check_weights(spec: RunSpec) -> None:
    """Raise ModelError at once if a weights file is missing, before a run is recorded."""
    if spec.weights == "imagenet" and not find_model(spec.model).pretrained:
        raise ModelError(f"there are no ImageNet weights for {spec.model}; expected random or the path of a state dict")
    if spec.weights not in ("random", "imagenet") and not expand(spec.weights).is_file():
        raise ModelError(f"no weights file {spec.weights}; expected random, imagenet or the path of a state dict")
