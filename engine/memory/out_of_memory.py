"""Telling a failed allocation from other errors, whichever device and library it comes from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
_WORDS = re.compile(
    r"out of memory|can't allocate memory|ALLOC(?:ATION)?_FAILED|bad[ _]alloc|unable to find an engine", re.IGNORECASE
)
_ASKED = re.compile(r"tr(?:ied|ying) to allocate ([\d.]+) ?(bytes|KiB|MiB|GiB)", re.IGNORECASE)
_UNITS = {"bytes": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def ran_out(error: BaseException) -> bool:
    """Whether an error says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _WORDS.search(str(error)) is not None


def asked_bytes(error: BaseException) -> int | None:
    """How much the failed allocation asked for, where the message says so."""
    found = _ASKED.search(str(error))
    return round(float(found[1]) * _UNITS[found[2].lower()]) if found else None


def unless_memory_runs_out(work: Callable[[], T]) -> T | None:
    """What `work` returns; None, and its memory let go, where memory ran out."""
    try:
        return work()
    except Exception as error:
        if not ran_out(error):
            raise
    return None
