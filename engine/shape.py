"""What a model needs to know about a dataset's images. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataShape:
    """Images of `channels` × `height` × `width` (pixels), in `num_classes` classes."""

    channels: int
    height: int
    width: int
    num_classes: int

    def __str__(self) -> str:
        if self.height == self.width >= 100:
            return f"{self.height}²×{self.channels}"
        return f"{self.height}×{self.width}×{self.channels}"
