"""The most memory that a run held, measured: by torch's allocator on a GPU, by the operating system on a host."""

from __future__ import annotations

import torch

from engine.memory.freeing import empty_caches
from engine.memory.gauges import Gauges, HostPeak


class PeakMeter:
    """Measures from its making on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cpu":
            empty_caches()  # or what the C library kept of an earlier run would hide the growth
        self._host = HostPeak() if device.type == "cpu" else None
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> int | None:
        """Bytes: of the allocator on a GPU, the growth of resident memory on a CPU; None on other devices."""
        if self._host is not None:
            return self._host.read()
        return int(torch.cuda.max_memory_allocated(self._device)) if self._device.type == "cuda" else None

    def context(self) -> int | None:
        """Bytes that the driver holds for this process beside the allocator; None where NVML does not tell."""
        if self._device.type != "cuda":
            return None
        gpus = Gauges().read().gpus
        own = gpus[self._device.index].process_bytes if self._device.index < len(gpus) else None
        return None if own is None else max(own - int(torch.cuda.memory_reserved(self._device)), 0)
