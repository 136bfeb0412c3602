"""The files in a .zip or .tar archive, as one kind of value, unchecked. Loads no torch."""

from __future__ import annotations

import calendar
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Literal, cast

from engine.catalog.inside import MAX_LIST_BYTES, zip_list_bytes
from engine.errors import DatasetError
from engine.text import counted

_MAX_TARGET = 4096
_UTF8 = 0x800  # a .zip's flag for names in UTF-8
_ENCRYPTED = 0x1
_UNIX = 3


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive; `name` with slashes, `target` of a link relative to the archive's top, `modified` in
    seconds since 1970. `position` tells how many bytes of the archive have been read.
    """

    name: str
    kind: Literal["file", "folder", "link", "other"]
    num_bytes: int
    modified: float
    open: Callable[[], IO[bytes]]
    position: Callable[[], int]
    target: str = ""
    is_encrypted: bool = False


def zip_members(path: Path) -> Iterator[Member]:
    """Raises DatasetError, zipfile.BadZipFile, OSError."""
    with path.open("rb") as file:
        check_list_size(path, file)
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                yield _zip_member(archive, info, file)


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, file: IO[bytes]) -> Member:
    name = _zip_name(info)
    mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
    is_encrypted = bool(info.flag_bits & _ENCRYPTED)
    kind: Literal["file", "folder", "link", "other"] = "file"
    target = ""
    if info.is_dir() or name.endswith("/") or stat.S_ISDIR(mode):
        kind = "folder"
    elif stat.S_ISLNK(mode):
        kind = "link"
        with archive.open(info) as content:
            target = _beside(name, content.read(_MAX_TARGET).decode("utf-8", "surrogateescape"))
    elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        kind = "other"
    size = 0 if kind == "folder" else info.file_size
    return Member(name, kind, size, _zip_time(info), partial(archive.open, info), file.tell, target, is_encrypted)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Many programs write UTF-8 without saying so, and some write backslashes."""
    name = info.filename
    if not info.flag_bits & _UTF8:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = info.filename
    return name.replace("\\", "/")


def _zip_time(info: zipfile.ZipInfo) -> float:
    try:
        return float(calendar.timegm((*info.date_time, 0, 0, 0)))
    except ValueError:  # month 0
        return 0.0


def check_list_size(path: Path, file: IO[bytes]) -> None:
    """Raise DatasetError if a .zip's list of files is too long, which is read into memory as a whole.

    Raises:
        zipfile.BadZipFile: there is no list.
        OSError: the file cannot be read.
    """
    num_bytes = zip_list_bytes(file)
    if num_bytes is None:
        raise zipfile.BadZipFile("it has no list of files: it is damaged, or no .zip")
    if num_bytes > MAX_LIST_BYTES:
        raise DatasetError(f"{path} has a list of files of more than {MAX_LIST_BYTES:,} bytes; unpack it yourself")


def tar_members(path: Path) -> Iterator[Member]:
    """Raises tarfile.TarError, OSError, EOFError and what a decompressor raises."""
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:*", errorlevel=2) as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # its list would grow with every file
            yield _tar_member(archive, info, file)
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)  # tarfile takes a damaged header for the end
        if any(archive.fileobj.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"a damaged header after {counted(archive.offset, 'byte')}")


def _tar_member(archive: tarfile.TarFile, info: tarfile.TarInfo, file: IO[bytes]) -> Member:
    kind: Literal["file", "folder", "link", "other"] = "other"
    target = ""
    if info.isfile() and not info.issparse():
        kind = "file"
    elif info.isdir():
        kind = "folder"
    elif info.issym() or info.islnk():
        kind = "link"
        target = _beside(info.name, info.linkname) if info.issym() else info.linkname
    content = cast(Callable[[], IO[bytes]], partial(archive.extractfile, info))
    size = info.size if kind == "file" else 0
    return Member(info.name, kind, size, max(float(info.mtime), 0.0), content, file.tell, target)


def _beside(name: str, target: str) -> str:
    """A symbolic link's target, relative to the archive's top."""
    return target if target.startswith("/") else os.path.join(os.path.dirname(name), target)
