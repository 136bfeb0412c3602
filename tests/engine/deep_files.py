"""Files of 16 bits a sample that Pillow does not write, byte by byte from the specifications of PNG and TIFF."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # of PNG, by samples a pixel


def png16(samples: NDArray[Any], chunks: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """A PNG of `samples` (H, W, C), 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; `chunks` stand before the pixels."""
    height, width, channels = samples.shape
    head = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPES[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def tiff(
    samples: NDArray[Any],
    order: Literal["<", ">"] = "<",
    deflate: bool = False,
    photometric: int | None = None,
    extra: int = 2,
) -> bytes:
    """A TIFF of one strip of `samples` (H, W, C), of the type that the array has; `order` as `struct` names it."""
    height, width, channels = samples.shape
    kind = samples.dtype.kind
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    data = zlib.compress(data) if deflate else data
    chosen = (2 if channels >= 3 else 1) if photometric is None else photometric
    tags: list[tuple[int, str, list[int]]] = [
        (256, "H", [width]), (257, "H", [height]), (258, "H", [8 * samples.dtype.itemsize] * channels),
        (259, "H", [8 if deflate else 1]), (262, "H", [chosen]), (273, "I", [0]), (277, "H", [channels]),
        (278, "H", [height]), (279, "I", [len(data)]), *([(338, "H", [extra])] if channels in (2, 4) else []),
        (339, "H", [{"u": 1, "i": 2, "f": 3}[kind]] * channels),
    ]  # fmt: skip
    beyond = sum(size for size in (len(values) * struct.calcsize(kind) for _, kind, values in tags) if size > 4)
    at = 8 + 2 + 12 * len(tags) + 4
    entries, outside = struct.pack(f"{order}H", len(tags)), b""
    for tag, letter, values in tags:
        packed = struct.pack(f"{order}{len(values)}{letter}", *([at + beyond] if tag == 273 else values))
        if len(packed) > 4:
            packed, outside = struct.pack(f"{order}I", at + len(outside)), outside + packed
        entries += struct.pack(f"{order}HHI", tag, 3 if letter == "H" else 4, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + entries + bytes(4) + outside + data


def scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """The rule, in the most exact arithmetic that there is here."""
    exact = (values.astype(np.longdouble) - low) * 255 / (np.longdouble(high) - low)
    found: NDArray[np.uint8] = np.clip(np.rint(exact), 0, 255).astype(np.uint8)
    return found
