"""torchvision's ImageNet weights: where they are on disk, and how they get there."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import torch

from engine.control import Control
from engine.errors import FetchError, ModelError
from engine.fetching import fetch
from engine.progress import Progress


def fetch_imagenet_weights(name: str, control: Control) -> Generator[Progress, None, None]:
    """Download torchvision's weights for `name` into torch's cache, unless they are there.

    Raises:
        ModelError: they could not be downloaded; the text says where they are expected.
        LoadingStopped: `control` requested a stop.
    """
    url, path = imagenet_file(name)
    try:
        # torch's naming: the file's SHA-256 begins with the eight digits after the hyphen.
        yield from fetch([url], path, path.stem.rpartition("-")[2], control, "sha256")
    except (FetchError, OSError) as error:
        raise ModelError(
            f"torchvision's ImageNet weights for {name} are not in {path.parent} and {error}; "
            f"put {path.name} there, or choose weights=random"
        ) from None


def imagenet_file(name: str) -> tuple[str, Path]:
    """URL and path of the weights for `name`."""
    from torchvision import models

    url: str = models.get_model_weights(name).DEFAULT.url
    return url, Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
