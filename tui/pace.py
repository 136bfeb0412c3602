"""How often a live screen is drawn: so seldom that drawing takes no more than its share of a core.

Where the processor trains, every moment of drawing is taken from it, and twice: OpenMP's threads wait for the one whose
core the screen holds. Where a GPU trains, the processor has time to spare.
"""

from __future__ import annotations

_CPU_SHARE, _GPU_SHARE = 0.005, 0.05  # of one core
_LEAST_S, _MOST_S = 0.25, 2.0


class Pace:
    """`wait_s` is how long to wait before the next drawing, by what the last ones took."""

    def __init__(self) -> None:
        self._cost_s = 0.01

    def drew(self, cost_s: float) -> None:
        """A drawing took so many seconds of the processor's time; a single slow one counts a third."""
        self._cost_s += (cost_s - self._cost_s) / 3

    def wait_s(self, on_cpu: bool) -> float:
        share = _CPU_SHARE if on_cpu else _GPU_SHARE
        return min(max(self._cost_s / share, _LEAST_S), _MOST_S)
