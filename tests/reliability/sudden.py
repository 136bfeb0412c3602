"""Ends that come from outside: kill -9, signals, a person who quits."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil

from engine.errors import StoreError
from engine.paths import Folders
from engine.records import HUNG_UP, TERMINATED
from engine.store.store import Store
from tests.reliability import children
from tests.reliability.terminal import Terminal
from tests.reliability.tries import (
    Outcome,
    Story,
    check_cut_off,
    check_resumed,
    finish,
    folders_in,
    resume_point_of,
    start,
    story_of,
)
from tests.waiting import until

_GONE_WITHIN_S = 5.0
_STEP_S = 1.0  # one step, on a busy machine


def reference(folder: Path, work: Callable[[Path], None] = children.train) -> tuple[Story, float]:
    """The run that nothing happens to, and the seconds that it takes."""
    began = time.monotonic()
    if finish(start(work, folder)) != 0:
        raise RuntimeError("the untroubled run did not end well")
    return story_of(folders_in(folder)), time.monotonic() - began


def killed(count: int, folder: Path) -> Outcome:
    """kill -9 at random moments, half of them while a checkpoint is written."""
    untroubled, whole_s = reference(folder / "reference")
    draws, outcome, number, resumed_from = random.Random(0), Outcome(), 0, 0
    while outcome.tries < count:
        number += 1
        home = folder / str(number)
        writing = number % 2 == 1
        process = start(children.train, home, writing)
        if writing:
            _wait_for_part(folders_in(home), draws.randint(1, 6), process)
        else:
            process.join(draws.uniform(0.3, whole_s))
        alive = process.is_alive()
        process.kill()
        process.join()
        if not alive or not folders_in(home).database.exists():
            continue  # it was quicker, or had not begun: no try
        problems = check_cut_off(folders_in(home))
        code = finish(start(children.resume_with, home))
        if code != 0:
            problems.append(f"it could not go on (exit code {code})")
        else:
            problems += check_resumed(folders_in(home), untroubled)
            with Store(folders_in(home).database) as store:
                resumed_from += store.details(1).resumes[0].step > 0
        outcome.add([f"try {number}: {problem}" for problem in problems])
    outcome.note = f"{resumed_from} went on from a checkpoint, the others were killed before their first"
    return outcome


def _wait_for_part(folders: Folders, which: int, process: ForkServerProcess) -> None:
    """Until the file of the `which`-th checkpoint is being written."""
    seen: set[str] = set()
    folder = folders.run_folder(1)
    while process.is_alive() and len(seen) < which:
        with suppress(OSError):
            seen |= {name for name in os.listdir(folder) if name.endswith(".part")}
        time.sleep(0.0002)


def signals(count: int, folder: Path) -> Outcome:
    """SIGTERM, SIGINT, SIGHUP in the middle of a run, by turns headless and in the app."""
    draws, outcome = random.Random(1), Outcome()
    for number in range(count):
        home, folders = folder / str(number), folders_in(folder / str(number))
        which = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[number % 3]
        in_app = number % 2 == 1
        terminal = Terminal() if in_app else None
        process = start(children.app, home, terminal.name) if terminal else start(children.headless, home)
        problems = []
        if not until(lambda folders=folders: steps_of(folders) > 0, every_s=0.02):  # type: ignore[misc]
            problems.append("it did not begin")
        time.sleep(draws.uniform(0, 1))
        assert process.pid is not None
        os.kill(process.pid, which)
        code = finish(process, _GONE_WITHIN_S + _STEP_S)
        if code not in (0, 130):
            problems.append(f"exit code {code}")
        problems += check_stopped(folders, {signal.SIGTERM: TERMINATED, signal.SIGHUP: HUNG_UP}.get(which))
        if terminal is not None:
            problems += terminal.problems()
            terminal.close()
        where = "in the app" if in_app else "headless"
        outcome.add([f"{which.name} {where}: {problem}" for problem in problems])
    return outcome


def quits(count: int, folder: Path) -> Outcome:
    """q and y while a run is live: gone within five seconds, no thread and no child left."""
    draws, outcome = random.Random(2), Outcome()
    for number in range(count):
        home, folders = folder / str(number), folders_in(folder / str(number))
        terminal = Terminal()
        process = start(children.app, home, terminal.name)
        problems = []
        if not until(lambda folders=folders: steps_of(folders) > 0, every_s=0.02):  # type: ignore[misc]
            problems.append("it did not begin")
        time.sleep(draws.uniform(0, 0.5))
        born = psutil.Process(process.pid).children(recursive=True)
        terminal.write(b"q")
        if not until(lambda terminal=terminal: b"quit?" in terminal.seen, 10):  # type: ignore[misc]
            problems.append("q did not ask")
        terminal.write(b"y")
        if finish(process, _GONE_WITHIN_S) != 0:
            problems.append("it was not gone after five seconds")
        problems += [f"a child is left: {child.name()}" for child in born if child.is_running()]
        problems += check_stopped(folders, None) + terminal.problems()
        terminal.close()
        outcome.add([f"try {number}: {problem}" for problem in problems])
    return outcome


def steps_of(folders: Folders) -> int:
    """How many steps are recorded; reading now and then is what a second process does."""
    if not folders.database.exists():
        return 0
    with suppress(Exception), Store(folders.database) as store:
        return len(store.details(1).curve.losses)
    return 0


def check_stopped(folders: Folders, error: str | None) -> list[str]:
    try:
        with Store(folders.database) as store:
            details = store.details(1)
    except StoreError as unreadable:
        return [str(unreadable)]
    problems = []
    if (details.record.status, details.record.error) != ("stopped", error):
        problems.append(f"recorded as {details.record.status}, {details.record.error}")
    elif int(resume_point_of(folders, details).header["step"]) != len(details.curve.losses):
        problems.append("the checkpoint is not of the last step")
    return problems
