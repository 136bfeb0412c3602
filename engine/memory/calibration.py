"""What earlier runs on a device add to a forecast: memory outside torch's allocator, and inside operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CUDA_CONTEXT = 450 * 2**20  # bytes until a run has measured it: 0.3 to 0.6 GiB, depending on card and driver
# cuBLAS keeps a workspace per thread that multiplies matrices: one forward, one backward. Sizes from torch's notes on
# CUDA; a first run on an H200 held 68 MiB more than the forecast without them.
_CUBLAS_WORKSPACES, _SINCE_HOPPER, _BEFORE = 2, 32 * 2**20, 8 * 2**20


@dataclass(frozen=True, slots=True)
class Calibration:
    """Bytes to add to a forecast, from `num_runs` measured runs; 0 runs: an estimate.

    `context_bytes`: held by the driver, outside the allocator. `workspace_bytes`: the median excess of the allocator's
    peak over the forecast, from earlier runs on this device; negative if the forecasts were too high.
    """

    context_bytes: int = 0
    workspace_bytes: int = 0
    num_runs: int = 0


def uncalibrated(device: torch.device) -> Calibration:
    """The default for a device without a measured run."""
    if device.type != "cuda":
        return Calibration()
    import torch

    since_hopper = torch.cuda.get_device_capability(device)[0] >= 9
    return unseen_gpu() if since_hopper else Calibration(_CUDA_CONTEXT, _CUBLAS_WORKSPACES * _BEFORE)


def unseen_gpu() -> Calibration:
    """The default for an unknown GPU in another machine: the larger workspaces."""
    return Calibration(_CUDA_CONTEXT, _CUBLAS_WORKSPACES * _SINCE_HOPPER)
