"""Which process carries a run, and whether it still does.

A process is known by its number and by when it started, counted from the machine's start, so that neither a reused
number nor a clock that is set deceives. Both mean something only in its place: one start of one machine, one namespace
of process numbers. A process in another place (another machine on the same home folder, a container, or this machine
before it was started anew) is known by its beat alone.
"""

from __future__ import annotations

import os
import sqlite3
import time
from functools import cache
from pathlib import Path

from engine.events import Event

BEAT_EVERY_S = 10.0
SILENT_S = 120.0  # so long without a beat from another place, and the run is taken for lost


@cache
def here() -> str:
    """The place of this process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def started(pid: int) -> float | None:
    """When a process of this place started, in ticks of the kernel's clock; None where there is none, or it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else float(fields[19])


def mine() -> tuple[int, float, str, float]:
    """This process as a row has it: pid, pid_started, place, beat_at."""
    pid = os.getpid()
    return pid, started(pid) or 0.0, here(), time.time()


def beat(db: sqlite3.Connection, run: int) -> None:
    """Say that this process still carries `run`."""
    db.execute("UPDATE runs SET beat_at = ? WHERE run = ?", (time.time(), run))


def settle(db: sqlite3.Connection, run: int, pid: int, began: float, error: str) -> bool:
    """Record that a lost run failed; False where another process was quicker, or it goes on by now."""
    lost = "run = ? AND status = 'running' AND pid = ? AND pid_started = ?"
    settled = db.execute(f"UPDATE runs SET status = 'failed', error = ? WHERE {lost}", (error, run, pid, began))
    return settled.rowcount > 0


def read_only(error: BaseException | None) -> bool:
    """Whether it says that this person may not write to the record."""
    return isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY


class Carried:
    """The runs that a connection of this process carries, and when their next beat is due."""

    _all: set[tuple[str, int]] = set()  # noqa: RUF012  # of every connection of this process

    def __init__(self, path: Path) -> None:
        self._path = str(path.absolute())
        self._own: set[tuple[str, int]] = set()
        self._beaten_at = time.monotonic()

    def add(self, run: int) -> None:
        self._own.add((self._path, run))
        Carried._all.add((self._path, run))
        self._beaten_at = time.monotonic()

    def clear(self) -> None:
        """The connection closes: what it carried and did not end is lost."""
        Carried._all -= self._own
        self._own.clear()

    def due(self, event: Event) -> bool:
        """Whether a beat is due with this event."""
        if time.monotonic() - self._beaten_at < BEAT_EVERY_S or (self._path, event.run) not in self._own:
            return False
        self._beaten_at = time.monotonic()
        return True

    def lost(self, db: sqlite3.Connection) -> list[tuple[int, int, float]]:
        """Runs that are said to be running and are carried by nobody: their numbers, pid and pid_started."""
        rows = db.execute("SELECT run, pid, pid_started, place, beat_at FROM runs WHERE status = 'running'").fetchall()
        return [(run, pid, began) for run, pid, began, place, at in rows if not self._alive(run, pid, began, place, at)]

    def _alive(self, run: int, pid: int, began: float, place: str, beat_at: float) -> bool:
        if place != here():
            return time.time() - beat_at < SILENT_S
        if started(pid) != began:
            return False
        return pid != os.getpid() or (self._path, run) in Carried._all
