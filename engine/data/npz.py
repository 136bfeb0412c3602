"""A user's own images as arrays in an .npz file, in MedMNIST's form: train_images, train_labels, val_images, and so on.

Images (N, H, W) or (N, H, W, C) with C 1 or 3, labels (N,) or (N, 1). Other depths than 8 bits become 8 by the rule of
`engine.data.depth`. Parts have the meaning that a folder's parts have.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from engine.catalog.datasets import own_path
from engine.control import Control
from engine.data.archives import check_archive, is_archive, only_file, opened
from engine.data.depth import Extreme, PixelRange, choose_range, rescaled
from engine.data.layout import SplitRole, choose_roles, notes_on_roles, part_by_name, refuse_second_val
from engine.data.npz_file import Header, named_arrays, read_array, read_headers
from engine.data.own import files_state
from engine.errors import DatasetError
from engine.memory.headroom import container_headroom
from engine.paths import Folders
from engine.progress import Progress
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.text import counted, memory_size, safe_text, some_of

if TYPE_CHECKING:
    from engine.data.images import RawImages
    from engine.data.survey import Survey

NPZ = re.compile(r"\.npz$", re.IGNORECASE)
EXPECTED = "expected train_images and train_labels, and the same for val and test"
_IMAGES, _LABELS = frozenset({"images", "image", "x", "data"}), frozenset({"labels", "label", "y", "targets", "target"})
_ROWS = 4096  # images converted at once
_MOST_FLOAT = 255.0

Part = SplitRole | None
_PARTS: tuple[Part, ...] = ("train", "val", "test", None)


@dataclass(frozen=True, slots=True)
class Pair:
    """The images and labels of one part, not read yet."""

    images: Header
    labels: Header


@dataclass(frozen=True, slots=True)
class Contents:
    """An .npz file, by its headers. `pairs` has the training part first; `roles` are as in `choose_roles`."""

    path: Path
    pairs: Mapping[Part, Pair]
    roles: Mapping[Part, Part]
    notes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        _, height, width, *channels = next(iter(self.pairs.values())).images.shape
        return (channels[0] if channels else 1), height, width


def load(spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
    """Read the arrays of the file of `spec.dataset`, or of the one in the archive."""
    with (yield from opened(spec, folders, control, _only_npz)) as path:
        return (yield from load_npz(spec, path, control))


def check(spec: RunSpec) -> None:
    """Raise DatasetError at once if there is no such file, or it lacks the arrays."""
    path = own_path(spec.dataset)
    if is_archive(path):
        check_archive(path)
    else:
        read_contents(spec, path)


def survey(spec: RunSpec, folders: Folders | None, control: Control) -> Generator[Progress, None, Survey]:
    """Survey the file by its headers and labels; an archive is unpacked. Raises as `load`."""
    from engine.data.survey import Survey, split_counts, with_val

    with (yield from opened(spec, folders, control, _only_npz)) as path:
        contents = read_contents(spec, path)
        labels, names = yield from _read_labels(contents, control)
    pairs = [(contents.roles.get(part), int(label)) for part, found in labels.items() for label in found]
    counts = split_counts(pairs, spec.test_share)
    num_train, num_val = with_val(spec, counts["train"])
    channels, *size = contents.shape
    height, width = size if spec.image_size is None else (spec.image_size, spec.image_size)
    shape = DataShape(channels, height, width, len(names))
    return Survey(shape, num_train, num_val + counts["val"], counts["test"], contents.notes, is_exact=False)


def state(spec: RunSpec) -> str:
    """A hash of the file's name, size and time."""
    return files_state([own_path(spec.dataset)])


def read_contents(spec: RunSpec, path: Path) -> Contents:
    """The parts of the file, by the headers of its arrays.

    Raises:
        DatasetError: the file cannot be read, or its arrays make no dataset.
    """
    headers = read_headers(path)
    pairs, unused = _paired(path, headers)
    roles = {} if None in pairs else choose_roles(str(path), {part for part in pairs if part is not None})
    if spec.val_share > 0 and "val" in roles.values():
        refuse_second_val(str(path), pairs["val"].images.name)
    for pair in pairs.values():
        _check_pair(path, pair, next(iter(pairs.values())))
    notes = [*notes_on_roles(roles), *([f"arrays not used: {some_of(unused)}"] if unused else [])]
    return Contents(path, pairs, roles, tuple(notes))


