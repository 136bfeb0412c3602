"""`reslab predict`: a run's guesses about a person's own images, file by file.

Exit status: 0; 1 where a file that was named could not be used; 2 where none could. In folders, files that are no
images are counted and no more is said of them; damaged images there have a line, as those that were named.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.cli.parser import columns
from engine.errors import DatasetError
from engine.events import plain
from engine.lab import Lab
from engine.text import counted, escaped, percent, safe_text

if TYPE_CHECKING:
    from engine.predicting import ImageGuesses

_EXPECTED = "expected an image such as a JPEG or PNG"


def predict_command(lab: Lab, run: int, images: Sequence[Path], as_json: bool) -> int:
    """Print the top five of every image, or why it cannot be used."""
    lab.run(run)  # or say at once that there is none
    files = lab.find_files(images)
    counts = _Counts()
    printer = _print_json if as_json else _print_text
    guesses = lab.predict(run, [file.path for file in files])
    for file, item in zip(files, guesses, strict=True):
        if counts.add(item, file.named):
            printer(item, first=counts.num_shown == 1)
    if as_json:
        print("\n]" if counts.num_shown else "[]")
    return counts.verdict(images)


def _print_json(item: ImageGuesses, first: bool) -> None:
    """One list in all, a line a file."""
    row = escaped(json.dumps(plain(item), ensure_ascii=False))
    print(f"[\n{row}" if first else f",\n{row}", end="", flush=True)


def _print_text(item: ImageGuesses, first: bool) -> None:
    lines = [safe_text(item.file)]
    if item.error is not None:
        lines.append(f"  not usable: {safe_text(item.error)}")
    else:
        rows = [("", percent(guess.confidence), safe_text(guess.class_name, 60)) for guess in item.guesses]
        lines.append(columns(rows, right=(1,)))
    print("\n".join(lines), flush=True)


@dataclass(slots=True)
class _Counts:
    """How many files were shown, of these were not usable, of these again were named; and others in folders."""

    num_shown: int = 0
    num_unusable: int = 0
    num_named_unusable: int = 0
    num_others: int = 0
    first_unusable: ImageGuesses | None = None

    def add(self, item: ImageGuesses, named: bool) -> bool:
        """Count a file; whether it is shown."""
        from engine.data.formats import is_another_kind

        if item.error is not None and not named and is_another_kind(item.error):
            self.num_others += 1
            return False
        self.num_shown += 1
        if item.error is not None:
            self.num_unusable += 1
            self.num_named_unusable += named
            self.first_unusable = self.first_unusable or item
        return True

    def verdict(self, asked: Sequence[Path]) -> int:
        """The exit status, and on stderr what was left out.

        Raises:
            DatasetError: no file was usable.
        """
        if self.num_others:
            others = counted(self.num_others, "other file")
            print(f"reslab: left out {others} in these folders: no image", file=sys.stderr)
        if self.num_shown == 0:
            raise DatasetError(f"no image in {', '.join(map(str, asked))}; {_EXPECTED}, or a folder with some")
        first = self.first_unusable
        if first is not None and self.num_unusable == self.num_shown == 1:
            raise DatasetError(f"{first.file} is not usable: {first.error}; {_EXPECTED}")
        if first is not None:
            said = (
                f"not usable: {self.num_unusable:,} of {counted(self.num_shown, 'image')}; {first.file}: {first.error}"
            )
            if self.num_unusable == self.num_shown:
                raise DatasetError(f"{said}; {_EXPECTED}")
            print(f"reslab: {safe_text(said)}", file=sys.stderr)
        return 1 if self.num_named_unusable else 0
