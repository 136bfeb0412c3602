"""Final figures, as scikit-learn defines them. A class without images in a split has no recall and changes no average.

Macro precision and F1 are over the classes that occur or were predicted (scikit-learn's default), macro recall over
those that occur, which makes it the balanced accuracy. They are computed here from the confusion matrix: loading
scikit-learn would cost every run a second and 150 MB. A test compares them with scikit-learn's, to the last bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.events import ClassMetrics, Metrics

Classes = NDArray[np.integer]


def compute_metrics(
    labels: Classes, predictions: Classes, num_classes: int, loss: float
) -> tuple[Metrics, tuple[ClassMetrics, ...], tuple[tuple[int, ...], ...]]:
    """All figures of one evaluation.

    Args:
        labels: (N,) true classes, 0 to num_classes - 1.
        predictions: (N,) predicted classes.
        num_classes: classes of the dataset, whether or not all occur.
        loss: mean cross-entropy, passed through.

    Returns:
        The averages, the figures of each class, and the confusion matrix with the true class as row. A class that
        occurs but was never predicted has precision 0.
    """
    pairs = np.bincount(labels.astype(np.int64) * num_classes + predictions, minlength=num_classes**2)
    matrix = pairs.reshape(num_classes, num_classes)
    right, support, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    precision, recall = _divided(right, predicted), _divided(right, support)
    f1 = _divided(2 * right, support + predicted)
    appears = support + predicted > 0
    averages = Metrics(
        accuracy=float(right.sum() / len(labels)),
        balanced_accuracy=float(np.mean(recall[support > 0])),
        precision=float(np.mean(precision[appears])),
        recall=float(np.mean(recall[support > 0])),
        f1=float(np.mean(f1[appears])),
        loss=loss,
    )
    per_class = tuple(
        ClassMetrics(float(p) if known else None, float(r) if n else None, float(f) if n else None, int(n))
        for p, r, f, n, known in zip(precision, recall, f1, support, appears, strict=True)
    )
    return averages, per_class, tuple(map(tuple, matrix.tolist()))


def _divided(counts: NDArray[np.int64], by: NDArray[np.int64]) -> NDArray[np.float64]:
    """0 where the divisor is 0."""
    return np.divide(counts, by, out=np.zeros(len(counts)), where=by > 0)
