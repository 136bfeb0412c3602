"""`reslab predict`: a run's guesses for your own images, file by file.

Exit status: 0; 1 if a file named on the command line could not be used; 2 if none could. In folders, files that are not
images are only counted; damaged images get a line, like named files.
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
    lab.run(run)  # fail at once if there is no such run
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
    """One list over all calls, one line per file."""
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
    """Counts of files: shown, unusable, unusable and named; and files in folders that are not images."""

    num_shown: int = 0
    num_unusable: int = 0
    num_named_unusable: int = 0
    num_others: int = 0
    first_unusable: ImageGuesses | None = None

    def add(self, item: ImageGuesses, named: bool) -> bool:
        """Count a file; returns whether to show it."""
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

    def verdict(self, paths: Sequence[Path]) -> int:
        """The exit status; prints to stderr what was left out.

        Raises:
            DatasetError: no file was usable.
        """
        if self.num_others:
            others = counted(self.num_others, "file that is not an image", "files that are not images")
            print(f"reslab: skipped {others}", file=sys.stderr)
        if self.num_shown == 0:
            raise DatasetError(f"no image in {', '.join(map(str, paths))}; {_EXPECTED}, or a folder with some")
        first = self.first_unusable
        if first is not None and self.num_unusable == self.num_shown == 1:
            raise DatasetError(f"{first.file} is not usable: {first.error}; {_EXPECTED}")
        if first is not None:
            text = (
                f"not usable: {self.num_unusable:,} of {counted(self.num_shown, 'image')}; {first.file}: {first.error}"
            )
            if self.num_unusable == self.num_shown:
                raise DatasetError(f"{text}; {_EXPECTED}")
            print(f"reslab: {safe_text(text)}", file=sys.stderr)
        return 1 if self.num_named_unusable else 0
