"""Runs the queue: waiting entries are in the store, and the next run starts when the previous one has ended.

Stopping a run, or restarting the app, puts all waiting entries on hold until the user resumes them. Entries added
later are not on hold.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from engine.errors import ReslabError
from engine.records import QueueEntry, UnreadableEntry
from engine.spec import RunSpec
from tui.text import counted

if TYPE_CHECKING:
    from engine.store.store import Store
    from tui.commands import Host
    from tui.session import Session
    from tui.state import AppState, Observable, QueueState

T = TypeVar("T")


class Queue:
    """`is_active`: entries that are not on hold start automatically. Screens read the queue from the app's state."""

    def __init__(self, app: Host, state: AppState, session: Session, specs: Sequence[RunSpec]) -> None:
        self.is_active = bool(specs)
        self._reported: set[UnreadableEntry] = set()  # already reported
        self.exit_code = 0  # of the runs on a cluster
        self._app = app
        self._state = state
        self._session = session
        self._initial_specs = specs[1:] if state.settings.first_spec is not None else specs
        self._initial_specs_stored = asyncio.Event()  # set once the specs from the command line are stored
        self._turn_lock = asyncio.Lock()  # one task at a time takes an entry

    def open(self) -> None:
        """At startup: store the specs from the command line, or offer to start entries left from last time."""
        self._app.run_worker(self._open(), group="queue")

    async def _open(self) -> None:
        if self._initial_specs:
            await self._with_store(lambda store: store.enqueue(self._initial_specs))
        self._initial_specs_stored.set()
        await self.read()
        if not self.is_active:
            self._hold_all()
        if self._session.side_by_side and self._initial_specs:
            await self._start_next()
        if self.waiting and not self.is_active and self._state.settings.attached is None:
            wait = "waits" if len(self.waiting) == 1 else "wait"
            text = f"{counted(len(self.waiting), 'run')} {wait} in the queue from last time. Start the queue?"
            if await self._app.ask(text):
                self.start()

    async def read(self) -> None:
        found = await self._with_store(lambda store: (store.waiting(), store.unreadable_waiting()))
        waiting, unreadable = found or ([], [])
        self._shown.value = replace(self._shown.value, waiting=tuple(waiting))
        for entry in set(unreadable) - self._reported:
            text = f"queue entry {entry.number} cannot be read and stays in the queue: {entry.problem}"
            self._app.report(text, "warning")
        self._reported |= set(unreadable)

    @property
    def _shown(self) -> Observable[QueueState]:
        return self._state.queue

    @property
    def waiting(self) -> tuple[QueueEntry, ...]:
        """The waiting entries as of the last read."""
        return self._shown.value.waiting

    def _set_on_hold(self, numbers: frozenset[int]) -> None:
        """Put exactly these entries on hold."""
        self._session.queue.on_hold = numbers
        self._shown.value = replace(self._shown.value, on_hold=numbers)

    def _hold_all(self) -> None:
        self._set_on_hold(frozenset(item.number for item in self.waiting))

    def add(self, specs: Sequence[RunSpec], show: bool = False) -> None:
        """Append specs. If no run is live, start the first one; `show` then switches to Train."""
        self._app.run_worker(self._add(list(specs), show), group="queue")

    async def _add(self, specs: list[RunSpec], show: bool) -> None:
        self.is_active = True  # before the first await, so that `_open` does not offer these as "from last time"
        await self._with_store(lambda store: store.enqueue(specs))
        await self.read()
        held = len(self._shown.value.held)
        on_hold = f", {held} of them on hold" if held else ""
        self._app.report(
            f"{counted(len(specs), 'run')} added, {len(self.waiting)} in the queue{on_hold} · u: show queue"
        )
        self._state.update_status()
        if self._session.side_by_side or not self._session.live:
            await self._start_next(show)

    def start(self) -> None:
        """Run all waiting entries: now, or when the live run has ended."""
        self.is_active = True
        self._set_on_hold(frozenset())
        if self._session.side_by_side or not self._state.is_running:
            self._app.run_worker(self._start_next(), group="queue")

    def run_started(self, run: int) -> None:
        """A run of the queue has started on the cluster."""
        self._shown.value = replace(self._shown.value, started=(*self._shown.value.started, run))
        self._app.run_worker(self.read(), group="queue")

    def process_ended(self, succeeded: bool) -> None:
        """The process that runs the queue on the cluster has ended."""
        self.is_active = False
        self._app.run_worker(self._process_ended(succeeded), group="queue")

    async def _process_ended(self, succeeded: bool) -> None:
        await self.read()
        runs = await self._with_store(lambda store: store.runs())
        statuses = [summary.status for summary in runs or () if summary.run in self._shown.value.started]
        self.exit_code = int(any(status in ("failed", "diverged") for status in statuses)) if succeeded else 2
        if self.waiting and succeeded:  # added while the last run ended
            self.is_active = True
            await self._start_next()
        elif not self._state.is_running:
            self._app.queue_is_empty()

    def hold(self) -> None:
        """Let the live run end and put all waiting entries on hold."""
        self.is_active = False
        self._hold_all()
        self._state.update_status()

    def run_ended(self) -> None:
        """A run has ended: start the next one if the queue is active."""
        self._shown.value = replace(self._shown.value, done=self._shown.value.done + 1)
        self._app.run_worker(self._run_ended(), group="queue")

    async def _run_ended(self) -> None:
        live = self._state.live.value
        if self.is_active and not (live and live.stopping):
            await self._start_next()
        else:
            self.is_active = False
            await self.read()
            self._hold_all()
            self._state.update_status()
            self._app.queue_is_empty()

    async def _start_next(self, show: bool = False) -> None:
        await self._initial_specs_stored.wait()
        if self._session.side_by_side:
            await self.read()
            if self.waiting:
                self._session.run_queue()
            elif not self._session.is_running_queue:
                self._app.queue_is_empty()
            return
        async with self._turn_lock:
            if self._state.is_running:  # another task was faster; the next turn comes when its run ends
                return
            try:
                turn = await self._session.take_turn()
            except ReslabError as error:
                turn = None
                self._app.report(str(error), "error")
            if turn is not None:
                self._app.start_turn(turn, show)
            await self.read()
        if turn is None:
            self._app.queue_is_empty()

    def change(self, work: Callable[[Store], None]) -> None:
        """Move or remove waiting entries."""
        self._app.run_worker(self._change(work), group="queue")

    async def _change(self, work: Callable[[Store], None]) -> None:
        await self._with_store(work)
        await self.read()

    async def _with_store(self, work: Callable[[Store], T]) -> T | None:
        def call() -> T:
            from engine.store.store import Store  # SQLite: keep it out of the first paint

            with Store(self._state.folders.database) as store:
                return work(store)

        try:
            return await asyncio.to_thread(call)
        except ReslabError as error:
            self._app.report(str(error), "error")
            return None
