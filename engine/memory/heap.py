"""How the C library provides memory to torch on a host: one heap for all threads, kept between steps.

A run in the app lives in a second thread. glibc gives such a thread memory in pieces of 64 MiB and maps each block over
32 MiB anew, so every step pays for its activations' pages again. Here, freed memory is kept until
`engine.memory.freeing.empty_caches` returns it, at the end of a run and when the user presses f.
"""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_one_heap() -> None:
    """Call it before any other thread starts: a thread keeps its first heap."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # another C library has none, or ignores it
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, 2**31 - 1)
