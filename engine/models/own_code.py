"""Networks from a user's own Python file, or from an installed package: a function or class that returns an nn.Module.

    def Net(num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module: ...

`image_size` (height, width) is passed to those that take it. The network gets normalised images (N, C, H, W) and
returns logits (N, classes).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from engine.catalog.model_info import ModelInfo
from engine.code_reference import CodeReference
from engine.own_code import OwnModelError, OwnObject, explained, line_of, load_from_file, load_provided
from engine.shape import DataShape

_IMAGES = 2  # one could be mistaken for a missing axis


def build(info: ModelInfo, shape: DataShape, pretrained: bool) -> nn.Module:
    """Runs the file. Raises OwnModelError: it does not work; the text names the file and the line."""
    with _disable_current_modes():  # a forecast's, whose tensors have no contents: what a file makes stays
        factory = load_from_file(CodeReference.of(info.name), OwnModelError)
    return _built(factory, shape)


def build_provided(info: ModelInfo, shape: DataShape, pretrained: bool) -> nn.Module:
    """Imports the package. Raises as `build`."""
    with _disable_current_modes():
        factory = load_provided("models", info.name, OwnModelError)
    return _built(factory, shape)


def _built(factory: OwnObject, shape: DataShape) -> nn.Module:
    required = {"num_classes": shape.num_classes, "in_channels": shape.channels}
    network = factory(required, {"image_size": (shape.height, shape.width)})
    if not isinstance(network, nn.Module):
        raise OwnModelError(f"{factory.shown} returned {_kind(network)}; expected a torch.nn.Module")
    if not any(values.requires_grad for values in network.parameters()):
        raise OwnModelError(
            f"{factory.shown} returned a network without trainable parameters; there is nothing to train"
        )
    return network.train()


def check_outputs(network: nn.Module, info: ModelInfo, shape: DataShape) -> None:
    """Pass two blank images through, without training: the network must return one value per image and class.

    Raises:
        OwnModelError: it does not, or raises something; the text names the file and the line.
    """
    device = next(network.parameters()).device
    images = torch.zeros(_IMAGES, shape.channels, shape.height, shape.width, device=device)
    was_training = network.training
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), explained(info.name, OwnModelError):
        logits = network.eval()(images)
    network.train(was_training)
    at = f"{info.name}{'' if info.origin == 'timm' else line_of(network)}"
    expected = f"expected a tensor ({_IMAGES}, {shape.num_classes}), one value per image and class"
    if not isinstance(logits, Tensor):
        raise OwnModelError(f"{at}: for two images of {shape} it returned {_kind(logits)}; {expected}")
    if logits.shape != (_IMAGES, shape.num_classes) or not logits.is_floating_point():
        found = f"{str(logits.dtype).removeprefix('torch.')} values of shape {tuple(logits.shape)}"
        raise OwnModelError(f"{at}: for two images of {shape} it returned {found}; {expected}")


def _kind(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
