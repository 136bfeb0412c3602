"""The small table of figures untrained and now, and text tables in general."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from engine.analysis.tables import metric_rows
from engine.events import Metrics
from tui.text import aligned

_SHORT = ("accuracy", "balanced", "precision", "recall", "F1", "loss")


class FiguresTable(Static):
    """Metrics as columns, in three lines: names, untrained, and now (or trained)."""

    DEFAULT_CSS = "FiguresTable { height: 3; }"
    figures: reactive[tuple[Metrics | None, Metrics | None, str] | None] = reactive(None)
    """Untrained metrics, latest metrics and the name of the latter; None before the first run."""

    def __init__(self, id: str) -> None:
        super().__init__(id=id)

    def render(self) -> Content:
        if self.figures is None:
            return Content("")
        untrained, latest, latest_name = self.figures
        rows = metric_rows(untrained, latest)
        table = [
            ("", *_SHORT),
            ("untrained", *(row[1] for row in rows)),
            (latest_name, *(row[2] for row in rows)),
        ]
        head, before, now = columns_text(table).splitlines()
        return Content.assemble((head, "dim"), "\n", before, "\n", (now, "bold"))


def columns_text(rows: Sequence[Sequence[str]]) -> str:
    """Aligned text: the first column left, the others right, two spaces apart."""
    return "\n".join("  ".join(row) for row in aligned(rows))
