"""A user's own images as a table of paths, labels and, if it has them, parts: .csv, .tsv or .parquet.

Every row is accounted for: it is an image of the dataset, or it is left out with a reason (missing file, unknown part,
two labels for one file). Paths are relative to the table's folder. Loads no torch.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.catalog.datasets import own_path
from engine.columns import Columns, choose_columns
from engine.control import Control
from engine.data.archives import check_archive, is_archive, only_file, opened
from engine.data.layout import ImageFile, choose_roles, notes_on_roles, part_by_name, refuse_second_val
from engine.data.manifest import FileRecord, unused
from engine.data.own import files_state
from engine.data.own_files import OwnFiles, load_own_files, survey_own_files
from engine.data.rows import TABLE, open_table
from engine.errors import DatasetError
from engine.paths import Folders
from engine.progress import LoadingStopped, Progress
from engine.spec import RunSpec
from engine.text import some_of

if TYPE_CHECKING:
    from engine.data.images import RawImages
    from engine.data.survey import Survey

EXPECTED = "expected one row an image, with its path, relative to the table, and its label"
MISSING = "missing"
_ROWS = 20_000  # between two reports of progress


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `name` and `split` as the table writes them, and the file's `path`, a text as there may be millions."""

    name: str
    path: str
    label: str
    split: str


