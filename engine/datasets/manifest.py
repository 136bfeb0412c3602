"""Which file was what in a run: its hash, class and split, and what was wrong with those left out. A CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path

from engine.datasets.images import FileRecord
from engine.errors import DatasetError

MANIFEST_NAME = "manifest.csv"


def write_manifest(path: Path, records: Sequence[FileRecord]) -> None:
    """Write one line a file, the unusable ones first."""
    ordered = sorted(records, key=lambda record: record.split != "unusable")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([field.name for field in fields(FileRecord)])
            writer.writerows(astuple(record) for record in ordered)
    except OSError as error:
        raise DatasetError(f"cannot write {path} ({error.strerror}); choose a home that is writable") from None
