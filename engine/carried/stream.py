"""A carried run's stream: one file beside its weights, a line of JSON an event, and one in which followers ask.

The record commits points once a second, for that costs a disk's patience; the stream is flushed with each event and
synced never. It goes when the run ends: from then on all is in the record.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.control import Control, RunControl
from engine.errors import StoreError
from engine.events import Event, to_json_dict

_STREAM, _ASKED = "stream.jsonl", "asked.json"
_LISTEN_EVERY_S = 0.05
_log = logging.getLogger("reslab")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a follower wants of a run."""

    pause: bool = False
    stop: bool = False
    reason: str | None = None

    @classmethod
    def of(cls, control: Control) -> Asked:
        return cls(control.pause_requested, control.stop_requested, control.stop_reason)

    def tell(self, control: RunControl) -> None:
        """Have it done."""
        if self.stop:
            control.stop(self.reason)
        elif self.pause != control.pause_requested:
            control.pause() if self.pause else control.resume()


def stream_path(folder: Path) -> Path:
    """Of the run whose folder this is."""
    return folder / _STREAM


def remove_stream(folder: Path) -> None:
    """Of a process that was killed: nobody writes it any more."""
    for name in (_STREAM, _ASKED):
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)


def ask(folder: Path, asked: Asked) -> None:
    """Leave it for the process that carries the run.

    Raises:
        StoreError: the run's folder cannot be written.
    """
    file = folder / _ASKED
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_text(json.dumps(asdict(asked)), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise StoreError(
            f"the run cannot be asked to pause or stop ({error}); it goes on: ask where {folder} can be written"
        ) from None


class Stream:
    """The carrier's side. A run goes on where its stream cannot be written; the log says so, once."""

    def __init__(self, folder: Path, control: RunControl) -> None:
        self._folder, self._control = folder, control
        self._over, self._heard = threading.Event(), (0, 0)
        self._file: Any = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_stream(folder)  # whoever reads an old one has it to its end
            self._file = stream_path(folder).open("w", encoding="utf-8")
        except OSError as error:
            _log.warning("nobody can follow the run in %s: %s", folder, error)
        threading.Thread(target=self._listen, name="asked", daemon=True).start()

    def tell(self, event: Event) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(to_json_dict(event), separators=(",", ":")) + "\n")
            self._file.flush()
        except OSError as error:
            _log.warning("nobody can follow the run in %s any more: %s", self._folder, error)
            self._file = None

    def close(self) -> None:
        """The run has ended, and its last event was told."""
        self._over.set()
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        remove_stream(self._folder)

    def hear(self) -> None:
        """Have done what followers ask, the latest of them; what is no asking is left alone."""
        file = self._folder / _ASKED
        try:
            status = file.stat()
            if (stamp := (status.st_mtime_ns, status.st_ino)) == self._heard:
                return
            self._heard = stamp
            Asked(**json.loads(file.read_text(encoding="utf-8"))).tell(self._control)
        except OSError:  # nobody asks anything
            return
        except (ValueError, TypeError) as error:
            _log.warning("what %s says is not understood: %s", file, error)

    def _listen(self) -> None:
        while not self._over.wait(_LISTEN_EVERY_S):
            self.hear()
