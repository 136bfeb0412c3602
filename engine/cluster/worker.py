"""A worker of a run on Ray: alone, or one of several of which the first one trains and tells and the others follow."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist

from engine.carried.stream import Asked
from engine.cluster import versions_differ
from engine.cluster.exchange import Newest
from engine.control import RunControl
from engine.device import choose_placement, versions
from engine.errors import ClusterError, ReslabError
from engine.events import Event, SettingsTuned
from engine.memory.ledger import Ledger
from engine.paths import Places
from engine.spec import RunSpec
from engine.training.checkpoint import load_checkpoint
from engine.training.crew import Crew, follow
from engine.training.resuming import Resume
from engine.training.setup import Known, set_up
from engine.training.train import Ending, train

_TELL_EVERY_S = 0.05
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Task:
    """What every worker is given."""

    run: int
    spec: RunSpec
    places: Places
    sync_batchnorm: bool
    exchange: Any
    tunings: Mapping[str, SettingsTuned]


def work(config: dict[str, Any]) -> None:
    """Make the run with other workers, from its newest checkpoint on; the ending is told as the last of the events."""
    task: Task = config["task"]
    with _sentences_told(task):
        crew = _assemble(task)
        if crew.leads:
            _train(task, crew)
            return
        placement = crew.placed(choose_placement(task.spec))
        resume, control = _newest(task), RunControl()
        ready = set_up(task.run, task.spec, task.places, Ledger(), control, placement, Known(), resume, crew)
        follow(_drained(ready), crew)


def train_and_tell(task: Task) -> None:
    """As `work`, alone."""
    with _sentences_told(task):
        _train(task, None)


@contextmanager
def _sentences_told(task: Task) -> Iterator[None]:
    """What has a sentence ends the run. Anything else may be a worker that was lost: it is begun again."""
    try:
        yield
    except ReslabError as error:
        ray.get(task.exchange.tell.remote([Ending("failed", str(error))]))


def _newest(task: Task) -> Resume | None:
    """What the run goes on from, if it was begun already."""
    newest: Newest = ray.get(task.exchange.newest.remote())
    if newest.started is None:
        return None
    checkpoint = None
    if newest.file is not None and newest.sha256 is not None:
        checkpoint = load_checkpoint(task.places.run_folder(task.run) / newest.file, newest.sha256)
    return Resume(newest.started, checkpoint)


def _train(task: Task, crew: Crew | None) -> None:
    control = RunControl()
    teller = Teller(task.exchange, control)
    known = Known() if crew is not None else Known(tunings=task.tunings, workers=f"1 worker on {platform.node()}")
    events = train(task.run, task.spec, task.places, Ledger(), control, known, _newest(task), crew)
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


def _assemble(task: Task) -> Crew:
    context = ray.train.get_context()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(cores // context.get_local_world_size(), 1))
    here: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(here, (ray.get_runtime_context().get_node_id(), versions()))
    nodes = {node for node, _ in here}
    for _, found in here:
        if (problem := versions_differ(here[0][1], found)) is not None:
            raise ClusterError(problem)
    device = ray.train.torch.get_device()
    return Crew.assemble(len(nodes), task.sync_batchnorm, device if device.type == "cuda" else None)


def _drained(work: Generator[Any, None, T]) -> T:
    """What a generator returns; what it yields, the first worker tells of."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            done: T = end.value
            return done


class Teller:
    """Sends events from a thread of its own, so that no step waits for the network, and hears what is asked."""

    def __init__(self, exchange: Any, control: RunControl) -> None:
        self._exchange, self._control = exchange, control
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
        asked: Asked = ray.get(self._exchange.tell.remote(sent))
        asked.tell(self._control)
