"""The data of a spec at a glance, for Set up: counts by class and part, kinds of files, a few pictures. Loads no torch,
unless the caller lets it.

From a kept audit it is exact; without one, files are listed, and a few of them decoded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.catalog.datasets import FOLDER, find_dataset, own_path
from engine.control import RunControl
from engine.data.audit.kept import KeptAudit, audit_key, find_kept
from engine.data.audit.values import PARTS, Kind, PartCounts
from engine.data.decoding import decode, read_bytes, read_kind
from engine.data.formats import UnusableImageError
from engine.data.layout import ImageFile
from engine.paths import Folders
from engine.spec import RunSpec

NUM_SAMPLES, SAMPLE_SIDE = 12, 48
_MOST_HEADERS = 200


@dataclass(frozen=True, slots=True)
class Glance:
    """`samples` (N, 3, 48, 48) uint8. `is_exact`: from an audit; otherwise from the files' names, before any of them
    turned out to be unusable. `num_findings` is None if nobody has looked yet.
    """

    class_names: tuple[str, ...]
    parts: tuple[PartCounts, ...]
    kinds: tuple[Kind, ...]
    num_left_out: int
    samples: NDArray[np.uint8]
    is_exact: bool
    kept: KeptAudit | None = None


def glance(spec: RunSpec, folders: Folders, may_load: bool) -> Glance | None:
    """None if only loading the images can tell, and they are not built in, or `may_load` is false.

    Raises:
        DatasetError: the folder is missing, or is not a dataset.
    """
    kept = find_kept(folders.cache, audit_key(spec, folders))
    if kept is not None:
        audit = kept.audit
        kinds = (*audit.sizes[:1], *audit.modes)
        return Glance(audit.class_names, audit.parts, kinds, len(audit.left_out), kept.samples, True, kept)
    if find_dataset(spec.dataset) is FOLDER and own_path(spec.dataset).is_dir():  # not an archive
        from engine.data.folder import read_folder

        folder = read_folder(spec, own_path(spec.dataset))
        return _of_files(folder.files, folder.class_names, len(folder.left_out), spec.test_share)
    if spec.dataset == "cats-dogs":
        from engine.data.cats_dogs import CLASSES, TEST_SHARE, find_files

        found = find_files(folders.data)
        return None if found is None else _of_files(found.files, CLASSES, len(found.left_out), TEST_SHARE)
    return _built_in(spec, folders) if may_load and spec.dataset == "digits" else None


def _of_files(files: Sequence[ImageFile], class_names: tuple[str, ...], num_left_out: int, share: float) -> Glance:
    counts: Counter[tuple[str, int]] = Counter()
    for (part, label), number in Counter((file.part, file.label) for file in files).items():
        if part is not None:
            counts[part, label] += number
        else:
            num_test = min(max(round(share * number), 1), number - 1)
            counts["train", label] += number - num_test
            counts["test", label] += num_test
    parts = tuple(
        PartCounts(part, tuple(counts[part, label] for label in range(len(class_names))))
        for part in PARTS
        if any(counts[part, label] for label in range(len(class_names)))
    )
    spread = [files[number * len(files) // _MOST_HEADERS] for number in range(_MOST_HEADERS)] if files else []
    kinds = Counter(kind for path in {file.path for file in spread} if (kind := read_kind(path)))
    modes = Counter(mode for _, mode in kinds.elements())
    return Glance(
        class_names, parts, tuple(Kind(name, number) for name, number in modes.most_common()), num_left_out,
        _samples([file.path for file in _in_turn(files)]), False,
    )  # fmt: skip


def _in_turn(files: Sequence[ImageFile]) -> list[ImageFile]:
    """A few files, in turn from each class."""
    by_class: dict[int, list[ImageFile]] = {}
    for file in files:
        by_class.setdefault(file.label, []).append(file)
    return [
        of_class[turn]
        for turn in range(NUM_SAMPLES)
        for _, of_class in sorted(by_class.items())
        if turn < len(of_class)
    ][:NUM_SAMPLES]


def _samples(paths: Sequence[Path]) -> NDArray[np.uint8]:
    found = []
    for path in paths:
        try:
            pixels = decode(read_bytes(path), SAMPLE_SIDE, 3)
        except UnusableImageError:
            continue
        found += [] if isinstance(pixels, str) else [pixels]
    return np.stack(found) if found else np.empty((0, 3, SAMPLE_SIDE, SAMPLE_SIDE), np.uint8)


def _built_in(spec: RunSpec, folders: Folders) -> Glance:
    from engine.data.audit.scan import count_parts, samples_of
    from engine.data.loading import load_dataset

    loading = load_dataset(spec, folders, RunControl())
    while True:
        try:
            next(loading)
        except StopIteration as end:
            data = end.value
            return Glance(data.class_names, count_parts(data), (), 0, samples_of(data), True)
