"""The resources that a run requests of a node, from its memory forecast. Needs no Ray."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from engine.device import Placement
from engine.errors import ForecastError
from engine.forecast.from_spec import expected_bytes
from engine.forecast.step_memory import Step, forecast
from engine.memory.calibration import Calibration, unseen_gpu
from engine.paths import Folders
from engine.spec import RunSpec

_PROCESS = 950 * 2**20  # bytes: Python, torch and Ray in a process that trains (measured: 0.9 GiB with shared pages)
_SPARE = 1.1  # times the forecast, which has not been calibrated on the node
_LEAST = 256 * 2**20  # bytes
_UNKNOWN = 2 * 2**30  # bytes, if no forecast is available


@dataclass(frozen=True, slots=True)
class Request:
    """Processor cores, a share of one GPU (0 to 1) and bytes: of the GPU's memory if it has a share of one, else of
    the host's.
    """

    cpus: float
    gpus: float
    memory: int

    @property
    def bound(self) -> int | None:
        """Bytes left for the run after its process, or after the CUDA context on a GPU; None: all."""
        if not self.memory:
            return None
        beside = unseen_gpu().context_bytes if self.gpus else _PROCESS
        return max(self.memory - beside, _LEAST)

    def options(self) -> dict[str, Any]:
        """The request as options of a Ray actor."""
        found: dict[str, Any] = {"num_cpus": self.cpus}
        return {**found, "num_gpus": self.gpus} if self.gpus else {**found, "memory": self.memory}


def request_for(
    spec: RunSpec, gpu_bytes: int | None, most_bytes: int, cpus: float = 1, folders: Folders | None = None
) -> Request:
    """The share of a GPU of `gpu_bytes` that `spec` is forecast to need, or host memory if `gpu_bytes` is None.

    At most a whole GPU, or `most_bytes` of host memory: a run that needs more starts with micro-batches. A GPU of
    unknown size (0) is requested whole. `folders` are where the images are.

    Raises:
        ReslabError: the folder of images does not exist.
    """
    if gpu_bytes == 0:
        return Request(cpus, 1.0, 0)
    needed = _peak_bytes(spec, folders, on_gpu=gpu_bytes is not None)
    if gpu_bytes is not None:
        share = min(math.ceil(100 * _SPARE * needed / gpu_bytes) / 100, 1.0)
        return Request(cpus, share, int(share * gpu_bytes))
    return Request(cpus, 0.0, min(int(_SPARE * needed) + _PROCESS, most_bytes))


def _peak_bytes(spec: RunSpec, folders: Folders | None, on_gpu: bool) -> int:
    import torch

    shape, dataset_bytes = expected_bytes(spec, folders)
    device = torch.device("cuda" if on_gpu else "cpu")
    half = (on_gpu and spec.dtype == "auto") or spec.dtype == "bfloat16"
    layout = torch.channels_last if on_gpu else torch.contiguous_format
    placement = Placement(device, torch.bfloat16 if half else torch.float32, layout, "forecast")
    calibration = unseen_gpu() if on_gpu else Calibration()
    try:
        return forecast(Step(spec, shape, placement, dataset_bytes, calibration)).peak_bytes
    except ForecastError:
        return _UNKNOWN
