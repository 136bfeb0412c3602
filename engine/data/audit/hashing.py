"""Perceptual hashes: near-duplicates among up to a hundred thousand images, without comparing all pairs.

Each image becomes a small grey picture, and this two hashes of 64 bits: the signs of its lowest frequencies (pHash:
Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions") and of its horizontal differences
(dHash). A pair is a near-duplicate if both hashes and the small pictures themselves agree. Candidates come from bands
of the first hash (multi-index hashing: Norouzi, Punjani and Fleet 2012).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from engine.control import Control
from engine.data.audit.rules import LEAST_CORRELATION, MOST_DHASH_BITS, MOST_PHASH_BITS
from engine.progress import LoadingStopped, Progress

MOST_CANDIDATES = 200_000_000
_SIDE, _SMALL, _FREQUENCIES = 32, 16, 8
_ENOUGH = 96  # pixels of the shorter side that are read
_GREY = (0.299, 0.587, 0.114)
_BAND_STARTS, _BAND_BITS = (0, 21, 42), 22  # of 64 bits; neighbours share one
_PROBES_PER_REPORT = 50
_BLOCK = 4_000_000  # candidates compared at once

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Looks:
    """What images look like: `phash` and `dhash` (N,), the grey 16×16 pictures `small` (N, 256) with mean zero and
    length one, and their `mean` and `std` (N,) from 0 to 255.
    """

    phash: Hashes
    dhash: Hashes
    small: NDArray[np.float32]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.phash)

    @classmethod
    def joined(cls, parts: list[Looks]) -> Looks:
        columns = ("phash", "dhash", "small", "mean", "std")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))


def looks_of(images: Tensor) -> Looks:
    """Of (N, C, H, W) uint8 images."""
    step = max(min(images.shape[2:]) // _ENOUGH, 1)  # a quarter of a photograph's pixels tells as much
    grey = _grey(images[:, :, ::step, ::step])
    picture = _both_ways(grey, _area(_SIDE, grey.shape[1]), _area(_SIDE, grey.shape[2]))
    waves = _both_ways(picture, _cosines(), _cosines()).reshape(len(picture), -1).numpy()
    middle = np.median(waves[:, 1:], axis=1, keepdims=True)  # the first is the mean brightness
    steps = _both_ways(picture, _area(_FREQUENCIES, _SIDE), _area(_FREQUENCIES + 1, _SIDE)).numpy()
    rising = (steps[:, :, 1:] > steps[:, :, :-1]).reshape(len(steps), -1)
    small = _both_ways(picture, _area(_SMALL, _SIDE), _area(_SMALL, _SIDE)).reshape(len(picture), -1).numpy()
    mean, std = small.mean(axis=1), small.std(axis=1)
    unit = small - mean[:, None]
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-6)
    return Looks(_packed(waves > middle), _packed(rising), unit, mean, std)


def near_pairs(
    looks: Looks, among: Positions, control: Control
) -> Generator[Progress, None, tuple[Positions, NDArray[np.int64], bool]]:
    """Near-duplicates among the images at the positions `among`: pairs (K, 2), the bits by which each pair's first
    hashes differ (K,), and whether the search is complete: it ends after `MOST_CANDIDATES`.

    Raises:
        LoadingStopped: `control` requested a stop.
    """
    found, num_candidates, done = list[Positions](), 0, 0
    bands = [(start, probe) for start in _BAND_STARTS for probe in _probes()]
    band: _Band | None = None
    for done, (start, probe) in enumerate(bands):
        if control.stop_requested:
            raise LoadingStopped
        if done % _PROBES_PER_REPORT == 0:
            yield Progress("compare", done, len(bands), "bands")
        if band is None or band.start != start:
            band = _Band.of(looks.phash[among], start)
        for one, other in band.pairs(probe):
            num_candidates += len(one)
            found.append(_agreeing(looks, among, one, other))
        if num_candidates > MOST_CANDIDATES:
            return (*_unique(found, looks), False)
    return (*_unique(found, looks), True)


def _agreeing(looks: Looks, among: Positions, one: Positions, other: Positions) -> Positions:
    """(K, 2) the pairs that pass all three tests."""
    bits = np.bitwise_count(looks.phash[among[one]] ^ looks.phash[among[other]])
    kept = np.flatnonzero(bits <= MOST_PHASH_BITS)
    a, b = np.sort([among[one[kept]], among[other[kept]]], axis=0)
    alike = np.bitwise_count(looks.dhash[a] ^ looks.dhash[b]) <= MOST_DHASH_BITS
    a, b = a[alike], b[alike]
    correlation = np.einsum("nk,nk->n", looks.small[a], looks.small[b])
    close = correlation >= LEAST_CORRELATION
    return np.stack([a[close], b[close]], axis=1)


def _unique(found: list[Positions], looks: Looks) -> tuple[Positions, NDArray[np.int64]]:
    pairs = np.unique(np.concatenate([np.empty((0, 2), np.int64), *found]), axis=0)
    return pairs, np.bitwise_count(looks.phash[pairs[:, 0]] ^ looks.phash[pairs[:, 1]]).astype(np.int64)


@cache
def _probes() -> list[int]:
    """Every change of up to two bits of a band: of three bands, one differs by at most 8 / 3 bits."""
    most = MOST_PHASH_BITS // len(_BAND_STARTS)
    return [sum(1 << bit for bit in bits) for n in range(most + 1) for bits in combinations(range(_BAND_BITS), n)]


@dataclass(frozen=True, slots=True)
class _Band:
    """22 bits of each hash, `values`, in ascending order; `order` are the images that they belong to."""

    start: int
    values: NDArray[np.uint32]
    order: Positions

    @classmethod
    def of(cls, hashes: Hashes, start: int) -> _Band:
        values = ((hashes >> np.uint64(start)) & np.uint64((1 << _BAND_BITS) - 1)).astype(np.uint32)
        order = np.argsort(values, kind="stable")
        return cls(start, values[order], order)

    def pairs(self, probe: int) -> Iterator[tuple[Positions, Positions]]:
        """Images whose bands differ by exactly `probe`, each pair once, in blocks."""
        wanted = self.values ^ np.uint32(probe)
        first = np.searchsorted(self.values, wanted, "left")
        counts = np.searchsorted(self.values, wanted, "right") - first
        if probe:  # each pair is found from both sides
            counts[wanted < self.values] = 0
        ends = np.cumsum(counts)
        start = 0
        while start < len(counts):
            before = int(ends[start - 1]) if start else 0
            stop = max(int(np.searchsorted(ends, before + _BLOCK, "right")), start + 1)
            block = counts[start:stop]
            one = np.repeat(np.arange(start, stop), block)
            offsets = np.arange(len(one)) - np.repeat(np.cumsum(block) - block, block)
            other = np.repeat(first[start:stop], block) + offsets
            kept = slice(None) if probe else one < other
            yield self.order[one[kept]], self.order[other[kept]]
            start = stop


def _both_ways(pictures: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """`down` @ each picture @ `across`.T, (N, H, W) to (N, out, out), as two large products: 8 times as fast as N small
    ones.
    """
    return linear(linear(pictures, across).transpose(1, 2), down).transpose(1, 2)


def _grey(images: Tensor) -> Tensor:
    """(N, H, W) float32 from 0 to 255."""
    if images.shape[1] != len(_GREY):
        return images.float().mean(dim=1)
    red, green, blue = images.unbind(1)
    return red.float().mul_(_GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])


def _area(out: int, size: int) -> Tensor:
    """(out, size): row i averages the pixels below its share of the length."""
    edges = np.linspace(0, size, out + 1)
    left, pixels = edges[:-1, None], np.arange(size)[None]
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(left, pixels)
    return torch.from_numpy((np.maximum(overlap, 0) * out / size).astype(np.float32))


def _cosines() -> Tensor:
    """(8, 32): the lowest frequencies of a DCT-II."""
    angles = np.pi / (2 * _SIDE) * np.outer(np.arange(_FREQUENCIES), 2 * np.arange(_SIDE) + 1)
    return torch.from_numpy(np.cos(angles).astype(np.float32))


def _packed(bits: NDArray[np.bool_]) -> Hashes:
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]
