"""Whatever is not finite ends a run as diverged, wherever it turns up, and nothing that is not finite is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.cli import main
from engine.control import RunControl
from engine.events import CheckpointSaved, Evaluated, Event, RunEnded, StepsCompleted
from engine.lab import Lab
from engine.models.building import build_model
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.step import forward as forwarding
from engine.step.guard import what_is_not_finite
from engine.step.learner import Learner
from engine.store.store import Store
from engine.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("few_digits")
SPEC = RunSpec("digits", "resnet20", epochs=1, batch_size=64)
STEPS = 3  # of an epoch


def end_of(events: list[Event]) -> RunEnded:
    assert isinstance(events[-1], RunEnded)
    return events[-1]


def collect(folders: Folders, spec: RunSpec = SPEC, control: RunControl | None = None) -> list[Event]:
    return list(Lab(folders).train(spec, control or RunControl()).events())


def poison(monkeypatch: pytest.MonkeyPatch, at_step: int, change: Callable[[Learner], None]) -> None:
    """Let `change` happen to what learns, between the gradients of step `at_step` (from 1) and its update."""
    whole = Learner.compute_gradients

    def compute(self: Learner, *arguments: Any) -> tuple[Tensor, Tensor]:
        computed = whole(self, *arguments)
        if arguments[2] == at_step - 1:
            change(self)
        return computed

    monkeypatch.setattr(Learner, "compute_gradients", compute)


def make_gradients_infinite(learner: Learner) -> None:
    gradients = [values.grad for values in learner.model.parameters() if values.grad is not None]
    gradients[0].fill_(torch.inf)


def make_statistics_infinite(learner: Learner) -> None:
    statistics = [module.running_var for module in learner.model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert statistics[0] is not None
    statistics[0].fill_(torch.inf)


def make_state_infinite(learner: Learner) -> None:
    for values in learner.optimizer.state.values():
        values["exp_avg_sq"].fill_(torch.inf)


def test_a_rate_of_a_thousand_is_no_completed_run(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    """Its last loss is finite, and so are its test loss and its weights: the running statistics are not."""
    words = ("train", "digits", "resnet20", "--epochs", "1", "--learning-rate", "1000", "--home", str(folders.home))
    assert main(words, lambda opening: 0) == 1
    assert "not finite" in capsys.readouterr().err
    with Store(folders.database) as store:
        record = store.run(1)
    assert record.status == "diverged"
    assert "not finite" in str(record.error)


@pytest.mark.parametrize(
    ("change", "optimizer", "what"),
    [
        (make_gradients_infinite, "sgd", "weights"),
        (make_statistics_infinite, "sgd", "running statistics"),
        (make_state_infinite, "adam", "values of the optimizer's state"),
    ],
)
def test_the_last_step_may_leave_nothing_that_is_not_finite(
    change: Callable[[Learner], None], optimizer: Any, what: str, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, STEPS, change)
    events = collect(folders, SPEC.replace(optimizer=optimizer))
    end = end_of(events)
    assert (end.status, end.steps) == ("diverged", STEPS)
    assert f"{what} were not finite after step {STEPS}" in str(end.error)
    assert not [event for event in events if isinstance(event, CheckpointSaved) and event.step == STEPS]


def test_a_stop_right_after_such_a_step_is_no_clean_end(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    control = RunControl()

    def change(learner: Learner) -> None:
        make_gradients_infinite(learner)
        control.stop()

    poison(monkeypatch, 2, change)
    end = end_of(collect(folders, control=control))
    assert end.status == "diverged"
    assert "weights were not finite after step 2" in str(end.error)


def overflow_in(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """One image's loss overflows in evaluation pass `number` (from 1; the digits' test images are one pass)."""
    whole, count = forwarding.forward, 0

    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        nonlocal count
        count += 1
        predictions, confidences, losses = whole(*arguments)
        if count == number:
            losses = losses.clone()
            losses[0] = torch.inf
        return predictions, confidences, losses

    monkeypatch.setattr("engine.training.evaluation.forward", forward)


@pytest.mark.parametrize(("number", "moment", "epoch"), [(2, "epoch", 1), (3, "final", 2)])
def test_an_evaluations_loss_that_is_not_finite_ends_the_run(
    number: int, moment: str, epoch: int, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    overflow_in(monkeypatch, number)
    events = collect(folders, SPEC.replace(epochs=2))
    end = end_of(events)
    assert end.status == "diverged"
    assert f"the loss on the test images was not finite after epoch {epoch}" in str(end.error)
    last = [event for event in events if isinstance(event, Evaluated)][-1]
    assert last.moment == moment  # the figures stand in the record all the same
    with Store(folders.database) as store:
        details = store.details(end.run)
    assert details.intact
    assert details.weights is not None
    kept = load_checkpoint(folders.run_folder(end.run) / details.weights.file, details.weights.sha256)
    assert kept.header["step"] == end.steps == STEPS * epoch
    assert all(torch.isfinite(value).all() for value in kept.model.values())


def test_so_does_a_validation_loss(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    overflow_in(monkeypatch, 2)
    end = end_of(collect(folders, SPEC.replace(epochs=2, val_share=0.2)))
    assert end.status == "diverged"
    assert "the loss on the val images was not finite after epoch 1" in str(end.error)


def test_weights_that_give_no_finite_loss_are_not_trained(folders: Folders, tmp_path: Path) -> None:
    """Every number in the file is finite; a variance below 0 is not one."""
    state = build_model(SPEC, DataShape(3, 32, 32, 10)).state_dict()
    state["bn1.running_var"].fill_(-1.0)
    save_file(state, tmp_path / "others.safetensors")
    spec = SPEC.replace(model="plain20", weights=str(tmp_path / "others.safetensors"))
    events = collect(folders, spec)
    end = end_of(events)
    assert end.status == "diverged"
    assert not [event for event in events if isinstance(event, StepsCompleted)]
    assert "was not finite before the first step" in str(end.error)
    assert "choose other weights" in str(end.error)


def test_losses_that_are_large_are_finite(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = forwarding.forward

    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        predictions, confidences, losses = whole(*arguments)
        return predictions, confidences, torch.full_like(losses, 3e38)  # in float32 their sum is not

    monkeypatch.setattr("engine.training.evaluation.forward", forward)
    end = end_of(collect(folders))
    assert end.status == "completed"
    assert end.final is not None
    assert end.final.loss == pytest.approx(3e38, rel=1e-6)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_every_kind_of_bad_number_is_found_and_a_large_one_is_none(value: float) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(model.parameters())
    nn.init.constant_(model.get_parameter("0.weight"), 1e30)  # its square is not finite in float32
    assert what_is_not_finite(model, optimizer) is None
    with torch.no_grad():
        model.get_parameter("0.bias")[1] = value
    assert what_is_not_finite(model, optimizer) == "weights"
