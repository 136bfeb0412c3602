"""Whether `reslab audit` finds what is planted, and how far apart copies and different photographs are."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.control import RunControl
from engine.data.audit.hashing import Looks, looks_of, near_pairs
from engine.data.decoding import decode
from engine.data.images import ImageData
from engine.data.loading import load_dataset
from engine.data.manifest import FileRecord
from engine.device import cpu_name
from engine.paths import Folders
from engine.spec import RunSpec
from tests.benchmarks.reporting import data_folder
from tests.fakes import drain

_RESLAB = (sys.executable, "-m", "tui")
_SPEC = RunSpec("cats-dogs", "resnet18")
_REENCODED = ((60, 0.8), (30, 0.5), (80, 1.3), (90, 0.5))
"""JPEG quality and share of the size of copies of training images."""
_NUM_COPIES, _NUM_PLANTED = 200, 10


def audit(num_times: int = 1) -> None:
    """The planted files of the photographs; distances on their training part; twenty test images planted in training;
    and the time of a search among 100,000 hashes.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        folders = Folders(root / "home", data_folder(), root / "cache")
        print(f"audit of {_SPEC.dataset}  ({cpu_name()})")
        _show_traps(_audited(folders, "cats-dogs"))
        data: ImageData = drain(load_dataset(_SPEC, folders, RunControl()))[1]
        _show_distances(data)
        _show_planted(data, folders, root / "photographs")
    for _ in range(num_times):
        _show_search()


def _audited(folders: Folders, dataset: str) -> dict[str, Any]:
    environment = {**os.environ, "RESLAB_HOME": str(folders.home), "RESLAB_CACHE": str(folders.cache)}
    began = time.perf_counter()
    command = (*_RESLAB, "audit", dataset, "--json", "--data-dir", str(folders.data))
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout)
    first, began = time.perf_counter() - began, time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    print(f"  {dataset.split('/')[-1]}: first look {first:.1f} s, second {time.perf_counter() - began:.1f} s")
    return found


def _show_traps(found: dict[str, Any]) -> None:
    print("  left out:", ", ".join(f"{item['file']} {item['problem'].split(' (')[0]}" for item in found["left_out"]))
    print("  kinds:", ", ".join(f"{item['name']} {item['number']:,}" for item in found["modes"]))
    print("  identical groups:", len(found["duplicates"]), "near-duplicates:", len(found["near"]))


def _show_distances(data: ImageData) -> None:
    """Of all pairs of different training images, and of training images to their own copies."""
    looks = Looks.joined([looks_of(chunk) for chunk in data.train.chunks(256)])
    files = [record for record in data.manifest if record.split == "train"]
    one, other = np.triu_indices(len(looks), 1)
    bits, steps, correlation = _distances(looks, looks, one, other)
    derived = np.array([Path(record.file).name in _DERIVED for record in files])
    apart = ~(derived[one] & derived[other])
    print(f"  {int(apart.sum()):,} pairs of different training images: {_least(bits, steps, correlation, apart)}")
    rng = np.random.default_rng(0)
    assert data.root is not None
    worst: list[tuple[int, int, float]] = []
    for quality, scale in _REENCODED:
        chosen = rng.choice(len(files), _NUM_COPIES, replace=False)
        copies = [_decoded(_reencoded(data.root / files[index].file, quality, scale)) for index in chosen]
        found = looks_of(torch.from_numpy(np.stack(copies)))
        bits, steps, correlation = _distances(found, looks, np.arange(_NUM_COPIES), chosen)
        worst.append((int(bits.max()), int(steps.max()), float(correlation.min())))
        print(
            f"  {_NUM_COPIES} copies at quality {quality}, {100 * scale:.0f} % of the size: at most {bits.max()} and "
            f"{steps.max()} bits, correlation at least {correlation.min():.4f}"
        )


_DERIVED = {"0.jpg", "20000.jpg", "20001.jpg", "20002.jpg", "20003.jpg", "20006.png"}
"""One photograph, stored in several formats."""


