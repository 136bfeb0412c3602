"""Between rows of the record and values: JSON columns, packed curves, and back."""

from __future__ import annotations

import json
import sys
from array import array
from collections.abc import Sequence
from typing import Any

from engine.events import ClassMetrics, Metrics, plain
from engine.results.records import EvaluationRecord, RunRecord

RUN_COLUMNS = (
    "run, dataset, model, status, created_at, spec, untrained, final, train_images_per_s, elapsed_s, steps, error"
)


def read_run(row: Sequence[Any]) -> RunRecord:
    run, dataset, model, status, created_at, spec, untrained, final, images_per_s, elapsed_s, steps, error = row
    return RunRecord(
        run, dataset, model, status, created_at, json.loads(spec), _read_metrics(untrained), _read_metrics(final),
        images_per_s, elapsed_s, steps, error,
    )  # fmt: skip


def read_evaluation(row: Sequence[Any]) -> EvaluationRecord:
    split, moment, epoch, step, metrics, per_class, confusion, elapsed_s = row
    return EvaluationRecord(
        split=split,
        moment=moment,
        epoch=epoch,
        step=step,
        metrics=Metrics(**json.loads(metrics)),
        per_class=tuple(ClassMetrics(**item) for item in json.loads(per_class)),
        confusion=tuple(tuple(line) for line in json.loads(confusion)),
        elapsed_s=elapsed_s,
    )


def _read_metrics(text: str | None) -> Metrics | None:
    return None if text is None else Metrics(**json.loads(text))


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
