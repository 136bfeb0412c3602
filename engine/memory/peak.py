"""The peak memory of a run, measured: by torch's allocator on a GPU, by the operating system on a host.

The two are not equivalent: torch's CPU allocator keeps no account of its peak, and the process also grows by much that
is not a tensor.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from engine.memory.freeing import empty_caches
from engine.memory.gauges import Gauges, process_bytes


class HostPeak:
    """Peak growth of this process's resident memory from now on, if Linux reports it."""

    def __init__(self) -> None:
        self._began = process_bytes()
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the high-water mark
            self._known = True
        except OSError:
            self._known = False

    def read(self) -> int | None:
        """Bytes above the start; None if unknown."""
        if not self._known:
            return None
        try:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            highest = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration, ValueError):
            return None
        return max(highest - self._began, 0)


class PeakMeter:
    """Measures from its creation on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cpu":
            empty_caches()  # memory that the C library kept from an earlier run would hide the growth
        self._host = HostPeak() if device.type == "cpu" else None
        if device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]  # otherwise torch knows no such device yet
            torch.cuda.reset_peak_memory_stats(device)

    def grown(self) -> int | None:
        """Growth of the process's resident memory in bytes; None on a GPU, or if unknown."""
        return self._host.read() if self._host is not None else None

    def allocated(self, others_bytes: int) -> int | None:
        """Peak bytes of a GPU's allocator, without `others_bytes` of other runs; None on other devices."""
        if self._device.type != "cuda":
            return None
        return max(int(torch.cuda.max_memory_allocated(self._device)) - others_bytes, 0)

    def context(self) -> int | None:
        """Bytes that the driver holds for this process outside the allocator; None if NVML does not report it."""
        if self._device.type != "cuda" or os.environ.get("CUDA_VISIBLE_DEVICES"):
            return None  # with some cards hidden, torch and NVML number them differently
        gpus = Gauges().read().gpus
        own = gpus[self._device.index].process_bytes if self._device.index < len(gpus) else None
        reserved = int(torch.cuda.memory_reserved(self._device))
        return None if own is None or own < reserved else own - reserved  # NVML may list no process in a container
