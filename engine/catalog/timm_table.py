"""timm's networks, as `timm_models.csv` beside this file lists them. Loads neither timm nor torch.

The figures are those of the version that the file names, written by `tests.fixtures.write_timm_table`; a test checks
some of them against built networks. A newer timm may have other networks: those are counted once they are built.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from engine.errors import SpecError
from engine.shape import DataShape

PREFIX = "timm:"
HOW_TO_INSTALL = "uv pip install timm, or uv sync --extra timm in a clone, installs it"
NUM_CLASSES = 1000  # in every row
_FILE = Path(__file__).with_name("timm_models.csv")


@dataclass(frozen=True, slots=True)
class TimmRow:
    """`num_parameters` are trainable values for `channels` and 1,000 classes at the native `size` in pixels; each
    further class adds `per_class`, each channel `per_channel`. None: only the built network can tell. `is_fixed`: built
    for one size of images. `is_pretrained`: timm has trained weights.
    """

    name: str
    num_parameters: int | None
    channels: int
    per_class: int
    per_channel: int
    size: int
    is_fixed: bool
    is_pretrained: bool


def is_timm_installed() -> bool:
    """Whether timm can be imported; imports nothing."""
    return find_spec("timm") is not None


def require_timm() -> None:
    """Raises SpecError if timm is not installed."""
    if not is_timm_installed():
        raise SpecError(f"timm is not installed; {HOW_TO_INSTALL}", "model")


def table_version() -> str:
    """The version of timm that the figures are from."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file))[-1]


@cache
def timm_rows() -> Mapping[str, TimmRow]:
    """By name without the prefix, in the order of the names."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return {row[0]: _row(*row) for row in rows}


def _row(name: str, number: str, *others: str) -> TimmRow:
    channels, per_class, per_channel, size, is_fixed, is_pretrained = (int(value or 0) for value in others)
    sizes = (channels, per_class, per_channel, size)
    return TimmRow(name, int(number) if number else None, *sizes, bool(is_fixed), bool(is_pretrained))


def native_count(name: str) -> int | None:
    """Trainable values of the native form, for 1,000 classes."""
    row = _find(name)
    return None if row is None else row.num_parameters


def _find(name: str) -> TimmRow | None:
    """The row of a name with the prefix; what follows a dot names trained weights."""
    return timm_rows().get(name.removeprefix(PREFIX).partition(".")[0])


def count_timm(name: str, shape: DataShape) -> int | None:
    """Trainable values for images of `shape`; None if only the built network can tell."""
    row = _find(name)
    if row is None or row.num_parameters is None:
        return None
    if row.is_fixed and (shape.height, shape.width) != (row.size, row.size):
        return None  # a table of positions depends on the size
    more_classes, more_channels = shape.num_classes - NUM_CLASSES, shape.channels - row.channels
    return row.num_parameters + more_classes * row.per_class + more_channels * row.per_channel
