"""Where datasets and models meet: what a model must know of the images, and nothing else. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataShape:
    """The images of a dataset: `channels` × `height` × `width` (pixels), sorted into `num_classes` classes."""

    channels: int
    height: int
    width: int
    num_classes: int

    def __str__(self) -> str:
        if self.height == self.width >= 100:
            return f"{self.height}²×{self.channels}"
        return f"{self.height}×{self.width}×{self.channels}"
