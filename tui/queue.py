"""The queue as the app drives it: what waits is in the record, the next run starts when the one before has ended.

A run that was stopped by hand puts what waits on hold, as a restart does; resuming it is then a choice. What is added
later runs without it.
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
    """`going` says whether it goes on by itself, with all that is not on hold. What the screens show of it is in the
    app's state.
    """

    def __init__(self, app: Host, state: AppState, session: Session, specs: Sequence[RunSpec]) -> None:
        self.going = bool(specs)
        self._skipped: set[UnreadableEntry] = set()  # those that were reported
        self.worst = 0  # exit code of the runs that were carried on a cluster
        self._app = app
        self._state = state
        self._session = session
        self._first = specs[1:] if state.settings.first_spec is not None else specs
        self._taken_in = asyncio.Event()  # what was asked for at the start is in the record
        self._turn = asyncio.Lock()  # whoever takes the next entry

    def open(self) -> None:
        """At the start: take in what was asked for on the command line, or offer what waits from the last time."""
        self._app.run_worker(self._open(), group="queue")

    async def _open(self) -> None:
        if self._first:
            await self._with_store(lambda store: store.enqueue(self._first))
        self._taken_in.set()
        await self.read()
        if not self.going:
            self._hold_what_waits()
        if self._session.side_by_side and self._first:
            await self._next()
        if self.waiting and not self.going and self._state.settings.attached is None:
            wait = "waits" if len(self.waiting) == 1 else "wait"
            text = f"{counted(len(self.waiting), 'run')} {wait} in the queue from the last time. Start the queue?"
            if await self._app.ask(text):
                self.start()

    async def read(self) -> None:
        found = await self._with_store(lambda store: (store.waiting(), store.unreadable_waiting()))
        waiting, unreadable = found or ([], [])
        self._shown.value = replace(self._shown.value, waiting=tuple(waiting))
        for entry in set(unreadable) - self._skipped:
            text = f"queue entry {entry.number} cannot be read and stays in the queue: {entry.problem}"
            self._app.report(text, "warning")
        self._skipped |= set(unreadable)

    @property
    def _shown(self) -> Observable[QueueState]:
        return self._state.queue

    @property
    def waiting(self) -> tuple[QueueEntry, ...]:
        """What the record held when it was last read."""
        return self._shown.value.waiting

    def _put_on_hold(self, numbers: frozenset[int]) -> None:
        """Have these entries on hold, and no others."""
        self._session.queue.on_hold = numbers
        self._shown.value = replace(self._shown.value, on_hold=numbers)

    def _hold_what_waits(self) -> None:
        self._put_on_hold(frozenset(item.number for item in self.waiting))

    def add(self, specs: Sequence[RunSpec], show: bool = False) -> None:
        """Put specs at the end; with nothing live the first of them starts, and `show` goes to its live screen."""
        self._app.run_worker(self._add(list(specs), show), group="queue")

    async def _add(self, specs: list[RunSpec], show: bool) -> None:
        self.going = True  # before the first await: what is added now is no queue "from the last time"
        await self._with_store(lambda store: store.enqueue(specs))
        await self.read()
        held = len(self._shown.value.held)
        on_hold = f", {held} of them on hold" if held else ""
        self._app.report(f"{counted(len(specs), 'run')} added, {len(self.waiting)} in the queue{on_hold}: u shows it")
        self._state.update_status()
        if self._session.side_by_side or not self._session.live:
            await self._next(show)

    def start(self) -> None:
        """Go on with the queue: at once, or when the live run has ended."""
        self.going = True
        self._put_on_hold(frozenset())
        if self._session.side_by_side or not self._state.is_running:
            self._app.run_worker(self._next(), group="queue")

    def has_begun(self, run: int) -> None:
        """One more of its runs has begun on the cluster."""
        self._shown.value = replace(self._shown.value, begun=(*self._shown.value.begun, run))
        self._app.run_worker(self.read(), group="queue")

    def has_ended(self, well: bool) -> None:
        """The process that carried its runs on the cluster has ended, as it should where it went `well`."""
        self.going = False
        self._app.run_worker(self._has_ended(well), group="queue")

    async def _has_ended(self, well: bool) -> None:
        await self.read()
        runs = await self._with_store(lambda store: store.runs())
        ended = [record.status for record in runs or () if record.run in self._shown.value.begun]
        self.worst = int(any(status in ("failed", "diverged") for status in ended)) if well else 2
        if self.waiting and well:  # added while the last of them ended
            self.going = True
            await self._next()
        elif not self._state.is_running:
            self._app.queue_is_empty()

    def hold(self) -> None:
        """Let the live run end, and start none after it of those that wait now."""
        self.going = False
        self._hold_what_waits()
        self._state.update_status()

    def go_on(self) -> None:
        """A run has ended: start the next one once nothing is live, if the queue goes on by itself."""
        self._shown.value = replace(self._shown.value, done=self._shown.value.done + 1)
        self._app.run_worker(self._go_on(), group="queue")

    async def _go_on(self) -> None:
        live = self._state.live.value
        if self.going and not (live and live.stopping):
            await self._next()
        else:
            self.going = False
            await self.read()
            self._hold_what_waits()
            self._state.update_status()
            self._app.queue_is_empty()

    async def _next(self, show: bool = False) -> None:
        await self._taken_in.wait()
        if self._session.side_by_side:
            await self.read()
            if self.waiting:
                self._session.run_queue()
            elif not self._session.runs_queue:
                self._app.queue_is_empty()
            return
        async with self._turn:
            if self._state.is_running:  # another one was quicker; when it ends, it is the next turn
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
        """Change what waits: move, or remove."""
        self._app.run_worker(self._change(work), group="queue")

    async def _change(self, work: Callable[[Store], None]) -> None:
        await self._with_store(work)
        await self.read()

    async def _with_store(self, work: Callable[[Store], T]) -> T | None:
        def call() -> T:
            from engine.store.store import Store  # SQLite: the first paint need not wait for it

            with Store(self._state.folders.database) as store:
                return work(store)

        try:
            return await asyncio.to_thread(call)
        except ReslabError as error:
            self._app.report(str(error), "error")
            return None
