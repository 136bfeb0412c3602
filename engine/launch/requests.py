"""What other processes request of a run: a file in the run's folder, which a thread of the run reads.

Every run listens, whichever process it is in: a terminal's, the app's, or one of its own. Beside it lies a mark while
the run is paused, so that another process knows. Loads no torch.
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

_ASKED, _PAUSED = "asked.json", "paused"
_LISTEN_EVERY_S = 0.05
_log = logging.getLogger("reslab")


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """What a follower wants of a run."""

    pause: bool = False
    stop: bool = False
    reason: str | None = None

    @classmethod
    def of(cls, control: Control) -> ControlRequest:
        return cls(control.pause_requested, control.stop_requested, control.stop_reason)

    def tell(self, control: RunControl) -> None:
        """Have it done."""
        if self.stop:
            control.stop(self.reason)
        elif self.pause != control.pause_requested:
            control.pause() if self.pause else control.resume()


def ask(folder: Path, asked: ControlRequest) -> None:
    """Leave it for the run whose folder this is.

    Raises:
        StoreError: the run's folder cannot be written.
    """
    file = folder / _ASKED
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(asdict(asked)), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise StoreError(
            f"the run cannot be asked to pause or stop ({error}); it continues: ask where {folder} can be written"
        ) from None


def is_paused(folder: Path) -> bool:
    """Whether the run whose folder this is, and which is running, waits to be resumed."""
    return (folder / _PAUSED).exists()


class RequestListener:
    """The run's side: what is requested reaches `control`, until this is closed."""

    def __init__(self, folder: Path, control: RunControl) -> None:
        self.control = control
        self._folder, self._over, self._heard = folder, threading.Event(), (0, 0)
        self._forget()  # what was requested of a process that was killed
        threading.Thread(target=self._listen, name="requests", daemon=True).start()

    def note(self, event: Event) -> None:
        """Let others know that the run is paused, and when it is no more."""
        try:
            if isinstance(event, RunPaused):
                self._folder.mkdir(parents=True, exist_ok=True)
                (self._folder / _PAUSED).touch()
            elif isinstance(event, RunResumed):
                (self._folder / _PAUSED).unlink(missing_ok=True)
        except OSError as error:
            _log.warning("other processes cannot know whether the run in %s is paused: %s", self._folder, error)

    def close(self) -> None:
        """The run has ended."""
        self._over.set()
        self._forget()

    def _forget(self) -> None:
        for name in (_ASKED, _PAUSED):
            with suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)

    def hear(self) -> None:
        """Do what was requested last; what is no request is left alone."""
        file = self._folder / _ASKED
        try:
            status = file.stat()
            if (stamp := (status.st_mtime_ns, status.st_ino)) == self._heard:
                return
            self._heard = stamp
            ControlRequest(**json.loads(file.read_text(encoding="utf-8"))).tell(self.control)
        except OSError:  # nobody asks anything
            return
        except (ValueError, TypeError) as error:
            _log.warning("what %s says is not understood: %s", file, error)

    def _listen(self) -> None:
        while not self._over.wait(_LISTEN_EVERY_S):
            self.hear()
