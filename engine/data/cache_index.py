"""The index of a cache entry: what is known of every file, sealed, so that a changed byte is noticed.

`index.json` has the few values of the whole entry and the problems of unusable files, `hashes.bin` the 32 bytes of each
file's SHA-256. Entries of earlier versions have the hashes in `index.json`, and are read.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.data.columns import FactTable
from engine.data.depth import PixelRange

INDEX, HASHES, PIXELS, PARTS = "index.json", "hashes.bin", "images.u8", "parts.json"
VERSION = 3
DAMAGED = (OSError, ValueError, KeyError, AttributeError, TypeError)
"""What reading an index raises if it is missing, damaged, or valid JSON of something else."""

Counts = NDArray[np.int64]
"""(C, 256) how often each value occurs in each channel."""


@dataclass(frozen=True, slots=True)
class Index:
    """`shape` (M, C, H, W) of the usable images; `sha256` of `images.u8`, or `counts` of images that were not kept.
    `pass_s` is how long decoding them took.
    """

    source: str
    shape: tuple[int, ...]
    facts: FactTable
    pixel_range: PixelRange
    sha256: str = ""
    counts: Counts | None = None
    pass_s: float = 0.0


def write_index(folder: Path, index: Index) -> None:
    """Raises OSError."""
    hashes = index.facts.hashes.tobytes()
    (folder / HASHES).write_bytes(hashes)
    write_sealed(
        folder / INDEX,
        {
            "version": VERSION, "source": index.source, "shape": list(index.shape), "sha256": index.sha256,
            "hashes_sha256": hashlib.sha256(hashes).hexdigest(),
            "problems": {str(number): problem for number, problem in index.facts.problems.items()},
            "pixel_range": [index.pixel_range.integers, index.pixel_range.floats],
            "counts": None if index.counts is None else index.counts.tolist(), "pass_s": index.pass_s,
        },
    )  # fmt: skip


def read_index(folder: Path) -> Index:
    """Raises one of `DAMAGED`."""
    found = read_sealed(folder / INDEX)
    counts = found.get("counts")
    return Index(
        found["source"], tuple(found["shape"]), _facts(folder, found), PixelRange(*found["pixel_range"]),
        found["sha256"], None if counts is None else np.array(counts, np.int64),
    )  # fmt: skip


def _facts(folder: Path, index: dict[str, Any]) -> FactTable:
    if "hashes" in index:  # an earlier version
        facts = FactTable()
        for sha256, problem in zip(index["hashes"], index["problems"], strict=True):
            facts.add(sha256, problem)
        return facts
    hashes = (folder / HASHES).read_bytes()
    if hashlib.sha256(hashes).hexdigest() != index["hashes_sha256"]:
        raise ValueError("the hashes were changed")
    return FactTable.of(hashes, {int(number): problem for number, problem in index["problems"].items()})


def _seal(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def write_sealed(path: Path, values: dict[str, Any]) -> None:
    """Write JSON with a hash of itself, at once or not at all. Raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    part.write_text(json.dumps({**values, "seal": _seal(values)}), encoding="utf-8")
    os.replace(part, path)


def read_sealed(path: Path) -> dict[str, Any]:
    """Raises one of `DAMAGED`, ValueError if it was changed."""
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if values.pop("seal") != _seal(values):
        raise ValueError(f"{path.name} was changed")
    return values
