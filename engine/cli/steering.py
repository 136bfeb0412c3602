"""`reslab stop`, `pause` and `resume` of runs that other processes carry: each asks, then waits until it is so.

The run is asked through its folder, so every process on any machine that shares the home folder reaches it. Loads no
torch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.analysis.tables import duration
from engine.cli.output import print_json
from engine.errors import StoreError
from engine.events import plain
from engine.launch.following import look
from engine.launch.requests import Asked, ask, is_paused
from engine.paths import Places
from engine.records import RunRecord
from engine.text import percent, safe_text

_LOOK_EVERY_S = 0.2
INTERRUPTED = 130


def stop_command(run: int, places: Places, as_json: bool) -> int:
    """Ask for a clean end and wait for it; exit code 1 where the run failed or diverged instead."""
    _require_running(run, places, "stopped")
    ask(places.run_folder(run), Asked(stop=True))
    return _wait(run, places, f"run {run} is stopping after its step", as_json, lambda: False)


def pause_command(run: int, places: Places, as_json: bool) -> int:
    """Ask for a pause and wait for it; exit code 1 where the run failed or diverged first."""
    _require_running(run, places, "paused")
    folder = places.run_folder(run)
    if not is_paused(folder):
        ask(folder, Asked(pause=True))
    return _wait(run, places, f"run {run} is pausing before its next step", as_json, lambda: is_paused(folder))


def continue_command(run: int, places: Places, as_json: bool) -> int:
    """Let a run that is live and paused continue in its own process; exit code 1 where it failed or diverged first.

    Raises:
        StoreError: it is not paused, or it cannot be asked.
    """
    folder = places.run_folder(run)
    if not is_paused(folder):
        raise StoreError(
            f"run {run} is running and not paused; reslab pause {run} pauses it, reslab stop {run} ends it"
        )
    ask(folder, Asked(pause=False))
    return _wait(run, places, f"run {run} is resuming", as_json, lambda: not is_paused(folder))


def _require_running(run: int, places: Places, wanted: str) -> None:
    record = look(run, places)
    if record.status != "running":
        raise StoreError(
            f"run {run} is {record.status}; only a running run can be {wanted}. reslab show {run} shows its figures"
        )


def _wait(run: int, places: Places, words: str, as_json: bool, is_so: Callable[[], bool]) -> int:
    """Until it `is_so`, or the run has ended; then say how it stands. ctrl+c leaves: the run was asked all the same."""
    try:
        with _waiting(words, as_json):
            while not is_so() and (record := look(run, places)).status == "running":
                time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        print(f"reslab: run {run} was asked to and will; reslab show {run} shows its status", file=sys.stderr)
        return INTERRUPTED
    record = look(run, places)
    if record.status != "running":
        status = record.status
    else:
        status = "paused" if is_paused(places.run_folder(run)) else "running"
    print_json({**plain(record), "status": status}) if as_json else print(safe_text(_words(record, status)))
    return 1 if status in ("failed", "diverged") else 0


@contextmanager
def _waiting(words: str, as_json: bool) -> Iterator[None]:
    """A line on stderr while it is waited for; on a terminal with the time that it takes."""
    if as_json:
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        print(f"{words} (ctrl+c: do not wait)", file=sys.stderr, flush=True)
        yield
        return
    columns = (TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress:
        progress.add_task(f"{words} (ctrl+c: do not wait)", total=None)
        yield


def _words(record: RunRecord, status: str) -> str:
    run = record.run
    if status == "paused":
        return f"run {run} is paused; reslab resume {run} continues it, reslab stop {run} ends it"
    if status == "running":
        return f"run {run} has resumed"
    accuracy = f", test accuracy {percent(record.final.accuracy)}" if record.final else ""
    said = f"run {run} {status} after {duration(record.elapsed_s)}, at step {record.steps or 0:,}{accuracy}"
    if record.error:
        said += f": {record.error}"
    return said + (f"; reslab resume {run} continues it" if status == "stopped" else "")
