"""Gradients by stage, against autograd's own and the weights before and after."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.events import GradientsMeasured, RunStarted
from engine.lab import Lab
from engine.models.building import build_model
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.step.gradients import Gradients, stages_of


@pytest.mark.parametrize("name", ["resnet18", "plain50", "resnet20"])
def test_stages_hold_every_parameter_once_and_in_order(name: str) -> None:
    network = build_model(RunSpec("digits", name), DataShape(1, 8, 8, 10))
    stages = stages_of(network)
    assert next(iter(stages)) == "stem"
    assert list(stages)[-1] == "fc"
    assert list(stages) == sorted(stages, key=lambda stage: (stage == "fc", stage != "stem", stage))
    assert sum(len(stage) for stage in stages.values()) == len(list(network.parameters()))


def test_norms_and_ratios_are_those_of_the_definitions() -> None:
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("layer1", nn.Linear(4, 3))
    network.add_module("fc", nn.Linear(3, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(torch.randn(5, 4)).square().mean().backward()
    before = {name: values.detach().clone() for name, values in network.named_parameters()}
    gradients = Gradients(3, network)
    gradients.around(optimizer.step, 8)
    measured = gradients.read()
    assert measured is not None
    assert (measured.run, measured.step, measured.stages) == (3, 8, ("layer1", "fc"))
    for index, stage in enumerate(measured.stages):
        values = dict(network.get_submodule(stage).named_parameters())
        gradient = torch.cat([value.grad.flatten() for value in values.values() if value.grad is not None])
        old = torch.cat([before[f"{stage}.{name}"].flatten() for name in values])
        new = torch.cat([value.detach().flatten() for value in values.values()])
        assert measured.norms[index] == pytest.approx(float(gradient.norm()), rel=1e-5)
        assert measured.ratios[index] == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-5)
    assert gradients.read() is None


@pytest.mark.usefixtures("few_digits")
def test_a_run_measures_a_few_steps_and_trains_the_same(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = RunSpec("digits", "resnet20", epochs=2, batch_size=16)
    events = list(Lab(folders).train(spec).events())
    measured = [event for event in events if isinstance(event, GradientsMeasured)]
    started = next(event for event in events if isinstance(event, RunStarted))
    assert 1 <= len(measured) <= started.num_steps
    assert all(norm > 0 for norm in measured[0].norms)
    monkeypatch.setattr(Gradients, "due", False)
    unmeasured = list(Lab(folders).train(spec).events())
    assert not [event for event in unmeasured if isinstance(event, GradientsMeasured)]
    assert events[-1].final == unmeasured[-1].final  # type: ignore[union-attr]
