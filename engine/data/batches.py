"""Batches as index selections on the training device: order, normalisation and augmentation without the CPU.

The order of an epoch depends only on (seed, epoch), the augmentation of a step only on (seed, epoch, step), so a
resumed or distributed step sees the same pixels. Random numbers come from the CPU and are the same on every device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def step_seed(*entropy: int) -> int:
    """A seed from all of `entropy`, mixed by numpy's SeedSequence."""
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) & (2**63 - 1)


def generator(*entropy: int) -> torch.Generator:
    """A CPU generator seeded with all of `entropy`."""
    return torch.Generator().manual_seed(step_seed(*entropy))


def epoch_order(num_images: int, seed: int, epoch: int) -> Tensor:
    """The order of the images in an epoch (from 1): (N,) int64."""
    return torch.randperm(num_images, generator=generator(seed, epoch))


def batch_bounds(num_images: int, batch_size: int) -> list[tuple[int, int]]:
    """Bounds of each batch. A last batch of one image joins the one before: batch-norm cannot take it."""
    starts = list(range(0, num_images, batch_size))
    if len(starts) > 1 and num_images - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], num_images], strict=True))


@dataclass(frozen=True, slots=True)
class Preparation:
    """Turns uint8 images into the network's input; `flip` and `crop_padding` (pixels) apply to training only.

    `scale` and `shift` express `mean` and `std` (for pixels from 0 to 1) in terms of uint8 pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: Tensor
    shift: Tensor
    memory_format: torch.memory_format
    flip: bool = False
    crop_padding: int = 0

    @classmethod
    def build(
        cls,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
        flip: bool = False,
        crop_padding: int = 0,
    ) -> Preparation:
        """`mean` and `std` are for pixels from 0 to 1."""
        std_255 = 255 * torch.tensor(std, dtype=torch.float64)
        shift = -torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64)
        shape = (1, -1, 1, 1)
        return cls(
            mean, std, (1 / std_255).float().view(shape).to(device), shift.float().view(shape).to(device),
            memory_format, flip, crop_padding,
        )  # fmt: skip

    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) uint8 to float32, (x / 255 - mean) / std."""
        pixels = images.to(torch.float32, memory_format=self.memory_format)
        return torch.addcmul(self.shift, pixels, self.scale, out=pixels)

    def augment(self, images: Tensor, seed: int, epoch: int, step: int) -> Tensor:
        """uint8 to uint8; each image is flipped and shifted independently; `step` counts within the epoch."""
        if self.flip or self.crop_padding:
            rng = generator(seed, epoch, step)
            if self.crop_padding:
                images = random_crop(images, self.crop_padding, rng)
            if self.flip:
                images = random_flip(images, rng)
        return images


def random_flip(images: Tensor, rng: torch.Generator) -> Tensor:
    """Mirror about half of the images left to right."""
    chosen = torch.rand(len(images), generator=rng) < 0.5
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)


def random_crop(images: Tensor, padding: int, rng: torch.Generator) -> Tensor:
    """Pad every side with `padding` zeros and crop to the original size at a random offset per image."""
    number, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    offsets = torch.randint(0, 2 * padding + 1, (2, number), generator=rng).to(images.device)
    rows = offsets[0, :, None] + torch.arange(height, device=images.device)
    columns = offsets[1, :, None] + torch.arange(width, device=images.device)
    which = torch.arange(number, device=images.device)
    # Indexing (N, H, W, C) with three broadcast indices: one gather for the whole batch.
    cut = padded.permute(0, 2, 3, 1)[which[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut.permute(0, 3, 1, 2)
