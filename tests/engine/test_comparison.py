"""The verdicts, every formula against another source: statsmodels, scipy, numpy, a textbook's table, a simulation."""

from __future__ import annotations

from array import array
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from engine.analysis.comparison import compare, holm, mcnemar_exact, paired_interval, points, wilson_interval
from engine.analysis.seeds import SeedGroup, compare_groups, group_by_seed
from engine.errors import StoreError
from engine.records import Predictions

counts = st.integers(0, 400)


@given(counts, counts)
def test_mcnemar_is_statsmodels(only_a: int, only_b: int) -> None:
    expected = mcnemar([[1000, only_a], [only_b, 50]], exact=True).pvalue if only_a + only_b else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_wilson_is_statsmodels(num_right: int, num_images: int) -> None:
    num_right = min(num_right, num_images)
    expected = proportion_confint(num_right, num_images, method="wilson")
    assert wilson_interval(num_right, num_images) == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
@settings(max_examples=20)  # statsmodels takes 36 ms a call
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_statsmodels(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


@given(counts, counts, st.integers(0, 3000))
def test_the_paired_interval_is_that_of_a_sample_with_one_more_of_each(only_a: int, only_b: int, alike: int) -> None:
    """Bonett and Price's adjustment by another road: the mean of +1, −1 and 0, its own standard error, the normal."""
    sample = np.r_[np.full(only_b + 1, 1.0), np.full(only_a + 1, -1.0), np.zeros(alike)]
    expected = stats.norm.interval(0.95, sample.mean(), sample.std() / np.sqrt(len(sample)))
    found = paired_interval(only_a, only_b, only_a + only_b + alike)
    assert found == pytest.approx(np.clip(expected, -1, 1), abs=1e-12)


def test_a_textbooks_table() -> None:
    """Agresti, Categorical Data Analysis, the prime minister's ratings: 794, 150, 86, 570; interval −0.06 to −0.02."""
    low, high = paired_interval(150, 86, 1600)
    assert (round(low, 2), round(high, 2)) == (-0.06, -0.02)


@pytest.mark.parametrize(("p_a", "p_b", "num_images"), [(0.02, 0.02, 300), (0.1, 0.04, 200), (0.004, 0.004, 7500)])
def test_the_interval_covers_the_truth_nineteen_times_in_twenty(p_a: float, p_b: float, num_images: int) -> None:
    rng = np.random.default_rng(0)
    draws = rng.multinomial(num_images, [p_a, p_b, 1 - p_a - p_b], size=4000)
    inside = 0
    for only_a, only_b, _ in draws:
        low, high = paired_interval(int(only_a), int(only_b), num_images)
        inside += low <= p_b - p_a <= high
    assert inside / 4000 > 0.945


def run_of(
    number: int, right: list[bool], dataset: str = "digits", sha: str = "x", caveat: str | None = None,
    dtype: str = "float32", status: str = "completed", **spec: Any,
) -> Any:  # fmt: skip
    """A run whose images of class 0 are taken for 0 where right, else for 1."""
    record = SimpleNamespace(
        run=number, model=f"net{number}", dataset=dataset, spec={"dataset": dataset, **spec}, status=status
    )
    memory_format = "channels_last" if dtype == "bfloat16" else "contiguous_format"
    started = SimpleNamespace(
        model_sha256="", test_sha256=sha, resolved=SimpleNamespace(dtype=dtype, memory_format=memory_format)
    )
    details = SimpleNamespace(record=record, started=started, caveat=caveat, epochs=(1, 2))
    predicted = array("H", [0 if item else 1 for item in right])
    return details, Predictions(array("H", [0] * len(right)), predicted, array("f", [1.0] * len(right)))


def test_three_images_of_7500_are_no_evidence() -> None:
    a = [True] * 7333 + [True] * 33 + [False] * 30 + [False] * 104
    b = [True] * 7333 + [False] * 33 + [True] * 30 + [False] * 104
    (verdict,) = compare([run_of(18, a), run_of(50, b)]).verdicts
    assert (verdict.only_a_right, verdict.only_b_right) == (33, 30)
    assert verdict.verdict == (
        "30 images only net50 #50 gets right, 33 only net18 #18 (−0.04 points of 7,500, 95 % interval −0.25 to +0.17, "
        "exact McNemar p = 0.8): no evidence that either is better."
    )


def test_a_run_in_micro_batches_is_marked_in_the_verdict() -> None:
    marked = run_of(
        2, [True] * 90 + [False] * 10, caveat="trained in micro-batches of 32: batch-norm statistics differ"
    )
    (verdict,) = compare([run_of(1, [True] * 95 + [False] * 5), marked]).verdicts
    assert verdict.verdict.endswith("net2 #2 was trained in micro-batches of 32: batch-norm statistics differ.")


def test_a_clear_difference_names_the_better_one_and_no_more() -> None:
    a, b = [False] * 40 + [True] * 60, [True] * 95 + [False] * 5
    (verdict,) = compare([run_of(1, a), run_of(2, b)]).verdicts
    assert verdict.difference == pytest.approx(0.35)
    assert "net2 #2 is better on images like these" in verdict.verdict
    assert "another seed may differ" in verdict.verdict


def test_with_three_runs_holm_can_take_a_verdict_back() -> None:
    base = [True] * 200
    worse = [False] * 6 + [True] * 194
    found = compare([run_of(1, base), run_of(2, worse), run_of(3, base)])
    assert [verdict.holm_p for verdict in found.verdicts] == pytest.approx(
        multipletests([verdict.mcnemar_p for verdict in found.verdicts], method="holm")[1].tolist()
    )
    first = found.verdicts[0]
    assert first.mcnemar_p < 0.05 < first.holm_p
    assert first.verdict.endswith("no evidence that either is better.")
    assert "after Holm's correction for 3 pairs" in first.verdict


def test_runs_that_are_alike_are_said_to_be() -> None:
    (verdict,) = compare([run_of(1, [True, False]), run_of(2, [True, False])]).verdicts
    assert "the very same images right" in verdict.verdict
    assert verdict.mcnemar_p == 1.0
    assert verdict.interval_95[0] < 0 < verdict.interval_95[1]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"dataset": "mnist", "sha": "y"}, "different datasets (digits, mnist)"),
        ({"sha": "y", "image_size": 16}, "images of different sizes"),
        ({"sha": "y"}, "another split"),
    ],
)
def test_runs_on_different_images_get_no_verdict_and_a_reason(other: dict[str, Any], says: str) -> None:
    found = compare([run_of(1, [True]), run_of(2, [True], **other)])
    assert found.verdicts == ()
    assert says in str(found.no_verdict)


