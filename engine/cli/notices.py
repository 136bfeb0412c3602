"""Says, before it happens, whose code a command will run: a user's own Python file, or an installed package's."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from engine.catalog.code_names import code_of
from engine.text import safe_text


def announce_code(specs: Iterable[tuple[str, str]]) -> None:
    """One line on standard error for all code that runs of these datasets and models will run."""
    names = list(dict.fromkeys(name for dataset, model in specs for name in code_of(dataset, model)))
    if names:
        verb = "is code: it runs" if len(names) == 1 else "are code: they run"
        print(safe_text(f"{' and '.join(names)} {verb} on this machine with all your rights"), file=sys.stderr)
