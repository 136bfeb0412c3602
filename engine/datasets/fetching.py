"""Fetches one file from the network, showing how far it is, and leaves either the whole file or none."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from pathlib import Path

from engine.control import Control
from engine.datasets.images import LoadingStopped, Progress
from engine.errors import DatasetError

_BLOCK = 1 << 18  # bytes
_TIMEOUT_S = 20.0
_PROGRESS_EVERY_S = 0.1


def fetch(urls: Sequence[str], path: Path, md5: str, control: Control) -> Generator[Progress, None, None]:
    """Download `path` from the first of `urls` that has it, unless it is already there and whole.

    Raises:
        DatasetError: no address could be read, or what came is not the published file (by its MD5).
        LoadingStopped: `control` asked for a stop; the part that came is removed.
    """
    if path.is_file() and _md5(path) == md5:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    problems = []
    for url in urls:
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            yield from _fetch_one(url, part, control)
            if (found := _md5(part)) != md5:
                problems.append(f"{url} sent another file (MD5 {found}, expected {md5})")
                continue
            os.replace(part, path)
            return
        except (urllib.error.URLError, OSError, ValueError) as error:
            problems.append(f"{url}: {getattr(error, 'reason', error)}")
        finally:
            part.unlink(missing_ok=True)
    raise DatasetError(f"could not download {path.name} ({'; '.join(problems)})")


def _fetch_one(url: str, part: Path, control: Control) -> Generator[Progress, None, None]:
    with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, part.open("wb") as file:
        total, done, told = int(response.headers.get("Content-Length") or 0), 0, 0.0
        while block := response.read(_BLOCK):
            if control.stop_requested:
                raise LoadingStopped
            file.write(block)
            done += len(block)
            if (now := time.perf_counter()) - told >= _PROGRESS_EVERY_S:
                told = now
                yield Progress("download", done, total, "bytes")
        yield Progress("download", done, total, "bytes")


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
