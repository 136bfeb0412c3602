"""Tables of files in columns: a million files take tens of megabytes, where an object each would take a gigabyte.

Each table is a sequence of the usual values, made when they are asked for. Loads no torch.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from engine.data.layout import ImageFile, SplitRole
from engine.data.manifest import UNUSABLE, FileRecord

T = TypeVar("T")
_PARTS: tuple[SplitRole | None, ...] = (None, "train", "val", "test")
_SPLITS = ("train", "val", "test", UNUSABLE)
HASH_BYTES = 32
_NO_HASH = bytes(HASH_BYTES)  # of a file that could not be read


class Table(Sequence[T]):
    """A sequence whose elements `at` makes; slices are lists."""

    def at(self, index: int) -> T:
        """Element number `index`, from 0."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self.at(number) for number in range(*index.indices(len(self)))]
        number = index + len(self) if index < 0 else index
        if not 0 <= number < len(self):
            raise IndexError(index)
        return self.at(number)

    def __iter__(self) -> Iterator[T]:
        return map(self.at, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class Texts(Table[str]):
    """Texts, one after another in one block of bytes; file names that are no UTF-8 survive."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes, self._ends = bytearray(), array("q", (0,))
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        self._bytes += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def at(self, index: int) -> str:
        return self._bytes[self._ends[index] : self._ends[index + 1]].decode("utf-8", "surrogateescape")


@dataclass(eq=False, frozen=True, slots=True)
class Paths(Table[Path]):
    """The paths of files named relative to `root`."""

    root: Path
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.names)

    def at(self, index: int) -> Path:
        return self.root / self.names[index]

    def texts(self) -> Iterator[str]:
        """The paths as texts, ten times as fast."""
        start = os.path.join(self.root, "") if str(self.root) != "." else ""
        return (name if name.startswith("/") else start + name for name in self.names)


def texts_of(paths: Sequence[Path]) -> Iterator[str]:
    return paths.texts() if isinstance(paths, Paths) else map(str, paths)


def _name_of(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


@dataclass(eq=False, slots=True)
class FileTable(Table[ImageFile]):
    """Files, usually under `root`, with the class and the part of each."""

    root: Path
    names: Texts = field(default_factory=Texts)
    _labels: array[int] = field(default_factory=lambda: array("i"))
    _parts: bytearray = field(default_factory=bytearray)

    @classmethod
    def of(cls, root: Path, files: Iterable[ImageFile]) -> FileTable:
        """The table of `files`, which may be one."""
        if isinstance(files, FileTable):
            return files
        table = cls(root)
        for file in files:
            table.add(str(file.path), file.label, file.part)
        return table

    def add(self, path: str, label: int, part: SplitRole | None = None) -> None:
        """A file that is not under `root` keeps its whole path as its name."""
        start = f"{self.root}/"
        self.names.append(path[len(start) :] if path.startswith(start) else _name_of(Path(path), self.root))
        self._labels.append(label)
        self._parts.append(_PARTS.index(part))

    @property
    def paths(self) -> Paths:
        return Paths(self.root, self.names)

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.array(self._labels, dtype=np.int64)

    @property
    def given(self) -> NDArray[np.str_]:
        """(N,) the part that the dataset assigns each file to; "" for none."""
        return np.array([part or "" for part in _PARTS])[np.frombuffer(bytes(self._parts), np.uint8)]

    def __len__(self) -> int:
        return len(self._labels)

    def at(self, index: int) -> ImageFile:
        return ImageFile(self.root / self.names.at(index), self._labels[index], _PARTS[self._parts[index]])


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One file: the SHA-256 of its bytes, and why it is unusable (None if it is usable)."""

    sha256: str
    problem: str | None


@dataclass(eq=False, slots=True)
class FactTable(Table[FileFacts]):
    """The facts of many files. `problems` are those of the unusable ones, by their position."""

    _hashes: bytearray = field(default_factory=bytearray)
    problems: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, hashes: bytes, problems: Mapping[int, str]) -> FactTable:
        """Raises ValueError if `hashes` are not whole ones, or a problem has no file."""
        if len(hashes) % HASH_BYTES or any(not 0 <= index < len(hashes) // HASH_BYTES for index in problems):
            raise ValueError("not the hashes of files")
        return cls(bytearray(hashes), dict(problems))

    def add(self, sha256: str, problem: str | None) -> None:
        if problem is not None:
            self.problems[len(self)] = problem
        self._hashes += bytes.fromhex(sha256) or _NO_HASH

    @property
    def hashes(self) -> NDArray[np.bytes_]:
        """(N,) the 32 bytes of each file's hash, which sort as its digits do."""
        return np.frombuffer(bytes(self._hashes), f"S{HASH_BYTES}")

    @property
    def usable(self) -> NDArray[np.int64]:
        """Positions of the usable files."""
        is_usable = np.ones(len(self), bool)
        is_usable[list(self.problems)] = False
        return np.flatnonzero(is_usable)

    def __len__(self) -> int:
        return len(self._hashes) // HASH_BYTES

    def at(self, index: int) -> FileFacts:
        return FileFacts(self.sha256(index), self.problems.get(index))

    def digest(self, index: int) -> bytes:
        return bytes(self._hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES])

    def sha256(self, index: int) -> str:
        found = self.digest(index)
        return "" if found == _NO_HASH else found.hex()


@dataclass(eq=False, frozen=True, slots=True)
class ManifestTable(Table[FileRecord]):
    """The manifest of a dataset's files: `splits` (N,) says in which split each is; `left_out` were not opened."""

    files: FileTable
    facts: FactTable
    class_names: Sequence[str]
    splits: NDArray[np.uint8]
    left_out: Sequence[FileRecord] = ()

    @classmethod
    def build(
        cls, files: FileTable, facts: FactTable, class_names: Sequence[str], parts: Any, left_out: Sequence[FileRecord]
    ) -> ManifestTable:
        """`parts` (M,) are the splits of the usable files, as words."""
        splits = np.full(len(files), _SPLITS.index(UNUSABLE), np.uint8)
        codes = np.zeros(len(parts), np.uint8)
        for code, name in enumerate(_SPLITS):
            codes[parts == name] = code
        splits[facts.usable] = codes
        return cls(files, facts, class_names, splits, left_out)

    def __len__(self) -> int:
        return len(self.files) + len(self.left_out)

    def at(self, index: int) -> FileRecord:
        if index >= len(self.files):
            return self.left_out[index - len(self.files)]
        file, class_name = self.files.names.at(index), self.class_names[self.files._labels[index]]
        problem = self.facts.problems.get(index)
        return FileRecord(file, self.facts.sha256(index), class_name, _SPLITS[self.splits[index]], problem)


@dataclass(eq=False, frozen=True, slots=True)
class WithVal(Table[FileRecord]):
    """A manifest in which the training images at some positions are `held` out for validation."""

    manifest: Sequence[FileRecord]
    held: frozenset[int]

    @classmethod
    def of(cls, manifest: Sequence[FileRecord], held_out: NDArray[np.int64]) -> WithVal:
        """`held_out` are positions among the training images."""
        training = np.array([place for place, record in enumerate(manifest) if record.split == "train"], np.int64)
        return cls(manifest, frozenset(training[held_out].tolist()))

    def __len__(self) -> int:
        return len(self.manifest)

    def at(self, index: int) -> FileRecord:
        record = self.manifest[index]
        return replace(record, split="val") if index in self.held else record
