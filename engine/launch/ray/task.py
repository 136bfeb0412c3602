"""A run's task on a worker: resume, train, send events to the driver, receive pause and stop requests.

Ray Train is not imported here: a single worker does not need it, and it takes 260 MiB.
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
_SEND_EVERY_S = 0.05
PATIENCE_S = 30.0
_POLL_EVERY_S = 0.2  # for requests, while there are no events to send


@dataclass(frozen=True, slots=True)
class Task:
    """What every worker gets."""

    run: int
    spec: RunSpec
    folders: Folders
    sync_batchnorm: bool
    autotune_choices: Mapping[str, SettingsTuned]
    channel: Any = None  # the actor that receives events, once the driver has created it

    def context(self, control: RunControl, group: Group, resume: Resume, ledger: Ledger | None = None) -> RunContext:
        """The context of one worker. Only a single worker uses the autotune choices: a group must compute alike."""
        history = History(autotune_choices=self.autotune_choices)
        placement = choose_placement(self.spec)
        return RunContext(self.run, self.folders, ledger or Ledger(), control, placement, history, group, resume)


def this_worker() -> Solo:
    """The group of a run with one worker."""
    return Solo(f"1 worker on {platform.node()}")


@contextmanager
def errors_reported(task: Task) -> Iterator[None]:
    """A ReslabError ends the run. Anything else may mean a lost worker, so the run is retried."""
    try:
        yield
    except ReslabError as error:
        ray.get(task.channel.fail.remote(task.run, Ending("failed", str(error))))


def resume_point_of(task: Task) -> Resume:
    """What the run resumes from, if it has started before."""
    return _resume(task, ray.get(task.channel.newest.remote(task.run)))


def _resume(task: Task, newest: ResumePoint) -> Resume:
    if newest.started is None:
        return FRESH
    checkpoint = None
    if newest.file is not None and newest.sha256 is not None:
        checkpoint = load_checkpoint(task.folders.run_folder(task.run) / newest.file, newest.sha256)
    return Resume(newest.started, checkpoint)


def train_task(task: Task, group: Group, bound_bytes: int | None = None) -> None:
    """Train it as rank zero of `group`, with at most so many bytes on its device; the ending is sent as the last
    event.
    """
    ticket, newest = ray.get(task.channel.register.remote(task.run))
    control = RunControl()
    with group.starting():
        context = task.context(control, group, _resume(task, newest), Ledger(bound_bytes))
    events = train(task.spec, context)
    sender = EventSender(task, ticket, control)
    try:
        while True:
            try:
                sender.send(next(events))
            except StopIteration as end:
                sender.send(end.value)
                return
    finally:
        events.close()
        sender.close()


class EventSender:
    """Sends events from its own thread, so that no step waits for the network, and receives requests.

    Failed batches are sent again; if that fails for 30 s, the run stops.
    """

    def __init__(self, task: Task, ticket: int, control: RunControl) -> None:
        self._task, self._ticket, self._control = task, ticket, control
        self._pending: list[Event | Ending] = []
        self._batch = 0
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def send(self, event: Event | Ending) -> None:
        with self._lock:
            self._pending.append(event)

    def close(self) -> None:
        """Send what is left."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        sent_at = 0.0
        while not self._closed.wait(_SEND_EVERY_S):
            if self._pending or time.monotonic() - sent_at >= _POLL_EVERY_S:
                sent_at = time.monotonic()
                if not self._flush():
                    return
        self._flush()

    def _flush(self) -> bool:
        """Send all pending events. If the driver is gone, stop the run and return False."""
        with self._lock:
            batch, self._pending = self._pending, []
            self._batch += 1
        since = time.monotonic()
        while True:
            try:
                call = self._task.channel.send.remote(self._task.run, self._ticket, self._batch, batch)
                request: ControlRequest = ray.get(call, timeout=PATIENCE_S)
            except RayError as error:
                _log.warning("events of run %d were not sent: %s", self._task.run, error)
                if time.monotonic() - since > PATIENCE_S:
                    self._control.stop("the driver of the run was lost")
                    return False
                time.sleep(_POLL_EVERY_S)
            else:
                request.apply_to(self._control)
                return True
