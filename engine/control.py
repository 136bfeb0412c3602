"""How a run is controlled: pause, resume, stop. Loads no torch."""

from __future__ import annotations

import threading
from typing import Protocol


class Control(Protocol):
    """What a run checks between two steps. Any thread may set it."""

    @property
    def stop_requested(self) -> bool: ...

    @property
    def stop_reason(self) -> str | None:
        """A sentence if the stop was not requested by a person."""

    @property
    def pause_requested(self) -> bool: ...

    def wait(self, timeout_s: float) -> None:
        """Sleep until something changes, at most `timeout_s` seconds."""


class RunControl:
    """The usual control: set from the keyboard, read by the run's thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._stop = False
        self._pause = False
        self._left = False
        self._reason: str | None = None

    @property
    def stop_requested(self) -> bool:
        return self._stop

    @property
    def stop_reason(self) -> str | None:
        return self._reason

    @property
    def pause_requested(self) -> bool:
        return self._pause and not self._stop

    @property
    def left(self) -> bool:
        """Whether to stop following. A run in another process continues."""
        return self._left

    def leave(self) -> None:
        """Stop following, without a request to the run."""
        with self._changed:
            self._left = True
            self._changed.notify_all()

    def pause(self) -> None:
        self._set(pause=True)

    def resume(self) -> None:
        self._set(pause=False)

    def stop(self, reason: str | None = None) -> None:
        """Request a clean end; it cannot be revoked. `reason` is given if no person requested it."""
        if not self._stop:
            self._reason = reason
        self._set(stop=True)

    def wait(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait(timeout_s)

    def _set(self, *, pause: bool | None = None, stop: bool = False) -> None:
        with self._changed:
            self._stop = self._stop or stop
            self._pause = self._pause if pause is None else pause
            self._changed.notify_all()
