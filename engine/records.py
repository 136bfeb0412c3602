"""What is stored of runs, as values, never rows or connections. Loads no torch and no numpy."""

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
"""How the error of a run begins that neither ended by itself nor was stopped by a person."""
LOST = f"{CUT_OFF}: the process ended before the run did"
HUNG_UP = f"{CUT_OFF}: the terminal went away"
TERMINATED = f"{CUT_OFF}: the system asked the process to end"


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One spec that waits for its turn: its number, which never changes, and what it will train."""

    number: int
    spec: RunSpec


@dataclass(frozen=True, slots=True)
class UnreadableEntry:
    """A queue entry that stays where it is: of a newer reslab, or damaged. `problem` is a sentence."""

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
        """Whether a newer reslab wrote its spec, in a format that this one does not read."""
        return KEY in self.spec

    @property
    def cut_off(self) -> bool:
        """Whether it neither ended by itself nor was stopped by a person."""
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
    """A run went on from `step`; `differs` as in RunContinued."""

    step: int
    differs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MemoryRecord:
    """What was forecast and what was measured, in bytes, and what was done where an allocation failed.

    `peak_bytes`, `context_bytes` and `grown_bytes` as in RunEnded.
    """

    forecast: MemoryForecasted | None
    peak_bytes: int | None
    context_bytes: int | None
    recoveries: tuple[MemoryRecovered, ...]
    grown_bytes: int | None = None

    @property
    def micro_batch(self) -> int | None:
        """The smallest part that a batch was cut into; None where all were whole."""
        return min((item.micro_batch for item in self.recoveries if item.micro_batch is not None), default=None)


@dataclass(frozen=True, slots=True)
class Curve:
    """Every training step's loss and share of right images, step 1 first."""

    losses: array[float]
    accuracies: array[float]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Per image of the test set, in its order: true class, predicted class, softmax of the latter."""

    labels: array[int]
    predictions: array[int]
    confidences: array[float]


@dataclass(frozen=True, slots=True)
class Change:
    """The same test images before and after training: how many were right at one of the two times alone."""

    only_before: int
    only_after: int
    num_images: int


@dataclass(frozen=True, slots=True)
class RunDetails:
    """One run, opened. `started` is None where it never came so far.

    `intact` says whether the rows are those that were sealed; None while the run has not ended.
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
        """What sets this run's training apart from what its spec says; None where nothing does."""
        said = []
        part = self.memory.micro_batch
        if part is not None and self.record.spec.get("norm", "batch") == "batch":
            said.append(f"trained in micro-batches of {part}: batch-norm statistics differ")
        said += [
            f"went on from step {item.step:,} with {', '.join(item.differs)}" for item in self.resumes if item.differs
        ]
        return "; ".join(said) or None

    def evaluation(self, moment: Moment) -> EvaluationRecord | None:
        """The test set's evaluation at this moment; "final" is the last one that is not "untrained"."""
        found = [
            item
            for item in self.evaluations
            if item.split == "test" and (item.moment == "untrained") == (moment == "untrained")
        ]
        return found[-1] if found else None
