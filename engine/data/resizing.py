"""From a dataset's images to the input size of the network: one way per kind of source, in training and later.

- Datasets that are arrays in memory (digits, MNIST, CIFAR) are resized as tensors (`resize`, "tensor").
- Datasets of files are decoded at the final size by Pillow (`engine.data.decoding`, "pillow"); JPEGs may be read at a
  half, a quarter or an eighth of their size if that is not smaller than the final size.

The two differ by a few grey levels, enough to change a prediction. So a run records which one it used, and files read
later go through the same one (`Reading`): a PNG of a test image gives the exact pixels that the run was tested on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.data.decoding import Pixels, decode, read_bytes, read_header
from engine.data.depth import PixelRange
from engine.data.formats import UnusableImageError
from engine.data.images import Resampler
from engine.events import RunStarted

_MOST_TENSOR_PIXELS = 2**20  # above it Pillow resizes: as floats a large photograph would take a gigabyte


def resize(images: Tensor, size: int) -> Tensor:
    """(N, C, H, W) uint8 to (N, C, size, size): shorter side to `size` (bilinear, antialiased), then the centre."""
    height, width = images.shape[2:]
    if (height, width) == (size, size):
        return images
    scale = size / min(height, width)
    target = (max(size, round(height * scale)), max(size, round(width * scale)))
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    resized = F.interpolate(images.float(), target, mode="bilinear", antialias=True, align_corners=False)
    return resized[..., top : top + size, left : left + size].round().clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a run turns files into network input, the same way as its dataset did. Sizes in pixels."""

    channels: int
    height: int
    width: int
    resampler: Resampler
    pixel_range: PixelRange

    @classmethod
    def of(cls, started: RunStarted, is_of_files: bool) -> Reading:
        """As the run read its images. If a run did not record this, it follows from its dataset, and there is no range:
        files of more than 8 bits a sample are refused, unless they declare one.
        """
        channels, height, width = started.image_shape
        recorded = started.resampler or ("pillow" if is_of_files else "tensor")
        resampler: Resampler = "pillow" if recorded == "pillow" else "tensor"
        return cls(channels, height, width, resampler, PixelRange(*started.pixel_range))

    def read_file(self, path: Path) -> Tensor | str:
        """One file as (C, H, W) uint8, or why it is unusable, in a few words."""
        try:
            return self.read(read_bytes(path))
        except UnusableImageError as error:
            return str(error)

    def picture(self, path: Path, side: int) -> Pixels | str:
        """One file in colour, (3, side, side), for display: with the network's brightness, background and
        orientation.
        """
        try:
            return decode(read_bytes(path), side, 3, self.pixel_range)
        except UnusableImageError as error:
            return str(error)

    def read(self, data: bytes) -> Tensor | str:
        """One file's bytes as (C, H, W) uint8, or why they are unusable."""
        natively = self.resampler == "tensor" and self.height == self.width and _is_small(data)
        found = decode(data, None if natively else (self.height, self.width), self.channels, self.pixel_range)
        if isinstance(found, str):
            return found
        pixels = torch.from_numpy(found.copy())
        return resize(pixels[None], self.height)[0] if natively else pixels


def _is_small(data: bytes) -> bool:
    header = read_header(data)
    return header is None or header.size[0] * header.size[1] <= _MOST_TENSOR_PIXELS
