"""Choose the size and number of channels for a folder's images, from their headers only.

The loader, the forecast and Set up all decide here, so what is announced is what is loaded. Loads no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.control import Control
from engine.data.columns import texts_of
from engine.data.decoding import read_header
from engine.progress import LoadingStopped, Progress

DEFAULT_SIZE = 224  # pixels: if the images differ in size or are large, and none is requested
MAX_NATIVE = 512
"""Pixels of the shorter side up to which images of one size keep it. Larger ones are photographs or scans: at 4032×3024
one batch of 128 takes 4.4 GiB before the first layer."""
_MIN_NATIVE = 4
_REMEMBERED = 16


@dataclass(frozen=True, slots=True)
class Sizing:
    """`size` is the square to decode to (None: the images' own size, `native`), `channels` 1 or 3.

    `native` is (width, height) if all images have one size; `is_default`: `size` was not requested.
    """

    size: int | None
    channels: int
    native: tuple[int, int] | None
    is_default: bool

    @property
    def height_width(self) -> tuple[int, int]:
        if self.size is None:
            assert self.native is not None
            return self.native[1], self.native[0]
        return self.size, self.size

    @property
    def note(self) -> str | None:
        """Why the images are resized, if no size was requested."""
        if not self.is_default or self.size is None:
            return None
        if self.native is None:
            why = "images differ in size"
        elif min(self.native) > MAX_NATIVE:
            why = f"images are {self.native[0]}×{self.native[1]}, their shorter side over {MAX_NATIVE} pixels"
        else:
            why = f"images are {self.native[0]}×{self.native[1]}, their shorter side under {_MIN_NATIVE} pixels"
        return f"{why}: resized to {self.size}×{self.size}; --image-size sets another size"


@dataclass(slots=True)
class _Headers:
    """What has been read so far: up to two different sizes, and whether there is colour."""

    sizes: set[tuple[int, int]]
    has_colour: bool = False
    num_images: int = 0

    def add(self, path: Path) -> None:
        if (header := read_header(path)) is not None:
            self.num_images += 1
            self.has_colour = self.has_colour or header.colour
            if len(self.sizes) < 2:
                self.sizes.add(header.size)


def choose_sizing(
    paths: Sequence[Path], requested: int | None, control: Control, most: int | None = None
) -> Generator[Progress, None, Sizing | None]:
    """Decide for the images `paths`; None if no header can be read.

    Reads only as many headers as needed: photographs of many sizes are decided after a few. `most` limits that, with
    files spread evenly over the list; a rare image of another size may then be missed.

    Raises:
        LoadingStopped: `control` requested a stop.
    """
    if most is not None and len(paths) > most:
        paths = spread(paths, most)
    key = _state(paths), requested is None
    headers = _known.get(key)
    if headers is None:
        headers = yield from _read(paths, requested is None, control)
        _known[key] = headers
        while len(_known) > _REMEMBERED:
            _known.popitem(last=False)
    return _decide(headers, requested) if headers.num_images else None


def spread(paths: Sequence[Path], most: int) -> list[Path]:
    """At most this many of `paths`, spread evenly."""
    number = min(most, len(paths))
    return [paths[index * len(paths) // number] for index in range(number)]


_known: OrderedDict[tuple[str, bool], _Headers] = OrderedDict()
"""Headers already read, by the files' names, sizes and modification times."""


def _read(paths: Sequence[Path], size_matters: bool, control: Control) -> Generator[Progress, None, _Headers]:
    headers = _Headers(set())
    for number, path in enumerate(paths):
        if number % 500 == 0:
            if control.stop_requested:
                raise LoadingStopped
            yield Progress("look", number, len(paths), "images")
        headers.add(path)
        if headers.has_colour and (len(headers.sizes) > 1 or not size_matters):
            break
    return headers


def _decide(headers: _Headers, requested: int | None) -> Sizing:
    native = next(iter(headers.sizes)) if len(headers.sizes) == 1 else None
    keeps = native is not None and _MIN_NATIVE <= min(native) <= MAX_NATIVE
    size = requested or (None if keeps else DEFAULT_SIZE)
    return Sizing(size, 3 if headers.has_colour else 1, native, requested is None)


def _state(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in texts_of(paths):
        with suppress(OSError):  # deleted meanwhile; decoding will report it
            status = os.stat(path)
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
