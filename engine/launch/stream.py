"""A detached run's event stream: one file in the run's folder, one line of JSON per event.

The store commits points once a second, because a commit costs an fsync; the stream is flushed after each event and
never synced. It is deleted when the run ends: by then the store has everything.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.events import Event
from engine.launch.wire import to_line

_STREAM = "stream.jsonl"
_log = logging.getLogger("reslab")


def stream_path(folder: Path) -> Path:
    """The stream in the run folder `folder`."""
    return folder / _STREAM


def remove_stream(folder: Path) -> None:
    """Delete the stream that a killed process left behind."""
    with suppress(OSError):
        stream_path(folder).unlink(missing_ok=True)


class Stream:
    """The writer's side. If the stream cannot be written, the run continues; the log says so once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: Any = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stream(folder)  # followers of an old one keep their open file
            self._file = stream_path(folder).open("w", encoding="utf-8")
        except OSError as error:
            _log.warning("the run in %s cannot be followed: %s", folder, error)

    def write(self, event: Event) -> None:
        if self._file is None:
            return
        try:
            self._file.write(to_line(event))
            self._file.flush()
        except OSError as error:
            _log.warning("the run in %s can no longer be followed: %s", self._folder, error)
            self._file = None

    def close(self) -> None:
        """Call after the run's last event."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        remove_stream(self._folder)
