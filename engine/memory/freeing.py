"""Frees memory and measures what came free, by the allocator and by the operating system."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
from dataclasses import dataclass

from engine.memory.gauges import process_bytes
from engine.memory.ledger import Holding, Ledger


@dataclass(frozen=True, slots=True)
class Freed:
    """What was let go, and what came free by measurement, in bytes (never below 0).

    `host_bytes` is the fall of this process's resident memory, `device_bytes` of what torch's allocator had reserved
    on the GPU (None without a GPU in use).
    """

    dropped: tuple[Holding, ...]
    host_bytes: int
    device_bytes: int | None


def free_memory(ledger: Ledger) -> Freed:
    """Let go of all that no live run needs, collect, and hand the allocators' spare memory back."""
    host, device = process_bytes(), _reserved_bytes()
    dropped = ledger.drop_idle()
    gc.collect()
    _empty_caches()
    device_after = _reserved_bytes()
    came_free = None if device is None or device_after is None else max(device - device_after, 0)
    return Freed(dropped, max(host - process_bytes(), 0), came_free)


def _reserved_bytes() -> int | None:
    """Bytes that torch has reserved on all GPUs; None where torch is not loaded or never used one."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return None
    return sum(int(torch.cuda.memory_reserved(index)) for index in range(torch.cuda.device_count()))


def _empty_caches() -> None:
    if _reserved_bytes() is not None:
        sys.modules["torch"].cuda.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed heap pages until told otherwise