def _paired(path: Path, headers: dict[str, Header]) -> tuple[dict[Part, Pair], list[str]]:
    """The arrays by their parts, and the names of the others."""
    found: dict[tuple[Part, bool], Header] = {}
    unused = []
    for name, header in headers.items():
        key = _meaning(name)
        if key is None:
            unused.append(safe_text(name, 40))
        elif key in found:
            raise DatasetError(f"{path}: {found[key].name} and {name} mean the same; {EXPECTED}")
        else:
            found[key] = header
    parts = [part for part in _PARTS if (part, True) in found or (part, False) in found]
    for part in parts:
        if (part, True) not in found or (part, False) not in found:
            has = found.get((part, True)) or found[(part, False)]
            raise DatasetError(f"{path} has {has.name}, but not its counterpart; {EXPECTED}")
    if not parts or (None in parts and len(parts) > 1):
        raise DatasetError(f"{path} has the arrays {named_arrays(headers)}; {EXPECTED}")
    return {part: Pair(found[(part, True)], found[(part, False)]) for part in parts}, unused


def _meaning(name: str) -> tuple[Part, bool] | None:
    """The part, and whether these are its images: `train_images`, `x_train`, `images`; None if it is neither."""
    words = name.lower().split("_")
    for named, is_image in ((_IMAGES, True), (_LABELS, False)):
        rest = [word for word in words if word not in named]
        if len(rest) == len(words) - 1:
            part = part_by_name(rest[0]) if len(rest) == 1 else None
            return (part, is_image) if not rest or part is not None else None
    return None


def _check_pair(path: Path, pair: Pair, first: Pair) -> None:
    images, labels = pair.images, pair.labels
    shape = images.shape
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or images.dtype.kind not in "buif":
        raise DatasetError(f"{path}: {images.words}; expected numbers, images × height × width, or × 1 or 3 channels")
    if min(shape) < 1:
        raise DatasetError(f"{path}: {images.words}; expected at least one image of one pixel")
    if shape[1:] != first.images.shape[1:]:
        raise DatasetError(f"{path}: {images.words}, but {first.images.words}; expected images of one size")
    if labels.dtype.kind not in "biuUS" or len(labels.shape) not in (1, 2) or labels.shape[:1] != shape[:1]:
        raise DatasetError(
            f"{path}: {labels.words}; expected one whole number or text for each of {counted(shape[0], 'image')}"
        )
    if len(labels.shape) == 2 and labels.shape[1] != 1:
        raise DatasetError(
            f"{path}: {labels.words}, several for each image; reslab classifies images into one class each, so labels "
            "must be one number or text an image"
        )


def load_npz(
    spec: RunSpec, path: Path, control: Control, class_names: Sequence[str] = ()
) -> Generator[Progress, None, RawImages]:
    """Read the file. With `class_names` label i is the class i, otherwise classes are the training labels in order.

    Raises:
        DatasetError: the file cannot be read, or its arrays make no dataset.
        LoadingStopped: `control` requested a stop.
    """
    from engine.data.duplicates import empty_classes_notes, pixel_groups
    from engine.data.images import RawImages, Split
    from engine.data.splits import stratified_groups

    contents = read_contents(spec, path)
    _check_memory(contents)
    labels, names = yield from _read_labels(contents, control, class_names)
    pixels, pixel_range = yield from _read_pixels(contents, control)
    splits = {part: Split(pixels[part], _tensor(labels[part])) for part in contents.pairs}
    if contents.roles:
        parts = {role: splits[part] for part, role in contents.roles.items()}
    else:
        whole = next(iter(splits.values()))
        groups = pixel_groups([whole])[0]
        in_test = stratified_groups(whole.labels.numpy(), groups, spec.test_share, spec.split_seed, names)
        parts = {
            "train": whole.take(_tensor(np.flatnonzero(~in_test))),
            "test": whole.take(_tensor(np.flatnonzero(in_test))),
        }
    empty = empty_classes_notes(names, {str(part): split.labels.numpy() for part, split in parts.items()})
    return RawImages(
        parts["train"], parts["test"], names, val=parts.get("val"), notes=(*contents.notes, *empty),
        pixel_range=pixel_range,
    )  # fmt: skip


def _tensor(values: NDArray[Any]) -> Any:
    import torch

    return torch.from_numpy(values)


