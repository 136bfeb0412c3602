"""MedMNIST's 2-D sets: read where their files lie, or downloaded from Zenodo and checked by their published MD5.

A file that the user already has, in the data folder or where the package medmnist keeps its own, is read as it is; if
it is not the published one, the run says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.catalog.medmnist import SIZES, MedSet, find_medset
from engine.control import Control
from engine.data.npz import load_npz
from engine.errors import DatasetError, FetchError
from engine.fetching import fetch
from engine.paths import Folders, expand
from engine.progress import LoadingStopped, Progress
from engine.spec import RunSpec

if TYPE_CHECKING:
    from engine.data.images import RawImages

URL = "https://zenodo.org/records/10519652/files"
PACKAGE_FOLDER = "~/.medmnist"
_BLOCK = 1 << 22


def load(spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
    """Read the set; download it first if it is missing."""
    found, size = find_medset(spec.dataset)
    own = folders.data / "medmnist" / file_name(found, size)
    candidates = (own, folders.data / own.name, expand(PACKAGE_FOLDER) / own.name)
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        yield from _download(spec, found, size, own, control)
        return (yield from load_npz(spec, own, control, found.class_names))
    raw = yield from load_npz(spec, path, control, found.class_names)
    md5 = yield from _md5(path, control)
    if md5 != found.md5[SIZES.index(size)]:
        note = f"{path} is not the published file (MD5 {md5}): figures on it are not comparable with published ones"
        raw = replace(raw, notes=(*raw.notes, note))
    return raw


def file_name(found: MedSet, size: int) -> str:
    """The file's published name."""
    return f"{found.name}mnist{'' if size == SIZES[0] else f'_{size}'}.npz"


def _download(spec: RunSpec, found: MedSet, size: int, path: Path, control: Control) -> Generator[Progress, None, None]:
    try:
        yield from fetch([f"{URL}/{path.name}?download=1"], path, found.md5[SIZES.index(size)], control)
    except (FetchError, OSError) as error:
        raise DatasetError(
            f"{spec.dataset} is not on this machine and {error}; expected {path}, or {PACKAGE_FOLDER}/{path.name}: "
            "connect to the network, put it there, or set its folder with --data-dir"
        ) from None


def _md5(path: Path, control: Control) -> Generator[Progress, None, str]:
    digest, done, total = hashlib.md5(usedforsecurity=False), 0, path.stat().st_size
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            if control.stop_requested:
                raise LoadingStopped
            digest.update(block)
            done += len(block)
            yield Progress("check", done, total, "bytes")
    return digest.hexdigest()
