"""Exits the app: on the user's request, on a signal, or when the terminal is lost.

The live run always stops after its current step and is saved first. After a signal or a lost terminal, a separate
thread makes sure that the process ends soon, because the drawing thread may hang.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING

from engine.records import HUNG_UP, TERMINATED

if TYPE_CHECKING:
    from tui.commands import Host
    from tui.session import Session
    from tui.state import AppState

_SAVE_S = 60.0  # for a step, a checkpoint and the last rows; a service manager kills after 90 s
_EXIT_S = 5.0  # for everything else
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_REASONS = {signal.SIGHUP: HUNG_UP, signal.SIGTERM: TERMINATED}


class Shutdown:
    """`abandoned`: a thread is left running that cannot be stopped. `hung_up`: the terminal is gone."""

    def __init__(self, app: Host, state: AppState, session: Session) -> None:
        self._app = app
        self._state = state
        self._session = session
        self._signals: SimpleQueue[signal.Signals] = SimpleQueue()  # safe in a signal handler
        self._done = threading.Event()
        self.in_progress = False
        self.abandoned = False
        self.hung_up = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Exit on a signal, but only after the store is closed: a second signal must not lose the run's last rows."""

        def receive(number: int, frame: FrameType | None) -> None:
            self._signals.put(signal.Signals(number))

        threading.Thread(target=self._exit_on_signal, name="shutdown", daemon=True).start()
        before = {number: signal.signal(number, receive) for number in _SIGNALS}
        try:
            yield
        finally:
            self._done.set()
            for number, handler in before.items():
                signal.signal(number, handler)

    def terminal_lost(self) -> None:
        """Act as on SIGHUP, which reaches only the session leader and the foreground process group."""
        self.hung_up = True
        self._signals.put(signal.SIGHUP)

    def _exit_on_signal(self) -> None:
        reason = _REASONS.get(self._signals.get())
        self.in_progress = True  # before the run ends, so that the queue starts no other
        self._session.stop_all(reason)
        self._app.call_soon(self.exit, reason)
        self._session.wait(_SAVE_S)
        if not self._done.wait(_EXIT_S):
            os._exit(0)

    def exit(self, reason: str | None = None) -> None:
        """Stop the live run, if any, and exit once it has ended. Give `reason` if no user asked for it."""
        app, live = self._app, self._state.live.value
        self.in_progress = True
        if self._session.detached:
            self._session.stop_all()
            app.exit()
            return
        app.stop_run(reason)
        if live is None or live.over:
            app.exit()
        elif live.run is None and not self._state.torch_loaded.value:  # not stored yet, so nothing is lost
            self.abandoned = True  # the import cannot be stopped
            app.exit()

    async def confirm(self) -> None:
        """Ask the user, then exit."""
        question, live = "A run is live. Stop it and quit? Its figures and weights are kept.", self._state.live.value
        if self._session.detached:
            number = live.run if live and live.run is not None else "RUN"
            question = f"The run continues without this window; reslab attach {number} --tui shows it again. Quit?"
        if await self._app.ask(question):
            self.exit()
