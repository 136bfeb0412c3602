"""Pass a batch through a network without training it, and how many images to pass at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.device import Placement

EVALUATED_PER_PART = 4  # images evaluated at once per image of a micro-batch: an evaluation keeps no activations
_BATCH = 512  # images: on 2 cores no larger batch was faster
_PIXELS = _BATCH * 28 * 28  # at most, so that an evaluation needs less memory than a step
Outputs = tuple[Tensor, Tensor, Tensor]


def evaluation_batch(train_batch: int, height: int, width: int) -> int:
    """Images per evaluation batch: as many as in training, up to four times as many if they are small."""
    most = max(train_batch, _PIXELS // (height * width))
    return min(most, EVALUATED_PER_PART * train_batch, _BATCH)


def forward(model: nn.Module, images: Tensor, labels: Tensor, placement: Placement) -> tuple[Tensor, Tensor, Tensor]:
    """Each image's predicted class, its softmax and the cross-entropy, left on the device."""
    with (
        torch.inference_mode(),
        torch.autocast(placement.device.type, placement.dtype, enabled=placement.autocast),
    ):
        logits = model(images).float()
        confidences, predictions = logits.softmax(dim=1).max(dim=1)
        return predictions, confidences, F.cross_entropy(logits, labels, reduction="none")
