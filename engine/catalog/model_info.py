"""`ModelInfo`: what the menus and the checks know about an architecture before torch is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Origin = Literal["table", "code", "described", "timm", "package"]
"""Where an architecture comes from: reslab's table, a Python file or a TOML file of the user's own, timm, or another
installed package."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One row of the menu.

    `num_parameters` counts trainable values of the native form: 3 channels, `num_classes` classes. `first` and `last`
    name the layers to fit; `stem_width` is the number of channels after the first, `stem_kernel` the side of its
    filters, `features` the input width of the last, `last_bias` whether that has a bias. `builder` is
    "module:function", a `Builder`; `pretrained`: torchvision has ImageNet weights; `own_stem`: the first layers are
    part of the architecture; `resnet`: the norm layer can be chosen, and the names are ResNet's. `twin` is the same
    network without, or with, its shortcuts; `padded_shortcuts`: they have no parameters and pad new channels with zeros
    (type A of He et al. 2015). The side of an image must be at least `min_size` pixels and a multiple of `multiple`.
    `in_padded_pair`: it or its twin has padded shortcuts; twins accept the same settings, so that they can be paired.

    A network of any other `origin` than the table is built for the images' channels and classes as a whole: nothing is
    fitted, and `features`, `first` and `last` say nothing. `num_parameters` is None if only the built network can tell.
    """

    name: str
    title: str
    depth: int | None
    num_parameters: int | None
    features: int
    num_classes: int = 1000
    stem_width: int = 64
    stem_kernel: int = 7
    first: str = "conv1"
    last: str = "fc"
    last_bias: bool = True
    builder: str = "engine.models.building:build_resnet"
    pretrained: bool = True
    own_stem: bool = False
    resnet: bool = True
    twin: str | None = None
    padded_shortcuts: bool = False
    min_size: int = 1
    multiple: int = 1
    in_padded_pair: bool = False
    origin: Origin = "table"
    label: str = ""

    @property
    def short_name(self) -> str:
        """For tables: a path's last part."""
        return self.label or self.name

    @property
    def is_whole(self) -> bool:
        """Whether its builder builds it for the images' channels and classes."""
        return self.origin != "table"

    @property
    def may_draw(self) -> bool:
        """Whether it may use random numbers in training in ways that its layers do not show, such as `F.dropout`."""
        return self.origin in ("code", "package", "timm")

    @property
    def runs_code(self) -> bool:
        """Whether building it runs code of others than reslab, torchvision and timm."""
        return self.origin in ("code", "package")
