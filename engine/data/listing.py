"""The files of a folder that may be images, at any depth, and those skipped without opening them.

Hidden folders, `__MACOSX` and `.ipynb_checkpoints` are not entered. System files are not opened but counted, so that
the counts add up to all files of a folder. Loads no torch.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.errors import DatasetError

SYSTEM_FILE = "system file"
BROKEN_LINK = "broken link"
OUTSIDE = "outside the class folders"
_SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_NEW_ENDINGS = frozenset({".webp", ".avif", ".jp2", ".heic", ".heif", ".jxl"})  # not known to `mimetypes` everywhere
_SYSTEM_FOLDERS = frozenset({"__macosx", "__pycache__", "$recycle.bin", "system volume information", "lost+found"})


@dataclass(frozen=True, slots=True)
class Listed:
    """One file, by its whole path. `problem` says why it is not opened; None: it may be an image."""

    text: str
    problem: str | None = None

    @property
    def path(self) -> Path:
        """Costs ten times as much as the text, and there may be a million."""
        return Path(self.text)


def list_files(folder: Path) -> Iterator[Listed]:
    """Every file below `folder`: its own by name, then those of each sub-folder. Links are followed; each folder is
    entered once, so cycles of links end.

    Raises:
        DatasetError: a folder cannot be read.
    """
    yield from _below(folder, set())


def _below(folder: Path, seen: set[tuple[int, int]]) -> Iterator[Listed]:
    try:
        status = folder.stat()
    except OSError as error:
        raise unreadable(folder, error) from None
    if (status.st_dev, status.st_ino) in seen:
        return
    seen.add((status.st_dev, status.st_ino))
    folders = []
    for entry in entries_of(folder):
        if is_directory(entry):
            if not is_hidden_folder(entry.name):
                folders.append(folder / entry.name)
        elif (listed := _listed(entry)) is not None:
            yield listed
    for path in folders:
        yield from _below(path, seen)


def _listed(entry: os.DirEntry[str]) -> Listed | None:
    """None for anything else, such as a socket or a device."""
    path = entry.path
    if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
        return Listed(path, SYSTEM_FILE)
    try:
        if entry.is_file():
            return Listed(path)
    except OSError:  # a link that leads to itself
        return Listed(path, BROKEN_LINK)
    return Listed(path, BROKEN_LINK) if entry.is_symlink() and not os.path.exists(path) else None


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """The contents of a folder, by name. Raises DatasetError if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise unreadable(folder, error) from None


def unreadable(folder: Path, error: OSError) -> DatasetError:
    return DatasetError(f"cannot read {folder} ({error.strerror}); make it readable, or move it elsewhere")


def is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_hidden_folder(name: str) -> bool:
    """Whether a folder belongs to the system or a tool, and is no class."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def folders_in(folder: Path) -> list[Path]:
    """The user's sub-folders, by name. Raises DatasetError if `folder` cannot be read."""
    return [folder / e.name for e in entries_of(folder) if is_directory(e) and not is_hidden_folder(e.name)]


def holds_files(folder: Path) -> bool:
    """Whether there is any file below `folder` that is not a system file."""
    return any(listed.problem is None for listed in list_files(folder))


def named_as_image(name: str) -> bool:
    """Whether the extension is that of an image. For training the content decides, not the name."""
    kind = mimetypes.guess_type(name, strict=False)[0]
    return os.path.splitext(name)[1].lower() in _NEW_ENDINGS or (kind is not None and kind.startswith("image/"))


def images_directly_in(folder: Path) -> Iterator[Path]:
    """Files next to the sub-folders of `folder` that have names of images."""
    for entry in entries_of(folder):
        if not (is_directory(entry) or entry.name.startswith(".")) and named_as_image(entry.name):
            yield folder / entry.name


def holds_images_directly(folder: Path) -> bool:
    """Whether there is any of these. Raises DatasetError if `folder` cannot be read."""
    return any(True for _ in images_directly_in(folder))
