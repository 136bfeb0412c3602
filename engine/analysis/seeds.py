"""Several seeds of one spec: their spread, and the comparison of groups with a seed as the unit."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from types import MappingProxyType
from typing import Any, NamedTuple

from engine.analysis.comparison import ALPHA, Comparison, compare, differing_settings, holm, points
from engine.catalog.models import short_model
from engine.records import Predictions, RunDetails, RunSummary
from engine.spec import RunSpec, unknown_settings
from engine.text import counted

ENOUGH_SEEDS = 3  # with fewer, a standard deviation means little
_MOST_NAMED = 3  # settings in a group's name
_NONE: Mapping[int, str | None] = MappingProxyType({})
Images = tuple[str, str, str]
UNKNOWN: Images = ("", "", "")
_NO_IMAGES: Mapping[int, Images] = MappingProxyType({})


class _Key(NamedTuple):
    """What the runs of a group have in common."""

    settings: str
    test_sha256: str
    train_sha256: str
    model_sha256: str


@dataclass(frozen=True, slots=True)
class SeedGroup:
    """Completed runs that differ only in their seed. `std` (with n - 1) is None for a single run; `caveats` say where
    single runs departed from their spec.
    """

    name: str
    runs: tuple[int, ...]
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    caveats: tuple[str, ...] = ()

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
    """Two groups of seeds. `test` is "paired t" if both have the same seeds, else "Welch t"; None: too few seeds.
    `holm_p` is `p` after Holm's correction for all pairs compared together.
    """

    a: str
    b: str
    difference: float
    test: str | None
    p: float | None
    holm_p: float | None
    interval_95: tuple[float, float] | None
    verdict: str


@dataclass(frozen=True, slots=True)
class Compared:
    """Runs side by side, the verdicts between them, their seed groups, and the verdicts between the groups.

    A group has at least two runs that differ only in their seed. `without` are the same verdicts without test images
    that also lie in the training set, each a sentence; empty if none is known.
    """

    runs: tuple[RunDetails, ...]
    comparison: Comparison
    groups: tuple[SeedGroup, ...]
    group_verdicts: tuple[GroupVerdict, ...]
    without: tuple[str, ...] = ()


def compare_all(
    compared: Sequence[tuple[RunDetails, Predictions]], pairs: Sequence[tuple[int, int]] | None
) -> Compared:
    """Runs side by side: pair by pair, and by groups that differ only in their seed. Raises as `compare`."""
    found = compare(compared, pairs)
    details = tuple(item for item, _ in compared)
    caveats = {item.record.run: item.caveat for item in details}
    images = {item.record.run: images_of(item) for item in details}
    of_seeds = group_by_seed([item.record for item in details], caveats, images)
    groups = [group for group in of_seeds if len(group.runs) > 1]
    between = compare_groups(groups) if found.no_verdict is None else []
    return Compared(details, found, tuple(groups), tuple(between))


def group_by_seed(
    records: Sequence[RunSummary],
    caveats: Mapping[int, str | None] = _NONE,
    images: Mapping[int, Images] = _NO_IMAGES,
) -> list[SeedGroup]:
    """Completed runs on the same images, grouped by everything but their seed, in order of first occurrence.

    Of two runs with the same seed the first counts. `caveats` and `images` are by run number. Groups of one network on
    one dataset are also named by the settings in which they differ, or by their images.
    """
    groups: dict[_Key, dict[int, RunSummary]] = {}
    for record in records:
        if record.status == "completed" and record.final is not None:
            spec = RunSpec.from_stored(record.spec)
            key = _key(spec, unknown_settings(record.spec), images.get(record.run, UNKNOWN), groups)
            groups.setdefault(key, {}).setdefault(spec.seed, record)
    found = [sorted(group.values(), key=lambda record: record.spec["seed"]) for group in groups.values()]
    names = _distinct(_names(found), [f"{key.test_sha256[:6]}/{key.train_sha256[:6]}" for key in groups])
    return [_group(name, runs, caveats) for name, runs in zip(names, found, strict=True)]


def images_of(details: RunDetails) -> Images:
    """The hashes of a run's test and training images, and of the user's own file with its network; empty if there is
    none, or an earlier version did not record them.
    """
    started = details.started
    return (started.test_sha256, started.train_sha256, started.model_sha256) if started else UNKNOWN


def _key(spec: RunSpec, unknown: Mapping[str, Any], images: Images, groups: Iterable[_Key]) -> _Key:
    """If the images are known, it matters which they were, not in which folder. `unknown` settings may affect the
    result.
    """
    settings = spec.seed_group(with_path=not images[0]) + (json.dumps(unknown, sort_keys=True) if unknown else "")
    key = _Key(settings, *images)
    if key.train_sha256:
        return key
    return next((other for other in groups if other[:2] == key[:2]), key)  # an early run: identified by its test images


def _distinct(names: Sequence[str], hashes: Sequence[str]) -> list[str]:
    """Distinguishes groups of one spec by their images, if a folder has changed."""
    return [
        f"{name}, images {short}" if names.count(name) > 1 else name for name, short in zip(names, hashes, strict=True)
    ]


def _names(groups: Sequence[Sequence[RunSummary]]) -> list[str]:
    plain = [f"{short_model(group[0].model)} on {group[0].dataset}" for group in groups]
    names = []
    for name, group in zip(plain, groups, strict=True):
        alike = [other[0].spec for other, its in zip(groups, plain, strict=True) if its == name]
        differing = [key for key in differing_settings(alike) if key != "seed"]
        settings = [f"{key}={group[0].spec.get(key)}" for key in differing[:_MOST_NAMED]]
        names.append(", ".join([name, *settings, *(["…"] if len(differing) > _MOST_NAMED else [])]))
    return names


def _group(name: str, ordered: Sequence[RunSummary], caveats: Mapping[int, str | None]) -> SeedGroup:
    return SeedGroup(
        name=name,
        runs=tuple(record.run for record in ordered),
        seeds=tuple(record.spec["seed"] for record in ordered),
        accuracies=tuple(record.final.accuracy for record in ordered if record.final),
        caveats=tuple(f"run {record.run} was {caveat}" for record in ordered if (caveat := caveats.get(record.run))),
    )


def compare_groups(groups: Sequence[SeedGroup]) -> list[GroupVerdict]:
    """For every pair of groups: the second's mean accuracy minus the first's, by a t test paired by seed, or Welch's
    (1947) if the seeds differ; p values are corrected for the number of pairs that could be tested.

    All runs must have been tested on the same images.
    """
    tested = [_tested(a, b) for a, b in combinations(groups, 2)]
    corrected = iter(holm([found.p for found in tested if found.p is not None]))
    num_tests = sum(found.p is not None for found in tested)
    verdicts = []
    for found, (a, b) in zip(tested, combinations(groups, 2), strict=True):
        if found.p is not None:
            found = replace(found, holm_p=next(corrected))
            found = replace(found, verdict=_sentence(found, a, b, num_tests))
        marks = "".join(f" {caveat[0].upper()}{caveat[1:]}." for caveat in (*a.caveats, *b.caveats))
        verdicts.append(replace(found, verdict=found.verdict + marks))
    return verdicts


def _tested(a: SeedGroup, b: SeedGroup) -> GroupVerdict:
    """Without its sentence, unless there are too few seeds for a test."""
    difference = b.mean - a.mean
    fewest = min(len(a.seeds), len(b.seeds))
    if fewest < ENOUGH_SEEDS:
        few = f"{counted(fewest, 'seed')} of one of them: too few to separate a network from chance"
        words = f"{few}; train at least {ENOUGH_SEEDS} of each."
        return GroupVerdict(a.name, b.name, difference, None, None, None, None, words)
    from scipy import stats

    paired = a.seeds == b.seeds
    test = stats.ttest_rel if paired else stats.ttest_ind
    result = test(b.accuracies, a.accuracies) if paired else test(b.accuracies, a.accuracies, equal_var=False)
    name, p = "paired t" if paired else "Welch t", float(result.pvalue)
    if math.isnan(p):  # no spread at all
        p = 1.0 if difference == 0 else 0.0
    interval = result.confidence_interval(0.95)
    return GroupVerdict(a.name, b.name, difference, name, p, p, (float(interval.low), float(interval.high)), "")


def _sentence(found: GroupVerdict, a: SeedGroup, b: SeedGroup, num_tests: int) -> str:
    assert found.interval_95 is not None
    assert found.holm_p is not None
    low, high = found.interval_95
    corrected = f", {found.holm_p:.2g} after Holm's correction for {num_tests} pairs" if num_tests > 1 else ""
    facts = (
        f"{b.name} minus {a.name}: {points(found.difference)} points over {len(b.seeds)} and {len(a.seeds)} seeds "
        f"(95 % interval {points(low)} to {points(high)}, {found.test} test p = {found.p:.2g}{corrected})"
    )
    better = b.name if found.difference > 0 else a.name
    end = f"{better} is better with this recipe" if found.holm_p < ALPHA else "no evidence that either is better"
    return f"{facts}: {end}."
