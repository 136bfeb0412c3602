"""The values that datasets are made of: uint8 images in memory, and progress on the way there."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engine.control import Control
from engine.paths import Places
from engine.progress import Progress
from engine.shape import DataShape
from engine.spec import RunSpec


@dataclass(frozen=True, slots=True)
class Split:
    """Images (N, C, H, W) uint8 and their labels (N,) int64, both on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_bytes(self) -> int:
        return self.images.nbytes + self.labels.nbytes

    def take(self, indices: Tensor) -> Split:
        return Split(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> Split:
        return Split(self.images.to(device), self.labels.to(device))

    def sha256(self) -> str:
        digest = hashlib.sha256(str(tuple(self.images.shape)).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of the manifest. `split` is train, val, test or unusable; `problem` says why it is unusable."""

    file: str
    sha256: str
    class_name: str
    split: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class RawImages:
    """What a loader returns: the two parts as they lie on disk, perhaps already at the size asked for.

    `manifest` names every file, in the order of the files; the usable ones of a part in the order of its images.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    manifest: tuple[FileRecord, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageData:
    """A dataset ready to train on. `mean` and `std` per channel, of the training part, for pixels from 0 to 1."""

    train: Split
    val: Split | None
    test: Split
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    test_sha256: str
    manifest: tuple[FileRecord, ...] = ()

    @property
    def num_unusable(self) -> int:
        return sum(record.split == "unusable" for record in self.manifest)

    @property
    def shape(self) -> DataShape:
        _, channels, height, width = self.train.images.shape
        return DataShape(channels, height, width, len(self.class_names))

    @property
    def num_bytes(self) -> int:
        return sum(split.num_bytes for split in (self.train, self.val, self.test) if split is not None)


class Loader(Protocol):
    """A source of images: a generator that yields progress and returns the images.

    Raises:
        DatasetError: the images are missing or unusable; the text says where they were expected.
        LoadingStopped: `control` asked for a stop.
    """

    def __call__(self, spec: RunSpec, places: Places, control: Control) -> Generator[Progress, None, RawImages]: ...
