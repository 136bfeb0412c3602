"""Final figures from scikit-learn, always with `labels=` given, so that an absent class cannot shift an average."""

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
        never predicted has precision 0.
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
    with warnings.catch_warnings():
        # Said of classes that are predicted but not among the true ones; they count for no recall, as they should.
        warnings.simplefilter("ignore", UserWarning)
        balanced = metrics.balanced_accuracy_score(true, predicted, sample_weight=counts)
    averages = Metrics(
        accuracy=float(metrics.accuracy_score(true, predicted, sample_weight=counts)),
        balanced_accuracy=float(balanced),
        precision=float(np.mean(precision)),
        recall=float(np.mean(recall)),
        f1=float(np.mean(f1)),
        loss=loss,
    )
    per_class = tuple(
        ClassMetrics(float(p), float(r), float(f), int(n))
        for p, r, f, n in zip(precision, recall, f1, support, strict=True)
    )
    return averages, per_class, tuple(map(tuple, pairs.reshape(num_classes, num_classes).tolist()))
