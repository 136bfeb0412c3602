"""Decoded images on disk: decode once; a second start reads one file. Unpacked archives (`archives`) lie beside them.

An entry is a folder with `images.u8` (the usable images, one after another) and its index (`cache_index`): files,
hashes, problems of unusable files, the SHA-256 of `images.u8`; every use checks all of it. The key covers the files'
names, sizes and modification times and the decoding rule; if one changes, the files are decoded again. So they are if a
file was skipped for lack of memory. The least recently used entries are deleted once the total exceeds the limit.

Of images that do not fit, the entry has the index alone: 32 bytes a file. `streaming` decodes them as they are used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.control import Control
from engine.data.cache_index import (
    DAMAGED,
    INDEX,
    PIXELS,
    VERSION,
    Counts,
    Index,
    read_index,
    read_sealed,
    write_index,
)
from engine.data.columns import FactTable, texts_of
from engine.data.decoding import TOO_LITTLE_MEMORY, Pixels, decode_files, decoding_rule, measure_range
from engine.data.depth import PixelRange
from engine.data.room import bound_bytes
from engine.environment import CACHE_GIB
from engine.errors import DatasetError
from engine.locking import lock_of, try_to_lock, wait_for_lock
from engine.progress import LoadingStopped, Progress

IMAGES, HASHES_ONLY, AUDIT = "images", "hashes", "audit"
_BLOCK = 1 << 24
_ONLY_INDEX = "-files"  # ends the name of an entry without images
_MOST_INDEXES = 16  # of those, at most: each has 32 bytes a file


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One entry, as `reslab datasets` lists it: decoded images, the hashes of files whose images are not kept, an
    unpacked archive, or an audit of a dataset (`what`).

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
    facts: FactTable
    pixel_range: PixelRange


@dataclass(frozen=True, slots=True)
class Counted:
    """As `Decoded`, of images that are not kept: their shape (N, C, H, W), their `counts`, and the entry's folder."""

    shape: tuple[int, ...]
    facts: FactTable
    pixel_range: PixelRange
    counts: Counts
    folder: Path


T = TypeVar("T", Decoded, Counted)


@dataclass(frozen=True)
class ToDecode:
    """Files of the dataset `source`, and how to decode them: to squares of `size` pixels (None: their own size)."""

    paths: Sequence[Path]
    source: str
    size: int | None
    channels: int

    @cached_property
    def key(self) -> str:
        """Of the files as they are when it is first asked for. Raises OSError if one is gone."""
        digest = hashlib.sha256(json.dumps([VERSION, decoding_rule(), self.size, self.channels]).encode())
        for path in texts_of(self.paths):
            stat = os.stat(path)
            digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def entry(self, cache: Path, has_images: bool = True) -> Path:
        """The folder of their entry, which may not exist. Raises as `key`."""
        return cache / (self.key + ("" if has_images else _ONLY_INDEX))


def decoded(
    paths: Sequence[Path], source: str, size: int | None, channels: int, cache: Path, control: Control
) -> Generator[Progress, None, Decoded]:
    """The images of `paths`, from the cache, or decoded now and cached.

    Raises:
        DatasetError: the cache cannot be written, or another process deletes the entry before it is read.
        LoadingStopped: `control` requested a stop; no partial entry is left.
    """
    return (yield from kept(ToDecode(paths, source, size, channels), cache, control))


def kept(what: ToDecode, cache: Path, control: Control) -> Generator[Progress, None, Decoded]:
    """As `decoded`."""
    return (yield from _kept(what, what.entry(cache), _read, control))


def measured_pass_s(what: ToDecode, cache: Path) -> float | None:
    """How long the first pass over images that do not fit took, if it was made before. Raises as `ToDecode.key`."""
    try:
        return float(read_sealed(what.entry(cache, has_images=False) / INDEX)["pass_s"])
    except DAMAGED:
        return None


def counted(what: ToDecode, cache: Path, control: Control) -> Generator[Progress, None, Counted]:
    """What the first pass over images that do not fit finds out, now or earlier. Raises as `decoded`."""
    return (yield from _kept(what, what.entry(cache, has_images=False), _read_counted, control))


def _kept(
    what: ToDecode, entry: Path, read: Callable[[Path, Control], Generator[Progress, None, T | None]], control: Control
) -> Generator[Progress, None, T]:
    with cache_is_written(entry.parent):
        entry.parent.mkdir(parents=True, exist_ok=True)
        with lock_of(entry).open("a") as lock:
            yield from wait_for_lock(lock, "decode", control)
            if (entry / INDEX).is_file():
                found = yield from read(entry, control)
                if found is not None and _is_lasting(found.facts):
                    return found
                shutil.rmtree(entry, ignore_errors=True)
            yield from _write(entry, what, control)
            keep_within_bound(entry.parent, entry.name)
            found = yield from read(entry, control)
    if found is None:
        raise DatasetError(f"the images decoded to {entry} have been deleted; start again")
    return found


def _is_lasting(facts: FactTable) -> bool:
    """Whether no file was skipped for a temporary reason."""
    return not any(problem.startswith(TOO_LITTLE_MEMORY) for problem in facts.problems.values())


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


