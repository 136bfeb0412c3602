"""Which process carries a run, and whether it still does.

A process is known by its number and by when it started, counted from the machine's start, so that neither a reused
number nor a clock that is set deceives. Both mean something only in its place: one start of one machine, one namespace
of process numbers. A process in another place (another machine on the same home folder, a container, or this machine
before it was started anew) is known by its beat alone.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from contextlib import closing
from functools import cache
from pathlib import Path

from engine.errors import StoreError

_log = logging.getLogger("reslab")
PROC = Path("/proc")
BEAT_EVERY_S = 10.0
SILENT_S = 120.0  # so long without a beat from another place, and the run is taken for lost


@cache
def here() -> str:
    """The place of this process."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def started(pid: int) -> float | None:
    """When a process of this place started, in ticks of the kernel's clock; None where there is none, or it is dead.

    Where the system has no /proc, in seconds since 1970.
    """
    try:
        fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else float(fields[19])
    except OSError:
        if (PROC / "self").exists():
            return None
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None


def mine() -> tuple[int, float, str, float]:
    """This process as a row has it: pid, pid_started, place, beat_at."""
    pid = os.getpid()
    return pid, started(pid) or 0.0, here(), time.time()


def settle(db: sqlite3.Connection, run: int, pid: int, began: float, error: str) -> bool:
    """Record that a lost run failed; False where another process was quicker, or it goes on by now."""
    lost = "run = ? AND status = 'running' AND pid = ? AND pid_started = ?"
    settled = db.execute(f"UPDATE runs SET status = 'failed', error = ? WHERE {lost}", (error, run, pid, began))
    return settled.rowcount > 0


def read_only(error: BaseException | None) -> bool:
    """Whether it says that this person may not write to the record."""
    return isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY


def check_mine(db: sqlite3.Connection, run: int) -> None:
    """Take back what another place, that heard nothing for too long, has said of a run of this process.

    Raises:
        StoreError: it goes on there by now.
    """
    pid, began, place, at = mine()
    row = db.execute("SELECT status, pid, pid_started, place FROM runs WHERE run = ?", (run,)).fetchone()
    if row is None:
        return
    if row[1:] != (pid, began, place):
        raise StoreError(f"run {run} was considered lost, and another process has resumed it")
    if row[0] != "running":
        db.execute(
            "UPDATE runs SET status = 'running', error = NULL, seal = NULL, beat_at = ? WHERE run = ?", (at, run)
        )


class Carried:
    """The runs that a connection of this process carries. A thread of its own gives a sign of life of them."""

    _all: set[tuple[str, int]] = set()  # noqa: RUF012  # of every connection of this process

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._own: set[int] = set()
        self._over = threading.Event()

    def add(self, run: int) -> None:
        if not self._own:
            self._over = threading.Event()
            threading.Thread(target=self._beat, args=(self._over,), name="beat", daemon=True).start()
        self._own.add(run)
        Carried._all.add((str(self._path), run))

    def end(self, run: int) -> None:
        """It has ended, and that is recorded."""
        self._own.discard(run)
        Carried._all.discard((str(self._path), run))
        if not self._own:
            self._over.set()

    def close(self) -> None:
        """The connection closes: what it carried and did not end is lost."""
        for run in tuple(self._own):
            self.end(run)

    def has(self, run: int) -> bool:
        return run in self._own

    def lost(self, db: sqlite3.Connection) -> list[tuple[int, int, float]]:
        """Runs that are said to be running and are carried by nobody: their numbers, pid and pid_started."""
        rows = db.execute("SELECT run, pid, pid_started, place, beat_at FROM runs WHERE status = 'running'").fetchall()
        return [(run, pid, began) for run, pid, began, place, at in rows if not self._alive(run, pid, began, place, at)]

    def _alive(self, run: int, pid: int, began: float, place: str, beat_at: float) -> bool:
        if place != here():
            return time.time() - beat_at < SILENT_S
        if started(pid) != began:
            return False
        return pid != os.getpid() or (str(self._path), run) in Carried._all

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(BEAT_EVERY_S):
            own = tuple(self._own)
            try:
                with closing(sqlite3.connect(self._path, timeout=5.0)) as db, db:
                    db.executemany("UPDATE runs SET beat_at = ? WHERE run = ?", [(time.time(), run) for run in own])
            except sqlite3.Error as error:  # the next one may be heard
                _log.warning("run %s gave no sign of life: %s", own, error)
