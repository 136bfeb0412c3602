"""Looking at runs that another process carries: by hand, or as the queue begins them on a cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine.errors import ReslabError

if TYPE_CHECKING:
    from tui.commands import Host
    from tui.session import Session
    from tui.state import AppState


class Watcher:
    """Makes such a run the live one."""

    def __init__(self, app: Host, state: AppState, session: Session) -> None:
        self._app = app
        self._state = state
        self._session = session

    def watch(self, run: int, show: bool = True, begun: bool = False) -> None:
        """Follow run `run`, or say why it cannot be; `show` goes to its live screen. One that was `begun` for this app
        is shown even if it has ended by now.
        """
        self._app.run_worker(self._watch(run, show, begun), group="watch", exclusive=True)

    def has_begun(self, run: int) -> None:
        """A run of the queue has begun on the cluster; with none to look at, it is that one."""
        live = self._state.live.value
        if live is None or live.over:
            self.watch(run, show=self._app.current_mode == "train" or live is None, begun=True)

    async def _watch(self, run: int, show: bool, begun: bool) -> None:
        from tui.live import LiveRun

        app, live = self._app, self._state.live.value
        if self._is_taken():
            app.report("a run is live in this window: wait for it, or stop it with s on Train", "warning")
            return
        if live is None or live.run != run or live.over:
            try:
                record = await asyncio.to_thread(self._state.lab.summary, run)
                spec, status = await asyncio.to_thread(self._state.lab.spec, run), record.status
            except ReslabError as error:
                app.report(str(error), "error")
                return
            if status != "running" and not begun:
                app.report(f"run {run} is {status}; enter in Results opens it", "warning")
                return
            if self._is_taken():  # begun meanwhile
                return
            self._session.follow(run, begun)
            self._state.live.value = LiveRun(spec)
        if show:
            app.switch_mode("train")

    def _is_taken(self) -> bool:
        """Whether a run lives in this very process."""
        return self._session.live and not self._session.elsewhere
