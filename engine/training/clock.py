"""A stopwatch for training time alone: stopped while the run is paused, evaluates or saves."""

from __future__ import annotations

import time


class Stopwatch:
    def __init__(self, before_s: float = 0.0) -> None:
        self._before = before_s
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        self._before = self.seconds
        self._since = None

    @property
    def seconds(self) -> float:
        """Running time so far."""
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)
