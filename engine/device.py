"""Chooses device, dtype and number of threads, and says why; checks that torch works."""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from engine.cores import OthersMeter, chose_threads_themselves, fair_num_threads, usable_cores
from engine.errors import DeviceError, TorchError
from engine.events import Resolved
from engine.spec import RunSpec
from engine.text import counted

if TYPE_CHECKING:
    import torch

_importing = threading.Lock()
_REINSTALL = (
    "torch and torchvision come from different builds ({error}); install both from the same place: "
    "uv sync --reinstall-package torch --reinstall-package torchvision"
)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a run's tensors live and how they are laid out.

    `reason` says why this device; `gain` and `threads_reason` are as in `Resolved`.
    """

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format
    reason: str
    gain: float = 1.0
    threads_reason: str = ""

    @property
    def autocast(self) -> bool:
        import torch

        return self.dtype is not torch.float32


def import_torch() -> Any:
    """Import torch and torchvision, or say in one sentence why they do not work.

    Call before importing torchvision in a second thread: because of its circular imports, two threads would see each
    other's half-loaded modules. Here the second thread waits.

    Raises:
        TorchError: one is missing, or their versions do not match.
    """
    try:
        with _importing:
            torch = import_module("torch")
            import_module("torchvision")
    except ModuleNotFoundError as error:
        raise TorchError(f"{error.name} is not installed; run uv sync") from None
    except (RuntimeError, ImportError, OSError) as error:
        raise TorchError(_REINSTALL.format(error=str(error).splitlines()[0])) from None
    return torch


def choose_placement(spec: RunSpec) -> Placement:
    """Resolve the spec's device and dtype on this machine.

    Raises:
        DeviceError: the requested device is not available.
    """
    import torch

    device, reason = _choose_device(spec.device)
    if spec.dtype == "auto":
        trains = spec.epochs > 0  # an evaluation alone needs no speed, and others' figures are those of float32
        has_bf16 = trains and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
        dtype = torch.bfloat16 if has_bf16 else torch.float32
    else:
        dtype = getattr(torch, spec.dtype)
    on_gpu = device.type == "cuda"
    return Placement(device, dtype, torch.channels_last if on_gpu else torch.contiguous_format, reason)


def share_cores(placement: Placement, others: OthersMeter) -> Placement:
    """Limit torch's threads to the cores that are free now; the result says why there are fewer.

    Does nothing on a GPU, or if the user has set the number of threads.
    """
    import torch

    most = torch.get_num_threads()
    if placement.device.type != "cpu" or most == 1 or chose_threads_themselves():
        return placement
    busy = others.read()
    threads = fair_num_threads(most, busy)
    if threads == most:
        return placement
    torch.set_num_threads(threads)
    cores = counted(usable_cores(), "core")
    reason = f"{cores} available" if busy is None or busy < 0.5 else f"others use {busy:.1f} of {cores}"
    return replace(placement, threads_reason=reason)


def _choose_device(requested: str) -> tuple[torch.device, str]:
    import torch

    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if requested == "cuda" and not has_cuda:
        raise DeviceError(f"device cuda is not available: {why_no_cuda()}; choose device auto or cpu")
    if requested == "mps" and not has_mps:
        raise DeviceError("device mps is not available: it needs an Apple GPU; choose device auto or cpu")
    if requested != "auto":
        return torch.device(requested) if requested == "cpu" else torch.device(requested, 0), "as requested"
    if has_cuda:
        return torch.device("cuda", 0), "the first CUDA GPU"
    return (torch.device("mps", 0), "Apple's GPU") if has_mps else (torch.device("cpu"), why_no_cuda())


def why_no_cuda() -> str:
    """Why torch sees no CUDA GPU, in a few words."""
    import torch

    if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
        return "this torch is built without CUDA"
    return "torch finds no CUDA GPU"


def device_name(device: torch.device) -> str:
    """The device's product name."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple GPU" if device.type == "mps" else cpu_name()


def cpu_name() -> str:
    """The processor's model name, and how many cores this process may use."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"


def versions(*others: str) -> dict[str, str]:
    """Versions of the packages that affect a run's figures, `others` among them."""
    found = {"python": platform.python_version()}
    for package in ("torch", "torchvision", "scikit-learn", "numpy", *others):
        found[package] = metadata.version(package)
    return found


def describe(placement: Placement, stem: str, images: str, workers: str = "", packages: Sequence[str] = ()) -> Resolved:
    """A placement as plain values for `RunStarted`. `packages`: others than usual that the network is from."""
    import torch

    return Resolved(
        device=str(placement.device),
        device_name=device_name(placement.device),
        device_reason=placement.reason,
        dtype=str(placement.dtype).removeprefix("torch."),
        num_threads=torch.get_num_threads(),
        memory_format=str(placement.memory_format).removeprefix("torch."),
        stem=stem,
        images=images,
        versions=versions(*packages),
        gain=placement.gain,
        workers=workers,
        threads_reason=placement.threads_reason,
    )
