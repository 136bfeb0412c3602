"""Images whose decoded form fits neither into the cache nor on the disk: each is read and decoded when it is used.

Threads decode the images of the next batches while the network computes on the last one. An image comes from the same
`decode` with the same dataset-wide range as a kept one, so a run has the same pixels in the same order, and does not
depend on where they are. Every file is hashed again as it is read: a run never trains on a file that has changed.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.control import Control
from engine.cores import OthersMeter, fair_num_threads, usable_cores
from engine.data.cache import Counted, ToDecode, add_counts
from engine.data.cache_index import DAMAGED, PARTS, Counts, read_sealed, write_sealed
from engine.data.columns import FactTable
from engine.data.decoding import decode, read_bytes
from engine.data.depth import PixelRange
from engine.data.formats import UnusableImageError
from engine.data.images import Split
from engine.errors import DatasetError
from engine.progress import LoadingStopped, Progress

BATCHES_AHEAD = 3  # as many as are read ahead from a file
BYTES_AHEAD = 256 * 2**20  # of decoded images, at most, unless a single batch has more
_MOST_THREADS = 32
_LOOK_EVERY_S = 0.1  # for a stop, while the next batch is not ready
_AT_ONCE = 128  # images, when all of a part are read


class _Threads:
    """How many threads decode: those cores that others leave, looked at anew for each pass over the images."""

    def __init__(self) -> None:
        self._meter = OthersMeter()

    def number(self) -> int:
        others, self._meter = self._meter.read(), OthersMeter()
        return fair_num_threads(min(usable_cores(), _MOST_THREADS), others)


@dataclass(frozen=True, slots=True)
class _Batch:
    """`images` that are filled by the `work` of several threads."""

    images: Tensor
    work: list[Future[None]]

    def wait(self, control: Control | None) -> Tensor:
        """The images. Raises as `ImageSource.read`."""
        left = set(self.work)
        while left:
            done, left = wait(left, _LOOK_EVERY_S)
            for one in done:
                one.result()
            if control is not None and control.stop_requested:
                raise LoadingStopped
        return self.images


@dataclass(frozen=True, slots=True)
class FileImages:
    """The usable files of a dataset, as an `ImageSource`. `usable` are their positions among all files, `folder` keeps
    what was found out about parts of them.
    """

    what: ToDecode
    facts: FactTable
    usable: NDArray[np.int64]
    shape: tuple[int, ...]
    pixel_range: PixelRange
    folder: Path
    counts: Counts
    _threads: _Threads = field(default_factory=_Threads)

    @classmethod
    def of(cls, what: ToDecode, found: Counted) -> FileImages:
        return cls(what, found.facts, found.facts.usable, found.shape, found.pixel_range, found.folder, found.counts)

    def split(self, labels: Tensor, rows: Tensor) -> Split:
        """The images at `rows` of the usable files."""
        return Split(torch.empty(self.shape, dtype=torch.uint8, device="meta"), labels, rows, self)

    def read(self, parts: Iterable[Tensor], pinned: bool = False, control: Control | None = None) -> Iterator[Tensor]:
        """As `ImageSource.read`. Batches ahead are bounded in number and in bytes."""
        waiting: deque[_Batch] = deque()
        pool = ThreadPoolExecutor(self._threads.number(), "decode")
        try:
            for rows in parts:
                waiting.append(self._begin(pool, rows, pinned))
                if len(waiting) > self._ahead(len(rows)):
                    yield waiting.popleft().wait(control)
            while waiting:
                yield waiting.popleft().wait(control)
        finally:
            pool.shutdown(cancel_futures=True)  # waits for the few images that are being decoded

    def _ahead(self, batch_size: int) -> int:
        most = BYTES_AHEAD // max(batch_size * int(np.prod(self.shape[1:])), 1)
        return max(min(most, BATCHES_AHEAD), 1)

    def _begin(self, pool: ThreadPoolExecutor, rows: Tensor, pinned: bool) -> _Batch:
        images = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8, pin_memory=pinned)
        into = images.numpy()
        work = [pool.submit(self._decode, into, place, row) for place, row in enumerate(rows.tolist())]
        return _Batch(images, work)

    def _decode(self, into: NDArray[np.uint8], place: int, row: int) -> None:
        """Raises DatasetError unless it is the file that was counted."""
        number = int(self.usable[row])
        path = self.what.paths[number]
        try:
            data = read_bytes(path)
        except UnusableImageError as error:
            raise _lost(path, str(error)) from None
        if hashlib.sha256(data).digest() != self.facts.digest(number):
            raise _lost(path, "its content has changed since the run's images were counted")
        pixels = decode(data, self.what.size, self.what.channels, self.pixel_range)
        if isinstance(pixels, str):
            raise _lost(path, pixels)
        into[place] = pixels


def _lost(path: Path, why: str) -> DatasetError:
    return DatasetError(
        f"{path} cannot be used any more: {why}; restore it and resume the run, or train a new run on the files as "
        "they are now"
    )


@dataclass(frozen=True, slots=True)
class PartFacts:
    """The SHA-256 of a part's images and labels, as `Split.sha256`, and the `counts` of its values."""

    sha256: str
    counts: Counts


def part_facts(split: Split, images: FileImages, control: Control) -> Generator[Progress, None, PartFacts]:
    """Decode the images of one part in order, once: the result is kept beside the index.

    Raises:
        DatasetError, LoadingStopped: as `ImageSource.read`.
    """
    assert split.rows is not None
    name = hashlib.sha256(split.rows.numpy().tobytes() + split.labels.numpy().tobytes()).hexdigest()
    known = _known_parts(images.folder)
    if (found := known.get(name)) is not None:
        return PartFacts(found["sha256"], np.array(found["counts"], np.int64))
    digest = hashlib.sha256(str((len(split), *images.shape[1:])).encode())
    counts, done = np.zeros_like(images.counts), 0
    for chunk in split.chunks(_AT_ONCE, control):
        digest.update(chunk.numpy().data)
        add_counts(counts, chunk.numpy())
        done += len(chunk)
        yield Progress("measure", done, len(split), "images")
    digest.update(split.labels.numpy().data)
    facts = PartFacts(digest.hexdigest(), counts)
    known[name] = {"sha256": facts.sha256, "counts": counts.tolist()}
    with suppress(OSError):  # it is found out again then
        write_sealed(images.folder / PARTS, known)
    return facts


def _known_parts(folder: Path) -> dict[str, Any]:
    try:
        return read_sealed(folder / PARTS)
    except DAMAGED:
        return {}
