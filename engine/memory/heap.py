"""How the C library hands memory to torch on a host: one heap for all threads, kept between steps.

A run in the app lives in a second thread, and glibc gives such a thread memory in pieces of 64 MiB and asks the system
anew for each block of over 32 MiB: every step then pays for its activations' pages again. Freed memory is kept until
`engine.memory.freeing.empty_caches` hands it back, at a run's end and where a person presses f.
"""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_one_heap() -> None:
    """Call it before any other thread is started: a thread keeps the heap that it began with."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # another C library has none, or ignores it
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
