"""Names of a run's test images and classes: the network knows numbers, people know names and files.

Loads no torch.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.data.manifest import MANIFEST_NAME, read_test_files
from engine.errors import DatasetError
from engine.records import Predictions
from engine.text import safe_text

_log = logging.getLogger("reslab")


@dataclass(frozen=True, slots=True)
class NamedPrediction:
    """One test image, by its `index` in the test set, and its prediction.

    `file` is relative to the dataset's folder, None if the dataset has no files. `true` and `predicted` are class
    names; the class indexes are positions in the run's list of classes, which is sorted as text: "10" comes before "2".
    `confidence` is the softmax of the predicted class.
    """

    index: int
    file: str | None
    true: str
    predicted: str
    true_class_index: int
    predicted_class_index: int
    confidence: float


def named(predictions: Predictions, class_names: Sequence[str], folder: Path) -> Iterator[NamedPrediction]:
    """The predictions of a run with these classes, in the test set's order; `folder` is the run's."""
    files = test_files(folder, class_names, predictions.labels)
    columns = (predictions.labels, predictions.predictions, predictions.confidences)
    for index, (true, predicted, confidence) in enumerate(zip(*columns, strict=True)):
        yield NamedPrediction(
            index,
            files[index] if files else None,
            class_name(class_names, true),
            class_name(class_names, predicted),
            true,
            predicted,
            float(f"{confidence:.7g}"),
        )


def class_name(class_names: Sequence[str], number: int) -> str:
    """The name of a class; its number if the run's list of classes is shorter."""
    return class_names[number] if number < len(class_names) else str(number)


def test_files(folder: Path, class_names: Sequence[str], labels: Sequence[int]) -> list[str]:
    """The files of a run's test images, one per label, from the manifest in the run's `folder`.

    Empty if the dataset has no files, or the manifest does not belong to these images.
    """
    try:
        records = read_test_files(folder / MANIFEST_NAME)
    except DatasetError as error:
        _log.warning("test images have no names: %s", error)
        return []
    if not records:
        return []
    expected = [safe_text(class_name(class_names, label)) for label in labels]
    if [record.class_name for record in records] != expected:
        _log.warning("%s is not of the run's test images", folder / MANIFEST_NAME)
        return []
    return [record.file for record in records]