def test_another_arithmetic_is_named_though_both_asked_for_auto() -> None:
    found = compare([run_of(1, [True]), run_of(2, [True], dtype="bfloat16")])
    assert found.differing == {"computed_in": ("float32", "bfloat16 channels last")}


def test_settings_that_differ_are_named() -> None:
    found = compare([run_of(1, [True], seed=0, epochs=3), run_of(2, [True], seed=1, epochs=3)])
    assert found.differing == {"seed": (0, 1)}


def test_one_run_is_no_comparison() -> None:
    with pytest.raises(StoreError, match="two or more different runs"):
        compare([run_of(1, [True]), run_of(1, [True])])


def group(name: str, accuracies: list[float], seeds: list[int] | None = None) -> SeedGroup:
    seeds = seeds or list(range(len(accuracies)))
    return SeedGroup(name, tuple(range(len(seeds))), tuple(seeds), tuple(accuracies))


spread = st.lists(st.floats(0.5, 0.99), min_size=3, max_size=8, unique=True)


@given(spread, spread)
def test_groups_of_other_seeds_are_compared_by_welch(a: list[float], b: list[float]) -> None:
    (found,) = compare_groups([group("a", a), group("b", b, list(range(100, 100 + len(b))))])
    expected = stats.ttest_ind(b, a, equal_var=False)
    assert found.test == "Welch t"
    assert found.p == pytest.approx(expected.pvalue)


