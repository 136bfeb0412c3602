"""Find out from its batch-norms how the shortcuts of a foreign CIFAR ResNet are padded.

Each batch-norm holds the mean and variance of its input in training. Through the right function similar images
reproduce them; through another one they do not. So some training images pass through the network in each form, and a
form is accepted if nearly all layers agree: by a sign test over the layers in which two forms differ, and by the sum of
their deviations. It must also fit in absolute terms: if the images are unlike those of the training, or the training
was short, no form fits, and the best of them may be any.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import torch
from torch import Tensor, nn

from engine.models.cifar import PADDINGS, Block

PLAIN = "none"
_FORMS = (PLAIN, *PADDINGS)
_ALPHA = 0.01
_CLEARLY = 0.8  # of the other form's deviation, at most
# Of a batch-norm, at most, on average. Measured with nine networks trained on digits for 1, 3 or 8 epochs, on images of
# five kinds: up to 0.38 after 3 and 8 epochs on their own images; 0.46 and more in all 9 of 135 clear wrong answers,
# each after 1 epoch. On images of another kind even the right form is mostly above it, so it must be stated there.
_CLOSE = 0.4
_LEAST = 1e-6  # smallest difference between deviations that counts


@dataclass(frozen=True, slots=True)
class Measured:
    """`form` is "none" (no shortcuts), "end" or "both-sides"; None if no form is clearly right. Of the `layers`
    batch-norms in which it differs from the next best form, `agreeing` support it.
    """

    form: str | None
    agreeing: int
    layers: int


def measure_shortcuts(network: nn.Module, images: Tensor) -> Measured:
    """Which form the statistics of a CIFAR network with batch-norm belong to.

    Args:
        network: with foreign weights, on the device of the images; it is left unchanged, in training mode.
        images: (N, C, H, W) float32, normalised, from the training set; some hundred are enough.
    """
    deviations = {form: _deviations(network, images, form) for form in _FORMS}
    order = sorted(_FORMS, key=lambda form: sum(deviations[form]))
    best, *others = order
    votes = [_votes(deviations[best], deviations[other]) for other in others]
    clear = all(
        _chance(agreeing, layers) <= _ALPHA and sum(deviations[best]) <= _CLEARLY * sum(deviations[other])
        for (agreeing, layers), other in zip(votes, others, strict=True)
    )
    fits = sum(deviations[best]) <= _CLOSE * len(deviations[best])
    return Measured(best if clear and fits else None, *votes[0])


def _votes(ours: list[float], theirs: list[float]) -> tuple[int, int]:
    differing = [(a, b) for a, b in zip(ours, theirs, strict=True) if abs(a - b) > _LEAST]
    return sum(a < b for a, b in differing), len(differing)


def _chance(agreeing: int, layers: int) -> float:
    """Probability of at least `agreeing` heads in `layers` coin tosses."""
    return sum(comb(layers, heads) for heads in range(agreeing, layers + 1)) / float(2**layers)


def _deviations(network: nn.Module, images: Tensor, form: str) -> list[float]:
    """Deviation of every batch-norm's input from its statistics, averaged over channels, in layer order."""
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    before = [(block.shortcut, block.padding) for block in blocks]
    found: list[float] = []

    def measure(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0].float(), dim=(0, 2, 3))
        spread = (norm.running_var + norm.eps).sqrt()
        shift = ((mean - norm.running_mean) / spread).abs()
        scale = ((variance + norm.eps).sqrt() / spread).log().abs()
        found.append(float((shift + scale).mean()))

    hooks = [
        module.register_forward_pre_hook(measure) for module in network.modules() if isinstance(module, nn.BatchNorm2d)
    ]
    try:
        for block in blocks:
            block.shortcut, block.padding = form != PLAIN, "end" if form == PLAIN else form
        with torch.no_grad():
            network.eval()(images)
    finally:
        network.train()
        for hook in hooks:
            hook.remove()
        for block, (shortcut, padding) in zip(blocks, before, strict=True):
            block.shortcut, block.padding = shortcut, padding
    return found
