"""Pictures in the terminal's own pixels, where it has them (Kitty's protocol, Sixel) and the extra is installed.

The terminal must be asked before the app takes it over, so `__main__` asks; without the extra nothing is asked.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from textual.widget import Widget

ImageWidget = Callable[[Any], Widget]
"""Makes a widget that draws a PIL image, as large as its styles say."""


def find_image_widget() -> ImageWidget | None:
    """textual-image's widget for what this terminal can do; None where half-block cells are the best there is."""
    if find_spec("textual_image") is None or not (sys.__stdout__ and sys.__stdout__.isatty()):
        return None
    from textual_image.renderable import Image, SixelImage, TGPImage
    from textual_image.widget import Image as Best

    return Best if Image in (SixelImage, TGPImage) else None
