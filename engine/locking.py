"""Processes that would make the same file or folder wait for each other. A lock ends with its process at the latest."""

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
    """Whether nobody else has the lock on this open file, in another process or another thread of this one."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def wait_for_lock(file: IO[str] | IO[bytes], doing: str, control: Control) -> Generator[Progress, None, None]:
    """Wait until nobody else has it, saying that another process is `doing` this; closing the file ends the lock.

    Raises:
        LoadingStopped: `control` asked for a stop.
    """
    while not try_to_lock(file):
        if control.stop_requested:
            raise LoadingStopped
        yield Progress(f"wait for another process to {doing}", 0, 0, "")
        time.sleep(_LOOK_EVERY_S)


def lock_of(path: Path) -> Path:
    """The file that stands for `path`, beside it."""
    return path.with_name(f".{path.name}.lock")


def open_alone(path: Path, doing: str, control: Control) -> Generator[Progress, None, IO[bytes]]:
    """Open `path` to append to it, once no other process does; it may have put it elsewhere meanwhile.

    Raises:
        LoadingStopped: `control` asked for a stop.
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
