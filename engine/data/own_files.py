"""A user's own image files once they are listed, from a folder or a table: how they are loaded and surveyed."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.control import Control
from engine.data.layout import ImageFile
from engine.data.manifest import FileRecord, left_out_by_kind, left_out_text
from engine.errors import DatasetError
from engine.paths import Folders
from engine.progress import Progress
from engine.spec import RunSpec

if TYPE_CHECKING:
    from engine.data.images import RawImages
    from engine.data.survey import Survey


@dataclass(frozen=True, slots=True)
class OwnFiles:
    """Files to decode, and those left out without opening them; names in the manifest are relative to `root`.

    `notes` are sentences on how the dataset was understood; `expected` says what it should have looked like.
    """

    root: Path
    files: Sequence[ImageFile]
    class_names: tuple[str, ...]
    left_out: list[FileRecord]
    notes: tuple[str, ...]
    expected: str

    @property
    def paths(self) -> Sequence[Path]:
        from engine.data.columns import FileTable  # loads numpy, which a check does not need

        return FileTable.of(self.root, self.files).paths

    def nothing(self) -> DatasetError:
        why = left_out_text(left_out_by_kind(self.left_out))
        return DatasetError(f"no image in {self.root} can be read{f' ({why})' if why else ''}; {self.expected}")


def load_own_files(
    spec: RunSpec, found: OwnFiles, folders: Folders, control: Control
) -> Generator[Progress, None, RawImages]:
    """Decode and split the files; those that do not decode are left out and counted."""
    from engine.data.files import Source, load_files  # loads torch, which listing files does not need
    from engine.data.sizing import choose_sizing

    sizing = yield from choose_sizing(found.paths, spec.image_size, control)
    if sizing is None:
        raise found.nothing()
    notes = (*found.notes, *([sizing.note] if sizing.note else []))
    source = Source(
        spec.dataset, found.root, found.files, found.class_names, sizing.size, sizing.channels, found.left_out, notes
    )
    return (yield from load_files(source, spec.test_share, spec.split_seed, folders.cache, control))


def survey_own_files(
    spec: RunSpec, found: OwnFiles, folders: Folders | None, control: Control
) -> Generator[Progress, None, Survey]:
    """Survey the files by their headers; with `folders`, what decoding them will take is measured, too."""
    from engine.data.survey import survey_files  # loads Pillow and numpy, which a check does not need

    surveyed = yield from survey_files(spec, found, folders, control)
    if surveyed is None:
        raise found.nothing()
    return surveyed
