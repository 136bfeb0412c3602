"""A dataset that is open for looking: its audit, and each of its images, as the network would get it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from engine.data.audit.scan import parts_of
from engine.data.audit.values import Audit, ImageRef
from engine.data.batches import Preparation
from engine.data.images import ImageData, Split
from engine.spec import RunSpec


@dataclass(frozen=True, slots=True)
class OpenDataset:
    """`refs` are all images, part by part; pixels are read when they are asked for."""

    audit: Audit
    refs: tuple[ImageRef, ...]
    splits: dict[str, Split] = field(repr=False)

    @classmethod
    def of(cls, audit: Audit, data: ImageData, refs: tuple[ImageRef, ...]) -> OpenDataset:
        return cls(audit, refs, parts_of(data))

    def chosen(self, part: str | None, class_name: str | None) -> list[ImageRef]:
        """The images of a part and a class; None: of all."""
        return [ref for ref in self.refs if part in (None, ref.part) and class_name in (None, ref.class_name)]

    def pixels(self, ref: ImageRef) -> NDArray[np.uint8]:
        """(C, H, W) uint8."""
        found: NDArray[np.uint8] = self._image(ref)[0].numpy()
        return found

    def augmented(self, ref: ImageRef, spec: RunSpec, draw: int) -> NDArray[np.uint8]:
        """What one step of a run could make of the image, (C, H, W) uint8; another `draw` is another step."""
        prepare = Preparation.build((0.5,), (0.5,), torch.device("cpu"), flip=spec.flip, crop_padding=spec.crop_padding)
        found: NDArray[np.uint8] = prepare.augment(self._image(ref), spec.seed, 1, draw)[0].numpy()
        return found

    def _image(self, ref: ImageRef) -> torch.Tensor:
        return self.splits[ref.part].take(torch.tensor([ref.index])).images
