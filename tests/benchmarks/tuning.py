"""Autotune: how long it measures before a run, how long that run then takes, and whether it chooses alike each time."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from engine.analysis.tables import choice_text
from engine.device import cpu_name
from engine.environment import TUNE
from engine.events import DatasetProgressed, RunStarted, SettingsTuned
from engine.lab import Lab
from engine.paths import Folders, find_folders
from engine.spec import RunSpec

_SPECS = (
    RunSpec("digits", "resnet18", epochs=3),
    RunSpec("digits", "resnet18", epochs=60),
    RunSpec("digits", "resnet50", epochs=10),
)


def autotune(num_times: int = 3) -> None:
    """Every time in a new home folder; the load of others that the last measuring saw stands beside it."""
    os.environ[TUNE.name] = "1"
    for spec in _SPECS:
        shares, chosen = list[str](), Counter[str]()
        for _ in range(num_times):
            with tempfile.TemporaryDirectory() as folder:
                measured_s, took_s, text, busy = _measured(spec, Path(folder))
            shares.append(f"{measured_s:.1f} s of {took_s:.1f} s ({100 * measured_s / took_s:.0f} %, others {busy})")
            chosen[text] += 1
        print(f"autotune: {spec.model} on {spec.dataset}, {spec.epochs} epochs  ({cpu_name()}, n = {num_times})")
        print(f"  measured for {'; '.join(shares)}")
        for text, number in chosen.most_common():
            print(f"  {number} × {text}")


def _measured(spec: RunSpec, folder: Path) -> tuple[float, float, str, str]:
    """Seconds of measuring and of the whole run, what was chosen, and the cores that others kept busy meanwhile."""
    folders = Folders(folder / "home", find_folders(None, None).data, folder / "cache")
    began, measured_s, text, busy = time.perf_counter(), 0.0, "plain, without measuring", "not seen"
    measuring_since: float | None = None
    for event in Lab(folders).train(spec).events():
        if isinstance(event, DatasetProgressed) and event.stage == "measure" and measuring_since is None:
            measuring_since = time.perf_counter()
        elif isinstance(event, SettingsTuned):
            text = choice_text(event)
            busy = "not known" if event.busy_cores is None else f"{event.busy_cores:.1f} cores"
        elif isinstance(event, RunStarted) and measuring_since is not None:
            measured_s = time.perf_counter() - measuring_since
    return measured_s, time.perf_counter() - began, text, busy
