"""Events back from the JSON that they became. Loads no torch."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

from engine import events
from engine.errors import StoreError
from engine.events import Event, event_name

_KINDS: dict[str, type[Any]] = {event_name(kind.__new__(kind)): kind for kind in get_args(events.Event)}


def event_from(values: dict[str, Any]) -> Event:
    """What `to_json_dict` made of an event; bytes are empty, and a number that was not finite is NaN.

    Raises:
        StoreError: it is no event, or one of another version of reslab.
    """
    try:
        built: Event = _build(_KINDS[values["event"]], values)
        return built
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(
            f"this is no event of this version of reslab ({error!r}); follow the run with the version that carries it"
        ) from None


def _build(kind: Any, value: Any) -> Any:
    """`value` as a `kind`: a dataclass, a tuple, an optional, or a plain type."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        known = {item.name: _build(hints[item.name], value[item.name]) for item in fields(kind) if item.name in value}
        return kind(**known)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        of_one_kind = len(inner) == 2 and inner[1] is Ellipsis
        return tuple(_build(inner[0] if of_one_kind else part, one) for part, one in _zipped(inner, value, of_one_kind))
    if origin in (types.UnionType, Union):
        return None if value is None else _build(next(part for part in inner if part is not types.NoneType), value)
    if kind is float:
        return float("nan") if value is None else float(value)
    return value


def _zipped(kinds: tuple[Any, ...], values: list[Any], of_one_kind: bool) -> list[tuple[Any, Any]]:
    return [(kinds[0], one) for one in values] if of_one_kind else list(zip(kinds, values, strict=True))


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
