"""Memory gauges: every NVIDIA GPU through NVML, and the host's memory. Loads no torch.

`Gauges` takes any object with the functions of the module `pynvml` used here, so a fake can replace it. A figure that
the hardware does not report is None; nothing here raises because a driver is missing or lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from engine.memory.allocator import AllocatorReading, device_memory, read_allocator, read_mps


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU now, in bytes, °C, watts and per cent; None if NVML does not report it.

    `others` are other processes that hold memory, by name, largest first. `throttled` says in words why the clock is
    reduced. `notes` say what is unusual about this card. `allocator` is set once torch has used it.
    """

    index: int
    name: str
    total_bytes: int | None
    used_bytes: int | None
    process_bytes: int | None
    temperature_c: int | None
    power_w: float | None
    utilisation_percent: int | None
    others: tuple[tuple[str, int], ...] = ()
    throttled: str | None = None
    notes: tuple[str, ...] = ()
    allocator: AllocatorReading | None = None

    @property
    def free_bytes(self) -> int | None:
        return None if self.total_bytes is None or self.used_bytes is None else self.total_bytes - self.used_bytes

    @property
    def others_bytes(self) -> int | None:
        if self.used_bytes is None or self.process_bytes is None:
            return None
        return max(self.used_bytes - self.process_bytes, 0)


@dataclass(frozen=True, slots=True)
class HostReading:
    """The machine's memory now, in bytes, and this process's share of it; `load_percent` over all cores."""

    total_bytes: int
    available_bytes: int
    process_bytes: int
    load_percent: float

    @property
    def used_bytes(self) -> int:
        return self.total_bytes - self.available_bytes

    @property
    def others_bytes(self) -> int:
        return max(self.used_bytes - self.process_bytes, 0)


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """All gauges at one moment. `no_gpu` says why `gpus` is empty; `mps` is Apple's GPU, in the host's memory."""

    gpus: tuple[GpuReading, ...]
    host: HostReading
    no_gpu: str | None
    mps: AllocatorReading | None = None


# NVML's nvmlClocksEventReason…: those that slow a card down, without idling and user settings.
_THROTTLING = (
    (0x4, "power cap"), (0x8, "hardware slowdown"), (0x20, "too hot"), (0x40, "too hot"), (0x80, "power brake"),
)  # fmt: skip


class Gauges:
    """Reads all gauges. Opening and reading may fail at any time; `no_gpu` then says why."""

    def __init__(self, open_nvml: Callable[[], Any] | None = None) -> None:
        self._nvml: Any = None
        self.no_gpu: str | None = None
        try:
            self._nvml = (open_nvml or nvml_library)()
            self._nvml.nvmlInit()
        except Exception as error:  # NVMLError_* when the driver is missing, OSError, ImportError
            self._nvml = None
            self.no_gpu = f"no NVIDIA GPU ({_reason(error)})"

    def read(self) -> MemoryReading:
        return MemoryReading(self._read_gpus(), read_host(), self.no_gpu, read_mps())

    def driver_version(self) -> str | None:
        return self._query("nvmlSystemGetDriverVersion") if self._nvml else None

    def _read_gpus(self) -> tuple[GpuReading, ...]:
        if self._nvml is None:
            return ()
        try:
            count = self._nvml.nvmlDeviceGetCount()
            readings = tuple(self._read_gpu(index) for index in range(count))
        except Exception as error:  # the driver can be lost during a session
            self.no_gpu = f"NVML no longer answers ({_reason(error)})"
            return ()
        self.no_gpu = None if readings else "no NVIDIA GPU"
        return readings

    def _read_gpu(self, index: int) -> GpuReading:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        notes = []
        total, used = self._memory(handle)
        if total is None and (from_torch := device_memory(index)) is not None:
            total, used = from_torch
            notes.append("no memory figure from NVML: showing torch's")
        if self._mig(handle):
            notes.append("MIG: figures are for the whole card")
        own, others = self._processes(handle)
        utilisation = self._query("nvmlDeviceGetUtilizationRates", handle)
        power = self._query("nvmlDeviceGetPowerUsage", handle)  # milliwatts
        return GpuReading(
            index=index,
            name=str(self._query("nvmlDeviceGetName", handle) or "GPU"),
            total_bytes=total,
            used_bytes=used,
            process_bytes=own,
            temperature_c=self._query("nvmlDeviceGetTemperature", handle, 0),  # 0 is NVML_TEMPERATURE_GPU
            power_w=None if power is None else power / 1000,
            utilisation_percent=None if utilisation is None else int(utilisation.gpu),
            others=others,
            throttled=self._throttled(handle),
            notes=tuple(notes),
            allocator=read_allocator(index),
        )

    def _memory(self, handle: Any) -> tuple[int | None, int | None]:
        memory = self._query("nvmlDeviceGetMemoryInfo", handle)
        return (None, None) if memory is None else (int(memory.total), int(memory.used))

    def _mig(self, handle: Any) -> bool:
        mode = self._query("nvmlDeviceGetMigMode", handle)  # the current mode, and that after a reset
        return mode is not None and bool(mode[0])

    def _processes(self, handle: Any) -> tuple[int | None, tuple[tuple[str, int], ...]]:
        """This process's bytes, None if not reported (Windows and WSL2), and the other processes' by name."""
        processes = self._query("nvmlDeviceGetComputeRunningProcesses", handle)
        if processes is None:
            return None, ()
        own: int | None = 0
        others = []
        for process in processes:
            if process.pid == os.getpid():
                own = None if own is None or process.usedGpuMemory is None else own + int(process.usedGpuMemory)
            elif process.usedGpuMemory is not None:
                others.append((process_name(process.pid), int(process.usedGpuMemory)))
        return own, tuple(sorted(others, key=lambda item: -item[1]))

    def _throttled(self, handle: Any) -> str | None:
        reasons = self._query("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if reasons is None:
            reasons = self._query("nvmlDeviceGetCurrentClocksThrottleReasons", handle)  # its older name
        words = [word for bit, word in _THROTTLING if reasons is not None and reasons & bit]
        return ", ".join(words) or None

    def _query(self, function: str, *arguments: Any) -> Any | None:
        try:
            return getattr(self._nvml, function)(*arguments)
        except Exception:  # such as NVMLError_NotSupported: not available on this card
            return None


def process_name(pid: int) -> str:
    """The name of another process; its number if it is gone or hidden."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip() or f"process {pid}"
    except OSError:
        return f"process {pid}"


def nvml_library() -> Any:
    return import_module("pynvml")


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def read_host() -> HostReading:
    import psutil

    memory = psutil.virtual_memory()
    return HostReading(memory.total, memory.available, process_bytes(), psutil.cpu_percent(None))


def process_bytes() -> int:
    """Resident memory of this process, in bytes."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)
