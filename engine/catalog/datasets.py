"""The table of datasets: what the menus show before torch is loaded.

A row names the function that loads the dataset; nothing here imports it. A new dataset is one row and, if no existing
source can read it, one loader in `engine.data`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engine.errors import SpecError, unknown_name
from engine.paths import expand
from engine.shape import DataShape

FOLDER_PREFIX = "folder:"


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """One row of the menu.

    `shape` is the native shape, None if only the images can tell; `loader` is "module:function", a function as in
    `engine.data.images.Loader`. `num_train` and `num_test` are images of the published split. `is_of_files`: its images
    are files rather than arrays that are read as a whole.
    """

    name: str
    title: str
    loader: str
    shape: DataShape | None = None
    num_train: int | None = None
    num_test: int | None = None
    downloads: bool = False
    is_of_files: bool = False

    @property
    def num_images(self) -> int | None:
        return None if self.num_train is None or self.num_test is None else self.num_train + self.num_test

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

FOLDER = DatasetInfo("folder:PATH", "your own images, one folder a class", "engine.data.folder:load", is_of_files=True)


def find_dataset(name: str) -> DatasetInfo:
    """The row for `name`, a name from the table or `folder:PATH`.

    Raises:
        SpecError: there is no such dataset.
    """
    if name.startswith(FOLDER_PREFIX):
        if not name.removeprefix(FOLDER_PREFIX).strip():
            raise SpecError("folder: needs a path, such as folder:~/pictures with one folder a class", "dataset")
        return FOLDER
    for info in DATASETS:
        if info.name == name:
            return info
    raise unknown_name("dataset", name, [*(info.name for info in DATASETS), FOLDER.name], "dataset")


def absolute_dataset(name: str) -> str:
    """`name` with an absolute folder path, so that it means the same from any directory."""
    if not name.removeprefix(FOLDER_PREFIX).strip() or not name.startswith(FOLDER_PREFIX):
        return name
    path = folder_path(name)
    return f"{FOLDER_PREFIX}{path.resolve() if '..' in path.parts else path}"


def folder_path(name: str) -> Path:
    """The folder of a `folder:PATH` name, with `~` expanded."""
    return expand(name.removeprefix(FOLDER_PREFIX)).absolute()
