"""Decoded images on disk: decode once; a second start reads one file. Unpacked archives (`archives`) lie beside them.

An entry is a folder with `images.u8` (the usable images, one after another) and `index.json` (files, hashes, problems
of unusable files, the SHA-256 of `images.u8`, and a hash of the index itself); every use checks both. The key covers
the files' names, sizes and modification times and the decoding rule; if one changes, the files are decoded again. So
they are if a file was skipped for lack of memory. The least recently used entries are deleted once the total exceeds
the limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.control import Control
from engine.data.decoding import TOO_LITTLE_MEMORY, FileFacts, Pixels, decode_files, decoding_rule, measure_range
from engine.data.depth import PixelRange
from engine.environment import CACHE_GIB, DEFAULT_CACHE_GIB, number_of
from engine.errors import DatasetError
from engine.locking import lock_of, try_to_lock, wait_for_lock
from engine.progress import LoadingStopped, Progress

IMAGES, AUDIT = "images", "audit"
_VERSION = 3
_BLOCK = 1 << 24


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One entry, as `reslab datasets` lists it: decoded images, an unpacked archive, or an audit of a dataset (`what`).

    An unpacked archive has no `shape`, and `num_images` are its files.
    """

    name: str
    source: str
    num_images: int
    shape: tuple[int, ...]
    num_bytes: int
    used_at: float
    what: str = IMAGES


@dataclass(frozen=True, slots=True)
class Decoded:
    """`images` (N, C, H, W) uint8, only the usable files, mapped from disk; `facts` of every file, in order; and the
    range by which images of more than 8 bits became pixels.
    """

    images: NDArray[np.uint8]
    facts: tuple[FileFacts, ...]
    pixel_range: PixelRange

    @property
    def is_lasting(self) -> bool:
        """Whether no file was skipped for a temporary reason."""
        return not any((fact.problem or "").startswith(TOO_LITTLE_MEMORY) for fact in self.facts)


def decoded(
    paths: Sequence[Path], source: str, size: int | None, channels: int, cache: Path, control: Control
) -> Generator[Progress, None, Decoded]:
    """The images of `paths`, from the cache, or decoded now and cached.

    Raises:
        DatasetError: the cache cannot be written, or another process deletes the entry before it is read.
        LoadingStopped: `control` requested a stop; no partial entry is left.
    """
    entry = cache / _key(paths, size, channels)
    with cache_is_written(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with lock_of(entry).open("a") as lock:
            yield from wait_for_lock(lock, "decode", control)
            if (entry / "index.json").is_file():
                found = yield from _read(entry, control)
                if found is not None and found.is_lasting:
                    return found
                shutil.rmtree(entry, ignore_errors=True)
            yield from _write(entry, paths, source, size, channels, control)
            keep_within_bound(cache, entry.name)
            found = yield from _read(entry, control)
    if found is None:
        raise DatasetError(f"the images decoded to {entry} have been deleted; start again")
    return found


@contextmanager
def cache_is_written(cache: Path) -> Iterator[None]:
    """Turn an OSError from the cache's files into a DatasetError."""
    try:
        yield
    except OSError as error:
        raise DatasetError(
            f"cannot keep decoded images in {cache} ({error.strerror or error}); free some space there, or choose "
            f"another folder with RESLAB_CACHE ({CACHE_GIB.name} limits its size)"
        ) from error


def _key(paths: Sequence[Path], size: int | None, channels: int) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, decoding_rule(), size, channels]).encode())
    for path in paths:
        stat = path.stat()
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16]


def part_of(entry: Path) -> Path:
    """Where an entry is written before it is complete; `keep_within_bound` removes what a killed process left."""
    return entry.with_name(f".{entry.name}.part")


