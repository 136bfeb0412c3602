"""The format number of stored data: specs, queue entries, event streams, checkpoints.

Data without a number is in the first format. The number goes up when an older reslab would misread the new form. A new
field needs no new number: it has a default if missing, and older versions ignore it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from engine.errors import ReslabError, SpecError

KEY = "format"
FIRST = 1


def is_readable(values: Mapping[str, Any], newest: int) -> bool:
    """Whether `values` are in one of the formats from the first to `newest`."""
    number = values.get(KEY, FIRST)
    return type(number) is int and FIRST <= number <= newest


def check_format(values: Mapping[str, Any], newest: int, what: str, error: type[ReslabError]) -> None:
    """Raise `error`, a sentence about `what`, if `values` are in a format that this version does not read."""
    if not is_readable(values, newest):
        raise error(f"{what} has format {values[KEY]!r:.20}, this reslab reads formats up to {newest}; update reslab")


def parse_object(text: str) -> dict[str, Any]:
    """Raises SpecError if `text` is not a JSON object."""
    try:
        values = json.loads(text)
    except (ValueError, TypeError) as error:
        raise SpecError(f"not JSON: {error}") from None
    if not isinstance(values, dict):
        raise SpecError(f"not a JSON object: {text[:40]}; expected settings and their values")
    return values
