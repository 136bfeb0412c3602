"""Architectures that are in no table of reslab's, by the form of their names. Nothing is opened, imported or run here.

./net.py:Net        a function or class in a Python file of the user's own
./net.toml          a sequence of layers described in a TOML file
timm:NAME           a network of timm
PACKAGE:NAME        a network that an installed package provides (`engine.catalog.installed`)
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from engine.catalog.installed import PROVIDED_NAME, find_provided, provided
from engine.catalog.model_info import ModelInfo, Origin
from engine.code_reference import CODE_REFERENCE, CodeReference
from engine.errors import SpecError
from engine.paths import expand

TIMM = "timm:"
_BUILDERS: dict[Origin, str] = {
    "code": "engine.models.own_code:build",
    "described": "engine.models.described:build",
    "timm": "engine.models.timm_models:build",
    "package": "engine.models.own_code:build_provided",
}
_SUFFIX = ".toml"


def find_own_model(name: str) -> ModelInfo | None:
    """The row for a name of one of these forms; None if `name` has none of them and no package provides it.

    Raises:
        SpecError: it has such a form but is incomplete.
    """
    if name.startswith(TIMM):
        if not re.fullmatch(r"[A-Za-z0-9][\w.]*", name.removeprefix(TIMM)):
            raise SpecError(f"{name!r}: expected timm: and a network's name, such as timm:resnet26d", "model")
        return replace(_row(name, "timm", "timm"), pretrained=True)  # whether it has weights is known with timm loaded
    if CODE_REFERENCE.fullmatch(name):
        return _row(name, "code", "your own code", f"{CodeReference.of(name).path.name}:{CodeReference.of(name).name}")
    if name.endswith(".py"):
        raise SpecError(f"{name!r}: expected the file and, after a colon, its function or class: {name}:Net", "model")
    if name.endswith(_SUFFIX):
        return _row(name, "described", "your own layers", Path(name).name)
    if PROVIDED_NAME.fullmatch(name):
        return _row(name, "package", f"from the package {name.partition(':')[0]}")
    if found := find_provided("models", name):
        return _row(found.full_name, "package", found.title)
    return None


def provided_models() -> tuple[ModelInfo, ...]:
    """The rows of networks that installed packages provide. Reads the entry points."""
    return tuple(_row(one.full_name, "package", one.title) for one in provided("models"))


def timm_models() -> tuple[ModelInfo, ...]:
    """The rows of timm's networks, whether or not it is installed, with their native parameter counts."""
    from engine.catalog.timm_table import timm_rows

    return tuple(
        replace(
            _row(f"{TIMM}{row.name}", "timm", "timm"), num_parameters=row.num_parameters, pretrained=row.is_pretrained
        )
        for row in timm_rows().values()
    )


def absolute_model(name: str) -> str:
    """`name` with an absolute path, or with its package, so that it means the same from anywhere."""
    if CODE_REFERENCE.fullmatch(name):
        return CodeReference.of(name).absolute
    if name.endswith(_SUFFIX):
        return str(own_path(name))
    if os.sep in name or ":" in name:
        return name
    from engine.catalog.models import is_in_table

    found = None if is_in_table(name) else find_provided("models", name)
    return found.full_name if found else name


def own_path(name: str) -> Path:
    """The file of a network of the user's own, absolute."""
    return CodeReference.of(name).path if CODE_REFERENCE.fullmatch(name) else expand(name).absolute()


def _row(name: str, origin: Origin, title: str, label: str = "") -> ModelInfo:
    return ModelInfo(
        name, title, None, None, 0, builder=_BUILDERS[origin], pretrained=False, own_stem=True, resnet=False,
        origin=origin, label=label,
    )  # fmt: skip
