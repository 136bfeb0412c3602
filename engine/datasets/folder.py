"""A person's own images: one folder a class, or `train/` and `test/` (or `val/`) folders of classes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

from engine.control import Control
from engine.datasets.decoding import read_header
from engine.datasets.files import ImageFile, Part, Source, load_files
from engine.datasets.images import RawImages
from engine.datasets.registry import folder_path
from engine.errors import DatasetError
from engine.paths import Places
from engine.progress import LoadingStopped, Progress
from engine.spec import RunSpec

DEFAULT_SIZE = 224  # pixels: where the images differ in size and none was asked for
_ASK_FOR = "expected one folder a class with images in it, or train/ and test/ folders of classes"


def load(spec: RunSpec, places: Places, control: Control) -> Generator[Progress, None, RawImages]:
    """Read the folder that `spec.dataset` names; files that do not decode are left out and counted."""
    root = folder_path(spec.dataset)
    parts = find_parts(root)
    names = class_names(parts[0])
    sides: tuple[Part | None, ...] = ("train", "test") if len(parts) == 2 else (None,)
    files = []
    for side, part in zip(sides, parts, strict=True):
        if class_names(part) != names:
            raise DatasetError(f"{parts[0]} and {part} hold different classes; expected the same folders in both")
        for label, name in enumerate(names):
            found = sorted(path for path in (part / name).iterdir() if path.is_file())
            files += [ImageFile(path, label, side) for path in found]
    size, channels = yield from _choose_shape(files, spec.image_size, root, control)
    source = Source(spec.dataset, root, files, names, size, channels)
    return (yield from load_files(source, spec.test_share, spec.split_seed, places.cache, control))


def check(spec: RunSpec) -> None:
    """Raise DatasetError at once where the folder cannot be a dataset, before a run is recorded."""
    class_names(find_parts(folder_path(spec.dataset))[0])


def find_parts(root: Path) -> list[Path]:
    """The folders of classes: the root alone, or its training part and its test part.

    Raises:
        DatasetError: there is no such folder.
    """
    if not root.is_dir():
        raise DatasetError(f"no folder {root}; {_ASK_FOR}")
    if not (root / "train").is_dir():
        return [root]
    for name in ("test", "val"):
        if (root / name).is_dir():
            return [root / "train", root / name]
    return [root / "train"]


def class_names(part: Path) -> tuple[str, ...]:
    """The class folders of one part, sorted.

    Raises:
        DatasetError: there are fewer than two, or the folder cannot be read.
    """
    try:
        found = [path.name for path in part.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"cannot read {part} ({error.strerror}); choose a folder that is readable") from None
    if len(found) < 2:
        raise DatasetError(f"{part} has {len(found)} class folder{'' if len(found) == 1 else 's'}; {_ASK_FOR}")
    return tuple(sorted(found))


def _choose_shape(
    files: Sequence[ImageFile], asked: int | None, root: Path, control: Control
) -> Generator[Progress, None, tuple[int | None, int]]:
    """The size to decode at (None: as they are, all alike) and the channels, from the files' headers."""
    sizes, colours = set(), set()
    for number, file in enumerate(files):
        if number % 500 == 0:
            if control.stop_requested:
                raise LoadingStopped
            yield Progress("look", number, len(files), "images")
        if (header := read_header(file.path)) is not None:
            colours.add(header.colour)
            sizes.add(header.size)
    if not colours:
        raise DatasetError(f"no image in {root} can be read; {_ASK_FOR}")
    native = next(iter(sizes)) if len(sizes) == 1 else None
    size = asked or (None if native and min(native) >= 4 else DEFAULT_SIZE)
    return size, 3 if True in colours else 1
