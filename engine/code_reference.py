"""`FILE.py:NAME`: names a function or class in a Python file. Loads no torch, and opens nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from engine.paths import expand

CODE_REFERENCE = re.compile(r"(.+\.py):([A-Za-z_]\w*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CodeReference:
    """`path` is absolute, with `~` expanded."""

    path: Path
    name: str

    @classmethod
    def of(cls, text: str) -> CodeReference:
        """Parse a text that `CODE_REFERENCE` matches."""
        found = CODE_REFERENCE.fullmatch(text)
        assert found is not None
        path = expand(found[1]).absolute()
        return cls(path.resolve() if ".." in path.parts else path, found[2])

    @property
    def absolute(self) -> str:
        return f"{self.path}:{self.name}"

    @property
    def short(self) -> str:
        return f"{self.path.name}:{self.name}"
