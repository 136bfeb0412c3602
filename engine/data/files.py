"""From a list of image files to a dataset: decoded through the cache, split without shared duplicates, with a
manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.control import Control
from engine.data.cache import ToDecode, counted, kept
from engine.data.columns import FactTable, FileTable, ManifestTable
from engine.data.depth import PixelRange
from engine.data.duplicates import Keys, count_shared, empty_classes_notes, groups_of, shared_notes, two_classes_note
from engine.data.images import RawImages, Split
from engine.data.layout import ImageFile, SplitRole
from engine.data.manifest import FileRecord, left_out_by_kind, left_out_text
from engine.data.sampling import plan_decoding
from engine.data.splits import stratified_groups
from engine.data.streaming import FileImages
from engine.errors import DatasetError
from engine.progress import Progress
from engine.text import some_of

_Texts = NDArray[np.str_]
_WORDS: dict[SplitRole, str] = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class Source:
    """What to decode, and how. Names in the manifest are relative to `root`; a table may list files outside its folder,
    which keep their whole path.

    `left_out` are files skipped without opening them, `notes` sentences about the dataset.
    """

    name: str
    root: Path
    files: Sequence[ImageFile]
    class_names: tuple[str, ...]
    size: int | None
    channels: int
    left_out: Sequence[FileRecord] = ()
    notes: tuple[str, ...] = ()


def load_files(
    source: Source, test_share: float, split_seed: int, cache: Path, control: Control
) -> Generator[Progress, None, RawImages]:
    """Decode and split. Files that the dataset assigns to a part stay there; the others are split by `test_share`.

    Raises:
        DatasetError: nothing can be read, a class has too few usable images, or a part has none.
        LoadingStopped: `control` requested a stop.
    """
    files = FileTable.of(source.root, source.files)
    found = yield from _read(ToDecode(files.paths, source.name, source.size, source.channels), cache, control)
    facts, usable = found.facts, found.facts.usable
    if not len(usable):
        listed = ManifestTable.build(files, facts, source.class_names, np.array([]), source.left_out)
        raise DatasetError(
            f"no image in {source.root} can be read ({left_out_text(left_out_by_kind(listed)) or 'it holds no file'}); "
            "expected images such as JPEG or PNG"
        )
    labels, given, groups = files.labels[usable], files.given, groups_of(facts.hashes[usable])
    if given.any():
        parts = _given_parts(source, labels, given, given[usable])
    else:
        _check_classes(labels, source, 2, "usable image")
        in_test = stratified_groups(labels, groups, test_share, split_seed, source.class_names)
        parts = np.where(in_test, "test", "train")
    splits = {part: found.split(labels, np.flatnonzero(parts == part)) for part in _WORDS if part in parts}
    keys: dict[str, Keys] = {part: groups[parts == part] for part in splits}
    shared = count_shared(keys)
    notes = (*source.notes, *found.notes, *shared_notes(shared), *_notes(source, labels, groups, parts))
    manifest = ManifestTable.build(files, facts, source.class_names, parts, source.left_out)
    return RawImages(
        splits["train"], splits["test"], source.class_names, manifest, splits.get("val"), notes, shared, keys["train"],
        found.pixel_range, "pillow", source.root,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Read:
    """What is known of all files, and `take`, which makes the split of some usable images and their labels."""

    facts: FactTable
    pixel_range: PixelRange
    take: Callable[[Tensor, Tensor], Split]
    notes: tuple[str, ...] = ()

    def split(self, labels: NDArray[np.int64], chosen: NDArray[np.int64]) -> Split:
        return self.take(torch.from_numpy(labels[chosen]), torch.from_numpy(chosen))


def _read(what: ToDecode, cache: Path, control: Control) -> Generator[Progress, None, _Read]:
    """Decode the images once, or, if they do not fit on disk, find out what the split needs to know. What that takes is
    said first.
    """
    plan = plan_decoding(what, cache)
    if plan is not None and plan.is_worth_saying:
        yield Progress("decode", 0, plan.num_files, "images", plan.words)
    if plan is None or not plan.is_streamed:
        found = yield from kept(what, cache, control)
        images = torch.from_numpy(found.images)  # stays mapped; the run decides whether it fits into memory
        return _Read(found.facts, found.pixel_range, partial(Split, images))
    first = yield from counted(what, cache, control)
    return _Read(first.facts, first.pixel_range, FileImages.of(what, first).split, (plan.note,))


def _notes(source: Source, labels: NDArray[np.int64], groups: NDArray[np.int64], parts: _Texts) -> tuple[str, ...]:
    found = two_classes_note(groups, labels)
    empty = empty_classes_notes(source.class_names, {part: labels[parts == part] for part in np.unique(parts)})
    return (*([found] if found else []), *empty)


def _given_parts(source: Source, labels: NDArray[np.int64], given: _Texts, parts: _Texts) -> _Texts:
    """`parts` (N,) of the usable files, as the dataset assigns them, checked against those `given` for all files."""
    for part in _WORDS:
        if part in given and part not in parts:
            raise DatasetError(f"the {_WORDS[part]} part of {source.root} has no usable image; expected some")
    _check_classes(labels[parts == "train"], source, 1, "training image")
    return parts


def _check_classes(labels: NDArray[np.int64], source: Source, least: int, what: str) -> None:
    """Raises DatasetError naming the classes with fewer than `least` images."""
    counts = np.bincount(labels, minlength=len(source.class_names))
    poor = [f"{name} ({n})" for name, n in zip(source.class_names, counts.tolist(), strict=True) if n < least]
    if poor:
        raise DatasetError(
            f"too few {what}s in {source.root}: {some_of(poor)}; expected at least {'one' if least == 1 else 'two'} in "
            "every class: add some, or leave such classes out"
        )
