"""What driver and workers tell each other: events one way, pause and stop the other. An actor on the head's node."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from engine.carried.stream import Asked
from engine.events import CheckpointSaved, Event, RunStarted, plain


@dataclass(frozen=True, slots=True)
class Newest:
    """What a worker that begins has to go on from: RunStarted as JSON, the file of a checkpoint and its SHA-256."""

    started: dict[str, Any] | None = None
    file: str | None = None
    sha256: str | None = None


class Exchange:
    """Made by `ray.remote`, on the node of the cluster's head: losing a worker's node loses nothing of it."""

    def __init__(self, newest: Newest) -> None:
        self._events: list[Event] = []
        self._come = asyncio.Event()
        self._asked = Asked()
        self._newest = newest

    async def tell(self, events: list[Event]) -> Asked:
        """Leave events for the driver; returns what is asked of the run."""
        for event in events:
            if isinstance(event, RunStarted) and self._newest.started is None:
                self._newest = Newest(plain(event), self._newest.file, self._newest.sha256)
            elif isinstance(event, CheckpointSaved):
                self._newest = Newest(self._newest.started, event.file, event.sha256)
        self._events += events
        if events:
            self._come.set()
        return self._asked

    async def take(self, timeout_s: float) -> list[Event]:
        """All events since the last call; waits for one at most so long."""
        try:
            await asyncio.wait_for(self._come.wait(), timeout_s)
        except TimeoutError:
            return []
        self._come.clear()
        taken, self._events = self._events, []
        return taken

    async def ask(self, asked: Asked) -> None:
        self._asked = asked

    async def newest(self) -> Newest:
        return self._newest
