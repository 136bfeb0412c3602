"""How every benchmark says what it found: both sides, their ratio, the spread, and the machine."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from engine.device import cpu_name


def report(title: str, unit: str, pairs: Sequence[tuple[float, float]], names: tuple[str, str]) -> None:
    """Print the medians of each side and of the pairs' ratios, with the least and the greatest."""
    first, second = zip(*pairs, strict=True)
    ratios = [one / two for one, two in pairs]
    print(f"{title}  ({cpu_name()}, n = {len(pairs)} pairs)")
    for name, values in zip(names, (first, second), strict=True):
        print(f"  {name:<24} median {statistics.median(values):10.3f} {unit}  ({min(values):.3f} to {max(values):.3f})")
    spread = f"({min(ratios):.3f} to {max(ratios):.3f})"
    print(f"  ratio                    median {statistics.median(ratios):10.3f}  {spread}", flush=True)


def data_folder() -> Path:
    """Where MNIST/raw lies."""
    return Path(os.environ.get("RESLAB_TEST_DATA") or os.environ.get("RESLAB_DATA") or "data")
