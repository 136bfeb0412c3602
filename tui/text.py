"""Units and values as text for screens. Text from outside passes `engine.text.safe_text` and is never markup."""

from __future__ import annotations

from collections.abc import Container, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from textual.content import Content

from engine.text import safe_text

if TYPE_CHECKING:
    from engine.records import RunSummary
    from engine.spec import RunSpec

GIB = 2**30
_NO_ESTIMATE = "duration unknown until a first run"


def plain_content(text: object, style: str = "") -> Content:
    """Text from outside as safe content: control characters visible, markup not interpreted."""
    safe = safe_text(text)
    return Content.styled(safe, style) if style else Content(safe)


def gib(num_bytes: float | None) -> str:
    """Bytes in GiB with one decimal; a dash if the hardware does not report them."""
    return "–" if num_bytes is None else f"{num_bytes / GIB:.1f}"


def dataset_title(dataset: str) -> str:
    """A dataset's name; a folder's own name without its path."""
    return safe_text(Path(dataset).name if ":" in dataset else dataset, 30)


def clock(seconds: float | None) -> str:
    """Remaining time: 0:12, 4:05, 2:10:09; dashes if unknown."""
    if seconds is None:
        return "–:––"
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def estimate_text(spec: RunSpec, records: Sequence[RunSummary]) -> str:
    """How long a run will take on this machine, estimated from an earlier run."""
    if not records:  # keep the estimator out of the first paint
        return _NO_ESTIMATE
    from engine.forecast.duration import estimate_run

    found = estimate_run(spec, records)
    if found is None:
        return _NO_ESTIMATE
    length = f"{found.seconds:.0f} s" if found.seconds < 100 else clock(found.seconds)
    return f"about {length} here, based on run {found.run}"


def fitted(text: str, width: int, right: bool = False) -> str:
    """Safe text, padded or cut to `width` cells (a wide character takes two). Cut text ends in "…"."""
    free = width - cell_len(text)
    if free < 0:
        return set_cell_size(set_cell_size(text, max(width - 1, 0)).rstrip() + "…", width) if width > 0 else ""
    return " " * free + text if right else text + " " * free


def aligned(rows: Sequence[Sequence[str]], left: Container[int] = (0,)) -> list[list[str]]:
    """The same cells as safe text, padded to their columns' widths; columns not in `left` align right."""
    safe = [[safe_text(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*safe, strict=True)]
    return [
        [fitted(cell, width, right=i not in left) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]
        for row in safe
    ]


def millions(count: int | None) -> str:
    return "–" if count is None else f"{count / 1e6:.1f} M"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """1 run, 2 runs, 1,000 runs; give `plural` if it is irregular."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
