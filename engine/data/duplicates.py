"""Exact duplicates: which images are identical to the last byte, and how many of them two parts share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from engine.data.images import Split
from engine.text import some_of

_CHUNK = 4096
_ORDER = ("train", "val", "test")

Keys = NDArray[np.str_] | NDArray[np.int64]
"""(N,) one per image; equal for identical images."""


def groups_of(keys: Sequence[bytes] | NDArray[np.bytes_] | Keys) -> NDArray[np.int64]:
    """(N,) group number of each image; equal for equal keys."""
    return np.unique(np.asarray(keys), return_inverse=True)[1].reshape(-1).astype(np.int64)


def pixel_groups(splits: Sequence[Split]) -> list[NDArray[np.int64]]:
    """As `groups_of`, for images without files, over all `splits` together.

    A weighted sum of each image's bytes finds candidates, and only these are compared (0.1 s for MNIST's 70,000).
    """
    sums = np.concatenate([_sums(split) for split in splits])
    _, groups, counts = np.unique(sums, return_inverse=True, return_counts=True)
    groups = groups.reshape(-1).astype(np.int64)
    alike = np.flatnonzero(counts[groups] > 1)
    if len(alike):
        pixels = [row.tobytes() for row in _rows(splits, alike)]
        groups[alike] = len(counts) + groups_of(pixels)
    edges = np.cumsum([len(split) for split in splits])[:-1]
    return list(np.split(groups, edges))


def pixel_hashes(split: Split) -> list[str]:
    """The SHA-256 of each image's pixels, channel by channel, row by row."""
    return [
        hashlib.sha256(image.tobytes()).hexdigest() for chunk in split.chunks(_CHUNK) for image in chunk.cpu().numpy()
    ]


def _sums(split: Split) -> NDArray[np.uint64]:
    num_words = -(-split.images[:1].numel() // 8)
    weights = 2 * np.random.default_rng(0).integers(0, 2**63, num_words, dtype=np.uint64) + 1
    found = []
    for chunk in split.chunks(_CHUNK):
        rows = chunk.cpu().numpy().reshape(len(chunk), -1)
        words = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8))).view(np.uint64)
        found.append((words * weights).sum(axis=1, dtype=np.uint64))
    return np.concatenate(found)


def _rows(splits: Sequence[Split], chosen: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
    import torch

    start = 0
    for split in splits:
        mine = chosen[(chosen >= start) & (chosen < start + len(split))] - start
        yield from split.take(torch.from_numpy(mine)).images.numpy()
        start += len(split)


def count_shared(parts: Mapping[str, Keys]) -> dict[str, int]:
    """For each pair of parts, how many images of the later one also occur in the earlier one: {"train and test": 12}.

    Pairs that share none are omitted.
    """
    found = {}
    for one, other in combinations([name for name in _ORDER if name in parts], 2):
        if number := int(np.isin(parts[other], parts[one]).sum()):
            found[f"{one} and {other}"] = number
    return found


def shared_notes(shared: Mapping[str, int]) -> tuple[str, ...]:
    """One sentence for each pair of parts that share images."""
    return tuple(
        f"{number:,} {'image is' if number == 1 else 'images are'} in both {pair}" for pair, number in shared.items()
    )


def two_classes_note(groups: NDArray[np.int64], labels: NDArray[np.int64]) -> str | None:
    """How many images occur in more than one class, as a sentence; None if none does."""
    pairs = np.unique(np.stack([groups, labels]), axis=1)[0]
    number = int((np.unique(pairs, return_counts=True)[1] > 1).sum())
    return f"{number:,} {'image is' if number == 1 else 'images are'} in more than one class" if number else None


def empty_classes_notes(names: Sequence[str], parts: Mapping[str, NDArray[np.int64]]) -> tuple[str, ...]:
    """Classes without an image in the validation or the test part: they have no figures."""
    words = {"val": "validation", "test": "test"}
    found = []
    for part, word in words.items():
        if part in parts:
            counts = np.bincount(parts[part], minlength=len(names))
            if missing := [name for name, count in zip(names, counts, strict=True) if not count]:
                found.append(f"no {word} image of {some_of(missing)}: no recall, and not in the averages")
    return tuple(found)
