"""Stratified, seeded splits. The same labels, share and seed give the same split on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import DatasetError

Indices = NDArray[np.int64]


def stratified(labels: NDArray[np.int64], share: float, seed: int, part: str) -> tuple[Indices, Indices]:
    """Split positions into the rest and a `share` of every class; both come back sorted.

    Args:
        labels: (N,) class of each image.
        share: of the images that goes into the second part, between 0 and 1; its size is rounded up.
        part: what the second part is called in a complaint ("test", "val").

    Raises:
        DatasetError: a class or a part would be left with too few images.
    """
    from sklearn.model_selection import train_test_split

    positions = np.arange(len(labels))
    try:
        rest, chosen = train_test_split(positions, test_size=share, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DatasetError(
            f"cannot hold out {share:g} of {len(labels)} images as the {part} set ({error}); "
            "expected at least two images in every class and one of every class on both sides"
        ) from None
    return np.sort(rest), np.sort(chosen)
