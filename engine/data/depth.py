"""From images of more than 8 bits a sample ("deep": X-ray, microscope, depth) to 8 bits, by one rule per dataset.

    8 bits = round(255 · (value - low) / (high - low)), clipped to 0 and 255

`low` and `high` are the range that a file itself declares, if it does: a TIFF's SMinSampleValue with its
SMaxSampleValue, or its 12 bits a sample; PGM and JPEG 2000 always (Pillow spreads theirs over 16 bits). For all others
`low` is 0 and `high` is one number for the whole dataset, training and test part together (`PixelRange`):

- integers: the smallest of 8, 10, 12, 14, 16, 20, 24 and 31 bits that holds the largest value of all these files, and
  at least the significant bits that a PNG declares (sBIT); if a file exceeds its sBIT, all 16, because then the samples
  were spread as the PNG specification says (section 11.3.2.7);
- floats: 1 if all of these files lie in 0 to 1, else 255. Up to a tenth of overshoot, as from resampling, is clipped.

The range is recorded with the run; files read later use it, never their own bits. Files of 8 bits stay unchanged, also
beside deep ones. Skipped, with the reason: negative values without a declared range, NaN and infinity, floats above
255, and a file with more than 1 % of its values above 110 % of `high`, which must be on another scale.

16-bit colour in PNG and TIFF is read at full depth, alpha too. Of 16 bits in SGI, CMYK and premultiplied TIFF, Pillow
returns only the upper 8, which is right for samples that use all 16. Fully transparent pixels do not count.
"""

from __future__ import annotations

import io
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.data.formats import UnusableImageError

BIT_DEPTHS = (8, 10, 12, 14, 16, 20, 24, 31)
OVERSHOOT = 1.1
SHARE_ABOVE = 0.01
_FULL_16 = 65535
_MOST_FLOAT = 255.0
_ROWS = 512  # scaled at once, to limit the float copy
_SMIN, _SMAX, _BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 340, 341, 258, 262, 339  # TIFF tags
_INTEGER_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")

Kind = Literal["integers", "floats"]


@dataclass(frozen=True, slots=True)
class PixelRange:
    """The value that becomes 255 in deep files without a declared range; None: no such files of that kind."""

    integers: int | None = None
    floats: float | None = None

    def high(self, kind: Kind) -> float | None:
        return self.integers if kind == "integers" else self.floats


@dataclass(frozen=True, slots=True)
class Extreme:
    """The largest value of a deep file without a declared range, and the significant bits from its sBIT, or 0."""

    kind: Kind
    greatest: float
    bits: int = 0


@dataclass(frozen=True, slots=True)
class Samples:
    """A deep image: `values` (H, W, C), C 1 or 3, and `alpha` (H, W) uint8 if it has one.

    `declared` is the range that the file declares; `bits` as in `Extreme`. If `inverted`, 0 is white.
    """

    values: NDArray[Any]
    alpha: NDArray[np.uint8] | None
    declared: tuple[float, float] | None
    bits: int
    inverted: bool

    @property
    def kind(self) -> Kind:
        return "floats" if self.values.dtype.kind == "f" else "integers"

    @property
    def visible(self) -> NDArray[Any]:
        """The values that are not fully transparent."""
        return self.values if self.alpha is None or self.alpha.all() else self.values[self.alpha > 0]


def is_deep(image: Image.Image) -> bool:
    """Whether an image that is opened, but not loaded, has more than 8 bits a sample that can be read."""
    return (
        image.mode == "F"
        or image.mode in _INTEGER_MODES
        or _colour_rawmode(image) is not None
        or _is_signed_byte(image)
    )


def is_grey_with_alpha(image: Image.Image) -> bool:
    """Whether Pillow reports RGBA although there is no colour: a PNG of 16-bit grey and alpha."""
    return _colour_rawmode(image) == "LA;16B"


def _is_signed_byte(image: Image.Image) -> bool:
    """A TIFF of signed bytes, which Pillow reads as unsigned."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and image.mode == "L" and tuple(tags.get(_SAMPLE_FORMAT, ())) == (2,)


def _colour_rawmode(image: Image.Image) -> str | None:
    """Pillow's name for a layout of 16-bit samples that it would cut to 8 bits, if both bytes can be read."""
    tiles = getattr(image, "tile", None)
    if image.format not in ("PNG", "TIFF") or not tiles:
        return None
    name = tiles[0].args if isinstance(tiles[0].args, str) else tiles[0].args[0]
    known = name == "LA;16B" or (str(name).endswith((";16B", ";16L", ";16N")) and name[:-4] in ("RGB", "RGBX", "RGBA"))
    return str(name) if known else None


def read_samples(image: Image.Image, data: bytes) -> Samples:
    """The samples of a deep image opened from `data` and not yet loaded, at full depth.

    Raises:
        UnusableImageError: they are not finite, or negative without a declared range.
    """
    rawmode = _colour_rawmode(image)
    if rawmode is None:
        values, alpha = np.asarray(image)[..., None], None
        if _is_signed_byte(image):
            values = values.view(np.int8)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
    else:
        values, alpha = _both_bytes(image, data, rawmode)
    alpha = _keyed(values, alpha, image.info.get("transparency"))
    samples = Samples(values, alpha, _declared(image), _significant_bits(image, data), _zero_is_white(image))
    if not np.isfinite(samples.visible).all():
        raise UnusableImageError("NaN or infinite values")
    if samples.declared is None and (samples.visible < 0).any():
        raise UnusableImageError("negative values (or more than 31 bits) and no declared range")
    return samples


