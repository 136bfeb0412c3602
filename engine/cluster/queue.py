"""Many runs side by side on a cluster: the first in the queue begins as soon as there is a seat for it.

None overtakes another, so a large run is not kept waiting by small ones for ever. To be imported after
`engine.cluster.require_ray`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Protocol

import ray
from ray.exceptions import RayActorError

from engine.carried.stream import Stream
from engine.cluster import Cluster
from engine.cluster.driver import connected, wants_gpu
from engine.cluster.nodes import gpu_bytes, most_memory
from engine.cluster.request import request_for
from engine.cluster.seat import take_seat
from engine.control import RunControl
from engine.device import versions
from engine.errors import ReslabError
from engine.log import write_report
from engine.paths import Places
from engine.results.store import Store
from engine.runs import Lab, run
from engine.spec import RunSpec

_LISTEN_S = 0.1
_log = logging.getLogger("reslab")


class Source(Protocol):
    """Where the specs come from."""

    def first(self) -> RunSpec | None:
        """The next one, which stays where it is; None where none waits."""

    def take(self) -> RunSpec | None:
        """Take it."""


class Given:
    """A list of specs."""

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self._specs = deque(specs)

    def first(self) -> RunSpec | None:
        return self._specs[0] if self._specs else None

    def take(self) -> RunSpec | None:
        return self._specs.popleft() if self._specs else None


class Recorded:
    """The queue in the record."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def first(self) -> RunSpec | None:
        with Store(self._places.database) as store:
            waiting = store.waiting()
        return waiting[0].spec if waiting else None

    def take(self) -> RunSpec | None:
        with Store(self._places.database) as store:
            return store.take_next()


class Scheduler:
    """Carries all that a source has, and ends when the last run has. `started` hears of each run's number."""

    def __init__(
        self, source: Source, places: Places, cluster: Cluster, control: RunControl, started: Callable[[int], None]
    ) -> None:
        self._source, self._places, self._cluster = source, places, cluster
        self._control, self._started = control, started
        self._threads: list[threading.Thread] = []
        self._controls: list[RunControl] = []

    def carry(self) -> None:
        """Raises ClusterError where Ray is not to be had; a run that cannot be begun is told of in the log."""
        with connected(self._cluster, self._places):
            while True:
                if self._control.stop_requested:
                    for control in self._controls:
                        control.stop(self._control.stop_reason)
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                spec = None if self._control.stop_requested else self._source.first()
                if spec is not None:
                    self._begin(spec)
                elif self._threads:
                    self._control.wait(_LISTEN_S)
                else:
                    return

    def _begin(self, spec: RunSpec) -> None:
        """Wait for a seat, and begin the run in it; where the queue was changed meanwhile, look again."""
        try:
            request = request_for(spec, gpu_bytes() if wants_gpu(spec) else 0, most_memory())
        except ReslabError as error:
            _log.warning("%s on %s was not begun: %s", spec.model, spec.dataset, error)
            self._source.take()
            return
        seat = take_seat(request)
        there = seat.check.remote(versions())
        while not ray.wait([there], timeout=_LISTEN_S)[0]:
            if self._control.stop_requested or self._source.first() != spec:
                ray.kill(seat)
                return
        try:
            ray.get(there)
        except RayActorError:  # its node was lost
            return
        taken = self._source.take()
        if taken != spec:  # by a hair
            ray.kill(seat)
            return
        control = RunControl()
        self._controls.append(control)
        thread = threading.Thread(target=self._run, args=(spec, seat, control), name=f"run of {spec.model}")
        self._threads.append(thread)
        thread.start()

    def _run(self, spec: RunSpec, seat: Any, control: RunControl) -> None:
        lab = Lab(self._places, cluster=replace(self._cluster, num_workers=1, seat=seat))
        stream: Stream | None = None
        try:
            with closing(run(spec, lab, control)) as events:
                for event in events:
                    if stream is None:
                        stream = Stream(self._places.run_folder(event.run), control)
                        self._started(event.run)
                    stream.tell(event)
        except Exception as error:
            write_report(self._places.log, error, f"{spec.model} on {spec.dataset} could not be carried on")
        finally:
            if stream is not None:
                stream.close()
            ray.kill(seat)
