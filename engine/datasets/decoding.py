"""From image files to uint8 pixels, with Pillow, several at a time.

Content decides, not the file's ending: what decodes to RGB is usable, be it a GIF named .jpg, grey, CMYK, palette or
with alpha. Everything else is left out with a reason, never repaired.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from engine.control import Control
from engine.progress import LoadingStopped, Progress

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
MAX_BYTES = 256 * 2**20  # of one file
MAX_PIXELS = 64_000_000  # refused before decoding: a bomb, or a scan that nobody trains on
_PROGRESS_EVERY_S = 0.1
_AT_ONCE = 64  # files handed to the threads in one go, so that a stop is heard soon
_GREY = ("1", "L", "LA", "I", "I;16", "F")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file: the SHA-256 of its bytes, and why it is not usable (None where it is)."""

    sha256: str
    problem: str | None


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says of itself before it is decoded: width and height in pixels, and whether it holds colour."""

    size: tuple[int, int]
    colour: bool


def read_header(path: Path) -> Header | None:
    """The header of one file; None where it is no image that we read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return Header(image.size, image.mode not in _GREY)
    except Exception:  # Pillow raises almost anything on a broken file; decoding will say what is wrong with it
        return None


def decode(data: bytes, size: int | None, channels: int) -> Pixels | str:
    """Decode one file's bytes to (C, H, W) uint8, or say in a few words why not.

    With `size` the shorter side is resized to it (bilinear) and the centre cut out. A file that is cut short is not
    usable: Pillow is not allowed to fill in what is missing.
    """
    if not data:
        return "empty"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    return f"larger than {MAX_PIXELS:,} pixels"
                if size is not None and image.format == "JPEG":
                    image.draft(None, (size, size))  # decodes at 1/2, 1/4 … where that is still large enough
                picture = image.convert("RGB" if channels == 3 else "L")
                pixels = np.asarray(picture if size is None else _fit_square(picture, size))
    except UnidentifiedImageError:
        return "no image"
    except Exception as error:  # as in read_header
        return f"damaged ({error})"
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _fit_square(picture: Image.Image, size: int) -> Image.Image:
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return picture.resize((size, size), Image.Resampling.BILINEAR, box=box)


def decode_files(
    paths: Sequence[Path], size: int | None, channels: int, control: Control, keep: Callable[[Pixels], None]
) -> Generator[Progress, None, list[FileFacts]]:
    """Decode every file, several threads at work, and hand each usable one's pixels to `keep`, in order.

    Raises:
        LoadingStopped: `control` asked for a stop.
    """

    def work(path: Path) -> tuple[str, Pixels | str]:
        try:
            if path.stat().st_size > MAX_BYTES:
                return "", f"larger than {MAX_BYTES // 2**20} MiB"
            data = path.read_bytes()
        except OSError as error:
            return "", f"unreadable ({error.strerror})"
        return hashlib.sha256(data).hexdigest(), decode(data, size, channels)

    facts: list[FileFacts] = []
    told = 0.0
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            for sha256, found in pool.map(work, paths[start : start + _AT_ONCE]):
                if control.stop_requested:
                    pool.shutdown(cancel_futures=True)
                    raise LoadingStopped
                facts.append(FileFacts(sha256, found if isinstance(found, str) else None))
                if not isinstance(found, str):
                    keep(found)
                if (now := time.perf_counter()) - told >= _PROGRESS_EVERY_S:
                    told = now
                    yield Progress("decode", len(facts), len(paths), "images")
    yield Progress("decode", len(facts), len(paths), "images")
    return facts
