"""From a list of image files to a dataset: decoded through the cache, split without shared duplicates, with a
manifest.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.control import Control
from engine.data.cache import decoded
from engine.data.duplicates import count_shared, empty_classes_notes, groups_of, shared_notes, two_classes_note
from engine.data.images import RawImages, Split
from engine.data.layout import ImageFile, SplitRole
from engine.data.manifest import UNUSABLE, FileRecord, left_out_by_kind, left_out_text
from engine.data.splits import stratified_groups
from engine.errors import DatasetError
from engine.progress import Progress
from engine.text import some_of

_Texts = NDArray[np.str_]
_WORDS: dict[SplitRole, str] = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class Source:
    """What to decode, and how. Names in the manifest are relative to `root`.

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

    def name_of(self, path: Path) -> str:
        """The file's name in the manifest: a table may list files outside its folder, which keep their whole path."""
        return str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)


def load_files(
    source: Source, test_share: float, split_seed: int, cache: Path, control: Control
) -> Generator[Progress, None, RawImages]:
    """Decode and split. Files that the dataset assigns to a part stay there; the others are split by `test_share`.

    Raises:
        DatasetError: nothing can be read, a class has too few usable images, or a part has none.
        LoadingStopped: `control` requested a stop.
    """
    paths = [file.path for file in source.files]
    found = yield from decoded(paths, source.name, source.size, source.channels, cache, control)
    usable = [file for file, fact in zip(source.files, found.facts, strict=True) if fact.problem is None]
    hashes = np.array([fact.sha256 for fact in found.facts if fact.problem is None], dtype=np.str_)
    labels = np.array([file.label for file in usable], dtype=np.int64)
    manifest = [
        FileRecord(
            file=source.name_of(file.path),
            sha256=fact.sha256,
            class_name=source.class_names[file.label],
            split=UNUSABLE,
            problem=fact.problem,
        )
        for file, fact in zip(source.files, found.facts, strict=True)
    ]
    if not usable:
        kinds = left_out_by_kind([*manifest, *source.left_out])
        raise DatasetError(
            f"no image in {source.root} can be read ({left_out_text(kinds) or 'it holds no file'}); expected images "
            "such as JPEG or PNG"
        )
    parts = _choose_parts(source, usable, labels, groups_of(hashes), test_share, split_seed)
    remaining = iter(parts.tolist())
    listed = [record if record.problem else replace(record, split=next(remaining)) for record in manifest]
    splits: dict[str, Split] = {
        part: _take(found.images, labels, np.flatnonzero(parts == part)) for part in _WORDS if part in parts
    }
    keys = {part: hashes[parts == part] for part in splits}
    shared = count_shared(keys)
    notes = (*source.notes, *shared_notes(shared), *_notes(source, labels, hashes, parts))
    return RawImages(
        splits["train"], splits["test"], source.class_names, (*listed, *source.left_out), splits.get("val"), notes,
        shared, keys["train"], found.pixel_range, "pillow", source.root,
    )  # fmt: skip


def _notes(source: Source, labels: NDArray[np.int64], hashes: _Texts, parts: _Texts) -> tuple[str, ...]:
    found = two_classes_note(groups_of(hashes), labels)
    empty = empty_classes_notes(source.class_names, {part: labels[parts == part] for part in np.unique(parts)})
    return (*([found] if found else []), *empty)


def _take(images: NDArray[np.uint8], labels: NDArray[np.int64], chosen: NDArray[np.int64]) -> Split:
    """The images stay mapped in their file; the run decides whether they fit into memory."""
    return Split(torch.from_numpy(images), torch.from_numpy(labels[chosen]), torch.from_numpy(chosen))


def _choose_parts(
    source: Source, files: Sequence[ImageFile], labels: NDArray[np.int64], groups: NDArray[np.int64], share: float,
    seed: int,
) -> _Texts:  # fmt: skip
    """(N,) the part of each usable file, as the dataset assigns it, or split by `share`."""
    if any(file.part for file in source.files):
        parts = np.array([file.part for file in files], dtype=np.str_)
        for part in dict.fromkeys(file.part for file in source.files if file.part):
            if part not in parts:
                raise DatasetError(f"the {_WORDS[part]} part of {source.root} has no usable image; expected some")
        _check_classes(labels[parts == "train"], source, 1, "training image")
        return parts
    _check_classes(labels, source, 2, "usable image")
    in_test = stratified_groups(labels, groups, share, seed, source.class_names)
    return np.where(in_test, "test", "train")


def _check_classes(labels: NDArray[np.int64], source: Source, least: int, what: str) -> None:
    """Raises DatasetError naming the classes with fewer than `least` images."""
    counts = np.bincount(labels, minlength=len(source.class_names))
    poor = [f"{name} ({n})" for name, n in zip(source.class_names, counts.tolist(), strict=True) if n < least]
    if poor:
        raise DatasetError(
            f"too few {what}s in {source.root}: {some_of(poor)}; expected at least {'one' if least == 1 else 'two'} in "
            "every class: add some, or leave such classes out"
        )
