"""By which mean and standard deviation a run normalises its images, where its weights have seen others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from engine.data.images import ImageData
from engine.data.loading import moments_of
from engine.models.weights import own_header
from engine.paths import expand
from engine.spec import RunSpec
from engine.training.resume import Resume

Values = tuple[float, ...]


def normalized_for(spec: RunSpec, data: ImageData, resume: Resume) -> ImageData:
    """`data` with the values that the weights of another run were trained with; as it is where they are not of a run.

    A run that is resumed normalises as it did. Checkpoints from before they said it were trained with their dataset's
    own values, unless their weights were somebody's, too; the same dataset has the same values.
    """
    if spec.weights in ("random", "imagenet"):
        return data
    if resume.started is not None:
        return replace(data, mean=resume.started.mean, std=resume.started.std)
    header = own_header(expand(spec.weights))
    if header is None:
        return data
    said: dict[str, Any] | None = header.get("normalization")
    if said is not None:
        channels = len(data.mean)
        return replace(data, mean=_for(said["mean"], channels), std=_for(said["std"], channels))
    if header["spec"].get("weights", "random") == "random":
        mean, std = moments_of(data.train)
        return replace(data, mean=mean, std=std)
    return data


def _for(values: Sequence[float], channels: int) -> Values:
    """One for each channel: their mean, where they are of another number of channels."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels
