"""From a list of image files to a dataset: decoded through the cache, split, no duplicate on both sides; a manifest."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from engine.control import Control
from engine.datasets.cache import decoded
from engine.datasets.images import RawImages, Split
from engine.datasets.manifest import FileRecord
from engine.datasets.splits import stratified_groups
from engine.errors import DatasetError
from engine.progress import Progress
from engine.text import counted

Part = Literal["train", "test"]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file and its class; `part` where the dataset says to which part it belongs."""

    path: Path
    label: int
    part: Part | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What is decoded, and how: `root` is what the manifest's names are relative to."""

    name: str
    root: Path
    files: Sequence[ImageFile]
    class_names: tuple[str, ...]
    size: int | None
    channels: int


def load_files(
    source: Source, test_share: float, split_seed: int, cache: Path, control: Control
) -> Generator[Progress, None, RawImages]:
    """Decode and split. Files that the dataset assigns to a part stay there; the others are split by `test_share`.

    Raises:
        DatasetError: a class has fewer than two usable images, or a part has none.
        LoadingStopped: `control` asked for a stop.
    """
    paths = [file.path for file in source.files]
    found = yield from decoded(paths, source.name, source.size, source.channels, cache, control)
    usable = [file for file, fact in zip(source.files, found.facts, strict=True) if fact.problem is None]
    hashes = [fact.sha256 for fact in found.facts if fact.problem is None]
    labels = np.array([file.label for file in usable], dtype=np.int64)
    _check_classes(labels, source)
    in_test = _choose_test(usable, labels, hashes, test_share, split_seed)
    if in_test.all() or not in_test.any():
        raise DatasetError(f"the {'training' if in_test.all() else 'test'} part of {source.name} has no usable image")
    train, test = (_take(found.images, labels, np.flatnonzero(side)) for side in (~in_test, in_test))
    names = {id(file): "test" if side else "train" for file, side in zip(usable, in_test, strict=True)}
    manifest = tuple(
        FileRecord(
            file=str(file.path.relative_to(source.root)),
            sha256=fact.sha256,
            class_name=source.class_names[file.label],
            split=names.get(id(file), "unusable"),
            problem=fact.problem,
        )
        for file, fact in zip(source.files, found.facts, strict=True)
    )
    return RawImages(train, test, source.class_names, manifest)


def _take(images: NDArray[np.uint8], labels: NDArray[np.int64], chosen: NDArray[np.int64]) -> Split:
    """The images stay in their file, mapped: the run knows whether there is room for them in memory."""
    return Split(torch.from_numpy(images), torch.from_numpy(labels[chosen]), torch.from_numpy(chosen))


def _check_classes(labels: NDArray[np.int64], source: Source) -> None:
    counts = np.bincount(labels, minlength=len(source.class_names))
    if (counts < 2).any():
        name = source.class_names[int(counts.argmin())]
        raise DatasetError(
            f"class {name} of {source.root} has {counted(counts.min(), 'usable image')}; expected at least two"
        )


def _choose_test(
    files: Sequence[ImageFile], labels: NDArray[np.int64], hashes: Sequence[str], share: float, seed: int
) -> NDArray[np.bool_]:
    if all(file.part is not None for file in files):
        return np.array([file.part == "test" for file in files])
    _, groups = np.unique(hashes, return_inverse=True)
    return stratified_groups(labels, groups, share, seed)
