"""From image files to uint8 pixels, with Pillow, several at a time.

Content decides, not the file's ending. A file that does not decode is left out and counted, never repaired.
"""

from __future__ import annotations

import io
import os
import time
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.control import Control
from engine.progress import LoadingStopped, Progress

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
MAX_PIXELS = 64_000_000  # refused before decoding: a bomb, or a scan that nobody trains on
_PROGRESS_EVERY_S = 0.1
_AT_ONCE = 512  # files handed to the threads in one go, so that a stop is heard soon

Pixels = NDArray[np.uint8]


def is_colour(path: Path) -> bool | None:
    """Whether the file holds colour, by its header alone; None where it is no image that we read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.mode not in ("1", "L", "LA", "I", "I;16", "F")
    except Exception:  # Pillow raises almost anything on a broken file; the caller counts it
        return None


def read_size(path: Path) -> tuple[int, int] | None:
    """Width and height by the header alone; None where it is no image that we read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return image.size
    except Exception:
        return None


def decode(path: Path, size: int | None, channels: int) -> Pixels | None:
    """Decode one file to (C, H, W) uint8; with `size`, the shorter side is resized to it and the centre cut out.

    Returns None where the file cannot be decoded whole, or is larger than `MAX_PIXELS`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    return None
                if size is not None and image.format == "JPEG":
                    image.draft(None, (size, size))  # decodes at 1/2, 1/4 … where that is still large enough
                picture = image.convert("RGB" if channels == 3 else "L")
                if size is not None:
                    picture = _fit_square(picture, size)
                pixels = np.asarray(picture)
    except Exception:  # as in is_colour
        return None
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _fit_square(picture: Image.Image, size: int) -> Image.Image:
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return picture.resize((size, size), Image.Resampling.BILINEAR, box=box)


def decode_all(
    paths: Sequence[Path], size: int | None, channels: int, control: Control
) -> Generator[Progress, None, list[Pixels | None]]:
    """Decode every file, in order; None stands for one that does not decode.

    Raises:
        LoadingStopped: `control` asked for a stop.
    """
    decoded: list[Pixels | None] = []
    told = 0.0
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            chunk = paths[start : start + _AT_ONCE]
            for pixels in pool.map(lambda path: decode(path, size, channels), chunk):
                if control.stop_requested:
                    pool.shutdown(cancel_futures=True)
                    raise LoadingStopped
                decoded.append(pixels)
                if (now := time.perf_counter()) - told >= _PROGRESS_EVERY_S:
                    told = now
                    yield Progress("decode", len(decoded), len(paths), "images")
    yield Progress("decode", len(decoded), len(paths), "images")
    return decoded
