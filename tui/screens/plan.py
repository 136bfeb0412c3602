"""The text below Set up's panes: what will run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from engine.catalog.code_names import code_of
from engine.catalog.datasets import find_dataset, short_name
from engine.catalog.models import (
    SMALL_IMAGE,
    choose_stem,
    count_parameters,
    describe_changes,
    find_model,
    misfit,
    short_model,
)
from engine.data.survey import Survey, published
from engine.errors import SpecError
from engine.settings import Value
from engine.spec import RunSpec
from engine.text import memory_size
from tui.text import counted, plain_content

if TYPE_CHECKING:
    from engine.forecast.memory_plan import Plan


def plan_lines(spec: RunSpec, estimate: str, found: Survey | None = None) -> list[Content]:
    """What a spec will do, in two to four lines; `found` is the survey of a dataset on disk."""
    info, found = find_model(spec.model), found or published(spec)
    shape = found.shape if found else find_dataset(spec.dataset).spec_shape(spec.image_size)
    if shape is None:
        code = " · ".join(code_notes(spec))
        size = f"{spec.image_size}×{spec.image_size}" if spec.image_size else "native size if uniform, else 224×224"
        return [
            plain_content(f"{spec.dataset}"),
            plain_content(f"images {size} · channels and classes read from the files · {estimate}"),
            *([plain_content(code, "$warning")] if code else []),
        ]
    if problem := misfit(info, shape):
        return [plain_content(problem, "$warning")]
    stem = choose_stem(info, spec.stem, shape)
    changes = " · ".join(describe_changes(info, shape, stem)) or "no changes"
    number = count_parameters(info, shape, stem)
    size = "parameters counted when it is built" if number is None else counted(number, "parameter")
    lines = [
        plain_content(f"{changes} · {size}"),
        plain_content(f"images {shape} · {found.counts if found else 'scanning files …'} · {estimate}"),
    ]
    last = [*code_notes(spec), *(found.notes if found else ())]
    if found and found.decoding is not None and found.decoding.is_worth_saying:
        last.append(found.decoding.words)
    if stem == "imagenet" and min(shape.height, shape.width) < SMALL_IMAGE:
        last.append(f"{shape.height}×{shape.width}: press s for the small stem, which preserves resolution")
    if last:
        lines.append(plain_content(" · ".join(last), "$warning"))
    return lines


def code_notes(spec: RunSpec) -> list[str]:
    """Whose code runs, in a sentence; empty if none but reslab's, torchvision's and timm's."""
    return [
        f"{short_model(name)} is code: it runs on this machine with all your rights"
        for name in code_of(spec.dataset, spec.model)
    ]


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
