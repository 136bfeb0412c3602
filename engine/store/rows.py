"""Converts rows to values and back: JSON columns, packed curves."""

from __future__ import annotations

import json
import logging
import sqlite3
import sys
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from engine.errors import StoreError
from engine.events import ClassMetrics, Metrics, plain
from engine.format_number import KEY, is_readable
from engine.records import EvaluationRecord, RunSummary
from engine.spec import FORMAT

_log = logging.getLogger("reslab")
_DAMAGED = (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)
EPOCH_COLUMNS = "run, epoch, train_loss, train_accuracy, train_s, images_per_s"  # the fields of EpochEnded
RUN_COLUMNS = (
    "run, dataset, model, status, created_at, spec, untrained, final, train_images_per_s, elapsed_s, steps, error"
)

LISTED_COLUMNS = (
    f"{RUN_COLUMNS}, CASE WHEN json_valid(started) THEN json_extract(started, '$.resolved.workers') END AS workers"
)


def read_run(row: Sequence[Any]) -> RunSummary:
    """From LISTED_COLUMNS. Raises one of `_DAMAGED` if a value has the wrong type: SQLite accepts any."""
    run, dataset, model, status, created_at, spec, untrained, final, images_per_s, elapsed_s, steps, error, where = row
    settings = json.loads(spec)
    texts, numbers = (
        (dataset, model, status, error or "", where or ""),
        (run, created_at, images_per_s or 0, elapsed_s or 0, steps or 0),
    )
    kinds = [isinstance(text, str) for text in texts] + [isinstance(number, int | float) for number in numbers]
    if not (all(kinds) and isinstance(settings, dict)):
        raise TypeError(f"not the values of a run: {row!r:.200}")
    return RunSummary(
        run, dataset, model, status, created_at, _without_number(settings), _read_metrics(untrained),
        _read_metrics(final), images_per_s, elapsed_s, steps, error, where or "",
    )  # fmt: skip


def _without_number(settings: dict[str, Any]) -> dict[str, Any]:
    """A stored spec without its format number, which stays if a newer reslab wrote it (`RunSummary.is_newer`)."""
    if not is_readable(settings, FORMAT):
        return settings
    return {name: value for name, value in settings.items() if name != KEY}


def read_any_run(row: Sequence[Any]) -> RunSummary:
    """As `read_run`; a damaged row must not hide the others."""
    try:
        return read_run(row)
    except _DAMAGED:
        error = "its row in the database is damaged; restore the file from a copy, or delete the run"
        number = row[0] if isinstance(row[0], int) else -1
        return RunSummary(number, "?", "?", "damaged", 0.0, {}, None, None, None, None, None, error)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raises StoreError if the database at `path` cannot be read or written."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(
            f"cannot use the database of runs {path} ({error}); choose another folder with --home"
        ) from error


@contextmanager
def unless_damaged(run: int) -> Iterator[None]:
    """Raises StoreError if the rows of `run` are not values that reslab writes."""
    try:
        yield
    except _DAMAGED as error:
        _log.warning("rows of run %d cannot be read: %r", run, error)
        raise StoreError(
            f"run {run} cannot be read: its rows in the database are damaged; restore the file from a copy or delete it"
        ) from None


def read_evaluation(row: Sequence[Any]) -> EvaluationRecord:
    split, moment, epoch, step, metrics, per_class, confusion, elapsed_s = row
    return EvaluationRecord(
        split=split,
        moment=moment,
        epoch=epoch,
        step=step,
        metrics=cast(Metrics, _read_metrics(metrics)),
        per_class=tuple(ClassMetrics(**item) for item in json.loads(per_class)),
        confusion=tuple(tuple(line) for line in json.loads(confusion)),
        elapsed_s=elapsed_s,
    )


def _read_metrics(text: str | None) -> Metrics | None:
    if text is None:
        return None
    found = Metrics(**json.loads(text))
    if not all(isinstance(getattr(found, item.name), int | float | None) for item in fields(Metrics)):
        raise TypeError(f"not the figures of an evaluation: {found}")
    return found


def to_json(value: Any) -> str:
    return json.dumps(plain(value), separators=(",", ":"))


def pack(values: Sequence[float]) -> bytes:
    return _little_endian(array("d", values)).tobytes()


def unpack(code: str, data: bytes) -> array[Any]:
    values: array[Any] = array(code)
    values.frombytes(data)
    return _little_endian(values)


def _little_endian(values: array[Any]) -> array[Any]:
    if sys.byteorder == "big":
        values.byteswap()
    return values
