"""The interface of all backends: a job goes in, a handle with the run's events and control comes out.

    InProcess     in this process
    Detached      in a process of its own, which outlives this one
    RayBackend    on a Ray cluster

They do not know each other. `engine.launch.scheduler` decides what starts next. Loads no torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from engine.control import RunControl
from engine.events import Event, RunEnded
from engine.spec import RunSpec

Slot = object
"""What a `Capacity` reserved for a run; only the matching backend knows its type."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run: a new one of `spec`, or run number `resume`, which has this spec, from its newest checkpoint.

    `dataset`: where the images of a resumed run are now, if they have moved.
    """

    spec: RunSpec
    resume: int | None = None
    dataset: str | None = None


class Handle:
    """One run. It starts with the first iteration over its events, in the thread that iterates.

    `run` is its number once known, `ended` its last event.
    """

    def __init__(self, start: Callable[[RunControl], Generator[Event, None, None]], control: RunControl) -> None:
        self.control = control
        self.run: int | None = None
        self.ended: RunEnded | None = None
        self._start = start

    def events(self) -> Generator[Event, None, None]:
        """Each event, already stored, to the end. Closing this early stops a run in this process; a run elsewhere
        continues, no longer followed.

        Raises:
            ReslabError: the run could not be started.
        """
        with closing(self._start(self.control)) as events:
            for event in events:
                self.run = event.run
                if isinstance(event, RunEnded):
                    self.ended = event
                yield event

    def wait(self) -> RunEnded | None:
        """Follow the run to its end; None if it was left, or never started."""
        for _ in self.events():
            pass
        return self.ended


class Backend(Protocol):
    """A way to run. `survives`: its runs continue when this process ends."""

    @property
    def survives(self) -> bool: ...

    def start(self, job: Job, control: RunControl | None = None, slot: Slot | None = None) -> Handle:
        """The run of `job`, in the `slot` reserved for it, if any."""
        ...


class Capacity(Protocol):
    """How many runs may train at once. A context manager: open within its block."""

    @property
    def is_one(self) -> bool:
        """Whether runs come one after another."""
        ...

    def __enter__(self) -> Capacity: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def reserve(self, spec: RunSpec, is_wanted: Callable[[], bool]) -> Slot | None:
        """Wait for room for a run of `spec` while `is_wanted`; None once it is no longer wanted.

        Raises:
            ReslabError: there will never be room for it; the text is stored as the run's error.
        """
        ...

    def release(self, slot: Slot) -> None:
        """The run in `slot` has ended, or was not started."""
        ...

    def leave_idle(self) -> None:
        """No run waits: free what is kept for the next one."""
        ...


class Limit:
    """Up to `number` runs at once on this machine."""

    _LOOK_EVERY_S = 0.1

    def __init__(self, number: int = 1) -> None:
        self._free = threading.Semaphore(number)
        self._number = number

    @property
    def is_one(self) -> bool:
        return self._number == 1

    def __enter__(self) -> Limit:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def reserve_now(self) -> Slot | None:
        """A slot if one is free now."""
        return self if self._free.acquire(blocking=False) else None

    def reserve(self, spec: RunSpec, is_wanted: Callable[[], bool]) -> Slot | None:
        while is_wanted():
            if self._free.acquire(timeout=self._LOOK_EVERY_S):
                return self
        return None

    def release(self, slot: Slot) -> None:
        self._free.release()

    def leave_idle(self) -> None:
        pass
