"""Requests of other processes to a run, in a file in the run's folder that a thread of the run polls.

Every run listens, in a terminal, in the app or detached. While the run is paused, a marker file beside the request
says so to other processes. Loads no torch.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.control import Control, RunControl
from engine.errors import StoreError
from engine.events import Event, RunPaused, RunResumed

_REQUEST, _PAUSED = "asked.json", "paused"
_LISTEN_EVERY_S = 0.05
_log = logging.getLogger("reslab")


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """The state that a follower wants of a run."""

    pause: bool = False
    stop: bool = False
    reason: str | None = None

    @classmethod
    def of(cls, control: Control) -> ControlRequest:
        return cls(control.pause_requested, control.stop_requested, control.stop_reason)

    def apply_to(self, control: RunControl) -> None:
        """Carry the request out."""
        if self.stop:
            control.stop(self.reason)
        elif self.pause != control.pause_requested:
            control.pause() if self.pause else control.resume()


def send_request(folder: Path, request: ControlRequest) -> None:
    """Leave `request` for the run whose folder this is.

    Raises:
        StoreError: the run's folder cannot be written.
    """
    file = folder / _REQUEST
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(asdict(request)), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise StoreError(
            f"the run cannot be paused or stopped ({error}); it continues: make {folder} writable and try again"
        ) from None


def is_paused(folder: Path) -> bool:
    """Whether the running run whose folder this is, is paused."""
    return (folder / _PAUSED).exists()


class RequestListener:
    """The run's side: applies requests to `control` until closed."""

    def __init__(self, folder: Path, control: RunControl) -> None:
        self.control = control
        self._folder, self._over, self._last_seen = folder, threading.Event(), (0, 0)
        self._remove_files()  # left by a process that was killed
        threading.Thread(target=self._listen, name="requests", daemon=True).start()

    def announce(self, event: Event) -> None:
        """Tell other processes when the run pauses and resumes."""
        try:
            if isinstance(event, RunPaused):
                self._folder.mkdir(parents=True, exist_ok=True)
                (self._folder / _PAUSED).touch()
            elif isinstance(event, RunResumed):
                (self._folder / _PAUSED).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("cannot mark the run in %s as paused or resumed: %s", self._folder, error)

    def close(self) -> None:
        """The run has ended."""
        self._over.set()
        self._remove_files()

    def _remove_files(self) -> None:
        for name in (_REQUEST, _PAUSED):
            with suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)

    def poll(self) -> None:
        """Apply the latest request; ignore anything that is not one."""
        file = self._folder / _REQUEST
        try:
            status = file.stat()
            if (stamp := (status.st_mtime_ns, status.st_ino)) == self._last_seen:
                return
            self._last_seen = stamp
            ControlRequest(**json.loads(file.read_text(encoding="utf-8"))).apply_to(self.control)
        except OSError:  # no request
            return
        except (ValueError, TypeError) as error:
            _log.warning("ignored %s, which is not a request: %s", file, error)

    def _listen(self) -> None:
        while not self._over.wait(_LISTEN_EVERY_S):
            self.poll()
