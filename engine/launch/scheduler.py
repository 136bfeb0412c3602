"""Starts the first entry of a source as soon as there is capacity for it. No entry overtakes another, so small runs
cannot keep a large one waiting forever.

The app, the command line, reports and detached processes all start their runs here. Loads no torch.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.control import RunControl
from engine.errors import ReslabError, StoreError
from engine.events import Event, RunEnded
from engine.launch.backend import Backend, Capacity, Handle, Job, Slot
from engine.log import write_report
from engine.paths import Folders
from engine.records import QueueEntry
from engine.spec import RunSpec
from engine.text import safe_text

_LOOK_EVERY_S = 0.1
_log = logging.getLogger("reslab")


class Source(Protocol):
    """Where specs come from. Both methods raise ReslabError if it cannot be read."""

    def first(self) -> QueueEntry | None:
        """The next entry, without removing it; None if there is none."""
        ...

    def take(self, number: int) -> bool:
        """Remove entry `number` if it is still the next one; returns whether it was."""
        ...


class ListSource:
    """A list of specs."""

    def __init__(self, specs: Sequence[RunSpec]) -> None:
        self._waiting = deque(QueueEntry(number, spec) for number, spec in enumerate(specs, start=1))

    def first(self) -> QueueEntry | None:
        return self._waiting[0] if self._waiting else None

    def take(self, number: int) -> bool:
        return bool(self._waiting) and self._waiting.popleft().number == number


class StoredQueue:
    """The queue in the store. Entries whose number is in `on_hold` stay there."""

    def __init__(self, folders: Folders) -> None:
        self.on_hold: frozenset[int] = frozenset()
        self._folders = folders

    def first(self) -> QueueEntry | None:
        from engine.store.store import Store  # SQLite: the first paint need not wait for it

        with Store(self._folders.database) as store:
            return store.first_waiting(self.on_hold)

    def take(self, number: int) -> bool:
        from engine.store.store import Store  # SQLite: the first paint need not wait for it

        with Store(self._folders.database) as store:
            return store.take_next(number, self.on_hold) is not None


@dataclass(frozen=True, slots=True)
class Turn:
    """An entry taken from the source, with the slot to run it in."""

    entry: QueueEntry
    slot: Slot

    @property
    def job(self) -> Job:
        return Job(self.entry.spec)


class Scheduler:
    """Starts the entries of `source` with `backend`, within `capacity`; `folders` contain the store."""

    def __init__(self, source: Source, backend: Backend, capacity: Capacity, folders: Folders) -> None:
        self._source, self._backend, self._capacity, self._folders = source, backend, capacity, folders

    def take_turn(self, control: RunControl) -> Turn | RunEnded | None:
        """Take the next entry once there is room. A run that can never start is stored as failed, and its end returned.
        None if no entry waits, the source changed meanwhile, or `control` requests a stop.
        """
        entry = self._source.first()
        if entry is None:
            return None
        try:
            slot = self._capacity.reserve(entry.spec, lambda: not control.stop_requested and self._is_next(entry))
        except ReslabError as error:
            return self._refuse(entry, str(error)) if self._source.take(entry.number) else None
        if slot is None:
            return None
        if not self._source.take(entry.number):
            self._capacity.release(slot)
            return None
        return Turn(entry, slot)

    def start(self, turn: Turn, control: RunControl | None = None) -> Handle:
        """Start the run of `turn`. The caller must `release` the turn at its end."""
        return self._backend.start(turn.job, control, turn.slot)

    def release(self, turn: Turn) -> None:
        self._capacity.release(turn.slot)

    def events(self, control: RunControl) -> Generator[Event, None, None]:
        """Start all entries of the source and yield the runs' events until the last has ended. A stop of `control`
        stops every run and starts no more.

        Raises:
            ReslabError: one after another: a run cannot start; side by side: the source cannot be read or the capacity
                is not available. Runs that have started end first.
        """
        with self._capacity:
            yield from self._in_turn(control) if self._capacity.is_one else _SideBySide(self, control).events()

    def _in_turn(self, control: RunControl) -> Generator[Event, None, None]:
        while not (control.stop_requested or control.left) and self._source.first() is not None:
            turn = self.take_turn(control)
            if isinstance(turn, RunEnded):
                yield turn
            elif turn is not None:
                try:
                    yield from self.start(turn, control).events()
                finally:
                    self.release(turn)

    def _is_next(self, entry: QueueEntry) -> bool:
        """Whether the entry is still the first; also True if the source cannot be read now, which is then retried."""
        try:
            return self._source.first() == entry
        except ReslabError as error:
            _log.warning("the queue could not be read: %s", error)
            return True

    def _refuse(self, entry: QueueEntry, error: str) -> RunEnded:
        return record_refused(self._folders, entry.spec, error)

    def is_empty(self) -> bool:
        return self._source.first() is None

    def leave_idle(self) -> None:
        self._capacity.leave_idle()

    def failed(self, turn: Turn, error: Exception) -> RunEnded | None:
        """Store a run that failed before it had a row; returns its end, or None if that cannot be stored."""
        spec = turn.entry.spec
        write_report(self._folders.log, error, f"{spec.model} on {spec.dataset} could not be run")
        try:
            known = isinstance(error, ReslabError)
            return self._refuse(turn.entry, str(error) if known else f"{type(error).__name__}; see {self._folders.log}")
        except StoreError as lost:
            _log.warning("the failure was not recorded: %s", lost)
            return None


class _SideBySide:
    """Runs at the same time: one thread starts them, one per run follows it, and the caller gets all events."""

    def __init__(self, scheduler: Scheduler, control: RunControl) -> None:
        self._scheduler, self._control = scheduler, control
        self._events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._controls: list[RunControl] = []

    def events(self) -> Generator[Event, None, None]:
        starter = threading.Thread(target=self._start_all, name="scheduler", daemon=True)
        starter.start()
        problem: BaseException | None = None
        while (event := self._events.get()) is not None:
            if isinstance(event, BaseException):
                problem = event
            else:
                yield event
        starter.join()
        if problem is not None:
            raise problem

    def _start_all(self) -> None:
        try:
            while not self._control.stop_requested:
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                if not self._scheduler.is_empty():
                    self._start_next()
                elif self._threads:
                    self._scheduler.leave_idle()
                    self._control.wait(_LOOK_EVERY_S)
                else:
                    break
        except Exception as error:
            self._events.put(error)
        finally:
            self._wait()
            self._events.put(None)

    def _start_next(self) -> None:
        turn = self._scheduler.take_turn(self._control)
        if isinstance(turn, RunEnded):
            self._events.put(turn)
        elif turn is not None:
            control, has_number = RunControl(), threading.Event()
            self._controls.append(control)
            thread = threading.Thread(target=self._follow, args=(turn, control, has_number), name="run", daemon=True)
            self._threads.append(thread)
            thread.start()
            has_number.wait()  # so that runs are numbered in queue order

    def _follow(self, turn: Turn, control: RunControl, has_number: threading.Event) -> None:
        handle = self._scheduler.start(turn, control)
        try:
            for event in handle.events():
                self._events.put(event)
                has_number.set()
        except Exception as error:
            if handle.run is None:  # else its row says how it ended
                if (ended := self._scheduler.failed(turn, error)) is not None:
                    self._events.put(ended)
            else:
                _log.warning("run %d failed", handle.run, exc_info=True)
        finally:
            self._scheduler.release(turn)
            has_number.set()

    def _wait(self) -> None:
        """Wait until the last run has ended; pass a requested stop on to all of them."""
        while any(thread.is_alive() for thread in self._threads):
            if self._control.stop_requested:
                for control in self._controls:
                    control.stop(self._control.stop_reason)
            self._control.wait(_LOOK_EVERY_S)
        self._scheduler.leave_idle()


def record_refused(folders: Folders, spec: RunSpec, error: str) -> RunEnded:
    """Store a run that could not start as failed, so that it is not retried forever; returns its end.

    Raises:
        StoreError: it cannot be stored.
    """
    from engine.store.store import Store  # SQLite: the first paint need not wait for it

    with Store(folders.database) as store:
        ended = RunEnded(store.create_run(spec), "failed", None, None, 0.0, None, 0, safe_text(error))
        store.record(ended)
        return ended