def _both_bytes(image: Image.Image, data: bytes, rawmode: str) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Pillow has no 16-bit colour, but decodes the upper bytes and, under another layout's name, the lower ones."""
    if rawmode == "LA;16B":
        _rename(image, "RGBA")
        four = np.asarray(image)
        return (four[..., :1].astype(np.uint16) << 8) | four[..., 1:2], four[..., 2].copy()
    with Image.open(io.BytesIO(data), formats=(image.format or "",)) as other:
        _rename(other, f"{rawmode[:-4]};16{_opposite(rawmode[-1])}")
        lower, upper = np.asarray(other), np.asarray(image)
    values = (upper[..., :3].astype(np.uint16) << 8) | lower[..., :3]
    return values, upper[..., 3].copy() if upper.shape[2] == 4 else None


def _opposite(order: str) -> str:
    return "B" if order == "L" or (order == "N" and sys.byteorder == "little") else "L"


def _rename(image: Any, rawmode: str) -> None:
    image.tile = [
        tile._replace(args=rawmode if isinstance(tile.args, str) else (rawmode, *tile.args[1:])) for tile in image.tile
    ]


def _keyed(values: NDArray[Any], alpha: NDArray[np.uint8] | None, key: object) -> NDArray[np.uint8] | None:
    """The opacity, if a PNG declares one value or colour as transparent."""
    if alpha is not None or not isinstance(key, int | tuple):
        return alpha
    return np.where((values == np.asarray(key)).all(axis=2), 0, 255).astype(np.uint8)


def _declared(image: Image.Image) -> tuple[float, float] | None:
    if image.format in ("PPM", "JPEG2000") and image.mode != "F":
        return 0.0, _FULL_16
    tags = getattr(image, "tag_v2", None)
    if tags is None:
        return None
    if _SMIN in tags and _SMAX in tags:
        low, high = float(np.min(tags[_SMIN])), float(np.max(tags[_SMAX]))
        if np.isfinite([low, high]).all() and high > low:
            return low, high
    return (0.0, 4095.0) if tuple(tags.get(_BITS, ())) == (12,) else None


def _zero_is_white(image: Image.Image) -> bool:
    """Pillow inverts such TIFFs if they have 8 bits, but not if they have more."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(_PHOTOMETRIC) == 0


def _significant_bits(image: Image.Image, data: bytes) -> int:
    """The largest value of a PNG's sBIT chunk, which Pillow ignores."""
    place = 8
    while image.format == "PNG" and place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        if name == b"sBIT":
            return max(data[place + 8 : place + 8 + min(length, 3)], default=0)
        if name in (b"IDAT", b"IEND"):
            break
        place += length + 12
    return 0


def extreme_of(samples: Samples) -> Extreme | None:
    """What a file contributes to the choice of a dataset's range; None if it declares its own."""
    if samples.declared is not None:
        return None
    visible = samples.visible
    return Extreme(samples.kind, float(visible.max()) if visible.size else 0.0, samples.bits)


def choose_range(found: Iterable[Extreme]) -> PixelRange:
    """A dataset's range, from the extremes of its deep files."""
    extremes = list(found)
    integers = [item for item in extremes if item.kind == "integers"]
    floats = [item.greatest for item in extremes if item.kind == "floats" and item.greatest <= _MOST_FLOAT]
    return PixelRange(
        max(map(_integer_high, integers), default=None),
        None if not floats else 1.0 if max(floats) <= OVERSHOOT else _MOST_FLOAT,
    )


def _integer_high(item: Extreme) -> int:
    if item.bits and item.greatest >= 2**item.bits:
        return _FULL_16
    needed = max(int(item.greatest).bit_length(), item.bits)
    return int(2 ** next(bits for bits in BIT_DEPTHS if bits >= needed) - 1)


def to_8_bits(samples: Samples, pixel_range: PixelRange) -> Image.Image:
    """The image in 8 bits: L, LA, RGB or RGBA.

    Raises:
        UnusableImageError: there is no range for it, or it is on another scale.
    """
    low, high = samples.declared or (0.0, _checked_high(samples, pixel_range))
    pixels = rescaled(samples.values, low, high)
    if samples.inverted:
        pixels = 255 - pixels
    if samples.alpha is not None:
        pixels = np.concatenate([pixels, samples.alpha[..., None]], axis=2)
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def rescaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Samples of any shape and kind in 8 bits, a few at a time along the first axis."""
    exact: Any = np.float64 if values.dtype.itemsize > 2 else np.float32
    pixels: NDArray[np.uint8] = np.empty(values.shape, np.uint8)
    for start in range(0, len(values), _ROWS):
        rows = (values[start : start + _ROWS].astype(exact) - exact(low)) * exact(255 / (high - low))
        pixels[start : start + _ROWS] = np.clip(np.nan_to_num(rows), 0, 255).round()
    return pixels


def _checked_high(samples: Samples, pixel_range: PixelRange) -> float:
    high, visible = pixel_range.high(samples.kind), samples.visible
    greatest = f"{float(visible.max()) if visible.size else 0.0:,.6g}"
    if high is None and samples.kind == "floats" and visible.size and float(visible.max()) > _MOST_FLOAT:
        raise UnusableImageError(f"floats up to {greatest}; expected 0 to 1, 0 to 255 or a declared range")
    if high is None:
        raise UnusableImageError(
            f"{samples.kind} up to {greatest}, and no range for more than 8 bits was recorded: the run saw only "
            "8-bit images, or predates such ranges; save the file with 8 bits, or train again"
        )
    above = int((visible > OVERSHOOT * high).sum())
    if above > SHARE_ABOVE * max(visible.size, 1):
        raise UnusableImageError(f"values up to {greatest}, not the scale of the others, 0 to {high:,.6g}")
    return high
