"""Many runs side by side on a cluster: the first in the queue begins as soon as there is a seat for it.

None overtakes another, so a large run is not kept waiting by small ones for ever. To be imported after
`engine.launch.ray.require_ray`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any, Protocol

import ray
from ray.exceptions import RayError

from engine.control import RunControl
from engine.device import versions
from engine.errors import ClusterError, ReslabError
from engine.events import RunEnded
from engine.launch.in_process import Lab, run
from engine.launch.ray import Cluster
from engine.launch.ray.driver import check_resources, connected
from engine.launch.ray.nodes import gpu_bytes, largest_node
from engine.launch.ray.request import Request, request_for
from engine.launch.ray.seat import take_seat
from engine.launch.stream import Stream
from engine.log import write_report
from engine.paths import Places
from engine.records import QueueEntry
from engine.spec import RunSpec
from engine.store.store import Store
from engine.text import safe_text

_LISTEN_S = 0.1
_REST_S = 2.0  # after a failure
_ASK_ANEW_S = 30.0
_RETURN_S = 30.0  # of a node, before a run that needs it is tried once more
_MOST_FAILURES = 3
_log = logging.getLogger("reslab")


class Source(Protocol):
    """Where the specs come from. Raises ReslabError where they cannot be read."""

    def first(self) -> QueueEntry | None:
        """The next one, which stays where it is; None where none waits."""

    def take(self, number: int) -> bool:
        """Take it, if it still is the next one."""


class Given:
    """A list of specs."""

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self._waiting = deque(QueueEntry(number, spec) for number, spec in enumerate(specs))

    def first(self) -> QueueEntry | None:
        return self._waiting[0] if self._waiting else None

    def take(self, number: int) -> bool:
        return self._waiting.popleft().number == number


class Recorded:
    """The queue in the record."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def first(self) -> QueueEntry | None:
        with Store(self._places.database) as store:
            waiting = store.waiting()
        return waiting[0] if waiting else None

    def take(self, number: int) -> bool:
        with Store(self._places.database) as store:
            return store.take_next(number) is not None


