"""What a run needs besides its spec, passed as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.control import Control
from engine.device import Placement
from engine.events import SettingsTuned
from engine.memory.calibration import Calibration
from engine.memory.ledger import Ledger
from engine.paths import Folders
from engine.training.group import Group, Solo
from engine.training.resume import FRESH, Resume


@dataclass(frozen=True, slots=True)
class History:
    """What earlier runs on this machine measured: memory beyond the forecast, and the fastest settings."""

    calibration: Calibration = field(default_factory=Calibration)
    autotune_choices: Mapping[str, SettingsTuned] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where run number `run` trains, and in which group.

    `placement` is the spec's device; a process of a group has its own. `resume` is where the run begins: `FRESH`, or
    one of its own checkpoints.
    """

    run: int
    folders: Folders
    ledger: Ledger
    control: Control
    placement: Placement
    history: History = field(default_factory=History)
    group: Group = field(default_factory=Solo)
    resume: Resume = FRESH
