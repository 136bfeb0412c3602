"""Load given weights into a network: those of a reslab run, torchvision's, or anybody's.

The network is first fitted to the channels and classes that the weights have, so that every tensor is loaded as it is;
`build_model` then fits it to the images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from engine.catalog.models import NATIVE_CHANNELS, ModelInfo, find_model
from engine.errors import ModelError
from engine.models.cifar import PADDINGS, CifarNet
from engine.models.first_last import fit_first_last
from engine.models.form import apply_form, form_of
from engine.models.head import Classes, Head, decide_head
from engine.models.imagenet import imagenet_file
from engine.models.loaded import Loaded
from engine.models.matching import LEAST_MATCHED, Matched, Target, match, mismatches
from engine.models.state import load_state
from engine.models.weights import Weights, check_fit, read_weights
from engine.paths import expand
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.text import percent, safe_text


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the weights are loaded for. `stem` is resolved as the images will have it."""

    spec: RunSpec
    info: ModelInfo
    stem: str
    channels: int
    classes: Classes

    def fit(self, network: nn.Module, state: Mapping[str, Tensor], stem: str) -> Classes | None:
        """Fit `network` to the channels and classes of `state`; returns these classes, None without a last layer."""
        first, last = (state.get(f"{name}.weight") for name in (self.info.first, self.info.last))
        channels = NATIVE_CHANNELS if first is None else first.shape[1]
        number = self.info.num_classes if last is None else last.shape[0]
        fit_first_last(network, self.info, DataShape(channels, 1, 1, number), stem, keep_weights=True)
        return None if last is None else Classes(number)


def load_weights(
    network: nn.Module, spec: RunSpec, stem: str, shape: DataShape, class_names: tuple[str, ...] = ()
) -> Loaded:
    """Load the spec's weights into `network`, which is in its native form; returns what became of them.

    Args:
        stem: resolved, as the images will have it.
        shape: of the images to come.
        class_names: of the images to come; empty if unknown.

    Raises:
        ModelError: they are missing, unreadable, or do not fit; or nothing would train what they lack.
    """
    path = imagenet_file(spec.model)[1] if spec.weights == "imagenet" else expand(spec.weights)
    weights = read_weights(path, sum(values.nbytes for values in network.state_dict().values()))
    wanted = _Wanted(spec, find_model(spec.model), stem, shape.channels, Classes(shape.num_classes, class_names))
    if weights.header is not None:
        loaded = _load_own(network, wanted, weights, weights.header)
    elif spec.norm != "batch":
        raise ModelError(_group_norm_refusal(spec, weights.state))
    else:
        loaded = _load_foreign(network, wanted, weights)
    check_evaluation(spec, loaded)
    return loaded


def check_evaluation(spec: RunSpec, loaded: Loaded) -> None:
    """Raise ModelError if a run of 0 epochs would evaluate a new last layer that nobody asked for."""
    if spec.epochs == 0 and not loaded.head.is_kept and spec.head != "new":
        raise ModelError(
            f"{loaded.source}: the last layer does not fit these classes ({loaded.head.reason}), and with 0 epochs "
            "nothing trains a new one; choose images of the weights' classes, or train for at least one epoch"
        )


def matched_to(target: Target, spec: RunSpec, weights: Weights, twin: str | None = None) -> Matched:
    """The file's tensors under the network's names; `twin` is the network without, or with, its shortcuts.

    Raises:
        ModelError: too few of them match.
    """
    state = _usual_names(weights.state)
    matched = match(state, target, weights.is_ordered)
    if problem := _misfit(spec, matched, twin):
        found = "; ".join(mismatches(state, target, matched))
        named = "" if weights.is_ordered else "; only names count, for safetensors has no order: a .pth may match by it"
        raise ModelError(f"the weights {spec.weights} do not fit {spec.model}: {problem} ({found}){named}")
    return matched


def _group_norm_refusal(spec: RunSpec, state: dict[str, Tensor]) -> str:
    """Group-norms of 16 and of 32 groups have the same names and shapes; only a run's own header tells them apart."""
    if any(name.endswith("running_mean") for name in state):
        return "weights trained with batch-norm do not fit norm=group; choose norm=batch or weights=random"
    return (
        f"the weights {spec.weights} do not say how many groups their group-norm has; with norm=group, expected the "
        "weights file of a reslab run, or weights=random"
    )


