"""Runs on a Ray cluster, and how many of them it has room for. To be imported after `engine.launch.ray.require_ray`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from engine.control import Control, RunControl
from engine.device import versions
from engine.errors import ClusterError, ReslabError
from engine.events import Event
from engine.launch.backend import Capacity, Handle, Job, Limit, Slot
from engine.launch.ray import Cluster
from engine.launch.ray.actor import request_actor
from engine.launch.ray.driver import check_resources, connected, train_on_ray
from engine.launch.ray.nodes import gpu_bytes, largest_node
from engine.launch.ray.request import Request, request_for
from engine.launch.ray.task import Task
from engine.launch.recording import record_events
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from engine.training.loop import Ending
from engine.training.resume import Resume

_LOOK_EVERY_S = 0.1
REST_S = 2.0  # after a failure
_RETRY_S = 30.0  # the cluster may have changed by then
RETURN_S = 30.0  # for a lost node to come back, before the next try
_MOST_FAILURES = 3
_log = logging.getLogger("reslab")


@dataclass(frozen=True, slots=True)
class Reservation:
    """An actor on a node, with the memory that was requested."""

    request: Request
    actor: Any


class RayBackend:
    """This process drives the runs; workers on the cluster train them."""

    survives = False
    on_this_machine = False

    def __init__(self, folders: Folders, cluster: Cluster) -> None:
        self._folders, self._cluster = folders, cluster

    def start(self, job: Job, control: RunControl | None = None, slot: Slot | None = None) -> Handle:
        trainer = _RayTrainer(self._folders, self._cluster, slot.actor if isinstance(slot, Reservation) else None)
        return Handle(lambda control: record_events(job, self._folders, trainer, control), control or RunControl())


@dataclass(frozen=True, slots=True)
class _RayTrainer:
    """Trains one run; `actor` is the one reserved for it, if any."""

    folders: Folders
    cluster: Cluster
    actor: Any
    on_this_machine: bool = False

    def train(
        self, run: int, spec: RunSpec, resume: Resume, control: Control, store: Store
    ) -> Generator[Event, None, Ending]:
        task = Task(run, spec, self.folders, self.cluster.sync_batchnorm, store.autotune_choices(run))
        return train_on_ray(task, self.cluster, self.actor, control, resume)


def capacity_of(cluster: Cluster, folders: Folders) -> Capacity:
    """Runs with one worker train side by side, as far as memory allows; runs with several come one after another."""
    return ClusterCapacity(cluster, folders) if cluster.side_by_side else Limit()


class ClusterCapacity:
    """As many runs as the cluster has room for, by their memory forecasts. While runs wait, an actor whose run has
    ended is kept for the next run with the same request.
    """

    is_one = False

    def __init__(self, cluster: Cluster, folders: Folders) -> None:
        self._cluster, self._folders = cluster, folders
        self._idle: list[Reservation] = []
        self._connection: AbstractContextManager[None] | None = None

    def __enter__(self) -> ClusterCapacity:
        self._connection = connected(self._cluster, self._folders)
        self._connection.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        assert self._connection is not None
        self._connection.__exit__(*exception)

    def reserve(self, spec: RunSpec, is_wanted: Callable[[], bool]) -> Slot | None:
        """Tries several times: a lost node may come back, or another one may have room."""
        for number in range(_MOST_FAILURES):
            try:
                return self._reserve(spec, is_wanted)
            except _RetryLaterError as failure:
                _log.warning("no room for %s: %s", spec.model, failure)
                if number + 1 == _MOST_FAILURES:
                    raise ClusterError(str(failure)) from None
                until = time.monotonic() + failure.rest_s
                while is_wanted() and time.monotonic() < until:
                    time.sleep(_LOOK_EVERY_S)
                if not is_wanted():
                    return None
        return None

    def release(self, slot: Slot) -> None:
        assert isinstance(slot, Reservation)
        self._idle.append(slot)

    def leave_idle(self) -> None:
        while self._idle:
            ray.kill(self._idle.pop().actor)

    def _reserve(self, spec: RunSpec, is_wanted: Callable[[], bool]) -> Reservation | None:
        try:
            use_gpu = check_resources(spec, self._cluster)
        except ClusterError as error:  # a lost node may come back
            raise _RetryLaterError(str(error), RETURN_S) from None
        try:
            most = largest_node(use_gpu)[1]
            request = request_for(spec, gpu_bytes() if use_gpu else None, most, folders=self._folders)
            while is_wanted():
                if (reservation := self._request(request, is_wanted)) is not None:
                    return reservation
        except RayError as error:  # the node of the actor, or of a gauge, was lost; or no node can create one
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            text = f"no node of the cluster can run it ({text}); install the same reslab on all of them"
            raise _RetryLaterError(text, REST_S) from None
        return None

    def _request(self, request: Request, is_wanted: Callable[[], bool]) -> Reservation | None:
        """None if it is no longer wanted, or if it is time to retry."""
        found = next((idle for idle in self._idle if idle.request == request), None)
        was_idle = found is not None
        if found is not None:
            self._idle.remove(found)
        else:
            self.leave_idle()  # they take up the room
            found = Reservation(request, request_actor(request))
        check, since = found.actor.check.remote(versions()), time.monotonic()
        try:
            while not ray.wait([check], timeout=_LOOK_EVERY_S)[0]:
                if not is_wanted() or time.monotonic() - since > _RETRY_S:
                    ray.kill(found.actor)
                    return None
            if (problem := ray.get(check)) is not None:
                raise ClusterError(problem)
        except (ReslabError, RayError) as error:
            ray.kill(found.actor)
            if was_idle and isinstance(error, RayError):  # lost while idle, not because of this run
                return None
            raise
        return found


class _RetryLaterError(Exception):
    """There is no room now; `rest_s` seconds later there may be."""

    def __init__(self, text: str, rest_s: float) -> None:
        super().__init__(text)
        self.rest_s = rest_s
