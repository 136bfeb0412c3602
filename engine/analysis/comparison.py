"""What the difference between two runs is worth, from the test images themselves.

Two runs on the same test images are compared image by image: only the images that one gets right and the other does not
carry evidence. Several seeds of one spec are compared with a seed as the unit. No sentence claims more than the figures
show. Loads no torch; scipy is imported only when needed (2 s).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.catalog.models import short_model
from engine.errors import StoreError
from engine.records import Predictions, RunDetails
from engine.settings import settings_of
from engine.spec import RunSpec
from engine.text import counted

_Z = 1.959963984540054  # the normal distribution's 97.5 % quantile
ALPHA = 0.05


@dataclass(frozen=True, slots=True)
class Verdict:
    """Two runs on the same `num_images` test images. Differences are B minus A, as fractions.

    `mcnemar_p` is the exact two-sided p of McNemar's test; `holm_p` the same after Holm's correction for all pairs
    compared together. `verdict` is one plain sentence.
    """

    a: int
    b: int
    num_images: int
    only_a_right: int
    only_b_right: int
    difference: float
    interval_95: tuple[float, float]
    mcnemar_p: float
    holm_p: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Side:
    """One run in a comparison: its accuracy with Wilson's 95 % interval; `caveat` says where it departed from its
    spec.
    """

    run: int
    name: str
    num_images: int
    num_right: int
    wilson_95: tuple[float, float]
    caveat: str | None = None

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_images


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side. `verdicts` has one entry per pair; if there are none, `no_verdict` says why."""

    sides: tuple[Side, ...]
    verdicts: tuple[Verdict, ...]
    no_verdict: str | None
    differing: dict[str, tuple[Any, ...]]


