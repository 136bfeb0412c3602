"""Waiting for a condition, with one generous bound for all."""

from __future__ import annotations

import time
from collections.abc import Callable

WITHIN_S = 60.0


def until(condition: Callable[[], object], within_s: float = WITHIN_S, every_s: float = 0.001) -> bool:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > within_s:
            return False
        time.sleep(every_s)
    return True