def _check_memory(contents: Contents) -> None:
    """Refuse what would not fit: every array as it is stored, and its pixels."""
    needed = sum(
        pair.images.num_bytes + pair.images.num_bytes // pair.images.dtype.itemsize + pair.labels.num_bytes
        for pair in contents.pairs.values()
    )
    free = min(int(psutil.virtual_memory().available), container_headroom())
    if needed > free:
        raise DatasetError(
            f"{contents.path} takes {memory_size(needed)} of memory, {memory_size(free)} are free; free some, or save "
            "its images as files in folders, which are read in pieces"
        )


def _read_labels(
    contents: Contents, control: Control, class_names: Sequence[str] = ()
) -> Generator[Progress, None, tuple[dict[Part, NDArray[np.int64]], tuple[str, ...]]]:
    """(N,) int64 class of each image, by part, and the classes."""
    raw: dict[Part, NDArray[Any]] = {}
    for part, pair in contents.pairs.items():
        raw[part] = (yield from read_array(contents.path, pair.labels, control)).reshape(-1)
    classes: NDArray[Any] = np.arange(len(class_names)) if class_names else np.unique(next(iter(raw.values())))
    names = tuple(class_names) or tuple(map(_text, classes.tolist()))
    if len(names) < 2:
        raise DatasetError(f"{contents.path} has one label, {names[0]}, for all its images; expected at least two")
    found = {}
    for part, labels in raw.items():
        numbers = np.searchsorted(classes, labels).clip(max=len(classes) - 1)
        if len(unknown := np.unique(labels[classes[numbers] != labels])):
            array, others = contents.pairs[part].labels.name, some_of(list(map(_text, unknown.tolist())))
            raise DatasetError(f"{contents.path}: {array} has {others}, of which there is no training image; add some")
        found[part] = numbers.astype(np.int64)
    return found, names


def _text(label: object) -> str:
    return label.decode("utf-8", "replace") if isinstance(label, bytes) else str(label)


def _read_pixels(contents: Contents, control: Control) -> Generator[Progress, None, tuple[dict[Part, Any], PixelRange]]:
    """(N, C, H, W) uint8 tensors by part, and the range by which deeper samples became pixels."""
    raw: dict[Part, NDArray[Any]] = {}
    for part, pair in contents.pairs.items():
        values = yield from read_array(contents.path, pair.images, control)
        raw[part] = values if values.ndim == 4 else values[..., None]
    pixel_range = choose_range(
        [
            _extreme(contents.path, contents.pairs[part].images, values)
            for part, values in raw.items()
            if _is_deep(values)
        ]
    )
    found = {}
    for part in list(raw):
        found[part] = _tensor(_as_pixels(raw.pop(part), pixel_range))  # one part at a time in both forms
    return found, pixel_range


def _is_deep(values: NDArray[Any]) -> bool:
    return values.dtype.kind != "b" and values.dtype != np.uint8


def _extreme(path: Path, header: Header, values: NDArray[Any]) -> Extreme:
    low, high = float(values.min()), float(values.max())
    is_float = values.dtype.kind == "f"
    if not (low >= 0 and high <= (_MOST_FLOAT if is_float else 2**31 - 1)):  # NaN is neither
        allowed = "0 to 1 or 0 to 255" if is_float else "0 to 31 bits"
        raise DatasetError(f"{path}: {header.words}, from {low:.6g} to {high:.6g}; expected {allowed}")
    return Extreme("floats" if is_float else "integers", high)


def _as_pixels(values: NDArray[Any], pixel_range: PixelRange) -> NDArray[np.uint8]:
    """(N, H, W, C) of any depth as (N, C, H, W) uint8."""
    count, height, width, channels = values.shape
    if channels == 1 and values.dtype == np.uint8:
        return values.reshape(count, 1, height, width)
    pixels = np.empty((count, channels, height, width), np.uint8)
    for start in range(0, count, _ROWS):
        chunk = values[start : start + _ROWS]
        if chunk.dtype.kind == "b":
            chunk = chunk * np.uint8(255)
        elif _is_deep(chunk):
            high = pixel_range.high("floats" if chunk.dtype.kind == "f" else "integers")
            assert high is not None
            chunk = rescaled(chunk, 0.0, high)
        pixels[start : start + _ROWS] = chunk.transpose(0, 3, 1, 2)
    return pixels


def _only_npz(folder: Path) -> Path:
    return only_file(folder, NPZ, "one .npz file")
