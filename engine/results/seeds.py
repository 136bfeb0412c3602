"""Several seeds of one spec: their spread, and the comparison of two such groups with a seed as the unit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from engine.results.comparison import ALPHA, points
from engine.results.records import RunRecord
from engine.spec import RunSpec

ENOUGH_SEEDS = 3  # under this a standard deviation says next to nothing


@dataclass(frozen=True, slots=True)
class SeedGroup:
    """Finished runs that differ in their seed alone. `std` (with n - 1) is None for a single run."""

    name: str
    runs: tuple[int, ...]
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies)

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else None

    @property
    def range(self) -> tuple[float, float]:
        return min(self.accuracies), max(self.accuracies)


@dataclass(frozen=True, slots=True)
class GroupVerdict:
    """Two groups of seeds. `test` is "paired t" where both have the same seeds, else "Welch t"; None: too few seeds."""

    a: str
    b: str
    difference: float
    test: str | None
    p: float | None
    interval_95: tuple[float, float] | None
    verdict: str


def group_by_seed(records: Sequence[RunRecord]) -> list[SeedGroup]:
    """Completed runs, grouped by all that is not their seed, in the order in which the groups first occur.

    Of two runs with the same seed the first one given counts.
    """
    groups: dict[str, dict[int, RunRecord]] = {}
    for record in records:
        if record.status == "completed" and record.final is not None:
            spec = RunSpec.from_mapping(record.spec)
            groups.setdefault(spec.seed_group(), {}).setdefault(spec.seed, record)
    return [_group(list(found.values())) for found in groups.values()]


def _group(records: Sequence[RunRecord]) -> SeedGroup:
    ordered = sorted(records, key=lambda record: record.spec["seed"])
    return SeedGroup(
        name=f"{ordered[0].model} on {ordered[0].dataset}",
        runs=tuple(record.run for record in ordered),
        seeds=tuple(record.spec["seed"] for record in ordered),
        accuracies=tuple(record.final.accuracy for record in ordered if record.final),
    )


def compare_groups(a: SeedGroup, b: SeedGroup) -> GroupVerdict:
    """B's mean accuracy against A's: a t test paired by seed, or Welch's (1947) where the seeds differ."""
    difference = b.mean - a.mean
    fewest = min(len(a.seeds), len(b.seeds))
    if fewest < ENOUGH_SEEDS:
        few = f"{fewest} seed{'' if fewest == 1 else 's'} of one of them: too few to tell a network from its luck"
        return GroupVerdict(
            a.name, b.name, difference, None, None, None, f"{few}; train at least {ENOUGH_SEEDS} of each."
        )
    from scipy import stats

    paired = a.seeds == b.seeds
    test = stats.ttest_rel if paired else stats.ttest_ind
    result = test(b.accuracies, a.accuracies) if paired else test(b.accuracies, a.accuracies, equal_var=False)
    name, p = "paired t" if paired else "Welch t", float(result.pvalue)
    if math.isnan(p):  # no spread at all
        p = 1.0 if difference == 0 else 0.0
    interval = result.confidence_interval(0.95)
    low, high = float(interval.low), float(interval.high)
    facts = (
        f"{b.name} minus {a.name}: {points(difference)} points over {len(b.seeds)} and {len(a.seeds)} seeds "
        f"(95 % interval {points(low)} to {points(high)}, {name} test p = {p:.2g})"
    )
    better = b.name if difference > 0 else a.name
    end = f"{better} is better with this recipe" if p < ALPHA else "no evidence that either is better"
    return GroupVerdict(a.name, b.name, difference, name, p, (low, high), f"{facts}: {end}.")
