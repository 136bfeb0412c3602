"""The loop on the real digits: what it yields, in which order, and how it can be stopped, paused and broken."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from PIL import Image

from engine.control import RunControl
from engine.errors import CheckpointError
from engine.events import (
    CheckpointSaved,
    EpochEnded,
    Evaluated,
    EvaluationProgressed,
    Event,
    GradientsMeasured,
    RunEnded,
    RunPaused,
    RunResumed,
    RunStarted,
    StepsCompleted,
)
from engine.lab import Lab
from engine.models.building import build_model
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.step.optim import learning_rate
from engine.store.store import Store
from engine.training.checkpoint import load_checkpoint
from tests.running import run_until

SPEC = RunSpec("digits", "resnet20", epochs=1, batch_size=16)
few_digits = pytest.mark.usefixtures("few_digits")
DIGITS = DataShape(1, 8, 8, 10)
T = TypeVar("T")


def collect(spec: RunSpec, folders: Folders, control: RunControl | None = None) -> list[Event]:
    return list(Lab(folders).train(spec, control or RunControl()).events())


def of(events: list[Event], kind: type[T]) -> list[T]:
    return [event for event in events if isinstance(event, kind)]


def losses(events: list[Event]) -> list[float]:
    return [loss for event in of(events, StepsCompleted) for loss in event.losses]


def ended(events: list[Event]) -> RunEnded:
    assert isinstance(events[-1], RunEnded)
    return events[-1]


@few_digits
def test_a_run_tells_its_story_in_order(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.training.saving.COST_SHARE", 1e-9)  # a slow machine would save in between
    events = collect(SPEC.replace(epochs=2), folders)
    passing = (EvaluationProgressed, GradientsMeasured, StepsCompleted)  # they come by the clock
    told = [type(event).__name__ for event in events if not isinstance(event, passing)]
    assert told == [
        "DatasetProgressed", "RunStarted", "MemoryForecasted", "Evaluated",
        "EpochEnded", "Evaluated", "EpochEnded", "Evaluated", "CheckpointSaved", "RunEnded",
    ]  # fmt: skip
    assert [event.moment for event in of(events, Evaluated)] == ["untrained", "epoch", "final"]
    steps = of(events, StepsCompleted)
    assert [event.first_step for event in steps[1:]] == [event.last_step + 1 for event in steps[:-1]]
    assert steps[-1].last_step == of(events, RunStarted)[0].num_steps == 24
    assert steps[-1].images == 2 * 180
    end = ended(events)
    assert end.status == "completed"
    assert end.final == of(events, Evaluated)[-1].metrics
    assert end.train_images_per_s == pytest.approx(steps[-1].images / steps[-1].train_s)


@few_digits
def test_epoch_means_are_over_images(folders: Folders) -> None:
    events = collect(SPEC, folders)
    sizes = [16] * 11 + [4]
    assert of(events, EpochEnded)[0].train_loss == pytest.approx(np.average(losses(events), weights=sizes), rel=1e-6)


@few_digits
def test_the_same_spec_gives_identical_losses_and_predictions(folders: Folders) -> None:
    spec = SPEC.replace(flip=True, crop_padding=1)
    first, second = (collect(spec, folders) for _ in range(2))
    assert losses(first) == losses(second)
    for one, other in zip(of(first, Evaluated), of(second, Evaluated), strict=True):
        assert (one.predictions, one.confidences) == (other.predictions, other.confidences)
    other_seed = collect(spec.replace(seed=1), folders)
    assert losses(other_seed) != losses(first)


@pytest.mark.parametrize(
    "spec",
    [
        RunSpec("digits", "resnet20", epochs=3),
        pytest.param(RunSpec("digits", "resnet18", epochs=3, stem="small"), marks=pytest.mark.slow),
    ],
    ids=["resnet20", "resnet18"],
)
def test_training_learns_more_than_chance(folders: Folders, spec: RunSpec) -> None:
    end = ended(collect(spec, folders))
    assert end.untrained is not None
    assert end.final is not None
    assert end.untrained.accuracy < 0.3
    assert end.final.accuracy > 0.8


@few_digits
def test_with_a_validation_share_the_test_set_is_read_twice(folders: Folders) -> None:
    events = collect(SPEC.replace(epochs=2, val_share=0.2), folders)
    read = [(event.split, event.moment) for event in of(events, Evaluated)]
    assert read == [("test", "untrained"), ("val", "epoch"), ("val", "epoch"), ("test", "final")]


def stop_after(kind: type[Event], control: RunControl, events: Iterator[Event]) -> list[Event]:
    seen = []
    for event in events:
        seen.append(event)
        if isinstance(event, kind):
            control.stop()
    return seen


@few_digits
@pytest.mark.parametrize("kind", [RunStarted, StepsCompleted, EpochEnded])
def test_a_run_can_be_stopped_anywhere_and_keeps_what_it_has(kind: type[Event], folders: Folders) -> None:
    control = RunControl()
    events = stop_after(kind, control, Lab(folders).train(SPEC.replace(epochs=5), control).events())
    end = ended(events)
    assert end.status == "stopped"
    assert end.error is None
    with Store(folders.database) as store:
        details = store.details(end.run)
    assert details.record.status == "stopped"
    assert details.intact
    assert len(details.curve.losses) == end.steps
    if kind is RunStarted:
        assert details.weights is None
        return
    assert details.weights is not None
    assert details.weights.step == end.steps
    loaded = load_checkpoint(folders.run_folder(end.run) / details.weights.file, details.weights.sha256)
    assert loaded.header["step"] == end.steps


@few_digits
def test_a_pause_stands_still_and_is_no_training_time(folders: Folders) -> None:
    control = RunControl()
    events: list[Event] = []
    for event in Lab(folders).train(SPEC, control).events():
        events.append(event)
        if isinstance(event, StepsCompleted) and not of(events, RunPaused):
            control.pause()
        if isinstance(event, RunPaused):
            threading.Timer(0.6, control.resume).start()
    paused, resumed = of(events, RunPaused)[0], of(events, RunResumed)[0]
    assert resumed.step == paused.step
    assert resumed.paused_s >= 0.5
    end = ended(events)
    assert end.status == "completed"
    trained_s = of(events, StepsCompleted)[-1].train_s
    assert trained_s < end.elapsed_s - 0.5
    reference = losses(collect(SPEC, folders))
    assert losses(events) == reference


@few_digits
def test_a_paused_run_can_be_stopped(folders: Folders) -> None:
    control = RunControl()
    events = []
    for event in Lab(folders).train(SPEC, control).events():
        events.append(event)
        if isinstance(event, StepsCompleted):
            control.pause()
        if isinstance(event, RunPaused):
            control.stop()
    assert ended(events).status == "stopped"


def poison(monkeypatch: pytest.MonkeyPatch, at_step: int, what: Callable[[Any], Any]) -> None:
    """Let `what` happen to the batch of one step (from 1)."""
    from engine.data.batches import Preparation

    whole, count = Preparation.augment, 0

    def augment(self: Preparation, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        images = whole(self, *arguments)
        return what(images) if count == at_step else images

    monkeypatch.setattr(Preparation, "augment", augment)


@few_digits
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_bad_loss_ends_the_run_with_the_state_before_it(
    optimizer: Any, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPEC.replace(optimizer=optimizer, weight_decay=0.01)
    # What the state after four good steps is.
    stopped = run_until(lambda event: isinstance(event, StepsCompleted) and event.last_step >= 4, folders, spec)
    good_steps = ended(stopped).steps
    poison(monkeypatch, good_steps + 1, lambda images: images * float("nan"))
    events = collect(spec, folders)
    end = ended(events)
    assert end.status == "diverged"
    assert f"at step {good_steps + 1}" in str(end.error)
    assert end.steps == good_steps == len(losses(events))
    kept, expected = (weights_of(folders, e.run) for e in (end, ended(stopped)))
    assert kept.header["step"] == good_steps
    for name, value in expected.model.items():
        assert kept.model[name].equal(value), name
    for index, state in expected.optimizer.items():
        for name, value in state.items():
            assert kept.optimizer[index][name].equal(value), (index, name)


def weights_of(folders: Folders, number: int) -> Any:
    with Store(folders.database) as store:
        weights = store.details(number).weights
    assert weights is not None
    return load_checkpoint(folders.run_folder(number) / weights.file, weights.sha256)


@few_digits
def test_weights_that_are_not_finite_are_not_kept(folders: Folders) -> None:
    end = ended(collect(SPEC.replace(learning_rate=1000.0, epochs=3), folders))
    assert end.status == "diverged"
    with Store(folders.database) as store:
        weights = store.details(end.run).weights
    if weights is not None:
        loaded = weights_of(folders, end.run)
        assert all(torch.isfinite(value).all() for value in loaded.model.values())


@few_digits
def test_a_failure_is_told_in_one_sentence_and_logged_in_full(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(images: Any) -> Any:
        raise RuntimeError("the disk\nis on fire")

    poison(monkeypatch, 3, explode)
    end = ended(collect(SPEC, folders))
    assert end.status == "failed"
    assert end.error == f"RuntimeError: the disk; the full report is in {folders.log}"
    assert "Traceback" in folders.log.read_text()
    assert end.untrained is not None
    with Store(folders.database) as store:
        assert store.details(end.run).record.error == end.error


@few_digits
def test_a_run_whose_iterator_is_closed_is_recorded_as_stopped(folders: Folders) -> None:
    events = Lab(folders).train(SPEC).events()
    for event in events:
        if isinstance(event, StepsCompleted):
            break
    events.close()
    with Store(folders.database) as store:
        assert store.runs()[0].status == "stopped"


@few_digits
def test_an_event_is_in_the_record_before_it_is_seen(folders: Folders) -> None:
    for event in Lab(folders).train(SPEC).events():
        if isinstance(event, Evaluated | EpochEnded | CheckpointSaved | RunEnded):
            with Store(folders.database) as store:
                details = store.details(event.run)
            if isinstance(event, Evaluated):
                assert details.evaluations[-1].metrics == event.metrics
            elif isinstance(event, EpochEnded):
                assert details.epochs[-1] == dataclasses.replace(event)
            elif isinstance(event, CheckpointSaved):
                assert details.weights is not None
                assert details.weights.sha256 == event.sha256
            else:
                assert details.record.status == event.status


@few_digits
def test_a_second_run_uses_the_images_that_are_there_and_keeps_the_old_network_while_there_is_room(
    folders: Folders,
) -> None:
    lab = Lab(folders)
    list(lab.train(SPEC).events())
    first = {holding.kind: holding for holding in lab.ledger.holdings()}
    assert not any(holding.live for holding in first.values())
    events = list(lab.train(SPEC).events())
    assert type(events[0]) is RunStarted
    assert [(holding.kind, holding.run) for holding in lab.ledger.holdings()] == [
        ("model", 2), ("dataset", 2), ("model", 1),
    ]  # fmt: skip


@pytest.mark.slow
@few_digits
def test_group_norm_bfloat16_and_the_other_optimizers_train(folders: Folders) -> None:
    spec = SPEC.replace(
        norm="group", dtype="bfloat16", optimizer="adam", schedule="cosine", learning_rate=0.001, batch_size=90
    )
    events = collect(spec, folders)
    assert ended(events).status == "completed"
    assert of(events, RunStarted)[0].resolved.dtype == "bfloat16"


@few_digits
def test_a_device_that_is_not_there_is_refused_before_anything_is_recorded(folders: Folders) -> None:
    from engine.errors import DeviceError

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(DeviceError, match="choose device auto or cpu"):
        collect(SPEC.replace(device="cuda"), folders)
    assert not folders.database.exists()


@pytest.mark.parametrize("warmup", [0.0, 1.0])
def test_one_cycle_is_torchs_own(warmup: float) -> None:
    spec = RunSpec("digits", "resnet18", epochs=4, schedule="one-cycle", learning_rate=0.1, warmup_epochs=warmup)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    rise = warmup / 4 or 0.3
    oracle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=40, pct_start=rise, cycle_momentum=False)
    for step in range(40):
        assert learning_rate(spec, step, 40, 10) == pytest.approx(oracle.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        oracle.step()


def test_warm_up_rises_and_cosine_falls_to_nothing() -> None:
    spec = RunSpec("digits", "resnet18", epochs=4, schedule="cosine", learning_rate=0.1, warmup_epochs=1)
    rates = [learning_rate(spec, step, 40, 10) for step in range(40)]
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
    assert max(rates) == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001


@few_digits
def test_a_damaged_checkpoint_is_not_loaded(folders: Folders) -> None:
    events = collect(SPEC, folders)
    saved = of(events, CheckpointSaved)[0]
    path = folders.run_folder(saved.run) / saved.file
    model = build_model(SPEC, DIGITS)
    model.load_state_dict(load_checkpoint(path, saved.sha256).model)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path, saved.sha256)


@few_digits
def test_weights_that_cannot_be_written_fail_the_run_and_keep_its_figures(folders: Folders) -> None:
    events = []
    for event in Lab(folders).train(SPEC).events():
        events.append(event)
        if isinstance(event, RunStarted):
            folders.run_folder(event.run).write_text("in the way")
    end = ended(events)
    assert end.status == "failed"
    assert "cannot write weights" in str(end.error)
    assert end.final is not None


@few_digits
def test_checkpoints_leave_no_second_file(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.training.saving.COST_SHARE", 1e9)
    events = collect(SPEC.replace(epochs=2), folders)
    assert len(of(events, CheckpointSaved)) == 2
    files = list(Path(folders.run_folder(events[-1].run)).iterdir())
    assert [file.name for file in files] == ["step-00000024.safetensors"]


def test_points_come_about_ten_times_a_second(folders: Folders) -> None:
    began = time.perf_counter()
    events = collect(SPEC.replace(batch_size=16), folders)
    took = time.perf_counter() - began
    assert len(of(events, StepsCompleted)) <= 10 * took + 4


@few_digits
def test_an_error_with_a_name_that_is_no_text_is_recorded(folders: Folders, tmp_path: Path) -> None:
    for folder in (b"a\xff", b"b"):
        os.makedirs(os.path.join(os.fsencode(tmp_path), b"images", folder))
    Image.new("L", (8, 8)).save(tmp_path / "images" / "b" / "0.png")
    Image.new("L", (8, 8)).save(tmp_path / "images" / os.fsdecode(b"a\xff") / "0.png")
    end = ended(collect(SPEC.replace(dataset=f"folder:{tmp_path / 'images'}"), folders))
    assert end.status == "failed"
    assert "images: a\N{REPLACEMENT CHARACTER} (1), b (1)" in str(end.error)
    with Store(folders.database) as store:
        assert store.details(1).record.error == end.error
