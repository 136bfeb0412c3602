"""The files of a run: hash, class and split of each, and the problem of those left out. A CSV file.

Loads no torch, so that the app can show the list.
"""

from __future__ import annotations

import csv
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import takewhile
from pathlib import Path

from engine.errors import DatasetError
from engine.text import safe_text

MANIFEST_NAME = "manifest.csv"
UNUSABLE = "unusable"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of the manifest. `split` is train, val, test or unusable; `problem` says why it is unusable."""

    file: str
    sha256: str
    class_name: str
    split: str
    problem: str | None


def unused(file: str, class_name: str, problem: str) -> FileRecord:
    """The record of a file that was not opened."""
    return FileRecord(file, "", class_name, UNUSABLE, problem)


def left_out_by_kind(records: Iterable[FileRecord]) -> dict[str, int]:
    """How many files were left out, by kind of reason, most frequent first: {"no image": 2, "damaged": 1}."""
    kinds = Counter(kind_of(record.problem or "") for record in records if record.split == UNUSABLE)
    return dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))


def kind_of(problem: str) -> str:
    """A reason without its details: "damaged" for "damaged (image file is truncated)"."""
    return problem.split(" (")[0]


def left_out_text(kinds: Mapping[str, int]) -> str:
    """One line: "3 files left out: 2 no image, 1 damaged"; empty if there are none."""
    total = sum(kinds.values())
    if not total:
        return ""
    return f"{total:,} file{'' if total == 1 else 's'} left out: " + ", ".join(f"{n:,} {k}" for k, n in kinds.items())


def write_manifest(path: Path, records: Sequence[FileRecord]) -> None:
    """Write one line per file, unusable ones first; names are made safe to print. `records` may be a million: none is
    kept.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow([field.name for field in fields(FileRecord)])
            for is_unusable in (True, False):
                writer.writerows(_row(item) for item in records if (item.split == UNUSABLE) is is_unusable)
        os.replace(part, path)
    except OSError as error:
        raise DatasetError(f"cannot write {path} ({error.strerror}); choose a writable home folder") from None


def _row(item: FileRecord) -> tuple[str, ...]:
    values = (item.file, item.sha256, item.class_name, item.split, item.problem or "")
    return tuple(value if value.isascii() and value.isprintable() else safe_text(value) for value in values)


def read_unusable(path: Path) -> list[FileRecord] | None:
    """The files that were left out; None without a manifest, as for a dataset without files.

    Raises:
        DatasetError: it cannot be read.
    """
    if not path.is_file():
        return None
    with _explained(path):
        return list(takewhile(lambda record: record.split == UNUSABLE, _read(path)))


def read_test_files(path: Path) -> list[FileRecord]:
    """The files of the test images, in the images' order; none without a manifest.

    Raises:
        DatasetError: it cannot be read.
    """
    if not path.is_file():
        return []
    with _explained(path):
        return [record for record in _read(path) if record.split == "test"]


def _read(path: Path) -> Iterator[FileRecord]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = csv.reader(file)
        next(rows)
        for row in rows:
            # A million rows share the few names of classes and splits.
            yield FileRecord(row[0], row[1], sys.intern(row[2]), sys.intern(row[3]), row[4] or None)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, TypeError, IndexError, RuntimeError, csv.Error) as error:  # RuntimeError: an empty file
        raise DatasetError(f"cannot read {path} ({error})") from None
