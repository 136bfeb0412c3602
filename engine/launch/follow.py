"""Follow a run that another process carries: its events so far, then those that come. Loads no torch."""

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
from engine.launch.requests import ControlRequest, ask
from engine.launch.stream import stream_path
from engine.launch.wire import event_from
from engine.paths import Folders
from engine.records import RunSummary
from engine.store.store import Store

_log = logging.getLogger("reslab")
_LISTEN_S = 0.02
_LOOK_EVERY_S = 1.0  # whether the run is still carried by anybody


def follow(run: int, folders: Folders, control: RunControl, begun: bool = False) -> Generator[Event, None, None]:
    """Yield what run `run` has yielded so far and goes on to yield, to its end, or until `control` is left.

    What is asked of `control` is handed on to the process that carries the run. Who has `begun` it hears of its end at
    least, however early that came.

    Raises:
        StoreError: there is no such run, it has ended, it is not one that can be followed, or it cannot be asked.
    """
    record = look(run, folders)
    if record.status != "running":
        if begun:
            yield _ended(record)
            return
        raise StoreError(f"run {run} is {record.status}; reslab show {run} has its figures")
    folder = folders.run_folder(run)
    try:
        file = stream_path(folder).open("rb")
    except OSError:
        record = look(run, folders)
        if begun and record.status != "running":  # it ended between two looks
            yield _ended(record)
            return
        raise StoreError(
            f"run {run} cannot be followed: it belongs to the terminal that it was started in (runs begun with "
            f"--detach or --on ray can be), or its stream could not be written; {folders.log} may say why"
        ) from None
    asking = _Asking(folder, control)
    with file:
        rest, looked_at, over = b"", time.monotonic(), False
        while not control.left:
            asking.hand_on()
            read = read_new(file)
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                event = event_from(json.loads(line))
                asking.heard(event)
                yield event
                if isinstance(event, RunEnded):
                    return
            if not read and time.monotonic() - looked_at > _LOOK_EVERY_S:
                looked_at = time.monotonic()
                ended = _looked(run, folders)
                if over and ended is not None:
                    yield ended
                    return
                over = ended is not None  # look once more: its last lines may just have come
            if not read:
                control.wait(_LISTEN_S)


class _Asking:
    """What is asked of a control, on its way to the run. The run's own word counts too: another may have paused it."""

    def __init__(self, folder: Path, control: RunControl) -> None:
        self._folder, self._control = folder, control
        self._asked = ControlRequest()
        self._unanswered = False

    def hand_on(self) -> None:
        if (wanted := ControlRequest.of(self._control)) != self._asked:
            ask(self._folder, wanted)
            self._asked, self._unanswered = wanted, True

    def heard(self, event: Event) -> None:
        if not isinstance(event, RunPaused | RunResumed):
            return
        paused = isinstance(event, RunPaused)
        if self._unanswered and paused != self._asked.pause:
            return  # of before it was asked
        self._unanswered = False
        if paused != self._control.pause_requested:
            self._control.pause() if paused else self._control.resume()
            self._asked = ControlRequest.of(self._control)


def read_new(file: BinaryIO) -> bytes:
    """What has come; nothing where it cannot be read, for then the record tells how the run ended."""
    try:
        return file.read(1 << 20)
    except OSError:  # as of a file that another machine has deleted
        return b""


def _looked(run: int, folders: Folders) -> RunEnded | None:
    """How the run ended, if it has; a record that is locked just now is looked at again."""
    try:
        record = look(run, folders)
    except StoreError as error:
        _log.warning("run %d was not looked at: %s", run, error)
        return None
    return None if record.status == "running" else _ended(record)


def look(run: int, folders: Folders) -> RunSummary:
    """The run as it stands; one whose process is gone has failed by then.

    Raises:
        StoreError: there is no such run, or the record cannot be read.
    """
    if not folders.database.is_file():
        raise StoreError(f"there is no run {run}, or it was deleted")
    with Store(folders.database) as store:
        store.settle_lost_runs()
        return store.run(run)


def _ended(record: RunSummary) -> RunEnded:
    """The end of a run whose carrier could not tell of it."""
    status = record.status if record.status in ("completed", "stopped", "diverged") else "failed"
    return RunEnded(
        record.run, status, record.untrained, record.final, record.elapsed_s or 0.0, record.train_images_per_s,  # type: ignore[arg-type]
        record.steps or 0, record.error,
    )  # fmt: skip
