"""What is typed is handed on one key at a time: the next one when all that the one before has set off is done.

Textual hands each key to whatever has the focus when the key is read, while the focus, a mounted field and a screen
that comes up follow as messages. Typed at once, or before the first screen stands, keys then go to where the person no
longer is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import suppress

from textual.app import App, ScreenStackError
from textual.events import Event
from textual.message_pump import MessagePump

from tui.screens.base import ReadingScreen

WITHIN_S = 5.0  # a screen that never comes to rest must not keep the keys for ever
_ROUNDS = 2  # what a widget tells itself upon a key, it hears in the second


class Typed:
    """Keys and pasted texts in their order. `take` says whether one may go on now; else it comes back in its turn."""

    def __init__(self, app: App[None]) -> None:
        self._app = app
        self._waiting: deque[Event] = deque()
        self._passed: Event | None = None  # the one whose turn it is
        self._task: asyncio.Task[None] | None = None
        self._open = False

    def open(self) -> None:
        """The first screen stands: from now on keys are handed on."""
        self._open = True
        self._begin()

    def take(self, event: Event) -> bool:
        if event is self._passed:
            self._passed = None
            return True
        self._waiting.append(event)
        if self._open and self._task is None:
            return self._take_at_once()
        return False

    def _take_at_once(self) -> bool:
        """Nothing is on its way: the key goes on, and the next one waits for what it does."""
        self._waiting.pop()
        self._begin()
        return True

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._hand_on(), name="typed")

    async def _hand_on(self) -> None:
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._settled(), WITHIN_S)
            while self._waiting:
                self._passed = self._waiting.popleft()
                self._app.post_message(self._passed)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._settled(), WITHIN_S)
        finally:
            self._task = None

    async def _settled(self) -> None:
        """Until no message is on its way between the widget with the focus and the app, and the focus stays."""
        quiet, before = 0, None
        while quiet < _ROUNDS:
            pumps = list(self._pumps())
            for pump in pumps:
                await _heard_all(pump)
            at_rest = not any(pump.message_queue_size for pump in pumps) and self._stands
            quiet = quiet + 1 if at_rest and pumps == before else 0
            before = pumps
            if not self._stands:  # a thread reads what the screen shows: leave it the processor
                await asyncio.sleep(0.01)

    def _pumps(self) -> Iterator[MessagePump]:
        """Those that a key passes: the widget with the focus, what it lies in, the screen, the app."""
        with suppress(ScreenStackError):
            yield from (self._app.focused or self._app.screen).ancestors_with_self
            return
        yield self._app

    @property
    def _stands(self) -> bool:
        with suppress(ScreenStackError):
            screen = self._app.screen
            return screen.is_mounted and (screen.filled if isinstance(screen, ReadingScreen) else True)
        return True


async def _heard_all(pump: MessagePump) -> None:
    """Until a widget has dealt with all that was sent to it before."""
    heard = asyncio.Event()
    if pump.call_later(heard.set):
        await heard.wait()
    else:
        await asyncio.sleep(0)
