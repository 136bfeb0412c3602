"""Final figures from scikit-learn. A class of which a split has no image has no recall, and shifts no average.

The averages are scikit-learn's own: macro precision and F1 over the classes that are there or were predicted (its
default), macro recall over those that are there, which makes it the balanced accuracy.
"""

from __future__ import annotations

import warnings

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
        num_classes: classes of the dataset, whether or not the images show them all.
        loss: mean cross-entropy, handed through.

    Returns:
        The averages, the figures of each class, and the confusion matrix with the true class as row. A class that was
        never predicted, though there were images of it, has precision 0.
    """
    from sklearn import metrics

    pairs = np.bincount(labels.astype(np.int64) * num_classes + predictions, minlength=num_classes**2)
    # Each pair of classes once, weighted by its count: the same figures, and scikit-learn goes through 100 rows
    # where MNIST has 10,000.
    (seen,) = pairs.nonzero()
    true, predicted, counts = seen // num_classes, seen % num_classes, pairs[seen]
    classes = np.arange(num_classes)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        true, predicted, labels=classes, average=None, zero_division=0, sample_weight=counts
    )
    appears = np.isin(classes, np.concatenate([true, predicted]))
    with warnings.catch_warnings():
        # Said of classes that are predicted but not among the true ones; they count for no recall, as they should.
        warnings.simplefilter("ignore", UserWarning)
        balanced = metrics.balanced_accuracy_score(true, predicted, sample_weight=counts)
    averages = Metrics(
        accuracy=float(metrics.accuracy_score(true, predicted, sample_weight=counts)),
        balanced_accuracy=float(balanced),
        precision=float(np.mean(precision[appears])),
        recall=float(np.mean(recall[support > 0])),
        f1=float(np.mean(f1[appears])),
        loss=loss,
    )
    per_class = tuple(
        ClassMetrics(float(p) if known else None, float(r) if n else None, float(f) if n else None, int(n))
        for p, r, f, n, known in zip(precision, recall, f1, support, appears, strict=True)
    )
    return averages, per_class, tuple(map(tuple, pairs.reshape(num_classes, num_classes).tolist()))
