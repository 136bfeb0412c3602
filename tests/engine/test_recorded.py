"""The recorded step, with a stand-in for CUDA's graphs that keeps their rules: fixed inputs, outputs written over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.data.feeding import Batch
from engine.device import Placement
from engine.events import Evaluated, Event, GradientsMeasured, MemoryRecovered, StepsCompleted
from engine.forecast.memory_plan import Plan
from engine.forecast.timeline import Forecast
from engine.lab import Lab
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.step.learner import Learner, build_learner
from engine.training import cuda_graph
from engine.training.cuda_graph import GraphedStep, Outputs, is_capturable

pytestmark = pytest.mark.usefixtures("few_digits")
# A power of two: the recorded step reads its learning rate as float32, the ordinary one as float64.
SPEC = RunSpec("digits", "resnet20", epochs=2, batch_size=32, learning_rate=2.0**-6, flip=True)
CPU = Placement(torch.device("cpu"), torch.float32, torch.contiguous_format, "test")


class Recorder:
    """Does the work thrice to warm up and once to record; replaying writes into the recorded outputs."""

    def __init__(self) -> None:
        self.num_recorded = self.num_replayed = 0

    def __call__(self, work: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        for _ in range(3):
            work()
        outputs = work()
        self.num_recorded += 1

        def replay() -> None:
            self.num_replayed += 1
            for static, value in zip(outputs, work(), strict=True):
                static.copy_(value)

        return outputs, replay


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(cuda_graph, "cuda_capture", lambda _: made)
    monkeypatch.setattr("engine.training.setup.is_capturable", lambda *_: True)
    return made


def collect(folders: Folders, spec: RunSpec = SPEC) -> list[Event]:
    return list(Lab(folders).train(spec).events())


def story(events: list[Event]) -> tuple[list[float], list[bytes]]:
    losses = [loss for event in events if isinstance(event, StepsCompleted) for loss in event.losses]
    return losses, [event.predictions for event in events if isinstance(event, Evaluated)]


@pytest.mark.parametrize(
    "changes",
    [{}, pytest.param({"optimizer": "adam"}, marks=pytest.mark.slow), {"schedule": "one-cycle", "momentum": 0.0}],
    ids=["momentum", "adam", "schedule"],
)
def test_a_recorded_run_is_the_ordinary_one_bit_for_bit(
    folders: Folders, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    spec = SPEC.replace(**changes)
    events = collect(folders, spec)
    assert recorder.num_recorded == 2
    assert recorder.num_replayed == 2 * 2 * 5  # two epochs of five whole batches; the sixth has 20 images
    assert any(isinstance(event, GradientsMeasured) for event in events)
    monkeypatch.setattr("engine.training.setup.is_capturable", lambda *_: False)
    if spec.schedule == "constant":
        assert story(events) == story(collect(folders, spec))
    else:  # rates that float32 rounds
        for ours, theirs in zip(story(events)[0], story(collect(folders, spec))[0], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3)


def test_recording_changes_nothing_and_each_loss_is_its_own(recorder: Recorder) -> None:
    learner, batches = _learner(), [_batch(seed) for seed in (1, 2)]
    before = {name: values.clone() for name, values in learner.model.state_dict().items()}
    step = GraphedStep(learner, recorder)
    assert step._captured(batches[0])
    for name, values in learner.model.state_dict().items():
        assert torch.equal(values, before[name]), name
    assert learner.guard.flag == 0
    found = [step.compute_gradients(batch, 1, number) for number, batch in enumerate(batches)]
    other = _learner()
    wanted = [other.compute_gradients(batch, 1, number) for number, batch in enumerate(batches)]
    assert [pair and (float(pair[0]), int(pair[1])) for pair in found] == [
        (float(loss), int(right)) for loss, right in wanted
    ]
    for mine, theirs in zip(learner.model.parameters(), other.model.parameters(), strict=True):
        assert mine.grad is not None
        assert torch.equal(mine.grad, theirs.grad)  # type: ignore[arg-type]


def test_a_smaller_batch_goes_the_ordinary_way(recorder: Recorder) -> None:
    step = GraphedStep(_learner(), recorder)
    assert step.compute_gradients(_batch(1, 20), 1, 0) is None
    assert recorder.num_recorded == 0


def test_what_cannot_be_recorded_is_trained_all_the_same(
    folders: Folders, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(work: Callable[[], Outputs]) -> tuple[Outputs, Callable[[], None]]:
        work()
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "cuda_capture", lambda _: refuse)
    events = collect(folders)
    monkeypatch.setattr("engine.training.setup.is_capturable", lambda *_: False)
    assert story(events) == story(collect(folders))


def test_a_failing_allocation_leaves_the_graph(
    folders: Folders, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an evaluation, say: the graph's memory is what can be given up."""
    original, calls = GraphedStep.compute_gradients, 0

    def fails_once(self: GraphedStep, batch: Batch, epoch: int, number: int) -> tuple[Tensor, Tensor] | None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return original(self, batch, epoch, number)

    monkeypatch.setattr(GraphedStep, "compute_gradients", fails_once)
    events = collect(folders)
    assert calls == 3
    assert [event.action for event in events if isinstance(event, MemoryRecovered)] == [
        "freed what was idle and tried again"
    ]
    monkeypatch.setattr("engine.training.setup.is_capturable", lambda *_: False)
    assert story(events) == story(collect(folders))


def test_a_loss_that_is_not_finite_changes_nothing(recorder: Recorder) -> None:
    learner = _learner()
    step = GraphedStep(learner, recorder)
    assert step.compute_gradients(_batch(1), 1, 0) is not None
    step.update()
    next(learner.model.parameters()).data.view(-1)[0] = float("nan")
    before = {name: values.clone() for name, values in learner.model.state_dict().items()}
    found = step.compute_gradients(_batch(2), 1, 1)
    assert found is not None
    assert torch.isnan(found[0])
    step.update()
    for name, values in learner.model.state_dict().items():
        assert torch.equal(values.nan_to_num(), before[name].nan_to_num()), name


def test_it_is_for_gpus_with_room(monkeypatch: pytest.MonkeyPatch) -> None:
    forecast = Forecast(0, 0, 0, 50, 0, 0, 0, 1, 128, "update")
    plan = Plan("fits", forecast, room_bytes=100, dropped_bytes=0)
    on_gpu = replace(_learner(), placement=replace(CPU, device=torch.device("cuda")))
    assert is_capturable(on_gpu, plan)
    assert not is_capturable(_learner(), plan)
    assert not is_capturable(on_gpu, replace(plan, room_bytes=99))
    assert not is_capturable(on_gpu, replace(plan, forecast=None, fit="unknown"))
    assert not is_capturable(on_gpu, replace(plan, fit="micro-batches"))
    assert not is_capturable(replace(on_gpu, uses_rng=True), plan)
    monkeypatch.setenv("RESLAB_GRAPH", "0")
    assert not is_capturable(on_gpu, plan)


def _learner() -> Learner:
    return build_learner(SPEC, DataShape(1, 8, 8, 10), ((0.5,), (0.5,)), CPU)


def _batch(seed: int, number: int = 32) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (number, 1, 8, 8), generator=draws, dtype=torch.uint8)
    return pixels, torch.randint(10, (number,), generator=draws)
