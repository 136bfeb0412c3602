"""timm's networks, built by timm for the images' channels, classes and, where a network has a fixed size, their size.

Imports timm, which is an extra: `engine.catalog.timm_table` says whether it is there.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from engine.catalog.model_info import ModelInfo
from engine.catalog.timm_table import HOW_TO_INSTALL, PREFIX, is_timm_installed, timm_rows
from engine.errors import ModelError
from engine.memory.out_of_memory import is_out_of_memory
from engine.shape import DataShape

_log = logging.getLogger("reslab")
Moments = tuple[tuple[float, ...], tuple[float, ...]]


def import_timm() -> Any:
    """timm. Raises ModelError: it is not installed."""
    if not is_timm_installed():
        raise ModelError(f"timm is not installed; {HOW_TO_INSTALL}")
    try:
        import timm
    except ImportError as error:
        raise ModelError(f"timm cannot be imported ({error}); {HOW_TO_INSTALL} with what it needs") from None
    return timm


def check_name(info: ModelInfo, pretrained: bool) -> None:
    """Raise ModelError if timm has no such network, or no trained weights for it if they are wanted."""
    timm, name = import_timm(), info.name.removeprefix(PREFIX)
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm_rows(), 1)
        hint = f"did you mean {PREFIX}{nearest[0]}? " if nearest else ""
        raise ModelError(f"timm {timm.__version__} has no network {name!r}: {hint}reslab models timm lists them")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:  # the part after the dot
        config = None
    if (pretrained or "." in name) and not (config is not None and config.has_weights):
        raise ModelError(f"timm has no trained weights {name}; choose weights=random, or the path of a state dict")


def build(info: ModelInfo, shape: DataShape, pretrained: bool) -> nn.Module:
    """timm's network; with `pretrained` its own trained weights, fitted by timm, from the hub's cache or the network.

    Raises:
        ModelError: timm is missing, has no such network or weights, or cannot build it for such images.
    """
    check_name(info, pretrained)
    timm, name = import_timm(), info.name.removeprefix(PREFIX)
    options: dict[str, Any] = {"num_classes": shape.num_classes, "in_chans": shape.channels}
    if (native := native_size(info)) is not None and (shape.height, shape.width) != native:
        options["img_size"] = (shape.height, shape.width)
    try:
        network: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        _log.warning("timm cannot build %s", name, exc_info=True)
        reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
        if pretrained:
            raise ModelError(
                f"timm's weights for {name} are neither in the hub's cache nor can they be downloaded, or they do not "
                f"fit ({reason}); connect to the network once, or choose weights=random"
            ) from None
        raise cannot_take(info, shape, reason) from None
    return network


def native_size(info: ModelInfo) -> tuple[int, int] | None:
    """Height and width for which a network of fixed size is made; None for all others."""
    config = import_timm().get_pretrained_cfg(info.name.removeprefix(PREFIX))
    return tuple(config.input_size[1:]) if config is not None and config.fixed_input_size else None


def cannot_take(info: ModelInfo, shape: DataShape, reason: str) -> ModelError:
    """The error for images that a network of timm does not accept."""
    config = import_timm().get_pretrained_cfg(info.name.removeprefix(PREFIX))
    size = f"set image size to {config.input_size[1]}" if config is not None else "choose another image size"
    return ModelError(f"{info.name} cannot take images of {shape} ({reason}); {size}, or choose another network")


def _config(name: str) -> Any:
    """timm's description of the trained weights; None if there are none."""
    timm = import_timm()
    config = timm.get_pretrained_cfg(name)
    return config if config is not None and config.has_weights else None


def pretrained_moments(info: ModelInfo, channels: int) -> Moments:
    """Mean and std per channel of the trained weights' own images; their mean for other numbers of channels."""
    config = _config(info.name.removeprefix(PREFIX))
    if config is None:
        raise ModelError(f"timm has no trained weights for {info.name}; choose weights=random")
    return _for(config.mean, channels), _for(config.std, channels)


def _for(values: Sequence[float], channels: int) -> tuple[float, ...]:
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def last_layers(network: nn.Module) -> tuple[str, ...]:
    """The names of the layers that return classes, as timm describes the network."""
    named: Any = network.pretrained_cfg.get("classifier")  # type: ignore[operator,union-attr]
    modules = dict(network.named_modules())
    return tuple(name for name in ([named] if isinstance(named, str) else named or ()) if name in modules)
