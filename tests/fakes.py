"""Stand-ins: a scripted run instead of a training, and a driver library instead of NVML."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from engine.control import Control
from engine.events import (
    ClassMetrics,
    EpochEnded,
    Evaluated,
    Event,
    Metrics,
    RunEnded,
    RunPaused,
    RunResumed,
    RunStarted,
    StepsCompleted,
)
from engine.events import Resolved as _Resolved
from engine.memory.gauges import GpuReading, HostReading, MemoryReading
from engine.memory.ledger import Ledger
from engine.paths import Places
from engine.spec import RunSpec

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


class ScriptedRun:
    """A run that yields prepared events and hears its control; it stands still before event number `hold_at`."""

    def __init__(self, hold_at: int | None = None, events: Sequence[Event] | None = None) -> None:
        self.hold_at = hold_at
        self.events = events
        self.release = threading.Event()
        self.specs: list[RunSpec] = []
        self.error: Exception | None = None

    def __call__(self, spec: RunSpec, places: Places, ledger: Ledger, control: Control) -> Iterator[Event]:
        self.specs.append(spec)
        run = len(self.specs)
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
    """The functions of `pynvml` that the gauges use, for cards that a test describes."""

    def __init__(self, num_gpus: int = 1, silent: Sequence[str] = (), lost_after: int | None = None) -> None:
        self.num_gpus = num_gpus
        self.silent = set(silent)
        self.lost_after = lost_after
        self.readings = 0

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        self.readings += 1
        if self.lost_after is not None and self.readings > self.lost_after:
            raise RuntimeError("GPU is lost")
        return self.num_gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def __getattr__(self, name: str) -> Any:
        if name in self.silent:
            raise RuntimeError("Not Supported")
        import os

        answers: dict[str, Any] = {
            "nvmlDeviceGetName": lambda handle: f"NVIDIA Test {handle}",
            "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(total=24 * GIB, used=9 * GIB, free=15 * GIB),
            "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=98, memory=40),
            "nvmlDeviceGetPowerUsage": lambda handle: 212_345,
            "nvmlDeviceGetTemperature": lambda handle, kind: 61,
            "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
                SimpleNamespace(pid=os.getpid(), usedGpuMemory=6 * GIB),
                SimpleNamespace(pid=1, usedGpuMemory=3 * GIB),
            ],
        }
        return answers[name]
