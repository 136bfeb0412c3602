"""Mean and standard deviation of the training images, and the hash of the test images, wherever the images are.

Counts of values are whole numbers. So where images are decoded as they are used, those of the training part are the
counts of all images, from the first pass, less those of the other parts: they need no second pass over it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.control import Control
from engine.data.images import Split
from engine.data.streaming import FileImages, part_facts
from engine.normalization import Moments
from engine.progress import Progress

_CHUNK, _CHUNK_BYTES = 4096, 2**26  # images, and their bytes, at once


@dataclass(frozen=True, slots=True)
class Measured:
    """`counts` (C, 256) of the training images' values; None: not counted yet."""

    train: Split
    test_sha256: str
    counts: Tensor | None = None

    def moments(self) -> Moments:
        return moments_of(self.train) if self.counts is None else _moments(self.counts)


def measure(train: Split, test: Split, control: Control) -> Generator[Progress, None, Measured]:
    """Measure the parts of a dataset.

    Raises:
        DatasetError, LoadingStopped: as `ImageSource.read`, of images that are decoded as they are used.
    """
    images = train.source
    if not isinstance(images, FileImages):
        return Measured(train, test.sha256())
    assert train.rows is not None
    assert test.rows is not None
    tested = yield from part_facts(test, images, control)
    counts = images.counts - tested.counts
    # Those held out for validation, and those that an exclude list leaves out.
    used = torch.cat([train.rows, test.rows]).numpy()
    others = torch.from_numpy(np.setdiff1d(np.arange(len(images.usable)), used))
    if len(others):
        rest = images.split(torch.zeros_like(others), others)
        counts -= (yield from part_facts(rest, images, control)).counts
    return Measured(train, tested.sha256, torch.from_numpy(counts).double())


def moments_of(split: Split) -> Moments:
    """Mean and standard deviation per channel, exactly, from the counts of the 256 values; pixels from 0 to 1."""
    counts = torch.zeros(split.images.shape[1], 256, dtype=torch.float64)
    for chunk in split.chunks(max(min(_CHUNK, _CHUNK_BYTES // split.images[:1].nbytes), 1)):
        for channel, pixels in enumerate(chunk.unbind(1)):
            counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
    return _moments(counts)


def _moments(counts: Tensor) -> Moments:
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for share in counts / counts.sum(dim=1, keepdim=True):
        mean = float((share * values).sum())
        variance = float((share * (values - mean) ** 2).sum())
        means.append(mean)
        stds.append(max(variance**0.5, 1e-3))  # a constant channel stays at zero rather than being blown up
    return tuple(means), tuple(stds)
