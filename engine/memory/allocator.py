"""torch's own memory figures, where torch is loaded and has used a GPU. Loads no torch, and makes it use none."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class AllocatorReading:
    """What torch's allocator says, in bytes: given out to tensors, reserved from the driver, its largest free block.

    It differs from the driver's figure: the driver counts what is reserved, and its own context besides.
    """

    allocated_bytes: int
    reserved_bytes: int
    largest_free_bytes: int | None


def device_memory(index: int) -> tuple[int, int] | None:
    """Total and used bytes by torch, where it has used this GPU already."""
    cuda = _cuda()
    if cuda is None:
        return None
    try:
        free, total = cuda.mem_get_info(index)
    except Exception:  # whatever the driver raises now
        return None
    return int(total), int(total - free)


def read_allocator(index: int) -> AllocatorReading | None:
    """torch's own figures of one GPU; None where torch is not loaded or has not used it."""
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
    """torch.cuda, if torch is loaded and has used a GPU; asking must not be what makes it use one."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None
