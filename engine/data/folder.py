"""A user's own images: one folder per class, or folders of classes for training, validation and test; or an archive
of such a folder.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.catalog.datasets import own_path
from engine.control import Control
from engine.data.archives import check_archive, is_archive, opened
from engine.data.layout import ASK_FOR, ImageFile, Layout, find_layout
from engine.data.listing import OUTSIDE, images_directly_in, list_files
from engine.data.manifest import FileRecord, unused
from engine.data.own import files_below, files_state
from engine.data.sizing import choose_sizing
from engine.errors import DatasetError
from engine.paths import Folders
from engine.progress import Progress
from engine.spec import RunSpec

if TYPE_CHECKING:
    from engine.data.images import RawImages
    from engine.data.survey import Survey


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder's layout and its files: those to decode, and those skipped without opening them."""

    layout: Layout
    files: list[ImageFile]
    left_out: list[FileRecord]


def load(spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
    """Read the folder of `spec.dataset`, or the archive; files that do not decode are skipped and counted."""
    with (yield from opened(spec, folders, control, lambda top: top)) as root:
        return (yield from _load(spec, read_folder(spec, root), folders, control))


def _load(spec: RunSpec, folder: Folder, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
    from engine.data.files import Source, load_files  # loads torch, which listing a folder does not need

    layout, paths = folder.layout, [file.path for file in folder.files]
    sizing = yield from choose_sizing(paths, spec.image_size, control)
    if sizing is None:
        raise DatasetError(f"no image in {layout.root} can be read; {ASK_FOR}")
    notes = (*layout.notes, *([sizing.note] if sizing.note else []))
    source = Source(
        spec.dataset,
        layout.root,
        folder.files,
        layout.class_names,
        sizing.size,
        sizing.channels,
        folder.left_out,
        notes,
    )
    return (yield from load_files(source, spec.test_share, spec.split_seed, folders.cache, control))


def check(spec: RunSpec) -> None:
    """Raise DatasetError at once if the folder cannot be a dataset, before a run is recorded."""
    path = own_path(spec.dataset)
    if is_archive(path):
        check_archive(path)
    else:
        _check_val(spec, find_layout(path))


def survey(spec: RunSpec, folders: Folders | None, control: Control) -> Generator[Progress, None, Survey]:
    """Survey the folder, without decoding an image. Raises as `load`."""
    from engine.data.survey import survey_files

    with (yield from opened(spec, folders, control, lambda top: top)) as root:
        folder = read_folder(spec, root)
        layout = folder.layout
        return (yield from survey_files(spec, folder.files, len(layout.class_names), layout.notes, control))


def state(spec: RunSpec) -> str:
    """A hash of the names, sizes and times of all files in the folder."""
    return files_state(files_below(own_path(spec.dataset)))


def read_folder(spec: RunSpec, root: Path) -> Folder:
    """Every file of the folder `root`, unopened. Raises DatasetError, as `find_layout`."""
    layout = find_layout(root)
    _check_val(spec, layout)
    files, left_out = [], list(_outside(layout))
    for part in layout.parts:
        for name in part.class_names:
            label = layout.class_names.index(name)
            for listed in list_files(part.folder / name):
                if listed.problem is None:
                    files.append(ImageFile(listed.path, label, part.part))
                else:
                    left_out.append(unused(_name(listed.path, layout.root), name, listed.problem))
    return Folder(layout, files, left_out)


def _check_val(spec: RunSpec, layout: Layout) -> None:
    """Only one validation set makes sense; do not drop either of two silently."""
    if spec.val_share > 0 and layout.has_val:
        name = next(part.folder.name for part in layout.parts if part.part == "val")
        raise DatasetError(
            f"{layout.root} has a validation part of its own, {name}; set val share to 0 to use it, or move it "
            "elsewhere to hold out training images"
        )


def _outside(layout: Layout) -> Iterator[FileRecord]:
    """Images next to the class folders belong to no class."""
    for folder in dict.fromkeys((layout.root, *(part.folder for part in layout.parts))):
        for path in images_directly_in(folder):
            yield unused(_name(path, layout.root), "", OUTSIDE)


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root))
