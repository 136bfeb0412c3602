"""Several processes in one home folder."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

from engine.errors import StoreError
from engine.paths import Folders
from engine.store.store import Store
from tests.reliability import children
from tests.reliability.terminal import Terminal
from tests.reliability.tries import SPEC, Outcome, finish, folders_in, start
from tests.waiting import until


def two_labs(count: int, folder: Path) -> Outcome:
    """Two processes train, a third one reads and queues, and the app of somebody who may only read is open."""
    outcome = Outcome()
    for number in range(count):
        home = folder / str(number)
        folders = folders_in(home)
        processes = [start(children.train_spec, home, SPEC.replace(seed=seed, epochs=12)) for seed in (0, 1)]
        until(lambda folders=folders: folders.database.exists() and _num_runs(folders) == 2)  # type: ignore[misc]
        problems = _only_reading(home, folders) if os.geteuid() == 0 else []
        while any(process.is_alive() for process in processes):
            problems += _read_and_queue(folders)
            time.sleep(0.05)
        if any(process.exitcode != 0 for process in processes):
            problems.append("one of them failed")
        with Store(folders.database) as store, sqlite3.connect(folders.database) as db:
            states = [(record.status, store.intact(record.run)) for record in store.runs()]
            if states != [("completed", True)] * 2:
                problems.append(f"the runs ended as {states}")
            if db.execute("PRAGMA integrity_check").fetchone() != ("ok",):
                problems.append("the record is corrupt")
        outcome.add(problems)
    if os.geteuid() != 0:
        outcome.note = "without the app that may only read: it needs a writer whom the rights of files do not bind"
    return outcome


def _num_runs(folders: Folders) -> int:
    try:
        with Store(folders.database) as store:
            return len(store.runs())
    except StoreError:
        return 0


def _read_and_queue(folders: Folders) -> list[str]:
    try:
        with Store(folders.database) as store:
            store.settle_lost_runs()
            for record in store.runs():
                store.details(record.run)
            store.enqueue([SPEC])
            store.take_next()
    except StoreError as error:
        return [f"the reader was told: {error}"]
    return []


def _only_reading(home: Path, folders: Folders) -> list[str]:
    """Look at the runs while they train."""
    folders.database.chmod(0o444)
    folders.home.chmod(0o555)
    terminal, problems = Terminal(), []
    process = start(children.app_only_reading, home, terminal.name)
    if not until(lambda: b"Set up" in terminal.seen, 20):
        problems.append("the app of the one who may only read did not open")
    for key in (b"3", b"\r", b"l", b"l", b"l", b"\x1b", b"\x1b", b"2", b"1", b"q"):
        terminal.type(key, quiet_s=0.3)
    code = finish(process, 10)
    if code != 0:
        problems.append(f"the app of the one who may only read ended with exit code {code}")
    if b"locked" in terminal.seen or b"resnet20" not in terminal.seen:
        problems.append("it did not show the runs")
    problems += terminal.problems()
    terminal.close()
    folders.home.chmod(0o755)
    folders.database.chmod(0o644)
    return problems
