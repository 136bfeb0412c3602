"""Cats vs dogs, the report's second dataset, from any copy: Microsoft's archive, packed or unpacked, or Kaggle's.

A file is usable if it decodes to RGB; the others are counted and named in the manifest. Exact duplicates stay on one
side of the 70/30 split, which is the report's (17,500 to 7,500 of 25,000).
"""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from engine.control import Control
from engine.data.layout import ImageFile
from engine.data.listing import list_files
from engine.data.manifest import FileRecord, unused
from engine.errors import DatasetError, FetchError
from engine.fetching import fetch
from engine.locking import lock_of, wait_for_lock
from engine.paths import Folders
from engine.progress import LoadingStopped, Progress
from engine.spec import RunSpec

if TYPE_CHECKING:
    from engine.data.images import RawImages

ARCHIVE = "kagglecatsanddogs_5340.zip"
URL = f"https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/{ARCHIVE}"
SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"
CLASSES = ("cat", "dog")
TEST_SHARE = 0.3
DEFAULT_SIZE = 224
MAX_MEMBERS = 30_000  # the archive has 25,000 images and a few other files
MAX_BYTES = 4 * 2**30
MAX_RATIO = 100  # of unpacked to packed bytes; photographs hardly compress
_KAGGLE_NAME = re.compile(r"^(cat|dog)\.\d+\.", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """A copy of the photographs: the files to decode, and those skipped without opening them."""

    root: Path
    files: list[ImageFile]
    left_out: list[FileRecord]


def load(spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
    """Read the photographs under `folders.data`; download and unpack the archive first if there are none."""
    from engine.data.files import Source, load_files  # loads torch, which listing a folder does not need

    data_dir = folders.data
    found = find_files(data_dir)
    if found is None:
        yield from _get_archive(data_dir, control)
        found = find_files(data_dir)
    if found is None:
        raise DatasetError(f"{data_dir / ARCHIVE} holds no PetImages/Cat and PetImages/Dog; delete it")
    size = spec.image_size or DEFAULT_SIZE
    source = Source("cats-dogs", found.root, found.files, CLASSES, size, 3, found.left_out)
    return (yield from load_files(source, TEST_SHARE, spec.split_seed, folders.cache, control))


def find_files(data_dir: Path) -> Found | None:
    """The first layout found: PetImages/{Cat,Dog}, or Kaggle's flat train/cat.0.jpg. Raises DatasetError if a folder
    cannot be read.
    """
    for root in (data_dir / "PetImages", data_dir / "cats-dogs" / "PetImages"):
        if all((root / name).is_dir() for name in ("Cat", "Dog")):
            return _class_folders(root)
    for root in (data_dir / "train", data_dir / "cats-dogs" / "train"):
        if root.is_dir():
            named = [(path, _KAGGLE_NAME.match(path.name)) for path in sorted(root.iterdir()) if path.is_file()]
            files = [ImageFile(path, CLASSES.index(match[1].lower())) for path, match in named if match]
            if {file.label for file in files} == {0, 1}:
                return Found(root, files, [])
    return None


def _class_folders(root: Path) -> Found:
    found = Found(root, [], [])
    for label, name in enumerate(("Cat", "Dog")):
        for listed in list_files(root / name):
            if listed.problem is None:
                found.files.append(ImageFile(listed.path, label))
            else:
                record = unused(str(listed.path.relative_to(root)), CLASSES[label], listed.problem)
                found.left_out.append(record)
    return found


def _get_archive(data_dir: Path, control: Control) -> Generator[Progress, None, None]:
    archive, folder = data_dir / ARCHIVE, data_dir / "cats-dogs"
    try:
        yield from fetch([URL], archive, SHA256, control, "sha256")
        lock = lock_of(folder).open("a")
    except (FetchError, OSError) as error:
        raise DatasetError(
            f"cats-dogs is not on this machine and {error}; expected {data_dir / 'PetImages'}, "
            f"{data_dir / 'train'} with cat.0.jpg and so on, or {archive}: connect to the network, put one of "
            "them there, or set their folder with --data-dir"
        ) from None
    with lock:
        yield from wait_for_lock(lock, "unpack", control)
        if find_files(data_dir) is None:
            yield from unpack(archive, folder, control)


def unpack(archive: Path, folder: Path, control: Control) -> Generator[Progress, None, None]:
    """Unpack the images of a zip archive into `folder`, all or nothing.

    Raises:
        DatasetError: it is damaged, too large, or holds a link or a path that leads outside.
        LoadingStopped: `control` requested a stop; no partial folder is left.
    """
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            _check_members(members, archive)
            for number, member in enumerate(members):
                if control.stop_requested:
                    raise LoadingStopped
                if number % 100 == 0:
                    yield Progress("unpack", number, len(members), "files")
                target = part / PurePosixPath(member.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file)
        part.replace(folder)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise DatasetError(f"cannot unpack {archive} ({error}); delete it and start again") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_members(members: list[zipfile.ZipInfo], archive: Path) -> None:
    num_bytes = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or num_bytes > min(MAX_BYTES, MAX_RATIO * archive.stat().st_size):
        raise DatasetError(
            f"{archive} unpacks to more than {MAX_MEMBERS:,} files, {MAX_BYTES // 2**30} GiB or {MAX_RATIO} times its "
            "size; delete it"
        )
    for member in members:
        path = PurePosixPath(member.filename)
        is_link = (member.external_attr >> 16) & 0o170000 == 0o120000
        if is_link or path.is_absolute() or ".." in path.parts or "\\" in member.filename:
            raise DatasetError(f"{archive} holds a link or a path that leads outside ({member.filename}); delete it")
