"""Survey a dataset without decoding an image: how many images, of what shape, in which parts.

Files are listed and headers read by the loader's own functions, so a forecast describes what will be loaded. Loads no
torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.catalog.datasets import find_dataset
from engine.control import Control, RunControl
from engine.data.exclusion import read_exclusion
from engine.data.layout import ImageFile
from engine.data.own import own_source
from engine.data.own_files import OwnFiles
from engine.data.room import DecodePlan
from engine.paths import Folders
from engine.progress import Progress
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.text import counted

MOST_HEADERS = 20_000
"""Headers to read at most, spread evenly over all files: 2 s. Reached only if all of them have one size."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Shape and numbers of a dataset's images. `notes` are sentences on what was found, as the run will report them.

    `is_exact`: the numbers are published ones; those of files may turn out lower if some do not decode. `decoding` says
    what decoding the files will take; None: nothing, or they are not here yet.
    """

    shape: DataShape
    num_train: int
    num_val: int
    num_test: int
    notes: tuple[str, ...] = ()
    is_exact: bool = True
    decoding: DecodePlan | None = None

    @property
    def num_images(self) -> int:
        return self.num_train + self.num_val + self.num_test

    @property
    def counts(self) -> str:
        """The images of each part, in words."""
        classes = f"{self.shape.num_classes} classes, " if not self.is_exact else ""
        val = f", validation {self.num_val:,}" if self.num_val else ""
        return f"{classes}{'' if self.is_exact else 'about '}train {self.num_train:,}{val}, test {self.num_test:,}"


def survey(spec: RunSpec, folders: Folders | None, control: Control | None = None) -> Generator[Progress, None, Survey]:
    """Survey what `spec` would load; without `folders`, a dataset that is no folder is reported as published.

    Raises:
        DatasetError: the folder is missing, or is not a dataset.
        LoadingStopped: `control` requested a stop.
    """
    found = published(spec)
    if found is None and find_dataset(spec.dataset).is_own:
        found = yield from own_source(spec.dataset).survey(spec, folders, control or RunControl())
    return _with_exclusion(found or _cats_dogs(spec, folders), spec)


def _with_exclusion(found: Survey, spec: RunSpec) -> Survey:
    """Which part an excluded image is in shows only when the images are loaded."""
    exclusion = read_exclusion(spec)
    if exclusion is None:
        return found
    note = f"up to {counted(len(exclusion.hashes), 'image')} less, left out by {exclusion.file}"
    return replace(found, notes=(*found.notes, note), is_exact=False)


def published(spec: RunSpec) -> Survey | None:
    """The numbers of a dataset that is the same everywhere; None if the files must be listed."""
    info = find_dataset(spec.dataset)
    shape = info.spec_shape(spec.image_size)
    if spec.dataset == "cats-dogs" or shape is None or info.num_train is None or info.num_test is None:
        return None
    num_train, num_val = with_val(spec, info.num_train)
    return Survey(shape, num_train, num_val + info.num_val, info.num_test)


def _cats_dogs(spec: RunSpec, folders: Folders | None) -> Survey:
    """The photographs present, in any copy; those of the archive if there are none."""
    from engine.data.cats_dogs import TEST_SHARE, find_files

    info = find_dataset(spec.dataset)
    shape, num_train, num_test = info.spec_shape(spec.image_size), info.num_train, info.num_test
    assert shape is not None
    assert num_train is not None
    assert num_test is not None
    found = find_files(folders.data) if folders is not None else None
    if found is not None:
        counts = _split(found.files, TEST_SHARE)
        note = f"{counted(len(found.files), 'file')} in {found.root}"
        decoding = _decode_plan(spec, [file.path for file in found.files], shape.height, shape.channels, folders)
        return Survey(shape, *with_val(spec, counts["train"]), counts["test"], (note,), False, decoding)
    notes = (f"not in {folders.data} yet: the published archive will be downloaded",) if folders is not None else ()
    return Survey(shape, *with_val(spec, num_train), num_test, notes)


def survey_now(spec: RunSpec, folders: Folders | None) -> Survey:
    """As `survey`, without progress."""
    looking = survey(spec, folders)
    while True:
        try:
            next(looking)
        except StopIteration as end:
            found: Survey = end.value
            return found


def survey_files(
    spec: RunSpec, found: OwnFiles, folders: Folders | None, control: Control
) -> Generator[Progress, None, Survey | None]:
    """Survey listed files, by their headers; None if none of them is an image.

    Raises:
        LoadingStopped: `control` requested a stop.
    """
    from engine.data.sizing import choose_sizing  # loads Pillow and numpy, which the first screen does not need

    sizing = yield from choose_sizing(found.paths, spec.image_size, control, MOST_HEADERS)
    if sizing is None:
        return None
    counts = _split(found.files, spec.test_share)
    num_train, num_val = with_val(spec, counts["train"])
    notes = (*found.notes, *([sizing.note] if sizing.note else []))
    shape = DataShape(sizing.channels, *sizing.height_width, len(found.class_names))
    decoding = _decode_plan(spec, found.paths, sizing.size, sizing.channels, folders)
    return Survey(shape, num_train, num_val + counts["val"], counts["test"], notes, False, decoding)


def _decode_plan(
    spec: RunSpec, paths: Sequence[Path], size: int | None, channels: int, folders: Folders | None
) -> DecodePlan | None:
    if folders is None:
        return None
    from engine.data.cache import ToDecode  # as above
    from engine.data.sampling import plan_decoding

    return plan_decoding(ToDecode(paths, spec.dataset, size, channels), folders.cache)


def _split(files: Iterable[ImageFile], test_share: float) -> Counter[str]:
    return split_counts(((file.part, file.label) for file in files), test_share)


def split_counts(images: Iterable[tuple[str | None, int]], test_share: float) -> Counter[str]:
    """How many images, given as part and class, go into each part; those without a part by the share, rounded as in
    `stratified_groups`.
    """
    counts: Counter[str] = Counter()
    for (part, _), number in Counter(images).items():
        if part is not None:
            counts[part] += number
        else:
            num_test = min(max(round(test_share * number), 1), number - 1)
            counts.update(train=number - num_test, test=num_test)
    return counts


def with_val(spec: RunSpec, num_train: int) -> tuple[int, int]:
    """How many training images remain, and how many are held out for validation."""
    num_val = math.ceil(spec.val_share * num_train)
    return num_train - num_val, num_val
