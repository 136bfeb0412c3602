"""Stratified, seeded splits. The same labels, share and seed give the same split on every machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.errors import DatasetError
from engine.text import counted, some_of

Indices = NDArray[np.int64]


def stratified(
    labels: NDArray[np.int64], share: float, seed: int, part: str, names: Sequence[str] = ()
) -> tuple[Indices, Indices]:
    """Split positions into the rest and a `share` of every class; both are sorted.

    Args:
        labels: (N,) class of each image.
        share: of the images that goes into the second part, between 0 and 1; its size is rounded up.
        part: the second part's name in an error message ("test", "val").
        names: of the classes, for an error message.

    Raises:
        DatasetError: a class or a part would be left with too few images.
    """
    from sklearn.model_selection import train_test_split

    positions = np.arange(len(labels))
    try:
        rest, chosen = train_test_split(positions, test_size=share, random_state=seed, stratify=labels)
    except ValueError as error:
        present, counts = np.unique(labels, return_counts=True)
        alone = _names_of(present[counts < 2], names)
        why = f"{some_of(alone)} {'has' if len(alone) == 1 else 'have'} only one" if alone else str(error)
        raise DatasetError(
            f"cannot hold out {share:g} of {counted(len(labels), 'image')} as the {part} set ({why}); "
            "expected at least two images in every class, one for each side"
        ) from None
    return np.sort(rest), np.sort(chosen)


def split_off_val(
    labels: NDArray[np.int64], groups: NDArray[np.int64], share: float, seed: int, names: Sequence[str]
) -> tuple[Indices, Indices]:
    """As `stratified`, with exact duplicates on one side; identical to `stratified` without duplicates.

    Args:
        groups: (N,) group number of each image; exact duplicates share one.
    """
    if len(np.unique(groups)) == len(labels):
        return stratified(labels, share, seed, "val", names)
    in_val = stratified_groups(labels, groups, share, seed, names, "val")
    return np.flatnonzero(~in_val), np.flatnonzero(in_val)


def stratified_groups(
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    share: float,
    seed: int,
    names: Sequence[str] = (),
    part: str = "test",
) -> NDArray[np.bool_]:
    """Which images go into the test set: about `share` of every class, and all or none of each group.

    Args:
        labels: (N,) class of each image.
        groups: (N,) number of the group of each image; exact duplicates share one.
        share: of each class, between 0 and 1, rounded to whole images, at least one and not all.
        seed: the same one gives the same split on every machine.
        names: of the classes, for an error message.
        part: the second part's name in an error message.

    Raises:
        DatasetError: a class would be left with no image on one side.
    """
    rng = np.random.default_rng(seed)
    _, first, group_of, sizes = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    label_of = labels[first]  # a group in two classes counts for that of its first image
    chosen = np.zeros(len(first), dtype=bool)
    for label in np.unique(label_of):
        order = rng.permutation(np.flatnonzero(label_of == label))
        chosen[_chosen_of(order, sizes, share)] = True
    in_test: NDArray[np.bool_] = chosen[group_of]
    empty = [label for label in np.unique(labels) if len(np.unique(in_test[labels == label])) < 2]
    if empty:
        raise DatasetError(
            f"cannot hold out {share:g} of the images of {some_of(_names_of(np.array(empty), names))} as the {part} "
            "set; expected at least two different images in every class, one for each side"
        )
    return in_test


def _chosen_of(order: Indices, sizes: Indices, share: float) -> list[int]:
    """Choose groups of one class, in the order drawn, that make up the share; or the smallest one if every group is
    larger.
    """
    total = int(sizes[order].sum())
    left = min(max(round(share * total), 1), total - 1)
    chosen = []
    for group in order:  # skip a group that is too large for what is left
        if sizes[group] <= left:
            left -= int(sizes[group])
            chosen.append(int(group))
    if not chosen and len(order) > 1:
        chosen.append(int(order[sizes[order].argmin()]))
    return chosen


def _names_of(labels: NDArray[np.int64], names: Sequence[str]) -> list[str]:
    return [names[label] if names else f"class {label}" for label in labels.tolist()]
