"""Messages between driver and workers: events one way, pause and stop the other. A Ray actor on the head node."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from engine.events import CheckpointSaved, Event, RunStarted
from engine.launch.requests import ControlRequest


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What a new worker resumes from: the run's RunStarted, the file of a checkpoint and its SHA-256."""

    started: RunStarted | None = None
    file: str | None = None
    sha256: str | None = None


class _RunChannel:
    """The channel of one run."""

    def __init__(self, newest: ResumePoint) -> None:
        self.events: list[Event] = []
        self.has_events = asyncio.Event()
        self.request = ControlRequest()
        self.newest = newest
        self.ticket = 0
        self.last_batch = 0

    def add(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, RunStarted) and self.newest.started is None:
                self.newest = ResumePoint(event, self.newest.file, self.newest.sha256)
            elif isinstance(event, CheckpointSaved):
                self.newest = ResumePoint(self.newest.started, event.file, event.sha256)
        self.events += events
        if events:
            self.has_events.set()


class EventChannel:
    """One process for all runs of a driver. Made by `ray.remote` on the head node, so it survives the loss of a
    worker's node.
    """

    def __init__(self) -> None:
        self._runs: dict[int, _RunChannel] = {}

    async def open(self, run: int, newest: ResumePoint) -> None:
        """A driver starts the run."""
        self._runs[run] = _RunChannel(newest)

    async def close(self, run: int) -> None:
        """The run has ended; anything that workers still send is dropped."""
        self._runs.pop(run, None)

    async def register(self, run: int) -> tuple[int, ResumePoint]:
        """Make the caller the run's sender, replacing any earlier one; returns its ticket and what it resumes from."""
        channel = self._runs[run]
        channel.ticket, channel.last_batch = channel.ticket + 1, 0
        return channel.ticket, channel.newest

    async def send(self, run: int, ticket: int, batch: int, events: list[Event]) -> ControlRequest:
        """Leave events for the driver; returns the pending request: stop, if the run is closed or another worker has
        registered. Batches count from 1; a repeated one is ignored.
        """
        channel = self._runs.get(run)
        if channel is None or ticket != channel.ticket:
            return ControlRequest(stop=True)
        if batch > channel.last_batch:
            channel.last_batch = batch
            channel.add(events)
        return channel.request

    async def fail(self, run: int, ending: Event) -> None:
        """End the run as failed; any of its workers may call this."""
        if run in self._runs:
            self._runs[run].add([ending])

    async def take(self, run: int, timeout_s: float) -> list[Event]:
        """All events since the last call; waits up to `timeout_s` for one."""
        channel = self._runs[run]
        try:
            await asyncio.wait_for(channel.has_events.wait(), timeout_s)
        except TimeoutError:
            return []
        channel.has_events.clear()
        taken, channel.events = channel.events, []
        return taken

    async def send_request(self, run: int, request: ControlRequest) -> None:
        self._runs[run].request = request

    async def pending_request(self, run: int) -> ControlRequest:
        """What the driver wants of the run: stop, if the run is closed."""
        return self._runs[run].request if run in self._runs else ControlRequest(stop=True)

    async def newest(self, run: int) -> ResumePoint:
        return self._runs[run].newest
