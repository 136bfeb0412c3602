"""Runs that are stopped as soon as something has come."""

from __future__ import annotations

from collections.abc import Callable

from engine.control import RunControl
from engine.events import Event
from engine.launch.in_process import Lab, run
from engine.paths import Places
from engine.spec import RunSpec


def run_until(
    has_come: type[Event] | Callable[[Event], bool], places: Places, spec: RunSpec, reason: str | None = None
) -> list[Event]:
    """All events of a run that is asked to stop at each one of this kind, or for which this is true."""
    control, events = RunControl(), list[Event]()
    for event in run(spec, Lab(places), control):
        events.append(event)
        if isinstance(event, has_come) if isinstance(has_come, type) else has_come(event):
            control.stop(reason)
    return events