def _write(
    entry: Path, paths: Sequence[Path], source: str, size: int | None, channels: int, control: Control
) -> Generator[Progress, None, None]:
    part = part_of(entry)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    digest, shapes = hashlib.sha256(), []
    try:
        pixel_range = yield from measure_range(paths, control)
        with (part / "images.u8").open("wb") as file:

            def keep(pixels: Pixels) -> None:
                digest.update(pixels.data)
                file.write(pixels.data)
                shapes.append(pixels.shape)

            facts = yield from decode_files(paths, size, channels, control, keep, pixel_range)
            file.flush()
            os.fsync(file.fileno())
        index = {
            "version": _VERSION, "source": source, "shape": [len(shapes), *(shapes[0] if shapes else (channels, 0, 0))],
            "sha256": digest.hexdigest(), "hashes": [fact.sha256 for fact in facts],
            "problems": [fact.problem for fact in facts],
            "pixel_range": [pixel_range.integers, pixel_range.floats],
        }  # fmt: skip
        write_index(part, index)
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(part, entry)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read(entry: Path, control: Control) -> Generator[Progress, None, Decoded | None]:
    """Map an entry; None if it is damaged."""
    try:
        index = read_index(entry / "index.json")
        total = (entry / "images.u8").stat().st_size
        digest, done = hashlib.sha256(), 0
        with (entry / "images.u8").open("rb") as file:
            while block := file.read(_BLOCK):
                if control.stop_requested:
                    raise LoadingStopped
                digest.update(block)
                done += len(block)
                yield Progress("check", done, total, "bytes")
        if digest.hexdigest() != index["sha256"]:
            return None
        os.utime(entry / "index.json")
        shape = tuple(index["shape"])
        images = np.memmap(entry / "images.u8", np.uint8, "c", shape=shape) if total else np.empty(shape, np.uint8)
        facts = tuple(map(FileFacts, index["hashes"], index["problems"]))
        return Decoded(images, facts, PixelRange(*index["pixel_range"]))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):  # valid JSON, but not an index
        return None


def seal_of(index: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def write_index(entry: Path, index: dict[str, Any]) -> None:
    """Write `index.json` with the hash of the index. Raises OSError."""
    (entry / "index.json").write_text(json.dumps({**index, "seal": seal_of(index)}), encoding="utf-8")


def read_index(path: Path) -> dict[str, Any]:
    """Raises ValueError if it was modified, OSError, KeyError."""
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if index.pop("seal") != seal_of(index):
        raise ValueError("the index was changed")
    return index


def entries(cache: Path) -> list[CacheEntry]:
    """Every entry, most recently used first."""
    found = []
    for index_file in cache.glob("*/index.json"):
        try:
            index = read_index(index_file)
            num_bytes = index.get("unpacked_bytes") or sum(
                path.stat().st_size for path in index_file.parent.iterdir() if path != index_file
            )
            count, *shape = index["shape"]
            found.append(
                CacheEntry(
                    index_file.parent.name, index["source"], count, tuple(shape), num_bytes,
                    index_file.stat().st_mtime, index.get("what", IMAGES),
                )
            )  # fmt: skip
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            continue
    return sorted(found, key=lambda entry: -entry.used_at)


def delete_entry(cache: Path, name: str) -> bool:
    """Delete one entry; False if there is none of this name.

    Raises:
        DatasetError: a process is reading it.
    """
    if name not in {entry.name for entry in entries(cache)}:
        return False
    if not _remove(cache, name):
        raise DatasetError(f"{name} is in use; delete it once its images are loaded")
    return True


def _remove(cache: Path, name: str) -> bool:
    """Delete an entry, unless a process has its lock: files in an unpacked archive would vanish while it is read."""
    with lock_of(cache / name).open("a") as lock:
        if not try_to_lock(lock):
            return False
        shutil.rmtree(cache / name, ignore_errors=True)
    return True


def keep_within_bound(cache: Path, newest: str) -> None:
    """Delete the least recently used entries, never `newest`, until all fit into RESLAB_CACHE_GIB (default 20).

    Raises:
        SpecError: the variable is not a number.
    """
    bound = _bound_gib() * 2**30
    for part in cache.glob(".*.part"):  # left by a killed process
        with lock_of(cache / part.stem.removeprefix(".")).open("a") as lock:
            if try_to_lock(lock):
                shutil.rmtree(part, ignore_errors=True)
    found = entries(cache)
    total = sum(entry.num_bytes for entry in found)
    for entry in reversed(found):
        if total <= bound or entry.name == newest:
            continue
        if _remove(cache, entry.name):
            total -= entry.num_bytes


def _bound_gib() -> float:
    bound = number_of(CACHE_GIB)
    return DEFAULT_CACHE_GIB if bound is None else bound
