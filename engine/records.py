"""Stored data of runs, as values, never rows or connections. Loads no torch and no numpy."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

from engine.events import (
    ClassMetrics,
    EpochEnded,
    MemoryForecasted,
    MemoryRecovered,
    Metrics,
    Moment,
    RunStarted,
    Split,
)
from engine.format_number import KEY
from engine.spec import RunSpec

CUT_OFF = "cut off"
"""How the error of an interrupted run begins. These four texts are stored and compared later: do not change them."""
LOST = f"{CUT_OFF}: the process ended before the run did"
HUNG_UP = f"{CUT_OFF}: the terminal went away"
TERMINATED = f"{CUT_OFF}: the system asked the process to end"


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One spec in the queue: its number, which never changes, and what it will train."""

    number: int
    spec: RunSpec


@dataclass(frozen=True, slots=True)
class UnreadableEntry:
    """A queue entry of a newer reslab, or damaged, which stays in the queue. `problem` is a sentence."""

    number: int
    problem: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One run, as a list shows it. `status` is a `Status` or "running"; `created_at` in seconds since 1970."""

    run: int
    dataset: str
    model: str
    status: str
    created_at: float
    spec: dict[str, Any]
    untrained: Metrics | None
    final: Metrics | None
    train_images_per_s: float | None
    elapsed_s: float | None
    steps: int | None
    error: str | None
    workers: str = ""  # as in Resolved

    @property
    def is_newer(self) -> bool:
        """Whether a newer reslab wrote its spec, in a format that this version does not read."""
        return KEY in self.spec

    @property
    def cut_off(self) -> bool:
        """Whether it was interrupted: neither ended by itself nor stopped by a person."""
        return self.status in ("failed", "stopped") and (self.error or "").startswith(CUT_OFF)


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """An evaluation without its predictions."""

    split: Split
    moment: Moment
    epoch: int
    step: int
    metrics: Metrics
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class WeightsRecord:
    """The run's weights: `file` in the run's folder."""

    file: str
    sha256: str
    epoch: int
    step: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class ResumeRecord:
    """A run was resumed from `step`; `differs` as in RunContinued."""

    step: int
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """Forecast and measured memory, in bytes, and the recoveries from failed allocations.

    `peak_bytes`, `context_bytes` and `grown_bytes` as in RunEnded.
    """

    forecast: MemoryForecasted | None
    peak_bytes: int | None
    context_bytes: int | None
    recoveries: tuple[MemoryRecovered, ...]
    grown_bytes: int | None = None

    @property
    def micro_batch(self) -> int | None:
        """The smallest micro-batch size; None if no batch was split."""
        return min((item.micro_batch for item in self.recoveries if item.micro_batch is not None), default=None)


@dataclass(frozen=True, slots=True)
class Curve:
    """Loss and accuracy of every training step, step 1 first."""

    losses: array[float]
    accuracies: array[float]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Per test image, in order: true class, predicted class, softmax of the latter."""

    labels: array[int]
    predictions: array[int]
    confidences: array[float]


@dataclass(frozen=True, slots=True)
class Change:
    """How many test images were right only before, and only after, training."""

    only_before: int
    only_after: int
    num_images: int


@dataclass(frozen=True, slots=True)
class RunDetails:
    """Everything stored about one run. `started` is None if it never got that far.

    `intact`: whether its rows are unchanged since they were sealed; None while the run has not ended.
    """

    record: RunSummary
    started: RunStarted | None
    epochs: tuple[EpochEnded, ...]
    evaluations: tuple[EvaluationRecord, ...]
    curve: Curve
    weights: WeightsRecord | None
    memory: MemoryRecord
    intact: bool | None
    resumes: tuple[ResumeRecord, ...] = ()
    change: Change | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.started.class_names if self.started else ()

    @property
    def caveat(self) -> str | None:
        """How this run's training differed from its spec; None if it did not."""
        reasons = []
        micro_batch = self.memory.micro_batch
        trains = self.record.spec.get("epochs") != 0
        if trains and micro_batch is not None and self.record.spec.get("norm", "batch") == "batch":
            reasons.append(f"trained in micro-batches of {micro_batch}: batch-norm statistics differ")
        reasons += [
            f"resumed from step {item.step:,} with {', '.join(item.differs)}" for item in self.resumes if item.differs
        ]
        return "; ".join(reasons) or None

    def evaluation(self, moment: Moment) -> EvaluationRecord | None:
        """The test set's evaluation at `moment`; "final" is the last one that is not "untrained"."""
        found = [
            item
            for item in self.evaluations
            if item.split == "test" and (item.moment == "untrained") == (moment == "untrained")
        ]
        return found[-1] if found else None
