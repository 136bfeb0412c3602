"""Stand-ins: a scripted run instead of a training, and a driver library instead of NVML."""

from __future__ import annotations

import os
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from engine.control import Control, RunControl
from engine.events import (
    CheckpointFailed,
    CheckpointSaved,
    ClassMetrics,
    DatasetProgressed,
    EpochEnded,
    Evaluated,
    EvaluationProgressed,
    Event,
    GradientsMeasured,
    MemoryForecasted,
    MemoryRecovered,
    Metrics,
    RunContinued,
    RunEnded,
    RunPaused,
    RunResumed,
    RunStarted,
    SettingsTuned,
    StepsCompleted,
    TuningChecked,
)
from engine.events import Resolved as _Resolved
from engine.launch.backend import Handle, Job, Slot
from engine.launch.requests import RequestListener
from engine.launch.stream import Stream
from engine.memory.gauges import GpuReading, HostReading, MemoryReading
from engine.memory.ledger import Ledger
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store

GIB = 2**30
STEPS_PER_EPOCH = 12
RESOLVED = _Resolved(
    "cpu", "a processor, 2 cores", "no GPU", "float32", 2, "contiguous_format", "imagenet", "resident", {}
)

GPU_READING = MemoryReading(
    gpus=(GpuReading(0, "NVIDIA RTX 4090", 24 * GIB, 9 * GIB, 6 * GIB, 61, 212.0, 98),),
    host=HostReading(64 * GIB, 40 * GIB, 3 * GIB, 12.0),
    no_gpu=None,
)
HOST_READING = MemoryReading((), HostReading(64 * GIB, 40 * GIB, 3 * GIB, 50.0), "no NVIDIA GPU (no driver)")


def drain(work: Generator[Any, None, Any]) -> tuple[list[Any], Any]:
    """All that a generator yields, and what it returns."""
    seen = []
    while True:
        try:
            seen.append(next(work))
        except StopIteration as end:
            return seen, end.value


def metrics(accuracy: float) -> Metrics:
    return Metrics(
        accuracy, accuracy - 0.001, accuracy - 0.002, accuracy - 0.001, accuracy - 0.003, 2.3 * (1 - accuracy)
    )


def started(spec: RunSpec, run: int = 1, class_names: Sequence[str] = ("cat", "dog")) -> RunStarted:
    return RunStarted(
        run=run, spec=spec.to_dict(), resolved=RESOLVED, num_train=1437, num_val=0, num_test=360, num_unusable=0,
        image_shape=(1, 8, 8), class_names=tuple(class_names), mean=(0.3,), std=(0.4,), test_sha256="0" * 64,
        num_parameters=11_175_370, changes=("conv1 3→1 channels", "fc 1000→10 classes"),
        num_steps=STEPS_PER_EPOCH * spec.epochs,
    )  # fmt: skip


def evaluated(run: int, epoch: int, accuracy: float, moment: Any = "epoch") -> Evaluated:
    right = round(180 * accuracy)
    confusion = ((right, 180 - right), (180 - right, right))
    per_class = (ClassMetrics(accuracy, accuracy, accuracy, 180),) * 2
    step = epoch * STEPS_PER_EPOCH
    labels = bytes([0, 0, 1, 0])
    return Evaluated(
        run, "test", moment, epoch, step, metrics(accuracy), per_class, confusion, 0.1,
        labels, labels, b"\x00\x00\x00\x3f" * 2,
    )  # fmt: skip


def events_of(spec: RunSpec, run: int = 1, class_names: Sequence[str] = ("cat", "dog")) -> list[Event]:
    """A plausible run: the loss falls, the accuracy rises, nothing is random."""
    events: list[Event] = [started(spec, run, class_names), evaluated(run, 0, 0.1135, "untrained")]
    for epoch in range(1, spec.epochs + 1):
        for half in range(2):
            first = (epoch - 1) * STEPS_PER_EPOCH + half * 6 + 1
            losses = tuple(2.4 / (1 + 0.1 * step) for step in range(first, first + 6))
            accuracies = tuple(1 - 0.9 / (1 + 0.1 * step) for step in range(first, first + 6))
            events.append(
                StepsCompleted(run, epoch, first, losses, accuracies, 0.01, 128 * (first + 5), 0.1 * (first + 5))
            )
        events.append(EpochEnded(run, epoch, losses[-1], accuracies[-1], 1.2, 1200.0))
        moment = "final" if epoch == spec.epochs else "epoch"
        events.append(evaluated(run, epoch, 1 - 0.9 / (1 + epoch), moment))
    events.append(
        RunEnded(run, "completed", metrics(0.1135), metrics(0.91), 13.1, 1234.0, STEPS_PER_EPOCH * spec.epochs)
    )
    return events


OTHER_EVENTS: tuple[Event, ...] = (
    DatasetProgressed(1, "mnist", "download", 3, 0, "bytes"),
    EvaluationProgressed(1, "val", 3, 100),
    GradientsMeasured(1, 5, ("stem", "layer1"), (0.1, 0.2), (1e-3, 2e-3)),
    CheckpointSaved(1, "step-00000005.safetensors", "ab" * 32, 1, 5, 1000),
    CheckpointFailed(1, 5, "no space left"),
    RunContinued(1, 5, ("torch 2.15 instead of 2.11",), 1, True),
    SettingsTuned(1, "key", "bfloat16", "channels_last", 2, 1.4),
    TuningChecked(1, "key", 1200.0, None, True),
    MemoryForecasted(1, 9, 1, 1, 1, 1, 1, 1, 1, None, 0),
    MemoryRecovered(1, 0, "training in micro-batches of 64", 64, False, 0),
    RunPaused(1, 5),
    RunResumed(1, 5, 2.5),
)
"""One of each event that `events_of` has none of."""


