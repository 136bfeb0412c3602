"""What goes back into a run: pause, resume, stop. Loads no torch."""

from __future__ import annotations

import threading
from typing import Protocol


class Control(Protocol):
    """What a run asks between two steps. Any thread may answer."""

    @property
    def stop_requested(self) -> bool: ...

    @property
    def stop_reason(self) -> str | None:
        """A sentence where it was no person who asked for the stop."""

    @property
    def pause_requested(self) -> bool: ...

    def wait(self, timeout_s: float) -> None:
        """Sleep until something changes, at most `timeout_s` seconds."""


class RunControl:
    """The ordinary control: a person at a keyboard sets it, the thread of the run reads it."""

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
        """Whether nobody follows any more: a run that another process carries goes on."""
        return self._left

    def leave(self) -> None:
        """Follow no longer; asks nothing of the run."""
        with self._changed:
            self._left = True
            self._changed.notify_all()

    def pause(self) -> None:
        self._set(pause=True)

    def resume(self) -> None:
        self._set(pause=False)

    def stop(self, reason: str | None = None) -> None:
        """Ask for a clean end; it cannot be taken back. `reason` is given where no person asked."""
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
