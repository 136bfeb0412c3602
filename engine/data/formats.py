"""Which files are images: an explicit list of formats that Pillow decodes itself, and the reasons for other files.

The content decides, never the file's extension. Supported are raster formats (`FORMATS`), the first frame of each. Not
supported are:

- vector formats (EPS, PDF, SVG, WMF, EMF): Pillow would start another program, Ghostscript, for the first and needs
  Windows for the last two;
- formats that Pillow only recognises (MPEG, HDF5, GRIB, BUFR);
- containers of numbers whose scale Pillow ignores (FITS, SPIDER, McIdas, IM): their pixels would be silently wrong;
- pixels written as source text (XBM, XPM), so that code next to images is not taken for one.

AVIF, JPEG 2000 and WebP need a Pillow built with their libraries, HEIC needs pillow-heif (the extra `heic`); without
them, the reason says so.
"""

from __future__ import annotations

import io
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from PIL import Image, UnidentifiedImageError, features

from engine.environment import MOST_PIXELS

FORMATS: Final = (
    "JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000", "ICO", "ICNS", "PCX", "DCX", "QOI", "SGI",
    "SUN", "DDS", "PSD", "BLP", "FLI", "DIB", "TGA",
)  # fmt: skip
"""Pillow's names, in the order in which it tries them: common ones first, TGA last, as it has no signature."""

MAX_DECLARED_PIXELS = MOST_PIXELS
Image.MAX_IMAGE_PIXELS = MAX_DECLARED_PIXELS // 2  # Pillow refuses twice this; `decode` has tighter limits

NO_IMAGE = "no image"
EMPTY = "empty"
_NOT_READ = "which is not read"

_LIBRARIES = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
_DRAWINGS = (
    (b"%!PS", "EPS"), (b"\xc5\xd0\xd3\xc6", "EPS"), (b"%PDF", "PDF"), (b"\xd7\xcd\xc6\x9a", "WMF"), (b"<svg", "SVG"),
    (b"\x01\x00\x00\x00\x6c\x00\x00\x00", "EMF"),
)  # fmt: skip
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")  # ISO/IEC 23008-12, annex B
_OTHERS = ((b"SIMPLE  =", "FITS"), (b"\x89HDF\r\n\x1a\n", "HDF5"), (b"GRIB", "GRIB"), (b"BUFR", "BUFR"))


class UnusableImageError(Exception):
    """A file that is skipped; the text says why, in a few words."""


def open_image(source: bytes | Path) -> Image.Image:
    """Open an image: read its header, not its pixels.

    Raises:
        UnusableImageError: its format is not supported, or this Pillow lacks the library for it.
        Exception: whatever Pillow raises on a broken header.
    """
    try:
        image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except UnidentifiedImageError:
        if (heic := _opened_heic(source)) is not None:
            return heic
        raise UnusableImageError(why_not_read(_beginning(source))) from None
    except Image.DecompressionBombError:
        raise UnusableImageError(f"larger than {MAX_DECLARED_PIXELS:,} pixels") from None
    library = _LIBRARIES.get(image.format or "")
    if library is not None and not features.check(library):
        raise UnusableImageError(_lacks(image.format or "", library))
    return image


def reads_heic() -> bool:
    """Whether pillow-heif is installed."""
    return find_spec("pillow_heif") is not None


@cache
def _register_heic() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)


def _opened_heic(source: bytes | Path) -> Image.Image | None:
    """A HEIC image, if it is one and pillow-heif is installed; upright already."""
    if _by_signature(_beginning(source)) != "HEIC" or not reads_heic():
        return None
    _register_heic()
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=("HEIF",))


def _beginning(source: bytes | Path) -> bytes:
    if isinstance(source, bytes):
        return source[:64]
    with source.open("rb") as file:
        return file.read(64)


def why_not_read(beginning: bytes) -> str:
    """Why a file that begins like this is not a supported image, in a few words."""
    if not beginning:
        return EMPTY
    for signature, name in _DRAWINGS:
        if beginning.lstrip().startswith(signature):
            return f"{name}, a drawing, {_NOT_READ}"
    for signature, name in _OTHERS:
        if beginning.startswith(signature):
            return f"{name}, {_NOT_READ}"
    found = _by_signature(beginning)
    if found in _LIBRARIES and not features.check(_LIBRARIES[found]):
        return _lacks(found, _LIBRARIES[found])
    return "HEIC (uv sync --extra heic installs what reads it)" if found == "HEIC" else NO_IMAGE


def _by_signature(beginning: bytes) -> str | None:
    if beginning[4:8] == b"ftyp":
        return "AVIF" if beginning[8:12] in (b"avif", b"avis") else "HEIC" if beginning[8:12] in _HEIC else None
    if beginning.startswith((b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP")):
        return "JPEG2000"
    return "WEBP" if beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP" else None


def _lacks(name: str, library: str) -> str:
    return f"{name}, for which this Pillow lacks its library ({library})"


def is_another_kind(problem: str) -> bool:
    """Whether a file with this problem is no image at all, rather than damaged, too large or unclear."""
    return problem in (NO_IMAGE, EMPTY) or problem.endswith(_NOT_READ)
