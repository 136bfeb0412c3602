"""Follow a run in another process: its events so far, then new ones as they arrive. Loads no torch."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from engine.control import RunControl
from engine.errors import StoreError
from engine.events import Event, RunEnded, RunPaused, RunResumed
from engine.launch.requests import ControlRequest, send_request
from engine.launch.stream import stream_path
from engine.launch.wire import event_from
from engine.paths import Folders
from engine.records import RunSummary
from engine.store.store import Store

_log = logging.getLogger("reslab")
_LISTEN_S = 0.02
_LOOK_EVERY_S = 1.0  # for whether the run's process is still alive


def follow(run: int, folders: Folders, control: RunControl, just_started: bool = False) -> Generator[Event, None, None]:
    """Yield the events of run `run` from its first to its last, or until `control` is left.

    Requests to `control` are passed on to the run's process. With `just_started`, a run that has ended already yields
    its end instead of an error.

    Raises:
        StoreError: there is no such run, it has ended, it cannot be followed, or its folder cannot be written.
    """
    record = read_summary(run, folders)
    if record.status != "running":
        if just_started:
            yield _ended(record)
            return
        raise StoreError(f"run {run} is {record.status}; reslab show {run} has its figures")
    folder = folders.run_folder(run)
    try:
        file = stream_path(folder).open("rb")
    except OSError:
        record = read_summary(run, folders)
        if just_started and record.status != "running":  # it ended meanwhile
            yield _ended(record)
            return
        raise StoreError(
            f"run {run} cannot be followed: it belongs to the terminal that started it (only runs started with "
            f"--detach or --on ray can be followed), or its stream could not be written; {folders.log} may say why"
        ) from None
    forwarder = _RequestForwarder(folder, control)
    with file:
        rest, looked_at, had_ended = b"", time.monotonic(), False
        while not control.left:
            forwarder.forward()
            read = read_new(file)
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                event = event_from(json.loads(line))
                forwarder.observe(event)
                yield event
                if isinstance(event, RunEnded):
                    return
            if not read and time.monotonic() - looked_at > _LOOK_EVERY_S:
                looked_at = time.monotonic()
                ended = _end_of(run, folders)
                if had_ended and ended is not None:
                    yield ended
                    return
                had_ended = ended is not None  # read once more: its last lines may have just arrived
            if not read:
                control.wait(_LISTEN_S)


class _RequestForwarder:
    """Passes requests from `control` to the run, and follows the run's own state: someone else may have paused it."""

    def __init__(self, folder: Path, control: RunControl) -> None:
        self._folder, self._control = folder, control
        self._sent = ControlRequest()
        self._is_pending = False

    def forward(self) -> None:
        if (wanted := ControlRequest.of(self._control)) != self._sent:
            send_request(self._folder, wanted)
            self._sent, self._is_pending = wanted, True

    def observe(self, event: Event) -> None:
        if not isinstance(event, RunPaused | RunResumed):
            return
        paused = isinstance(event, RunPaused)
        if self._is_pending and paused != self._sent.pause:
            return  # from before the request
        self._is_pending = False
        if paused != self._control.pause_requested:
            self._control.pause() if paused else self._control.resume()
            self._sent = ControlRequest.of(self._control)


def read_new(file: BinaryIO) -> bytes:
    """New bytes; none if the file cannot be read: then the store says how the run ended."""
    try:
        return file.read(1 << 20)
    except OSError:  # another machine may have deleted it
        return b""


def _end_of(run: int, folders: Folders) -> RunEnded | None:
    """How the run ended, if it has. If the store is locked, the caller tries again later."""
    try:
        record = read_summary(run, folders)
    except StoreError as error:
        _log.warning("the status of run %d could not be read: %s", run, error)
        return None
    return None if record.status == "running" else _ended(record)


def send_to_live_run(run: int, folders: Folders, wanted: ControlRequest, done: str) -> None:
    """Send a request to a run in another process, to be `done` with it.

    Raises:
        StoreError: it is not running, or its folder cannot be written.
    """
    status = read_summary(run, folders).status
    if status != "running":
        raise StoreError(
            f"run {run} is {status}; only a running run can be {done}. reslab show {run} shows its figures"
        )
    send_request(folders.run_folder(run), wanted)


def read_summary(run: int, folders: Folders) -> RunSummary:
    """The run's current row; a run whose process is gone is settled as failed first.

    Raises:
        StoreError: there is no such run, or the store cannot be read.
    """
    if not folders.database.is_file():
        raise StoreError(f"there is no run {run}, or it was deleted")
    with Store(folders.database) as store:
        store.settle_lost_runs()
        return store.run(run)


def _ended(record: RunSummary) -> RunEnded:
    """The end of a run whose process could not report it."""
    status = record.status if record.status in ("completed", "stopped", "diverged") else "failed"
    return RunEnded(
        record.run, status, record.untrained, record.final, record.elapsed_s or 0.0, record.train_images_per_s,  # type: ignore[arg-type]
        record.steps or 0, record.error,
    )  # fmt: skip
