"""Batches a second without a model: photographs from the decoded cache against ImageFolder and a DataLoader."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.control import RunControl
from engine.data.batches import Preparation, batch_bounds, epoch_order
from engine.data.feeding import feed
from engine.data.images import ImageData
from engine.data.loading import load_dataset
from engine.memory.heap import keep_one_heap
from engine.paths import Folders
from engine.spec import RunSpec
from tests.benchmarks.reporting import data_folder, report
from tests.benchmarks.sides import BATCH

_SECONDS = 6.0
_CPU = torch.device("cpu")


def feeding(num_pairs: int = 5) -> None:
    """Normalised batches of 128 photographs a second: the decoded cache against ImageFolder and two workers."""
    keep_one_heap()
    for size in (224, 64):
        with tempfile.TemporaryDirectory() as folder:
            data = _load(size, Path(folder))
            usable = {Path(record.file).parts[-2:] for record in data.manifest if record.split != "unusable"}
            prepare = Preparation.build(data.mean, data.std, _CPU)
            train = data.train.to(_CPU)

            def ours(data: ImageData = data, prepare: Preparation = prepare, train: Any = train) -> Iterator[Tensor]:
                for epoch in range(1, 1_000_000):
                    order = epoch_order(len(train), 0, epoch)
                    for images, _ in feed(train, order, batch_bounds(len(train), BATCH), _CPU):
                        yield prepare(images)

            theirs = _loader(size, usable)
            pairs = [(batches_per_s(ours()), batches_per_s(_endless(theirs))) for _ in range(num_pairs)]
        report(f"feeding photographs of {size}×{size}", "batches/s", pairs, ("reslab", "ImageFolder, DataLoader"))


def _load(size: int, folder: Path) -> ImageData:
    work = load_dataset(
        RunSpec("cats-dogs", "resnet18", image_size=size), Folders(folder, data_folder(), folder), RunControl()
    )
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: ImageData = end.value
            return found


def _loader(size: int, usable: set[tuple[str, ...]]) -> Any:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
    root = data_folder() / "PetImages"
    images = datasets.ImageFolder(
        str(root),
        transforms.Compose([*steps, transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]),
        is_valid_file=lambda path: Path(path).parts[-2:] in usable,
    )
    return DataLoader(images, batch_size=BATCH, shuffle=True, num_workers=2, persistent_workers=True)


def _endless(loader: Any) -> Iterator[Tensor]:
    while True:
        for images, _ in loader:
            yield images


def batches_per_s(batches: Iterator[Tensor]) -> float:
    """Batches a second, after the first three."""
    for _ in range(3):
        next(batches)
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < _SECONDS:
        next(batches)
        count += 1
    return count / (time.perf_counter() - began)
