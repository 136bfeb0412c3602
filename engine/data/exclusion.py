"""Images that a run leaves out of training, validation and testing, named by their hashes in a text file.

One SHA-256 a line, of an image's file or, without files, of its pixels as the dataset stores them; what follows the
hash or a `#` is ignored, so the output of sha256sum is such a list. The splits are made before, so other images stay in
their parts. A run keeps the list in its folder and resumes with it. Loads no torch and no numpy.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.data.manifest import UNUSABLE, FileRecord
from engine.errors import DatasetError
from engine.paths import expand
from engine.spec import RunSpec
from engine.text import counted

NAME = "excluded.txt"
MOST_BYTES = 2**28
_HASH = re.compile(r"^[0-9a-fA-F]{64}$")
_WORDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class Exclusion:
    """The hashes in a file; `sha256` identifies them, whatever their order and comments."""

    file: str
    hashes: frozenset[str]

    @property
    def sha256(self) -> str:
        return hashlib.sha256("\n".join(sorted(self.hashes)).encode()).hexdigest()

    def kept(self, hashes: Sequence[str]) -> list[int]:
        """The positions of the images to use."""
        return [position for position, sha256 in enumerate(hashes) if sha256 not in self.hashes]

    def note(self, parts: Mapping[str, Sequence[str]]) -> str:
        """How many images of each part are left out, and how many hashes match none."""
        counts = {part: sum(sha256 in self.hashes for sha256 in hashes) for part, hashes in parts.items()}
        found = ", ".join(f"{number:,} {_WORDS[part]}" for part, number in counts.items())
        matched = self.hashes & set().union(*parts.values())
        unknown = len(self.hashes) - len(matched)
        rest = f"; {counted(unknown, 'hash', 'hashes')} in it match no image" if unknown else ""
        images = "image" if sum(counts.values()) == 1 else "images"
        return f"left out by {self.file}: {found} {images}{rest}"


def read_exclusion(spec: RunSpec) -> Exclusion | None:
    """The list that `spec` names; None if it names none.

    Raises:
        DatasetError: the file cannot be read, or a line is no hash.
    """
    return None if spec.exclude is None else read_list(expand(spec.exclude))


def read_list(path: Path) -> Exclusion:
    """Raises as `read_exclusion`."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DatasetError(f"exclude: {path} is larger than {MOST_BYTES // 2**20} MiB; expected a list of hashes")
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DatasetError(
            f"exclude: cannot read {path} ({error.strerror}); expected a text file with one SHA-256 a line"
        ) from None
    found = set[str]()
    for number, line in enumerate(lines, start=1):
        words = line.split("#")[0].split()
        if words and not _HASH.match(words[0]):
            raise DatasetError(
                f"exclude: line {number} of {path} begins with {words[0][:20]!r}; expected the SHA-256 of an image, 64 "
                "hexadecimal digits, or a comment after #"
            )
        found.update(word.lower() for word in words[:1])
    return Exclusion(str(path), frozenset(found))


def write_list(path: Path, hashes: Mapping[str, str], title: str) -> None:
    """Write a list; `hashes` has a comment for each hash, or none ("").

    Raises:
        DatasetError: it cannot be written.
    """
    lines = [f"# {title}", *(f"{sha256}  # {text}" if text else sha256 for sha256, text in hashes.items())]
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="replace")
        os.replace(part, path)
    except OSError as error:
        raise DatasetError(f"cannot write {path} ({error.strerror}); choose a writable home folder") from None


def keep_list(exclusion: Exclusion | None, run_folder: Path) -> None:
    """Store a run's list in its folder."""
    if exclusion is not None:
        title = f"left out of this run, from {exclusion.file}"
        write_list(run_folder / NAME, dict.fromkeys(sorted(exclusion.hashes), ""), " ".join(title.split()))


def with_kept_list(spec: RunSpec, run_folder: Path) -> RunSpec:
    """The spec of a run with its own list, if it keeps one."""
    kept = run_folder / NAME
    return spec.replace(exclude=str(kept)) if spec.exclude is not None and kept.is_file() else spec


def check_unchanged(spec: RunSpec, run_folder: Path) -> None:
    """Raise DatasetError if the file that a run's list came from now holds another one; a missing file is fine."""
    kept = run_folder / NAME
    if spec.exclude is None or not kept.is_file() or not expand(spec.exclude).is_file():
        return
    if read_list(expand(spec.exclude)).sha256 != read_list(kept).sha256:
        raise DatasetError(
            f"{spec.exclude} has changed since the run began; restore it, or move it elsewhere: the run keeps its own "
            f"list in {kept} and resumes with that"
        )


def marked(manifest: Sequence[FileRecord], exclusion: Exclusion) -> tuple[FileRecord, ...]:
    """The manifest with the excluded files as unusable, with the part that they would be in."""
    return tuple(
        replace(record, split=UNUSABLE, problem=f"excluded ({record.split})")
        if record.split != UNUSABLE and record.sha256 in exclusion.hashes
        else record
        for record in manifest
    )
