"""Describes a failure in one sentence that the user can act on; the full report goes to the log.

Loads no torch.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.errors import DatasetError, ReslabError
from engine.log import write_report
from engine.paths import Folders

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def describe_failure(error: Exception, folders: Folders, about: str) -> str:
    """One sentence. Anything but a ReslabError is also written to the log in full, under the title `about`."""
    if isinstance(error, ReslabError):
        return str(error)
    written = write_report(folders.log, error, about)
    return _sentence(error, folders) + (f"; the full report is in {folders.log}" if written else "")


def _sentence(error: Exception, folders: Folders) -> str:
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return "memory ran out; free some, or choose a smaller batch, image size or network"
    from engine.own_code import own_fault  # only a failure needs it

    if (fault := own_fault(error)) is not None:
        return fault
    if isinstance(error, OSError):
        return describe_os_error(error, folders)
    first_line = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first_line}"


def describe_os_error(error: OSError, folders: Folders | None = None) -> str:
    """What the operating system refused: the path, the reason and what to do, with the setting of the folder."""
    reason = error.strerror or str(error) or type(error).__name__
    if isinstance(error.filename, int) or not error.filename:
        what = "free some space" if error.errno in _FULL else "try again"
        return f"the operating system refused a file ({reason}); {what}"
    path = Path(_text(error.filename))
    return f"cannot use {path} ({reason}); {_advice(error, path, folders)}"


def _text(name: str | bytes) -> str:
    return name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name


def _advice(error: OSError, path: Path, folders: Folders | None) -> str:
    first = "check that it exists"
    if error.errno in _FULL:
        first = "free some space"
    elif error.errno in _FORBIDDEN:
        first = "give yourself access to it"
    setting = None if folders is None else setting_of(path, folders)
    return first + (f", or choose another folder with {setting}" if setting else "")


def setting_of(path: Path, folders: Folders) -> str | None:
    """The setting of the folder that contains `path`, or that `path` contains; None if there is none."""
    settings = ((folders.home, "--home"), (folders.data, "--data-dir"), (folders.cache, "RESLAB_CACHE"))
    for folder, setting in settings:
        if path == folder or folder in path.parents or path in folder.parents:
            return setting
    return None


@contextmanager
def dataset_is_used(dataset: str, folders: Folders | None = None) -> Iterator[None]:
    """Turn an OSError from a dataset's files, or their decoded copies, into a DatasetError."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{dataset}: {describe_os_error(error, folders)}") from error
