"""Look at all images of a dataset once: counts, sizes, duplicates, near-duplicates, extremes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from engine.control import Control
from engine.data.audit.glance import NUM_SAMPLES, SAMPLE_SIDE
from engine.data.audit.hashing import Looks, looks_of, near_pairs
from engine.data.audit.rules import LEAST_SIDE
from engine.data.audit.values import PARTS, Audit, ExtremeImage, ImagePair, ImageRef, Kind, PartCounts
from engine.data.decoding import read_kind
from engine.data.duplicates import groups_of, pixel_hashes
from engine.data.images import ImageData, Split
from engine.data.loading import load_dataset
from engine.data.manifest import UNUSABLE
from engine.paths import Folders
from engine.progress import LoadingStopped, Progress
from engine.spec import RunSpec

MOST_LISTED = 10_000
"""Pairs, groups and images of one kind that an audit keeps."""
_CHUNK = 256
_UNIFORM_STD, _DARK, _BRIGHT = 3.0, 8.0, 247.0
_HEADERS_AT_ONCE = 64
_THREADS = 4


@dataclass(frozen=True, slots=True)
class Scanned:
    """The audit, the images that it is about, and `samples` (12, 3, 48, 48) uint8 of them, or fewer."""

    audit: Audit
    data: ImageData
    refs: tuple[ImageRef, ...]
    samples: NDArray[np.uint8]


def scan(spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, Scanned]:
    """Load the dataset of `spec` as a run would, and look at every image.

    Raises:
        DatasetError: as `load_dataset`.
        LoadingStopped: `control` requested a stop.
    """
    data = yield from load_dataset(spec, folders, control)
    refs = yield from refs_of(spec, folders, data, control)
    looks = yield from _looks(data, control)
    groups = groups_of(np.array([ref.sha256 for ref in refs]))
    near, note = yield from _near(data, refs, looks, groups, control)
    sizes, modes = yield from _kinds(data, control)
    audit = Audit(
        dataset=spec.dataset,
        class_names=data.class_names,
        parts=count_parts(data),
        shape=(data.shape.channels, data.shape.height, data.shape.width),
        sizes=sizes,
        modes=modes,
        left_out=tuple(record for record in data.manifest if record.split == UNUSABLE),
        test_sha256=data.test_sha256,
        train_sha256=data.train_sha256,
        duplicates=_duplicates(refs, groups),
        near=near,
        near_note=note,
        extreme=_extreme(refs, looks),
        notes=data.notes,
    )
    return Scanned(audit, data, refs, samples_of(data))


def parts_of(data: ImageData) -> dict[str, Split]:
    """The parts that there are, in their order."""
    found = {"train": data.train, "val": data.val, "test": data.test}
    return {name: split for name in PARTS if (split := found[name]) is not None}


def refs_of(
    spec: RunSpec, folders: Folders, data: ImageData, control: Control
) -> Generator[Progress, None, tuple[ImageRef, ...]]:
    """Every image, part by part."""
    names: dict[str, Iterable[tuple[str, str]]]
    if data.manifest:
        names = {
            part: [(record.file, record.sha256) for record in data.manifest if record.split == part] for part in PARTS
        }
    else:
        stored = data  # pixels are hashed as the dataset stores them, whatever size the run uses
        if spec.image_size is not None:
            stored = yield from load_dataset(spec.replace(image_size=None), folders, control)
        names = {part: [("", sha256) for sha256 in pixel_hashes(split)] for part, split in parts_of(stored).items()}
    found = []
    for part, split in parts_of(data).items():
        labelled = zip(split.labels.tolist(), names[part], strict=True)
        found += [
            ImageRef(part, index, data.class_names[label], file, sha256)
            for index, (label, (file, sha256)) in enumerate(labelled)
        ]
    return tuple(found)


def _looks(data: ImageData, control: Control) -> Generator[Progress, None, Looks]:
    parts, done = [], 0
    total = sum(len(split) for split in parts_of(data).values())
    for split in parts_of(data).values():
        for chunk in split.chunks(_CHUNK):
            if control.stop_requested:
                raise LoadingStopped
            parts.append(looks_of(chunk))
            done += len(chunk)
            yield Progress("hash", done, total, "images")
    return Looks.joined(parts)


def _near(
    data: ImageData, refs: Sequence[ImageRef], looks: Looks, groups: NDArray[np.int64], control: Control
) -> Generator[Progress, None, tuple[tuple[ImagePair, ...], str]]:
    """Near-duplicates among the first image of each group of identical ones, without images that show nothing."""
    side = min(data.shape.height, data.shape.width)
    if side < LEAST_SIDE:
        return (), (
            f"Near-duplicates were not searched for: at {data.shape.height}×{data.shape.width} different images look "
            f"alike; it needs {LEAST_SIDE} pixels."
        )
    first = np.unique(groups, return_index=True)[1]
    among = np.sort(first[looks.std[first] >= _UNIFORM_STD])
    pairs, bits, complete = yield from near_pairs(looks, among, control)
    found = [
        ImagePair(refs[a], refs[b], bit, round(float(looks.small[a] @ looks.small[b]), 5))
        for (a, b), bit in zip(pairs.tolist(), bits.tolist(), strict=True)
    ]
    found.sort(key=lambda pair: (pair.a.part == pair.b.part, pair.bits))
    note = "" if complete else "Too many images look alike: the search ended before all were compared."
    if len(found) > MOST_LISTED:
        note = f"Only the first {MOST_LISTED:,} of {len(found):,} pairs are kept."
    return tuple(found[:MOST_LISTED]), note


def _duplicates(refs: Sequence[ImageRef], groups: NDArray[np.int64]) -> tuple[tuple[ImageRef, ...], ...]:
    _, counts = np.unique(groups, return_counts=True)
    members: dict[int, list[ImageRef]] = {}
    for position in np.flatnonzero(counts[groups] > 1).tolist():
        members.setdefault(int(groups[position]), []).append(refs[position])
    return tuple(map(tuple, list(members.values())[:MOST_LISTED]))


def _extreme(refs: Sequence[ImageRef], looks: Looks) -> tuple[ExtremeImage, ...]:
    dark, bright = looks.mean < _DARK, looks.mean > _BRIGHT
    found = []
    for position in np.flatnonzero((looks.std < _UNIFORM_STD) | dark | bright)[:MOST_LISTED].tolist():
        what = "dark" if dark[position] else "bright" if bright[position] else "uniform"
        mean, std = float(looks.mean[position]), float(looks.std[position])
        found.append(ExtremeImage(refs[position], what, round(mean, 2), round(std, 2)))
    return tuple(found)


def _kinds(data: ImageData, control: Control) -> Generator[Progress, None, tuple[tuple[Kind, ...], tuple[Kind, ...]]]:
    """The sizes, and the formats and modes, most frequent first; of files, as their headers say."""
    if data.root is None:
        total = sum(len(split) for split in parts_of(data).values())
        shape = data.shape
        mode = {1: "grey", 3: "RGB"}.get(shape.channels, f"{shape.channels} channels")
        return (Kind(f"{shape.width}×{shape.height}", total),), (Kind(mode, total),)
    paths = [data.root / record.file for record in data.manifest if record.split != UNUSABLE]
    sizes, modes = Counter[str](), Counter[str]()
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(paths), _HEADERS_AT_ONCE):
            if control.stop_requested:
                raise LoadingStopped
            yield Progress("headers", start, len(paths), "images")
            for size, mode in filter(None, pool.map(read_kind, paths[start : start + _HEADERS_AT_ONCE])):
                sizes[size] += 1
                modes[mode] += 1
    return _most_common(sizes), _most_common(modes)


def _most_common(counter: Counter[str]) -> tuple[Kind, ...]:
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Kind(name, number) for name, number in ordered)


def count_parts(data: ImageData) -> tuple[PartCounts, ...]:
    """The images of each part by class."""
    num_classes = len(data.class_names)
    return tuple(
        PartCounts(part, tuple(torch.bincount(split.labels, minlength=num_classes).tolist()))
        for part, split in parts_of(data).items()
    )


def samples_of(data: ImageData) -> NDArray[np.uint8]:
    """Small pictures of training images, in turn from each class."""
    labels = data.train.labels.numpy()
    order = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    chosen = [
        int(order[start + turn])
        for turn in range(int(counts.max()))
        for start, count in zip(starts.tolist(), counts.tolist(), strict=True)
        if turn < count
    ][:NUM_SAMPLES]
    images = data.train.take(torch.tensor(chosen)).images
    return np.stack([thumbnail(image, SAMPLE_SIDE) for image in images.numpy()])


def thumbnail(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(C, H, W) uint8 as (3, side, side): squeezed into a square, averaged where it shrinks."""
    pixels = torch.from_numpy(image)[None].float()
    mode = "area" if min(image.shape[1:]) >= side else "nearest"
    small = torch.nn.functional.interpolate(pixels, (side, side), mode=mode)[0].round().byte().numpy()
    return np.array(np.broadcast_to(small if len(small) == 3 else small[:1], (3, side, side)))