def part_of(entry: Path) -> Path:
    """Where an entry is written before it is complete; `keep_within_bound` removes what a killed process left."""
    return entry.with_name(f".{entry.name}.part")


class _Kept:
    """Writes the pixels of every usable image to one file."""

    def __init__(self, folder: Path) -> None:
        self._digest, self._file = hashlib.sha256(), (folder / PIXELS).open("wb")
        self.number, self.shape = 0, (0, 0)

    def add(self, pixels: Pixels) -> None:
        self.number, self.shape = self.number + 1, pixels.shape[1:]
        self._digest.update(pixels.data)
        self._file.write(pixels.data)

    def finish(self, index: Index) -> Index:
        self._file.flush()
        os.fsync(self._file.fileno())
        return replace(index, sha256=self._digest.hexdigest())

    def close(self) -> None:
        self._file.close()


class _NotKept:
    """Counts the values of every usable image, and keeps none."""

    def __init__(self, channels: int) -> None:
        self._counts = np.zeros((channels, 256), np.int64)
        self.number, self.shape = 0, (0, 0)

    def add(self, pixels: Pixels) -> None:
        self.number, self.shape = self.number + 1, pixels.shape[1:]
        add_counts(self._counts, pixels[None])

    def finish(self, index: Index) -> Index:
        return replace(index, counts=self._counts)

    def close(self) -> None:
        """Nothing is open."""


def add_counts(counts: Counts, images: NDArray[np.uint8]) -> None:
    """Add how often each value occurs in images (N, C, H, W)."""
    for channel, pixels in enumerate(images.swapaxes(0, 1)):
        counts[channel] += np.bincount(pixels.reshape(-1), minlength=256)


def _write(entry: Path, what: ToDecode, control: Control) -> Generator[Progress, None, None]:
    part = part_of(entry)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        pixel_range = yield from measure_range(what.paths, control)
        began = time.perf_counter()
        sink = _NotKept(what.channels) if entry.name.endswith(_ONLY_INDEX) else _Kept(part)
        try:
            facts = yield from decode_files(what.paths, what.size, what.channels, control, sink.add, pixel_range)
            index = Index(what.source, (sink.number, what.channels, *sink.shape), facts, pixel_range)
            write_index(part, replace(sink.finish(index), pass_s=time.perf_counter() - began))
        finally:
            sink.close()
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(part, entry)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read(entry: Path, control: Control) -> Generator[Progress, None, Decoded | None]:
    """Map an entry; None if it is damaged."""
    try:
        index = read_index(entry)
        total = (entry / PIXELS).stat().st_size
        digest, done = hashlib.sha256(), 0
        with (entry / PIXELS).open("rb") as file:
            while block := file.read(_BLOCK):
                if control.stop_requested:
                    raise LoadingStopped
                digest.update(block)
                done += len(block)
                yield Progress("check", done, total, "bytes")
        if digest.hexdigest() != index.sha256:
            return None
        os.utime(entry / INDEX)
        images = (
            np.memmap(entry / PIXELS, np.uint8, "c", shape=index.shape) if total else np.empty(index.shape, np.uint8)
        )
        return Decoded(images, index.facts, index.pixel_range)
    except DAMAGED:
        return None


def _read_counted(entry: Path, control: Control) -> Generator[Progress, None, Counted | None]:
    """None if the entry is damaged."""
    try:
        index = read_index(entry)
        os.utime(entry / INDEX)
    except DAMAGED:
        return None
    yield Progress("check", len(index.facts), len(index.facts), "files")
    if index.counts is None or index.counts.shape != (index.shape[1], 256):
        return None
    return Counted(index.shape, index.facts, index.pixel_range, index.counts, entry)


def entries(cache: Path) -> list[CacheEntry]:
    """Every entry, most recently used first."""
    found = []
    for index_file in cache.glob(f"*/{INDEX}"):
        folder = index_file.parent
        try:
            index, used_at = read_sealed(index_file), index_file.stat().st_mtime
            num_bytes = index.get("unpacked_bytes") or sum(
                path.stat().st_size for path in folder.iterdir() if path != index_file
            )
            what = index.get("what", HASHES_ONLY if folder.name.endswith(_ONLY_INDEX) else IMAGES)
            count, *shape = index["shape"]
            found.append(CacheEntry(folder.name, index["source"], count, tuple(shape), num_bytes, used_at, what))
        except DAMAGED:
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
    """Delete the least recently used entries, never `newest`, until all images fit into RESLAB_CACHE_GIB (default 20),
    and but a few entries are without images.

    Raises:
        SpecError: the variable is not a number.
    """
    bound = bound_bytes()
    for part in cache.glob(".*.part"):  # left by a killed process
        with lock_of(cache / part.stem.removeprefix(".")).open("a") as lock:
            if try_to_lock(lock):
                shutil.rmtree(part, ignore_errors=True)
    found = entries(cache)
    bounded = [entry for entry in found if entry.what != HASHES_ONLY]
    total = sum(entry.num_bytes for entry in bounded)
    for entry in reversed(bounded):
        if total <= bound or entry.name == newest:
            continue
        if _remove(cache, entry.name):
            total -= entry.num_bytes
    for entry in [entry for entry in found if entry.what == HASHES_ONLY][_MOST_INDEXES:]:
        _remove(cache, entry.name)
