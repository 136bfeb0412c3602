"""What weights alone do not say about their function.

Two networks may have the same names and shapes and compute different functions: the shortcuts of the CIFAR ResNets have
no parameters, so the weights do not show where their zeros go; GoogLeNet and Inception may rescale their input. Every
checkpoint states it in its header, as `form`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from engine.errors import ModelError
from engine.models.cifar import PADDINGS, Block
from engine.text import safe_text

_KNOWN = {"shortcut_padding": tuple(PADDINGS), "transform_input": (True, False)}


def form_of(network: nn.Module) -> dict[str, Any]:
    """As JSON; empty if names and shapes determine the function."""
    form: dict[str, Any] = {}
    for module in network.modules():
        if isinstance(module, Block) and module.shortcut:
            form["shortcut_padding"] = module.padding
        elif _is_torchvisions(module) and hasattr(module, "transform_input"):
            form["transform_input"] = bool(module.transform_input)
    return form


def apply_form(network: nn.Module, form: Mapping[str, Any]) -> None:
    """Make `network` compute what its weights were trained for; anything that `form` leaves out stays unchanged.

    Raises:
        ModelError: it has a value that this version does not know.
    """
    for name, value in form.items():
        if value not in _KNOWN.get(name, ()):
            shown = safe_text(f"{name}={value!r}", 60)
            raise ModelError(f"this reslab does not know networks with {shown}; update reslab")
    for module in network.modules():
        if isinstance(module, Block) and "shortcut_padding" in form:
            module.padding = form["shortcut_padding"]
        elif "transform_input" in form and _is_torchvisions(module) and hasattr(module, "transform_input"):
            module.transform_input = bool(form["transform_input"])  # type: ignore[assignment]


def _is_torchvisions(module: nn.Module) -> bool:
    """A user's own network may use the same name for something else."""
    return type(module).__module__.startswith("torchvision.")
