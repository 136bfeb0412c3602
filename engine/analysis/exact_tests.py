"""Exact tails of the binomial distribution, in plain arithmetic: scipy takes a second to load, too long for a listing.

A test compares them with scipy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


def binomial_tail(successes: int, trials: int, chance: float) -> float:
    """P(X >= successes) for a binomial X with `trials` trials of probability `chance`."""
    if successes <= 0 or chance >= 1:
        return 1.0
    if successes > trials or chance <= 0:
        return 0.0
    win, lose = math.log(chance), math.log1p(-chance)
    return _summed(
        _log_choose(trials, count) + count * win + (trials - count) * lose for count in range(successes, trials + 1)
    )


def sign_test(wins: int, losses: int) -> float:
    """One-sided exact p of `wins` against `losses` at even chances; for paired counts this is McNemar's test (1947)."""
    return binomial_tail(wins, wins + losses, 0.5)


def _log_choose(trials: int, count: int) -> float:
    return math.lgamma(trials + 1) - math.lgamma(count + 1) - math.lgamma(trials - count + 1)


def _summed(logs: Iterable[float]) -> float:
    return min(math.fsum(map(math.exp, logs)), 1.0)
