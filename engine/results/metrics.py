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

    classes = np.arange(num_classes)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predictions, labels=classes, average=None, zero_division=0
    )
    with warnings.catch_warnings():
        # Said of classes that are predicted but not among the true ones; they count for no recall, as they should.
        warnings.simplefilter("ignore", UserWarning)
        balanced = metrics.balanced_accuracy_score(labels, predictions)
    averages = Metrics(
        accuracy=float(metrics.accuracy_score(labels, predictions)),
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
    confusion = metrics.confusion_matrix(labels, predictions, labels=classes)
    return averages, per_class, tuple(tuple(int(count) for count in row) for row in confusion)
