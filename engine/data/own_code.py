"""Datasets given by code: a function in a user's own Python file, or one that an installed package provides.

    def load() -> dict[str, object]:
        return {"train_images": …, "train_labels": …, "test_images": …, "test_labels": …, "class_names": ["cat", "dog"]}

It may take `data_dir`, the folder of datasets, and returns a mapping, or an object with such attributes:

    train_images    uint8, (N, H, W), (N, C, H, W) or (N, H, W, C), numpy or torch
    train_labels    whole numbers from 0, (N,)
    val_…, test_…   the same, optional; without test images a share of the training images becomes the test set
    class_names     optional; the numbers as text

The file is code and runs. What it returns is checked; the images are hashed with the run as those of any dataset.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.catalog.datasets import CODE, PACKAGE, find_dataset, own_path
from engine.code_reference import CODE_REFERENCE, CodeReference
from engine.control import Control
from engine.data.own import files_below, files_state
from engine.errors import DatasetError
from engine.own_code import OwnDatasetError, OwnObject, explained, load_from_file, load_provided, require_provided
from engine.paths import Folders
from engine.progress import Progress
from engine.spec import RunSpec
from engine.text import counted

if TYPE_CHECKING:
    from engine.data.images import RawImages
    from engine.data.survey import Survey

_PARTS = ("train", "val", "test")
_kept: list[tuple[object, RawImages]] = []  # what a survey loaded, for the run that comes next
_keeping = threading.Lock()


def check(spec: RunSpec) -> None:
    """Raise DatasetError if there is no such file, function or package; runs the file, but not the function."""
    if find_dataset(spec.dataset) is PACKAGE:
        require_provided("datasets", spec.dataset, OwnDatasetError)
    else:
        _function(spec)


def load(spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
    """Call the function; images that a survey has just loaded are taken from it.

    Raises:
        DatasetError: it does not work, or returns something else than images and labels.
    """
    yield Progress("load", 0, 0, "images")
    with _keeping:
        kept, _kept[:] = list(_kept), []
    return next((raw for key, raw in kept if key == _key(spec)), None) or _loaded(spec, folders)


def survey(spec: RunSpec, folders: Folders | None, control: Control) -> Generator[Progress, None, Survey]:
    """Only the images can tell: calls the function."""
    from engine.data.survey import Survey
    from engine.shape import DataShape

    yield Progress("load", 0, 0, "images")
    raw = next((raw for key, raw in list(_kept) if key == _key(spec)), None) or _loaded(spec, folders)
    with _keeping:
        _kept[:] = [(_key(spec), raw)]
    _, channels, height, width = raw.train.images.shape
    height, width = (spec.image_size, spec.image_size) if spec.image_size is not None else (height, width)
    num_val = round(spec.val_share * len(raw.train)) if raw.val is None else 0
    shape = DataShape(channels, height, width, len(raw.class_names))
    return Survey(
        shape, len(raw.train) - num_val, num_val + len(raw.val or ()), len(raw.test), raw.notes, is_exact=False
    )


def state(spec: RunSpec) -> str:
    """Changes with the file. Files that the function reads are not known here."""
    if find_dataset(spec.dataset) is PACKAGE:
        return ""
    text = str(own_path(spec.dataset))
    path = CodeReference.of(text).path if CODE_REFERENCE.fullmatch(text) else Path(text)
    return files_state(files_below(path))


def _key(spec: RunSpec) -> object:
    return spec.dataset, state(spec), spec.test_share, spec.split_seed


def _function(spec: RunSpec) -> OwnObject:
    if find_dataset(spec.dataset) is PACKAGE:
        return load_provided("datasets", spec.dataset, OwnDatasetError)
    text = str(own_path(spec.dataset))
    if not CODE_REFERENCE.fullmatch(text):
        raise DatasetError(f"{spec.dataset}: expected a Python file and, after a colon, its function: {CODE.example}")
    return load_from_file(CodeReference.of(text), OwnDatasetError)


def _loaded(spec: RunSpec, folders: Folders | None) -> RawImages:
    from engine.data.images import RawImages

    function = _function(spec)
    returned = function({}, {} if folders is None else {"data_dir": folders.data})
    with explained(function.shown, OwnDatasetError):
        value_of = _reader(returned, function.shown)
        splits = {part: _split(value_of, part, function.shown) for part in _PARTS}
    train, val, test = (splits[part] for part in _PARTS)
    if train is None:
        raise OwnDatasetError(f"{function.shown} returned no train_images; expected uint8 images and train_labels")
    names = _class_names(value_of("class_names"), splits, function.shown)
    if val is not None and spec.val_share > 0:
        raise OwnDatasetError(f"{function.shown} returns its own validation images; set val share to 0")
    if test is None:
        train, test = _held_out(train, spec, names)
    return RawImages(train=train, test=test, class_names=names, val=val)


def _reader(returned: Any, shown: str) -> Callable[[str], Any]:
    if isinstance(returned, Mapping):
        return returned.get
    if returned is None or isinstance(returned, list | tuple | str | int | float):
        raise OwnDatasetError(
            f"{shown} returned a {type(returned).__name__}; expected a mapping, or an object, with train_images and "
            "train_labels"
        )
    return lambda name: getattr(returned, name, None)


def _split(value_of: Callable[[str], Any], part: str, shown: str) -> Any:
    """A `Split`; None if the part is missing."""
    import torch

    from engine.data.images import Split

    images, labels = value_of(f"{part}_images"), value_of(f"{part}_labels")
    if images is None and labels is None:
        return None
    for name, value in ((f"{part}_images", images), (f"{part}_labels", labels)):
        if value is None:
            raise OwnDatasetError(f"{shown} returned no {name}; expected {part}_images and {part}_labels")
    try:
        pixels, classes = torch.as_tensor(images).cpu(), torch.as_tensor(labels).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise OwnDatasetError(f"{shown}: {part}_images and {part}_labels are no arrays of numbers ({reason})") from None
    pixels = _images(pixels, f"{shown}: {part}_images")
    if classes.dim() != 1 or classes.is_floating_point() or classes.is_complex() or classes.dtype is torch.bool:
        found = f"{str(classes.dtype).removeprefix('torch.')} of shape {tuple(classes.shape)}"
        raise OwnDatasetError(f"{shown}: {part}_labels are {found}; expected whole numbers, one per image")
    if len(classes) != len(pixels):
        counts = f"{counted(len(pixels), 'image')} and {counted(len(classes), 'label')}"
        raise OwnDatasetError(f"{shown}: {part} has {counts}; expected one label per image")
    return Split(pixels.contiguous(), classes.to(torch.int64))


def _images(pixels: Any, what: str) -> Any:
    """(N, C, H, W). Of two sides that could be channels, the second axis counts."""
    import torch

    shape = tuple(pixels.shape)
    if pixels.dtype is not torch.uint8:
        found = str(pixels.dtype).removeprefix("torch.")
        raise OwnDatasetError(f"{what} are {found}; expected uint8, from 0 to 255")
    if pixels.dim() == 3:
        pixels = pixels[:, None]
    elif pixels.dim() == 4 and shape[-1] <= 4 < shape[1]:
        pixels = pixels.permute(0, 3, 1, 2)
    if pixels.dim() != 4 or 0 in shape:
        raise OwnDatasetError(f"{what} have the shape {shape}; expected (N, H, W), (N, C, H, W) or (N, H, W, C)")
    return pixels


def _class_names(given: Any, splits: Mapping[str, Any], shown: str) -> tuple[str, ...]:
    """Also checks that the parts fit each other, and the labels the names."""
    known = {part: split for part, split in splits.items() if split is not None}
    shapes = {tuple(split.images.shape[1:]) for split in known.values()}
    if len(shapes) > 1:
        found = ", ".join(f"{part} {'×'.join(map(str, split.images.shape[1:]))}" for part, split in known.items())
        raise OwnDatasetError(f"{shown}: the parts have images of different shapes ({found}); expected one shape")
    least = min(int(split.labels.min()) for split in known.values())
    most = max(int(split.labels.max()) for split in known.values())
    names = tuple(map(str, range(most + 1))) if given is None else tuple(map(str, given))
    if least < 0 or most >= len(names):
        expected = f"from 0 to {len(names) - 1}, one number per class name" if given is not None else "from 0 upwards"
        raise OwnDatasetError(f"{shown}: there are labels from {least} to {most}; expected {expected}")
    if len(names) < 2:
        raise OwnDatasetError(f"{shown}: there is only one class; expected at least two")
    if len(set(names)) < len(names):
        raise OwnDatasetError(f"{shown}: two classes have the same name; expected different class_names")
    return names


def _held_out(train: Any, spec: RunSpec, names: tuple[str, ...]) -> tuple[Any, Any]:
    import torch

    from engine.data.splits import stratified

    rest, chosen = stratified(train.labels.numpy(), spec.test_share, spec.split_seed, "test", names)
    return train.take(torch.from_numpy(rest)), train.take(torch.from_numpy(chosen))