def compare(
    runs: Sequence[tuple[RunDetails, Predictions]], pairs: Sequence[tuple[int, int]] | None = None
) -> Comparison:
    """Compare two or more runs that have predictions.

    Args:
        runs: the details and the final predictions of each.
        pairs: which pairs to test, as positions; None: every pair. Fewer pairs chosen beforehand cost less of Holm's
            correction; leaving pairs out after seeing the results is cheating.

    Raises:
        StoreError: fewer than two runs, or one of them twice.
    """
    numbers = [details.record.run for details, _ in runs]
    if len(set(numbers)) < 2 or len(set(numbers)) < len(numbers):
        raise StoreError("a comparison needs two or more different runs; reslab runs lists them")
    sides = tuple(_side(details, predictions) for details, predictions in runs)
    differing = differing_settings([details.record.spec for details, _ in runs])
    computed = tuple(_computed_in(details) for details, _ in runs)
    if len(set(computed)) > 1:
        differing["computed_in"] = computed
    files = tuple(item.started.model_sha256[:12] if item.started else "" for item, _ in runs)
    if len(set(files)) > 1:
        differing["network_file"] = tuple(f"SHA-256 {file}…" if file else "none" for file in files)
    reason = _why_no_verdict([details for details, _ in runs])
    if reason is not None:
        return Comparison(sides, (), reason, differing)
    right = [_right(predictions) for _, predictions in runs]
    pairs = list(combinations(range(len(runs)), 2)) if pairs is None else pairs
    tests = [_test(right[first], right[second]) for first, second in pairs]
    adjusted = holm([p for _, _, p in tests])
    verdicts = tuple(
        _verdict(sides[first], sides[second], tested, holm_p, len(pairs))
        for (first, second), tested, holm_p in zip(pairs, tests, adjusted, strict=True)
    )
    return Comparison(sides, verdicts, None, differing)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p: the binomial test of the discordant images against one half (McNemar 1947)."""
    from scipy.stats import binomtest

    return float(binomtest(only_b, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def paired_interval(only_a: int, only_b: int, num_images: int) -> tuple[float, float]:
    """95 % interval of B's accuracy minus A's on the same images: Wald with the Laplace adjustment of Bonett and Price
    (2012), recommended by Fagerland, Lydersen and Laake (2014); it has a width even if no image differs.
    """
    total = num_images + 2
    a, b = (only_a + 1) / total, (only_b + 1) / total
    half = _Z * math.sqrt((a + b - (b - a) ** 2) / total)
    return max(b - a - half, -1.0), min(b - a + half, 1.0)


def wilson_interval(num_right: int, num_images: int) -> tuple[float, float]:
    """95 % interval of one accuracy (Wilson 1927)."""
    share, z2 = num_right / num_images, _Z**2 / num_images
    centre = (share + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * math.sqrt(share * (1 - share) / num_images + z2 / (4 * num_images))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values corrected for their number (Holm 1979): the k-th smallest times (m - k + 1), never decreasing."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted


def _computed_in(details: RunDetails) -> str | None:
    """The dtype and layout that `dtype auto` resolved to."""
    if details.started is None:
        return None
    resolved = details.started.resolved
    layout = " channels last" if resolved.memory_format == "channels_last" else ""
    return f"{resolved.dtype}{layout}"


def differing_settings(specs: Sequence[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    """The settings in which the specs differ, each with its value in every spec, without those that do not affect the
    result.

    A setting missing from a spec counts as its default: an earlier version, which did not have it, recorded the spec.
    """
    known = settings_of(RunSpec)
    names = sorted({name for spec in specs for name in spec if name not in known or "result" in known[name].affects})
    defaults = {name: item.default for name, item in known.items()}
    values = {name: tuple(spec.get(name, defaults.get(name)) for spec in specs) for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _side(details: RunDetails, predictions: Predictions) -> Side:
    right, total = int(_right(predictions).sum()), len(predictions.labels)
    name = f"{short_model(details.record.model)} #{details.record.run}"
    caveats = [text for text in (_unfinished(details), details.caveat) if text]
    return Side(details.record.run, name, total, right, wilson_interval(right, total), "; ".join(caveats) or None)


def _unfinished(details: RunDetails) -> str | None:
    """How far an incomplete run got: the comparison uses its last evaluation."""
    status, epochs = details.record.status, details.record.spec.get("epochs", "?")
    if status == "completed":
        return None
    words = {"running": "still running", "failed": "interrupted"}.get(status, status)
    return f"{words} after epoch {len(details.epochs)} of {epochs}"


def _right(predictions: Predictions) -> NDArray[np.bool_]:
    right: NDArray[np.bool_] = np.array(predictions.labels) == np.array(predictions.predictions)
    return right


def _why_no_verdict(details: Sequence[RunDetails]) -> str | None:
    """Why these runs cannot be compared image by image; None if they can."""
    seen = {item.started.test_sha256 if item.started else None for item in details}
    if len(seen) == 1 and None not in seen:
        return None
    names = sorted({item.record.dataset for item in details})
    sizes = {item.record.spec.get("image_size") for item in details}
    if len(names) > 1:
        return f"no verdict: the runs were tested on different datasets ({', '.join(names)})"
    if len(sizes) > 1:
        return "no verdict: the runs were tested on images of different sizes"
    return "no verdict: the runs were tested on different images (another split, or changed files)"


def _test(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> tuple[int, int, float]:
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return only_a, only_b, mcnemar_exact(only_a, only_b)


def _verdict(a: Side, b: Side, tested: tuple[int, int, float], holm_p: float, num_pairs: int) -> Verdict:
    only_a, only_b, p = tested
    low, high = paired_interval(only_a, only_b, a.num_images)
    verdict = Verdict(
        a=a.run, b=b.run, num_images=a.num_images, only_a_right=only_a, only_b_right=only_b,
        difference=(only_b - only_a) / a.num_images, interval_95=(low, high), mcnemar_p=p, holm_p=holm_p, verdict="",
    )  # fmt: skip
    marks = [f" {side.name} was {side.caveat}." for side in (a, b) if side.caveat]
    return replace(verdict, verdict=_sentence(verdict, a.name, b.name, num_pairs) + "".join(marks))


def _sentence(v: Verdict, a: str, b: str, num_pairs: int) -> str:
    corrected = f", {v.holm_p:.2g} after Holm's correction for {num_pairs} pairs" if num_pairs > 1 else ""
    low, high = v.interval_95
    facts = (
        f"{counted(v.only_b_right, 'image')} only {b} gets right, {v.only_a_right:,} only {a} "
        f"({points(v.difference)} points of {v.num_images:,}, 95 % interval {points(low)} to {points(high)}, "
        f"exact McNemar p = {v.mcnemar_p:.2g}{corrected})"
    )
    if v.only_a_right + v.only_b_right == 0:
        return f"{a} and {b} get the very same images right: no difference on this test set."
    if v.holm_p >= ALPHA:
        return f"{facts}: no evidence that either is better."
    better = b if v.difference > 0 else a
    return f"{facts}: {better} is better on images like these, for these two trained networks; another seed may differ."


def points(fraction: float) -> str:
    """A difference in percentage points, signed, with a true minus: "−0.04"."""
    return f"{100 * fraction:+.2f}".replace("-", "−")
