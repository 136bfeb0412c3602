"""Rebuilds typed values from the JSON types that `engine.events.plain` returns. Loads no torch."""

from __future__ import annotations

import types
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def from_plain(kind: type[T], values: Any) -> T:
    """`values` as the dataclass `kind`; missing fields get their default, unknown ones are ignored.

    Bytes are empty, and non-finite numbers are NaN: JSON has neither.

    Raises:
        KeyError, TypeError, ValueError: they are not the values of a `kind`.
    """
    built: T = _build(kind, values)
    return built


def _build(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and is_dataclass(kind):
        return _build_dataclass(kind, value)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        return _build_tuple(inner, value)
    if origin in (types.UnionType, Union):
        return None if value is None else _build(next(part for part in inner if part is not types.NoneType), value)
    if origin is Literal:
        return _checked(value, value in inner, kind)
    if kind is float:
        return float("nan") if value is None else float(_checked(value, isinstance(value, int | float), kind))
    plain_type = origin or kind
    return value if plain_type is Any else _checked(value, isinstance(value, plain_type), kind)


def _build_dataclass(kind: Any, values: Any) -> Any:
    _checked(values, isinstance(values, dict), kind)
    hints = _hints(kind)
    names = [item.name for item in fields(kind) if item.name in values]
    return kind(**{name: _build(hints[name], values[name]) for name in names})


def _build_tuple(kinds: tuple[Any, ...], values: Any) -> tuple[Any, ...]:
    _checked(values, isinstance(values, list), tuple)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(values)
    return tuple(_build(kind, value) for kind, value in zip(kinds, values, strict=True))


def _checked(value: Any, is_valid: bool, kind: Any) -> Any:
    if not is_valid:
        raise TypeError(f"{value!r:.80} is no {kind}")
    return value


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)
