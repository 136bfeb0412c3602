"""What will run, in words: the lines below Set up's panes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textual.content import Content

from engine.catalog.datasets import FOLDER_PREFIX, find_dataset
from engine.catalog.models import (
    SMALL_IMAGE,
    choose_stem,
    count_parameters,
    describe_changes,
    find_model,
    misfit,
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
    """What a spec will do, in two to four lines; `found` is what lies there of a dataset that has to be looked at."""
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
    changes = " · ".join(describe_changes(info, shape, stem)) or "nothing to change"
    lines = [
        plain_content(f"{changes} · {count_parameters(info, shape, stem):,} parameters"),
        plain_content(f"images {shape} · {found.counts if found else 'looking at the files …'} · {estimate}"),
    ]
    last = list(found.notes) if found else []
    if stem == "imagenet" and min(shape.height, shape.width) < SMALL_IMAGE:
        last.append(f"{shape.height}×{shape.width}: press s for the small stem, which preserves resolution")
    if last:
        lines.append(plain_content(" · ".join(last), "$warning"))
    return lines


def marked_lines(datasets: Sequence[str], models: Sequence[str], recipe: Mapping[str, Value]) -> list[Content]:
    """What is done with the marked rows, by each of the keys that do something with them."""
    from engine.combinations import combine

    short = [Path(name).name if name.startswith(FOLDER_PREFIX) else name for name in datasets]
    names = f"{', '.join(short) or 'no dataset'} × {', '.join(models) or 'no architecture'}"
    try:
        number = len(combine(datasets, models, dict(recipe)))
    except SpecError as error:
        return [plain_content(names), plain_content(error, "$warning")]
    return [
        plain_content(f"{counted(number, 'run')} marked: {names}"),
        plain_content("enter on Architecture trains them in turn · a adds them to the queue", "bold"),
        plain_content("A: several seeds · t: each with its twin · space takes a mark away", "dim"),
    ]


def plan_text(plan: Plan) -> str:
    """Whether a run would fit now."""
    peak = memory_size(plan.forecast.allocator_bytes if plan.forecast else None)
    return f"memory {peak} of {memory_size(plan.room_bytes)}: {plan.words} · batch size up to {plan.largest_batch:,}"
