"""Weights of somebody else's CIFAR network: which function they are of, before the first step."""

from __future__ import annotations

import torch

from engine.datasets.feeding import feed
from engine.datasets.images import ImageData
from engine.errors import ModelError
from engine.models.cifar import PADDINGS
from engine.models.form import apply_form
from engine.models.registry import find_model
from engine.models.shortcuts import PLAIN, Measured, measure_shortcuts
from engine.training.learner import Learner

_MOST_IMAGES, _MOST_PIXELS = 256, 256 * 32 * 32


def settle_shortcuts(learner: Learner, data: ImageData) -> Learner:
    """Let the network compute what its weights were trained for; untouched where the weights are no stranger's.

    A stated padding is taken as it is, else it is measured on training images, spread over all of them.

    Raises:
        ModelError: the weights are of the network with shortcuts where this one has none, or the reverse; or they do
            not tell how the shortcuts are padded.
    """
    spec = learner.spec
    if not learner.model.is_foreign or spec.shortcut_padding != "auto":
        return learner
    pixels = data.shape.height * data.shape.width
    number = min(len(data.train), _MOST_IMAGES, max(_MOST_PIXELS // pixels, 2))
    spread = torch.linspace(0, len(data.train) - 1, number).round().to(torch.int64)
    images, _ = next(iter(feed(data.train, spread, [(0, number)], learner.placement.device)))
    measured = measure_shortcuts(learner.model, learner.prepare(images))
    info = find_model(spec.model)
    if measured.form is not None and (measured.form == PLAIN) == info.padded_shortcuts:
        raise ModelError(
            f"the weights {spec.weights} are of a network {'without' if info.padded_shortcuts else 'with'} shortcuts: "
            f"{_votes(measured)}; choose {info.twin}, which has the same names"
        )
    if not info.padded_shortcuts:
        return learner
    if measured.form is None:
        raise ModelError(
            f"the weights {spec.weights} do not tell where their shortcuts put the zeros of new channels: "
            f"{_votes(measured)}; set shortcut padding to end or both-sides, as their author has it"
        )
    apply_form(learner.model, {"shortcut_padding": measured.form})
    said = f"shortcuts padded {PADDINGS[measured.form]}: {_votes(measured)}"
    learner.model.notes = (*learner.notes, said)  # type: ignore[assignment]
    return learner


def _votes(measured: Measured) -> str:
    return f"{measured.agreeing} of {measured.layers} batch-norms that tell agree"
