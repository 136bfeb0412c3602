"""What a run needs besides its spec, as one value that is passed on instead of its parts."""

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
    """What earlier runs on this machine have taught: what forecasts lack, and which settings are quickest."""

    calibration: Calibration = field(default_factory=Calibration)
    autotune_choices: Mapping[str, SettingsTuned] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunContext:
    """Where run number `run` trains, and with whom.

    `placement` is the device as the spec has it; a process of a group goes on its own. `resume` is where the run
    begins: `FRESH`, or a checkpoint of its own.
    """

    run: int
    folders: Folders
    ledger: Ledger
    control: Control
    placement: Placement
    history: History = field(default_factory=History)
    group: Group = field(default_factory=Solo)
    resume: Resume = FRESH
