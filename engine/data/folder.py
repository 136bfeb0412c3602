"""A user's own images: one folder per class, or folders of classes for training, validation and test; or an archive
of such a folder.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from engine.catalog.datasets import own_path
from engine.control import Control
from engine.data.archives import check_archive, is_archive, opened
from engine.data.columns import FileTable
from engine.data.layout import ASK_FOR, Layout, find_layout, refuse_second_val
from engine.data.listing import OUTSIDE, images_directly_in, list_files
from engine.data.manifest import FileRecord, unused
from engine.data.own import files_below, files_state
from engine.data.own_files import OwnFiles, load_own_files, survey_own_files
from engine.paths import Folders
from engine.progress import Progress
from engine.spec import RunSpec

if TYPE_CHECKING:
    from engine.data.images import RawImages
    from engine.data.survey import Survey


def load(spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
    """Read the folder of `spec.dataset`, or the archive."""
    with (yield from opened(spec, folders, control, _itself)) as root:
        return (yield from load_own_files(spec, read_folder(spec, root), folders, control))


def check(spec: RunSpec) -> None:
    """Raise DatasetError at once if the folder cannot be a dataset, before a run is recorded."""
    path = own_path(spec.dataset)
    if is_archive(path):
        check_archive(path)
    else:
        _check_val(spec, find_layout(path))


def survey(spec: RunSpec, folders: Folders | None, control: Control) -> Generator[Progress, None, Survey]:
    """Survey the folder, without decoding an image; an archive is unpacked. Raises as `load`."""
    with (yield from opened(spec, folders, control, _itself)) as root:
        return (yield from survey_own_files(spec, read_folder(spec, root), folders, control))


def state(spec: RunSpec) -> str:
    """A hash of the names, sizes and times of all files in the folder, or of the archive."""
    return files_state(files_below(own_path(spec.dataset)))


def _itself(root: Path) -> Path:
    return root


def read_folder(spec: RunSpec, root: Path) -> OwnFiles:
    """Every file of the folder `root`, unopened. Raises DatasetError, as `find_layout`."""
    layout = find_layout(root)
    _check_val(spec, layout)
    files, left_out = FileTable(layout.root), list(_outside(layout))
    for part in layout.parts:
        for name in part.class_names:
            label = layout.class_names.index(name)
            for listed in list_files(part.folder / name):
                if listed.problem is None:
                    files.add(listed.text, label, part.part)
                else:
                    left_out.append(unused(_name(listed.path, layout.root), name, listed.problem))
    return OwnFiles(layout.root, files, layout.class_names, left_out, layout.notes, ASK_FOR)


def _check_val(spec: RunSpec, layout: Layout) -> None:
    if spec.val_share > 0 and layout.has_val:
        refuse_second_val(str(layout.root), next(part.folder.name for part in layout.parts if part.part == "val"))


def _outside(layout: Layout) -> Iterator[FileRecord]:
    """Images next to the class folders belong to no class."""
    for folder in dict.fromkeys((layout.root, *(part.folder for part in layout.parts))):
        for path in images_directly_in(folder):
            yield unused(_name(path, layout.root), "", OUTSIDE)


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root))
