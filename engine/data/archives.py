"""Unpacks a user's archive of images, .zip or .tar, into the cache, safely and once.

An archive is never trusted. Refused, before or while it is unpacked: names that lead outside, links that do, devices,
encrypted files, more bytes than the disk has or than such an archive can honestly hold. No link is ever created: one to
a file inside becomes that file. The entry is keyed by the archive's path, size and time, so a second use only counts
its files. Loads no torch.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from lzma import LZMAError
from pathlib import Path, PurePosixPath
from typing import IO

from engine.catalog.datasets import own_path
from engine.catalog.inside import ARCHIVE
from engine.control import Control
from engine.data.cache import cache_is_written, keep_within_bound, part_of
from engine.data.cache_index import INDEX, read_sealed, write_sealed
from engine.data.listing import entries_of, is_directory, is_hidden_folder
from engine.data.members import Member, tar_members, zip_members
from engine.errors import DatasetError
from engine.locking import lock_of, wait_for_lock
from engine.paths import Folders, find_folders
from engine.progress import LoadingStopped, Progress
from engine.spec import RunSpec
from engine.text import counted, memory_size, safe_text, some_of

MAX_FILES = 5_000_000
MAX_RATIO = 200  # of unpacked to packed bytes; photographs hardly compress, uncompressed scans about tenfold
HARMLESS_BYTES = 64 * 2**20  # below which the ratio does not matter
SHARE_OF_FREE = 0.95  # of the disk that an archive may fill
_VERSION = 1
_BLOCK = 1 << 20
_PROGRESS_EVERY_S = 0.1
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, RuntimeError, NotImplementedError,
            UnicodeError, ValueError)  # fmt: skip


def is_archive(path: Path) -> bool:
    """Whether `path` is to be unpacked, by its name's ending; a folder of such a name is not."""
    return ARCHIVE.search(path.name) is not None and not path.is_dir()


def check_archive(path: Path) -> None:
    """Raise DatasetError at once if the archive is missing, or if its first file or its list of files is refused."""
    with _explained(path):
        most = None if _is_zip(path) else 1  # listing a compressed .tar takes as long as unpacking it
        for _ in islice(_checked(path, _members(path), _Bounds.of(path, path.parent, None)), most):
            pass


def opened(
    spec: RunSpec, folders: Folders | None, control: Control, find: Callable[[Path], Path]
) -> Generator[Progress, None, _Held]:
    """The path of a user's own dataset, for use in a `with` statement; of an archive, what `find` finds in the unpacked
    folder, which stays locked meanwhile.

    Raises:
        DatasetError: the archive is missing, damaged or refused.
        LoadingStopped: `control` requested a stop; no partial folder is left.
    """
    path = own_path(spec.dataset)
    if not is_archive(path):
        return _Held(path)
    cache = (folders or find_folders()).cache
    held = yield from _unpacked(spec.dataset, path, cache, control)
    with held.on_error():
        return _Held(find(_top(held.path)), held.lock, held.path, path)


@dataclass(frozen=True, slots=True)
class _Held:
    """A path in use. With an archive, `lock` keeps other processes from deleting its unpacked `folder`."""

    path: Path
    lock: IO[str] | None = None
    folder: Path | None = None
    archive: Path | None = None

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self.lock is not None:
            self.lock.close()
        if isinstance(error, DatasetError) and self.folder is not None:  # the user knows the archive, not the cache
            raise DatasetError(str(error).replace(str(self.folder), str(self.archive))) from None

    @contextmanager
    def on_error(self) -> Iterator[None]:
        """Release the lock if finding the dataset in the folder fails."""
        try:
            yield
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise


