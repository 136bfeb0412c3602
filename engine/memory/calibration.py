"""What earlier runs on a device taught the forecast: how much lies outside torch's allocator, and inside operations."""

from __future__ import annotations

from dataclasses import dataclass

_CUDA_CONTEXT = 450 * 2**20  # bytes before any run has told: 0.3 to 0.6 GiB, by card and driver


@dataclass(frozen=True, slots=True)
class Calibration:
    """Bytes to add to a forecast. `num_runs` measured runs stand behind it; 0 is a guess.

    `context_bytes`: of the driver, outside the allocator. `workspace_bytes`: the median of what the allocator held at
    its peak above the forecast, of earlier runs on this device; below 0 where the forecast was too high.
    """

    context_bytes: int = 0
    workspace_bytes: int = 0
    num_runs: int = 0


def uncalibrated(device_type: str) -> Calibration:
    """What is assumed of a device that no run was measured on."""
    return Calibration(context_bytes=_CUDA_CONTEXT if device_type == "cuda" else 0)
