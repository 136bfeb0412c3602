"""Waiting for what another process or thread does: as long as it lives, with one generous bound for all.

Beside other work a process may take a minute to begin: the bound is for what never comes, and is a measure of nothing.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

WITHIN_S = 300.0


def _lives() -> bool:
    return True


def until(
    condition: Callable[[], object],
    within_s: float = WITHIN_S,
    every_s: float = 0.001,
    lives: Callable[[], object] = _lives,
) -> bool:
    """Whether `condition` became true, while whoever is to bring it about `lives`."""
    began = time.monotonic()
    while not condition():
        if not lives():
            return bool(condition())  # its last deed
        if time.monotonic() - began > within_s:
            return False
        time.sleep(every_s)
    return True


def exit_code(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> int:
    """The exit code of a process that comes to its end by itself."""
    return process.wait(WITHIN_S)


def join(*work: threading.Thread | BaseProcess) -> None:
    """Wait for the end of threads or processes."""
    for one in work:
        one.join(WITHIN_S)
        assert not one.is_alive(), f"{one.name} did not come to its end"
