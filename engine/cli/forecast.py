"""`reslab forecast`: what a run would take, and whether it fits, without starting it."""

from __future__ import annotations

from typing import Any

from engine.cli.parser import columns
from engine.cli.reading import print_json
from engine.device import import_torch
from engine.memory.ledger import Ledger
from engine.paths import Places
from engine.spec import RunSpec
from engine.text import memory_size

_TITLES = {
    "parameters_bytes": "parameters", "gradients_bytes": "gradients", "optimizer_bytes": "optimizer",
    "activations_bytes": "activations", "dataset_bytes": "dataset", "workspace_bytes": "workspace",
    "context_bytes": "context of the driver", "peak_bytes": "peak",
}  # fmt: skip


def forecast_command(spec: RunSpec, places: Places, as_json: bool) -> int:
    """Print the forecast; exit code 1 where the run will not fit."""
    import_torch()
    from engine.memory.asking import ask_forecast

    plan = ask_forecast(spec, places, Ledger())
    assert plan.forecast is not None  # plan_run raises where there is none
    parts: dict[str, Any] = {name: getattr(plan.forecast, name) for name in _TITLES}
    if as_json:
        found = {
            **parts, "room_bytes": plan.room_bytes, "fit": plan.fit, "verdict": plan.words,
            "micro_batch": plan.micro_batch, "largest_batch_size": plan.largest_batch, "during": plan.forecast.during,
        }  # fmt: skip
        print_json(found)
    else:
        print(columns([(title, memory_size(parts[name])) for name, title in _TITLES.items()], right=(1,)))
        print(
            f"{plan.words}: {memory_size(plan.forecast.allocator_bytes)} for tensors, {memory_size(plan.room_bytes)} "
            f"available for them; the peak is in {plan.forecast.during}"
        )
        print(f"largest batch size that fits: {plan.largest_batch:,}")
    return 1 if plan.fit == "not" else 0
