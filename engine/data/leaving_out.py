"""Apply an exclude list to a dataset that is already split and resized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.data.duplicates import (
    count_shared,
    empty_classes_notes,
    groups_of,
    pixel_hashes,
    shared_notes,
    two_classes_note,
)
from engine.data.exclusion import Exclusion, marked
from engine.data.images import RawImages, Split
from engine.data.manifest import FileRecord
from engine.errors import DatasetError
from engine.text import some_of

_PARTS = ("train", "val", "test")
Hashes = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a dataset, its manifest, and what to say about it."""

    train: Split
    val: Split | None
    test: Split
    manifest: Sequence[FileRecord]
    notes: tuple[str, ...]
    shared: Mapping[str, int]

    @property
    def splits(self) -> dict[str, Split]:
        found = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}


def image_hashes(raw: RawImages, manifest: Sequence[FileRecord], val_rows: NDArray[np.int64] | None) -> Hashes:
    """The hash of each image of each part: of its file, else of its pixels before any resizing. `val_rows` are the
    positions in `raw.train` that were held out for validation.
    """
    if manifest:
        return {part: [record.sha256 for record in manifest if record.split == part] for part in _PARTS}
    found = {"train": pixel_hashes(raw.train), "val": pixel_hashes(raw.val) if raw.val else []}
    if val_rows is not None:
        held_out = set(val_rows.tolist())
        found["val"] = [found["train"][row] for row in val_rows.tolist()]
        found["train"] = [sha256 for row, sha256 in enumerate(found["train"]) if row not in held_out]
    return {**found, "test": pixel_hashes(raw.test)}


def without_excluded(
    parts: Parts, hashes: Hashes, exclusion: Exclusion, class_names: Sequence[str], name: str
) -> Parts:
    """The dataset without the images that `exclusion` names.

    Raises:
        DatasetError: a class would be left without training images, or a part without any.
    """
    kept = {part: exclusion.kept(hashes[part]) for part in parts.splits}
    splits = {part: split.part(torch.tensor(kept[part], dtype=torch.int64)) for part, split in parts.splits.items()}
    if empty := [part for part, split in splits.items() if not len(split)]:
        raise DatasetError(f"exclude: {exclusion.file} leaves no {empty[0]} image of {name}; expected some")
    counts = torch.bincount(splits["train"].labels, minlength=len(class_names)).tolist()
    if gone := [class_names[number] for number, count in enumerate(counts) if not count]:
        raise DatasetError(f"exclude: {exclusion.file} leaves no training image of {some_of(gone)}; expected some")
    left = {part: [hashes[part][row] for row in kept[part]] for part in splits}
    outdated = _content_notes(hashes, parts.splits, class_names)
    notes = (
        *(note for note in parts.notes if note not in outdated),
        *_content_notes(left, splits, class_names),
        exclusion.note({part: hashes[part] for part in splits}),
    )
    manifest = marked(parts.manifest, exclusion)
    return Parts(splits["train"], splits.get("val"), splits["test"], manifest, notes, _shared(left, splits))


def _shared(hashes: Hashes, splits: Mapping[str, Split]) -> Mapping[str, int]:
    return count_shared({part: np.array(hashes[part], dtype=np.str_) for part in splits})


def _content_notes(hashes: Hashes, splits: Mapping[str, Split], class_names: Sequence[str]) -> tuple[str, ...]:
    """What depends on which images there are: shared ones, ones in two classes, parts that lack a class."""
    everything = np.array([sha256 for part in splits for sha256 in hashes[part]], dtype=np.str_)
    labels = {part: split.labels.numpy() for part, split in splits.items()}
    conflicting = two_classes_note(groups_of(everything), np.concatenate(list(labels.values())))
    return (
        *shared_notes(_shared(hashes, splits)),
        *([conflicting] if conflicting else []),
        *empty_classes_notes(class_names, labels),
    )
