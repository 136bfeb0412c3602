"""Counts of test images that were right before, and after, training."""

from __future__ import annotations

import sqlite3

from engine.records import Change
from engine.store.rows import unpack


def read(db: sqlite3.Connection, run: int) -> Change | None:
    """From the predictions of the untrained and the last evaluation; None if either was not kept."""
    rows = [
        db.execute(
            "SELECT labels, predictions FROM evaluations WHERE run = ? AND split = 'test' AND labels IS NOT NULL "
            f"AND moment {sign} 'untrained' ORDER BY step DESC, rowid DESC LIMIT 1",
            (run,),
        ).fetchone()
        for sign in ("=", "!=")
    ]
    if None in rows:
        return None
    before, after = (
        [label == predicted for label, predicted in zip(unpack("H", labels), unpack("H", predictions), strict=True)]
        for labels, predictions in rows
    )
    if not before or len(before) != len(after):
        return None
    pairs = list(zip(before, after, strict=True))
    return Change(pairs.count((True, False)), pairs.count((False, True)), len(pairs))
