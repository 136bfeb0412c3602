"""Results: every run ever made, newest first; sorted, filtered, opened, exported, deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Input, Static

from engine.errors import ReslabError
from engine.results.records import RunRecord
from engine.results.tables import duration
from engine.text import percent, safe_text
from tui.record import delete_run, export, read_runs
from tui.text import aligned, plain_content
from tui.widgets.mode_bar import ModeBar

if TYPE_CHECKING:
    from tui.app import ReslabApp


def _metric(moment: str, name: str) -> Callable[[RunRecord], Any]:
    def value(record: RunRecord) -> float | None:
        metrics = getattr(record, moment)
        return None if metrics is None else float(getattr(metrics, name))

    return value


# Title, the value that it is sorted by, and its text.
_COLUMNS: tuple[tuple[str, Callable[[RunRecord], Any], Callable[[Any], str]], ...] = (
    ("run", lambda record: record.run, str),
    ("dataset", lambda record: record.dataset, lambda value: safe_text(value, 28)),
    ("model", lambda record: record.model, safe_text),
    ("status", lambda record: record.status, safe_text),
    ("accuracy", _metric("final", "accuracy"), percent),
    ("F1", _metric("final", "f1"), percent),
    ("epochs", lambda record: record.spec.get("epochs"), str),
    ("seed", lambda record: record.spec.get("seed"), str),
    ("img/s", lambda record: record.train_images_per_s, lambda value: f"{value:,.0f}" if value else "–"),
    ("time", lambda record: record.elapsed_s, duration),
    ("untrained", _metric("untrained", "accuracy"), percent),
    ("when", lambda record: record.created_at, lambda value: time.strftime("%m-%d %H:%M", time.localtime(value))),
)
_LEFT = (1, 2, 3)


class _Runs(DataTable[Text]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Open", tooltip="open the run under the cursor: its tables and curves"),
        Binding("home,g", "scroll_top", "First", show=False),
        Binding("end,G", "scroll_bottom", "Last", show=False),
    ]


class ResultsScreen(Screen[None]):
    app: ReslabApp

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "down", "Down", show=False),
        Binding("k", "up", "Up", show=False),
        Binding("space", "mark", "Mark", tooltip="mark the run for a comparison, or take the mark away"),
        Binding("c", "compare", "Compare", tooltip="compare the marked runs"),
        Binding("slash", "filter", "Filter", tooltip="show only the runs whose row contains a text"),
        Binding("s", "sort(1)", "Sort", tooltip="sort by the next column"),
        Binding("S", "reverse", "Reverse", show=False, tooltip="turn the order round"),
        Binding("d", "delete", "Delete", tooltip="delete the run under the cursor, rows and weights"),
        Binding("e", "export", "Export", tooltip="write the run as CSV, JSON and TOML files"),
        Binding("escape", "unfilter", "Clear filter", show=False),
    ]

    def compose(self) -> ComposeResult:
        yield ModeBar("results")
        yield Static(id="summary", markup=False)
        yield Input(placeholder="filter, for example mnist completed", id="filter", compact=True)
        yield _Runs(id="runs", cursor_type="row", zebra_stripes=True, fixed_columns=1)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._records: list[RunRecord] = []
        self._sort_by, self._reverse = 0, True
        self._marked: list[int] = []
        self.query_one(DataTable).focus()

    def on_screen_resume(self) -> None:
        self.app.show_status()
        self.load()

    @work(exclusive=True, group="load")
    async def load(self) -> None:
        """Read the record anew; it is another thread's work, for a locked file can keep one waiting."""
        try:
            self._records = await asyncio.to_thread(read_runs, self.app.places)
        except ReslabError as error:
            self.app.tell(str(error), "error")
        self._fill()

    def _fill(self) -> None:
        table = self.query_one(DataTable)
        chosen = self._chosen()
        table.clear(columns=True)
        shown = self._shown()
        head = [title + self._arrow(number) for number, (title, _, _) in enumerate(_COLUMNS)]
        cells = [[text_of(value(record)) for _, value, text_of in _COLUMNS] for record in shown]
        for record, row in zip(shown, cells, strict=True):
            row[0] = f"{'●' if record.run in self._marked else ' '} {row[0]}"
        first, *rest = aligned([head, *cells], left=_LEFT)
        for title in first:
            table.add_column(Text(title))
        for record, row in zip(shown, rest, strict=True):
            table.add_row(*map(Text, row), key=str(record.run))
        if chosen is not None and any(record.run == chosen for record in shown):
            table.move_cursor(row=table.get_row_index(str(chosen)))
        self._summarize(len(shown))
        self.refresh_bindings()

    def _arrow(self, column: int) -> str:
        if column != self._sort_by:
            return ""
        return " ↓" if self._reverse else " ↑"

    def _summarize(self, shown: int) -> None:
        total = len(self._records)
        self._marked = [run for run in self._marked if any(record.run == run for record in self._records)]
        text = f"{total:,} run{'' if total == 1 else 's'}" if total else "no runs yet: 1 sets one up"
        if shown != total:
            text += f", {shown:,} shown"
        if self._marked:
            text += f", {len(self._marked)} marked"
        title = _COLUMNS[self._sort_by][0]
        self.query_one("#summary", Static).update(plain_content(f"{text}, sorted by {title}"))

    def _shown(self) -> list[RunRecord]:
        words = self.query_one(Input).value.lower().split()
        found = [record for record in self._records if all(word in _row_text(record) for word in words)]
        value = _COLUMNS[self._sort_by][1]
        known = [record for record in found if value(record) is not None]
        unknown = [record for record in found if value(record) is None]
        return sorted(known, key=value, reverse=self._reverse) + unknown

    def _chosen(self) -> int | None:
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return int(key) if key else None

    @on(DataTable.RowSelected)
    def _open(self, event: DataTable.RowSelected) -> None:
        if event.row_key.value:
            self.app.open_run(int(event.row_key.value))

    @on(DataTable.HeaderSelected)
    def _sort_by_click(self, event: DataTable.HeaderSelected) -> None:
        self._reverse = not self._reverse if event.column_index == self._sort_by else True
        self._sort_by = event.column_index
        self._fill()

    @on(Input.Changed)
    def _filter_changed(self) -> None:
        self._fill()

    @on(Input.Submitted)
    def _filter_done(self) -> None:
        self.query_one(DataTable).focus()

    def action_mark(self) -> None:
        run = self._chosen()
        if run is None:
            return
        self._marked = (
            [other for other in self._marked if other != run] if run in self._marked else [*self._marked, run]
        )
        self._fill()
        self.query_one(DataTable).action_cursor_down()

    def action_compare(self) -> None:
        self.app.compare(sorted(self._marked))

    def action_filter(self) -> None:
        self.add_class("filtering")
        self.query_one(Input).focus()

    def action_unfilter(self) -> None:
        self.remove_class("filtering")
        self.query_one(Input).value = ""
        self.query_one(DataTable).focus()

    def action_sort(self, by: int) -> None:
        self._sort_by = (self._sort_by + by) % len(_COLUMNS)
        self._reverse = self._sort_by not in _LEFT  # names from A, figures from the greatest
        self._fill()

    def action_reverse(self) -> None:
        self._reverse = not self._reverse
        self._fill()

    def action_down(self) -> None:
        self.query_one(DataTable).action_cursor_down()

    def action_up(self) -> None:
        self.query_one(DataTable).action_cursor_up()

    @work
    async def action_delete(self) -> None:
        from tui.screens.dialogs import Question

        run = self._chosen()
        if run is None or not await self.app.push_screen_wait(
            Question(f"Delete run {run} with its figures and weights? It cannot be brought back.")
        ):
            return
        try:
            await asyncio.to_thread(delete_run, self.app.places, run)
        except ReslabError as error:
            self.app.tell(str(error), "error")
        self.load()

    @work
    async def action_export(self) -> None:
        run = self._chosen()
        if run is not None:
            try:
                folder = await asyncio.to_thread(export, self.app.places, run)
                self.app.tell(f"run {run} written to {folder}")
            except ReslabError as error:
                self.app.tell(str(error), "error")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("delete", "export", "sort", "filter", "mark"):
            return bool(self._records) or None
        if action == "compare":
            return len(self._marked) > 1 or None
        return True


def _row_text(record: RunRecord) -> str:
    return " ".join(text_of(value(record)) for _, value, text_of in _COLUMNS).lower()
