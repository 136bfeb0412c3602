"""The text below Set up's panes: what will run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from textual.content import Content

from engine.catalog.datasets import find_dataset, short_name
from engine.catalog.models import (
    SMALL_IMAGE,
    choose_stem,
    count_parameters,
    describe_changes,
    find_model,
    misfit,
)
from engine.data.survey import Survey, published
from engine.errors import ReslabError, SpecError
from engine.settings import Value
from engine.spec import RunSpec
from engine.text import memory_size
from tui.text import counted, plain_content

if TYPE_CHECKING:
    from engine.forecast.memory_plan import Plan

T = TypeVar("T")


def plan_lines(spec: RunSpec, estimate: str, found: Survey | None = None) -> list[Content]:
    """What a spec will do, in two to four lines; `found` is the survey of a dataset on disk."""
    info, found = find_model(spec.model), found or published(spec)
    shape = found.shape if found else find_dataset(spec.dataset).spec_shape(spec.image_size)
    if shape is None:
        size = f"{spec.image_size}×{spec.image_size}" if spec.image_size else "native size if uniform, else 224×224"
        return [
            plain_content(f"{spec.dataset}"),
            plain_content(f"images {size} · channels and classes read from the files · {estimate}"),
        ]
    if problem := misfit(info, shape):
        return [plain_content(problem, "$warning")]
    stem = choose_stem(info, spec.stem, shape)
    changes = " · ".join(describe_changes(info, shape, stem)) or "no changes"
    lines = [
        plain_content(f"{changes} · {count_parameters(info, shape, stem):,} parameters"),
        plain_content(f"images {shape} · {found.counts if found else 'scanning files …'} · {estimate}"),
    ]
    last = list(found.notes) if found else []
    if stem == "imagenet" and min(shape.height, shape.width) < SMALL_IMAGE:
        last.append(f"{shape.height}×{shape.width}: press s for the small stem, which preserves resolution")
    if last:
        lines.append(plain_content(" · ".join(last), "$warning"))
    return lines


def marked_lines(datasets: Sequence[str], models: Sequence[str], recipe: Mapping[str, Value]) -> list[Content]:
    """The marked rows, and the keys that act on them."""
    from engine.combinations import combine

    short = list(map(short_name, datasets))
    names = f"{', '.join(short) or 'no dataset'} × {', '.join(models) or 'no architecture'}"
    try:
        number = len(combine(datasets, models, dict(recipe)))
    except SpecError as error:
        return [plain_content(names), plain_content(error, "$warning")]
    return [
        plain_content(f"{counted(number, 'run')} marked: {names}"),
        plain_content("enter on Architecture: train one after another · a: add to the queue", "bold"),
        plain_content("A: several seeds · t: each with its twin · space: unmark", "dim"),
    ]


def survey_key(spec: RunSpec) -> tuple[object, ...]:
    """The settings that decide which images are loaded and how they are split."""
    images = spec.dataset, spec.image_size, spec.test_share, spec.val_share, spec.columns
    return (*images, spec.split_seed, spec.exclude)


def plan_text(plan: Plan) -> str:
    """Whether a run would fit in memory now."""
    peak = memory_size(plan.forecast.allocator_bytes if plan.forecast else None)
    return f"memory {peak} of {memory_size(plan.room_bytes)}: {plan.words} · batch size up to {plan.largest_batch:,}"


def result_or_error(work: Callable[[], T]) -> T | str:
    """The result of `work`, or the message of its error."""
    try:
        return work()
    except ReslabError as error:
        return str(error)
