"""Which test images a run misclassified, or two runs judge differently, and the images themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from engine.control import Control
from engine.errors import DatasetError
from engine.paths import Folders
from engine.progress import Progress
from engine.records import Predictions, RunDetails
from engine.spec import RunSpec

if TYPE_CHECKING:
    from engine.data.images import ImageData


@dataclass(frozen=True, slots=True)
class Mistake:
    """One test image: its position in the test set, true and predicted class, softmax of the predicted class.

    `file` is its name in the dataset's folder, empty if the dataset has no files.
    """

    index: int
    label: int
    predicted: int
    confidence: float
    file: str = ""


def find_mistakes(predictions: Predictions, label: int | None = None, predicted: int | None = None) -> list[Mistake]:
    """The misclassified images, most confident first; `label` and `predicted` select one cell of the confusion matrix,
    which may be on its diagonal.
    """
    labels, guesses, confidences = _arrays(predictions)
    chosen = guesses != labels if label is None or predicted is None else (labels == label) & (guesses == predicted)
    return _listed(np.flatnonzero(chosen), labels, guesses, confidences)


def with_files(mistakes: Sequence[Mistake], files: Sequence[str]) -> list[Mistake]:
    """The mistakes with their files; `files` has one per test image, or none."""
    return [replace(item, file=files[item.index]) for item in mistakes] if files else list(mistakes)


def find_differences(a: Predictions, b: Predictions) -> list[tuple[Mistake, Mistake]]:
    """Images that exactly one of two runs gets right, with both predictions, most confident mistake first."""
    one, other = _arrays(a), _arrays(b)
    chosen = np.flatnonzero((one[0] == one[1]) != (other[0] == other[1]))
    pairs = zip(
        [_mistake(index, *one) for index in chosen.tolist()],
        [_mistake(index, *other) for index in chosen.tolist()],
        strict=True,
    )
    return sorted(pairs, key=lambda pair: -max(item.confidence for item in pair if item.predicted != item.label))


_Arrays = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def _arrays(predictions: Predictions) -> _Arrays:
    return (
        np.array(predictions.labels, dtype=np.int64),
        np.array(predictions.predictions, dtype=np.int64),
        np.array(predictions.confidences, dtype=np.float64),
    )


def _listed(
    chosen: NDArray[np.intp], labels: NDArray[np.int64], guesses: NDArray[np.int64], confidences: NDArray[np.float64]
) -> list[Mistake]:
    order = chosen[np.argsort(-confidences[chosen], kind="stable")]
    return [_mistake(index, labels, guesses, confidences) for index in order.tolist()]


def _mistake(
    index: int, labels: NDArray[np.int64], guesses: NDArray[np.int64], confidences: NDArray[np.float64]
) -> Mistake:
    return Mistake(index, int(labels[index]), int(guesses[index]), float(confidences[index]))


def load_test_images(
    details: RunDetails, folders: Folders, control: Control, report: Callable[[Progress], None], chosen: Sequence[int]
) -> NDArray[np.uint8]:
    """The run's test images (N, C, H, W) uint8 at positions `chosen` of its predictions. Loads torch.

    Raises:
        DatasetError: they are no longer available, or are not those that the run was tested on.
    """
    import torch

    from engine.data.exclusion import with_kept_list
    from engine.data.images import FIRST_RULES
    from engine.data.loading import load_dataset

    rules = details.started.data_rules if details.started else FIRST_RULES
    folder = folders.run_folder(details.record.run)
    spec = with_kept_list(RunSpec.from_stored(details.record.spec), folder)
    loading = load_dataset(spec, folders, control, rules)
    while True:
        try:
            report(next(loading))
        except StopIteration as end:
            data: ImageData = end.value
            break
    if details.started is None or data.test_sha256 != details.started.test_sha256:
        raise DatasetError(
            f"the test images of run {details.record.run} have changed, or are now read differently (upright, opaque, "
            "16 bits as 8); train it again to see them"
        )
    images: NDArray[np.uint8] = data.test.take(torch.tensor(chosen, dtype=torch.int64)).images.numpy()
    return images
