"""Oxford-IIIT Pets as cats vs dogs: a smaller relative of cats-dogs, with its published split."""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path

from engine.control import Control
from engine.data.files import Source, load_files
from engine.data.images import RawImages
from engine.data.layout import ImageFile, SplitRole
from engine.errors import DatasetError, FetchError
from engine.fetching import fetch
from engine.locking import lock_of, wait_for_lock
from engine.paths import Folders
from engine.progress import Progress
from engine.spec import RunSpec

DEFAULT_SIZE = 224
_FOLDERS, _PART = ("images", "annotations"), ".part"
_LISTS: tuple[tuple[SplitRole, str], ...] = (("train", "trainval.txt"), ("test", "test.txt"))


def load(spec: RunSpec, folders: Folders, control: Control) -> Generator[Progress, None, RawImages]:
    """Read torchvision's copy under `folders.data`; download it first if it is missing."""
    root = folders.data / "oxford-iiit-pet"
    if not _is_there(root):
        try:
            root.mkdir(parents=True, exist_ok=True)
            with lock_of(root).open("a") as lock:
                yield from wait_for_lock(lock, "download oxford-pets", control)
                if not _is_there(root):
                    yield from _download(root, control)
        except (FetchError, OSError) as error:
            raise DatasetError(
                f"oxford-pets is not on this machine and {error}; expected {root / 'images'} and "
                f"{root / 'annotations'}: connect to the network, put them there, or set their folder with --data-dir"
            ) from None
    source = Source("oxford-pets", root, list_files(root), ("cat", "dog"), spec.image_size or DEFAULT_SIZE, channels=3)
    return (yield from load_files(source, 0.5, spec.split_seed, folders.cache, control))


def _is_there(root: Path) -> bool:
    return all((root / name).is_dir() for name in _FOLDERS)


def list_files(root: Path) -> list[ImageFile]:
    """The images of both published lists; a line is "name class species breed", species 1 a cat and 2 a dog."""
    files = []
    try:
        for part, name in _LISTS:
            for line in (root / "annotations" / name).read_text(encoding="utf-8").splitlines():
                image, _, species, _ = line.split()
                files.append(ImageFile(root / "images" / f"{image}.jpg", int(species) - 1, part))
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read the lists in {root / 'annotations'} ({error}); delete that folder") from None
    return files


def _download(root: Path, control: Control) -> Generator[Progress, None, None]:
    from torchvision.datasets import OxfordIIITPet
    from torchvision.datasets.utils import extract_archive

    for url, md5 in OxfordIIITPet._RESOURCES:
        archive = root / Path(url).name
        yield from fetch([url], archive, md5, control)
        yield Progress("unpack", 0, 0, "files")
        extract_archive(archive, root / _PART)
    for name in _FOLDERS:  # moved as a whole, so that no process finds half of them
        shutil.rmtree(root / name, ignore_errors=True)
        (root / _PART / name).replace(root / name)
    (root / _PART).rmdir()
