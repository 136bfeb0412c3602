"""The datasets from torchvision: MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100.

torchvision knows the files and reads them; the download is ours, because torchvision's own prints a progress bar over
the screen and cannot be stopped.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.control import Control
from engine.data.images import RawImages, Split
from engine.errors import DatasetError, FetchError
from engine.fetching import fetch
from engine.locking import lock_of, wait_for_lock
from engine.paths import Folders
from engine.progress import Progress
from engine.spec import RunSpec

_DAMAGED = (RuntimeError, ValueError, OSError, EOFError, AssertionError, KeyError, TypeError)  # on damaged files


def load(spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
    """Read the dataset under `folders.data`; download it first if it is missing."""
    from torchvision import datasets

    sources = {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
    }
    source, data_dir = sources[spec.dataset], folders.data
    idx_format = issubclass(source, datasets.MNIST)
    expected = data_dir / source.__name__ / "raw" if idx_format else data_dir / source.base_folder
    if not _is_there(source, data_dir):
        try:
            expected.parent.mkdir(parents=True, exist_ok=True)
            with lock_of(expected).open("a") as lock:
                yield from wait_for_lock(lock, f"download {spec.dataset}", control)
                if not _is_there(source, data_dir):
                    yield from (_fetch_idx if idx_format else _fetch_archive)(source, data_dir, control)
        except (FetchError, OSError) as error:
            raise DatasetError(
                f"{spec.dataset} is not on this machine and {error}; expected its files in {expected}: "
                "connect to the network, put them there, or set their folder with --data-dir"
            ) from None
    yield Progress("read", 0, 0, "images")
    try:
        parts = [source(data_dir, train=train, download=False) for train in (True, False)]
    except _DAMAGED as error:
        reason = str(error) or type(error).__name__
        raise DatasetError(f"{spec.dataset} cannot be read in {expected} ({reason}); delete that folder") from None
    train, test = (_as_split(part) for part in parts)
    return RawImages(train, test, tuple(str(name).split(" - ")[0] for name in parts[0].classes))


def _is_there(source: Any, data_dir: Path) -> bool:
    try:
        for train in (True, False):
            source(data_dir, train=train, download=False)
    except RuntimeError:  # torchvision: "not found or corrupted"
        return False
    except _DAMAGED:
        return True  # present but damaged: reading it reports that
    return True


def _fetch_idx(source: Any, data_dir: Path, control: Control) -> Generator[Progress, None, None]:
    from torchvision.datasets.utils import extract_archive

    raw = data_dir / source.__name__ / "raw"
    for name, md5 in source.resources:
        yield from fetch([mirror + name for mirror in source.mirrors], raw / name, md5, control)
        extract_archive(raw / name, raw)


def _fetch_archive(source: Any, data_dir: Path, control: Control) -> Generator[Progress, None, None]:
    from torchvision.datasets.utils import extract_archive

    archive = data_dir / source.filename
    yield from fetch([source.url], archive, source.tgz_md5, control)
    yield Progress("unpack", 0, 0, "files")
    extract_archive(archive, data_dir)


def _as_split(part: Any) -> Split:
    """MNIST keeps a tensor (N, H, W), CIFAR an array (N, H, W, C)."""
    pixels = torch.as_tensor(np.asarray(part.data))
    images = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return Split(images, torch.as_tensor(part.targets, dtype=torch.int64))
