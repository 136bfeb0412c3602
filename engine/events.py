"""The events that a run yields, as frozen values of plain Python types.

An event converts to JSON unchanged, so a run can be followed in the app, through a pipe or from another machine. Events
are few, named in the past tense, and never requests. Loads no torch.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Status = Literal["completed", "stopped", "diverged", "failed"]
Split = Literal["val", "test"]
Moment = Literal["untrained", "epoch", "final"]


@dataclass(frozen=True, slots=True)
class Metrics:
    """The figures of one evaluation, as fractions from 0 to 1 (`loss`: mean cross-entropy in nats).

    `accuracy` is the share of correct predictions (the report's "match"); `balanced_accuracy` is the mean of the
    classes' recalls; `precision`, `recall` and `f1` are macro averages. A class without images in the split has no
    recall; if it is not predicted either, it is left out altogether.
    """

    accuracy: float
    balanced_accuracy: float
    precision: float
    recall: float
    f1: float
    loss: float


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One class's figures, as fractions, and its `support`, the number of its test images.

    Without test images recall and F1 are None; without predictions either, precision is None as well.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True, slots=True)
class Resolved:
    """How a spec was resolved on this machine: needed to repeat a run, and to explain differences.

    `gain` is the measured speed of dtype, layout and threads relative to plain float32; 1: not tuned. `images` is
    `resident` if the dataset is in the device's memory, `streamed` if a thread reads it ahead, `decoded` if threads
    decode its files as they are used. `workers` says how many processes share each step, and where; empty: one.
    `threads_reason` says why there are fewer threads than cores; empty: there are not.
    """

    device: str
    device_name: str
    device_reason: str
    dtype: str
    num_threads: int
    memory_format: str
    stem: str
    images: str = "resident"
    versions: dict[str, str] = field(default_factory=dict)
    gain: float = 1.0
    workers: str = ""
    threads_reason: str = ""


@dataclass(frozen=True, slots=True)
class DatasetProgressed:
    """Work before the first step, on the dataset or on pretrained weights (`dataset` says which).

    `stage` is a word such as "download", `done` of `total` in `unit`s (0: unknown). `note` is a sentence for the user
    before long work, empty otherwise.
    """

    run: int
    dataset: str
    stage: str
    done: int
    total: int
    unit: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """Data and network are ready.

    `mean` and `std` are those of the normalisation, for pixels from 0 to 1. `test_sha256` is over the test images and
    their labels, to tell whether two runs used the same ones; `train_sha256` over those for training and validation, in
    order, or over their files. `left_out` counts unused files by reason ({"no image": 2, "damaged": 1}), `shared` the
    images that two parts have in common ({"train and test": 12}). `notes` are sentences for the user about weights and
    images, such as which function the weights belong to and how each sub-folder was used. `data_rules` is the version
    of layout, sizing and splitting (`engine.data.images`); early runs have 1. `pixel_range` is the value that became
    255 in images of more than 8 bits per sample, for integers and for floats; None without such images. `resampler`
    resized the images: "tensor", "pillow", or "" in runs stored before it was. `model_sha256` is of the user's own
    file with the network; "" for a network without one.
    """

    run: int
    spec: dict[str, Any]
    resolved: Resolved
    num_train: int
    num_val: int
    num_test: int
    num_unusable: int
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    test_sha256: str
    num_parameters: int
    changes: tuple[str, ...]
    num_steps: int
    train_sha256: str = ""
    notes: tuple[str, ...] = ()
    left_out: dict[str, int] = field(default_factory=dict)
    shared: dict[str, int] = field(default_factory=dict)
    data_rules: int = 1
    pixel_range: tuple[int | None, float | None] = (None, None)
    resampler: str = ""
    model_sha256: str = ""


@dataclass(frozen=True, slots=True)
class EvaluationProgressed:
    """Progress of a longer evaluation, in images."""

    run: int
    split: Split
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A split was evaluated after `epoch` epochs, at step `step`.

    `confusion[i][j]` counts images of class i predicted as class j. `labels` and `predictions` are little-endian
    uint16, `confidences` (softmax of the predicted class) little-endian float32, each in the order of the split's
    images.
    """

    run: int
    split: Split
    moment: Moment
    epoch: int
    step: int
    metrics: Metrics
    per_class: tuple[ClassMetrics, ...]
    confusion: tuple[tuple[int, ...], ...]
    elapsed_s: float
    labels: bytes = field(default=b"", repr=False)
    predictions: bytes = field(default=b"", repr=False)
    confidences: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class StepsCompleted:
    """Every step since the last such event, about ten times a second.

    `first_step` counts from 1 over the whole run; `losses` and `accuracies` are those of each step's batch, in order.
    `train_s` is the training time so far, `images` the number of images so far.
    """

    run: int
    epoch: int
    first_step: int
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    learning_rate: float
    images: int
    train_s: float

    @property
    def last_step(self) -> int:
        return self.first_step + len(self.losses) - 1


@dataclass(frozen=True, slots=True)
class EpochEnded:
    """An epoch's training steps are done: means over its images, and its speed without evaluation."""

    run: int
    epoch: int
    train_loss: float
    train_accuracy: float
    train_s: float
    images_per_s: float


@dataclass(frozen=True, slots=True)
class GradientsMeasured:
    """One step, per stage from input to output: the gradient's norm, and the norm of the weight update over that of the
    weights.
    """

    run: int
    step: int
    stages: tuple[str, ...]
    norms: tuple[float, ...]
    ratios: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """Weights and optimizer state are in `file`, in the run's folder, complete and synced, with this SHA-256."""

    run: int
    file: str
    sha256: str
    epoch: int
    step: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class CheckpointFailed:
    """The state at `step` could not be saved; the run continues and tries again later. `error` is a sentence."""

    run: int
    step: int
    error: str


@dataclass(frozen=True, slots=True)
class RunContinued:
    """An interrupted run resumes from its checkpoint at `step` (0: it restarts).

    `differs` lists in words what has changed; if empty, the run equals an uninterrupted one to the last bit. Between
    RunStarted and this event, the run's past events are repeated. `epochs_done` counts complete epochs, `evaluated`
    says whether the last of them was evaluated. Also sent in the middle of a run, after workers were lost.
    """

    run: int
    step: int
    differs: tuple[str, ...]
    epochs_done: int = 0
    evaluated: bool = False


@dataclass(frozen=True, slots=True)
class SettingsTuned:
    """What `dtype auto` means on this processor was measured; the choice applies to all later runs with this `key`.

    `gain` is the speed relative to plain float32 on all threads; 1 if that was chosen. Other processes kept
    `busy_cores` cores busy meanwhile (None: unknown). `images_per_s` is the training speed of the first run with this
    choice (None: none yet). `due`: the next run measures again.
    """

    run: int
    key: str
    dtype: str
    memory_format: str
    num_threads: int
    gain: float
    busy_cores: float | None = None
    images_per_s: float | None = None
    due: bool = False
    measured_at: float = 0.0


@dataclass(frozen=True, slots=True)
class TuningChecked:
    """A run's training speed beside that of the first run (None: this is the first) with the choice for `key`. If the
    choice no longer `holds`, the next run measures again.
    """

    run: int
    key: str
    images_per_s: float
    first_images_per_s: float | None
    holds: bool


@dataclass(frozen=True, slots=True)
class MemoryForecasted:
    """The memory that the run is expected to take at its peak, and the memory available to it, in bytes.

    `peak_bytes` is the sum of the parts; `room_bytes`, the memory available, is None if unknown. `dropped_bytes` of
    finished runs were freed for it.
    """

    run: int
    peak_bytes: int
    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    dataset_bytes: int
    workspace_bytes: int
    context_bytes: int
    room_bytes: int | None
    dropped_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryRecovered:
    """An allocation failed before `step` (0: the forecast predicted it), and the run continued.

    `action` says how, in words. From here on, batches are split into micro-batches of `micro_batch` images (None: not
    split), and with `recomputing` activations are computed twice. `freed_bytes` of idle memory were freed.
    """

    run: int
    step: int
    action: str
    micro_batch: int | None
    recomputing: bool
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class RunPaused:
    run: int
    step: int


@dataclass(frozen=True, slots=True)
class RunResumed:
    """`paused_s` is the duration of the pause, which is not training time."""

    run: int
    step: int
    paused_s: float


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event of every run.

    `untrained` and `final` are test figures, None if that evaluation was not reached; `final` is of the last epoch
    that was evaluated. `train_images_per_s` is over training steps only, the first epoch included. `error` is a
    sentence for the statuses `failed` and `diverged`, and for `stopped` if no person requested it. `peak_bytes` is the
    most that torch's allocator held during the run, for comparison with the forecast; None on a CPU. `context_bytes` is
    what the driver held in addition. `grown_bytes` is the growth of the process's resident memory on a CPU, libraries
    and threads included. None if unknown. `remarks` are sentences about a completed run's figures: at chance, only one
    class predicted, no better than before training.
    """

    run: int
    status: Status
    untrained: Metrics | None
    final: Metrics | None
    elapsed_s: float
    train_images_per_s: float | None
    steps: int
    error: str | None = None
    peak_bytes: int | None = None
    context_bytes: int | None = None
    remarks: tuple[str, ...] = ()
    grown_bytes: int | None = None


Event = (
    DatasetProgressed
    | RunStarted
    | EvaluationProgressed
    | Evaluated
    | StepsCompleted
    | EpochEnded
    | GradientsMeasured
    | CheckpointSaved
    | CheckpointFailed
    | RunContinued
    | SettingsTuned
    | TuningChecked
    | MemoryForecasted
    | MemoryRecovered
    | RunPaused
    | RunResumed
    | RunEnded
)


def event_name(event: Event) -> str:
    """The snake_case name in JSON: `run_started`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def to_json_dict(event: Event) -> dict[str, Any]:
    """The event as JSON types, its name first under "event"; without bytes, non-finite numbers as None."""
    return {"event": event_name(event), **plain(event)}


def plain(value: Any) -> Any:
    """A dataclass, tuple, dict or scalar as JSON types."""
    if hasattr(value, "__dataclass_fields__"):
        pairs = ((item.name, getattr(value, item.name)) for item in fields(value))
        return {name: plain(inner) for name, inner in pairs if not isinstance(inner, bytes)}
    if isinstance(value, tuple | list):
        return [plain(inner) for inner in value]
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
