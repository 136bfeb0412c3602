"""A CIFAR ResNet as its author publishes it: evaluated, it predicts what the author's own network predicts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from engine.events import Evaluated, RunStarted
from engine.lab import Lab
from engine.paths import Folders
from engine.spec import RunSpec

pytestmark = pytest.mark.usefixtures("one_thread")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NUM_TRAIN, _NUM_TEST = 300, 60


class _Lambda(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class _Block(nn.Module):
    """The shortcut pads half of the new channels before the existing ones and half behind them, or all behind."""

    def __init__(self, inputs: int, outputs: int, stride: int, on_both_sides: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Sequential()
        if stride != 1:
            before = outputs // 4 if on_both_sides else 0
            behind = outputs // 2 - before
            self.shortcut = _Lambda(lambda x: F.pad(x[..., ::2, ::2], (0, 0, 0, 0, before, behind)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        out = out + self.shortcut(x)
        return out.relu()


class TheirResNet(nn.Module):
    """ResNet-20 with the published files' names."""

    def __init__(self, on_both_sides: bool = True) -> None:
        super().__init__()
        self.on_both_sides = on_both_sides
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1)
        self.layer2 = self._stage(16, 32, 2)
        self.layer3 = self._stage(32, 64, 2)
        self.linear = nn.Linear(64, 10)

    def _stage(self, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        first = _Block(inputs, outputs, stride, self.on_both_sides)
        return nn.Sequential(first, *(_Block(outputs, outputs, 1, self.on_both_sides) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.avg_pool2d(x, x.shape[3])
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def _coloured_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(N, 8, 8, 3), each digit in a colour of its own, and labels."""
    from sklearn.datasets import load_digits

    bunch, colours = load_digits(), np.random.default_rng(0)
    number = _NUM_TRAIN + _NUM_TEST
    grey = bunch.images[:number, :, :, None] / 16
    tint = colours.uniform(0.3, 1.0, (number, 1, 1, 3))
    return (255 * grey * tint).round().astype(np.uint8), bunch.target[:number].astype(np.int64)


def write_images(folder: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """As a folder with a training and a test part."""
    for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / ("train" if number < _NUM_TRAIN else "test") / str(label) / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def normalised(images: NDArray[np.uint8]) -> Tensor:
    """(N, 3, H, W) as torchvision's ToTensor and Normalize give it."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (_MEAN, _STD))
    return (pixels - mean) / std


def trained(images: Tensor, labels: Tensor, epochs: int = 3) -> TheirResNet:
    """Briefly; its batch-norms then get the statistics that a long training would leave them."""
    torch.manual_seed(0)
    network = TheirResNet()
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(epochs):
        for start in range(0, len(images), 50):
            rows = slice(start, start + 50)
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(network(images[rows]), labels[rows]))
            optimizer.step()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean over all passes: here one, over all images
    with torch.no_grad():
        network(images)
    return network.eval()


@pytest.mark.slow
def test_evaluate_predicts_what_the_published_network_predicts(folders: Folders, tmp_path: Path) -> None:
    images, labels = _coloured_digits()
    write_images(tmp_path / "digits", images, labels)
    network = trained(normalised(images[:_NUM_TRAIN]), torch.from_numpy(labels[:_NUM_TRAIN]))
    other = TheirResNet(on_both_sides=False).eval()
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        logits, other_logits = (one(normalised(images[_NUM_TRAIN:])) for one in (network, other))
    theirs = logits.argmax(1).tolist()
    accuracy = float(np.mean(np.array(theirs) == labels[_NUM_TRAIN:]))
    assert accuracy > 0.3  # it has learnt something
    assert sum(a != b for a, b in zip(theirs, other_logits.argmax(1).tolist(), strict=True)) > 10  # and this would show
    path = tmp_path / "resnet20-12fca82f.th"
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"best_prec1": 92.6, "state_dict": state}, path)

    lab = Lab(folders)
    events = list(lab.evaluate(RunSpec(f"folder:{tmp_path / 'digits'}", "resnet20", weights=str(path))).events())
    notes = next(event.notes for event in events if isinstance(event, RunStarted))
    assert notes[0] == (
        "weights resnet20-12fca82f.th (from state_dict, without module.): 97 tensors kept; "
        "fc (linear in the file) kept: 10 classes, names unknown"
    )
    assert notes[1].startswith("shortcuts padded on both sides: 10 of the 10 batch-norms")
    (evaluated,) = [event for event in events if isinstance(event, Evaluated)]
    assert evaluated.metrics.loss == pytest.approx(
        float(F.cross_entropy(logits, torch.from_numpy(labels[_NUM_TRAIN:]))), rel=1e-5
    )
    assert lab.run(1).record.final == evaluated.metrics
    ours = {Path(row.file or "").name: int(row.predicted) for row in lab.predictions(1)}
    assert [ours[f"{number:04}.png"] for number in range(_NUM_TRAIN, _NUM_TRAIN + _NUM_TEST)] == theirs
    assert evaluated.metrics.accuracy == pytest.approx(accuracy)
