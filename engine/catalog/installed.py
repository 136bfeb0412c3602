"""Networks and datasets that other installed packages provide, through entry points.

    [project.entry-points."reslab.models"]
    spotnet = "spots.networks:SpotNet"

Their names are `PACKAGE:NAME`; NAME alone will do where no other has it. Reading the entry points of an environment
takes milliseconds, so they are read when a name is in no table, or when a list is shown. Nothing of the packages is
imported here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from engine.errors import SpecError

Group = Literal["models", "datasets"]
PROVIDED_NAME = re.compile(r"[A-Za-z0-9][\w.-]*:[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Provided:
    """An entry point: `value` is "module:object"."""

    package: str
    version: str
    name: str
    value: str

    @property
    def full_name(self) -> str:
        return f"{self.package}:{self.name}"

    @property
    def title(self) -> str:
        return f"from the package {self.package} {self.version}"


@cache
def provided(group: Group) -> tuple[Provided, ...]:
    """What installed packages provide, by name; entry points without a usable name are left out."""
    from importlib import metadata  # 20 ms that no start needs

    found = {
        Provided(point.dist.name, point.dist.version, point.name, point.value)
        for point in metadata.entry_points(group=f"reslab.{group}")
        if point.dist is not None
    }
    return tuple(
        sorted((one for one in found if PROVIDED_NAME.fullmatch(one.full_name)), key=lambda one: one.full_name)
    )


def find_provided(group: Group, name: str) -> Provided | None:
    """What is called `name`, with or without its package; None if there is no such thing.

    Raises:
        SpecError: several packages provide it.
    """
    found = [one for one in provided(group) if name in (one.name, one.full_name)]
    if len(found) > 1:
        names = " and ".join(one.full_name for one in found)
        raise SpecError(f"{name!r} is provided by several packages: choose {names}", group.removesuffix("s"))
    return found[0] if found else None
