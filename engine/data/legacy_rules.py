"""The first rules for reading folders, for runs that began with them: so that they resume on the same images, and their
test images can be shown. New runs never use them.

By these rules `train/` with `test/`, or else `val/`, were the only parts, files in sub-folders of a class were ignored,
and images of one size kept it, however large.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from engine.catalog.datasets import own_path
from engine.control import Control
from engine.data.files import Source, load_files
from engine.data.images import RawImages
from engine.data.layout import ASK_FOR, ImageFile, SplitRole
from engine.data.sizing import DEFAULT_SIZE, choose_sizing
from engine.errors import DatasetError
from engine.paths import Folders
from engine.progress import Progress
from engine.spec import RunSpec


def load(spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
    """Read the folder of `spec.dataset` by the first rules."""
    root = own_path(spec.dataset)
    names, files = _list(root)
    sizing = yield from choose_sizing([file.path for file in files], spec.image_size, control)
    if sizing is None:
        raise DatasetError(f"no image in {root} can be read; {ASK_FOR}")
    keeps = spec.image_size is None and sizing.native is not None and min(sizing.native) >= 4
    size = None if keeps else spec.image_size or DEFAULT_SIZE
    source = Source(spec.dataset, root, files, names, size, sizing.channels)
    return (yield from load_files(source, spec.test_share, spec.split_seed, folders.cache, control))


def _list(root: Path) -> tuple[tuple[str, ...], list[ImageFile]]:
    try:
        parts = _parts(root)
        names = tuple(sorted(p.name for p in parts[0].iterdir() if p.is_dir() and not p.name.startswith(".")))
        sides: tuple[SplitRole | None, ...] = ("train", "test") if len(parts) == 2 else (None,)
        files = [
            ImageFile(path, label, side)
            for side, part in zip(sides, parts, strict=True)
            for label, name in enumerate(names)
            for path in sorted(path for path in (part / name).iterdir() if path.is_file())
        ]
    except OSError as error:
        raise DatasetError(f"cannot read {root} ({error.strerror}); choose a folder that is readable") from None
    return names, files


def _parts(root: Path) -> list[Path]:
    if not (root / "train").is_dir():
        return [root]
    other = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    return [root / "train"] if other is None else [root / "train", other]
