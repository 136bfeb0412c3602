"""Builds several specs at once: datasets × architectures × seeds, with and without shortcuts. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

from engine.catalog.models import find_model
from engine.errors import SpecError
from engine.spec import RunSpec


def combine(
    datasets: Sequence[str], models: Sequence[str], settings: dict[str, Any], num_seeds: int = 1
) -> list[RunSpec]:
    """Every dataset with every model and seed, from the settings' seed upwards; the seeds of a pair are adjacent.

    Raises:
        SpecError: a combination is not valid.
    """
    pairs = product(datasets, models)
    return [spec for d, m in pairs for spec in seeds_of(RunSpec(d, m, **settings), num_seeds)]


def with_twin(spec: RunSpec) -> list[RunSpec]:
    """The spec and, if there is one, its twin with or without shortcuts: same seed, same order of images."""
    twin = find_model(spec.model).twin
    return [spec, spec.replace(model=twin)] if twin else [spec]


def are_twins(a: RunSpec, b: RunSpec) -> bool:
    """Whether two specs differ only in having shortcuts; shortcut padding applies to one of them only."""
    is_twin = find_model(a.model).twin == b.model
    return is_twin and a.replace(model=b.model, shortcut_padding=b.shortcut_padding) == b


def seeds_of(spec: RunSpec, num_seeds: int) -> Iterable[RunSpec]:
    """The spec with `num_seeds` seeds, from its own upwards.

    Raises:
        SpecError: they would all be the same run.
    """
    if num_seeds > 1 and spec.epochs == 0 and spec.weights != "random" and spec.head != "new":
        raise SpecError("seeds: an evaluation of given weights is the same for every seed; choose 1", "seed")
    return (spec.replace(seed=spec.seed + number) for number in range(num_seeds))
