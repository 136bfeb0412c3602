"""What lives when, and what convolutions take inside, held against torch's own profiler and sums done by hand."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from engine.forecast import workspace
from engine.forecast.shapes import RETURNS
from engine.forecast.timeline import Held, Timeline
from engine.forecast.workspace import CONVOLUTIONS, Convolution, inner_peak

OPTIONS = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


def arguments(backward: bool, images: int, channels: int, size: int) -> tuple[Any, ...]:
    pixels, weight = torch.zeros(images, channels, size, size), torch.zeros(channels, channels, 3, 3)
    if backward:
        return (torch.zeros_like(pixels), pixels, weight, [0], *OPTIONS, [True, True, False])
    return (pixels, weight, None, *OPTIONS)


def profiled_peak(func: Any, given: tuple[Any, ...]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        func(*given)
    assert profiled.profiler is not None
    events = [item for item in profiled.profiler.kineto_results.events() if item.name() == "[memory]"]
    return int(max(accumulate(item.nbytes() for item in sorted(events, key=lambda item: item.start_ns()))))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("channels", "size"), [(64, 14), (256, 1)])
def test_what_a_convolution_takes_grows_as_two_small_batches_tell(backward: bool, channels: int, size: int) -> None:
    func, given = CONVOLUTIONS[backward], arguments(backward, 48, channels, size)
    told = inner_peak(Convolution.of(func, given), 48)
    assert told == pytest.approx(profiled_peak(func, given), rel=0.02)
    assert told < Convolution.of(func, given).bound(48)


def test_a_torch_that_does_not_tell_costs_the_workspaces_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Any:
        raise ImportError("gone")

    monkeypatch.setattr(workspace, "track_allocations", refuse)
    workspace._growth.cache_clear()
    assert inner_peak(Convolution.of(CONVOLUTIONS[0], arguments(False, 8, 3, 5)), 8) == 0
    workspace._growth.cache_clear()


def test_the_peak_is_the_highest_sum_after_the_network_is_built() -> None:
    line = Timeline()
    scratch = line.allocate(1000)
    weights = line.allocate(40)
    line.free(scratch, 1000)
    line.moment = "forward and backward"
    kept = line.allocate(8)
    gradient = line.allocate(40)
    line.free(kept, 8)
    line.moment = "update"
    line.allocate(6)
    said = line.forecast(Held(frozenset({weights}), frozenset({gradient}), frozenset()), 4, inside=True)
    assert (said.peak_bytes, said.during) == (88, "forward and backward")
    assert (said.parameters_bytes, said.gradients_bytes, said.activations_bytes) == (40, 40, 8)
    assert said.image_bytes == 2


def test_a_convolution_that_takes_much_inside_is_the_peak_where_it_is_asked() -> None:
    line = Timeline()
    line.moment = "evaluation"
    line.allocate(100)
    line.convolve(Convolution.of(CONVOLUTIONS[0], arguments(False, 4, 64, 14)), 4)
    line.moment = "update"
    line.allocate(50)
    nothing = Held(frozenset(), frozenset(), frozenset())
    without, asked = (line.forecast(nothing, 4, inside=inside) for inside in (False, True))
    assert (without.peak_bytes, without.during, without.workspace_bytes) == (150, "update", 0)
    assert asked.during == "evaluation"
    assert asked.workspace_bytes >= 4 * 64 * 14 * 14 * 4  # its result at least
    assert asked.peak_bytes == 100 + asked.workspace_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
def test_shapes_that_are_said_are_those_that_torch_gives(dtype: torch.dtype, training: bool) -> None:
    images, ones = torch.randn(4, 6, 5, 5).to(dtype), torch.ones(6)
    given = (images, ones, ones, ones.clone(), ones.clone(), training, 0.1, 1e-5)
    norm = torch.ops.aten.native_batch_norm.default
    real = norm(*given)
    assert_alike(RETURNS[norm](*given), real)
    if training:
        back = torch.ops.aten.native_batch_norm_backward.default
        more = (images, images, ones, ones, ones, real[1], real[2], True, 1e-5, [True, True, True])
        assert_alike(RETURNS[back](*more), back(*more))
        norms = torch.ops.aten._foreach_norm.Scalar
        assert_alike(RETURNS[norms]([images, ones], 2), norms([images, ones], 2))


def assert_alike(said: Any, real: Any) -> None:
    assert [(one.shape, one.dtype, one.stride()) for one in said] == [
        (one.shape, one.dtype, one.stride()) for one in real
    ]
