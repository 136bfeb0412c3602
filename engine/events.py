"""The facts that a run yields, as frozen values in plain Python types.

An event goes to JSON as it is, so a run can be watched from the app, from a pipe or from another machine. They are
few, they are named in the past tense, and none of them asks for anything. Loads no torch.
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

    `accuracy` is the share of images that are right (the report's "match"); `balanced_accuracy` is the mean of the
    classes' recalls; `precision`, `recall` and `f1` are macro averages. A class without an image in the split counts
    for no recall, and one that was not predicted there either for nothing.
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

    Without any there is no recall and no F1; without a prediction either, no precision: they are None.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    support: int


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the machine made of a spec: needed to repeat a run, and to say why it differs.

    `gain` is how many times as fast dtype, layout and threads were measured to be as plain float32; 1: not tuned.
    `images` is `resident` where the dataset lies in the memory of the device, `streamed` where a thread reads it ahead.
    `workers` says how many processes make each step together, and where; empty: one. `threads_reason` says why
    there are fewer threads than cores; empty: there are not.
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

    `stage` is a word such as "download", `done` of `total` in `unit`s (0: unknown).
    """

    run: int
    dataset: str
    stage: str
    done: int
    total: int
    unit: str


@dataclass(frozen=True, slots=True)
class RunStarted:
    """Data and network are ready.

    `mean` and `std` are those of the normalisation, for pixels from 0 to 1; `test_sha256` is of the test images and
    their labels, so that two runs know whether they saw the same ones, `train_sha256` of those for training and
    validation, in their order, or of their files. `left_out` counts the files that were not used, by the kind of reason
    ({"no image": 2, "damaged": 1}), `shared` the images that two parts have in common ({"train and test": 12}); `notes`
    are sentences about the weights and images that a person should read, such as which function the weights were found
    to belong to and what became of each sub-folder of a folder.
    `data_rules` says how they were laid out, sized and split (`engine.data.images`); earlier runs had the first.
    `pixel_range` is what became 255 in images of more than 8 bits a sample, of integers and of floats, None where there
    were none; `resampler` says what brought the images to their size: "tensor", "pillow", or "" in runs that were
    recorded before it was.
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


@dataclass(frozen=True, slots=True)
class EvaluationProgressed:
    """An evaluation that takes longer than an eye-blink has come this far, in images."""

    run: int
    split: Split
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A split was evaluated after `epoch` epochs, at step `step`.

    `confusion[i][j]` counts images of class i taken for class j. `labels` and `predictions` are little-endian uint16,
    `confidences` (softmax of the predicted class) little-endian float32, each in the order of the split's images.
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

    `first_step` counts from 1 over the whole run; `losses` are the steps' training losses and `accuracies` the shares
    of their batches that were right, in order. `train_s` is the training time so far, `images` the images so far.
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
    """One step, stage by stage from the input on: the gradient's norm, and the norm of the step's change of the weights
    over that of the weights.
    """

    run: int
    step: int
    stages: tuple[str, ...]
    norms: tuple[float, ...]
    ratios: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class CheckpointSaved:
    """Weights and optimizer state lie in `file`, inside the run's folder, complete and synced, with this SHA-256."""

    run: int
    file: str
    sha256: str
    epoch: int
    step: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class CheckpointFailed:
    """The state at `step` could not be written; the run goes on and tries again later. `error` is a sentence."""

    run: int
    step: int
    error: str


@dataclass(frozen=True, slots=True)
class RunContinued:
    """A run that was cut off goes on, from its checkpoint at `step` (0: it begins anew).

    `differs` says in words what is not as it was; where it is empty the run is the one that was never cut off, to the
    last bit. Between RunStarted and this event the run's past is told again. `epochs_done` are whole ones, `evaluated`
    says whether the last of them was. It also comes in the middle of a run, where workers were lost.
    """

    run: int
    step: int
    differs: tuple[str, ...]
    epochs_done: int = 0
    evaluated: bool = False


@dataclass(frozen=True, slots=True)
class SettingsTuned:
    """What `dtype auto` means on this processor was measured, and holds from now on for all that `key` names.

    `gain` is how many times as fast this is as plain float32 on all threads; 1 where that is what was taken. Others
    kept `busy_cores` of the processor's cores busy meanwhile (None: not known). `images_per_s` is the training speed of
    the first run that was computed so (None: there is none yet). `due` says that the next run measures again.
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
    """A run's training speed beside that of the first run (None: it is the first) with the settings that were measured
    for `key`. Where they do not hold, the next run measures again.
    """

    run: int
    key: str
    images_per_s: float
    first_images_per_s: float | None
    holds: bool


@dataclass(frozen=True, slots=True)
class MemoryForecasted:
    """What the run is expected to take, in bytes at the moment of its peak, and the room that there is for it.

    `peak_bytes` is the sum of the other parts; `room_bytes` is None where it is not known. `dropped_bytes` of finished
    runs were let go to make room.
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
    """An allocation failed before `step` (0: the forecast said that it would), and the run went on.

    `action` says how, in words; from here on batches are cut into parts of `micro_batch` images (None: they are whole),
    and activations are computed twice where `recomputing`. `freed_bytes` of idle things were let go.
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
    """`paused_s` is how long it stood still: no training time."""

    run: int
    step: int
    paused_s: float


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The last event of every run.

    `untrained` and `final` are test figures, None where that evaluation was not reached; `final` is the last epoch
    that was evaluated. `train_images_per_s` counts training steps alone, the first epoch included. `error` is a
    sentence for the statuses `failed` and `diverged`, and for `stopped` where no person asked for it. `peak_bytes` is
    the most that torch's allocator held during the run, which a forecast can be held against; a CPU's tells none.
    `context_bytes` is what the driver held beside it. `grown_bytes` is how much the process's resident memory grew on a
    CPU, libraries and threads included. None where it is not known. `remarks` are sentences about a
    completed run's figures: at chance, one class alone, no better than before training.
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
    """The snake_case name that JSON carries: `run_started`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def to_json_dict(event: Event) -> dict[str, Any]:
    """The event as JSON types, its name first under "event"; bytes are left out, a number not finite is None."""
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
