"""What a module for a kind of the user's own datasets consists of, and how it is found by a dataset's name.

The row of the kind in `engine.catalog.datasets` names the module's `load`; the other functions stand beside it. Loads
no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from engine.catalog.datasets import find_dataset
from engine.control import Control
from engine.paths import Folders
from engine.progress import Progress
from engine.spec import RunSpec

if TYPE_CHECKING:
    from engine.data.images import RawImages
    from engine.data.survey import Survey


class OwnSource(Protocol):
    """One kind of dataset, as a module."""

    def check(self, spec: RunSpec) -> None:
        """Raise DatasetError for what can be seen at once: no such path, no such classes. Fast; decodes nothing."""

    def load(self, spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
        """As `engine.data.images.Loader`."""

    def survey(self, spec: RunSpec, folders: Folders | None, control: Control) -> Generator[Progress, None, Survey]:
        """Shape and numbers of the images that `load` would return. Raises as `load`."""

    def state(self, spec: RunSpec) -> str:
        """A text that changes when the files that `load` reads change; never raises for missing ones."""


def own_source(dataset: str) -> OwnSource:
    """The module of the kind of `dataset`, a name with a kind's prefix."""
    module, _ = find_dataset(dataset).loader.split(":")
    return cast(OwnSource, import_module(module))


def files_below(root: Path) -> Iterator[str]:
    """The paths of all files in `root`, in a fixed order; `root` itself if it is a file."""
    if root.is_file():
        yield str(root)
    for folder, inner, names in os.walk(root):
        inner.sort()
        yield from (os.path.join(folder, name) for name in sorted(names))


def files_state(paths: Iterable[str | Path]) -> str:
    """A hash of the names, sizes and times of these files."""
    digest = hashlib.sha256()
    for path in paths:
        with suppress(OSError):  # deleted meanwhile; loading will report it
            found = os.stat(path)
            digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
