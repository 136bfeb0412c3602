"""Rows of the queue, in order.

An entry is JSON: its format number, and the spec, which has its own. The first format was the bare spec.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from functools import cache

from engine.errors import SpecError
from engine.format_number import KEY, check_format, parse_object
from engine.records import QueueEntry, UnreadableEntry
from engine.spec import RunSpec

FORMAT = 2
_SPEC = "spec"
_log = logging.getLogger("reslab")


def append(db: sqlite3.Connection, specs: Sequence[RunSpec]) -> None:
    ((last,),) = db.execute("SELECT COALESCE(MAX(place), 0) FROM queue").fetchall()
    rows = [(last + number, _to_json(spec)) for number, spec in enumerate(specs, start=1)]
    db.executemany("INSERT INTO queue (place, spec) VALUES (?, ?)", rows)


def read(db: sqlite3.Connection) -> Iterator[QueueEntry]:
    """The readable entries; those of a later version, or damaged, are skipped and stay in the queue."""
    for entry in _read_all(db):
        if isinstance(entry, UnreadableEntry):
            _warn(entry)
        else:
            yield entry


def read_unreadable(db: sqlite3.Connection) -> list[UnreadableEntry]:
    """The entries that `read` skips, and why."""
    return [entry for entry in _read_all(db) if isinstance(entry, UnreadableEntry)]


def _read_all(db: sqlite3.Connection) -> Iterator[QueueEntry | UnreadableEntry]:
    for number, text in db.execute("SELECT number, spec FROM queue ORDER BY place"):
        try:
            yield QueueEntry(number, _from_json(text))
        except SpecError as error:
            yield UnreadableEntry(number, str(error))


def _to_json(spec: RunSpec) -> str:
    return json.dumps({KEY: FORMAT, _SPEC: spec.to_stored()}, ensure_ascii=False)


def _from_json(text: str) -> RunSpec:
    """Raises SpecError if it is not an entry, or one of a newer reslab. A setting that this version does not have is an
    error here: the run would not be the requested one.
    """
    values = parse_object(text)
    check_format(values, FORMAT, "the entry", SpecError)
    spec = values.get(_SPEC, values)
    if not isinstance(spec, dict):
        raise SpecError(f"not a spec: {str(spec)[:40]}; expected settings and their values")
    return RunSpec.from_mapping(spec)


@cache
def _warn(entry: UnreadableEntry) -> None:
    """Once per entry: the queue is read again and again."""
    _log.warning("entry %d of the queue cannot be read: %s", entry.number, entry.problem)


def first(db: sqlite3.Connection, on_hold: Collection[int] = ()) -> QueueEntry | None:
    """The first entry that is not on hold; reads no further."""
    return next((entry for entry in read(db) if entry.number not in on_hold), None)


def take_first(db: sqlite3.Connection, number: int | None = None, on_hold: Collection[int] = ()) -> RunSpec | None:
    """Remove and return the first entry that is not on hold; None if there is none, or if it is not entry `number`."""
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
