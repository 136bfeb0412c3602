"""Builds the networks that `engine.catalog.described` reads: torch's layers, one after another."""

from __future__ import annotations

from torch import nn

from engine.catalog.described import fit_layers
from engine.catalog.model_info import ModelInfo
from engine.catalog.own_models import own_path
from engine.shape import DataShape


def build(info: ModelInfo, shape: DataShape, pretrained: bool) -> nn.Module:
    """With torch's own initialisation. Raises SpecError: the file does not describe a network for such images."""
    layers = fit_layers(own_path(info.name), shape)
    return nn.Sequential(*(getattr(nn, layer.kind)(**layer.arguments) for layer in layers))
