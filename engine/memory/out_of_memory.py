"""Recognise failed allocations, whichever device and library they come from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
_WORDS = re.compile(
    r"out of memory|can't allocate memory|ALLOC(?:ATION)?_FAILED|bad[ _]alloc|unable to find an engine", re.IGNORECASE
)
_REQUESTED = re.compile(r"tr(?:ied|ying) to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB)", re.IGNORECASE)
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None


def requested_bytes(error: BaseException) -> int | None:
    """The size of the failed allocation, if the message has it."""
    found = _REQUESTED.search(str(error))
    return round(float(found[1]) * _UNITS[found[2].lower()]) if found else None


def none_if_out_of_memory(work: Callable[[], T]) -> T | None:
    """The result of `work`; None if memory ran out, with the memory of `work` released."""
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None
