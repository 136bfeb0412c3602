"""What a network of somebody else may have and reslab's own do not: the parts that look into a network cope."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.errors import ModelError
from engine.models.form import apply_form, form_of
from engine.step.batchnorm import share_batchnorm
from engine.step.gradients import Gradients, stages_of
from engine.step.guard import StepGuard
from engine.step.recompute import recompute_activations, sequences_of


class Doubled(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return 2 * x


class Normed(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


class Strange(nn.Module):
    """A mask, a table of doubles, a layer that nothing uses, a `layer1` that is no stage."""

    mask: Tensor
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.body = Doubled(nn.Conv2d(4, 4, 3, padding=1), self.norm, nn.ReLU())
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(4, 2)
        self.register_buffer("mask", torch.tensor([True, False, True, True]))
        self.register_buffer("table", torch.linspace(0, 1, 4, dtype=torch.float64))

    def transform_input(self, images: Tensor) -> Tensor:
        return images

    def forward(self, images: Tensor) -> Tensor:
        x = self.body(self.layer1(self.transform_input(images)))
        x = x.masked_fill(~self.mask[:, None, None], 0).mean((2, 3)) + self.table.float()
        logits: Tensor = self.head(x)
        return logits


def guarded() -> tuple[Strange, torch.optim.Optimizer, StepGuard]:
    torch.manual_seed(0)
    network = Strange()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=True)
    return network, optimizer, StepGuard(network, optimizer, torch.device("cpu"))


def test_buffers_keep_their_kind_of_number_and_are_restored() -> None:
    network, _, guard = guarded()
    assert (network.mask.dtype, network.table.dtype) == (torch.bool, torch.float64)
    assert network.table[1].item() == pytest.approx(1 / 3, abs=1e-15)
    guard.before_forward()
    statistics = network.norm.running_mean
    assert statistics is not None
    before = statistics.clone()
    network(torch.randn(4, 1, 8, 8))
    guard.after_loss(torch.tensor(float("nan")))
    assert statistics.equal(before)
    assert network.mask.tolist() == [True, False, True, True]


def test_gradients_are_measured_where_some_layers_have_none() -> None:
    network, optimizer, _ = guarded()
    measured = Gradients(1, network)
    torch.autograd.backward(network(torch.randn(4, 1, 8, 8)).square().sum())
    measured.around(optimizer.step, 1)
    found = measured.read()
    assert found is not None
    assert all(norm >= 0 for norm in found.norms)
    assert sum(map(len, stages_of(network).values())) == len(list(network.parameters()))


def test_a_sequence_that_computes_something_else_is_not_taken_apart() -> None:
    images = torch.randn(4, 1, 8, 8)
    network, _, _ = guarded()
    expected = network(images)
    assert sequences_of(network) == []
    recompute_activations(network, uses_rng=False)
    torch.testing.assert_close(network(images), expected)
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    network.add_module("more", plain)
    assert sequences_of(network) == [plain]


def test_a_method_of_the_same_name_is_no_form() -> None:
    network: Any = Strange()
    assert form_of(network) == {}
    apply_form(network, {"transform_input": True})
    assert callable(network.transform_input)


def test_a_batch_norm_that_does_more_is_not_shared() -> None:
    with pytest.raises(ModelError, match="its Normed computes more than batch-norm"):
        share_batchnorm(nn.Sequential(nn.Conv2d(1, 4, 3), Normed(4)))
