"""Runs that are stopped as soon as something has come, and the context of a run that no store records."""

from __future__ import annotations

from collections.abc import Callable

from engine.control import RunControl
from engine.device import choose_placement
from engine.events import Event
from engine.lab import Lab
from engine.memory.ledger import Ledger
from engine.paths import Folders
from engine.spec import RunSpec
from engine.training.context import RunContext
from engine.training.group import Group, Solo


def run_until(
    has_come: type[Event] | Callable[[Event], bool], folders: Folders, spec: RunSpec, reason: str | None = None
) -> list[Event]:
    """All events of a run that is asked to stop at each one of this kind, or for which this is true."""
    control, events = RunControl(), list[Event]()
    for event in Lab(folders).train(spec, control).events():
        events.append(event)
        if isinstance(event, has_come) if isinstance(has_come, type) else has_come(event):
            control.stop(reason)
    return events


def context_of(
    spec: RunSpec, folders: Folders, control: RunControl | None = None, group: Group | None = None, run: int = 1
) -> RunContext:
    """A new run's, on the device of its spec."""
    placement = choose_placement(spec)
    return RunContext(run, folders, Ledger(), control or RunControl(), placement, group=group or Solo())
