"""The bridge between the app and the engine, which runs in threads and sends messages to the app.

One run at a time: a new one is refused until the previous run's thread has posted its RunEnded and closed the store.
Torch is imported in a background thread, never by the thread that draws.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from textual.message import Message

from engine.control import RunControl
from engine.errors import ReslabError
from engine.events import RunEnded
from engine.failures import describe_failure
from engine.launch.backend import Backend, Handle, Job, Limit, Slot
from engine.launch.in_process import InProcess
from engine.launch.scheduler import Scheduler, StoredQueue, Turn
from engine.memory.ledger import Ledger
from engine.paths import Folders
from tui.messages import (
    EventsArrived,
    GaugesRead,
    MemoryFreed,
    QueueProcessEnded,
    QueueRunStarted,
    RunRefused,
    TorchLoaded,
)

if TYPE_CHECKING:
    from engine.events import Event
    from engine.launch.ray import Cluster
    from engine.memory.gauges import Gauges

T = TypeVar("T")
_GAUGES_EVERY_S = 1.0
_NICENESS = 5
_POST_EVERY_S = 1.0  # steps come ten times a second, and each message wakes the drawing thread: 0.3 ms of a core


BackendOf = Callable[[Folders, Ledger], Backend]
"""Makes this process's backend: the engine's own, or a scripted one in tests."""


def _lower_priority() -> None:
    """Lower the priority of this thread, and of the threads it starts, below the one that answers keys.

    Linux sets niceness per thread. Keys are answered in 40 ms instead of 51 (95th percentile, both cores of a small
    machine training), but other processes on the machine take precedence over training, too.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _detached(folders: Folders, cluster: Cluster) -> Backend:
    from engine.launch.detached import Detached  # SQLite: the first paint need not wait for it

    return Detached(folders, cluster)


