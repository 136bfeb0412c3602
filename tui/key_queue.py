"""Delivers keys one at a time: each one after all effects of the previous one are done.

Textual delivers a key to the widget that has the focus when the key is read, but focus changes, mounted fields and new
screens follow later, as messages. Without this queue, keys typed quickly, or before the first screen is ready, reach
the wrong widget.
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

SETTLE_TIMEOUT_S = 5.0  # a screen that never settles must not hold the keys forever
_ROUNDS = 2  # a widget receives the messages that it posts to itself on a key in the second round


class KeyQueue:
    """Keys and pasted text in order. `take` returns whether to handle an event now; if not, it is posted again."""

    def __init__(self, app: App[None]) -> None:
        self._app = app
        self._waiting: deque[Event] = deque()
        self._next_event: Event | None = None  # posted again, to be handled now
        self._task: asyncio.Task[None] | None = None
        self._open = False

    def open(self) -> None:
        """The first screen is ready: start delivering keys."""
        self._open = True
        self._start_delivery()

    def take(self, event: Event) -> bool:
        if event is self._next_event:
            self._next_event = None
            return True
        self._waiting.append(event)
        if self._open and self._task is None:
            return self._deliver_now()
        return False

    def _deliver_now(self) -> bool:
        """No event is in progress: handle this one now and let the next one wait for its effects."""
        self._waiting.pop()
        self._start_delivery()
        return True

    def _start_delivery(self) -> None:
        self._task = asyncio.create_task(self._deliver_waiting(), name="keys")

    async def _deliver_waiting(self) -> None:
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._settled(), SETTLE_TIMEOUT_S)
            while self._waiting:
                self._next_event = self._waiting.popleft()
                self._app.post_message(self._next_event)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._settled(), SETTLE_TIMEOUT_S)
        finally:
            self._task = None

    async def _settled(self) -> None:
        """Wait until no message is pending between the focused widget and the app, and the focus is stable."""
        quiet, before = 0, None
        while quiet < _ROUNDS:
            pumps = list(self._pumps())
            for pump in pumps:
                await _drain(pump)
            at_rest = not any(pump.message_queue_size for pump in pumps) and self._screen_ready
            quiet = quiet + 1 if at_rest and pumps == before else 0
            before = pumps
            if not self._screen_ready:  # a thread is loading the screen's data: leave it the CPU
                await asyncio.sleep(0.01)

    def _pumps(self) -> Iterator[MessagePump]:
        """The nodes that a key passes: the focused widget, its ancestors, the screen, the app."""
        with suppress(ScreenStackError):
            yield from (self._app.focused or self._app.screen).ancestors_with_self
            return
        yield self._app

    @property
    def _screen_ready(self) -> bool:
        with suppress(ScreenStackError):
            screen = self._app.screen
            return screen.is_mounted and (screen.loaded if isinstance(screen, ReadingScreen) else True)
        return True


async def _drain(pump: MessagePump) -> None:
    """Wait until a widget has handled all messages sent to it so far."""
    handled = asyncio.Event()
    if pump.call_later(handled.set):
        await handled.wait()
    else:
        await asyncio.sleep(0)
