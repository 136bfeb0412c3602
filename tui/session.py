"""The bridge between the app and the engine: threads on that side, messages on this one.

One run at a time: a new one is refused until the thread of the old one has posted its RunEnded and closed the store.
Torch is loaded inside the thread of the first run, never by the thread that draws.
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
    QueueCarried,
    RunCarried,
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
_TELL_EVERY_S = 1.0  # steps come ten times a second; each message wakes the thread that draws, for 0.3 ms and a core


BackendOf = Callable[[Folders, Ledger], Backend]
"""Makes the backend of this process: the engine's own, or a scripted one in a test."""


def _give_way() -> None:
    """Let this thread, and those that it starts for its arithmetic, yield to the one that answers keys.

    On Linux a thread has a niceness of its own. A key is answered in 40 ms in place of 51 (95th percentile, both cores
    of a small machine training); the price is that other processes on the machine go before the training, too.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _detached(folders: Folders, cluster: Cluster) -> Backend:
    from engine.launch.detached import Detached  # SQLite: the first paint need not wait for it

    return Detached(folders, cluster)


class Session:
    """Owns the threads. `post` hands a message to the app from any of them."""

    def __init__(
        self,
        folders: Folders,
        post: Callable[[Message], object],
        backend_of: BackendOf = InProcess,
        cluster: Cluster | None = None,
    ) -> None:
        self.folders = folders
        self.cluster = cluster
        self.elsewhere = False  # whether the live run is in another process, and goes on without this one
        self.ledger = Ledger()
        self._capacity = Limit()
        self.control: RunControl | None = None
        self.events: deque[Event] = deque()  # what the app has not taken yet
        self._post = post
        self._backend = backend_of(folders, self.ledger) if cluster is None else _detached(folders, cluster)
        self.queue = StoredQueue(folders)
        self._scheduler = Scheduler(self.queue, self._backend, self._capacity, folders)
        self._runner: threading.Thread | None = None
        self._importer: threading.Thread | None = None
        self._gauges: Gauges | None = None
        self._closing = threading.Event()
        self._queue_process: threading.Thread | None = None
        self._leaving = RunControl()  # stopped when the app is left
        self._aside: list[threading.Thread] = []

    @property
    def live(self) -> bool:
        """Whether a run's thread still works, be it only at closing the record."""
        return self._runner is not None and self._runner.is_alive()

    @property
    def busy(self) -> bool:
        """Whether a thread is at work that is not waited for: it imports torch, or computes with it."""
        importers = [self._importer] if self._importer is not None else []
        return any(thread.is_alive() for thread in (*importers, *self._aside))

    async def aside(self, work: Callable[[], T]) -> T:
        """What `work` returns, called in a thread that nobody waits for when the app is left; it may take seconds."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = copy_context()  # Textual's widgets know their app by it

        def tell(tell_it: Callable[[Any], None], value: object) -> None:
            if not done.done():  # nor cancelled
                tell_it(value)

        def call() -> None:
            told: tuple[Callable[[Any], None], object]
            try:
                told = done.set_result, context.run(work)
            except BaseException as error:
                told = done.set_exception, error
            with suppress(RuntimeError):  # the loop is closed: the app was left
                loop.call_soon_threadsafe(tell, *told)

        thread = threading.Thread(target=call, name="aside", daemon=True)
        self._aside = [thread, *(other for other in self._aside if other.is_alive())]
        thread.start()
        return await done

    def start(self, job: Job) -> bool:
        """Start a run; False, and nothing happens, while another one is live."""
        slot = self._capacity.reserve_now()
        if slot is None:
            return False
        self._begin_in(slot, self._backend.start(job))
        return True

    async def take_turn(self) -> Turn | None:
        """Whose turn it is in the queue, once nothing is live; None where nothing waits that is not on hold.

        Raises:
            StoreError: the queue cannot be read.
        """
        turn = await self.aside(lambda: self._scheduler.take_turn(self._leaving))
        assert not isinstance(turn, RunEnded)  # there is always room for a run here, sooner or later
        return turn

    def start_turn(self, turn: Turn) -> None:
        """Start the run whose turn it is."""
        self._begin_in(turn.slot, self._scheduler.start(turn))

    def _begin_in(self, slot: Slot, handle: Handle) -> None:
        def events(control: RunControl) -> Iterator[Event]:
            try:
                yield from handle.events()
            finally:
                self._capacity.release(slot)

        self._begin(events, handle.control, elsewhere=self._backend.survives)

    def follow(self, run: int, begun: bool = False) -> None:
        """Follow a run that another process carries, in place of the one that is followed now; none is live here. One
        that was `begun` for this app is followed to its end, even if it has ended.
        """
        before = self._runner if self.elsewhere else None
        if self.control is not None:
            self.control.leave()

        def events(control: RunControl) -> Iterator[Event]:
            from engine.launch.follow import follow

            if before is not None:
                before.join()
            return follow(run, self.folders, control, begun)

        self._begin(events, RunControl(), elsewhere=True)

    def _begin(self, events: Callable[[RunControl], Iterator[Event]], control: RunControl, elsewhere: bool) -> None:
        self.control, self.elsewhere, self.events = control, elsewhere, deque()
        self._runner = threading.Thread(target=self._run, args=(events, self.control, self.events), name="run")
        self._runner.start()

    @property
    def side_by_side(self) -> bool:
        """Whether the queue's runs train at once, on a cluster."""
        return self.cluster is not None and self.cluster.side_by_side

    @property
    def runs_queue(self) -> bool:
        """Whether a process of its own runs the queue on the cluster."""
        return self._queue_process is not None and self._queue_process.is_alive()

    def run_queue(self) -> None:
        """Let a process of its own run all that waits in the queue on the cluster, unless one does."""
        if not self.runs_queue:
            self._queue_process = threading.Thread(target=self._run_queue, name="queue", daemon=True)
            self._queue_process.start()

    def _run_queue(self) -> None:
        error = None
        try:
            from engine.launch.detached import DetachedProcess, Order

            for run in DetachedProcess(Order(self.folders, cluster=self.cluster)).runs(least=0):
                self._post(RunCarried(run))
        except ReslabError as found:
            error = str(found)
        self._post(QueueCarried(error))

    def _run(self, start: Callable[[RunControl], Iterator[Event]], control: RunControl, events: deque[Event]) -> None:
        from engine.events import DatasetProgressed, EpochEnded, EvaluationProgressed, GradientsMeasured, StepsCompleted

        can_wait = (DatasetProgressed, EpochEnded, EvaluationProgressed, GradientsMeasured, StepsCompleted)
        told, refusal = 0.0, None
        _give_way()
        try:
            with closing(start(control)) as stream:  # type: ignore[type-var]  # a generator; the Protocol says only Iterator
                for event in stream:
                    if control.left:  # another one is followed by now
                        return
                    events.append(event)
                    if not isinstance(event, can_wait) or time.monotonic() - told > _TELL_EVERY_S:
                        told = time.monotonic()
                        self._post(EventsArrived())
        except ReslabError as error:
            refusal = str(error)
        except Exception as error:
            refusal = describe_failure(error, self.folders, "the run could not be continued")
        if refusal is not None and not control.left:
            logging.getLogger("reslab").warning("a run was refused: %s", refusal)
            self._post(RunRefused(refusal))

    def load_torch(self) -> None:
        """Import torch in the background, so that it is there when enter is pressed."""
        self._importer = threading.Thread(target=self._load_torch, name="torch", daemon=True)
        self._importer.start()

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
        """Free what no live run needs, or these holdings of it; MemoryFreed tells what came of it."""
        threading.Thread(target=self._free_memory, args=(numbers,), name="free", daemon=True).start()

    def _free_memory(self, numbers: frozenset[int] | None) -> None:
        from engine.memory.freeing import free_memory

        self._post(MemoryFreed(free_memory(self.ledger, numbers, self._gauges)))

    def stop_all(self, reason: str | None = None) -> None:
        """Ask every thread to come to its end, for `reason` where no person asked; a run that is carried elsewhere goes
        on.
        """
        self._closing.set()
        self._leaving.stop(reason)
        if self.control is not None:
            self.control.leave() if self.elsewhere else self.control.stop(reason)

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait for the run's thread: it closes the record."""
        if self._runner is not None:
            self._runner.join(timeout_s)