class Scheduler:
    """Carries all that a source has, and ends when the last run has. `started` hears of each run's number."""

    def __init__(
        self, source: Source, places: Places, cluster: Cluster, control: RunControl, started: Callable[[int], None]
    ) -> None:
        self._source, self._places, self._cluster = source, places, cluster
        self._control, self._started = control, started
        self._threads: list[threading.Thread] = []
        self._controls: list[RunControl] = []
        self._failures = 0  # of the entry that is the next one, in a row
        self._idle: list[tuple[Request, Any]] = []  # seats whose run has ended, for the next one like it

    def carry(self) -> None:
        """Raises ClusterError where Ray is not available, StoreError where the queue can no longer be read; the runs
        that have begun come to their end all the same.
        """
        with connected(self._cluster, self._places):
            try:
                while not self._control.stop_requested:
                    self._threads = [thread for thread in self._threads if thread.is_alive()]
                    waiting = self._source.first()
                    if waiting is not None:
                        self._try(waiting)
                    elif self._threads:
                        self._leave_seats()
                        self._control.wait(_LISTEN_S)
                    else:
                        break
            finally:
                self._wait()

    def _wait(self) -> None:
        """Until the last run has ended, at once where a stop is asked for."""
        while any(thread.is_alive() for thread in self._threads):
            if self._control.stop_requested:
                for control in self._controls:
                    control.stop(self._control.stop_reason)
            self._control.wait(_LISTEN_S)
        self._leave_seats()

    def _leave_seats(self) -> None:
        """Nobody is to come to those that are idle."""
        while self._idle:
            ray.kill(self._idle.pop()[1])

    def _try(self, waiting: QueueEntry) -> None:
        """Begin the next run when there is room. Where it cannot be begun, again and again, that is its end."""
        spec = waiting.spec
        try:
            use_gpu = check_resources(spec, self._cluster)
        except ClusterError as error:  # it may have lost a node that comes back
            self._failed_try(waiting, str(error), _RETURN_S)
            return
        try:
            request = request_for(spec, gpu_bytes() if use_gpu else None, largest_node(use_gpu)[1], places=self._places)
            seat = self._seat(waiting, request)
        except ReslabError as error:
            self._refuse(waiting, str(error))
            return
        except RayError as error:  # the node of the seat, or of a gauge, was lost; or no node can make one
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            said = f"no node of the cluster can carry it ({said}); see that all have this reslab"
            self._failed_try(waiting, said, _REST_S)
            return
        if seat is None:
            return
        if not self._source.take(waiting.number):  # another one took it
            ray.kill(seat)
            return
        self._failures = 0
        control = RunControl()
        self._controls.append(control)
        has_number = threading.Event()
        thread = threading.Thread(target=self._run, args=(spec, request, seat, control, has_number), name="run")
        self._threads.append(thread)
        thread.start()
        has_number.wait()  # runs are numbered in the order of the queue

    def _failed_try(self, waiting: QueueEntry, error: str, rest_s: float) -> None:
        self._failures += 1
        _log.warning("no seat for %s: %s", waiting.spec.model, error)
        if self._failures == _MOST_FAILURES:
            self._refuse(waiting, error)
        else:
            until = time.monotonic() + rest_s
            while not self._control.stop_requested and time.monotonic() < until:
                self._control.wait(_LISTEN_S)

    def _seat(self, waiting: QueueEntry, request: Request) -> Any | None:
        """A seat; None where the queue was changed meanwhile, a stop was asked for, or it is time to ask anew: the
        cluster may be another by now.
        """
        seat: Any = next((seat for known, seat in self._idle if known == request), None)
        was_idle = seat is not None
        if was_idle:
            self._idle.remove((request, seat))
        else:
            self._leave_seats()  # they are in the way
            seat = take_seat(request)
        there, since = seat.check.remote(versions()), time.monotonic()
        try:
            while not ray.wait([there], timeout=_LISTEN_S)[0]:
                if self._is_changed(waiting) or self._control.stop_requested or time.monotonic() - since > _ASK_ANEW_S:
                    ray.kill(seat)
                    return None
            if (problem := ray.get(there)) is not None:
                raise ClusterError(problem)
        except (ReslabError, RayError) as error:
            ray.kill(seat)
            if was_idle and isinstance(error, RayError):  # lost with its node meanwhile: no fault of this run
                return None
            raise
        return seat

    def _is_changed(self, waiting: QueueEntry) -> bool:
        """Whether another entry is the next one by now; a queue that cannot be read just now is read again."""
        try:
            return self._source.first() != waiting
        except ReslabError as error:
            _log.warning("the queue was not read: %s", error)
            return False

    def _refuse(self, waiting: QueueEntry, error: str) -> None:
        """Record that it was not begun, so that it is not tried for ever, and the others come to their turn."""
        self._failures = 0
        if self._source.take(waiting.number):
            self._fail(waiting.spec, error)

    def _fail(self, spec: RunSpec, error: str) -> None:
        with Store(self._places.database) as store:
            number = store.create_run(spec)
            store.record(RunEnded(number, "failed", None, None, 0.0, None, 0, safe_text(error)))
        self._started(number)

    def _run(
        self, spec: RunSpec, request: Request, seat: Any, control: RunControl, has_number: threading.Event
    ) -> None:
        lab = Lab(self._places, cluster=replace(self._cluster, num_workers=1, seat=seat))
        stream: Stream | None = None
        try:
            with closing(run(spec, lab, control)) as events:
                for event in events:
                    if stream is None:
                        stream = Stream(self._places.run_folder(event.run))
                        self._started(event.run)
                        has_number.set()
                    stream.tell(event)
        except Exception as error:
            write_report(self._places.log, error, f"{spec.model} on {spec.dataset} could not be carried on")
            if stream is None:  # else it has a row, which says how it ended
                with suppress(ReslabError):
                    known = isinstance(error, ReslabError)
                    self._fail(spec, str(error) if known else f"{type(error).__name__}; see {self._places.log}")
        finally:
            if stream is not None:
                stream.close()
            has_number.set()  # also where it came to nothing
            self._idle.append((request, seat))
