"""The one family of errors that a person may cause, each a sentence they can act on.

An error here carries no traceback to the screen: its text says what was wrong, what was expected and what to do
next. Anything else that escapes is a defect of reslab's own, and goes to the log file in full.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class ReslabError(Exception):
    """Base of every error whose text is meant for a person."""


class SpecError(ReslabError):
    """A run was asked for that makes no sense.

    `field` names the setting of `RunSpec` at fault, so that a form can show the text beside it; it is None where
    the fault belongs to no single setting.
    """

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class DatasetError(ReslabError):
    """Images are missing, unreadable or too few."""


class FetchError(ReslabError):
    """A file could not be downloaded, or another one came in its place."""


class ModelError(ReslabError):
    """An architecture cannot be built, or weights do not fit it."""


class CheckpointError(ReslabError):
    """A weights file is missing, damaged or could not be written."""


class StoreError(ReslabError):
    """The record of runs cannot be read or written, or a row in it was changed."""


class ForecastError(ReslabError):
    """The memory of a run could not be forecast; that is no reason not to train."""


class MemoryShortageError(ReslabError):
    """Memory ran out and no way around it was left."""


class ClusterError(ReslabError):
    """Ray is missing, cannot be reached, has too little room, or its workers failed."""


class DeviceError(ReslabError):
    """The device or the numeric type asked for is not available here."""


class OutputError(ReslabError):
    """What was printed could not be written. `reader_left` where it went into a pipe that its reader has closed."""

    def __init__(self, message: str, reader_left: bool) -> None:
        super().__init__(message)
        self.reader_left = reader_left


class TorchError(ReslabError):
    """torch or torchvision is missing, or they do not belong together: no input of the person's can help."""


def unknown_name(
    kind: str, name: str, known: Sequence[str], field: str, hidden: Sequence[str] = (), rest: str = ""
) -> SpecError:
    """The complaint about a name that no table has, with the nearest one that it has.

    `hidden` are names that exist but are too many to list; `rest` says where they are listed.
    """
    nearest = difflib.get_close_matches(name, [*known, *hidden], 1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return SpecError(f"no {kind} {name!r}: {hint}There are {', '.join(known)}{rest and ' '}{rest}", field)
