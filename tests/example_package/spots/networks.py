"""A small convolutional network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SpotNet(nn.Module):
    """Two convolutions, dropout, a mean over all pixels of each quarter of the image, one linear layer."""

    def __init__(self, num_classes: int, in_channels: int, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = F.relu(self.second(F.relu(self.norm(self.first(images)))))
        quarters = F.adaptive_avg_pool2d(features, 2).flatten(1)
        logits: Tensor = self.head(F.dropout(quarters, 0.1, self.training))
        return logits
