"""Which process trains a run, and whether that process is alive.

A process is identified by its pid and its start time since boot, so that neither a reused pid nor a changed clock is
mistaken for it. Both are valid only on one host: one boot of one machine and one pid namespace. A process on another
host (another machine with the same home folder, a container, this machine before a reboot) is alive if its heartbeat
is recent. The column `place` has the host.
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
SILENT_S = 120.0  # a run on another host is lost after this long without a heartbeat


@cache
def host_id() -> str:
    """The host of this process: boot and pid namespace; "" if unknown."""
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def started(pid: int) -> float | None:
    """When a process on this host started, in ticks of the kernel's clock; None if it does not exist or is dead.

    On systems without /proc, in seconds since 1970.
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


def own_process() -> tuple[int, float, str, float]:
    """This process as columns of a row: pid, pid_started, place, beat_at."""
    pid = os.getpid()
    return pid, started(pid) or 0.0, host_id(), time.time()


def settle(db: sqlite3.Connection, run: int, pid: int, began: float, error: str) -> bool:
    """Store that a lost run failed; False if another process did so first, or has resumed it."""
    lost = "run = ? AND status = 'running' AND pid = ? AND pid_started = ?"
    settled = db.execute(f"UPDATE runs SET status = 'failed', error = ? WHERE {lost}", (error, run, pid, began))
    return settled.rowcount > 0


def read_only(error: BaseException | None) -> bool:
    """Whether `error` means that the database is read-only for this user."""
    return isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY


def check_own(db: sqlite3.Connection, run: int) -> None:
    """If another host settled a run of this process as lost, undo that.

    Raises:
        StoreError: another process has resumed it.
    """
    pid, began, place, at = own_process()
    row = db.execute("SELECT status, pid, pid_started, place FROM runs WHERE run = ?", (run,)).fetchone()
    if row is None:
        return
    if row[1:] != (pid, began, place):
        raise StoreError(f"run {run} was considered lost, and another process has resumed it")
    if row[0] != "running":
        db.execute(
            "UPDATE runs SET status = 'running', error = NULL, seal = NULL, beat_at = ? WHERE run = ?", (at, run)
        )


class Heartbeat:
    """The runs that this process trains through one connection; a thread writes their heartbeat."""

    _all: set[tuple[str, int]] = set()  # noqa: RUF012  # of every connection of this process

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        self._runs: set[int] = set()
        self._over = threading.Event()

    def add(self, run: int) -> None:
        if not self._runs:
            self._over = threading.Event()
            threading.Thread(target=self._beat, args=(self._over,), name="heartbeat", daemon=True).start()
        self._runs.add(run)
        Heartbeat._all.add((str(self._path), run))

    def end(self, run: int) -> None:
        """The run has ended, and its end is stored."""
        self._runs.discard(run)
        Heartbeat._all.discard((str(self._path), run))
        if not self._runs:
            self._over.set()

    def close(self) -> None:
        """Close the connection: its runs that have not ended are lost."""
        for run in tuple(self._runs):
            self.end(run)

    def has(self, run: int) -> bool:
        return run in self._runs

    def lost(self, db: sqlite3.Connection) -> list[tuple[int, int, float]]:
        """Runs with the status "running" whose process is gone: their number, pid and pid_started."""
        rows = db.execute("SELECT run, pid, pid_started, place, beat_at FROM runs WHERE status = 'running'").fetchall()
        return [(run, pid, began) for run, pid, began, place, at in rows if not self._alive(run, pid, began, place, at)]

    def _alive(self, run: int, pid: int, began: float, place: str, beat_at: float) -> bool:
        if place != host_id():
            return time.time() - beat_at < SILENT_S
        if started(pid) != began:
            return False
        return pid != os.getpid() or (str(self._path), run) in Heartbeat._all

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(BEAT_EVERY_S):
            own = tuple(self._runs)
            try:
                with closing(sqlite3.connect(self._path, timeout=5.0)) as db, db:
                    db.executemany("UPDATE runs SET beat_at = ? WHERE run = ?", [(time.time(), run) for run in own])
            except sqlite3.Error as error:  # the next one may succeed
                _log.warning("no heartbeat of run %s: %s", own, error)