def test_groups_of_the_same_seeds_are_compared_in_pairs() -> None:
    a, b = [0.90, 0.92, 0.91, 0.95], [0.91, 0.935, 0.92, 0.96]
    (found,) = compare_groups([group("a", a), group("b", b)])
    assert found.test == "paired t"
    assert found.p == pytest.approx(stats.ttest_1samp(np.array(b) - a, 0).pvalue)
    assert found.interval_95 is not None
    assert found.verdict.endswith("b is better with this recipe.")


def test_too_few_seeds_are_said_to_be() -> None:
    (found,) = compare_groups([group("a", [0.9, 0.91]), group("b", [0.95, 0.96, 0.97])])
    assert found.p is None
    assert "2 seeds of one of them: too few" in found.verdict


def test_runs_are_grouped_by_all_but_their_seed() -> None:
    def record(run: int, seed: int, epochs: int, accuracy: float, status: str = "completed") -> Any:
        spec = {"dataset": "digits", "model": "resnet18", "seed": seed, "epochs": epochs}
        final = SimpleNamespace(accuracy=accuracy)
        return SimpleNamespace(run=run, model="resnet18", dataset="digits", spec=spec, status=status, final=final)

    records = [
        record(5, 2, 10, 0.96), record(4, 1, 10, 0.94), record(3, 0, 10, 0.95), record(2, 0, 3, 0.8),
        record(1, 0, 10, 0.5), record(6, 3, 10, 0.1, "failed"),
    ]  # fmt: skip
    ten, three = group_by_seed(records)
    assert (ten.seeds, ten.runs) == ((0, 1, 2), (3, 4, 5))
    assert ten.mean == pytest.approx(0.95)
    assert ten.std == pytest.approx(0.01)
    assert ten.range == (0.94, 0.96)
    assert (three.std, three.accuracies) == (None, (0.8,))


def test_points_have_a_true_minus_and_a_sign() -> None:
    assert (points(-0.0004), points(0.0017)) == ("−0.04", "+0.17")


def test_several_groups_are_corrected_by_holm_and_marked() -> None:
    a, b, c = [0.90, 0.92, 0.91, 0.95], [0.912, 0.931, 0.925, 0.957], [0.93, 0.92, 0.94, 0.95]
    marked = replace(group("c", c), caveats=("run 3 was trained in micro-batches of 32",))
    found = compare_groups([group("a", a), group("b", b), marked])
    raw = [float(stats.ttest_rel(y, x).pvalue) for x, y in ((a, b), (a, c), (b, c))]
    assert [item.p for item in found] == pytest.approx(raw)
    assert [item.holm_p for item in found] == pytest.approx(list(multipletests(raw, method="holm")[1]))
    assert "after Holm's correction for 3 pairs" in found[0].verdict
    assert [item.verdict.endswith("Run 3 was trained in micro-batches of 32.") for item in found] == [False, True, True]


def test_groups_of_one_network_are_named_by_what_differs() -> None:
    def record(run: int, seed: int, rate: float) -> Any:
        spec = {"dataset": "digits", "model": "resnet18", "seed": seed, "learning_rate": rate}
        final = SimpleNamespace(accuracy=0.9)
        return SimpleNamespace(run=run, model="resnet18", dataset="digits", spec=spec, status="completed", final=final)

    slow, fast = group_by_seed([record(1, 0, 0.1), record(2, 1, 0.1), record(3, 0, 0.5), record(4, 1, 0.5)], {3: "odd"})
    assert (slow.name, fast.name) == ("resnet18 on digits, learning_rate=0.1", "resnet18 on digits, learning_rate=0.5")
    assert (slow.caveats, fast.caveats) == ((), ("run 3 was odd",))


def test_a_run_that_has_not_completed_is_marked_in_the_verdict() -> None:
    (verdict,) = compare(
        [run_of(1, [True] * 20, epochs=10), run_of(2, [False] * 20, epochs=10, status="stopped")]
    ).verdicts
    assert verdict.verdict.endswith(" net2 #2 was stopped after epoch 2 of 10.")
