"""From the bytes of an image file to uint8 pixels, with Pillow, several files at a time. The only place that decodes.

The content decides, not the file's extension (`formats`). Unreadable files are skipped with a reason, never repaired.
Every file goes through the same steps, in this order, in training, in `predict` and wherever a picture is shown:

1. read its header, and skip files that are too large;
2. reduce more than 8 bits a sample to 8 by the dataset's range (`depth`);
3. composite any transparency over mid-grey (128, 128, 128), so that the invisible colour below it has no effect. Grey,
   because a white drawing would vanish on white and a black one on black; normalised, it is near zero;
4. turn it upright, by the eight orientations of EXIF;
5. convert it to grey or RGB and, if a size is given, crop the centre and resize it (bilinear).

Size limits. Up to 64 million pixels, several files are decoded at once. Up to 256 million, one at a time, if twice the
memory needed is free. A JPEG may have 1,024 million: if a size is given, it is decoded at 1/2, 1/4 or 1/8, as long as
that is not smaller than requested, and the reduced size counts. RESLAB_MAX_PIXELS sets another limit than these.
"""

from __future__ import annotations

import hashlib
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import psutil
from numpy.typing import NDArray
from PIL import Image

from engine import environment
from engine.control import Control
from engine.cores import usable_cores
from engine.data.columns import FactTable
from engine.data.depth import (
    BIT_DEPTHS,
    OVERSHOOT,
    SHARE_ABOVE,
    Extreme,
    PixelRange,
    choose_range,
    extreme_of,
    is_deep,
    is_grey_with_alpha,
    read_samples,
    to_8_bits,
)
from engine.data.formats import EMPTY, FORMATS, UnusableImageError, open_image, reads_heic
from engine.memory.headroom import container_headroom
from engine.progress import LoadingStopped, Progress
from engine.text import memory_size

MAX_BYTES = 2**30  # of one file
MAX_PIXELS = 64_000_000  # decoded in parallel
MAX_LARGE_PIXELS = 256_000_000  # decoded alone; anything above is a bomb or an unusable scan
BACKGROUND = (128, 128, 128)
TOO_LITTLE_MEMORY = "too little memory"
RULE: Final = (2, FORMATS, BACKGROUND, BIT_DEPTHS, OVERSHOOT, SHARE_ABOVE, MAX_BYTES, MAX_LARGE_PIXELS)
"""Everything that determines a file's pixels, for cache keys. Increment the number with any other change."""

_LARGE_BYTES = 64 * 2**20  # a file that is read alone
_PROGRESS_EVERY_S = 0.1
_AT_ONCE = 64  # files per batch of work, so that a stop takes effect soon
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_PNG = b"\x89PNG\r\n\x1a\nIHDR"
_NEVER_DEEP = (b"\xff\xd8", b"GIF8", b"RIFF", b"BM")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_ORIENTATION = 0x0112
_alone = threading.RLock()

Pixels = NDArray[np.uint8]
Size = int | tuple[int, int] | None
"""Side of a square, (height, width), or None: the file's own size. In pixels."""


@dataclass(frozen=True, slots=True)
class Header:
    """From a file's header: upright width and height in pixels, and whether it has colour."""

    size: tuple[int, int]
    colour: bool


def max_pixels() -> int:
    """The user's bound for the pixels of an image, 0 without one.

    Raises:
        SpecError: the variable is not valid.
    """
    return int(environment.text_of(environment.MAX_PIXELS) or 0)


def decoding_rule() -> tuple[object, ...]:
    """`RULE`, and what of this machine determines which files are usable."""
    return (*RULE, *(("HEIC",) if reads_heic() else ()), *((max_pixels(),) if max_pixels() else ()))


def read_header(source: Path | bytes) -> Header | None:
    """The header of one file; None if it is not a supported image."""
    try:
        with _quietly(), open_image(source) as image:
            width, height = image.size
            colour = image.mode not in _GREY and not is_grey_with_alpha(image)
            return Header((height, width) if _orientation(image) >= 5 else (width, height), colour)
    except Exception:  # Pillow raises almost anything on a broken file; decoding reports the problem
        return None


def read_kind(path: Path) -> tuple[str, str] | None:
    """The size of one file ("200×150", as stored), and its format and mode ("JPEG RGB"); None if it is no image."""
    try:
        with _quietly(), open_image(path) as image:
            return f"{image.width}×{image.height}", f"{image.format} {image.mode}"
    except Exception:  # as in read_header
        return None


