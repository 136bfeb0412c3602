"""Images a second from files that are decoded as they are used, against a DataLoader with as many workers."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from engine.control import RunControl
from engine.cores import usable_cores
from engine.data.batches import batch_bounds, epoch_order
from engine.data.feeding import feed
from engine.data.images import ImageData
from engine.data.loading import load_dataset
from engine.environment import CACHE_GIB
from engine.memory.heap import keep_one_heap
from engine.paths import Folders
from engine.spec import RunSpec
from tests.benchmarks.feeding import batches_per_s
from tests.benchmarks.reporting import data_folder, report
from tests.benchmarks.sides import BATCH

_CPU = torch.device("cpu")


def streaming(num_pairs: int = 5) -> None:
    """Batches of 128 photographs a second, each decoded as it is used: reslab's threads against a DataLoader's workers.

    Both read the same files, decode them with Pillow at the same reduced scale, crop and resize them alike, and yield
    uint8; reslab also hashes every file.
    """
    keep_one_heap()
    os.environ[CACHE_GIB.name] = "0"
    for size in (224, 64):
        # As many threads as the DataLoader has workers, whoever else is on the machine.
        as_many = patch("engine.data.streaming.fair_num_threads", lambda most, others: most)
        with tempfile.TemporaryDirectory() as folder, as_many:
            data = _load(size, Path(folder))
            pairs = _pairs(data, size, num_pairs)
        report(f"decoding photographs to {size}×{size}", "batches/s", pairs, ("reslab", "DataLoader"))


def _pairs(data: ImageData, size: int, number: int) -> list[tuple[float, float]]:
    """Batches a second of both, each side first in every second pair."""
    theirs, pairs = _endless(_loader(data, size)), []
    for pair in range(number):
        if pair % 2:
            second = batches_per_s(theirs)
            pairs.append((batches_per_s(_ours(data)), second))
        else:
            pairs.append((batches_per_s(_ours(data)), batches_per_s(theirs)))
    return pairs


def _load(size: int, folder: Path) -> ImageData:
    spec = RunSpec("cats-dogs", "resnet18", image_size=size)
    work = load_dataset(spec, Folders(folder, data_folder(), folder), RunControl())
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: ImageData = end.value
            assert found.is_streamed
            return found


def _ours(data: ImageData) -> Iterator[Tensor]:
    for epoch in range(1, 1_000_000):
        order = epoch_order(len(data.train), 0, epoch)
        for images, _ in feed(data.train, order, batch_bounds(len(data.train), BATCH), _CPU):
            yield images


class _Files(Dataset[tuple[Tensor, int]]):
    """The training files, decoded as by a careful person: at a reduced scale, cropped and resized in one step."""

    def __init__(self, files: list[tuple[Path, int]], size: int) -> None:
        self._files, self._size = files, size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self._files[index]
        with Image.open(path) as image:
            image.draft(None, (self._size, self._size))
            picture = image.convert("RGB")
        side = min(picture.size)
        left, top = (picture.width - side) / 2, (picture.height - side) / 2
        box = (left, top, left + side, top + side)
        pixels = np.array(picture.resize((self._size, self._size), Image.Resampling.BILINEAR, box=box))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), label


def _loader(data: ImageData, size: int) -> DataLoader[tuple[Tensor, int]]:
    root = data_folder() / "PetImages"
    files = [
        (root / record.file, int(record.class_name == "dog")) for record in data.manifest if record.split == "train"
    ]
    return DataLoader(
        _Files(files, size), batch_size=BATCH, shuffle=True, num_workers=usable_cores(), persistent_workers=True
    )


def _endless(loader: Any) -> Iterator[Tensor]:
    while True:
        for images, _ in loader:
            yield images
