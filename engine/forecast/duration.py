"""Estimate how long a run will take, from earlier runs on this machine. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from engine.catalog.datasets import find_dataset
from engine.records import RunSummary
from engine.spec import RunSpec, affecting, settings_of


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds for the whole run, loading and evaluation included, and the run that the estimate is based on."""

    seconds: float
    run: int


def estimate_run(spec: RunSpec, records: Iterable[RunSummary]) -> Estimate | None:
    """Scale the newest completed run of the same dataset and network by its epochs; otherwise the newest with images of
    the same shape, by its images, as for an evaluation alone. None if there is neither.
    """
    step, pace = affecting("step"), affecting("step", "epoch")
    near: Estimate | None = None
    for record in sorted(records, key=lambda record: -record.run):
        if record.status != "completed" or record.is_newer or not record.elapsed_s or not record.train_images_per_s:
            continue
        if spec.epochs and _are_alike(spec, record, pace):
            return Estimate(record.elapsed_s * spec.epochs / record.spec["epochs"], record.run)
        if near is None and _are_alike(spec, record, step):
            near = _by_images(spec, record)
    return near


def _are_alike(spec: RunSpec, record: RunSummary, names: Iterable[str]) -> bool:
    """A setting that the run does not have counts as its default."""
    known = settings_of(RunSpec)
    return all(record.spec.get(name, known[name].default) == getattr(spec, name) for name in names)


def _by_images(spec: RunSpec, record: RunSummary) -> Estimate | None:
    ours, theirs = find_dataset(spec.dataset), find_dataset(record.dataset)
    shape, other = ours.spec_shape(spec.image_size), theirs.spec_shape(record.spec.get("image_size"))
    if (
        shape is None
        or other is None
        or ours.num_train is None
        or ours.num_test is None
        or not record.train_images_per_s
    ):
        return None
    if (shape.height, shape.width) != (other.height, other.width):
        return None
    # Evaluating an image costs about a third of training on it: the forward pass alone.
    images = spec.epochs * ours.num_train + (spec.epochs + 1) * ours.num_test / 3
    return Estimate(images / record.train_images_per_s, record.run)
