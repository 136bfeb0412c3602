"""A comparison repeated without some test images, such as those that also lie in the training set. Loads no torch."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from dataclasses import replace

from engine.analysis.seeds import compare_all
from engine.records import Predictions, RunDetails


def compare_without(
    compared: Sequence[tuple[RunDetails, Predictions]],
    pairs: Sequence[tuple[int, int]] | None,
    suspects: Collection[int],
    unknown: Sequence[int],
) -> tuple[str, ...]:
    """The verdicts without the test images at the positions `suspects`, which each sentence says; none if there are no
    such images, or no others.

    Args:
        unknown: runs with training images that were not audited.
    """
    num_images = len(compared[0][1].labels)
    kept = [index for index in range(num_images) if index not in suspects]
    if len(kept) == num_images or not kept:
        return ()
    rest = [_only(details, predictions, kept) for details, predictions in compared]
    found = compare_all(rest, pairs)
    number = num_images - len(kept)
    which = "image that also lies" if number == 1 else "images that also lie"
    some = f" (that of run {', '.join(map(str, unknown))} was not audited)" if unknown else ""
    reason = f"without the {number:,} test {which} in the training set{some}"
    verdicts = [item.verdict for item in found.comparison.verdicts]
    verdicts += [item.verdict for item in found.group_verdicts]
    return tuple(f"{reason}: {verdict}" for verdict in verdicts)


def _only(details: RunDetails, predictions: Predictions, kept: Sequence[int]) -> tuple[RunDetails, Predictions]:
    """A run as if it had been tested on the images at `kept` only; of its figures only the accuracy is recomputed."""
    labels = array(predictions.labels.typecode, [predictions.labels[index] for index in kept])
    guesses = array(predictions.predictions.typecode, [predictions.predictions[index] for index in kept])
    confidences = array(predictions.confidences.typecode, [predictions.confidences[index] for index in kept])
    record = details.record
    if record.final is not None:
        right = sum(label == guess for label, guess in zip(labels, guesses, strict=True))
        record = replace(record, final=replace(record.final, accuracy=right / len(kept)))
    return replace(details, record=record), Predictions(labels, guesses, confidences)
