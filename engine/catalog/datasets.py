"""The table of datasets: what the menus show before torch is loaded.

A row names the function that loads the dataset; nothing here imports it. A new dataset is one row and, if no existing
source can read it, one loader in `engine.data`. A kind of dataset, named by a prefix and a path (`folder:PATH`), is one
row of `KINDS` and one module in `engine.data` (`engine.data.own` says which functions it has).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from engine.catalog.inside import ARCHIVE, names_inside
from engine.catalog.installed import PROVIDED_NAME, find_provided, provided
from engine.catalog.medmnist import MEDSETS, PREFIX, SIZES, find_medset
from engine.code_reference import CODE_REFERENCE
from engine.errors import SpecError, unknown_name
from engine.paths import expand
from engine.shape import DataShape


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """One row of the menu.

    `shape` is the native shape, None if only the images can tell; `loader` is "module:function", a function as in
    `engine.data.images.Loader`. `num_train`, `num_val` and `num_test` are images of the published split.
    `is_of_files`: its images are files rather than arrays that are read as a whole.

    The row of a kind has a `prefix`, after which its datasets' names have a path; `example` is such a name, and
    `pattern` the regular expression of paths that belong to the kind without its prefix ("": folders). `is_provided`:
    the row of datasets that other packages provide (`engine.catalog.installed`).
    """

    name: str
    title: str
    loader: str
    shape: DataShape | None = None
    num_train: int | None = None
    num_test: int | None = None
    num_val: int = 0
    downloads: bool = False
    is_of_files: bool = False
    prefix: str = ""
    example: str = ""
    pattern: str = ""
    is_provided: bool = False

    @property
    def is_own(self) -> bool:
        """Whether the images are the user's own, at a path, or another package's: only a module of their kind knows
        them.
        """
        return bool(self.prefix) or self.is_provided

    @property
    def num_images(self) -> int | None:
        if self.num_train is None or self.num_test is None:
            return None
        return self.num_train + self.num_val + self.num_test

    def spec_shape(self, image_size: int | None) -> DataShape | None:
        """The shape after resizing to `image_size` pixels (None: native)."""
        if self.shape is None or image_size is None:
            return self.shape
        return DataShape(self.shape.channels, image_size, image_size, self.shape.num_classes)


_TORCHVISION = "engine.data.torchvision_sets:load"

DATASETS: tuple[DatasetInfo, ...] = (
    DatasetInfo("digits", "scikit-learn's 8×8 digits, built in", "engine.data.digits:load",
                DataShape(1, 8, 8, 10), 1437, 360),
    DatasetInfo("mnist", "handwritten digits (LeCun et al.)", _TORCHVISION,
                DataShape(1, 28, 28, 10), 60000, 10000, downloads=True),
    DatasetInfo("fashion-mnist", "Zalando's clothing", _TORCHVISION,
                DataShape(1, 28, 28, 10), 60000, 10000, downloads=True),
    DatasetInfo("cifar10", "tiny photographs, 10 classes", _TORCHVISION,
                DataShape(3, 32, 32, 10), 50000, 10000, downloads=True),
    DatasetInfo("cifar100", "tiny photographs, 100 classes", _TORCHVISION,
                DataShape(3, 32, 32, 100), 50000, 10000, downloads=True),
    DatasetInfo("cats-dogs", "photographs (Microsoft, Kaggle)", "engine.data.cats_dogs:load",
                DataShape(3, 224, 224, 2), 17500, 7500, downloads=True, is_of_files=True),
    DatasetInfo("oxford-pets", "cats and dogs of 37 breeds (Oxford)", "engine.data.oxford_pets:load",
                DataShape(3, 224, 224, 2), 3680, 3669, downloads=True, is_of_files=True),
)  # fmt: skip

MEDMNIST = DatasetInfo(
    f"{PREFIX}NAME",
    f"biomedical images such as {PREFIX}breast:64, {len(MEDSETS)} sets of {SIZES[0]} to {SIZES[-1]} pixels",
    "engine.data.medmnist:load",
    downloads=True,
)
"""Stands for all of MedMNIST's sets in lists and messages."""

FOLDER = DatasetInfo("folder:PATH", "your own images, one folder a class", "engine.data.folder:load", is_of_files=True,
                     prefix="folder:", example="folder:~/pictures with one folder a class")  # fmt: skip

CODE = DatasetInfo("code:FILE.py:NAME", "your own Python function that returns images", "engine.data.own_code:load",
                   prefix="code:", example="code:./data.py:load", pattern=r"\.py:[A-Za-z_]\w*$")  # fmt: skip
