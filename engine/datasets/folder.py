"""A person's own images: one folder a class, or `train/` and `test/` (or `val/`) folders of classes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
import torch

from engine.control import Control
from engine.datasets.decoding import Pixels, decode_all, is_colour, read_size
from engine.datasets.images import RawImages, Split
from engine.datasets.registry import folder_path
from engine.datasets.splits import stratified
from engine.errors import DatasetError
from engine.progress import Progress
from engine.spec import RunSpec

DEFAULT_SIZE = 224  # pixels: where the images differ in size and none was asked for
_ASK_FOR = "expected one folder a class with images in it, or train/ and test/ folders of classes"


def load(spec: RunSpec, data_dir: Path, control: Control) -> Generator[Progress, None, RawImages]:
    """Read the folder that `spec.dataset` names; files that do not decode are left out and counted."""
    root = folder_path(spec.dataset)
    parts = find_parts(root)
    names = class_names(parts[0])
    files, labels, sides = [], [], []
    for side, part in enumerate(parts):
        if class_names(part) != names:
            raise DatasetError(f"{parts[0]} and {part} hold different classes; expected the same folders in both")
        for label, name in enumerate(names):
            found = sorted(path for path in (part / name).iterdir() if path.is_file())
            files += found
            labels += [label] * len(found)
            sides += [side] * len(found)
    size, channels = yield from _choose_shape(files, spec.image_size, root)
    decoded = yield from decode_all(files, size, channels, control)
    usable = np.array([pixels is not None for pixels in decoded])
    kept = Split(
        torch.from_numpy(np.stack([pixels for pixels in decoded if pixels is not None])),
        torch.tensor(np.array(labels)[usable], dtype=torch.int64),
    )
    _check_classes(kept.labels.numpy(), names, root)
    train, test = _sides(kept.labels.numpy(), np.array(sides)[usable], spec, len(parts))
    return RawImages(kept.take(train), kept.take(test), names, int((~usable).sum()))


def check(spec: RunSpec) -> None:
    """Raise DatasetError at once where the folder cannot be a dataset, before a run is recorded."""
    class_names(find_parts(folder_path(spec.dataset))[0])


def find_parts(root: Path) -> list[Path]:
    """The folders of classes: the root alone, or its training part and its test part.

    Raises:
        DatasetError: there is no such folder.
    """
    if not root.is_dir():
        raise DatasetError(f"no folder {root}; {_ASK_FOR}")
    if not (root / "train").is_dir():
        return [root]
    for name in ("test", "val"):
        if (root / name).is_dir():
            return [root / "train", root / name]
    return [root / "train"]


def class_names(part: Path) -> tuple[str, ...]:
    """The class folders of one part, sorted.

    Raises:
        DatasetError: there are fewer than two.
    """
    names = tuple(sorted(path.name for path in part.iterdir() if path.is_dir() and not path.name.startswith(".")))
    if len(names) < 2:
        raise DatasetError(f"{part} has {len(names)} class folder{'' if len(names) == 1 else 's'}; {_ASK_FOR}")
    return names


def _choose_shape(
    files: Sequence[Path], asked: int | None, root: Path
) -> Generator[Progress, None, tuple[int | None, int]]:
    """The size to decode at (None: as they are, all alike) and the channels, from the files' headers."""
    sizes, colours = set(), set()
    for number, path in enumerate(files):
        if number % 1000 == 0:
            yield Progress("look", number, len(files), "images")
        if (colour := is_colour(path)) is not None:
            colours.add(colour)
            sizes.add(read_size(path))
    if not colours:
        raise DatasetError(f"no image in {root} can be read; {_ASK_FOR}")
    native = next(iter(sizes)) if len(sizes) == 1 else None
    size = asked or (None if native and min(native) >= 4 else DEFAULT_SIZE)
    return size, 3 if True in colours else 1


def _check_classes(labels: np.ndarray, names: Sequence[str], root: Path) -> None:
    counts = np.bincount(labels, minlength=len(names))
    if (counts < 2).any():
        name = names[int(counts.argmin())]
        raise DatasetError(f"class {name} of {root} has {counts.min()} usable images; expected at least two")


def _sides(labels: np.ndarray, sides: np.ndarray, spec: RunSpec, num_parts: int) -> tuple[torch.Tensor, torch.Tensor]:
    if num_parts == 2:
        train, test = np.flatnonzero(sides == 0), np.flatnonzero(sides == 1)
        if not len(train) or not len(test):
            raise DatasetError(f"the {'training' if not len(train) else 'test'} part has no usable image; {_ASK_FOR}")
    else:
        train, test = stratified(labels, spec.test_share, spec.split_seed, "test")
    return torch.from_numpy(train), torch.from_numpy(test)


__all__ = ["DEFAULT_SIZE", "Pixels", "check", "class_names", "find_parts", "load"]
