"""Before the first step: which function the weights of a foreign CIFAR network belong to."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.catalog.models import find_model
from engine.data.feeding import feed
from engine.data.images import ImageData
from engine.errors import ModelError
from engine.models.cifar import PADDINGS
from engine.models.form import apply_form
from engine.models.measured_shortcuts import PLAIN, Measured, measure_shortcuts
from engine.step.learner import Learner

_MOST_IMAGES, _MOST_PIXELS = 256, 256 * 32 * 32


def settle_shortcuts(learner: Learner, data: ImageData) -> Learner:
    """Make the network compute the function that its weights were trained for; unchanged if the weights are not
    foreign.

    The statistics are measured on training images spread over the whole set. A padding stated in the spec is used
    whatever they say, and the run reports the disagreement.

    Raises:
        ModelError: the weights belong to a network with shortcuts and this one has none, or the reverse; or neither
            they nor the spec say how the shortcuts are padded.
    """
    if not learner.model.is_foreign:
        return learner
    spec, info = learner.spec, find_model(learner.spec.model)
    measured = measure_shortcuts(learner.model, _some_images(learner, data))
    if measured.form is not None and (measured.form == PLAIN) == info.padded_shortcuts:
        raise ModelError(
            f"the weights {spec.weights} are from a network {'without' if info.padded_shortcuts else 'with'} "
            f"shortcuts: {_evidence(measured)}; choose {info.twin}, which has the same names"
        )
    if not info.padded_shortcuts:
        note = f"weights of a network {'that may have' if measured.form is None else 'without'} shortcuts"
    elif spec.shortcut_padding != "auto":
        note = _of_stated(spec.shortcut_padding, measured)
    elif measured.form is None:
        raise ModelError(
            f"the weights {spec.weights} do not show where their shortcuts put the zeros of new channels: "
            f"{_evidence(measured)}; set shortcut padding to end or both-sides, as their author has it"
        )
    else:
        apply_form(learner.model, {"shortcut_padding": measured.form})
        note = f"shortcuts padded {PADDINGS[measured.form]}"
    learner.model.notes = (*learner.notes, f"{note}: {_evidence(measured)}")  # type: ignore[assignment]
    return learner


def _some_images(learner: Learner, data: ImageData) -> Tensor:
    """(N, C, H, W) on the device, normalised; fewer if they are large."""
    pixels = data.shape.height * data.shape.width
    number = min(len(data.train), _MOST_IMAGES, max(_MOST_PIXELS // pixels, 2))
    spread = torch.linspace(0, len(data.train) - 1, number).round().to(torch.int64)
    images, _ = next(iter(feed(data.train, spread, [(0, number)], learner.placement.device)))
    prepared: Tensor = learner.prepare(images)
    return prepared


def _of_stated(padding: str, measured: Measured) -> str:
    if measured.form is None:
        return "the weights do not show whether that is right"
    verb = "confirm that" if measured.form == padding else f"say {PADDINGS[measured.form]} instead"
    return f"the weights {verb}"


def _evidence(measured: Measured) -> str:
    if measured.form is None:
        return "on these images no form clearly fits the statistics of their batch-norms"
    return f"{measured.agreeing} of the {measured.layers} batch-norms in which the forms differ agree"
