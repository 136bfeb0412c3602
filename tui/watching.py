"""Looking at runs that another process carries: by hand, or as the queue begins them on a cluster."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from engine.errors import ReslabError

if TYPE_CHECKING:
    from tui.app import ReslabApp


class Watcher:
    """Makes such a run the app's live one."""

    def __init__(self, app: ReslabApp) -> None:
        self._app = app

    def watch(self, run: int, show: bool = True, begun: bool = False) -> None:
        """Follow run `run`, or say why it cannot be; `show` goes to its live screen. One that was `begun` for this app
        is shown even if it has ended by now.
        """
        self._app.run_worker(self._watch(run, show, begun), group="watch", exclusive=True)

    def has_begun(self, run: int) -> None:
        """A run of the queue has begun on the cluster; with none to look at, it is that one."""
        live = self._app.live
        if live is None or live.over:
            self.watch(run, show=self._app.current_mode == "train" or live is None, begun=True)

    async def _watch(self, run: int, show: bool, begun: bool) -> None:
        from tui.live import LiveRun
        from tui.record import read_run

        app = self._app
        if self._is_taken():
            app.tell("a run is live in this window: wait for it, or stop it with s on Train", "warning")
            return
        if app.live is None or app.live.run != run or app.live.over:
            try:
                spec, status = await asyncio.to_thread(read_run, app.places, run)
            except ReslabError as error:
                app.tell(str(error), "error")
                return
            if status != "running" and not begun:
                app.tell(f"run {run} is {status}; enter in Results opens it", "warning")
                return
            if self._is_taken():  # begun meanwhile
                return
            app.session.follow(run, begun)
            app.live = LiveRun(spec)
        if show:
            app.switch_mode("train")

    def _is_taken(self) -> bool:
        """Whether a run lives in this very process."""
        return self._app.session.live and not self._app.session.elsewhere
