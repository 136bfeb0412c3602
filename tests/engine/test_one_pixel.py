"""Convolutions that come to a single pixel: the same function and gradients as torch's, from fewer taps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.models.building import build_model
from engine.models.one_pixel import OnePixelConv2d, fold_one_pixel
from engine.shape import DataShape
from engine.spec import RunSpec


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    bias=st.booleans(),
)
def test_results_and_gradients_are_those_of_a_convolution(
    size: tuple[int, int], kernel: int, stride: int, padding: int, bias: bool
) -> None:
    if min(size) + 2 * padding < kernel:
        return
    torch.manual_seed(0)
    plain = nn.Conv2d(3, 4, kernel, stride, padding, bias=bias).double()
    ours = nn.Conv2d(3, 4, kernel, stride, padding, bias=bias).double()
    ours.load_state_dict(plain.state_dict())
    fold_one_pixel(ours)
    images = torch.randn(5, 3, *size, dtype=torch.float64)
    inputs = [images.clone().requires_grad_(), images.clone().requires_grad_()]
    results = [module(one) for module, one in zip((plain, ours), inputs, strict=True)]
    assert torch.allclose(*results)
    for result in results:
        (result * torch.arange(result.numel()).view_as(result)).sum().backward()
    assert torch.allclose(*(one.grad for one in inputs))  # type: ignore[arg-type]
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        assert theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad)


def convolutions_called(network: nn.Module, images: torch.Tensor) -> list[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiled:
        network(images)
    return [event.name for event in profiled.events() if event.name in ("aten::convolution", "aten::linear")]


def test_resnet18_at_8x8_has_15_products_in_place_of_convolutions() -> None:
    network = build_model(RunSpec("digits", "resnet18"), DataShape(1, 8, 8, 10))
    called = convolutions_called(network, torch.randn(4, 1, 8, 8))
    assert called.count("aten::linear") == 1 + 15
    assert called.count("aten::convolution") == 20 - 15


def test_other_convolutions_are_left_alone() -> None:
    kinds = (
        nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2), nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
    )  # fmt: skip
    network = nn.Sequential(*kinds, nn.Conv2d(4, 4, 3, padding=1))
    names = list(network.state_dict())
    fold_one_pixel(network)
    assert [type(module) is OnePixelConv2d for module in network] == [False] * 4 + [True]
    assert list(network.state_dict()) == names


@pytest.mark.parametrize(
    "model", ["resnet18", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vgg11", "densenet121"))]
)
def test_whole_networks_agree_with_torchs_convolutions(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = DataShape(3, 32, 32, 5)
    spec = RunSpec("cifar10", model)
    network = build_model(spec, shape).eval()
    images = torch.randn(2, 3, 32, 32)
    ours = network(images)
    monkeypatch.setattr(OnePixelConv2d, "used_kernel", lambda self, images: None)
    assert torch.allclose(ours, network(images), rtol=1e-4, atol=1e-5)
