"""The one family of errors that a user can cause, each a sentence they can act on.

The screen shows no traceback for these errors: the text says what was wrong, what was expected and what to do next.
Any other exception is a defect of reslab, and goes to the log file in full.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class ReslabError(Exception):
    """Base of every error whose text is meant for the user."""


class SpecError(ReslabError):
    """A spec, option or argument is not valid.

    `field` names the setting of `RunSpec` at fault, so that a form can show the text beside it; None if it is no single
    setting.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class DatasetError(ReslabError):
    """Images are missing, unreadable or too few."""


class FetchError(ReslabError):
    """A file could not be downloaded, or is not the published one."""


class ModelError(ReslabError):
    """An architecture cannot be built, or weights do not fit it."""


class CheckpointError(ReslabError):
    """A weights file is missing, damaged or could not be written."""


class StoreError(ReslabError):
    """The store cannot be read or written, or one of its rows was changed."""


class ForecastError(ReslabError):
    """The memory of a run could not be forecast; it can still be trained."""


class MemoryShortageError(ReslabError):
    """Memory ran out and every recovery failed."""


class ClusterError(ReslabError):
    """Ray is missing, cannot be reached, has too little room, or its workers failed."""


class DeviceError(ReslabError):
    """The requested device or dtype is not available on this machine."""


class OutputError(ReslabError):
    """Output could not be written. `reader_left`: the reader has closed its pipe."""

    def __init__(self, message: str, reader_left: bool) -> None:
        super().__init__(message)
        self.reader_left = reader_left


class TorchError(ReslabError):
    """torch or torchvision is missing, or their versions do not match: no input can help."""


def unknown_name(
    kind: str, name: str, known: Sequence[str], field: str, hidden: Sequence[str] = (), rest: str = ""
) -> SpecError:
    """The error for an unknown name, with the nearest known one.

    `hidden`: names that exist but are too many to list; `rest` says where they are listed.
    """
    nearest = difflib.get_close_matches(name, [*known, *hidden], 1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return SpecError(f"no {kind} {name!r}: {hint}There are {', '.join(known)}{rest and ' '}{rest}", field)
