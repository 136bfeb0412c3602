"""Files of the user's own, for tests: a network in Python, one in TOML, a dataset in Python."""

from __future__ import annotations

from pathlib import Path

NET = """
import torch.nn.functional as F
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.layer1 = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8 * 4, num_classes)

    def forward(self, images):
        x = F.relu(self.norm(self.layer1(images)))
        x = F.adaptive_max_pool2d(x, 2).flatten(1)
        return self.head(F.dropout(x, 0.2, self.training))
"""

LAYERS = """
[[layers]]
type = "Conv2d"
out_channels = 8
kernel_size = 3
padding = "same"

[[layers]]
type = "BatchNorm2d"

[[layers]]
type = "ReLU"

[[layers]]
type = "AdaptiveMaxPool2d"
output_size = 2

[[layers]]
type = "Flatten"

[[layers]]
type = "Dropout"
p = 0.2

[[layers]]
type = "Linear"
out_features = "classes"
"""

DATA = """
import numpy as np
from sklearn.datasets import load_digits


def load():
    digits = load_digits()
    images = (digits.images[:400] * 15).astype(np.uint8)
    return {"train_images": images[:320], "train_labels": digits.target[:320],
            "test_images": images[320:], "test_labels": digits.target[320:400]}
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path
