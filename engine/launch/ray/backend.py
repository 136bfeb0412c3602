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
_ASK_ANEW_S = 30.0  # the cluster may be another by then
RETURN_S = 30.0  # of a node, before a run that needs it is tried once more
_MOST_FAILURES = 3
_log = logging.getLogger("reslab")


@dataclass(frozen=True, slots=True)
class Seat:
    """A process on a node, with the share of memory that was asked for."""

    request: Request
    actor: Any


class RayBackend:
    """This process drives the runs, and workers on the cluster train them."""

    survives = False
    on_this_machine = False

    def __init__(self, folders: Folders, cluster: Cluster) -> None:
        self._folders, self._cluster = folders, cluster

    def start(self, job: Job, control: RunControl | None = None, slot: Slot | None = None) -> Handle:
        trainer = _OnRay(self._folders, self._cluster, slot.actor if isinstance(slot, Seat) else None)
        return Handle(lambda control: record_events(job, self._folders, trainer, control), control or RunControl())


@dataclass(frozen=True, slots=True)
class _OnRay:
    """Trains one run; `seat` is a process there that waits for this very run already, if there is one."""

    folders: Folders
    cluster: Cluster
    seat: Any
    on_this_machine: bool = False

    def train(
        self, run: int, spec: RunSpec, resume: Resume, control: Control, store: Store
    ) -> Generator[Event, None, Ending]:
        task = Task(run, spec, self.folders, self.cluster.sync_batchnorm, store.autotune_choices(run))
        return train_on_ray(task, self.cluster, self.seat, control, resume)


def capacity_of(cluster: Cluster, folders: Folders) -> Capacity:
    """Runs of one worker train where there is room; those that several workers share come one after another."""
    return Seats(cluster, folders) if cluster.side_by_side else Limit()


class Seats:
    """As many runs as the cluster has room for, by the forecast of each. Seats whose run has ended are kept for the
    next run that asks for the same, for as long as one waits.
    """

    is_one = False

    def __init__(self, cluster: Cluster, folders: Folders) -> None:
        self._cluster, self._folders = cluster, folders
        self._idle: list[Seat] = []
        self._connection: AbstractContextManager[None] | None = None

    def __enter__(self) -> Seats:
        self._connection = connected(self._cluster, self._folders)
        self._connection.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        assert self._connection is not None
        self._connection.__exit__(*exception)

    def reserve(self, spec: RunSpec, is_wanted: Callable[[], bool]) -> Slot | None:
        """A lost node may come back, and another may have the room: it is tried a few times."""
        for number in range(_MOST_FAILURES):
            try:
                return self._reserve(spec, is_wanted)
            except _MayPassError as failure:
                _log.warning("no seat for %s: %s", spec.model, failure)
                if number + 1 == _MOST_FAILURES:
                    raise ClusterError(str(failure)) from None
                until = time.monotonic() + failure.rest_s
                while is_wanted() and time.monotonic() < until:
                    time.sleep(_LOOK_EVERY_S)
                if not is_wanted():
                    return None
        return None

    def release(self, slot: Slot) -> None:
        assert isinstance(slot, Seat)
        self._idle.append(slot)

    def leave_idle(self) -> None:
        while self._idle:
            ray.kill(self._idle.pop().actor)

    def _reserve(self, spec: RunSpec, is_wanted: Callable[[], bool]) -> Seat | None:
        try:
            use_gpu = check_resources(spec, self._cluster)
        except ClusterError as error:  # it may have lost a node that comes back
            raise _MayPassError(str(error), RETURN_S) from None
        try:
            most = largest_node(use_gpu)[1]
            request = request_for(spec, gpu_bytes() if use_gpu else None, most, folders=self._folders)
            while is_wanted():
                if (seat := self._seat(request, is_wanted)) is not None:
                    return seat
        except RayError as error:  # the node of the seat, or of a gauge, was lost; or no node can make one
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            said = f"no node of the cluster can carry it ({said}); see that all have this reslab"
            raise _MayPassError(said, REST_S) from None
        return None

    def _seat(self, request: Request, is_wanted: Callable[[], bool]) -> Seat | None:
        """None where it is wanted no more, or where it is time to ask anew."""
        seat = next((seat for seat in self._idle if seat.request == request), None)
        was_idle = seat is not None
        if seat is not None:
            self._idle.remove(seat)
        else:
            self.leave_idle()  # they are in the way
            seat = Seat(request, request_actor(request))
        there, since = seat.actor.check.remote(versions()), time.monotonic()
        try:
            while not ray.wait([there], timeout=_LOOK_EVERY_S)[0]:
                if not is_wanted() or time.monotonic() - since > _ASK_ANEW_S:
                    ray.kill(seat.actor)
                    return None
            if (problem := ray.get(there)) is not None:
                raise ClusterError(problem)
        except (ReslabError, RayError) as error:
            ray.kill(seat.actor)
            if was_idle and isinstance(error, RayError):  # lost with its node meanwhile: no fault of this run
                return None
            raise
        return seat


class _MayPassError(Exception):
    """There is no seat now; `rest_s` seconds later there may be one."""

    def __init__(self, said: str, rest_s: float) -> None:
        super().__init__(said)
        self.rest_s = rest_s
