"""Describes, checks and parses settings of `RunSpec`. Knows no particular setting; loads no torch.

A setting is described once, at its field. The form, the command line's `--help`, TOML files, every error about a bad
value, and every key that means "the same images" or "the same step" are derived from that description.
"""

from __future__ import annotations

import dataclasses
import math
import types
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from engine.errors import SpecError

Value = str | int | float | bool | None
Effect = Literal["images", "epoch", "step", "memory", "result"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One field: its meaning (`help`), `unit`, closed range `low`..`high`, or open bounds `above` and `below`.

    `affects` names what it changes: the `images` as loaded and normalised; the number or size of an `epoch`'s images;
    the duration or `memory` of a `step` on images of one shape; the `result`. `common` settings come first in the form.
    """

    help: str
    group: str
    affects: tuple[Effect, ...]
    common: bool = False
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    name: str = ""
    kind: type = str
    choices: tuple[str, ...] = ()
    optional: bool = False
    default: Value = None

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def expected(self) -> str:
        """The accepted values as text: "a whole number from 1 to 1024"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind is bool:
            return "true or false"
        if self.kind is str:
            return "text"
        words = "a whole number" if self.kind is int else "a number"
        if self.low is not None and self.high is not None:
            words += f" from {_plain(self.low)} to {_plain(self.high)}"
        else:
            words += "" if self.low is None else f" of at least {_plain(self.low)}"
            words += "" if self.above is None else f" above {self.above:g}"
            words += "" if self.below is None else f" and below {self.below:g}"
            words += "" if self.high is None else f" up to {_plain(self.high)}"
        words += f" ({self.unit})" if self.unit else ""
        return words + (", or none" if self.optional else "")

    def check(self, value: object) -> Value:
        """Return `value` as this setting's type.

        Raises:
            SpecError: it has another type, is out of range, or is none of the choices.
        """
        if value is None and self.optional:
            return None
        if self.choices or self.kind is str:
            if not isinstance(value, str) or (self.choices and value not in self.choices):
                raise self.complaint(value)
            if any(0xD800 <= ord(char) < 0xE000 for char in value):  # a file name that is not UTF-8
                raise SpecError(f"{self.label}: {value!r} is not Unicode; rename the file or folder", self.name)
            return value
        if self.kind is bool or isinstance(value, bool):
            if not (self.kind is bool and isinstance(value, bool)):
                raise self.complaint(value)
            return value
        return self._check_number(value)

    def _check_number(self, value: object) -> int | float:
        if self.kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, int | float) or not isinstance(value, self.kind) or not math.isfinite(value):
            raise self.complaint(value)
        too_low = (self.low is not None and value < self.low) or (self.above is not None and value <= self.above)
        too_high = (self.high is not None and value > self.high) or (self.below is not None and value >= self.below)
        if too_low or too_high:
            raise self.complaint(value)
        return value

    def parse(self, text: str) -> Value:
        """Parse text from a form's field or a command-line option.

        Raises:
            SpecError: as `check`.
        """
        text = text.strip()
        if self.optional and text.lower() in ("", "none", "native"):
            return None
        value: object = text
        if self.kind is bool:
            value = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(
                text.lower(), text
            )
        elif self.kind in (int, float):
            try:
                value = self.kind(text.replace("_", ""))
            except ValueError:
                raise self.complaint(text) from None
        return self.check(value)

    def show(self, value: Value) -> str:
        """The value as the form shows it."""
        if value is None:
            return "none"
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:g}" if isinstance(value, float) else str(value)

    def complaint(self, value: object) -> SpecError:
        return SpecError(f"{self.label}: {value!r} is not valid; expected {self.expected}", self.name)


def _plain(number: float) -> str:
    return f"{int(number):,}" if float(number).is_integer() else f"{number:g}"


def setting(
    default: Any = dataclasses.MISSING, *, help: str, group: str, affects: tuple[Effect, ...], **more: Any
) -> Any:
    """A dataclass field with its description."""
    if unknown := set(affects) - set(get_args(Effect)):
        raise ValueError(f"a setting affects {', '.join(get_args(Effect))}, not {', '.join(sorted(unknown))}")
    metadata = {"setting": Setting(help=help, group=group, affects=affects, **more)}
    return field(default=default, metadata=metadata)


@cache
def settings_of(spec_class: type[Any]) -> dict[str, Setting]:
    """Every setting of a dataclass by name, in field order, with type and default filled in."""
    hints = get_type_hints(spec_class)
    described = {}
    for item in dataclasses.fields(spec_class):
        kind, choices, optional = _read_type(hints[item.name])
        described[item.name] = dataclasses.replace(
            item.metadata["setting"],
            name=item.name,
            kind=kind,
            choices=choices,
            optional=optional,
            default=None if item.default is dataclasses.MISSING else item.default,
        )
    return described


def _read_type(hint: Any) -> tuple[type, tuple[str, ...], bool]:
    if get_origin(hint) in (Union, types.UnionType):
        inner = next(arg for arg in get_args(hint) if arg is not type(None))
        kind, choices, _ = _read_type(inner)
        return kind, choices, True
    if get_origin(hint) is Literal:
        return str, get_args(hint), False
    return hint, (), False