def decode(data: bytes, size: Size, channels: int, pixel_range: PixelRange = PixelRange()) -> Pixels | str:  # noqa: B008
    """Decode one file's bytes to (C, H, W) uint8, or return the reason why not in a few words.

    With `size`, the largest centred part of that shape is cropped and resized. A truncated file is unusable: Pillow may
    not fill in missing data. `pixel_range` is that of the dataset, or of the run.
    """
    if not data:
        return EMPTY
    try:
        with _quietly(), open_image(data) as image:
            shape = (size, size) if isinstance(size, int) else size
            with _prepared(image, shape):
                picture = _converted(_upright_picture(image, data, pixel_range), "RGB" if channels == 3 else "L")
                pixels = np.asarray(picture if shape is None else _fit(picture, *shape))
    except UnusableImageError as error:
        return str(error)
    except MemoryError:
        return TOO_LITTLE_MEMORY
    except Exception as error:  # as in read_header
        return f"damaged ({error})"
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _prepared(image: Image.Image, shape: tuple[int, int] | None) -> Iterator[None]:
    """Choose the scale at which a JPEG is decoded; block other large images while a large one is decoded.

    Raises:
        UnusableImageError: it is too large, or there is too little memory now.
    """
    declared = image.width * image.height
    if shape is not None and image.format in ("JPEG", "MPO"):
        image.draft(None, (max(shape), max(shape)))
    decoded = image.width * image.height
    most = max_pixels() or (MAX_PIXELS if shape is None else MAX_LARGE_PIXELS)
    if decoded > most:
        raise UnusableImageError(f"larger than {most:,} pixels ({environment.MAX_PIXELS.name} raises this bound)")
    # 4 bytes a pixel, twice while it is turned or converted; a progressive JPEG is held at full size; 16-bit colour
    # needs both halves and the result.
    needed = (20 if is_deep(image) else 8) * decoded + (6 * declared if image.info.get("progressive") else 0)
    if needed <= 8 * MAX_PIXELS:
        yield
        return
    with _alone:
        if 2 * needed > (free := min(int(psutil.virtual_memory().available), container_headroom())):
            raise UnusableImageError(
                f"{TOO_LITTLE_MEMORY}: {declared:,} pixels take {memory_size(needed)}, {memory_size(free)} are free"
            )
        yield


def _upright_picture(image: Image.Image, data: bytes, pixel_range: PixelRange) -> Image.Image:
    """An opened image with 8 bits a sample, opaque and upright."""
    if image.format == "PNG":
        _scale_key(image)
    picture = to_8_bits(read_samples(image, data), pixel_range) if is_deep(image) else image
    picture.load()
    turn = _TURNS.get(_orientation(image))
    opaque = _opaque(picture, has_alpha=image.format != "TGA" or bool(data[17] & 15))
    return opaque if turn is None else opaque.transpose(turn)


def _scale_key(image: Image.Image) -> None:
    """Pillow widens grey of 2 and 4 bits to 8, but not the transparent value."""
    key, name = image.info.get("transparency"), getattr(image, "tile", [None])[0]
    step = {"L;2": 85, "L;4": 17}.get(name.args if name is not None else "")
    if step is not None and isinstance(key, int):
        image.info["transparency"] = key * step


def _opaque(picture: Image.Image, has_alpha: bool) -> Image.Image:
    """Composited over `BACKGROUND`. A 32-bit TGA may declare its last 8 bits unused."""
    if not picture.has_transparency_data:
        return picture
    if not has_alpha:
        return picture.convert("RGB")
    layer = picture.convert("LA") if picture.mode == "La" else picture
    layer = _converted(layer, "RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", layer.size, (*BACKGROUND, 255)), layer)
    return flat.convert("L" if picture.mode in _GREY else "RGB")


def _orientation(image: Image.Image) -> int:
    """1 to 8 as in EXIF; 1 if unreadable or missing, and for TIFF and HEIC, which come upright."""
    if image.format in ("TIFF", "HEIF"):
        return 1
    try:
        # Pillow's PNG method would decode the whole image to find a late chunk.
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
    except Exception:  # as in read_header: broken metadata does not make an image unusable
        return 1
    return orientation if orientation in _TURNS else 1


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    return picture if picture.mode == mode else picture.convert(mode)  # avoids copying


def _fit(picture: Image.Image, height: int, width: int) -> Image.Image:
    """The largest centred part of this shape, resized (bilinear)."""
    wide, high = float(picture.width), float(picture.height)
    if picture.width * height <= picture.height * width:
        high = picture.width * height / width
    else:
        wide = picture.height * width / height
    left, top = (picture.width - wide) / 2, (picture.height - high) / 2
    box = (left, top, left + wide, top + high)
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=box)


