"""What a trained run makes of a person's own images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.datasets.batches import Preparation
from engine.datasets.decoding import decode
from engine.errors import CheckpointError, DatasetError
from engine.memory.ledger import Ledger
from engine.memory.shortage import unless_memory_runs_out
from engine.models.building import build_model
from engine.paths import Places, expand
from engine.results.records import RunDetails
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.training.checkpoint import load_checkpoint

_TOP = 5


@dataclass(frozen=True, slots=True)
class Guess:
    """A class and the softmax that the network gives it."""

    class_name: str
    confidence: float


@dataclass(frozen=True, slots=True)
class ImageGuesses:
    """One file's guesses, the most confident first, at most five."""

    file: str
    guesses: tuple[Guess, ...]


def predict(
    details: RunDetails, places: Places, files: Sequence[Path], ledger: Ledger | None = None
) -> list[ImageGuesses]:
    """Classify `files`, prepared as the run's test images were, with its network: that which `ledger` still holds, or
    its weights from disk, on the CPU.

    Raises:
        CheckpointError: the run has no weights, or they are damaged.
        DatasetError: a file is no image.
    """
    if details.weights is None or details.started is None:
        raise CheckpointError(f"run {details.record.run} has no weights: it ended before any were saved")
    started = details.started
    channels, height, width = started["image_shape"]
    images = torch.stack([_read(file, channels, height, width) for file in files])
    names = details.class_names
    model: nn.Module | None = ledger.idle(("model", details.record.run)) if ledger is not None else None
    if model is None:
        model = _from_disk(details, places, DataShape(channels, height, width, len(names)))
    device = next(model.parameters()).device
    prepare = Preparation.build(tuple(started["mean"]), tuple(started["std"]), device)
    confidences = unless_memory_runs_out(lambda: _confidences(model, prepare, images.to(device)))
    if confidences is None:
        raise DatasetError(f"there is no memory for it on {device} now; free some, or wait for the live run")
    values, classes = confidences.topk(min(_TOP, len(names)))
    return [
        ImageGuesses(str(file), tuple(Guess(names[c], v) for c, v in zip(chosen, shares, strict=True)))
        for file, chosen, shares in zip(files, classes.tolist(), values.tolist(), strict=True)
    ]


def _confidences(model: nn.Module, prepare: Preparation, images: Tensor) -> Tensor:
    with torch.inference_mode():
        confidences: Tensor = model.eval()(prepare(images)).float().softmax(dim=1).cpu()
        return confidences


def _from_disk(details: RunDetails, places: Places, shape: DataShape) -> nn.Module:
    assert details.weights is not None
    path = places.run_folder(details.record.run) / details.weights.file
    state = load_checkpoint(path, details.weights.sha256).model
    spec = RunSpec.from_mapping({**details.record.spec, "weights": "random", "freeze": "none", "backbone_rate": 1.0})
    model = build_model(spec, shape, seeded=False)  # a live run may be drawing from the same global state
    model.load_state_dict(state)
    if hasattr(model, "transform_input"):  # GoogLeNet and Inception take pixels as their first weights did
        model.transform_input = details.record.spec.get("weights", "random") != "random" and shape.channels == 3  # type: ignore[assignment]
    return model


def _read(file: Path, channels: int, height: int, width: int) -> Tensor:
    try:
        data = expand(file).read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: ~ of a person that there is not
        raise DatasetError(f"cannot read {file} ({error}); expected an image") from None
    found = decode(data, height if height == width else None, channels)
    if isinstance(found, str):
        raise DatasetError(f"{file} is not usable: {found}; expected an image such as a JPEG or PNG")
    pixels = torch.from_numpy(found.copy())
    if pixels.shape[1:] == (height, width):
        return pixels
    resized = F.interpolate(pixels[None].float(), (height, width), mode="bilinear", antialias=True)
    return resized[0].round().clamp(0, 255).to(torch.uint8)
