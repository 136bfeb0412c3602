"""A run's task on a worker: where it goes on from, its events on their way to the driver, and what comes back.

Ray Train is not imported here: a process that trains alone has no need of it, and it takes 260 MiB.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from engine.carried.stream import Asked
from engine.cluster.exchange import Newest
from engine.control import RunControl
from engine.errors import ReslabError
from engine.events import Event, SettingsTuned
from engine.memory.ledger import Ledger
from engine.paths import Places
from engine.spec import RunSpec
from engine.training.checkpoint import load_checkpoint
from engine.training.crew import Crew
from engine.training.resuming import Resume
from engine.training.setup import Known
from engine.training.train import Ending, train

_TELL_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Task:
    """What every worker is given."""

    run: int
    spec: RunSpec
    places: Places
    sync_batchnorm: bool
    exchange: Any
    tunings: Mapping[str, SettingsTuned]


@contextmanager
def sentences_told(task: Task) -> Iterator[None]:
    """What has a sentence ends the run. Anything else may be a worker that was lost: it is begun again."""
    try:
        yield
    except ReslabError as error:
        ray.get(task.exchange.tell.remote(task.run, [Ending("failed", str(error))]))


def newest_of(task: Task) -> Resume | None:
    """What the run goes on from, if it was begun already."""
    newest: Newest = ray.get(task.exchange.newest.remote(task.run))
    if newest.started is None:
        return None
    checkpoint = None
    if newest.file is not None and newest.sha256 is not None:
        checkpoint = load_checkpoint(task.places.run_folder(task.run) / newest.file, newest.sha256)
    return Resume(newest.started, checkpoint)


def train_task(task: Task, crew: Crew | None) -> None:
    """Train it, alone or leading a crew; the ending is told as the last of the events."""
    control = RunControl()
    teller = Teller(task, control)
    known = Known() if crew is not None else Known(tunings=task.tunings, workers=f"1 worker on {platform.node()}")
    events = train(task.run, task.spec, task.places, Ledger(), control, known, newest_of(task), crew)
    try:
        while True:
            try:
                teller.tell(next(events))
            except StopIteration as end:
                teller.tell(end.value)
                return
    finally:
        events.close()
        teller.close()


class Teller:
    """Sends events from a thread of its own, so that no step waits for the network, and hears what is asked."""

    def __init__(self, task: Task, control: RunControl) -> None:
        self._task, self._control = task, control
        self._waiting: list[Event | Ending] = []
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._send, name="events", daemon=True)
        self._thread.start()

    def tell(self, event: Event | Ending) -> None:
        with self._lock:
            self._waiting.append(event)

    def close(self) -> None:
        """Send what is left."""
        self._closed.set()
        self._thread.join()

    def _send(self) -> None:
        while not self._closed.wait(_TELL_EVERY_S):
            self._send_waiting()
        self._send_waiting()

    def _send_waiting(self) -> None:
        with self._lock:
            sent, self._waiting = self._waiting, []
        asked: Asked = ray.get(self._task.exchange.tell.remote(self._task.run, sent))
        asked.tell(self._control)
