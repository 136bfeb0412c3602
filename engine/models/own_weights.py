"""Weights files for networks that are built as a whole, matched as those for the networks of the tables.

Two layers may differ: the first convolution in its channels, whose filters are adapted, and the last layer in its
classes, which then starts from random weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from engine.errors import ModelError
from engine.models.first_last import adapt_channels
from engine.models.head import Classes, decide_head
from engine.models.loaded import Loaded
from engine.models.loading import check_evaluation, classes_of, file_name, matched_to
from engine.models.matching import Target, layer_of
from engine.models.state import load_state
from engine.models.weights import Weights, check_fit, read_weights
from engine.paths import expand
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.text import safe_text


def last_layer(network: nn.Module, num_classes: int) -> str | None:
    """The name of the last layer with one output per class; None if there is none."""
    last = None
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and name:
            last = (name, module.out_features if isinstance(module, nn.Linear) else module.out_channels)
    return last[0] if last is not None and last[1] == num_classes else None


def _first_layer(network: nn.Module, channels: int) -> str | None:
    """The name of the first convolution, if it takes the images' channels."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and name:
            return name if module.in_channels == channels else None
    return None


def load_own_weights(
    network: nn.Module, spec: RunSpec, shape: DataShape, class_names: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Load the weights file of `spec`, a run's or any other, into a network that is built for `shape`; returns notes
    for the user.

    Raises:
        ModelError: the file is missing or unreadable, or does not fit the network; or nothing would train what it
            lacks.
    """
    current = network.state_dict()
    weights = read_weights(expand(spec.weights), sum(values.nbytes for values in current.values()))
    first, (last, *others) = _first_layer(network, shape.channels), (*_new_names(network), None)
    matched = matched_to(Target(_without_classes(current, weights, others), first, last), spec, weights)
    rows = matched.state.get(f"{last}.weight")
    theirs = None if rows is None else classes_of(weights.header or {}, len(rows))
    head = decide_head(spec.head, theirs, Classes(shape.num_classes, class_names))
    state = {name: value for name, value in matched.state.items() if head.is_kept or layer_of(name) != last}
    channels = _adapt_first(state, f"{first}.weight", shape.channels)
    if problem := check_fit({**current, **state}, network):
        raise ModelError(f"the weights {spec.weights} do not fit {spec.model}: {problem}")
    load_state(network, state, strict=False)
    source, more = _source(spec, weights)
    names = (first or "the first layer", last or "the last layer")
    loaded = Loaded(source, matched, head, *names, channels, key=weights.key, beside=weights.beside, more=more)
    check_evaluation(spec, loaded)
    return loaded.notes


def _new_names(network: nn.Module) -> tuple[str, ...]:
    names: tuple[str, ...] = network.new_names  # type: ignore[assignment]
    return names


def _without_classes(current: dict[str, Tensor], weights: Weights, others: Sequence[str | None]) -> dict[str, Tensor]:
    """What to match: a further last layer, of networks with two, is left out if the file has other classes there."""
    return {
        name: value
        for name, value in current.items()
        if layer_of(name) not in others or name not in weights.state or weights.state[name].shape == value.shape
    }


def _source(spec: RunSpec, weights: Weights) -> tuple[str, tuple[str, ...]]:
    """Whose weights they are; a run's may be of a network with another name and the same layers."""
    if weights.header is None:
        return file_name(spec), ()
    trained, run = weights.header["spec"]["model"], f"weights of run {weights.header.get('run', '?')}"
    other = f"run {weights.header.get('run', '?')} trained {safe_text(trained, 80)}, whose names and shapes fit"
    return run, () if trained == spec.model else (other,)


def _adapt_first(state: dict[str, Tensor], name: str, channels: int) -> tuple[int, int]:
    """Adapt the first layer's filters to `channels`; returns their channels before and after."""
    theirs = state.get(name)
    if theirs is None or theirs.shape[1] == channels:
        return channels, channels
    with torch.no_grad():
        state[name] = adapt_channels(theirs, channels)
    return theirs.shape[1], channels
