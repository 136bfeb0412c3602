"""What driver and workers tell each other: events one way, pause and stop the other. An actor on the head's node."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from engine.events import CheckpointSaved, Event, RunStarted
from engine.launch.requests import ControlRequest


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What a worker that begins has to go on from: its RunStarted, the file of a checkpoint and its SHA-256."""

    started: RunStarted | None = None
    file: str | None = None
    sha256: str | None = None


class _RunChannel:
    """One run's."""

    def __init__(self, newest: ResumePoint) -> None:
        self.events: list[Event] = []
        self.come = asyncio.Event()
        self.asked = ControlRequest()
        self.newest = newest
        self.ticket = 0
        self.last_batch = 0

    def tell(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, RunStarted) and self.newest.started is None:
                self.newest = ResumePoint(event, self.newest.file, self.newest.sha256)
            elif isinstance(event, CheckpointSaved):
                self.newest = ResumePoint(self.newest.started, event.file, event.sha256)
        self.events += events
        if events:
            self.come.set()


class EventChannel:
    """Made by `ray.remote`, on the node of the cluster's head: losing a worker's node loses nothing of it. One process
    for all runs of a driver.
    """

    def __init__(self) -> None:
        self._runs: dict[int, _RunChannel] = {}

    async def open(self, run: int, newest: ResumePoint) -> None:
        """A driver begins to carry the run."""
        self._runs[run] = _RunChannel(newest)

    async def close(self, run: int) -> None:
        """It has ended; what workers still tell is for nobody."""
        self._runs.pop(run, None)

    async def enter(self, run: int) -> tuple[int, ResumePoint]:
        """A worker begins to tell of the run, in place of whoever did: its ticket, and what it goes on from."""
        room = self._runs[run]
        room.ticket, room.last_batch = room.ticket + 1, 0
        return room.ticket, room.newest

    async def tell(self, run: int, ticket: int, batch: int, events: list[Event]) -> ControlRequest:
        """Leave events for the driver; returns what is asked of the run: to stop, where nobody carries it any more, or
        another worker has begun to tell of it. Batches count from 1; one that comes twice is taken once.
        """
        room = self._runs.get(run)
        if room is None or ticket != room.ticket:
            return ControlRequest(stop=True)
        if batch > room.last_batch:
            room.last_batch = batch
            room.tell(events)
        return room.asked

    async def fail(self, run: int, ending: Event) -> None:
        """The run cannot be made, says any of its workers."""
        if run in self._runs:
            self._runs[run].tell([ending])

    async def take(self, run: int, timeout_s: float) -> list[Event]:
        """All events since the last call; waits for one at most so long."""
        room = self._runs[run]
        try:
            await asyncio.wait_for(room.come.wait(), timeout_s)
        except TimeoutError:
            return []
        room.come.clear()
        taken, room.events = room.events, []
        return taken

    async def ask(self, run: int, asked: ControlRequest) -> None:
        self._runs[run].asked = asked

    async def asked(self, run: int) -> ControlRequest:
        """What is asked of the run: to stop, where nobody carries it any more."""
        return self._runs[run].asked if run in self._runs else ControlRequest(stop=True)

    async def newest(self, run: int) -> ResumePoint:
        return self._runs[run].newest
