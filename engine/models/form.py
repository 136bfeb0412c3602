"""What weights alone do not say of the function that they belong to.

Two networks may have the same names and shapes and compute different things: the shortcuts of the CIFAR ResNets have no
parameters, so where they put their zeros is nowhere in the weights; GoogLeNet and Inception may scale their input anew.
Every checkpoint says it in its header, as `form`.
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
    """As JSON; empty where names and shapes say it all."""
    form: dict[str, Any] = {}
    for module in network.modules():
        if isinstance(module, Block) and module.shortcut:
            form["shortcut_padding"] = module.padding
        elif hasattr(module, "transform_input"):
            form["transform_input"] = bool(module.transform_input)
    return form


def apply_form(network: nn.Module, form: Mapping[str, Any]) -> None:
    """Let `network` compute what the weights were trained for; what `form` does not say stays as it is.

    Raises:
        ModelError: it says something that this version does not know.
    """
    for name, value in form.items():
        if value not in _KNOWN.get(name, ()):
            said = safe_text(f"{name}={value!r}", 60)
            raise ModelError(f"this reslab does not know networks with {said}; update reslab")
    for module in network.modules():
        if isinstance(module, Block) and "shortcut_padding" in form:
            module.padding = form["shortcut_padding"]
        elif hasattr(module, "transform_input") and "transform_input" in form:
            module.transform_input = bool(form["transform_input"])  # type: ignore[assignment]
