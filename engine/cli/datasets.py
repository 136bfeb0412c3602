"""`reslab datasets`: the datasets, and the decoded images and unpacked archives kept in the cache."""

from __future__ import annotations

import sys
import time
from typing import Any

from engine.catalog.datasets import DATASETS, KINDS, MEDMNIST, DatasetInfo, provided_datasets
from engine.cli.output import print_json
from engine.cli.parser import columns
from engine.data.cache import AUDIT, HASHES_ONLY, CacheEntry, delete_entry, entries
from engine.errors import DatasetError
from engine.events import plain
from engine.paths import Folders
from engine.text import safe_path

_OF = {AUDIT: "audit of ", HASHES_ONLY: "hashes of "}


def datasets_command(folders: Folders, delete: str | None, as_json: bool) -> int:
    """List datasets and cache entries; with `delete`, delete one entry, or "all"."""
    if delete is not None:
        return _delete(folders, delete)
    kept, shown = entries(folders.cache), (*DATASETS, MEDMNIST, *provided_datasets(), *KINDS)
    if as_json:
        print_json([_as_json(info, [entry for entry in kept if _is_of(entry, info)]) for info in shown])
        return 0
    print(columns([("DATASET", "IMAGE", "TRAIN", "TEST", "CLASSES", ""), *map(_row, shown)], (2, 3, 4)))
    if kept:
        print(f"\nDecoded images, unpacked archives and audits in {folders.cache} (--delete NAME, or all):")
        print(columns([("KEPT", "IMAGES", "SIZE", "LAST USED", ""), *map(_kept_row, kept)], (1, 2)))
    return 0


def _delete(folders: Folders, name: str) -> int:
    names = [entry.name for entry in entries(folders.cache)] if name == "all" else [name]
    for one in names:
        if not delete_entry(folders.cache, one):
            raise DatasetError(f"nothing named {one!r} is kept in the cache; reslab datasets lists the names")
    print(f"{len(names)} deleted", file=sys.stderr)
    return 0


def _is_of(entry: CacheEntry, info: DatasetInfo) -> bool:
    return entry.source.startswith(info.prefix) if info.prefix else entry.source == info.name


def _row(info: DatasetInfo) -> tuple[str, ...]:
    train, test = (f"{n:,}" if n else "–" for n in (info.num_train, info.num_test))
    classes = str(info.shape.num_classes) if info.shape else "–"
    return info.name, str(info.shape or "–"), train, test, classes, info.title


def _as_json(info: DatasetInfo, kept: list[CacheEntry]) -> dict[str, Any]:
    figures = {"shape": plain(info.shape), "num_train": info.num_train, "num_test": info.num_test}
    return {"name": info.name, "title": info.title, **figures, "kept": plain(kept)}


def _kept_row(entry: CacheEntry) -> tuple[str, ...]:
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used_at))
    shape = f"at {'×'.join(map(str, entry.shape[1:]))}" if entry.shape else "unpacked"
    size = f"{entry.num_bytes / 2**20:,.1f} MiB"
    source = f"{_OF.get(entry.what, '')}{safe_path(entry.source, 40)}"
    return entry.name, f"{entry.num_images:,}", size, used, f"{source} {shape}"
