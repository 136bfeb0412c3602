"""Makes outside text safe to print: class folders, file names, error messages, names of runs.

Every such text passes `safe_text` before it reaches a terminal, a log or a table. Markup is not handled: callers show
the result as plain text.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence

_MOST_NAMED = 5
_UNSAFE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def _visible(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures: ␛ for escape
    return "␡" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"


def safe_text(text: object, limit: int | None = None) -> str:
    """Return `text` on one line, without control, format (bidi) or surrogate characters.

    C0 controls become control pictures (escape becomes ␛), other unsafe characters U+FFFD. A text longer than `limit`
    characters ends in "…".
    """
    safe = "".join(_visible(c) if unicodedata.category(c) in _UNSAFE else c for c in str(text))
    if limit is not None and len(safe) > limit:
        return safe[: max(limit - 1, 0)] + "…"
    return safe


def safe_path(path: object, limit: int) -> str:
    """As `safe_text`, but a longer one begins with "…": the end of a path matters most."""
    safe = safe_text(path)
    return safe if len(safe) <= limit else "…" + safe[len(safe) - max(limit - 1, 0) :]


def escaped(text: str, toml: bool = False) -> str:
    """JSON or TOML with the characters that `safe_text` replaces as escapes: the same values, safe for a terminal."""
    if text.isprintable():  # fast path
        return text
    return "".join(
        (f"\\U{ord(c):08x}" if toml else json.dumps(c)[1:-1]) if c != "\n" and unicodedata.category(c) in _UNSAFE else c
        for c in text
    )


def percent(fraction: float | None, digits: int = 3) -> str:
    """A fraction as a percentage: 0.1135 is "11.350 %"; None is a dash."""
    return "–" if fraction is None else f"{100 * fraction:.{digits}f} %"


def counted(number: int, singular: str, plural: str | None = None) -> str:
    """A number and its noun: "1 file", "2,000 files"; `plural` if it is irregular."""
    return f"{number:,} {singular if number == 1 else plural or f'{singular}s'}"


def memory_size(num_bytes: float | None) -> str:
    """Bytes in MiB or GiB; None is a dash."""
    if num_bytes is None:
        return "–"
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def some_of(names: Sequence[str]) -> str:
    """The first few names, and the number of the others."""
    rest = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def about_duration(seconds: float) -> str:
    """A rough duration in words: "1 s", "45 s", "3 min", "2.5 h"."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
