"""A run's task on a worker: where it goes on from, its events on their way to the driver, and what comes back.

Ray Train is not imported here: a process that trains alone has no need of it, and it takes 260 MiB.
"""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from engine.control import RunControl
from engine.device import choose_placement
from engine.errors import ReslabError
from engine.events import Event, SettingsTuned
from engine.launch.ray.channel import ResumePoint
from engine.launch.requests import ControlRequest
from engine.memory.ledger import Ledger
from engine.paths import Folders
from engine.spec import RunSpec
from engine.training.checkpoint import load_checkpoint
from engine.training.context import History, RunContext
from engine.training.group import Group, Solo
from engine.training.loop import Ending, train
from engine.training.resume import FRESH, Resume

_log = logging.getLogger("reslab")
_TELL_EVERY_S = 0.05
PATIENCE_S = 30.0
_HEAR_EVERY_S = 0.2  # what is asked, where there is nothing to tell


@dataclass(frozen=True, slots=True)
class Task:
    """What every worker is given."""

    run: int
    spec: RunSpec
    folders: Folders
    sync_batchnorm: bool
    autotune_choices: Mapping[str, SettingsTuned]
    channel: Any = None  # the actor that events go to, once the driver has made it

    def context(self, control: RunControl, group: Group, resume: Resume) -> RunContext:
        """Of one of the run's processes. What was measured helps a process alone: a group has to compute alike."""
        history = History(autotune_choices=self.autotune_choices)
        placement = choose_placement(self.spec)
        return RunContext(self.run, self.folders, Ledger(), control, placement, history, group, resume)


def this_worker() -> Solo:
    """The group of a run that one worker trains."""
    return Solo(f"1 worker on {platform.node()}")


@contextmanager
def errors_reported(task: Task) -> Iterator[None]:
    """What has a sentence ends the run. Anything else may be a worker that was lost: it is begun again."""
    try:
        yield
    except ReslabError as error:
        ray.get(task.channel.fail.remote(task.run, Ending("failed", str(error))))


def resume_point_of(task: Task) -> Resume:
    """What the run resumes from, if it was begun already."""
    return _resume(task, ray.get(task.channel.newest.remote(task.run)))


def _resume(task: Task, newest: ResumePoint) -> Resume:
    if newest.started is None:
        return FRESH
    checkpoint = None
    if newest.file is not None and newest.sha256 is not None:
        checkpoint = load_checkpoint(task.folders.run_folder(task.run) / newest.file, newest.sha256)
    return Resume(newest.started, checkpoint)


def train_task(task: Task, group: Group) -> None:
    """Train it as rank zero of `group`; the ending is sent as the last of the events."""
    ticket, newest = ray.get(task.channel.enter.remote(task.run))
    control = RunControl()
    with group.starting():
        context = task.context(control, group, _resume(task, newest))
    events = train(task.spec, context)
    teller = EventSender(task, ticket, control)
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


class EventSender:
    """Sends events from a thread of its own, so that no step waits for the network, and hears what is asked.

    What could not be sent is sent again; the run stops where that fails for half a minute.
    """

    def __init__(self, task: Task, ticket: int, control: RunControl) -> None:
        self._task, self._ticket, self._control = task, ticket, control
        self._waiting: list[Event | Ending] = []
        self._batch = 0
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
        spoke = 0.0
        while not self._closed.wait(_TELL_EVERY_S):
            if self._waiting or time.monotonic() - spoke >= _HEAR_EVERY_S:
                spoke = time.monotonic()
                if not self._sent():
                    return
        self._sent()

    def _sent(self) -> bool:
        """Send all that waits. False, and the run is asked to stop, where nobody takes it."""
        with self._lock:
            batch, self._waiting = self._waiting, []
            self._batch += 1
        since = time.monotonic()
        while True:
            try:
                call = self._task.channel.tell.remote(self._task.run, self._ticket, self._batch, batch)
                asked: ControlRequest = ray.get(call, timeout=PATIENCE_S)
            except RayError as error:
                _log.warning("events of run %d were not sent: %s", self._task.run, error)
                if time.monotonic() - since > PATIENCE_S:
                    self._control.stop("the driver of the run was lost")
                    return False
                time.sleep(_HEAR_EVERY_S)
            else:
                asked.tell(self._control)
                return True
