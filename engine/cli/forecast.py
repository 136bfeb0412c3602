"""`reslab forecast`: how much memory a run would take, and whether it fits, without starting it."""

from __future__ import annotations

import sys
from typing import Any

from engine.cli.output import print_json
from engine.cli.parser import columns
from engine.data.survey import Survey
from engine.lab import Lab
from engine.spec import RunSpec
from engine.text import counted, memory_size, safe_text

_TITLES = {
    "parameters_bytes": "parameters", "gradients_bytes": "gradients", "optimizer_bytes": "optimizer",
    "activations_bytes": "activations", "dataset_bytes": "dataset", "workspace_bytes": "workspace",
    "context_bytes": "driver context", "peak_bytes": "peak",
}  # fmt: skip


def forecast_command(spec: RunSpec, lab: Lab, as_json: bool) -> int:
    """Print the forecast; exit code 1 if the run will not fit."""
    found = _survey(spec, lab)
    plan = lab.forecast(spec)
    assert plan.forecast is not None  # plan_run raises if there is none
    parts: dict[str, Any] = {name: getattr(plan.forecast, name) for name in _TITLES}
    if as_json:
        values = {
            **parts, "room_bytes": plan.room_bytes, "fit": plan.fit, "verdict": plan.words,
            "micro_batch": plan.micro_batch, "largest_batch_size": plan.largest_batch, "during": plan.forecast.during,
            "images": {"shape": found.shape, "num_train": found.num_train, "num_val": found.num_val,
                       "num_test": found.num_test, "notes": found.notes},
            "decoding": _decoding(found),
        }  # fmt: skip
        print_json(values)
    else:
        print(safe_text(f"images {found.shape}, {found.counts}"))
        for note in found.notes:
            print(safe_text(note))
        if found.decoding is not None:
            print(safe_text(found.decoding.words))
        print(columns([(title, memory_size(parts[name])) for name, title in _TITLES.items()], right=(1,)))
        print(
            f"{plan.words}: {memory_size(plan.forecast.allocator_bytes)} for tensors, {memory_size(plan.room_bytes)} "
            f"available for them; the peak is in {plan.forecast.during}"
        )
        print(f"largest batch size that fits: {plan.largest_batch:,}")
    return 1 if plan.fit == "not" else 0


def _decoding(found: Survey) -> dict[str, Any] | None:
    """Bytes of all images decoded, seconds to decode them, and why they are not kept; None: there is nothing to do."""
    plan = found.decoding
    if plan is None:
        return None
    return {"num_bytes": plan.num_bytes, "pass_s": round(plan.pass_s, 2), "kept": not plan.is_streamed,
            "reason": plan.reason, "is_counted": plan.is_counted}  # fmt: skip


def _survey(spec: RunSpec, lab: Lab) -> Survey:
    """The survey of the dataset's files; shows its progress on a terminal."""
    work = lab.survey(spec)
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            found: Survey = end.value
            return found
        if sys.stderr.isatty():
            print(f"\rscanned {progress.done:,} of {counted(progress.total, 'image')}\x1b[K\r", end="", file=sys.stderr)
