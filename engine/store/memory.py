"""Rows about memory: the forecast, the measured peak, and recoveries from failed allocations."""

from __future__ import annotations

import json
import sqlite3
import statistics
from typing import assert_never

from engine.events import MemoryForecasted, MemoryRecovered, RunEnded
from engine.from_plain import from_plain
from engine.memory.calibration import Calibration
from engine.records import MemoryRecord
from engine.store.rows import to_json

_CALIBRATED_BY = 20  # runs: enough for a median, few enough to adapt to a new driver


def write(db: sqlite3.Connection, event: MemoryForecasted | MemoryRecovered) -> None:
    """Write one event; the run's RunStarted is already stored."""
    match event:
        case MemoryForecasted():
            db.execute(
                "INSERT INTO memory (run, forecast, device_name) SELECT run, ?, "
                "COALESCE(json_extract(started, '$.resolved.device_name'), '') FROM runs WHERE run = ?",
                (to_json(event), event.run),
            )
        case MemoryRecovered():
            values = (event.run, event.step, event.action, event.micro_batch, event.recomputing, event.freed_bytes)
            db.execute("INSERT INTO recoveries VALUES (?, ?, ?, ?, ?, ?)", values)
        case _:
            assert_never(event)


def write_end(db: sqlite3.Connection, event: RunEnded) -> None:
    """Add what was measured to the forecast's row."""
    peak_bytes = event.peak_bytes if event.peak_bytes is not None else event.grown_bytes  # see `read`
    measured = (peak_bytes, event.context_bytes, event.run)
    db.execute("UPDATE memory SET peak_bytes = ?, context_bytes = ? WHERE run = ?", measured)


def read(db: sqlite3.Connection, run: int) -> MemoryRecord:
    """A run's forecast, measurements and recoveries; empty if it never reached its first step.

    For runs on a CPU the column `peak_bytes` holds the growth of the process, which cannot be compared with a
    forecast. Here the run's device tells the two apart.
    """
    row = db.execute(
        "SELECT forecast, peak_bytes, context_bytes, "
        "COALESCE((SELECT json_extract(started, '$.resolved.device') FROM runs WHERE runs.run = memory.run), '') "
        "FROM memory WHERE run = ?",
        (run,),
    ).fetchone()
    forecast, peak_bytes, context_bytes, device = row or (None, None, None, "")
    on_host = device == "cpu"
    columns = "step, action, micro_batch, recomputing, freed_bytes"
    recoveries = db.execute(f"SELECT {columns} FROM recoveries WHERE run = ? ORDER BY rowid", (run,)).fetchall()
    return MemoryRecord(
        forecast=_read_forecast(forecast) if forecast else None,
        peak_bytes=None if on_host else peak_bytes,
        grown_bytes=peak_bytes if on_host else None,
        context_bytes=context_bytes,
        recoveries=tuple(
            MemoryRecovered(run, step, action, micro_batch, bool(recomputing), freed)
            for step, action, micro_batch, recomputing, freed in recoveries
        ),
    )


def calibration(db: sqlite3.Connection, device_name: str) -> Calibration | None:
    """Medians over the latest runs on a device that measures its memory; None without any."""
    rows = db.execute(
        "SELECT forecast, peak_bytes, context_bytes FROM memory WHERE device_name = ? AND peak_bytes IS NOT NULL "
        "AND context_bytes IS NOT NULL ORDER BY run DESC LIMIT ?",
        (device_name, _CALIBRATED_BY),
    ).fetchall()
    if not rows:
        return None
    above = []
    for forecast, peak_bytes, _ in rows:
        expected = _read_forecast(forecast)
        above.append(peak_bytes - (expected.peak_bytes - expected.context_bytes - expected.workspace_bytes))
    context = statistics.median(context for _, _, context in rows)
    return Calibration(round(context), round(statistics.median(above)), len(rows))


def _read_forecast(text: str) -> MemoryForecasted:
    return from_plain(MemoryForecasted, json.loads(text))
