"""The record's rows of the queue: what waits, in its order."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from functools import cache

from engine.errors import SpecError
from engine.records import QueueEntry
from engine.spec import RunSpec

_log = logging.getLogger("reslab")


def append(db: sqlite3.Connection, specs: Sequence[RunSpec]) -> None:
    ((last,),) = db.execute("SELECT COALESCE(MAX(place), 0) FROM queue").fetchall()
    rows = [(last + number, spec.to_json()) for number, spec in enumerate(specs, start=1)]
    db.executemany("INSERT INTO queue (place, spec) VALUES (?, ?)", rows)


def read(db: sqlite3.Connection) -> Iterator[QueueEntry]:
    """All that can be read; what cannot, of a later version or damaged, stays where it is and is passed over."""
    for number, text in db.execute("SELECT number, spec FROM queue ORDER BY place"):
        try:
            yield QueueEntry(number, RunSpec.from_json(text))
        except SpecError as error:
            _warn(number, str(error))


@cache
def _warn(number: int, said: str) -> None:
    """Once: the queue is read again and again."""
    _log.warning("entry %d of the queue cannot be read: %s", number, said)


def first(db: sqlite3.Connection, on_hold: Collection[int] = ()) -> QueueEntry | None:
    """The next one that is not on hold. No more of the queue is read than it takes."""
    return next((entry for entry in read(db) if entry.number not in on_hold), None)


def take_first(db: sqlite3.Connection, number: int | None = None, on_hold: Collection[int] = ()) -> RunSpec | None:
    """The first one that is not on hold, if there is one, and if it is entry `number` where that is given."""
    entry = first(db, on_hold)
    if entry is None or number not in (None, entry.number):
        return None
    remove(db, entry.number)
    return entry.spec


def remove(db: sqlite3.Connection, number: int) -> None:
    db.execute("DELETE FROM queue WHERE number = ?", (number,))


def move(db: sqlite3.Connection, number: int, by: int) -> None:
    rows = db.execute("SELECT number, place FROM queue ORDER BY place").fetchall()
    at = next((index for index, row in enumerate(rows) if row[0] == number), None)
    if at is None or not 0 <= at + by < len(rows):
        return
    (one, its), (other, others) = rows[at], rows[at + by]
    db.executemany("UPDATE queue SET place = ? WHERE number = ?", [(others, one), (its, other)])
