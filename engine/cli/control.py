"""`reslab stop`, `pause` and `resume` for runs in other processes: send a request, then wait until it has taken effect.

Requests go through the run's folder, so they reach a run on any machine that shares the home folder. Loads no torch.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine.analysis.tables import duration
from engine.cli.output import print_json
from engine.events import plain
from engine.lab import Lab
from engine.records import RunSummary
from engine.text import percent, safe_text

_LOOK_EVERY_S = 0.2
INTERRUPTED = 130


def stop_command(run: int, lab: Lab, as_json: bool) -> int:
    """Request a clean end and wait for it; exit code 1 if the run failed or diverged instead."""
    lab.stop(run)
    return _wait(run, lab, f"run {run} is stopping after its step", as_json, lambda: False)


def pause_command(run: int, lab: Lab, as_json: bool) -> int:
    """Request a pause and wait for it; exit code 1 if the run failed or diverged first."""
    lab.pause(run)
    return _wait(run, lab, f"run {run} is pausing before its next step", as_json, lambda: lab.is_paused(run))


def continue_command(run: int, lab: Lab, as_json: bool) -> int:
    """Let a paused run continue in its own process; exit code 1 if it failed or diverged first.

    Raises:
        StoreError: it is not paused, or its folder cannot be written.
    """
    lab.unpause(run)
    return _wait(run, lab, f"run {run} is resuming", as_json, lambda: not lab.is_paused(run))


def _wait(run: int, lab: Lab, words: str, as_json: bool, is_done: Callable[[], bool]) -> int:
    """Wait until `is_done`, or the run has ended; then print its status. ctrl+c stops waiting; the request stands."""
    try:
        with _waiting(words, as_json):
            while not is_done() and (record := lab.summary(run)).status == "running":
                time.sleep(_LOOK_EVERY_S)
    except KeyboardInterrupt:
        print(f"reslab: run {run} still has the request; reslab show {run} shows its status", file=sys.stderr)
        return INTERRUPTED
    record = lab.summary(run)
    is_paused = record.status == "running" and lab.is_paused(run)
    status = "paused" if is_paused else record.status
    print_json({**plain(record), "status": status}) if as_json else print(safe_text(_words(record, status)))
    return 1 if status in ("failed", "diverged") else 0


@contextmanager
def _waiting(words: str, as_json: bool) -> Iterator[None]:
    """Show `words` on stderr while waiting; on a terminal with the elapsed time."""
    if as_json:
        yield
        return
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        print(f"{words} (ctrl+c: stop waiting)", file=sys.stderr, flush=True)
        yield
        return
    columns = (TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=2) as progress:
        progress.add_task(f"{words} (ctrl+c: stop waiting)", total=None)
        yield


def _words(record: RunSummary, status: str) -> str:
    run = record.run
    if status == "paused":
        return f"run {run} is paused; reslab resume {run} continues it, reslab stop {run} ends it"
    if status == "running":
        return f"run {run} has resumed"
    accuracy = f", test accuracy {percent(record.final.accuracy)}" if record.final else ""
    text = f"run {run} {status} after {duration(record.elapsed_s)}, at step {record.steps or 0:,}{accuracy}"
    if record.error:
        text += f": {record.error}"
    return text + (f"; reslab resume {run} continues it" if status == "stopped" else "")
