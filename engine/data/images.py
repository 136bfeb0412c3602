"""The values that datasets are made of: uint8 images in memory, and progress on the way there."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.control import Control
from engine.data.depth import PixelRange
from engine.data.manifest import UNUSABLE, FileRecord
from engine.paths import Folders
from engine.progress import Progress
from engine.shape import DataShape
from engine.spec import RunSpec

_CHUNK = 1024
FIRST_RULES, NEWEST_RULES = 1, 2
"""How a dataset is laid out, sized and split; a run records by which rules, and goes on by them.

1: `train/` and `test/` or `val/` alone, large images of one size as they are, validation split image by image.
2: layouts as `engine.data.layout` has them, large images resized, exact duplicates on one side of every split.
"""

Resampler = Literal["tensor", "pillow"]
"""What brings a dataset's images to the size of the network: see `engine.data.resizing`."""


@dataclass(frozen=True, slots=True)
class Split:
    """Images (M, C, H, W) uint8 and labels (N,) int64.

    `rows` (N,) int64 names the images that are this split's where they lie among others, most likely in a file that
    is mapped into memory; None: they are its own, M is N.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_bytes(self) -> int:
        """Of the split's own images and labels, wherever they lie."""
        return len(self) * self.images[:1].nbytes + self.labels.nbytes

    def is_on(self, device: torch.device) -> bool:
        """Whether a batch can be picked out on `device` itself."""
        return self.rows is None and self.images.device == device

    def take(self, indices: Tensor) -> Split:
        """A copy of some images and their labels."""
        rows = indices if self.rows is None else self.rows[indices]
        return Split(self.images.index_select(0, rows), self.labels[indices])

    def part(self, indices: Tensor) -> Split:
        """As `take`, but mapped images stay where they are."""
        if self.rows is None:
            return self.take(indices)
        return Split(self.images, self.labels[indices], self.rows[indices])

    def to(self, device: torch.device) -> Split:
        """All of it in the memory of `device`."""
        if self.rows is None:
            return Split(self.images.to(device), self.labels.to(device))
        images = torch.empty((len(self), *self.images.shape[1:]), dtype=torch.uint8, device=device)
        for start, chunk in zip(range(0, len(self), _CHUNK), self.chunks(_CHUNK), strict=True):
            images[start : start + _CHUNK] = chunk  # never all of it in the host's memory as well
        return Split(images, self.labels.to(device))

    def chunks(self, size: int) -> Iterator[Tensor]:
        """The images, `size` at a time."""
        for start in range(0, len(self), size):
            yield (
                self.images[start : start + size] if self.rows is None else self.images[self.rows[start : start + size]]
            )

    def sha256(self) -> str:
        digest = hashlib.sha256(str((len(self), *self.images.shape[1:])).encode())
        for chunk in self.chunks(_CHUNK):
            digest.update(chunk.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class RawImages:
    """What a loader returns: the two parts as they lie on disk, perhaps already at the size asked for.

    `manifest` names every file, in the order of the files; the usable ones of a part in the order of its images. `val`
    is there where the dataset has a validation part of its own. `notes` and `shared` are as in `ImageData`.
    `train_keys` (N,) are equal where training images are the same; None: compare their pixels.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    manifest: tuple[FileRecord, ...] = ()
    val: Split | None = None
    notes: tuple[str, ...] = ()
    shared: Mapping[str, int] = field(default_factory=dict)
    train_keys: NDArray[np.str_] | NDArray[np.int64] | None = None
    pixel_range: PixelRange = PixelRange()  # noqa: RUF009
    resampler: Resampler = "tensor"


@dataclass(frozen=True, slots=True)
class ImageData:
    """A dataset ready to train on. `mean` and `std` per channel, of the training part, for pixels from 0 to 1.

    `train_sha256` is of the images for training and validation and of their labels, in their order; of their files,
    where they are files. `notes` are sentences about the dataset that a person should read; `shared` counts the images
    that two parts have in common ({"train and test": 12}); `rules` says by which it was read.
    """

    train: Split
    val: Split | None
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    test_sha256: str
    train_sha256: str
    manifest: tuple[FileRecord, ...] = ()
    notes: tuple[str, ...] = ()
    shared: Mapping[str, int] = field(default_factory=dict)
    rules: int = NEWEST_RULES
    pixel_range: PixelRange = PixelRange()  # noqa: RUF009
    resampler: Resampler = "tensor"

    @property
    def num_unusable(self) -> int:
        return sum(record.split == UNUSABLE for record in self.manifest)

    @property
    def shape(self) -> DataShape:
        _, channels, height, width = self.train.images.shape
        return DataShape(channels, height, width, len(self.class_names))

    @property
    def num_bytes(self) -> int:
        return sum(split.num_bytes for split in self._splits)

    @property
    def resident_bytes(self) -> int:
        """What of it is in memory, rather than mapped."""
        return sum(split.num_bytes if split.rows is None else split.labels.nbytes for split in self._splits)

    @property
    def _splits(self) -> list[Split]:
        return [split for split in (self.train, self.val, self.test) if split is not None]


class Loader(Protocol):
    """A source of images: a generator that yields progress and returns the images.

    Raises:
        DatasetError: the images are missing or unusable; the text says where they were expected.
        LoadingStopped: `control` requested a stop.
    """

    def __call__(self, spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]: ...
