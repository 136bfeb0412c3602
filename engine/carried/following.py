"""Follow a run that another process carries: its events so far, then those that come. Loads no torch."""

from __future__ import annotations

import json
import time
from collections.abc import Generator

from engine.carried.stream import Asked, ask, stream_path
from engine.carried.wire import event_from
from engine.control import RunControl
from engine.errors import StoreError
from engine.events import Event, RunEnded
from engine.paths import Places
from engine.results.records import RunRecord
from engine.results.store import Store

_LISTEN_S = 0.02
_LOOK_EVERY_S = 1.0  # whether the run is still carried by anybody


def follow(run: int, places: Places, control: RunControl) -> Generator[Event, None, None]:
    """Yield what run `run` has yielded so far and goes on to yield, to its end, or until `control` is left.

    What is asked of `control` is handed on to the process that carries the run.

    Raises:
        StoreError: there is no such run, it has ended, or it is not one that can be followed.
    """
    record = _record(run, places)
    if record.status != "running":
        raise StoreError(f"run {run} is {record.status}; reslab show {run} has its figures")
    folder = places.run_folder(run)
    try:
        file = stream_path(folder).open("rb")
    except OSError:
        raise StoreError(
            f"run {run} cannot be followed: it belongs to the terminal that it was started in; runs begun with "
            "--detach or --on ray can be"
        ) from None
    with file:
        rest, asked, looked_at, over = b"", Asked(), time.monotonic(), False
        while not control.left:
            if (wanted := Asked.of(control)) != asked:
                ask(folder, wanted)
                asked = wanted
            rest += (read := file.read(1 << 20))
            *lines, rest = rest.split(b"\n")
            for line in lines:
                event = event_from(json.loads(line))
                yield event
                if isinstance(event, RunEnded):
                    return
            if not read and time.monotonic() - looked_at > _LOOK_EVERY_S:
                looked_at = time.monotonic()
                record = _record(run, places)
                if over:
                    yield _ended(record)
                    return
                over = record.status != "running"  # look once more: its last lines may just have come
            if not read:
                control.wait(_LISTEN_S)


def _record(run: int, places: Places) -> RunRecord:
    if not places.database.is_file():
        raise StoreError(f"there is no run {run}, or it was deleted")
    with Store(places.database) as store:
        store.settle_lost_runs()
        return store.details(run).record


def _ended(record: RunRecord) -> RunEnded:
    """The end of a run whose carrier could not tell of it."""
    status = record.status if record.status in ("completed", "stopped", "diverged") else "failed"
    return RunEnded(
        record.run, status, record.untrained, record.final, record.elapsed_s or 0.0, record.train_images_per_s,  # type: ignore[arg-type]
        record.steps or 0, record.error,
    )  # fmt: skip
