"""Compare: runs side by side, the settings that differ, their curves, and the verdict in words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Static, TabbedContent, TabPane, Tabs

from engine.analysis.tables import comparison_rows, differing_rows, group_rows
from engine.errors import ReslabError
from engine.records import RunDetails
from engine.text import percent
from tui.screens.base import LabScreen, follow
from tui.screens.run import load_into
from tui.screens.train import epoch_ticks
from tui.text import plain_content
from tui.widgets.chart import Chart, Line, align
from tui.widgets.figures import columns_text
from tui.widgets.gallery import Gallery, Picture
from tui.widgets.key_bar import KeyBar
from tui.widgets.mode_bar import ModeBar

if TYPE_CHECKING:
    from engine.analysis.comparison import Comparison
    from engine.analysis.mistakes import Mistake
    from engine.analysis.seeds import SeedGroup

# Okabe and Ito's, ordered by contrast on black; the markers distinguish the runs without colour.
_COLOURS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
_MARKERS = "●◆▲■★✚▼"


class CompareScreen(LabScreen[None]):
    """Shows the compared runs and reads them again at each resume."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "tab('verdict')", "Verdict", tooltip="the tables and the verdict"),
        Binding("o", "tab('curves')", "Curves", tooltip="the runs' test curves, overlaid"),
        Binding("i", "tab('images')", "Images", tooltip="the images on which two runs differ"),
        Binding("n", "page(1)", "Next page", tooltip="in Images: the next page"),
        Binding("b", "page(-1)", "Page back", show=False, tooltip="in Images: the previous page"),
        Binding("j,down", "scroll(1)", "Down", show=False),
        Binding("k,up", "scroll(-1)", "Up", show=False),
        Binding("escape", "app.mode('results')", "Back", tooltip="back to Results"),
    ]

    def compose(self) -> ComposeResult:
        yield ModeBar("compare")
        with TabbedContent(id="tabs"):
            with TabPane("Verdict", id="verdict"), VerticalScroll(id="words"):
                yield Static(id="metric-table", markup=False)
                yield Static(id="groups", markup=False)
                yield Static(id="sentences", markup=False)
                yield Static(id="differing", markup=False)
            with TabPane("Curves", id="curves"):
                yield Chart("test loss", id="loss")
                yield Chart("test accuracy", (0.0, 1.0), lambda value: f"{100 * value:.0f} %", id="accuracy")
            with TabPane("Images", id="images"):
                yield Gallery(id="gallery")
        yield KeyBar()

    def on_mount(self) -> None:
        align(*self.query(Chart))
        self._details: Sequence[RunDetails] = ()
        self._comparable = False
        self._images_requested = False
        follow(self, self.state.compared, lambda runs: self.load())

    def on_screen_resume(self) -> None:
        self.query_one(Tabs).focus()
        self.load()

    @work(exclusive=True, group="load")
    async def load(self) -> None:
        """Read and compare in a thread: importing scipy alone takes two seconds."""
        self.query_one("#sentences", Static).update(plain_content("comparing …", "dim"))
        try:
            read = await asyncio.to_thread(self.state.lab.compare, self.state.compared.value)
        except ReslabError as error:
            self.query_one("#metric-table", Static).update("")
            self.query_one("#sentences", Static).update(plain_content(error))
            return
        self._show_groups(read.groups)
        self._show(read.runs, read.comparison, [*(item.verdict for item in read.group_verdicts), *read.without])

    def _show_groups(self, groups: Sequence[SeedGroup]) -> None:
        table = self.query_one("#groups", Static)
        table.display = bool(groups)
        if groups:
            table.update(f"\n{columns_text(group_rows(groups))}")

    def _show(self, details: Sequence[RunDetails], found: Comparison, more: Sequence[str]) -> None:
        records = [item.record for item in details]
        parts = [item.memory.micro_batch for item in details]
        table = columns_text(comparison_rows(records, found.no_verdict is None, parts))
        self.query_one("#metric-table", Static).update(table)
        differing = [("differs", *(f"#{record.run}" for record in records)), *differing_rows(found.differing)]
        text = columns_text(differing) if found.differing else "no setting differs"
        self.query_one("#differing", Static).update(Content.styled(f"\n{text}\n", "dim"))
        sentences = [found.no_verdict, *(item.verdict for item in found.verdicts), *more]
        lines = [Content(""), *(plain_content(sentence, "bold") for sentence in sentences if sentence), Content("")]
        lines += [
            plain_content(
                f"{side.name}: {side.num_right:,} of {side.num_images:,} right, "
                f"{percent(side.wilson_95[0], 2)} to {percent(side.wilson_95[1], 2)} (Wilson, 95 %)"
            )
            for side in found.sides
        ]
        self.query_one("#sentences", Static).update(Content("\n").join(lines))
        self._show_curves(details)
        self._details, self._comparable = details, found.no_verdict is None
        self._images_requested = False
        self._request_images()

    @on(TabbedContent.TabActivated)
    def _request_images(self) -> None:
        self.refresh_bindings()
        gallery = self.query_one(Gallery)
        if self.query_one(TabbedContent).active != "images" or self._images_requested or not self._details:
            return
        self._images_requested = True
        if len(self._details) != 2 or not self._comparable:
            gallery.show((), "comparing images needs two runs on the same test images")
        else:
            self.load_images(*self._details)

    @work(exclusive=True, group="images")
    async def load_images(self, a: RunDetails, b: RunDetails) -> None:
        gallery, names = self.query_one(Gallery), a.class_names
        found = await load_into(gallery, self.commands, lambda *way: self.state.lab.differences(a, b, *way))
        if found is None:
            return
        pairs, images = found

        def answer(details: RunDetails, item: Mistake) -> str:
            mark = "✓" if item.predicted == item.label else "✗"
            return f"#{details.record.run} {mark} {names[item.predicted]} {percent(item.confidence, 0)}"

        pictures = [
            Picture(image, (answer(a, one), answer(b, other), f"is {names[one.label]}"), one.file)
            for image, (one, other) in zip(images, pairs, strict=True)
        ]
        gallery.show(pictures, "both runs classify the same images correctly")

    def _show_curves(self, details: Sequence[RunDetails]) -> None:
        epochs = max(1, *(item.record.spec["epochs"] for item in details))
        for name in ("loss", "accuracy"):
            lines = []
            for number, item in enumerate(details):
                points = [(e.epoch, getattr(e.metrics, name)) for e in item.evaluations if e.split == "test"]
                x, y = np.array(points, dtype=np.float64).T if points else (np.empty(0), np.empty(0))
                colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
                label = f"#{item.record.run}"
                lines += [Line("", colour, x, y), Line(label, colour, x, y, marker)]
            self.query_one(f"#{name}", Chart).draw(lines, epochs, epoch_ticks(epochs, 1))

    def action_tab(self, name: str) -> None:
        self.query_one(TabbedContent).active = name
        self.query_one(Tabs).focus()

    def action_page(self, by: int) -> None:
        self.query_one(Gallery).action_page(by)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "page" or self.query_one(TabbedContent).active == "images"

    def action_scroll(self, by: int) -> None:
        self.query_one("#words").scroll_relative(y=by, animate=False)
