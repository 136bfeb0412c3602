"""Stratified, seeded splits. The same labels, share and seed give the same split on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.errors import DatasetError
from engine.text import counted

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
            f"cannot hold out {share:g} of {counted(len(labels), 'image')} as the {part} set ({error}); "
            "expected at least two images in every class and one of every class on both sides"
        ) from None
    return np.sort(rest), np.sort(chosen)


def stratified_groups(
    labels: NDArray[np.int64], groups: NDArray[np.int64], share: float, seed: int
) -> NDArray[np.bool_]:
    """Which images go into the test set: about `share` of every class, and of each group all or none.

    Args:
        labels: (N,) class of each image.
        groups: (N,) number of the group of each image; exact duplicates share one.
        share: of each class, between 0 and 1, rounded to whole images.
        seed: the same one gives the same split on every machine.

    Raises:
        DatasetError: a class would be left with no image on one side.
    """
    draws = np.random.default_rng(seed)
    _, first, group_of, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    label_of = labels[first]  # a group that lies in two classes counts for that of its first image
    chosen = np.zeros(len(first), dtype=bool)
    for label in np.unique(label_of):
        order = draws.permutation(np.flatnonzero(label_of == label))
        total = int(sizes[order].sum())
        left = round(share * total)
        for group in order:  # one that is too large for what is left is passed over
            if sizes[group] <= left:
                left -= int(sizes[group])
                chosen[group] = True
    in_test: NDArray[np.bool_] = chosen[group_of]
    for label in np.unique(labels):
        sides = in_test[labels == label]
        if sides.all() or not sides.any():
            raise DatasetError(
                f"cannot hold out {share:g} of {counted(len(sides), 'image')} of a class as the test set; "
                "expected at least one of every class on both sides"
            )
    return in_test
