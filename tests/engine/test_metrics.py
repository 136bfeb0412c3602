"""The final figures against their textbook definitions, worked out here with numpy alone."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.analysis.metrics import compute_metrics


@settings(deadline=None)
@given(st.integers(2, 6), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60))
def test_figures_are_those_of_the_definitions(num_classes: int, pairs: list[tuple[int, int]]) -> None:
    labels, predictions = np.array(pairs).T % num_classes
    metrics, per_class, confusion = compute_metrics(labels, predictions, num_classes, 1.5)
    matrix = np.zeros((num_classes, num_classes), int)
    np.add.at(matrix, (labels, predictions), 1)
    assert np.array_equal(matrix, confusion)
    right = np.diag(matrix).astype(float)
    support, predicted = matrix.sum(1), matrix.sum(0)
    precision = np.divide(right, predicted, out=np.zeros(num_classes), where=predicted > 0)
    recall = np.divide(right, support, out=np.zeros(num_classes), where=support > 0)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros(num_classes), where=both > 0)
    assert metrics.accuracy == pytest.approx(right.sum() / len(labels))
    assert metrics.balanced_accuracy == pytest.approx(recall[support > 0].mean())
    appears = (support > 0) | (predicted > 0)
    assert metrics.precision == pytest.approx(precision[appears].mean())
    assert metrics.recall == metrics.balanced_accuracy == pytest.approx(recall[support > 0].mean())
    assert metrics.f1 == pytest.approx(f1[appears].mean())
    assert metrics.loss == 1.5
    assert [item.support for item in per_class] == support.tolist()
    assert [item.f1 for item in per_class if item.f1 is not None] == pytest.approx(f1[support > 0])
    assert [item.recall is None for item in per_class] == (support == 0).tolist()
    assert [item.precision is None for item in per_class] == (~appears).tolist()


@pytest.mark.parametrize("num_shown", [10, 7, 1])
def test_they_are_what_scikit_learn_says_image_by_image(num_shown: int) -> None:
    """Of ten classes so many are shown; the others may be predicted all the same."""
    from sklearn import metrics as judge

    draws = np.random.default_rng(num_shown)
    labels = draws.integers(0, num_shown, 5000)
    predictions = np.where(draws.random(5000) < 0.9, labels, draws.integers(0, 9, 5000)).astype(np.int64)
    metrics, per_class, confusion = compute_metrics(labels.astype(np.uint16), predictions, 10, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes that are predicted and not shown
        assert metrics.balanced_accuracy == judge.balanced_accuracy_score(labels, predictions)
    assert metrics.accuracy == judge.accuracy_score(labels, predictions)
    precision, _, f1, _ = judge.precision_recall_fscore_support(labels, predictions, average="macro", zero_division=0)
    assert (metrics.precision, metrics.f1) == (precision, f1)
    of_class = judge.precision_recall_fscore_support(
        labels, predictions, labels=range(10), average=None, zero_division=0
    )
    for item, precision, recall, f1, support in zip(per_class, *of_class, strict=True):
        assert item.support == support
        assert item.precision in (precision, None)
        assert (item.recall, item.f1) == ((recall, f1) if support else (None, None))
    shown = judge.confusion_matrix(labels, predictions, labels=range(10))
    assert np.array_equal(shown, confusion)


def test_an_evaluation_loads_no_scikit_learn() -> None:
    script = (
        "import sys; import numpy as np; from engine.analysis.metrics import compute_metrics; "
        "compute_metrics(np.array([0, 1]), np.array([0, 0]), 2, 0.0); assert 'sklearn' not in sys.modules"
    )
    subprocess.run((sys.executable, "-c", script), check=True)
