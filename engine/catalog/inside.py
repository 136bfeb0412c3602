"""What an archive is, by its name, and which kind of dataset it holds, by the names inside. Loads nothing at start."""

from __future__ import annotations

import os
import re
import struct
from itertools import islice
from pathlib import Path
from typing import IO

ARCHIVE = re.compile(r"\.(zip|tar|tar\.(gz|bz2|xz)|tgz|tbz2?|txz)$", re.IGNORECASE)
MAX_LIST_BYTES = 2**28
"""Of a .zip's list of files, which is read into memory as a whole: about 2 million files."""
_MOST = 1000  # names
MOST_BYTES = 2**26  # unpacked: a compressed .tar is read up to here


def names_inside(path: Path) -> list[str]:
    """The first names in an archive, without the folders in which a single top folder contains them; none if it cannot
    be read.
    """
    import tarfile
    import zipfile
    import zlib
    from lzma import LZMAError

    try:
        with path.open("rb") as file:
            list_bytes = zip_list_bytes(file)
            if list_bytes is not None:
                names = _zip_names(file) if list_bytes <= MAX_LIST_BYTES else []
            else:
                names = _tar_names(file)
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError):
        return []  # loading will say why
    parts = [tuple(part for part in name.split("/") if part != ".") for name in names]
    return ["/".join(rest) for rest in _without_top([part for part in parts if part and part[0] != "__MACOSX"])]


def _zip_names(file: IO[bytes]) -> list[str]:
    import zipfile

    with zipfile.ZipFile(file) as archive:
        return [info.filename for info in islice(archive.infolist(), _MOST) if not info.is_dir()]


def _tar_names(file: IO[bytes]) -> list[str]:
    import tarfile

    names = []
    with tarfile.open(fileobj=file) as archive:
        for member in islice(archive, _MOST):
            if member.isfile():
                names.append(member.name)
            if member.offset_data + member.size > MOST_BYTES:
                break
    return names


def zip_list_bytes(file: IO[bytes]) -> int | None:
    """The size of a .zip's list of files, from the record at its end, or from that of the zip64 form (APPNOTE 4.3.14 to
    4.3.16); None if it has neither. The file is then at its beginning. Raises OSError.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - 66_000, 0))
    end = file.read()
    start = end.rfind(b"PK\5\6")
    num_bytes: int | None = None
    if 0 <= start <= len(end) - 22:
        (num_bytes,) = struct.unpack_from("<I", end, start + 12)
        if start >= 20 and end[start - 20 : start - 16] == b"PK\6\7":
            file.seek(min(struct.unpack_from("<Q", end, start - 12)[0], size))
            record = file.read(56)
            num_bytes = struct.unpack_from("<Q", record, 40)[0] if len(record) == 56 else num_bytes
    file.seek(0)
    return num_bytes


def _without_top(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    while paths and all(len(path) > 1 for path in paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return paths
