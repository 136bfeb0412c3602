"""Events as lines of JSON, and back. Each line carries the number of its format. Loads no torch."""

from __future__ import annotations

import json
from typing import Any, get_args

from engine import events
from engine.errors import StoreError
from engine.events import Event, event_name, to_json_dict
from engine.format_number import KEY, check_format
from engine.from_plain import from_plain

FORMAT = 1
"""Of a line."""

_KINDS: dict[str, type[Any]] = {event_name(kind.__new__(kind)): kind for kind in get_args(events.Event)}


def to_line(event: Event) -> str:
    """The event and the number of its format as one line, its end included."""
    return json.dumps({KEY: FORMAT, **to_json_dict(event)}, separators=(",", ":")) + "\n"


def event_from(values: dict[str, Any]) -> Event:
    """The event of a line, or what `to_json_dict` made of it; bytes are empty, a number that was not finite is NaN.

    Raises:
        StoreError: it is no event, or one of another version of reslab.
    """
    try:
        check_format(values, FORMAT, "the run's event stream", StoreError)
        event: Event = from_plain(_KINDS[values["event"]], values)
        return event
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"this is no event of this version of reslab ({error!r}); follow the run with the version that carries it"
        ) from None