def without_bytes(event: Event) -> Event:
    """As it comes from JSON, which has no bytes."""
    blank: dict[str, Any] = {"labels": b"", "predictions": b"", "confidences": b""}
    return replace(event, **blank) if isinstance(event, Evaluated) else event


class ScriptedRun:
    """A run that yields prepared events and hears its control; it stands still before event number `hold_at`."""

    def __init__(self, hold_at: int | None = None, events: Sequence[Event] | None = None) -> None:
        self.hold_at = hold_at
        self.events = events
        self.release = threading.Event()
        self.specs: list[RunSpec] = []
        self.resumed: int | None = None
        self.error: Exception | None = None

    survives = False

    def __call__(self, folders: Folders, ledger: Ledger) -> ScriptedRun:
        """The backend of an app."""
        return self

    def start(self, job: Job, control: RunControl | None = None, slot: Slot | None = None) -> Handle:
        def events(control: RunControl) -> Generator[Event, None, None]:
            yield from self.play(job.spec, control, job.resume)

        return Handle(events, control or RunControl())

    def play(self, spec: RunSpec, control: Control, resumed: int | None = None) -> Iterator[Event]:
        self.specs.append(spec)
        self.resumed = resumed
        run = resumed or len(self.specs)
        step = 0
        for number, event in enumerate(self.events or events_of(spec, run)):
            if number == self.hold_at:
                if self.error is not None:
                    raise self.error
                yield from self._hold(run, step, control)
            if control.stop_requested:
                yield RunEnded(run, "stopped", metrics(0.1135), None, 3.0, 1234.0, step)
                return
            if isinstance(event, StepsCompleted):
                step = event.last_step
            yield event

    def _hold(self, run: int, step: int, control: Control) -> Iterator[Event]:
        """Stand still until released or stopped, and hear of a pause."""
        paused = False
        while not (self.release.is_set() or control.stop_requested):
            if control.pause_requested != paused:
                paused = not paused
                yield RunPaused(run, step) if paused else RunResumed(run, step, 1.0)
            self.release.wait(0.01)


class FakeNvml:
    """The functions of `pynvml` that the gauges use, for cards that a test describes.

    `silent` functions are not supported; from reading `lost_after` + 1 on the driver is lost; call number `fails_at` of
    all calls raises `error`.
    """

    def __init__(
        self,
        num_gpus: int = 1,
        silent: Sequence[str] = (),
        lost_after: int | None = None,
        fails_at: int | None = None,
        error: Exception | None = None,
        mig: bool = False,
        hidden: bool = False,
        throttled: int = 0,
    ) -> None:
        self.num_gpus, self.silent, self.lost_after = num_gpus, set(silent), lost_after
        self.fails_at, self.error = fails_at, error
        self.mig, self.hidden, self.throttled = mig, hidden, throttled
        self.readings = self.calls = 0

    def nvmlDeviceGetCount(self) -> int:
        self._count()
        self.readings += 1
        if self.lost_after is not None and self.readings > self.lost_after:
            raise RuntimeError("GPU is lost")
        return self.num_gpus

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.fails_at and self.error is not None:
            raise self.error

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self._count()
            if name in self.silent:
                raise RuntimeError("Not Supported")
            return self._answer(name, *arguments)

        return call

    def _answer(self, name: str, *arguments: Any) -> Any:
        held = None if self.hidden else 6 * GIB
        answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlDeviceGetHandleByIndex": arguments[0] if arguments else None,
            "nvmlDeviceGetName": f"NVIDIA Test {arguments[0] if arguments else ''}",
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 * GIB, used=9 * GIB, free=15 * GIB),
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=98, memory=40),
            "nvmlDeviceGetPowerUsage": 212_345,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetMigMode": (int(self.mig), int(self.mig)),
            "nvmlDeviceGetCurrentClocksEventReasons": self.throttled,
            "nvmlDeviceGetComputeRunningProcesses": [
                SimpleNamespace(pid=os.getpid(), usedGpuMemory=held),
                SimpleNamespace(pid=1, usedGpuMemory=3 * GIB),
            ],
        }
        return answers[name]


class DetachedRun:
    """A run as in another process; the test decides its events. Use it from one thread only."""

    def __init__(self, spec: RunSpec, folders: Folders) -> None:
        self.store = Store(folders.database)
        self.run = self.store.create_run(spec)
        self.folder = folders.run_folder(self.run)
        self.control = RunControl()
        self.requests = RequestListener(self.folder, self.control)
        self.stream = Stream(self.folder)

    def emit(self, *events: Event) -> None:
        for event in events:
            self.store.record(event)
            self.requests.announce(event)
            self.stream.write(event)

    def close(self) -> None:
        self.requests.close()
        self.stream.close()
        self.store.close()
