"""The format number of what outlives a version: stored specs, queue entries, event streams, checkpoints.

What has no number is in the first format. A number goes up when an older reslab would misread the new form. A new
field needs none: it has a default where it is missing, and whoever does not know it leaves it alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.errors import ReslabError

KEY = "format"
FIRST = 1


def is_readable(values: Mapping[str, Any], newest: int) -> bool:
    """Whether `values` are in one of the formats from the first to `newest`."""
    number = values.get(KEY, FIRST)
    return type(number) is int and FIRST <= number <= newest


def check_format(values: Mapping[str, Any], newest: int, what: str, error: type[ReslabError]) -> None:
    """Raise `error`, a sentence about `what`, where `values` are in a format that this version does not read."""
    if not is_readable(values, newest):
        raise error(f"{what} has format {values[KEY]!r:.20}, this reslab reads formats up to {newest}; update reslab")
