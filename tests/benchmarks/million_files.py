"""A folder of a million images, made for the purpose: seconds and peak memory of each thing done to all of its files.

Each phase runs in a process of its own, so that its peak is its own; what importing torch takes is printed first.
"""

from __future__ import annotations

import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np

from engine.device import cpu_name
from engine.paths import Folders
from engine.spec import RunSpec

_CLASSES = 1000
_MOST_SIDE = 8
_BYTES_A_FILE = 4096 + 300  # a block, an inode and its name


def million_files(number: int = 1_000_000) -> None:
    """Listing, hashing, splitting and listing again `number` tiny PNGs in 1,000 class folders."""
    if (too_many := _refusal(number)) is not None:
        print(too_many, file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        _make(Path(folder) / "images", number)
        print(f"{number:,} files in {_CLASSES:,} folders, made in {time.perf_counter() - began:.0f} s  ({cpu_name()})")
        for phase in _PHASES:
            command = (sys.executable, "-m", "tests.benchmarks.million_files", phase, folder)
            subprocess.run(command, check=True)


def _refusal(number: int) -> str | None:
    folder = Path(tempfile.gettempdir())
    inodes, room = os.statvfs(folder).f_favail, shutil.disk_usage(folder).free
    if inodes < 1.2 * number or room < 2 * _BYTES_A_FILE * number:
        return f"{folder} has {inodes:,} inodes and {room / 2**30:.0f} GiB left: too few for {number:,} files"
    return None


def _make(root: Path, number: int) -> None:
    """Valid PNGs of 1×1 to 8×8 random pixels."""
    draws = np.random.default_rng(0)
    for label in range(_CLASSES):
        folder = root / f"class-{label:04}"
        folder.mkdir(parents=True)
        for index in range(label, number, _CLASSES):
            width, height = draws.integers(1, _MOST_SIDE + 1, 2).tolist()
            pixels = draws.integers(0, 256, (height, 3 * width), np.uint8)
            (folder / f"image-{index:07}.png").write_bytes(_png(width, height, pixels))


def _png(width: int, height: int, pixels: Any) -> bytes:
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _folders(root: Path) -> Folders:
    return Folders(root / "home", root / "data", root / "cache")


def _spec(root: Path, **settings: Any) -> RunSpec:
    return RunSpec(f"folder:{root / 'images'}", "resnet20", image_size=_MOST_SIDE, **settings)


def _done(work: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def _import_torch(root: Path) -> None:
    import torch  # noqa: F401

    import engine.data.loading  # noqa: F401


def _survey(root: Path) -> str:
    from engine.data.survey import survey_now

    return survey_now(_spec(root), _folders(root)).counts


def _key(root: Path) -> None:
    from engine.data.loading import data_key

    data_key(_spec(root))


def _load(root: Path, **settings: Any) -> Any:
    from engine.control import RunControl
    from engine.data.loading import load_dataset

    return _done(load_dataset(_spec(root, **settings), _folders(root), RunControl()))


def _load_and_list(root: Path) -> str:
    data = _load(root)
    return f"{len(data.train):,} train, {len(data.test):,} test, SHA-256 {data.train_sha256[:8]} {data.test_sha256[:8]}"


def _hold_out(root: Path) -> str:
    data = _load(root, val_share=0.1)
    return f"{len(data.train):,} train, {len(data.val):,} val, SHA-256 {data.train_sha256[:8]}"


def _manifest(root: Path) -> None:
    from engine.data.manifest import write_manifest

    write_manifest(root / "manifest.csv", _load(root).manifest)


def _files_view(root: Path) -> str:
    from engine.data.manifest import read_test_files, read_unusable

    read_unusable(root / "manifest.csv")
    return f"{len(read_test_files(root / 'manifest.csv')):,} test files"


_PHASES: dict[str, Callable[[Path], object]] = {
    "importing torch": _import_torch,
    "survey": _survey,
    "key of the files as they are": _key,
    "first load: decode, hash, split": _load_and_list,
    "second load, a tenth held out": _hold_out,
    "second load, and manifest.csv": _manifest,
    "files of the test images": _files_view,
}


if __name__ == "__main__":
    name, folder = sys.argv[1:]
    began = time.perf_counter()
    said = _PHASES[name](Path(folder)) or ""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  {name:<32} {time.perf_counter() - began:8.1f} s  peak {peak:6,.0f} MiB  {said}", flush=True)