class Session:
    """Owns the threads. `post` sends a message to the app from any of them."""

    def __init__(
        self,
        folders: Folders,
        post: Callable[[Message], object],
        backend_of: BackendOf = InProcess,
        cluster: Cluster | None = None,
    ) -> None:
        self.folders = folders
        self.cluster = cluster
        self.detached = False  # the live run is in another process, and outlives this one
        self.ledger = Ledger()
        self._capacity = Limit()
        self.control: RunControl | None = None
        self.events: deque[Event] = deque()  # not yet taken by the app
        self._post = post
        self._backend = backend_of(folders, self.ledger) if cluster is None else _detached(folders, cluster)
        self.queue = StoredQueue(folders)
        self._scheduler = Scheduler(self.queue, self._backend, self._capacity, folders)
        self._run_thread: threading.Thread | None = None
        self._import_thread: threading.Thread | None = None
        self._gauges: Gauges | None = None
        self._closing = threading.Event()
        self._queue_thread: threading.Thread | None = None
        self._exit_control = RunControl()  # stopped when the app exits
        self._task_threads: list[threading.Thread] = []

    @property
    def live(self) -> bool:
        """Whether a run's thread is still working, even if it is only closing the store."""
        return self._run_thread is not None and self._run_thread.is_alive()

    @property
    def busy(self) -> bool:
        """Whether a thread that does not delay the exit is importing torch or computing."""
        importers = [self._import_thread] if self._import_thread is not None else []
        return any(thread.is_alive() for thread in (*importers, *self._task_threads))

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        """Run `work`, which may take seconds, in a thread that does not delay the app's exit; return its result."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = copy_context()  # Textual's widgets find their app through it

        def resolve(set_outcome: Callable[[Any], None], value: object) -> None:
            if not done.done():  # done includes cancelled
                set_outcome(value)

        def call() -> None:
            outcome: tuple[Callable[[Any], None], object]
            try:
                outcome = done.set_result, context.run(work)
            except BaseException as error:
                outcome = done.set_exception, error
            with suppress(RuntimeError):  # the loop is closed: the app has exited
                loop.call_soon_threadsafe(resolve, *outcome)

        thread = threading.Thread(target=call, name="task", daemon=True)
        self._task_threads = [thread, *(other for other in self._task_threads if other.is_alive())]
        thread.start()
        return await done

    def start(self, job: Job) -> bool:
        """Start a run; do nothing and return False while another is live."""
        slot = self._capacity.reserve_now()
        if slot is None:
            return False
        self._run_in_slot(slot, self._backend.start(job))
        return True

    async def take_turn(self) -> Turn | None:
        """Wait until no run is live, then return the queue's next turn; None if no entry waits or all are on hold.

        Raises:
            StoreError: the queue cannot be read.
        """
        turn = await self.run_in_thread(lambda: self._scheduler.take_turn(self._exit_control))
        assert not isinstance(turn, RunEnded)  # this process always has capacity for a run eventually
        return turn

    def start_turn(self, turn: Turn) -> None:
        """Start the run of a turn."""
        self._run_in_slot(turn.slot, self._scheduler.start(turn))

    def _run_in_slot(self, slot: Slot, handle: Handle) -> None:
        def events(control: RunControl) -> Iterator[Event]:
            try:
                yield from handle.events()
            finally:
                self._capacity.release(slot)

        self._start_thread(events, handle.control, detached=self._backend.survives)

    def follow(self, run: int, from_queue: bool = False) -> None:
        """Follow a run of another process instead of the one followed now; no run may be live in this process.
        `from_queue`: the run was started for this app, so show it even if it has already ended.
        """
        previous = self._run_thread if self.detached else None
        if self.control is not None:
            self.control.leave()

        def events(control: RunControl) -> Iterator[Event]:
            from engine.launch.follow import follow

            if previous is not None:
                previous.join()
            return follow(run, self.folders, control, from_queue)

        self._start_thread(events, RunControl(), detached=True)

    def _start_thread(
        self, events: Callable[[RunControl], Iterator[Event]], control: RunControl, detached: bool
    ) -> None:
        self.control, self.detached, self.events = control, detached, deque()
        self._run_thread = threading.Thread(target=self._run, args=(events, self.control, self.events), name="run")
        self._run_thread.start()

    @property
    def side_by_side(self) -> bool:
        """Whether the queue's runs train at the same time, on a cluster."""
        return self.cluster is not None and self.cluster.side_by_side

    @property
    def is_running_queue(self) -> bool:
        """Whether a separate process is running the queue on the cluster."""
        return self._queue_thread is not None and self._queue_thread.is_alive()

    def run_queue(self) -> None:
        """Run all waiting entries on the cluster in a separate process, unless one already does."""
        if not self.is_running_queue:
            self._queue_thread = threading.Thread(target=self._run_queue, name="queue", daemon=True)
            self._queue_thread.start()

    def _run_queue(self) -> None:
        error = None
        try:
            from engine.launch.detached import DetachedProcess, Order

            for run in DetachedProcess(Order(self.folders, cluster=self.cluster)).runs(least=0):
                self._post(QueueRunStarted(run))
        except ReslabError as found:
            error = str(found)
        self._post(QueueProcessEnded(error))

    def _run(self, start: Callable[[RunControl], Iterator[Event]], control: RunControl, events: deque[Event]) -> None:
        from engine.events import DatasetProgressed, EpochEnded, EvaluationProgressed, GradientsMeasured, StepsCompleted

        deferrable = (DatasetProgressed, EpochEnded, EvaluationProgressed, GradientsMeasured, StepsCompleted)
        posted_at, refusal = 0.0, None
        _lower_priority()
        try:
            with closing(start(control)) as stream:  # type: ignore[type-var]  # a generator; the Protocol says only Iterator
                for event in stream:
                    if control.left:  # the app follows another run now
                        return
                    events.append(event)
                    if not isinstance(event, deferrable) or time.monotonic() - posted_at > _POST_EVERY_S:
                        posted_at = time.monotonic()
                        self._post(EventsArrived())
        except ReslabError as error:
            refusal = str(error)
        except Exception as error:
            refusal = describe_failure(error, self.folders, "the run could not be continued")
        if refusal is not None and not control.left:
            logging.getLogger("reslab").warning("a run was refused: %s", refusal)
            self._post(RunRefused(refusal))

    def load_torch(self) -> None:
        """Import torch in the background, so that it is ready when the user starts a run."""
        self._import_thread = threading.Thread(target=self._load_torch, name="torch", daemon=True)
        self._import_thread.start()

    def _load_torch(self) -> None:
        from engine.device import import_torch

        try:
            import_torch()
            self._post(TorchLoaded(None))
        except ReslabError as error:
            self._post(TorchLoaded(str(error)))

    def watch_memory(self) -> None:
        threading.Thread(target=self._watch_memory, name="gauges", daemon=True).start()

    def _watch_memory(self) -> None:
        from engine.memory.gauges import Gauges
        from engine.memory.node_gauges import read_nodes

        self._gauges = Gauges()
        while not self._closing.is_set():
            nodes = read_nodes(self.folders.home)
            self._post(GaugesRead(self._gauges.read(), self.ledger.holdings(), nodes))
            self._closing.wait(_GAUGES_EVERY_S)

    def free_memory(self, numbers: frozenset[int] | None = None) -> None:
        """Free all memory that no live run needs, or only these holdings; posts MemoryFreed."""
        threading.Thread(target=self._free_memory, args=(numbers,), name="free", daemon=True).start()

    def _free_memory(self, numbers: frozenset[int] | None) -> None:
        from engine.memory.freeing import free_memory

        self._post(MemoryFreed(free_memory(self.ledger, numbers, self._gauges)))

    def stop_all(self, reason: str | None = None) -> None:
        """Ask every thread to stop. Runs of other processes continue. Give `reason` if no user asked for it."""
        self._closing.set()
        self._exit_control.stop(reason)
        if self.control is not None:
            self.control.leave() if self.detached else self.control.stop(reason)

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the run's thread, which closes the store."""
        if self._run_thread is not None:
            self._run_thread.join(timeout_s)
