"""Audits kept in the cache folder, so that the second look is instant. Loads no torch.

An entry lies beside the decoded images: `audit.json`, some small pictures in `samples.u8`, and `index.json`, with the
hashes of both and of itself. Its key covers the dataset's settings and the names, sizes and times of its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.catalog.datasets import find_dataset
from engine.data.audit.rules import RULE
from engine.data.audit.values import Audit
from engine.data.cache import AUDIT, keep_within_bound
from engine.data.cache_index import INDEX, read_sealed, write_sealed
from engine.data.decoding import RULE as DECODING_RULE
from engine.data.exclusion import read_exclusion
from engine.data.own import files_below, files_state, own_source
from engine.errors import DatasetError
from engine.events import plain
from engine.from_plain import from_plain
from engine.paths import Folders
from engine.spec import RunSpec, affecting

_BROKEN = (OSError, ValueError, KeyError, AttributeError, TypeError)  # valid JSON, but not an audit
_FOLDERS = {
    "mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python", "oxford-pets": "oxford-iiit-pet",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class KeptAudit:
    """An audit with its `samples` (N, 3, 48, 48) uint8."""

    audit: Audit
    samples: NDArray[np.uint8]


def audit_key(spec: RunSpec, folders: Folders, network: str = "") -> str:
    """The name of the entry for the images of `spec`, looked at with the network of this hash (empty: with none)."""
    settings = {name: getattr(spec, name) for name in affecting("images") if name not in ("weights", "exclude")}
    excluded = read_exclusion(spec)
    parts = [RULE, DECODING_RULE, settings, excluded.sha256 if excluded else "", _state(spec, folders), network]
    return f"audit-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"


def _state(spec: RunSpec, folders: Folders) -> str:
    """What tells whether the dataset's files have changed."""
    if find_dataset(spec.dataset).is_own:
        return own_source(spec.dataset).state(spec)
    if spec.dataset == "cats-dogs":
        from engine.data.cats_dogs import find_files

        found = find_files(folders.data)
        return files_state(files_below(found.root)) if found is not None else ""
    name = _FOLDERS.get(spec.dataset)
    return files_state(files_below(folders.data / name)) if name else ""


def keep(cache: Path, name: str, kept: KeptAudit) -> None:
    """Store an audit under `name`.

    Raises:
        DatasetError: the cache folder cannot be written.
    """
    entry, part = cache / name, cache / f".{name}.part"
    text = json.dumps(plain(kept.audit)).encode()
    pixels = np.ascontiguousarray(kept.samples).tobytes()
    index = {
        "what": AUDIT, "source": kept.audit.dataset, "shape": [kept.audit.num_images, *kept.audit.shape],
        "samples": list(kept.samples.shape), "sha256": [hashlib.sha256(data).hexdigest() for data in (text, pixels)],
        "test_sha256": kept.audit.test_sha256, "train_sha256": kept.audit.train_sha256,
    }  # fmt: skip
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        (part / "audit.json").write_bytes(text)
        (part / "samples.u8").write_bytes(pixels)
        write_sealed(part / INDEX, index)
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(part, entry)
    except OSError as error:
        raise DatasetError(
            f"cannot keep the audit in {cache} ({error.strerror or error}); free some space there, or choose another "
            "folder with RESLAB_CACHE"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    keep_within_bound(cache, name)


def find_kept(cache: Path, name: str) -> KeptAudit | None:
    """The audit kept under `name`; None if there is none, or it is damaged."""
    entry = cache / name
    try:
        index = read_sealed(entry / INDEX)
        text, pixels = (entry / "audit.json").read_bytes(), (entry / "samples.u8").read_bytes()
        if [hashlib.sha256(data).hexdigest() for data in (text, pixels)] != index["sha256"]:
            return None
        samples = np.frombuffer(pixels, np.uint8).reshape(index["samples"])
        found = KeptAudit(from_plain(Audit, json.loads(text)), samples)
        os.utime(entry / "index.json")
    except _BROKEN:
        return None
    return found


def kept_for(cache: Path, test_sha256: str, train_sha256: str) -> Audit | None:
    """An audit of the images that a run was trained and tested on; None if none is kept."""
    for path in sorted(cache.glob("audit-*/index.json")):
        try:
            index = read_sealed(path)
        except _BROKEN:
            continue
        matches = (index.get("test_sha256"), index.get("train_sha256")) == (test_sha256, train_sha256)
        if matches and (found := find_kept(cache, path.parent.name)) is not None:
            return found.audit
    return None
