"""What earlier runs on a device taught the forecast: how much lies outside torch's allocator, and inside operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_CUDA_CONTEXT = 450 * 2**20  # bytes before any run has told: 0.3 to 0.6 GiB, by card and driver
# cuBLAS keeps a workspace for each thread that multiplies matrices: one goes forward, one backward. Sizes as in torch's
# notes on CUDA; a first run on an H200 held 68 MiB more than the forecast without them.
_CUBLAS_WORKSPACES, _SINCE_HOPPER, _BEFORE = 2, 32 * 2**20, 8 * 2**20


@dataclass(frozen=True, slots=True)
class Calibration:
    """Bytes to add to a forecast. `num_runs` measured runs stand behind it; 0 is a guess.

    `context_bytes`: of the driver, outside the allocator. `workspace_bytes`: the median of what the allocator held at
    its peak above the forecast, of earlier runs on this device; below 0 where the forecast was too high.
    """

    context_bytes: int = 0
    workspace_bytes: int = 0
    num_runs: int = 0


def uncalibrated(device: torch.device) -> Calibration:
    """What is assumed of a device that no run was measured on."""
    if device.type != "cuda":
        return Calibration()
    import torch

    since_hopper = torch.cuda.get_device_capability(device)[0] >= 9
    return unseen_gpu() if since_hopper else Calibration(_CUDA_CONTEXT, _CUBLAS_WORKSPACES * _BEFORE)


def unseen_gpu() -> Calibration:
    """What is assumed of a GPU in another machine, of which nothing is known: the more that it may take."""
    return Calibration(_CUDA_CONTEXT, _CUBLAS_WORKSPACES * _SINCE_HOPPER)