PACKAGE = DatasetInfo("PACKAGE:NAME", "from another installed package", "engine.data.own_code:load", is_provided=True)

KINDS: tuple[DatasetInfo, ...] = (
    FOLDER,
    DatasetInfo("csv:FILE", "your own images, a table of paths and labels", "engine.data.table:load", is_of_files=True,
                prefix="csv:", example="csv:labels.csv with columns path and label", pattern=r"\.(csv|tsv|parquet)$"),
    DatasetInfo("npz:FILE", "your own images, arrays as MedMNIST has them", "engine.data.npz:load", prefix="npz:",
                example="npz:set.npz with train_images and train_labels", pattern=r"\.npz$"),
    CODE,
)  # fmt: skip
"""Kinds of the user's own datasets, each named by its prefix and a path."""


def find_dataset(name: str) -> DatasetInfo:
    """The row for `name`: a name from the table, or a kind's prefix and a path, such as `folder:PATH`.

    Raises:
        SpecError: there is no such dataset.
    """
    if (kind := kind_of(name)) is not None:
        if not name.removeprefix(kind.prefix).strip():
            raise SpecError(f"{kind.prefix} needs a path, such as {kind.example}", "dataset")
        return kind
    if name.startswith(PREFIX):
        return _medmnist(name)
    for info in DATASETS:
        if info.name == name:
            return info
    if PROVIDED_NAME.fullmatch(name) or find_provided("datasets", name):
        return PACKAGE
    raise unknown_name("dataset", name, [info.name for info in (*DATASETS, MEDMNIST, *KINDS)], "dataset")


def _medmnist(name: str) -> DatasetInfo:
    """The row of `medmnist:NAME[:SIZE]`."""
    found, size = find_medset(name)
    num_train, num_val, num_test = found.counts
    shape = DataShape(found.channels, size, size, len(found.class_names))
    return DatasetInfo(
        name, found.title, MEDMNIST.loader, shape, num_train, num_test, num_val=num_val, downloads=True
    )  # fmt: skip


def provided_datasets() -> tuple[DatasetInfo, ...]:
    """The rows of datasets that installed packages provide. Reads the entry points."""
    return tuple(replace(PACKAGE, name=one.full_name, title=one.title) for one in provided("datasets"))


def kind_of(name: str) -> DatasetInfo | None:
    """The kind that `name` belongs to by its prefix; None for every other name."""
    return next((kind for kind in KINDS if name.startswith(kind.prefix)), None)


def absolute_dataset(name: str) -> str:
    """`name` with its prefix and an absolute path, so that it means the same from any directory.

    A path alone gets the prefix of its kind: `./pictures` is a folder, an archive what it holds. A name of the table,
    and a text that is neither a name nor a path, are returned unchanged.
    """
    kind = kind_of(name)
    if kind is None and os.sep not in name and not _is_in_table(name) and (found := find_provided("datasets", name)):
        return found.full_name
    if kind is None and (kind := _kind_of_path(name)) is not None:
        name = f"{kind.prefix}{name}"
    if kind is None or not name.removeprefix(kind.prefix).strip():
        return name
    path = own_path(name)
    return f"{kind.prefix}{path.resolve() if '..' in path.parts else path}"


def _kind_of_path(text: str) -> DatasetInfo | None:
    """The kind of a path without a prefix: anything with a separator, or the name of an existing file or folder."""
    if _is_in_table(text) or not text.strip():
        return None
    path = expand(text)
    if os.sep not in text and not path.exists() and not CODE_REFERENCE.fullmatch(text):
        return None
    names = [path.name]
    if ARCHIVE.search(path.name) and path.is_file():
        names = [name for name in names_inside(path) if "/" not in name]
    for kind in KINDS:
        if kind.pattern and sum(re.search(kind.pattern, name, re.IGNORECASE) is not None for name in names) == 1:
            return kind
    return FOLDER


def _is_in_table(name: str) -> bool:
    return any(info.name == name for info in DATASETS)


def own_path(name: str) -> Path:
    """The path in the name of a user's own dataset, absolute, with `~` expanded."""
    kind = kind_of(name)
    return expand(name.removeprefix(kind.prefix) if kind else name).absolute()


def short_name(name: str) -> str:
    """A dataset's name for a narrow column: of a user's own, the last part of its path."""
    return name if kind_of(name) is None else own_path(name).name
