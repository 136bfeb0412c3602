"""The record's rows of the queue: what waits, in its order."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from engine.results.queue import Waiting
from engine.spec import RunSpec


def append(db: sqlite3.Connection, specs: Sequence[RunSpec]) -> None:
    ((last,),) = db.execute("SELECT COALESCE(MAX(place), 0) FROM queue").fetchall()
    rows = [(last + number, spec.to_json()) for number, spec in enumerate(specs, start=1)]
    db.executemany("INSERT INTO queue (place, spec) VALUES (?, ?)", rows)


def read(db: sqlite3.Connection) -> list[Waiting]:
    rows = db.execute("SELECT number, spec FROM queue ORDER BY place").fetchall()
    return [Waiting(number, RunSpec.from_json(spec)) for number, spec in rows]


def take_first(db: sqlite3.Connection, number: int | None = None) -> RunSpec | None:
    """The first one, if there is one, and if it is entry `number` where that is given."""
    row = db.execute("SELECT number, spec FROM queue ORDER BY place LIMIT 1").fetchone()
    if row is None or number not in (None, row[0]):
        return None
    db.execute("DELETE FROM queue WHERE number = ?", (row[0],))
    return RunSpec.from_json(row[1])


def remove(db: sqlite3.Connection, number: int) -> None:
    db.execute("DELETE FROM queue WHERE number = ?", (number,))


def move(db: sqlite3.Connection, number: int, by: int) -> None:
    rows = db.execute("SELECT number, place FROM queue ORDER BY place").fetchall()
    at = next((index for index, row in enumerate(rows) if row[0] == number), None)
    if at is None or not 0 <= at + by < len(rows):
        return
    (one, its), (other, others) = rows[at], rows[at + by]
    db.executemany("UPDATE queue SET place = ? WHERE number = ?", [(others, one), (its, other)])