def load(spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
    """Read the images of the table of `spec.dataset`, or of the one in the archive."""
    with (yield from opened(spec, folders, control, _only_table)) as path:
        found = yield from read_table(spec, path, control)
        return (yield from load_own_files(spec, found, folders, control))


def check(spec: RunSpec) -> None:
    """Raise DatasetError at once if there is no such table, or it lacks the columns."""
    path = own_path(spec.dataset)
    if is_archive(path):
        check_archive(path)
    else:
        header, _ = open_table(path)
        choose_columns(header, spec.columns, str(path))


def survey(spec: RunSpec, folders: Folders | None, control: Control) -> Generator[Progress, None, Survey]:
    """Survey the table's images, without decoding one; an archive is unpacked. Raises as `load`."""
    with (yield from opened(spec, folders, control, _only_table)) as path:
        found = yield from read_table(spec, path, control)
        return (yield from survey_own_files(spec, found, folders, control))


def state(spec: RunSpec) -> str:
    """A hash of the names, sizes and times of the table and all files that it names, or of the archive."""
    path = own_path(spec.dataset)
    if is_archive(path):
        return files_state([path])
    try:
        return files_state([path, *(row.path for row in _rows(path, spec.columns)[1])])
    except DatasetError:  # loading will report it
        return files_state([path])


def read_table(spec: RunSpec, path: Path, control: Control) -> Generator[Progress, None, OwnFiles]:
    """Every image of the table, unopened.

    Raises:
        DatasetError: it cannot be read, or its parts and labels make no dataset.
        LoadingStopped: `control` requested a stop.
    """
    columns, rows = _rows(path, spec.columns)
    kept, left_out = [], []
    by_path: defaultdict[str, list[Row]] = defaultdict(list)
    for number, row in enumerate(rows):
        if number % _ROWS == 0:
            if control.stop_requested:
                raise LoadingStopped
            yield Progress("list", number, 0, "rows")
        if (problem := _problem_of(row, columns)) is None:
            by_path[row.path].append(row)
        else:
            left_out.append(unused(row.name, row.label, problem))
    for same in by_path.values():
        chosen, others = _one_of(same)
        kept += chosen
        left_out += others
    return _assembled(spec, path, columns, kept, left_out)


def _rows(path: Path, setting: str) -> tuple[Columns, Iterator[Row]]:
    header, rows = open_table(path)
    columns = choose_columns(header, setting, str(path))
    positions = [header.index(name) for name in (columns.path, columns.label, columns.split) if name is not None]
    return columns, _read_rows(str(path.parent), rows, positions)


def _read_rows(root: str, rows: Iterable[list[str]], positions: list[int]) -> Iterator[Row]:
    for cells in rows:
        name, label, *split = [cells[at].strip() if at < len(cells) else "" for at in positions]
        yield Row(name, _file_of(root, name), label, split[0] if split else "")


def _file_of(root: str, name: str) -> str:
    """The file of a path in the table; with backslashes as separators if it was written so."""
    path = os.path.normpath(os.path.join(root, name.replace("\0", "")))
    if "\\" in name and not os.path.exists(path):
        return _file_of(root, name.replace("\\", "/"))
    return path


def _problem_of(row: Row, columns: Columns) -> str | None:
    """Why a row alone is left out; None: it is kept."""
    if not row.name:
        return "no path"
    if not row.label:
        return "no label"
    if columns.split is not None and part_by_name(row.split) is None:
        return f"unknown part ({row.split or 'none given'})"
    if not os.path.isfile(row.path):
        return "not a file" if os.path.exists(row.path) else MISSING
    return None


def _one_of(same: list[Row]) -> tuple[list[Row], list[FileRecord]]:
    """Of the rows of one file the one to keep, or none if they contradict each other, and those left out."""
    first, *others = same
    labels, splits = sorted({row.label for row in same}), sorted({row.split for row in same})
    if len(labels) > 1:
        return [], [unused(row.name, row.label, f"listed with several labels ({some_of(labels)})") for row in same]
    if len({part_by_name(split) for split in splits}) > 1:
        return [], [unused(row.name, row.label, f"listed in several parts ({some_of(splits)})") for row in same]
    return [first], [unused(row.name, row.label, "listed again") for row in others]


def _assembled(spec: RunSpec, path: Path, columns: Columns, rows: list[Row], left_out: list[FileRecord]) -> OwnFiles:
    names = sorted_labels({row.label for row in rows})
    numbers = {name: number for number, name in enumerate(names)}
    parts = {part for row in rows if (part := part_by_name(row.split)) is not None}
    roles = choose_roles(str(path), parts) if parts else {}
    files = [ImageFile(Path(row.path), numbers[row.label], roles.get(part_by_name(row.split))) for row in rows]
    notes = [f"columns: {columns.words}", *notes_on_roles(roles)]
    found = OwnFiles(path.parent, files, names, left_out, tuple(notes), EXPECTED)
    if not files:
        raise _nothing_in(path, found)
    if len(names) < 2:
        raise DatasetError(f"{path} has one label, {names[0]}, for all its images; expected at least two")
    _check_parts(spec, path, found)
    return found


def sorted_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Classes in order: as numbers if all of them are numbers, otherwise as text."""
    found = list(labels)
    try:
        return tuple(sorted(found, key=lambda label: (float(label), label)))
    except ValueError:
        return tuple(sorted(found))


def _check_parts(spec: RunSpec, path: Path, found: OwnFiles) -> None:
    if spec.val_share > 0 and any(file.part == "val" for file in found.files):
        refuse_second_val(str(path), "val")
    trained = {file.label for file in found.files if file.part in (None, "train")}
    if unknown := [name for number, name in enumerate(found.class_names) if number not in trained]:
        raise DatasetError(
            f"{path} has no usable training row of {some_of(unknown)}, which another part has; add some, or remove "
            "those rows"
        )


def _nothing_in(path: Path, found: OwnFiles) -> DatasetError:
    """Why no row is usable, with the first one as an example."""
    if not found.left_out:
        return DatasetError(f"{path} has no row; {EXPECTED}")
    first = found.left_out[0]
    return DatasetError(f"no row of {path} is usable; the first names {first.file or 'no file'}: {first.problem}; "
                        f"{EXPECTED}; --columns names other columns, and leaves the part out")  # fmt: skip


def _only_table(folder: Path) -> Path:
    return only_file(folder, TABLE, "one table, .csv, .tsv or .parquet, beside the folders of images")
