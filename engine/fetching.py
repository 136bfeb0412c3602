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
from engine.errors import FetchError
from engine.progress import LoadingStopped, Progress

_BLOCK = 1 << 18  # bytes
_TIMEOUT_S = 20.0
_PROGRESS_EVERY_S = 0.1


def fetch(
    urls: Sequence[str], path: Path, hash_start: str, control: Control, algorithm: str = "md5"
) -> Generator[Progress, None, None]:
    """Download `path` from the first of `urls` that has it, unless it is already there and whole.

    `hash_start` is what the file's hash by `algorithm` (hashlib's name) begins with, or the whole of it.

    Raises:
        FetchError: no address could be read, or what came is not the published file.
        LoadingStopped: `control` asked for a stop; the part that came is removed.
    """
    if path.is_file() and _hash(path, algorithm).startswith(hash_start):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    problems = []
    for url in urls:
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            yield from _fetch_one(url, part, control)
            if not (found := _hash(part, algorithm)).startswith(hash_start):
                problems.append(f"{url} sent another file ({algorithm} {found}, expected {hash_start})")
                continue
            os.replace(part, path)
            return
        except (urllib.error.URLError, OSError, ValueError) as error:
            problems.append(f"{url}: {getattr(error, 'reason', error)}")
        finally:
            part.unlink(missing_ok=True)
    raise FetchError(f"could not download {path.name} ({'; '.join(problems)})")


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


def _hash(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
