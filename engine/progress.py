"""How long work reports its `Progress`, and how it ends when a stop is requested. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass


class LoadingStopped(Exception):  # noqa: N818  # no error
    """A stop was requested while images or weights were loading."""


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` `unit`s of a stage such as "download" (total 0: unknown). `note` is a sentence for the user,
    said once.
    """

    stage: str
    done: int
    total: int
    unit: str
    note: str = ""
