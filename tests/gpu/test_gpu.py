"""What only a GPU can show; `uv run pytest -m gpu -n 0`. Skipped where there is none; other tests see none."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
import torch

from engine.control import RunControl
from engine.device import choose_placement
from engine.events import (
    Event,
    MemoryForecasted,
    MemoryRecovered,
    RunEnded,
    RunPaused,
    RunResumed,
    RunStarted,
    StepsCompleted,
)  # fmt: skip
from engine.forecast.step_memory import Step, forecast
from engine.lab import Lab
from engine.memory.calibration import uncalibrated
from engine.memory.freeing import clear_workspaces, free_memory
from engine.memory.gauges import Gauges
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.step.gradients import Gradients
from engine.step.learner import build_learner
from engine.store.store import Store
from engine.training.cuda_graph import GraphedStep

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU, or hidden: it is tried with -m gpu"),
]
SPEC = RunSpec("digits", "resnet18", epochs=2)


def events_of(spec: RunSpec, lab: Lab) -> list[Event]:
    return list(lab.train(spec).events())


def losses_of(events: list[Event]) -> list[float]:
    return [loss for event in events if isinstance(event, StepsCompleted) for loss in event.losses]


def completed(events: list[Event]) -> RunEnded:
    end = events[-1]
    assert isinstance(end, RunEnded)
    assert (end.status, end.error) == ("completed", None)
    return end


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_trains_and_learns(folders: Folders, dtype: str) -> None:
    events = events_of(SPEC.replace(epochs=10, dtype=dtype), Lab(folders))
    end = completed(events)
    assert end.final is not None
    assert end.final.accuracy > 0.85
    (started,) = (event for event in events if isinstance(event, RunStarted))
    assert (started.resolved.device, started.resolved.dtype) == ("cuda:0", dtype)
    assert started.resolved.memory_format == "channels_last"


def test_deterministic_runs_are_identical(folders: Folders) -> None:
    losses = [losses_of(events_of(SPEC.replace(deterministic=True), Lab(folders))) for _ in range(2)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_recorded_step_trains_as_the_ordinary_one(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    launched, original = 0, GraphedStep.update

    def count(self: GraphedStep) -> None:
        nonlocal launched
        launched += 1
        original(self)

    monkeypatch.setattr(GraphedStep, "update", count)
    # Deterministic: else convolutions are chosen that round otherwise, and Adam's first steps make much of it.
    spec = SPEC.replace(dtype="float32", optimizer=optimizer, learning_rate=0.001, deterministic=True)
    stories = []
    for wanted in ("1", "0"):
        monkeypatch.setenv("RESLAB_GRAPH", wanted)
        events = events_of(spec, Lab(folders))
        completed(events)
        stories.append(losses_of(events))
    assert launched == 2 * 11  # eleven whole batches an epoch; the twelfth has 29 images
    assert stories[0] == pytest.approx(stories[1], rel=1e-4)


def test_a_deterministic_run_that_was_cut_off_ends_as_if_it_had_not_been(folders: Folders) -> None:
    spec, lab = SPEC.replace(epochs=10, deterministic=True), Lab(folders)
    whole = losses_of(events_of(spec, lab))
    control, num_seen = RunControl(), 0
    for event in lab.train(spec, control).events():
        if isinstance(event, StepsCompleted):
            num_seen = event.last_step
            control.stop()
    assert num_seen < len(whole)
    events = list(lab.resume(2).events())
    completed(events)
    assert losses_of(events) == whole


def test_a_run_pauses_and_goes_on(folders: Folders) -> None:
    control, events = RunControl(), list[Event]()
    for event in Lab(folders).train(SPEC.replace(epochs=20), control).events():
        events.append(event)
        if isinstance(event, StepsCompleted) and not any(isinstance(event, RunPaused) for event in events):
            control.pause()
        if isinstance(event, RunPaused):
            threading.Timer(0.3, control.resume).start()
    completed(events)
    (resumed,) = (event for event in events if isinstance(event, RunResumed))
    assert resumed.paused_s >= 0.25


def test_a_diverged_run_keeps_the_state_before_it(folders: Folders) -> None:
    end = events_of(SPEC.replace(learning_rate=1000.0, epochs=5), Lab(folders))[-1]
    assert isinstance(end, RunEnded)
    assert end.status == "diverged"


def test_the_gauges_read_this_card() -> None:
    held = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    gpu = Gauges().read().gpus[0]
    assert gpu.total_bytes
    assert gpu.used_bytes is not None
    assert gpu.used_bytes >= held.nbytes
    assert gpu.allocator is not None
    assert gpu.allocator.allocated_bytes >= held.nbytes
    assert gpu.allocator.reserved_bytes >= gpu.allocator.allocated_bytes


def test_the_ledger_agrees_with_the_allocator(folders: Folders) -> None:
    """What was asked of it, without the slack of its blocks and cuBLAS' workspaces, which belong to no run."""

    def asked_bytes() -> int:
        clear_workspaces()
        return int(torch.cuda.memory_stats()["requested_bytes.all.current"])

    before = asked_bytes()
    lab = Lab(folders)
    events = lab.train(SPEC.replace(model="resnet50")).events()
    for event in events:
        if isinstance(event, StepsCompleted):
            break
    assert lab.ledger.num_bytes == pytest.approx(asked_bytes() - before, rel=0.02)
    events.close()


