"""`reslab autotune`: list the settings measured to be fastest on this processor, measure them, or delete them."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

from engine.analysis.tables import busy_text, choice_text
from engine.cli.output import print_json
from engine.cli.parser import columns
from engine.events import SettingsTuned
from engine.lab import Lab
from engine.progress import Progress
from engine.spec import RunSpec
from engine.text import counted, safe_text

if TYPE_CHECKING:
    from collections.abc import Generator


def list_command(lab: Lab, as_json: bool) -> int:
    """Print the choices that later runs use, the oldest first."""
    known = lab.autotune_choices()
    if as_json:
        print_json(known)
        return 0
    if not known:
        print("no choices stored; reslab autotune DATASET MODEL measures one, as does a run with dtype auto on a CPU")
        return 0
    print(columns([("WHEN", "MODEL", "IMAGES", "BATCH", "FASTEST", ""), *map(_row, known)], right=(3,)))
    return 0


def _row(tuned: SettingsTuned) -> tuple[str, ...]:
    key = json.loads(tuned.key)
    model, (channels, height, width, _classes, batch_size), changed = key[3], key[7:12], dict(*key[12:])
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(tuned.measured_at)) if tuned.measured_at else "earlier"
    due = "; the next run measures again" if tuned.due else ""
    fastest = f"{choice_text(tuned)}{busy_text(tuned)}{due}"
    name = ", ".join((model, *(f"{name.replace('_', ' ')} {value}" for name, value in changed.items())))
    return when, safe_text(name, 40), f"{channels}×{height}×{width}", str(batch_size), fastest, ""


def forget_command(lab: Lab) -> int:
    number = lab.forget_autotune_choices()
    print(f"{counted(number, 'choice')} deleted; the next runs measure again", file=sys.stderr)
    return 0


def measure_command(spec: RunSpec, lab: Lab, as_json: bool) -> int:
    """Measure now, as a run would before its first step, and store the choice.

    Raises:
        ReslabError: there is nothing to choose, or the network cannot take such images.
    """
    tuned = _shown(lab.autotune(spec))
    if tuned is None:
        if as_json:
            print_json(None)
        print(f"not enough time to benchmark {spec.model} (5 % of the run, or 3 s); it uses float32", file=sys.stderr)
        return 0
    print_json(tuned) if as_json else print(safe_text(f"measured{busy_text(tuned)}: {choice_text(tuned)}"))
    return 0


def _shown(work: Generator[Progress, None, SettingsTuned | None]) -> SettingsTuned | None:
    """What `work` returns; shows its progress on a terminal."""
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            tuned: SettingsTuned | None = end.value
            if sys.stderr.isatty():
                print("\r\x1b[K", end="", file=sys.stderr)
            return tuned
        if sys.stderr.isatty():
            print(f"\rmeasured {progress.done} of {progress.total} {progress.unit}\x1b[K", end="", file=sys.stderr)