def _distances(
    a: Looks, b: Looks, one: NDArray[np.int64], other: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]:
    bits = np.bitwise_count(a.phash[one] ^ b.phash[other])
    steps = np.bitwise_count(a.dhash[one] ^ b.dhash[other])
    correlation = (a.small @ b.small.T)[one, other]
    return bits, steps, correlation


def _least(bits: NDArray[np.uint8], steps: NDArray[np.uint8], correlation: NDArray[np.float32], chosen: Any) -> str:
    return (
        f"at least {bits[chosen].min()} and {steps[chosen].min()} bits, correlation at most "
        f"{correlation[chosen].max():.3f}"
    )


def _reencoded(path: Path, quality: int, scale: float) -> bytes:
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    stream = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _decoded(data: bytes) -> NDArray[np.uint8]:
    pixels = decode(data, 224, 3)
    assert not isinstance(pixels, str)
    return pixels


def _show_planted(data: ImageData, folders: Folders, root: Path) -> None:
    """A copy of the photographs in two parts, with test images in training: ten as they are, ten re-encoded."""
    exact, near = plant(data, root)
    found = _audited(folders, f"folder:{root}")
    groups = [{image["file"] for image in group} for group in found["duplicates"]]
    print(f"  planted exactly: {sum(pair in groups for pair in exact)} of {len(exact)} found, {len(groups)} groups")
    pairs = [{pair["a"]["file"], pair["b"]["file"]} for pair in found["near"]]
    others = [pair for pair in pairs if pair not in near]
    derived = [pair for pair in others if {Path(file).name for file in pair} <= _DERIVED]
    print(
        f"  planted at quality 60 and 80 %: {sum(pair in pairs for pair in near)} of {len(near)} found; "
        f"{len(others)} other pairs, {len(derived)} of them of the one photograph in several formats"
    )
    for pair in others:
        if pair not in derived:
            print("    ", " ~ ".join(sorted(pair)))


def plant(data: ImageData, root: Path, num: int = _NUM_PLANTED) -> tuple[list[set[str]], list[set[str]]]:
    """Copy `data`'s files into train/ and test/ and plant `num` test images twice over; returns the pairs of files."""
    assert data.root is not None
    for record in data.manifest:
        if record.split in ("train", "test"):
            target = root / record.split / record.file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data.root / record.file, target)
    tested = [record for record in data.manifest if record.split == "test" and Path(record.file).name not in _DERIVED]
    chosen = np.random.default_rng(1).choice(len(tested), 2 * num, replace=False)
    picked = [tested[index] for index in chosen]
    exact = _planted(picked[:num], root, lambda path: path.read_bytes(), "same")
    return exact, _planted(picked[num:], root, lambda path: _reencoded(path, 60, 0.8), "again")


def _planted(records: Sequence[FileRecord], root: Path, make: Callable[[Path], bytes], name: str) -> list[set[str]]:
    pairs = []
    for number, record in enumerate(records):
        file = Path("train", Path(record.file).parent, f"{name}-{number}.jpg")
        (root / file).write_bytes(make(root / "test" / record.file))
        pairs.append({str(file), str(Path("test", record.file))})
    return pairs


def _show_search(num_images: int = 100_000) -> None:
    """Random hashes whose bits are as uneven as those of photographs, and small pictures of noise."""
    rng = np.random.default_rng(0)
    bits = rng.random((num_images, 64)) < rng.beta(2, 2, size=64)
    hashes = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    small = rng.standard_normal((num_images, 256)).astype(np.float32)
    small /= np.linalg.norm(small, axis=1, keepdims=True)
    looks = Looks(hashes, hashes, small, small[:, 0], small[:, 0])
    began = time.perf_counter()
    _, _, complete = drain(near_pairs(looks, np.arange(num_images), RunControl()))[1]
    seconds = time.perf_counter() - began
    print(f"  search among {num_images:,} hashes: {seconds:.1f} s{'' if complete else ', not complete'}")
