"""Units and values as text for the screens. Text from outside passes `engine.text.safe_text` and is never markup."""

from __future__ import annotations

from collections.abc import Container, Sequence

from textual.content import Content

from engine.results.estimate import estimate_run
from engine.results.records import RunRecord
from engine.spec import RunSpec
from engine.text import safe_text

GIB = 2**30


def plain_content(text: object, style: str = "") -> Content:
    """Text from anywhere, harmless: control characters made visible, markup left as it was written."""
    safe = safe_text(text)
    return Content.styled(safe, style) if style else Content(safe)


def gib(num_bytes: float | None) -> str:
    """Bytes in GiB with one decimal; a dash where the hardware does not say."""
    return "–" if num_bytes is None else f"{num_bytes / GIB:.1f}"


def clock(seconds: float | None) -> str:
    """A time to go: 0:12, 4:05, 2:10:09; a dash where nobody knows."""
    if seconds is None:
        return "–:––"
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def estimate_text(spec: RunSpec, records: Sequence[RunRecord]) -> str:
    """How long a run will take here, by an earlier run."""
    found = estimate_run(spec, records)
    if found is None:
        return "no earlier run tells how long"
    length = f"{found.seconds:.0f} s" if found.seconds < 100 else clock(found.seconds)
    return f"about {length} here, by run {found.run}"


def aligned(rows: Sequence[Sequence[str]], left: Container[int] = (0,)) -> list[list[str]]:
    """The same cells, made harmless and padded to their columns' widths; those not in `left` end at the right."""
    safe = [[safe_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    return [
        [cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in safe
    ]


def millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
