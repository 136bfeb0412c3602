"""What a completed run's figures hide: it learned nothing, or only one class. Sentences from stored values.

Each claim rests on an exact one-sided test on the test images; a share that is only described has a threshold, named
here. Loads neither torch, numpy nor scipy.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.analysis.exact_tests import binomial_tail, sign_test
from engine.records import Change, EvaluationRecord, RunDetails
from engine.text import percent

_ALPHA = 0.05
_NEARLY_ALL = 0.9  # of the test images predicted as one class: reported if its share of the images does not explain it
Confusion = Sequence[Sequence[int]]


def remarks_on(details: RunDetails) -> tuple[str, ...]:
    """What a completed run's figures hide, in sentences; names in them are not yet safe to print."""
    return closing_remarks(details) if details.record.status == "completed" else ()


def closing_remarks(details: RunDetails) -> tuple[str, ...]:
    """The same for a run that is about to complete."""
    final = details.evaluation("final")
    if final is None or not details.class_names:
        return ()
    return remarks(final, details.evaluation("untrained"), details.change, details.class_names)


def remarks(
    final: EvaluationRecord, untrained: EvaluationRecord | None, change: Change | None, class_names: Sequence[str]
) -> tuple[str, ...]:
    """Sentences about a completed run's last evaluation on the test set, if any."""
    num_images = sum(map(sum, final.confusion))
    if num_images == 0:
        return ()
    sentences = (
        _one_class(final.confusion, class_names, num_images),
        _most_frequent(final.confusion, class_names, num_images),
        _as_before(final, untrained, change),
    )
    return tuple(sentence for sentence in sentences if sentence is not None)


def _one_class(confusion: Confusion, class_names: Sequence[str], num_images: int) -> str | None:
    """Nearly all predictions are one class, more than its share of the images explains (exact binomial test)."""
    predicted = [sum(row[column] for row in confusion) for column in range(len(confusion))]
    most = max(range(len(confusion)), key=predicted.__getitem__)
    share = sum(confusion[most]) / num_images
    if predicted[most] < _NEARLY_ALL * num_images or binomial_tail(predicted[most], num_images, share) > _ALPHA:
        return None
    return (
        f"it predicts one class ({class_names[most]}) for {percent(predicted[most] / num_images, 1)} of the test images"
    )


def _most_frequent(confusion: Confusion, class_names: Sequence[str], num_images: int) -> str | None:
    """No more images are right than by always predicting the most frequent class (McNemar, exact, one-sided).

    Each gets some images right that the other does not: the run those of other classes, the rule those of its own.
    """
    support = [sum(row) for row in confusion]
    most = max(range(len(support)), key=support.__getitem__)
    only_run = sum(row[number] for number, row in enumerate(confusion) if number != most)
    only_rule = support[most] - confusion[most][most]
    p = sign_test(only_run, only_rule)
    if p <= _ALPHA:
        return None
    rule = f"always predicting the most frequent class ({class_names[most]}, {percent(support[most] / num_images, 1)})"
    if only_run <= only_rule:
        return f"its accuracy is no better than {rule}"
    return f"its accuracy is not measurably better than {rule}: {num_images:,} test images are too few, p = {p:.2g}"


def _as_before(final: EvaluationRecord, untrained: EvaluationRecord | None, change: Change | None) -> str | None:
    """No more images are right than before training, on the same images (McNemar, exact, one-sided)."""
    if untrained is None or change is None or change.num_images != sum(map(sum, final.confusion)):
        return None
    p = sign_test(change.only_after, change.only_before)
    if p <= _ALPHA:
        return None
    before, after = percent(untrained.metrics.accuracy, 1), percent(final.metrics.accuracy, 1)
    figures = f"{before} of the test images were right before training, {after} after it"
    if sign_test(change.only_before, change.only_after) <= _ALPHA:
        return f"it ended worse than it began: {figures}"
    return f"it ended where it began: {figures}, p = {p:.2g}"
