"""Pictures in real pixels, if the terminal supports them (Kitty's protocol, Sixel) and the extra is installed.

`__main__` calls this, because the terminal must be queried before the app takes it over.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from textual.widget import Widget

ImageWidget = Callable[[Any], Widget]
"""Makes a widget that draws a PIL image at the size of its styles."""


def find_image_widget() -> ImageWidget | None:
    """textual-image's widget for this terminal; None if only half-block cells are possible."""
    if find_spec("textual_image") is None or not (sys.__stdout__ and sys.__stdout__.isatty()):
        return None
    from textual_image.renderable import Image, SixelImage, TGPImage
    from textual_image.widget import Image as Best

    return Best if Image in (SixelImage, TGPImage) else None
