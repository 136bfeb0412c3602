"""A carried run's stream: one file beside its weights, a line of JSON an event.

The record commits points once a second, for that costs a disk's patience; the stream is flushed with each event and
synced never. It goes when the run ends: from then on all is in the record.
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
    """Of the run whose folder this is."""
    return folder / _STREAM


def remove_stream(folder: Path) -> None:
    """Of a process that was killed: nobody writes it any more."""
    with suppress(OSError):
        stream_path(folder).unlink(missing_ok=True)


class Stream:
    """The carrier's side. A run goes on where its stream cannot be written; the log says so, once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: Any = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stream(folder)  # whoever reads an old one has it to its end
            self._file = stream_path(folder).open("w", encoding="utf-8")
        except OSError as error:
            _log.warning("nobody can follow the run in %s: %s", folder, error)

    def tell(self, event: Event) -> None:
        if self._file is None:
            return
        try:
            self._file.write(to_line(event))
            self._file.flush()
        except OSError as error:
            _log.warning("nobody can follow the run in %s any more: %s", self._folder, error)
            self._file = None

    def close(self) -> None:
        """The run has ended, and its last event was told."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        remove_stream(self._folder)