def measure_range(paths: Sequence[Path], control: Control) -> Generator[Progress, None, PixelRange]:
    """The range of all deep files among `paths`, which this decodes; of other files it reads only the start.

    Raises:
        LoadingStopped: `control` requested a stop.
    """
    found: list[Extreme] = []
    with ThreadPoolExecutor(max_workers=num_threads()) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            for extreme in pool.map(_measured, paths[start : start + _AT_ONCE]):
                if control.stop_requested:
                    pool.shutdown(cancel_futures=True)
                    raise LoadingStopped
                found += [extreme] if extreme is not None else []
            if found:
                yield Progress("measure", min(start + _AT_ONCE, len(paths)), len(paths), "images")
            else:
                yield Progress("decode", 0, len(paths), "images")
    return choose_range(found)


def _measured(path: Path) -> Extreme | None:
    """None if a file does not affect the range: 8 bits, a range of its own, or unusable."""
    try:
        with path.open("rb") as file:
            start = file.read(25)
        if start.startswith(_NEVER_DEEP) or (start[:8] + start[12:16] == _PNG and start[24:] <= b"\x08"):
            return None  # a PNG's 25th byte is its bits a sample
        with _quietly(), open_image(path) as image:
            if not is_deep(image):
                return None
        with _reading(path):
            data = path.read_bytes()
            with _quietly(), open_image(data) as image, _prepared(image, (1, 1)):
                return extreme_of(read_samples(image, data))
    except Exception:  # as in read_header
        return None


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Raises UnusableImageError, OSError; a large file blocks other large files."""
    num_bytes = path.stat().st_size
    if num_bytes > MAX_BYTES:
        raise UnusableImageError(f"larger than {MAX_BYTES // 2**20:,} MiB")
    with _alone if num_bytes > _LARGE_BYTES else nullcontext():
        yield


def read_bytes(path: Path) -> bytes:
    """The whole file.

    Raises:
        UnusableImageError: it is missing, not a regular file, unreadable or too large.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe would never end
            raise UnusableImageError("not a regular file")
        with _reading(path):
            return path.read_bytes()
    except OSError as error:
        raise UnusableImageError(f"cannot read it ({error.strerror})") from None


def num_threads() -> int:
    """Threads that decode a whole dataset."""
    return min(8, usable_cores())


def read_and_decode(path: Path, size: int | None, channels: int, pixel_range: PixelRange) -> tuple[str, Pixels | str]:
    """The SHA-256 of a file's bytes, and its pixels, or why there are none."""
    try:
        with _reading(path):
            data = path.read_bytes()
            return hashlib.sha256(data).hexdigest(), decode(data, size, channels, pixel_range)
    except UnusableImageError as error:
        return "", str(error)
    except OSError as error:
        return "", f"unreadable ({error.strerror})"


def decode_files(
    paths: Sequence[Path],
    size: int | None,
    channels: int,
    control: Control,
    keep: Callable[[Pixels], None],
    pixel_range: PixelRange = PixelRange(),  # noqa: B008
) -> Generator[Progress, None, FactTable]:
    """Decode every file in several threads, and pass each usable one's pixels to `keep`, in order.

    Without a `size`, all must have the size of the first.

    Raises:
        LoadingStopped: `control` requested a stop.
    """

    def work(path: Path) -> tuple[str, Pixels | str]:
        return read_and_decode(path, size, channels, pixel_range)

    facts = FactTable()
    reported_at, shape = 0.0, None
    with ThreadPoolExecutor(max_workers=num_threads()) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            for sha256, found in pool.map(work, paths[start : start + _AT_ONCE]):
                if control.stop_requested:
                    pool.shutdown(cancel_futures=True)
                    raise LoadingStopped
                if not isinstance(found, str):
                    shape = shape or found.shape
                    found = found if found.shape == shape else _size_mismatch(found, shape)
                facts.add(sha256, found if isinstance(found, str) else None)
                if not isinstance(found, str):
                    keep(found)
                if (now := time.perf_counter()) - reported_at >= _PROGRESS_EVERY_S:
                    reported_at = now
                    yield Progress("decode", len(facts), len(paths), "images")
    yield Progress("decode", len(facts), len(paths), "images")
    return facts


def _size_mismatch(found: Pixels, shape: tuple[int, ...]) -> str:
    return f"{found.shape[2]}×{found.shape[1]} pixels, the others have {shape[2]}×{shape[1]}; choose an image size"
