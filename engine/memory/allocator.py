"""torch's own memory figures, if torch is loaded and has used a GPU. Neither loads torch nor initialises CUDA."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class AllocatorReading:
    """Figures of torch's allocator, in bytes: allocated to tensors, reserved from the driver, its largest free block.

    They differ from the driver's figure, which counts all reserved memory and its own context.
    """

    allocated_bytes: int
    reserved_bytes: int
    largest_free_bytes: int | None


def device_memory(index: int) -> tuple[int, int] | None:
    """Total and used bytes according to torch, if it has used this GPU already."""
    cuda = _cuda()
    if cuda is None:
        return None
    try:
        free, total = cuda.mem_get_info(index)
    except Exception:  # any driver error
        return None
    return int(total), int(total - free)


def read_allocator(index: int) -> AllocatorReading | None:
    """torch's own figures for one GPU; None if torch is not loaded or has not used it."""
    cuda = _cuda()
    if cuda is None:
        return None
    try:
        free = [
            block["size"]
            for segment in cuda.memory_snapshot()
            if segment["device"] == index
            for block in segment["blocks"]
            if block["state"] == "inactive"
        ]
        return AllocatorReading(
            int(cuda.memory_allocated(index)), int(cuda.memory_reserved(index)), max(free, default=0)
        )
    except Exception:  # as above
        return None


def read_mps() -> AllocatorReading | None:
    """Apple's GPU, once torch has used it."""
    torch = sys.modules.get("torch")
    if torch is None or platform.system() != "Darwin":
        return None
    try:
        return AllocatorReading(
            int(torch.mps.current_allocated_memory()), int(torch.mps.driver_allocated_memory()), None
        )
    except Exception:  # no such GPU
        return None


def _cuda() -> Any | None:
    """torch.cuda, if torch is loaded and has used a GPU; a query must not initialise it."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None
