"""The most memory that a run held, measured: by torch's allocator on a GPU, by the operating system on a host.

The two are no counterparts: torch's allocator for a CPU keeps no account of its peak, and the process grows by much
that no tensor is.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from engine.memory.freeing import empty_caches
from engine.memory.gauges import Gauges, process_bytes


class HostPeak:
    """The growth of this process's resident memory from now on to its highest point, where Linux tells it."""

    def __init__(self) -> None:
        self._began = process_bytes()
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the high-water mark starts anew
            self._known = True
        except OSError:
            self._known = False

    def read(self) -> int | None:
        """Bytes above the beginning; None where it is not known."""
        if not self._known:
            return None
        try:
            lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            highest = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration, ValueError):
            return None
        return max(highest - self._began, 0)


class PeakMeter:
    """Measures from its making on."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cpu":
            empty_caches()  # or what the C library kept of an earlier run would hide the growth
        self._host = HostPeak() if device.type == "cpu" else None
        if device.type == "cuda":
            torch.cuda.init()  # type: ignore[no-untyped-call]  # until something does, torch knows no such device
            torch.cuda.reset_peak_memory_stats(device)

    def grown(self) -> int | None:
        """Bytes by which the process's resident memory grew; None on a GPU, or where it is not known."""
        return self._host.read() if self._host is not None else None

    def allocated(self, others_bytes: int) -> int | None:
        """Bytes of a GPU's allocator at its peak, less what is not the run's; None on other devices."""
        if self._device.type != "cuda":
            return None
        return max(int(torch.cuda.max_memory_allocated(self._device)) - others_bytes, 0)

    def context(self) -> int | None:
        """Bytes that the driver holds for this process beside the allocator; None where NVML does not tell."""
        if self._device.type != "cuda" or os.environ.get("CUDA_VISIBLE_DEVICES"):
            return None  # with some cards hidden, torch's numbers are not NVML's
        gpus = Gauges().read().gpus
        own = gpus[self._device.index].process_bytes if self._device.index < len(gpus) else None
        reserved = int(torch.cuda.memory_reserved(self._device))
        return None if own is None or own < reserved else own - reserved  # in a container NVML may list no process
