"""The record's rows about tuning: what was measured to be quickest on this machine. They belong to no run."""

from __future__ import annotations

import sqlite3

from engine.events import SettingsTuned


def write(db: sqlite3.Connection, event: SettingsTuned) -> None:
    values = (event.key, event.dtype, event.memory_format, event.num_threads, event.gain)
    db.execute("INSERT OR REPLACE INTO tunings VALUES (?, ?, ?, ?, ?)", values)


def read(db: sqlite3.Connection, run: int) -> dict[str, SettingsTuned]:
    """Every choice by its key, as facts of `run`."""
    return {row[0]: SettingsTuned(run, *row) for row in db.execute("SELECT * FROM tunings")}
