"""From a spec to an `ImageData`: load, resize, hold out for validation, measure.

Every dataset passes through here, so size, validation share and normalisation mean the same for all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import replace
from importlib import import_module

import torch

from engine.catalog.datasets import FOLDER, find_dataset
from engine.control import Control
from engine.data.columns import WithVal
from engine.data.duplicates import count_shared, groups_of, pixel_groups, shared_notes
from engine.data.exclusion import read_exclusion
from engine.data.images import FIRST_RULES, NEWEST_RULES, ImageData, Loader, RawImages, Split
from engine.data.layout import refuse_second_val
from engine.data.leaving_out import Parts, image_hashes, without_excluded
from engine.data.manifest import FileRecord
from engine.data.measuring import Measured, measure
from engine.data.own import own_source
from engine.data.resizing import resize
from engine.data.splits import Indices, split_off_val, stratified
from engine.errors import DatasetError
from engine.failures import dataset_is_used
from engine.normalization import Moments, stated_moments
from engine.paths import Folders
from engine.progress import LoadingStopped, Progress
from engine.spec import RunSpec, affecting
from engine.text import counted

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # torchvision's documentation of its pretrained weights
IMAGENET_STD = (0.229, 0.224, 0.225)
_CHUNK = 4096  # images resized at once, to limit the float copy


def check_dataset(spec: RunSpec) -> None:
    """Raise DatasetError for obvious mistakes before anything is recorded: a missing folder, file or exclude list."""
    info = find_dataset(spec.dataset)
    if info.num_val and spec.val_share > 0:
        refuse_second_val(spec.dataset, "val")
    if info.is_own:
        with dataset_is_used(spec.dataset):
            own_source(spec.dataset).check(spec)
    read_exclusion(spec)


def data_key(spec: RunSpec) -> tuple[object, ...]:
    """Two specs with the same key load the same images: the user's files and exclude list are part of it.

    Raises:
        DatasetError: the exclude list cannot be read.
    """
    chosen = {name: getattr(spec, name) for name in affecting("images")}
    chosen["weights"] = spec.weights != "random"  # trained weights need ImageNet's normalisation
    files = own_source(spec.dataset).state(spec) if find_dataset(spec.dataset).is_own else ""
    excluded = read_exclusion(spec)
    return (*chosen.values(), files, excluded.sha256 if excluded else "")


def load_dataset(
    spec: RunSpec, folders: Folders, control: Control, rules: int = NEWEST_RULES
) -> Generator[Progress, None, ImageData]:
    """Yield progress and return the images, on the CPU; decoded files stay mapped (`Split.rows`).

    `rules` are those recorded by an earlier run.

    Raises:
        DatasetError: they are missing, unreadable or too few.
        LoadingStopped: `control` requested a stop.
    """
    exclusion = read_exclusion(spec)
    with dataset_is_used(spec.dataset, folders):
        raw = yield from _loader(spec, rules)(spec, folders, control)
    raw = _with_shared(raw)
    train, val, test, manifest = raw.train, raw.val, raw.test, raw.manifest
    if spec.image_size is not None:
        train = yield from _resized(train, spec.image_size, control)
        val = val and (yield from _resized(val, spec.image_size, control))
        test = yield from _resized(test, spec.image_size, control)
    held_out: Indices | None = None
    if spec.val_share > 0:  # a folder with its own validation part was refused
        rest, held_out = _held_out(raw, spec, rules)
        train, val = train.part(torch.from_numpy(rest)), train.part(torch.from_numpy(held_out))
        manifest = WithVal.of(manifest, held_out) if manifest else ()
    parts = Parts(train, val, test, manifest, raw.notes, raw.shared)
    if exclusion is not None:
        hashes = image_hashes(raw, manifest, held_out)
        parts = without_excluded(parts, hashes, exclusion, raw.class_names, spec.dataset)
    if len(parts.train) < 2:
        raise DatasetError(f"{spec.dataset} has {counted(len(parts.train), 'training image')}; expected at least two")
    measured = yield from measure(parts.train, parts.test, control)
    mean, std = moments_for(spec, measured)
    train, val, files = parts.train, parts.val, parts.manifest
    hashed = _sha256_of_files(files) if files else train.sha256() + (val.sha256() if val else "")
    return ImageData(
        train, val, parts.test, raw.class_names, mean, std, measured.test_sha256, hashed, files, parts.notes,
        parts.shared, rules, raw.pixel_range, raw.resampler, raw.root, exclusion,
    )  # fmt: skip


def _loader(spec: RunSpec, rules: int) -> Loader:
    info = find_dataset(spec.dataset)
    module, function = info.loader.split(":")
    if info is FOLDER and rules == FIRST_RULES:
        module = "engine.data.legacy_rules"
    loader: Loader = getattr(import_module(module), function)
    return loader


def _with_shared(raw: RawImages) -> RawImages:
    """Images without files are compared by their pixels."""
    if raw.train_keys is not None:
        return raw
    train, test = pixel_groups([raw.train, raw.test])
    shared = count_shared({"train": train, "test": test})
    return replace(raw, shared=shared, notes=(*raw.notes, *shared_notes(shared)), train_keys=train)


def _held_out(raw: RawImages, spec: RunSpec, rules: int) -> tuple[Indices, Indices]:
    """Positions of the remaining training images, and of those for validation."""
    labels = raw.train.labels.numpy()
    if rules == FIRST_RULES:
        return stratified(labels, spec.val_share, spec.split_seed, "val", raw.class_names)
    assert raw.train_keys is not None
    return split_off_val(labels, groups_of(raw.train_keys), spec.val_share, spec.split_seed, raw.class_names)


def _sha256_of_files(manifest: Sequence[FileRecord]) -> str:
    """Hash of the files' hashes and classes, without reading gigabytes of pixels."""
    digest = hashlib.sha256()
    for record in manifest:
        if record.split in ("train", "val"):
            digest.update(f"{record.split} {record.sha256} {record.class_name}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def moments_for(spec: RunSpec, measured: Measured) -> Moments:
    """The run's normalisation; `auto` is ImageNet's for trained weights, else that of the training images.

    Raises:
        SpecError: the spec states it for another number of channels.
    """
    channels = measured.train.images.shape[1]
    stated = stated_moments(spec.normalization, channels)
    if stated is not None:
        return stated
    if spec.normalization == "none":
        return (0.0,) * channels, (1.0,) * channels
    if spec.normalization == "dataset" or (spec.normalization == "auto" and spec.weights == "random"):
        return measured.moments()
    return imagenet_moments(channels)


def imagenet_moments(channels: int) -> Moments:
    """Normalisation of pretrained weights: the three published values, or their mean for other numbers of channels."""
    if channels == len(IMAGENET_MEAN):
        return IMAGENET_MEAN, IMAGENET_STD
    return (sum(IMAGENET_MEAN) / 3,) * channels, (sum(IMAGENET_STD) / 3,) * channels


def _resized(split: Split, size: int, control: Control) -> Generator[Progress, None, Split]:
    if split.images.shape[2:] == (size, size):
        return split
    chunks = []
    for chunk in split.chunks(_CHUNK):
        if control.stop_requested:
            raise LoadingStopped
        chunks.append(resize(chunk, size))
        yield Progress("resize", min(len(chunks) * _CHUNK, len(split)), len(split), "images")
    return Split(torch.cat(chunks), split.labels)
