"""How the app is left: by a person, by a signal, or because its terminal is gone.

Whoever asks, the live run is stopped after its step, saved and recorded first. Where no person asked, the process is
gone soon after that, whatever else it waits for. A thread of its own sees to it: the one that draws may stand
still.
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

_SAVE_S = 60.0  # for a step, a checkpoint and the record's last rows; a service manager kills after 90 s
_TIDY_S = 5.0  # for the rest
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_REASONS = {signal.SIGHUP: HUNG_UP, signal.SIGTERM: TERMINATED}


class Leaving:
    """`abandoned` says that a thread is left behind that nothing can stop; `hung_up` that the terminal is gone."""

    def __init__(self, app: Host, state: AppState, session: Session) -> None:
        self._app = app
        self._state = state
        self._session = session
        self._signals: SimpleQueue[signal.Signals] = SimpleQueue()  # may be put to in a signal handler
        self._left = threading.Event()
        self.begun = False
        self.abandoned = False
        self.hung_up = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Leave at a signal, until the record is closed: a second one must not cost the run's last rows."""

        def hear(number: int, frame: FrameType | None) -> None:
            self._signals.put(signal.Signals(number))

        threading.Thread(target=self._leave_in_time, name="leaving", daemon=True).start()
        before = {number: signal.signal(number, hear) for number in _SIGNALS}
        try:
            yield
        finally:
            self._left.set()
            for number, handler in before.items():
                signal.signal(number, handler)

    def terminal_lost(self) -> None:
        """As after SIGHUP, which comes to a session's leader and to what is in its foreground alone."""
        self.hung_up = True
        self._signals.put(signal.SIGHUP)

    def _leave_in_time(self) -> None:
        reason = _REASONS.get(self._signals.get())
        self.begun = True  # before the run can end: the queue's next one must not start
        self._session.stop_all(reason)
        self._app.call_soon(self.leave, reason)
        self._session.wait(_SAVE_S)
        if not self._left.wait(_TIDY_S):
            os._exit(0)

    def leave(self, reason: str | None = None) -> None:
        """Stop the live run, if there is one, and exit when it has ended; `reason` where no person asked."""
        app, live = self._app, self._state.live.value
        self.begun = True
        if self._session.elsewhere:
            self._session.stop_all()
            app.exit()
            return
        app.stop_run(reason)
        if live is None or live.over:
            app.exit()
        elif live.run is None and not self._state.torch_loaded.value:  # no row yet, nothing to lose
            self.abandoned = True  # nothing stops the import
            app.exit()

    async def ask(self) -> None:
        """Leave, where a person says so."""
        question, live = "A run is live. Stop it and leave? It keeps its figures and weights.", self._state.live.value
        if self._session.elsewhere:
            number = live.run if live and live.run is not None else "RUN"
            question = f"The run continues without this window; reslab attach {number} --tui comes back to it. Leave?"
        if await self._app.ask(question):
            self.leave()