def _unpacked(dataset: str, path: Path, cache: Path, control: Control) -> Generator[Progress, None, _Held]:
    with _explained(path):
        found = path.stat()
    key = hashlib.sha256(f"{_VERSION}\0{path}\0{found.st_size}\0{found.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    entry = cache / f"archive-{key.hexdigest()[:16]}"
    with cache_is_written(cache):
        cache.mkdir(parents=True, exist_ok=True)
        held = _Held(entry / "files", lock_of(entry).open("a"), entry / "files", path)
    with held.on_error():
        assert held.lock is not None
        yield from wait_for_lock(held.lock, f"read {path.name}", control)
        if not _is_whole(entry):
            yield from _unpack(dataset, path, entry, control)
            keep_within_bound(cache, entry.name)
        with cache_is_written(cache):
            os.utime(entry / "index.json")
    return held


def _is_whole(entry: Path) -> bool:
    """Whether the folder has as many files and bytes as were unpacked into it."""
    try:
        index = read_sealed(entry / INDEX)
        return _count(entry / "files") == (index["shape"][0], index["unpacked_bytes"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError, IndexError):
        return False


def _count(folder: Path) -> tuple[int, int]:
    sizes = [os.stat(os.path.join(inner, name)).st_size for inner, _, names in os.walk(folder) for name in names]
    return len(sizes), sum(sizes)


def _unpack(dataset: str, path: Path, entry: Path, control: Control) -> Generator[Progress, None, None]:
    part = part_of(entry)
    try:
        with cache_is_written(entry.parent):
            shutil.rmtree(part, ignore_errors=True)
            (part / "files").mkdir(parents=True)
        with cache_is_written(entry.parent), _explained(path):
            yield from _write_members(path, part / "files", control)
        with cache_is_written(entry.parent):
            num_files, num_bytes = _count(part / "files")
            if not num_files:
                raise DatasetError(f"{path} holds no file; expected images")
            write_sealed(part / INDEX, {"source": dataset, "shape": [num_files], "unpacked_bytes": num_bytes})
            shutil.rmtree(entry, ignore_errors=True)
            os.replace(part, entry)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_members(path: Path, root: Path, control: Control) -> Generator[Progress, None, None]:
    packed = path.stat().st_size
    links: list[tuple[PurePosixPath, Member]] = []
    bounds, reported_at = _Bounds.of(path, root, packed), 0.0
    if _is_zip(path):  # its list is known in advance: refuse before anything is written
        for _ in _checked(path, _members(path), _Bounds.of(path, root, packed)):
            pass
    for name, member in _checked(path, _members(path), bounds):
        target = root / name
        if member.kind == "folder":
            target.mkdir(parents=True, exist_ok=True)
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if member.kind == "link":
            links.append((name, member))
            continue
        for _ in _copied(member, target, control):
            if (now := time.perf_counter()) - reported_at >= _PROGRESS_EVERY_S:
                reported_at = now
                yield Progress("unpack", min(member.position(), packed), packed, "bytes")
        os.utime(target, (member.modified, member.modified))  # the decoded images are found again by it
    for name, member in links:
        _follow_link(path, root, name, member)


def _copied(member: Member, target: Path, control: Control) -> Iterator[None]:
    """Write one file, yielding after every block."""
    with member.open() as source, target.open("wb") as file:
        while block := source.read(_BLOCK):
            if control.stop_requested:
                raise LoadingStopped
            file.write(block)
            yield
        yield


def _follow_link(path: Path, root: Path, name: PurePosixPath, member: Member) -> None:
    """A link to a file inside becomes that file."""
    inside = _target(path, member)
    if not (root / inside).is_file():
        raise DatasetError(
            f"{path} has a link, {_shown(name)}, to {_shown(inside)}, which is no file in it; pack the files themselves"
        )
    (root / name).unlink(missing_ok=True)
    os.link(root / inside, root / name)


@dataclass(slots=True)
class _Bounds:
    """What an archive may still unpack to. `packed` is its size, None: its ratio is not judged."""

    path: Path
    free_bytes: float
    free_files: int
    packed: int | None
    num_bytes: int = 0
    num_files: int = 0

    @classmethod
    def of(cls, path: Path, cache: Path, packed: int | None) -> _Bounds:
        disk = os.statvfs(cache)
        free_files = disk.f_favail if disk.f_files else MAX_FILES  # some file systems do not count
        return cls(path, SHARE_OF_FREE * shutil.disk_usage(cache).free, min(free_files, MAX_FILES), packed)

    def add(self, member: Member) -> None:
        """Raises DatasetError if this is too much."""
        self.num_files += 1
        self.num_bytes += member.num_bytes
        if self.num_files > self.free_files:
            raise DatasetError(f"{self.path} holds more than {counted(self.free_files, 'file')}; unpack it yourself")
        if self.packed is not None and self.num_bytes > self.free_bytes:
            raise DatasetError(
                f"{self.path} unpacks to {memory_size(self.num_bytes)} or more, and {memory_size(self.free_bytes)} are "
                "free; free some space, or choose another disk with RESLAB_CACHE"
            )
        if self.packed is not None and self.num_bytes > max(HARMLESS_BYTES, MAX_RATIO * self.packed):
            raise DatasetError(
                f"{self.path} unpacks to more than {MAX_RATIO} times its size, as archives made to fill a disk do; "
                "unpack it yourself if you trust it, and choose the folder"
            )


def _members(path: Path) -> Iterator[Member]:
    return (zip_members if _is_zip(path) else tar_members)(path)


def _is_zip(path: Path) -> bool:
    return path.name.lower().endswith(".zip")


def _checked(path: Path, members: Iterable[Member], bounds: _Bounds) -> Iterator[tuple[PurePosixPath, Member]]:
    """The members with their names inside. Raises DatasetError for the first that is refused."""
    for member in members:
        name = _inside(path, member.name)
        if member.kind == "link":
            _target(path, member)
        if member.kind == "other":
            raise DatasetError(f"{path} holds a device or another special file, {_shown(name)}; pack only files")
        if member.is_encrypted:
            raise DatasetError(f"{path} is encrypted; unpack it yourself, and choose the folder")
        bounds.add(member)
        if name.parts:
            yield name, member


def _inside(path: Path, name: str) -> PurePosixPath:
    """Raises DatasetError if the name leads outside: absolute, upwards, or with a drive."""
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts or "\0" in name or re.match(r"[A-Za-z]:(/|$)", name):
        raise DatasetError(
            f"{path} holds a name or a link that leads outside, {_shown(name)}, and is not unpacked; pack it anew, or "
            "choose a folder"
        )
    return inside


def _target(path: Path, link: Member) -> PurePosixPath:
    """Where a link leads, from the archive's top."""
    return _inside(path, os.path.normpath(link.target) if link.target else "..")


def only_file(folder: Path, pattern: re.Pattern[str], expected: str) -> Path:
    """The one file directly in `folder` whose name matches. Raises DatasetError if there are more, or none."""
    found = [e.name for e in entries_of(folder) if pattern.search(e.name) and not e.name.startswith(".")]
    if len(found) != 1:
        names = f"several: {some_of([_shown(name) for name in found])}" if found else "none"
        raise DatasetError(f"{folder} has {names}; expected {expected}")
    return folder / found[0]


def _shown(name: object) -> str:
    return safe_text(name, 60)


def _top(folder: Path) -> Path:
    """A single folder with nothing beside it is looked through."""
    for _ in range(5):
        kept = [entry for entry in entries_of(folder) if not entry.name.startswith(".")]
        kept = [entry for entry in kept if not (is_directory(entry) and is_hidden_folder(entry.name))]
        if len(kept) != 1 or not is_directory(kept[0]):
            break
        folder = folder / kept[0].name
    return folder


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (DatasetError, LoadingStopped):
        raise
    except FileNotFoundError:
        if path.exists():
            raise
        raise DatasetError(f"no file {path}; expected a .zip or .tar archive of images") from None
    except (*_DAMAGED, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise  # the cache's fault
        words = (str(error).splitlines() or [""])[0]
        reason = getattr(error, "strerror", None) or safe_text(words, 100) or type(error).__name__
        raise DatasetError(f"cannot unpack {path} ({reason}); unpack it yourself, and choose the folder") from None
