"""File locks, so that processes do not create the same file or folder at once. A lock ends with its process."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import IO

from engine.control import Control
from engine.progress import LoadingStopped, Progress

_LOOK_EVERY_S = 0.1


def try_to_lock(file: IO[str] | IO[bytes]) -> bool:
    """Lock this open file; False if another process, or another thread of this one, holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def wait_for_lock(file: IO[str] | IO[bytes], doing: str, control: Control) -> Generator[Progress, None, None]:
    """Wait for the lock, reporting that another process is `doing` this; closing the file releases it.

    Raises:
        LoadingStopped: `control` requested a stop.
    """
    while not try_to_lock(file):
        if control.stop_requested:
            raise LoadingStopped
        yield Progress(f"wait for another process to {doing}", 0, 0, "")
        time.sleep(_LOOK_EVERY_S)


def lock_of(path: Path) -> Path:
    """The lock file of `path`, beside it."""
    return path.with_name(f".{path.name}.lock")


def open_alone(path: Path, doing: str, control: Control) -> Generator[Progress, None, IO[bytes]]:
    """Open `path` for appending, exclusively; opened again if another process replaced it meanwhile.

    Raises:
        LoadingStopped: `control` requested a stop.
        OSError: it cannot be opened.
    """
    while True:
        file = path.open("ab")
        try:
            yield from wait_for_lock(file, doing, control)
            if path.is_file() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