def _load_own(network: nn.Module, wanted: _Wanted, weights: Weights, header: dict[str, Any]) -> Loaded:
    """Weights of a reslab run: first fit `network` to that run's dataset, as its own network was."""
    spec, info, theirs = wanted.spec, wanted.info, header["spec"]
    run = f"the weights {spec.weights} are from run {header.get('run', '?')}"
    if (name := safe_text(theirs["model"], 40)) != spec.model:
        raise ModelError(f"{run}, which trained {name}; expected {spec.model}: choose its network, or other weights")
    if (norm := safe_text(theirs.get("norm", "batch"), 40)) != spec.norm:
        raise ModelError(f"{run}, with norm={norm}; expected norm={spec.norm}: set norm to {norm}")
    form: dict[str, Any] = {"shortcut_padding": "end", "transform_input": _scaled_its_input(info, theirs, weights)}
    form |= header.get("form", {})
    form["transform_input"] = form["transform_input"] and wanted.channels == NATIVE_CHANNELS  # torchvision's needs them
    apply_form(network, form)
    padding = form["shortcut_padding"]
    if info.padded_shortcuts and spec.shortcut_padding not in ("auto", padding):
        raise ModelError(f"{run}, with shortcuts padded {PADDINGS[padding]}; set shortcut padding to auto or {padding}")
    first, last = (weights.state.get(f"{name}.weight") for name in (info.first, info.last))
    number = info.num_classes
    if first is not None and last is not None and first.dim() == 4 and last.dim() >= 2:
        their_stem, number = "own" if info.own_stem else "small" if first.shape[-1] == 3 else "imagenet", last.shape[0]
        if their_stem != wanted.stem:
            raise ModelError(f"{run}, with stem={their_stem}; expected stem={wanted.stem}: set stem to {their_stem}")
        wanted.fit(network, weights.state, their_stem)
    if problem := check_fit(weights.state, network):
        raise ModelError(f"{run}, and do not fit {spec.model} here ({problem}); expected another image size or network")
    load_state(network, weights.state)
    head = decide_head(spec.head, classes_of(header, number), wanted.classes)
    return _loaded(f"weights of run {header.get('run', '?')}", wanted, Matched(weights.state), head)


def classes_of(header: dict[str, Any], number: int) -> Classes:
    """Those of the run that wrote the header; early versions did not record their names."""
    names = tuple(header.get("classes", ()))
    return Classes(number, names if len(names) == number else ())


def _loaded(source: str, wanted: _Wanted, matched: Matched, head: Head, **more: Any) -> Loaded:
    info, first = wanted.info, matched.state.get(f"{wanted.info.first}.weight")
    channels = (wanted.channels if first is None else first.shape[1], wanted.channels)
    return Loaded(source, matched, head, info.first, info.last, channels, **more)


def _scaled_its_input(info: ModelInfo, theirs: dict[str, Any], weights: Weights) -> bool:
    """For GoogLeNet and Inception, in old checkpoints whose headers do not say."""
    first = weights.state.get(f"{info.first}.weight")
    has_three_channels = first is not None and first.dim() == 4 and first.shape[1] == 3
    return theirs.get("weights", "random") != "random" and has_three_channels


def _load_foreign(network: nn.Module, wanted: _Wanted, weights: Weights) -> Loaded:
    """Anybody's weights: match them, fit `network` to their channels and classes, then load what matched."""
    spec, info = wanted.spec, wanted.info
    target = Target(network.state_dict(), info.first, info.last, small_first=info.resnet and not info.own_stem)
    matched = matched_to(target, spec, weights, info.twin)
    stem = _their_stem(wanted, matched, target)
    theirs = wanted.fit(network, matched.state, stem)
    if problem := check_fit({**network.state_dict(), **matched.state}, network):
        raise ModelError(f"the weights {spec.weights} do not fit {spec.model}: {problem}")
    load_state(network, matched.state, strict=False)
    source = "ImageNet weights" if spec.weights == "imagenet" else file_name(spec)
    is_theirs = spec.weights != "imagenet"
    rescales = is_theirs and form_of(network).get("transform_input")
    return _loaded(
        source, wanted, matched, decide_head(spec.head, theirs, wanted.classes), key=weights.key, beside=weights.beside,
        is_foreign=is_theirs and isinstance(network, CifarNet),
        more=("pixels are rescaled as for torchvision's weights",) if rescales else (),
    )  # fmt: skip


def file_name(spec: RunSpec) -> str:
    return f"weights {safe_text(Path(spec.weights).name, 40)}"


def _usual_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without auxiliary outputs; DenseNet's published files have norm.1 for torchvision's norm1."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)", r"\1\2", name): value
        for name, value in state.items()
        if not name.startswith(("aux", "AuxLogits"))
    }


def _misfit(spec: RunSpec, matched: Matched, twin: str | None) -> str | None:
    """Why matched weights are not used, as a clause; None if they are."""
    rest = (*matched.missing, *matched.left_out)
    if matched.share < LEAST_MATCHED:
        return f"{percent(matched.share, 1)} of the values match, expected at least {percent(LEAST_MATCHED, 0)}"
    if twin is not None and rest and all(".downsample." in name for name in rest):
        return f"they are from a network with{'' if matched.left_out else 'out'} shortcuts; choose {twin}"
    if rest and spec.weights == "imagenet":
        return "expected torchvision's own file"
    if rest and spec.epochs == 0:
        return "with 0 epochs nothing trains the rest, expected every tensor to match"
    return None


def _their_stem(wanted: _Wanted, matched: Matched, target: Target) -> str:
    """Raises ModelError if the weights have the small stem and the run has not."""
    if wanted.info.own_stem:
        return "own"
    name = f"{wanted.info.first}.weight"
    if name not in matched.state or matched.state[name].shape[2:] == target.tensors[name].shape[2:]:
        return "imagenet"
    if wanted.stem != "small":
        spec = wanted.spec
        raise ModelError(f"the weights {spec.weights} have a first layer of 3×3 filters; set stem to small, as theirs")
    return "small"
