"""What an archive is, by its name, and which kind of dataset it holds, by the names inside. Loads nothing at start."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path

ARCHIVE = re.compile(r"\.(zip|tar|tar\.(gz|bz2|xz)|tgz|tbz2?|txz)$", re.IGNORECASE)
_MOST = 1000  # names; a compressed .tar is read up to them


def names_inside(path: Path) -> list[str]:
    """The first names in an archive, without the folders in which a single top folder contains them; none if it cannot
    be read.
    """
    import tarfile
    import zipfile
    import zlib
    from lzma import LZMAError

    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                names = [info.filename for info in islice(packed.infolist(), _MOST) if not info.is_dir()]
        else:
            with tarfile.open(path) as archive:
                names = [member.name for member in islice(archive, _MOST) if member.isfile()]
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError):
        return []  # loading will say why
    parts = [tuple(part for part in name.split("/") if part != ".") for name in names]
    return ["/".join(rest) for rest in _without_top([part for part in parts if part and part[0] != "__MACOSX"])]


def _without_top(paths: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    while paths and all(len(path) > 1 for path in paths) and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    return paths
