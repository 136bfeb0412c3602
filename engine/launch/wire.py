"""Events as lines of JSON, and back. Each line has a format number. Loads no torch."""

from __future__ import annotations

import json
from typing import Any, get_args

from engine import events
from engine.errors import StoreError
from engine.events import Event, event_name, to_json_dict
from engine.format_number import KEY, check_format
from engine.from_plain import from_plain

FORMAT = 1
"""Format of a line."""

_KINDS: dict[str, type[Any]] = {event_name(kind.__new__(kind)): kind for kind in get_args(events.Event)}


def to_line(event: Event) -> str:
    """The event and its format number as one line, with the line break."""
    return json.dumps({KEY: FORMAT, **to_json_dict(event)}, separators=(",", ":")) + "\n"


def event_from(values: dict[str, Any]) -> Event:
    """The event of a parsed line, or of what `to_json_dict` returned; bytes are empty, non-finite numbers are NaN.

    Raises:
        StoreError: it is not an event, or one of another version of reslab.
    """
    try:
        check_format(values, FORMAT, "the run's event stream", StoreError)
        event: Event = from_plain(_KINDS[values["event"]], values)
        return event
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"not an event of this version of reslab ({error!r}); follow the run with the version that runs it"
        ) from None
