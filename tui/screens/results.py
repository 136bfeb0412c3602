"""Results: all runs, newest first. Sort, filter, open, compare, export and delete them."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from engine.errors import ReslabError
from tui.commands import Commands
from tui.listing import EMPTY, LEFT, TITLES, ListedRun, Listing, arrange
from tui.screens.base import ReadingScreen, follow
from tui.state import AppState
from tui.text import counted, plain_content
from tui.widgets.field import Field
from tui.widgets.key_bar import KeyBar
from tui.widgets.mode_bar import ModeBar
from tui.widgets.table import Table


class _Runs(Table):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Open", tooltip="open the run under the cursor: its tables and curves"),
    ]


class ResultsScreen(ReadingScreen[None]):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark", tooltip="mark the run for comparison, or unmark it"),
        Binding("c", "compare", "Compare", tooltip="compare the marked runs"),
        Binding("slash", "filter", "Filter", tooltip="show only runs whose row contains a text"),
        Binding("s", "sort(1)", "Sort", tooltip="sort by the next column"),
        Binding("S", "reverse", "Reverse", show=False, tooltip="reverse the order"),
        Binding("R", "resume", "Resume", show=False, tooltip="resume a run that was interrupted or stopped"),
        Binding("W", "watch", "Watch", show=False, tooltip="follow another process's run on Train"),
        Binding("d", "delete", "Delete", tooltip="delete the run with its figures and weights"),
        Binding("e", "export", "Export", tooltip="write the run as CSV, JSON and TOML files"),
        Binding("escape", "unfilter", "Clear filter", show=False),
    ]

    def __init__(self, state: AppState, commands: Commands) -> None:
        super().__init__(state, commands)
        self._listing: Listing = EMPTY
        self._sort_by, self._reverse = 0, True
        self._marked: list[int] = []
        self.loaded = False

    def compose(self) -> ComposeResult:
        yield ModeBar("results")
        yield Static(id="summary", markup=False)
        yield Field("filter", "filter, for example mnist completed")
        yield _Runs("runs", left=LEFT, markable=True)
        yield KeyBar()

    def on_mount(self) -> None:
        self._table.focus()
        follow(self, self.state.listing, self._show)

    def on_screen_resume(self) -> None:
        self.load()

    @property
    def _field(self) -> Field:
        return self.query_one(Field)

    @property
    def _table(self) -> Table:
        return self.query_one(Table)

    @work(exclusive=True, group="load")
    async def load(self) -> None:
        """Show the last listing, then read the runs again."""
        if self.state.listing.value is not None:
            self._listing = self.state.listing.value
            self._fill()
        try:
            found = await self.commands.read_listing()
        except ReslabError as error:
            self.commands.report(str(error), "error")
            found = self._listing
        if not (self.loaded and found is self._listing):
            self._show(found)

    def _show(self, listing: Listing | None) -> None:
        self._listing = listing or EMPTY
        known = {listed.run for listed in self._listing.runs}
        self._marked = [run for run in self._marked if run in known]
        self._fill()

    def _fill(self) -> None:
        self.loaded = True
        shown = self._shown()
        titles = [title + self._arrow(number) for number, title in enumerate(TITLES)]
        widths = [max(len(title), wide) for title, wide in zip(titles, self._listing.widths, strict=True)]
        self._table.show(titles, widths, [(listed.run, listed.cells) for listed in shown], self._marked)
        self._summarize(len(shown))
        self.refresh_bindings()

    def _arrow(self, column: int) -> str:
        if column != self._sort_by:
            return ""
        return " ↓" if self._reverse else " ↑"

    def _summarize(self, shown: int) -> None:
        total, summary = len(self._listing.runs), self.query_one("#summary", Static)
        if not total:
            summary.update(plain_content("no runs yet · 1: set one up"))
            return
        text = counted(total, "run")
        if shown != total:
            text += f", {shown:,} shown"
        if self._marked:
            text += f", {len(self._marked)} marked"
        summary.update(plain_content(f"{text}, sorted by {TITLES[self._sort_by]}"))

    def _shown(self) -> list[ListedRun]:
        return arrange(self._listing, self._sort_by, self._reverse, self._field.value)

    @on(Table.Selected)
    def _open(self) -> None:
        if self._table.chosen is not None:
            self.commands.open_run(self._table.chosen)

    @on(Table.HeaderSelected)
    def _sort_by_click(self, event: Table.HeaderSelected) -> None:
        self._reverse = not self._reverse if event.column == self._sort_by else True
        self._sort_by = event.column
        self._fill()

    @on(Field.Changed)
    def _filter_changed(self) -> None:
        self._fill()

    @on(Field.Submitted)
    def _filter_done(self) -> None:
        self._table.focus()

    def action_mark(self) -> None:
        run = self._table.chosen
        if run is None:
            return
        self._marked = (
            [other for other in self._marked if other != run] if run in self._marked else [*self._marked, run]
        )
        self._fill()
        self._table.action_cursor(1)

    def action_compare(self) -> None:
        self.commands.compare(sorted(self._marked))

    def action_filter(self) -> None:
        self._field.display = True
        self._field.focus()

    def action_unfilter(self) -> None:
        self._field.display = False
        self._field.value = ""
        self._table.focus()

    def action_sort(self, by: int) -> None:
        self._sort_by = (self._sort_by + by) % len(TITLES)
        self._reverse = self._sort_by not in LEFT  # names from A, largest figures first
        self._fill()

    def action_reverse(self) -> None:
        self._reverse = not self._reverse
        self._fill()

    def action_resume(self) -> None:
        summary = next((listed.summary for listed in self._listing.runs if listed.run == self._table.chosen), None)
        if summary is not None:
            self.commands.resume_run(summary)

    def action_watch(self) -> None:
        if self._table.chosen is not None:
            self.commands.watch_run(self._table.chosen)

    @work
    async def action_delete(self) -> None:
        run = self._table.chosen
        if run is None or not await self.commands.ask(
            f"Delete run {run} with its figures and weights? This cannot be undone."
        ):
            return
        try:
            await asyncio.to_thread(self.state.lab.delete, run)
        except ReslabError as error:
            self.commands.report(str(error), "error")
        self.load()

    @work
    async def action_export(self) -> None:
        run = self._table.chosen
        if run is not None:
            try:
                folder = await asyncio.to_thread(self.state.lab.export, run)
                self.commands.report(f"run {run} written to {folder}")
            except ReslabError as error:
                self.commands.report(str(error), "error")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("delete", "export", "sort", "filter", "mark", "resume", "watch"):
            return bool(self._listing.runs) or None
        if action == "compare":
            return len(self._marked) > 1 or None
        return True
