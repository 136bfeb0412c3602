"""The values that make up a dataset: uint8 images, and the interface of the loaders."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.control import Control
from engine.data.depth import PixelRange
from engine.data.exclusion import Exclusion
from engine.data.manifest import UNUSABLE, FileRecord
from engine.paths import Folders
from engine.progress import Progress
from engine.shape import DataShape
from engine.spec import RunSpec

_CHUNK = 1024
FIRST_RULES, NEWEST_RULES = 1, 2
"""Rules for the layout, sizes and splits of a dataset; a run records its rules and keeps them when resumed.

1: only `train/` and `test/` or `val/`; large images of one size keep it; validation split image by image.
2: layouts as in `engine.data.layout`; large images are resized; exact duplicates on one side of every split.
"""

Resampler = Literal["tensor", "pillow"]
"""What resizes a dataset's images for the network: see `engine.data.resizing`."""


class ImageSource(Protocol):
    """Images that are in no array: each is read and decoded when it is used."""

    def read(self, parts: Iterable[Tensor], pinned: bool, control: Control | None) -> Iterator[Tensor]:
        """The images (n, C, H, W) uint8 at the positions in each of `parts`, read ahead by threads; `pinned`: in
        page-locked memory.

        Raises:
            DatasetError: a file has changed, or is gone.
            LoadingStopped: `control` requested a stop.
        """


@dataclass(frozen=True, slots=True)
class Split:
    """Images (M, C, H, W) uint8 and labels (N,) int64.

    `rows` (N,) int64 are the positions of this split's images if `images` holds others too, usually mapped from a file;
    None: all M = N images are its own. With a `source`, `images` is a tensor without contents that has their shape.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None
    source: ImageSource | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_bytes(self) -> int:
        """Size of the split's own images and labels, wherever they are."""
        return len(self) * self.images[:1].nbytes + self.labels.nbytes

    def is_on(self, device: torch.device) -> bool:
        """Whether batches can be indexed on `device` itself."""
        return self.rows is None and self.images.device == device

    def take(self, indices: Tensor) -> Split:
        """A copy of some images and their labels."""
        return Split(next(self.read([indices])), self.labels[indices])

    def read(self, parts: Sequence[Tensor], pinned: bool = False, control: Control | None = None) -> Iterator[Tensor]:
        """Copies of the images at the positions in each of `parts`. Raises as `ImageSource.read`."""
        rows = [indices if self.rows is None else self.rows[indices] for indices in parts]
        if self.source is not None:
            yield from self.source.read(rows, pinned, control)
            return
        for chosen in rows:
            images = self.images.index_select(0, chosen)
            yield images.pin_memory() if pinned else images

    def part(self, indices: Tensor) -> Split:
        """As `take`, but mapped images are not copied."""
        if self.rows is None:
            return self.take(indices)
        return replace(self, labels=self.labels[indices], rows=self.rows[indices])

    def to(self, device: torch.device) -> Split:
        """The whole split in the memory of `device`."""
        if self.rows is None:
            return Split(self.images.to(device), self.labels.to(device))
        images = torch.empty((len(self), *self.images.shape[1:]), dtype=torch.uint8, device=device)
        for start, chunk in zip(range(0, len(self), _CHUNK), self.chunks(_CHUNK), strict=True):
            images[start : start + _CHUNK] = chunk  # avoids a full copy in host memory
        return Split(images, self.labels.to(device))

    def chunks(self, size: int, control: Control | None = None) -> Iterator[Tensor]:
        """The images, `size` at a time. Raises as `ImageSource.read`."""
        if self.rows is None:
            yield from (self.images[start : start + size] for start in range(0, len(self), size))
        else:
            positions = torch.arange(len(self))
            yield from self.read(
                [positions[start : start + size] for start in range(0, len(self), size)], control=control
            )

    def sha256(self) -> str:
        digest = hashlib.sha256(str((len(self), *self.images.shape[1:])).encode())
        for chunk in self.chunks(_CHUNK):
            digest.update(chunk.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class RawImages:
    """What a loader returns: the parts as stored on disk, possibly already resized.

    `manifest` lists every file, in file order; the usable files of a part are in the order of its images. `val` is set
    if the dataset has its own validation part. `notes` and `shared` are as in `ImageData`. `train_keys` (N,) are equal
    for identical training images; None: compare their pixels. `root` is the folder of the manifest's files.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    manifest: Sequence[FileRecord] = ()
    val: Split | None = None
    notes: tuple[str, ...] = ()
    shared: Mapping[str, int] = field(default_factory=dict)
    train_keys: NDArray[np.str_] | NDArray[np.int64] | None = None
    pixel_range: PixelRange = PixelRange()  # noqa: RUF009
    resampler: Resampler = "tensor"
    root: Path | None = None


@dataclass(frozen=True, slots=True)
class ImageData:
    """A dataset ready to train on. `mean` and `std` per channel, of the training part, for pixels from 0 to 1.

    `train_sha256` covers the images for training and validation and their labels, in order; for files, the files'
    hashes. `notes` are sentences about the dataset for the user; `shared` counts images that two parts have in common
    ({"train and test": 12}); `rules` are those it was read by. `exclusion` is the list of images left out.
    """

    train: Split
    val: Split | None
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    test_sha256: str
    train_sha256: str
    manifest: Sequence[FileRecord] = ()
    notes: tuple[str, ...] = ()
    shared: Mapping[str, int] = field(default_factory=dict)
    rules: int = NEWEST_RULES
    pixel_range: PixelRange = PixelRange()  # noqa: RUF009
    resampler: Resampler = "tensor"
    root: Path | None = None
    exclusion: Exclusion | None = None

    @property
    def num_unusable(self) -> int:
        return sum(record.split == UNUSABLE for record in self.manifest)

    @property
    def is_streamed(self) -> bool:
        """Whether images are decoded as they are used."""
        return self.train.source is not None

    @property
    def shape(self) -> DataShape:
        _, channels, height, width = self.train.images.shape
        return DataShape(channels, height, width, len(self.class_names))

    @property
    def num_bytes(self) -> int:
        return sum(split.num_bytes for split in self._splits)

    @property
    def resident_bytes(self) -> int:
        """Bytes in memory rather than mapped."""
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
