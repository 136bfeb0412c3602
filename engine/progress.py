"""What long work says on its way: `Progress`; and how it leaves when a stop is asked for. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass


class LoadingStopped(Exception):  # noqa: N818  # no error
    """The person asked for a stop while images or weights were still on their way."""


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` `unit`s of a stage such as "download" (total 0: unknown)."""

    stage: str
    done: int
    total: int
    unit: str
