"""One run: its metrics, classes, confusion, mistakes, curves, files and settings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
from rich.cells import cell_len
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static, TabbedContent, TabPane, Tabs

from engine.analysis.remarks import remarks_on
from engine.analysis.tables import class_rows, facts, result_table, setting_rows
from engine.catalog.models import short_model
from engine.data.manifest import MANIFEST_NAME, FileRecord
from engine.errors import ReslabError
from engine.progress import Progress
from engine.records import RunDetails
from engine.text import percent, safe_text
from tui.commands import Commands
from tui.screens.base import LabScreen, follow
from tui.screens.predict import PredictScreen
from tui.screens.train import TEST_COLOUR, TRAIN_COLOUR, VAL_COLOUR, epoch_ticks
from tui.state import AppState
from tui.text import counted, plain_content
from tui.widgets.chart import Chart, Line, align
from tui.widgets.confusion import ConfusionMap
from tui.widgets.figures import columns_text
from tui.widgets.gallery import Gallery, Picture
from tui.widgets.key_bar import KeyBar
from tui.widgets.mode_bar import ModeBar
from tui.widgets.table import Table

if TYPE_CHECKING:
    from engine.control import Control


class RunScreen(LabScreen[None]):
    """Shows a run in tabs; left and right switch tabs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "tab(-1)", "Tab", key_display="←→", tooltip="the previous or next tab"),
        Binding("right,l", "tab(1)", "Next tab", show=False),
        Binding("j,down", "scroll(1)", "Down", show=False),
        Binding("k,up", "scroll(-1)", "Up", show=False),
        Binding("n", "page(1)", "Next page", tooltip="in Mistakes: the next page of pictures"),
        Binding("b", "page(-1)", "Page back", show=False, tooltip="in Mistakes: the previous page"),
        Binding("m", "all_mistakes", "All mistakes", tooltip="all mistakes, not only one cell's"),
        Binding("p", "predict", "Predict", tooltip="predict an image of your own"),
        Binding("e", "export", "Export", tooltip="write the run as CSV, JSON and TOML files"),
        Binding("escape,backspace", "back", "Back", tooltip="back to the tabs, then to the list"),
    ]

    def __init__(self, state: AppState, commands: Commands, run: int) -> None:
        super().__init__(state, commands)
        self.run = run
        self._details: RunDetails | None = None
        self._cell: tuple[int, int] | None = None
        self._shown_cell: tuple[int, int] | str | None = "none yet"

    def compose(self) -> ComposeResult:
        yield ModeBar("results")
        yield Static(plain_content(f"run {self.run}"), id="title", markup=False)
        with TabbedContent(id="tabs"):
            with TabPane("Metrics", id="metrics"), VerticalScroll():
                yield Static(id="metric-table", markup=False)
            with TabPane("Classes", id="classes"):
                yield Table("class-table")
            with TabPane("Confusion", id="confusion"):
                yield ConfusionMap(id="confusion-map")
            with TabPane("Mistakes", id="mistakes"):
                yield Static(id="which", classes="dim", markup=False)
                yield Gallery(id="gallery")
            with TabPane("Curves", id="curves"):
                yield Chart("loss", id="loss")
                yield Chart("accuracy", (0.0, 1.0), lambda value: f"{100 * value:.0f} %", id="accuracy")
            with TabPane("Files", id="files"):
                yield Static(id="left-out", markup=False)
                yield Table("files-table", left=(0, 1))
            with TabPane("Settings", id="settings"), VerticalScroll():
                yield Static(id="facts", markup=False)
        yield KeyBar()

    def on_mount(self) -> None:
        align(*self.query(Chart))
        self.query_one(Tabs).focus()
        follow(self, self.state.listing, lambda listing: self.load())  # this run may have ended

    def on_screen_resume(self) -> None:
        self.load()

    @work(exclusive=True, group="load")
    async def load(self) -> None:
        try:
            details, left_out = await asyncio.to_thread(self._read)
        except ReslabError as error:
            self.commands.report(str(error), "error")
            if self.is_current:
                self.app.pop_screen()
            return
        if self.is_attached and self.query("#title"):  # the screen may have closed meanwhile
            self._show(details)
            self._show_files(left_out)

    def _read(self) -> tuple[RunDetails, list[FileRecord] | None]:
        lab = self.state.lab
        return lab.run(self.run), lab.left_out(self.run)

    def _show(self, details: RunDetails) -> None:
        self._details = details
        record = details.record
        title = f"run {record.run}: {short_model(record.model)} on {record.dataset}, {record.status}"
        title += f": {record.error}" if record.error else ""
        self.query_one("#title", Static).update(plain_content(title, "bold"))
        warning = "" if details.intact is not False else "✗ changed after the run ended: do not trust these figures\n\n"
        table = columns_text(result_table(details))
        self.query_one("#metric-table", Static).update(
            warning
            + table
            + "".join(f"\nnote: {safe_text(remark)}" for remark in remarks_on(details))
            + _footnote(details)
        )
        lines = [
            f"{name:<10} {safe_text(value)}" for name, value in facts(details, self.state.folders.run_folder(self.run))
        ]
        lines += ["", *(f"{name:<17} {safe_text(value)}" for name, value in setting_rows(record.spec))]
        self.query_one("#facts", Static).update("\n".join(lines))
        self._show_classes(details)
        self._show_curves(details)

    def _show_classes(self, details: RunDetails) -> None:
        table = self.query_one("#class-table", Table)
        final = details.evaluation("final")
        if final is None:
            _show_rows(table, ("not evaluated on the test set after training",), ())
            return
        titles = ("class", "precision", "recall", "F1", "images")
        _show_rows(table, titles, class_rows(details.class_names, final.per_class))
        self.query_one(ConfusionMap).show(details.class_names, final.confusion)

    def _show_files(self, left_out: list[FileRecord] | None) -> None:
        table, words = self.query_one("#files-table", Table), self.query_one("#left-out", Static)
        table.display = bool(left_out)
        if left_out is None:
            words.update("this dataset is not a folder of image files")
            return
        manifest = self.state.folders.run_folder(self.run) / MANIFEST_NAME
        number = counted(len(left_out), "file") if left_out else "no file"
        words.update(plain_content(f"{number} left out; every file with its hash and split: {manifest}"))
        _show_rows(table, ("left out", "why"), [(safe_text(item.file), safe_text(item.problem)) for item in left_out])

    def _show_curves(self, details: RunDetails) -> None:
        steps = len(details.curve.losses)
        x = np.arange(1, steps + 1, dtype=np.float64)
        num_steps, epochs = max(details.started.num_steps if details.started else 1, 1), details.record.spec["epochs"]
        ticks = epoch_ticks(epochs, max(num_steps // max(epochs, 1), 1))
        for name, values in (("loss", details.curve.losses), ("accuracy", details.curve.accuracies)):
            lines = [Line("train", TRAIN_COLOUR, x, np.array(values, dtype=np.float64))]
            for split, colour, marker in (("test", TEST_COLOUR, "●"), ("val", VAL_COLOUR, "◆")):
                points = [(i.step, getattr(i.metrics, name)) for i in details.evaluations if i.split == split]
                if points:
                    at, y = np.array(points, dtype=np.float64).T
                    lines.append(Line(split, colour, at, y, marker))
            self.query_one(f"#{name}", Chart).draw(lines, num_steps, ticks)

    @on(TabbedContent.TabActivated)
    def _tab_activated(self, event: TabbedContent.TabActivated) -> None:
        self.refresh_bindings()
        if event.pane.id == "mistakes":
            self._request_mistakes()

    @on(ConfusionMap.Chosen)
    def _cell_chosen(self, event: ConfusionMap.Chosen) -> None:
        self._cell = (event.true, event.predicted)
        self.query_one(TabbedContent).active = "mistakes"
        self.query_one(Tabs).focus()

    def action_all_mistakes(self) -> None:
        self._cell = None
        self._request_mistakes()

    def _request_mistakes(self) -> None:
        if self._details is not None and self._shown_cell != self._cell:
            self._shown_cell = self._cell
            self.load_mistakes(self._details, self._cell)
        self.refresh_bindings()

    @work(exclusive=True, group="mistakes")
    async def load_mistakes(self, details: RunDetails, cell: tuple[int, int] | None) -> None:
        gallery, names = self.query_one(Gallery), details.class_names
        text = "misclassified test images, most confident first"
        if cell is not None:
            how = "correctly" if cell[0] == cell[1] else f"as {names[cell[1]]}"
            text = f"{names[cell[0]]} classified {how}"
            text += ", most confident first · m: all mistakes"
        self.query_one("#which", Static).update(plain_content(text))
        found = await load_into(gallery, self.commands, lambda *way: self.state.lab.mistakes(details, cell, *way))
        if found is not None:
            mistakes, images = found
            pictures = [
                Picture(image, (f"{names[m.predicted]} {percent(m.confidence, 1)}", f"is {names[m.label]}"), m.file)
                for image, m in zip(images, mistakes, strict=True)
            ]
            gallery.show(pictures, "no test images in this cell" if cell else "no test images misclassified")

    def action_predict(self) -> None:
        if self._details is not None:
            self.app.push_screen(PredictScreen(self.state, self.commands, self._details))

    def action_back(self) -> None:
        tabs = self.query_one(Tabs)
        if tabs.has_focus:
            self.app.pop_screen()
        else:
            tabs.focus()

    def action_tab(self, by: int) -> None:
        tabs = self.query_one(TabbedContent)
        panes = [pane.id or "" for pane in tabs.query(TabPane)]
        tabs.active = panes[(panes.index(tabs.active) + by) % len(panes)]
        self.refresh_bindings()
        self.query_one(Tabs).focus()

    def action_page(self, by: int) -> None:
        self.query_one(Gallery).action_page(by)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "all_mistakes":
            return self.query_one(TabbedContent).active == "mistakes" and self._cell is not None
        if action == "predict":
            return (self._details is not None and self._details.weights is not None) or None
        return action != "page" or self.query_one(TabbedContent).active == "mistakes"

    def action_scroll(self, by: int) -> None:
        pane = self.query_one(TabbedContent).active_pane
        if pane is not None and pane.id == "confusion":
            self.query_one(ConfusionMap).focus()
            return
        for target in pane.query("Table, VerticalScroll") if pane else ():
            target.scroll_relative(y=by, animate=False)

    @work
    async def action_export(self) -> None:
        try:
            folder = await asyncio.to_thread(self.state.lab.export, self.run)
            self.commands.report(f"run {self.run} written to {folder}")
        except ReslabError as error:
            self.commands.report(str(error), "error")


def _show_rows(table: Table, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Show rows of safe text, with columns as wide as their widest cell."""
    widths = [max(map(cell_len, column)) for column in zip(titles, *rows, strict=True)]
    table.show(titles, widths, list(enumerate(rows)))


T = TypeVar("T")


async def load_into(
    gallery: Gallery, commands: Commands, read: Callable[[Callable[[Progress], None], Control], T]
) -> T | None:
    """Call `read` in a thread, because it may have to decode images, and show its progress in the gallery.

    Returns None if it raised; the gallery then shows why. Stops `read` if the caller is cancelled.
    """
    from engine.control import RunControl

    control = RunControl()
    gallery.show((), "loading torch and the test images …")
    loading = True

    def show_progress(progress: Progress) -> None:
        noun = progress.unit.removesuffix("s")
        total = f"{progress.done:,} of {counted(progress.total, noun)}" if progress.total else ""
        text = f"{progress.stage}: {total or counted(progress.done, noun)}" if noun else progress.stage
        # A late progress report must not replace the pictures.
        gallery.app.call_later(lambda: gallery.show((), text) if loading else None)

    try:
        return await commands.run_in_thread(lambda: read(show_progress, control))
    except ReslabError as error:
        gallery.call_later(gallery.show, (), safe_text(error))
        return None
    finally:
        loading = False
        control.stop()


def _footnote(details: RunDetails) -> str:
    if details.record.final is None:
        return ""
    val = details.started and details.started.num_val
    read = "The test set was evaluated before training and at the end" if val else "Figures from the last epoch"
    read = read if details.record.spec["epochs"] else "Nothing was trained"
    return f"\n\n{read}; nothing was selected on the test set.\nBalanced accuracy is the mean of the classes' recalls."
