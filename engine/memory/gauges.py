"""Memory gauges: every NVIDIA GPU through NVML, and the host's memory. Loads no torch.

NVML sits behind a seam: `Gauges` takes any object with the functions of the module `pynvml` that are used here, so a
fake can stand in. What the hardware will not tell is None; nothing here raises because a driver is missing or lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU now. Bytes, °C, watts and per cent; None is what NVML does not say here."""

    index: int
    name: str
    total_bytes: int | None
    used_bytes: int | None
    process_bytes: int | None
    temperature_c: int | None
    power_w: float | None
    utilisation_percent: int | None

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
    """The machine's memory now, in bytes, and the share of this process in it; `load_percent` of all cores."""

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
    """Everything at one moment. `no_gpu` says why `gpus` is empty."""

    gpus: tuple[GpuReading, ...]
    host: HostReading
    no_gpu: str | None


class Gauges:
    """Reads all gauges. Opening and every reading may fail at any time, and then say so in `no_gpu`."""

    def __init__(self, open_nvml: Callable[[], Any] | None = None) -> None:
        self._nvml: Any = None
        self.no_gpu: str | None = None
        try:
            self._nvml = (open_nvml or _open_nvml)()
            self._nvml.nvmlInit()
        except Exception as error:  # NVMLError_* when the driver is missing, OSError, ImportError
            self._nvml = None
            self.no_gpu = f"no NVIDIA GPU ({_reason(error)})"

    def read(self) -> MemoryReading:
        return MemoryReading(self._read_gpus(), read_host(), self.no_gpu)

    def driver_version(self) -> str | None:
        return self._ask("nvmlSystemGetDriverVersion") if self._nvml else None

    def _read_gpus(self) -> tuple[GpuReading, ...]:
        if self._nvml is None:
            return ()
        try:
            count = self._nvml.nvmlDeviceGetCount()
            readings = tuple(self._read_gpu(index) for index in range(count))
        except Exception as error:  # the driver can be lost in the middle of a session
            self.no_gpu = f"NVML no longer answers ({_reason(error)})"
            return ()
        self.no_gpu = None if readings else "no NVIDIA GPU"
        return readings

    def _read_gpu(self, index: int) -> GpuReading:
        handle = self._nvml.nvmlDeviceGetHandleByIndex(index)
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        utilisation = self._ask("nvmlDeviceGetUtilizationRates", handle)
        power = self._ask("nvmlDeviceGetPowerUsage", handle)  # milliwatts
        return GpuReading(
            index=index,
            name=str(self._ask("nvmlDeviceGetName", handle) or "GPU"),
            total_bytes=memory and int(memory.total),
            used_bytes=memory and int(memory.used),
            process_bytes=self._process_bytes(handle),
            temperature_c=self._ask("nvmlDeviceGetTemperature", handle, 0),  # 0 is NVML_TEMPERATURE_GPU
            power_w=None if power is None else power / 1000,
            utilisation_percent=None if utilisation is None else int(utilisation.gpu),
        )

    def _process_bytes(self, handle: Any) -> int | None:
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses", handle)
        if processes is None:
            return None
        own = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
        return None if None in own else sum(own)

    def _ask(self, function: str, *arguments: Any) -> Any | None:
        try:
            return getattr(self._nvml, function)(*arguments)
        except Exception:  # NVMLError_NotSupported and its kin: not available on this card
            return None


def _open_nvml() -> Any:
    return import_module("pynvml")


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def read_host() -> HostReading:
    import psutil

    memory = psutil.virtual_memory()
    return HostReading(memory.total, memory.available, process_bytes(), psutil.cpu_percent(None))


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


def process_bytes() -> int:
    """Resident memory of this process, in bytes."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        import psutil

        return int(psutil.Process().memory_info().rss)
