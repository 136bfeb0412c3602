"""A person's decisions on near-duplicates: "same" or "different", by the hashes of the two images.

A text file in the home folder, one decision a line, so that they hold for every dataset and every later audit. Lines
are only ever appended, in one write each; the last one about a pair counts, and "undecided" takes a decision back.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from engine.errors import StoreError

NAME = "near-duplicates.txt"
_LINE = re.compile(r"^([0-9a-f]{64}) ([0-9a-f]{64}) (same|different|undecided)$")


def read_decisions(home: Path) -> dict[tuple[str, str], str]:
    """Every pair's decision; lines of another form are ignored."""
    try:
        lines = (home / NAME).read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreError(f"cannot read {home / NAME} ({error.strerror}); make it readable, or delete it") from None
    found = {(match[1], match[2]): match[3] for line in lines if (match := _LINE.match(line))}
    return {pair: decision for pair, decision in found.items() if decision != "undecided"}


def write_decision(home: Path, pair: tuple[str, str], decision: str) -> None:
    """Append a decision on the pair of these hashes.

    Raises:
        StoreError: the file cannot be written.
    """
    one, other = sorted(pair)
    line = f"{one} {other} {decision}"
    assert _LINE.match(line)
    try:
        home.mkdir(parents=True, exist_ok=True)
        file = os.open(home / NAME, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)
    except OSError as error:
        raise StoreError(f"cannot write {home / NAME} ({error.strerror}); choose a writable home folder") from None
