"""Weights files for networks that are built as a whole: they must have its names and shapes.

Two layers may differ: the first convolution in its channels, whose filters are adapted as those of every network, and
the last layer in its classes, which then starts from random weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.errors import ModelError
from engine.models.first_last import adapt_channels
from engine.models.head import Classes, decide_head
from engine.models.weights import check_fit, read_weights
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
    network: nn.Module, spec: RunSpec, shape: DataShape, class_names: tuple[str, ...]
) -> tuple[str, ...]:
    """Load the weights file of `spec`, a run's or any other state dict; returns notes for the user.

    Raises:
        ModelError: the file is missing or unreadable, or does not fit the network.
    """
    wanted = network.state_dict()
    weights = read_weights(expand(spec.weights), sum(values.nbytes for values in wanted.values()))
    state, notes, names = dict(weights.state), list[str](), tuple[str, ...]()
    if (header := weights.header) is not None:
        trained, names = header["spec"]["model"], tuple(header.get("classes", ()))
        other = "" if trained == spec.model else f", which trained {safe_text(trained, 80)}: names and shapes fit"
        notes.append(f"weights of run {header.get('run', '?')}{other}")
    if (first := _first_layer(network, shape.channels)) is not None:
        _adapt_first(state, wanted, f"{first}.weight", notes)
    _decide_last(network, state, wanted, spec.head, (names, Classes(shape.num_classes, class_names)))
    if problem := check_fit(state, network):
        raise ModelError(
            f"the weights {spec.weights} do not fit {spec.model} ({problem}); expected a state dict of this network"
        )
    network.load_state_dict(state)
    return tuple(notes)


def _decide_last(
    network: nn.Module,
    state: dict[str, Tensor],
    wanted: dict[str, Tensor],
    stated: str,
    classes: tuple[tuple[str, ...], Classes],
) -> None:
    """Keep the last layer of `state`, or give it the network's random one, as for every network."""
    (names, ours), new = classes, tuple(network.new_names)  # type: ignore[arg-type]
    if not new or (last := state.get(f"{new[-1]}.weight")) is None:
        return
    head = decide_head(stated, Classes(len(last), names if len(names) == len(last) else ()), ours)
    for name in [f"{layer}.{part}" for layer in new for part in ("weight", "bias")]:
        same_inputs = name in state and name in wanted and state[name].shape[1:] == wanted[name].shape[1:]
        if same_inputs and not head.is_kept:
            state[name] = wanted[name]


def _adapt_first(state: dict[str, Tensor], wanted: dict[str, Tensor], name: str, notes: list[str]) -> None:
    theirs, ours = state.get(name), wanted[name]
    if theirs is None or theirs.dim() != 4 or theirs.shape[1] == ours.shape[1]:
        return
    if (theirs.shape[0], *theirs.shape[2:]) == (ours.shape[0], *ours.shape[2:]):
        with torch.no_grad():
            state[name] = adapt_channels(theirs, ours.shape[1])
        notes.append(f"{name.removesuffix('.weight')} {theirs.shape[1]}→{ours.shape[1]} channels")
