"""Follows runs of other processes: on the user's request, or when the queue starts them on a cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine.errors import ReslabError

if TYPE_CHECKING:
    from tui.commands import Host
    from tui.session import Session
    from tui.state import AppState


class Watcher:
    """Makes another process's run the live run."""

    def __init__(self, app: Host, state: AppState, session: Session) -> None:
        self._app = app
        self._state = state
        self._session = session

    def watch(self, run: int, show: bool = True, from_queue: bool = False) -> None:
        """Follow run `run`, or report why it cannot be followed; `show` switches to Train. `from_queue`: the run was
        started for this app, so show it even if it has already ended.
        """
        self._app.run_worker(self._watch(run, show, from_queue), group="watch", exclusive=True)

    def queue_run_started(self, run: int) -> None:
        """A run of the queue has started on the cluster: follow it if no other run is live."""
        live = self._state.live.value
        if live is None or live.over:
            self.watch(run, show=self._app.current_mode == "train" or live is None, from_queue=True)

    async def _watch(self, run: int, show: bool, from_queue: bool) -> None:
        from tui.live import LiveRun

        app, live = self._app, self._state.live.value
        if self._has_own_run():
            app.report("a run is live in this window: wait for it, or stop it with s on Train", "warning")
            return
        if live is None or live.run != run or live.over:
            try:
                record = await asyncio.to_thread(self._state.lab.summary, run)
                spec, status = await asyncio.to_thread(self._state.lab.spec, run), record.status
            except ReslabError as error:
                app.report(str(error), "error")
                return
            if status != "running" and not from_queue:
                app.report(f"run {run} is {status}: press enter in Results to open it", "warning")
                return
            if self._has_own_run():  # started meanwhile
                return
            self._session.follow(run, from_queue)
            self._state.live.value = LiveRun(spec)
        if show:
            app.switch_mode("train")

    def _has_own_run(self) -> bool:
        """Whether a run is live in this process."""
        return self._session.live and not self._session.detached
