"""Batch-norm over the parts of all processes, here of one: torch's own in every number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.models.building import build_model, freeze_backbone
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.step.batchnorm import SharedBatchNorm, share_batchnorm, shared_norms


@pytest.fixture(autouse=True)
def _group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def pair(norm: nn.Module) -> tuple[nn.Module, nn.Module]:
    """`norm` with parameters of its own, and the shared one like it."""
    for values in norm.parameters():
        nn.init.normal_(values, 1.0, 0.5)
    copy = type(norm)(**{name: getattr(norm, name) for name in ("num_features", "momentum", "affine")})
    copy.load_state_dict(norm.state_dict())
    return norm, share_batchnorm(copy)


def trained(norm: nn.Module, images: Tensor, pull: Tensor) -> list[Tensor]:
    """Everything that a step makes of it: results, gradients, statistics."""
    given = images.clone().requires_grad_()
    out = norm(given)
    (out.float() * pull).sum().backward()
    assert given.grad is not None
    return [out, given.grad, *(values.grad for values in norm.parameters() if values.grad is not None), *norm.buffers()]


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm2d(5), (7, 5, 4, 3)),
        (nn.BatchNorm2d(5, affine=False, momentum=None), (7, 5, 4, 3)),
        (nn.BatchNorm1d(5, momentum=0.3), (7, 5)),
        (nn.BatchNorm3d(5), (2, 5, 3, 2, 2)),
    ],
)
def test_it_is_torchs(norm: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs, ours = pair(norm)
    assert isinstance(ours, SharedBatchNorm)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for _ in range(3):
        images, pull = 40 + 3 * torch.randn(shape), torch.randn(shape)  # far from zero: no sums of squares
        for mine, other in zip(trained(ours, images, pull), trained(theirs, images, pull), strict=True):
            torch.testing.assert_close(mine, other, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_images_of_bfloat16_and_channels_last() -> None:
    torch.manual_seed(0)
    theirs, ours = pair(nn.BatchNorm2d(8))
    images = torch.randn(16, 8, 5, 5).bfloat16().contiguous(memory_format=torch.channels_last)
    pull = torch.randn(16, 8, 5, 5)
    for mine, other in zip(trained(ours, images, pull), trained(theirs, images, pull), strict=True):
        assert mine.dtype == other.dtype
        torch.testing.assert_close(mine.float(), other.float(), rtol=2e-2, atol=2e-2)


def test_frozen_layers_stay_frozen() -> None:
    network = build_model(RunSpec("digits", "resnet20"), DataShape(1, 8, 8, 10), True, True)
    freeze_backbone(network)
    assert shared_norms(share_batchnorm(network)) == ()
    network = build_model(RunSpec("digits", "resnet20"), DataShape(1, 8, 8, 10), True, True)
    assert len(shared_norms(share_batchnorm(network))) == 19
