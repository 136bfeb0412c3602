"""Downloads one file, with progress; an interrupted download continues where it stopped."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import IO, Any

from engine.control import Control
from engine.errors import FetchError
from engine.locking import open_alone
from engine.progress import LoadingStopped, Progress

_BLOCK = 1 << 18  # bytes
_TIMEOUT_S = 20.0
_PROGRESS_EVERY_S = 0.1


def fetch(
    urls: Sequence[str], path: Path, hash_start: str, control: Control, algorithm: str = "md5"
) -> Generator[Progress, None, None]:
    """Download `path` from the first of `urls` that has it, unless it is already there and complete.

    `hash_start` is the file's hash by `algorithm` (hashlib's name), or its beginning. A partial download stays beside
    it as `*.part`, and the next call requests only the rest. While another process downloads the file, this one waits.

    Raises:
        FetchError: no URL could be read, or the file received is not the published one.
        LoadingStopped: `control` requested a stop.
    """
    if path.is_file() and _hash(path, algorithm).startswith(hash_start):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    problems = []
    with (yield from open_alone(part, f"download {path.name}", control)) as file:
        if path.is_file() and _hash(path, algorithm).startswith(hash_start):  # by the process that this one waited for
            part.unlink()
            return
        if part.stat().st_size and _hash(part, algorithm).startswith(hash_start):  # complete, but not yet renamed
            os.replace(part, path)
            return
        for url in urls:
            try:
                yield from _fetch_rest(url, file, control)
            except (urllib.error.URLError, OSError, ValueError) as error:
                problems.append(f"{url}: {getattr(error, 'reason', error)}")
                continue
            if (found := _hash(part, algorithm)).startswith(hash_start):
                os.replace(part, path)
                return
            file.truncate(0)
            problems.append(f"{url} sent another file ({algorithm} {found}, expected {hash_start})")
        if not part.stat().st_size:
            part.unlink()
    raise FetchError(f"could not download {path.name} ({'; '.join(problems)})")


def _fetch_rest(url: str, file: IO[bytes], control: Control) -> Generator[Progress, None, None]:
    done = os.fstat(file.fileno()).st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with _opened(request, file) as response:
        if getattr(response, "status", None) != 206:  # the whole file, not the rest
            file.truncate(0)
            done = 0
        length = int(response.headers.get("Content-Length") or 0)
        total, reported_at = done + length if length else 0, 0.0
        while block := response.read(_BLOCK):
            if control.stop_requested:
                raise LoadingStopped
            file.write(block)
            done += len(block)
            if (now := time.perf_counter()) - reported_at >= _PROGRESS_EVERY_S:
                reported_at = now
                yield Progress("download", done, total, "bytes")
        file.flush()
        if total and done != total:
            raise OSError(f"broke off after {done:,} of {total:,} bytes")
        yield Progress("download", done, total, "bytes")


def _opened(request: urllib.request.Request, file: IO[bytes]) -> Any:
    """The response; if the partial file is as long as the remote one or longer, a request for the whole file."""
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        file.truncate(0)
        return urllib.request.urlopen(urllib.request.Request(request.full_url), timeout=_TIMEOUT_S)


def _hash(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
