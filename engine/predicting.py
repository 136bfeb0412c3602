"""Classifies the user's own images with a trained run: file by file, a few in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.catalog.datasets import find_dataset
from engine.control import Control
from engine.data.batches import Preparation
from engine.data.resizing import Reading
from engine.errors import CheckpointError, DatasetError, SpecError
from engine.memory.ledger import Ledger
from engine.memory.out_of_memory import none_if_out_of_memory
from engine.models.building import build_model
from engine.models.form import apply_form
from engine.models.state import load_state
from engine.models.whole import changed_since, fingerprint
from engine.paths import Folders, expand
from engine.records import RunDetails
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.training.checkpoint import load_checkpoint

_TOP = 5
_MOST_AT_ONCE = 16  # images in one pass
_MOST_VALUES = 16 * 3 * 224 * 224  # pixel values in one pass, so that memory does not grow with the image size
_SIDE = 64  # pixels of a thumbnail
MOST_PICTURES = 500  # of one folder: 6 MB
_SKIPPED = ("__MACOSX",)


@dataclass(frozen=True, slots=True)
class Guess:
    """A class and its softmax confidence."""

    class_name: str
    confidence: float


@dataclass(frozen=True, slots=True)
class ImageGuesses:
    """One file's guesses, the most confident first, at most five; or none, and `error` says why."""

    file: str
    guesses: tuple[Guess, ...]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class FolderGuesses:
    """Name, guesses and thumbnail (3, H, W) of each image; number of files that were not usable, and not reached."""

    images: tuple[tuple[str, tuple[Guess, ...], NDArray[np.uint8]], ...]
    num_left_out: int
    num_to_go: int


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to classify: `named` by the user, or found in a named folder."""

    path: Path
    named: bool


def find_files(paths: Iterable[Path]) -> list[FoundFile]:
    """The files in `paths`, and all files in its folders, sorted, at any depth.

    Hidden files and folders are skipped, and links to folders, which may be circular.
    """
    found = []
    for path in map(expand, paths):
        found += [FoundFile(item, False) for item in _walk(path)] if path.is_dir() else [FoundFile(path, True)]
    return found


def _walk(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in _SKIPPED)
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def read_reading(details: RunDetails) -> Reading:
    """How files become inputs of the run's network.

    Raises:
        CheckpointError: the run has no weights.
    """
    if details.weights is None or details.started is None:
        raise CheckpointError(f"run {details.record.run} has no weights: it ended before any were saved")
    try:
        is_of_files = find_dataset(details.record.dataset).is_of_files
    except SpecError:  # a dataset that no longer exists
        is_of_files = True
    return Reading.of(details.started, is_of_files)


def predict(
    details: RunDetails, folders: Folders, files: Iterable[Path], ledger: Ledger | None = None
) -> Iterator[ImageGuesses]:
    """Classify `files` in order, in batches, prepared like the run's test images. The network is the one that `ledger`
    still holds, or loaded from disk onto the CPU. An unusable file yields its error instead.

    Raises:
        CheckpointError: the run has no weights, or they are damaged.
        DatasetError: there is not enough memory for a single image.
    """
    network = Network.opened(details, folders, ledger)
    most = max(min(_MOST_AT_ONCE, _MOST_VALUES // network.num_values), 1)
    batch: list[tuple[Path, Tensor | str]] = []
    for file in files:
        batch.append((file, network.reading.read_file(expand(file))))
        if len(batch) >= most:
            yield from network.guesses(batch)
            batch.clear()
    yield from network.guesses(batch)


def predict_picture(
    details: RunDetails, folders: Folders, file: Path, ledger: Ledger
) -> tuple[tuple[Guess, ...], NDArray[np.uint8]]:
    """The most likely classes of one image, and its thumbnail (3, H, W).

    Raises:
        ReslabError: the run has no weights, or the file is not an image.
    """
    (found,) = predict(details, folders, [file], ledger)
    pixels = read_reading(details).picture(expand(file), _SIDE)
    problem = found.error or (pixels if isinstance(pixels, str) else None)
    if problem is not None or isinstance(pixels, str):
        raise DatasetError(f"{file} is not usable: {problem}; expected an image such as a JPEG or PNG")
    return found.guesses, pixels


def predict_pictures(
    details: RunDetails, folders: Folders, folder: Path, ledger: Ledger, report: Callable[[int, int], None],
    control: Control,
) -> FolderGuesses:  # fmt: skip
    """The same for the first `MOST_PICTURES` images of a folder; `report` gets the files done and in total.

    Raises:
        ReslabError: the run has no weights, or the folder has no usable image.
    """
    files = [found.path for found in find_files([folder])]
    reading, images, done = read_reading(details), [], 0
    for done, found in enumerate(predict(details, folders, files, ledger), start=1):
        report(done, len(files))
        pixels = reading.picture(Path(found.file), _SIDE) if found.error is None else found.error
        if not isinstance(pixels, str):
            images.append((Path(found.file).name, found.guesses, pixels))
        if control.stop_requested or len(images) == MOST_PICTURES:
            break
    if not images:
        raise DatasetError(f"no image in {folder} can be used; expected images such as JPEG or PNG")
    return FolderGuesses(tuple(images), done - len(images), len(files) - done)


@dataclass(frozen=True, slots=True)
class Network:
    """A run's network and what it needs to classify files. `dtype` is the run's if the kind of device is the same."""

    model: nn.Module
    reading: Reading
    prepare: Preparation
    names: tuple[str, ...]
    device: torch.device
    dtype: torch.dtype

    @classmethod
    def opened(cls, details: RunDetails, folders: Folders, ledger: Ledger | None) -> Network:
        reading, started = read_reading(details), details.started
        assert started is not None  # read_reading raises otherwise
        names = details.class_names
        model: nn.Module | None = ledger.idle(("model", details.record.run)) if ledger is not None else None
        if model is None:
            model = _from_disk(details, folders, DataShape(reading.channels, reading.height, reading.width, len(names)))
        device, resolved = next(model.parameters()).device, started.resolved
        same_kind = torch.device(resolved.device).type == device.type
        dtype = getattr(torch, resolved.dtype) if same_kind else torch.float32
        prepare = Preparation.build(started.mean, started.std, device)
        return cls(model, reading, prepare, names, device, dtype)

    @property
    def num_values(self) -> int:
        """Pixel values of one image."""
        return self.reading.channels * self.reading.height * self.reading.width

    def guesses(self, batch: Sequence[tuple[Path, Tensor | str]]) -> Iterator[ImageGuesses]:
        images = [found for _, found in batch if not isinstance(found, str)]
        rows = iter(self._confidences(images) if images else ())
        for file, found in batch:
            if isinstance(found, str):
                yield ImageGuesses(str(file), (), found)
            else:
                values, classes = next(rows).topk(min(_TOP, len(self.names)))
                pairs = zip(classes.tolist(), values.tolist(), strict=True)
                yield ImageGuesses(str(file), tuple(Guess(self.names[index], value) for index, value in pairs))

    def _confidences(self, images: Sequence[Tensor]) -> Tensor:
        """(N, classes), on the CPU; image by image where memory does not suffice for all."""
        found = none_if_out_of_memory(lambda: self.forward(torch.stack(list(images)).to(self.device)))
        if found is None and len(images) > 1:
            return torch.cat([self._confidences([image]) for image in images])
        if found is None:
            raise DatasetError(f"not enough memory for one image on {self.device}; free some, or wait for the live run")
        return found

    def forward(self, images: Tensor) -> Tensor:
        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32)
        with torch.inference_mode(), autocast:
            confidences: Tensor = self.model.eval()(self.prepare(images)).float().softmax(dim=1).cpu()
            return confidences


def _from_disk(details: RunDetails, folders: Folders, shape: DataShape) -> nn.Module:
    assert details.weights is not None
    path = folders.run_folder(details.record.run) / details.weights.file
    checkpoint = load_checkpoint(path, details.weights.sha256)
    spec = RunSpec.from_stored(
        {**details.record.spec, "weights": "random", "freeze": "none", "backbone_rate": 1.0, "head": "auto"}
    )
    before = details.started.model_sha256 if details.started is not None else ""
    if before and (now := fingerprint(spec.model)) != before:
        raise CheckpointError(changed_since(spec.model, before, now, "restore it to predict with this run"))
    model = build_model(spec, shape, seeded=False)  # a live run may be drawing from the same global state
    load_state(model, checkpoint.model)
    # Headers of early checkpoints lack the form: GoogLeNet and Inception then scaled pixels like their first weights.
    scaled = details.record.spec.get("weights", "random") != "random" and shape.channels == 3
    apply_form(model, checkpoint.header.get("form", {"transform_input": scaled, "shortcut_padding": "end"}))
    return model