@pytest.mark.parametrize(
    ("model", "batch", "size"), [("resnet18", 64, 64), ("resnet50", 32, 64), ("resnet20", 128, 28)]
)
def test_the_forecast_is_what_the_allocator_reaches(model: str, batch: int, size: int) -> None:
    spec, shape = RunSpec("digits", model, batch_size=batch, dtype="float32"), DataShape(3, size, size, 10)
    placement = choose_placement(spec)
    gc.collect()
    clear_workspaces()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    learner = build_learner(spec, shape, ((0.5,) * 3, (0.5,) * 3), placement)
    gradients = Gradients(0, learner.model)
    for number in range(2):
        pixels = torch.zeros(batch, 3, size, size, dtype=torch.uint8, device=placement.device)
        learner.compute_gradients((pixels, torch.zeros(batch, dtype=torch.int64, device=placement.device)), 1, number)
        gradients.around(learner.optimizer.step, number)
    peak = torch.cuda.max_memory_allocated() - before
    step = Step(spec, shape, placement, calibration=uncalibrated(placement.device))
    assert forecast(step).allocator_bytes == pytest.approx(peak, rel=0.1)


def test_freeing_gives_back_what_it_says(folders: Folders) -> None:
    lab = Lab(folders)
    events_of(SPEC.replace(model="resnet50"), lab)
    reserved = torch.cuda.memory_reserved()
    freed = free_memory(lab.ledger, gauges=Gauges())
    assert freed.kept == ()
    assert freed.allocator_bytes == reserved - torch.cuda.memory_reserved()
    assert freed.allocator_bytes > 90 * 2**20


def test_runs_one_after_another_leave_nothing_of_themselves(folders: Folders) -> None:
    lab, left = Lab(folders), list[int]()
    for _ in range(6):
        completed(events_of(SPEC.replace(epochs=1), lab))
        free_memory(lab.ledger)
        left.append(torch.cuda.memory_allocated())
    assert left[-1] <= left[0] + 2**20


def test_ten_runs_with_a_bound_finish_by_themselves(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESLAB_MEMORY_GIB", "0.4")
    lab = Lab(folders)
    for number in range(10):
        spec = SPEC.replace(model=("resnet18", "resnet34")[number % 2], epochs=1, batch_size=128)
        events = events_of(spec, lab)
        completed(events)
        assert any(isinstance(event, MemoryForecasted) for event in events)
    assert torch.cuda.memory_allocated() < 0.4 * 2**30


def test_a_real_failure_is_recovered_from(folders: Folders) -> None:
    """The allocator is given less than a step needs, behind the forecast's back."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.35 * 2**30 / total)
    events = events_of(RunSpec("digits", "resnet18", epochs=1, batch_size=1024, image_size=32), Lab(folders))
    completed(events)
    assert any(isinstance(event, MemoryRecovered) and event.micro_batch for event in events)


def test_a_run_teaches_the_next_forecast(folders: Folders) -> None:
    events_of(SPEC.replace(epochs=1), Lab(folders))
    with Store(folders.database) as store:
        memory = store.details(1).memory
        found = store.calibration(torch.cuda.get_device_name(0))
    assert memory.peak_bytes
    if memory.context_bytes is not None:  # NVML may hide it, as in a container
        assert found is not None
        assert found.num_runs == 1
