"""scikit-learn's 8×8 digits: 1,797 images that come with the library, so the first run needs no download."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch

from engine.control import Control
from engine.data.images import RawImages, Split
from engine.data.splits import stratified
from engine.paths import Folders
from engine.progress import Progress
from engine.spec import RunSpec

_GREATEST = 16  # the pixels are counts from 0 to 16 (Alpaydin and Kaynak 1998)


def load(spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
    """The digits, with one fixed 80/20 split whatever the seeds: 1,437 to train on and 360 to test."""
    yield Progress("read", 0, 1797, "images")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / _GREATEST)).astype(np.uint8)
    everything = Split(torch.from_numpy(pixels)[:, None], torch.from_numpy(bunch.target.astype(np.int64)))
    train, test = stratified(bunch.target, 0.2, seed=0, part="test")
    return RawImages(
        train=everything.take(torch.from_numpy(train)),
        test=everything.take(torch.from_numpy(test)),
        class_names=tuple(str(name) for name in bunch.target_names),
    )
