"""Which columns of a table are the images' paths, their labels and their parts. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.errors import DatasetError, SpecError
from engine.text import safe_text, some_of

AUTO = "auto"
EXAMPLE = "path=file,label=species,split=fold"
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "image_path", "file_path", "filepath", "img_path", "filename", "file_name", "image_name", "file",
             "image", "img", "images", "image_file", "imagepath"),
    "label": ("label", "class", "target", "category", "class_name", "label_name", "labels", "species", "y"),
    "split": ("split", "set", "subset", "fold", "partition", "part", "phase", "usage"),
}  # fmt: skip
"""Names in the order in which they are looked for."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of a table's columns, as its header writes them; `split` is None if it has no such column."""

    path: str
    label: str
    split: str | None = None

    @property
    def words(self) -> str:
        named = {"path": self.path, "label": self.label, **({"split": self.split} if self.split else {})}
        return ", ".join(f"{role} from {safe_text(name, 40)}" for role, name in named.items())


def parse_columns(text: str) -> dict[str, str] | None:
    """What `path=COL,label=COL[,split=COL]` says; None for auto.

    Raises:
        SpecError: it is written in another way.
    """
    if text.strip() == AUTO:
        return None
    pairs = (pair.partition("=") for pair in text.split(","))
    named = {role.strip(): name.strip() for role, _, name in pairs}
    if not {"path", "label"} <= set(named) <= set(_ALIASES) or not all(named.values()):
        raise SpecError(f"columns: {text!r} is not valid; expected auto, or for example {EXAMPLE}", "columns")
    return named


def choose_columns(header: Sequence[str], setting: str, table: str) -> Columns:
    """The columns to read, as `setting` names them, or by the names that are usual.

    Raises:
        DatasetError: the table has no such column, or none with a usual name.
    """
    named = parse_columns(setting)
    has = f"{table} has the columns {some_of([safe_text(name, 40) or '(without a name)' for name in header])}"
    if named is not None:
        if missing := [name for name in named.values() if name not in header]:
            raise DatasetError(f"{has}, but not {missing[0]}; correct columns, or set it to auto")
        return Columns(**named)
    by_name = {_plain(name): name for name in reversed(header)}
    found = {
        role: next((by_name[alias] for alias in names if alias in by_name), None) for role, names in _ALIASES.items()
    }
    path, label = found["path"], found["label"]
    if path is None or label is None:
        what = "path of an image" if path is None else "label"
        raise DatasetError(f"{has}, none of which is known as the {what}; name them: --columns {EXAMPLE}")
    return Columns(path, label, found["split"])


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "_", name.strip().lower()).strip("_")
