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
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING

from engine.records import HUNG_UP, TERMINATED

if TYPE_CHECKING:
    from tui.app import ReslabApp

_SAVE_S = 60.0  # for a step, a checkpoint and the record's last rows; a service manager kills after 90 s
_TIDY_S = 5.0  # for the rest
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_REASONS = {signal.SIGHUP: HUNG_UP, signal.SIGTERM: TERMINATED}


class Leaving:
    """`abandoned` says that a thread is left behind that nothing can stop; `hung_up` that the terminal is gone."""

    def __init__(self, app: ReslabApp) -> None:
        self._app = app
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
        reason, session, loop = _REASONS.get(self._signals.get()), self._app.session, self._app._loop
        self.begun = True  # before the run can end: the queue's next one must not start
        session.stop_all(reason)
        if loop is not None:
            with suppress(RuntimeError):  # it is closed: the app is being left
                loop.call_soon_threadsafe(self.leave, reason)
        session.wait(_SAVE_S)
        if not self._left.wait(_TIDY_S):
            os._exit(0)

    def leave(self, reason: str | None = None) -> None:
        """Stop the live run, if there is one, and exit when it has ended; `reason` where no person asked."""
        app = self._app
        self.begun = True
        if app.session.elsewhere:
            app.session.stop_all()
            app.exit()
            return
        app.stop_run(reason)
        if app.live is None or app.live.over:
            app.exit()
        elif app.live.run is None and not app.torch_loaded:  # which nothing can stop; no row yet, nothing to lose
            self.abandoned = True
            app.exit()

    async def ask(self) -> None:
        """Leave, where a person says so."""
        from tui.screens.dialogs import Question

        app = self._app
        question = "A run is live. Stop it and leave? It keeps its figures and weights."
        if app.session.elsewhere:
            number = app.live.run if app.live and app.live.run is not None else "RUN"
            question = f"The run continues without this window; reslab attach {number} --tui comes back to it. Leave?"
        if await app.push_screen_wait(Question(question)):
            self.leave()
