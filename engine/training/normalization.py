"""Mean and standard deviation for a run whose weights were trained on other images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine.catalog.models import find_model
from engine.data.images import ImageData
from engine.data.measuring import moments_of
from engine.models.weights import own_header
from engine.paths import expand
from engine.spec import RunSpec
from engine.training.resume import Resume


def normalized_for(spec: RunSpec, data: ImageData, resume: Resume) -> ImageData:
    """`data` with the mean and std that another run's weights, or timm's, were trained with; unchanged for others, and
    if the spec states its normalisation.

    A resumed run normalises as before. Old checkpoints that do not record the values used their dataset's own, unless
    their weights came from elsewhere, too; the same dataset has the same values.
    """
    if spec.weights == "random" or (spec.weights == "imagenet" and find_model(spec.model).origin != "timm"):
        return data
    if resume.started is not None:
        return replace(data, mean=resume.started.mean, std=resume.started.std)
    if spec.normalization != "auto":
        return data
    if spec.weights == "imagenet":
        from engine.models.timm_models import pretrained_moments

        mean, std = pretrained_moments(find_model(spec.model), len(data.mean))
        return replace(data, mean=mean, std=std)
    header = own_header(expand(spec.weights))
    if header is None:
        return data
    recorded: dict[str, Any] | None = header.get("normalization")
    if recorded is not None:
        channels = len(data.mean)
        return replace(data, mean=_for(recorded["mean"], channels), std=_for(recorded["std"], channels))
    if header["spec"].get("weights", "random") == "random":
        mean, std = moments_of(data.train)
        return replace(data, mean=mean, std=std)
    return data


def _for(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value per channel: their mean, if the number of channels differs."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
