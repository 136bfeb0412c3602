"""Reads arrays from an .npz file without trusting it: no pickle, and a header is checked before memory is taken."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.control import Control
from engine.data.members import check_list_size
from engine.errors import DatasetError
from engine.progress import LoadingStopped, Progress
from engine.text import counted, safe_text, some_of

_MAX_ARRAYS = 1000
_MAX_HEADER = 10_000  # characters
_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Header:
    """One array of the file, not read yet: `member` is its name in the file, with the ending."""

    name: str
    member: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    is_fortran: bool

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def words(self) -> str:
        return f"{safe_text(self.name, 40)} is {' × '.join(map(str, self.shape)) or 'a single value'} of {self.dtype}"


def read_headers(path: Path) -> dict[str, Header]:
    """The headers of all arrays, by name without the ending.

    Raises:
        DatasetError: the file is missing or damaged, or has an array of Python objects or one that is not as its header
            says.
    """
    with _opened(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if not members or len(members) > _MAX_ARRAYS:
            raise DatasetError(f"{path} has {len(members)} arrays; expected for example train_images and train_labels")
        found = [_read_header(path, archive, info) for info in members]
    return {header.name: header for header in found}


def _read_header(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    name = info.filename.removesuffix(".npy")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(file, max_header_size=_MAX_HEADER)
        start = file.tell()
    header = Header(name, info.filename, shape, dtype, is_fortran)
    if dtype.hasobject:
        raise DatasetError(
            f"{path}: {safe_text(name, 40)} holds Python objects, which reslab never unpickles; save plain arrays"
        )
    if min(shape, default=0) < 0 or header.num_bytes != info.file_size - start:
        raise DatasetError(f"{path} is damaged: {header.words}, but holds {counted(info.file_size - start, 'byte')}")
    return header


def read_array(path: Path, header: Header, control: Control) -> Generator[Progress, None, NDArray[Any]]:
    """The array, in this machine's byte order.

    Raises:
        DatasetError: it is damaged.
        LoadingStopped: `control` requested a stop.
    """
    raw = np.empty(header.num_bytes, np.uint8)
    done = 0
    with _opened(path) as archive, archive.open(header.member) as file:
        file.read(archive.getinfo(header.member).file_size - header.num_bytes)  # the array's own header
        while block := file.read(_BLOCK):
            if control.stop_requested:
                raise LoadingStopped
            if done + len(block) > len(raw):
                raise DatasetError(f"{path} is damaged: {header.words}, but holds more")
            raw[done : done + len(block)] = np.frombuffer(block, np.uint8)
            done += len(block)
            yield Progress("read", done, len(raw), "bytes")
    if done < len(raw):
        raise DatasetError(f"{path} is damaged: {header.words}, but holds {counted(done, 'byte')}")
    values = raw.view(header.dtype) if header.num_bytes else np.empty(0, header.dtype)
    values = values.reshape(header.shape, order="F" if header.is_fortran else "C")
    return np.ascontiguousarray(values.astype(header.dtype.newbyteorder("="), copy=False))


def named_arrays(headers: dict[str, Header]) -> str:
    """The arrays' names, for an error message."""
    return some_of([safe_text(name, 40) for name in sorted(headers)])


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    if not path.is_file():
        raise DatasetError(f"no file {path}; expected an .npz file of arrays such as train_images and train_labels")
    try:
        with path.open("rb") as file:
            check_list_size(path, file)
            with zipfile.ZipFile(file) as archive:
                yield archive
    except (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        words = getattr(error, "strerror", None) or safe_text((str(error).splitlines() or ["damaged"])[0], 100)
        raise DatasetError(f"cannot read {path} ({words}); expected an .npz file of plain arrays") from None
