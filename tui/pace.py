"""How often to draw a live screen, so that drawing takes no more than a fixed share of a core.

When the CPU trains, drawing costs training time twice: OpenMP's threads also wait for the one whose core the screen
uses. When a GPU trains, the CPU has time to spare.
"""

from __future__ import annotations

_CPU_SHARE, _GPU_SHARE = 0.005, 0.05  # of one core
_MIN_S, _MAX_S = 0.25, 2.0


class Pace:
    """Computes the wait before the next drawing from the cost of the last ones."""

    def __init__(self) -> None:
        self._cost_s = 0.01

    def add_cost(self, cost_s: float) -> None:
        """Add a drawing's CPU time in seconds; a single drawing counts for a third of the average."""
        self._cost_s += (cost_s - self._cost_s) / 3

    def wait_s(self, on_cpu: bool) -> float:
        share = _CPU_SHARE if on_cpu else _GPU_SHARE
        return min(max(self._cost_s / share, _MIN_S), _MAX_S)
