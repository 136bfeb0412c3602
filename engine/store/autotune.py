"""Rows of the autotune choices: what was measured to be fastest on this machine. They belong to no run."""

from __future__ import annotations

import sqlite3
import time
from typing import assert_never

from engine.events import SettingsTuned, TuningChecked

_COLUMNS = "key, dtype, memory_format, num_threads, gain, busy_cores, images_per_s, due, measured_at"


def write(db: sqlite3.Connection, event: SettingsTuned | TuningChecked) -> None:
    """Write a choice, or check one: the first run's speed is kept, and a speed far from that makes the choice due."""
    match event:
        case TuningChecked():
            db.execute(
                "UPDATE tunings SET images_per_s = coalesce(images_per_s, ?), due = due OR ? WHERE key = ?",
                (event.images_per_s, not event.holds, event.key),
            )
        case SettingsTuned():
            values = (event.key, event.dtype, event.memory_format, event.num_threads, event.gain, event.busy_cores)
            row = (*values, None, event.due, event.measured_at or time.time())
            db.execute(f"INSERT OR REPLACE INTO tunings ({_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)
        case _:
            assert_never(event)


def read(db: sqlite3.Connection, run: int = 0) -> dict[str, SettingsTuned]:
    """Every choice by its key, as events of `run`."""
    rows = db.execute(f"SELECT {_COLUMNS} FROM tunings ORDER BY measured_at")
    names = _COLUMNS.split(", ")
    found = [dict(zip(names, row, strict=True)) for row in rows]
    return {values["key"]: SettingsTuned(run, **{**values, "due": bool(values["due"])}) for values in found}


def forget(db: sqlite3.Connection) -> int:
    """Delete them all; returns how many there were."""
    return db.execute("DELETE FROM tunings").rowcount
