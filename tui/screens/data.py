"""Data: look at a dataset before training: classes, pictures, augmentation, what an audit finds, files left out."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static, TabbedContent, TabPane, Tabs

from engine.control import RunControl
from engine.errors import ReslabError
from engine.progress import LoadingStopped, Progress
from engine.settings import Value
from engine.spec import RunSpec
from tui.commands import Commands
from tui.screens.base import LabScreen
from tui.screens.data_images import ImagesPane, PairsPane
from tui.screens.data_panes import AugmentedPane, ClassesPane, FindingsPane, LeftOutPane
from tui.screens.data_session import DataSession, LookPane
from tui.state import AppState
from tui.text import counted, dataset_title, plain_content
from tui.widgets.key_bar import KeyBar
from tui.widgets.mode_bar import ModeBar

if TYPE_CHECKING:
    from engine.data.audit.opened import OpenDataset


class DataScreen(LabScreen[None]):
    """Opens the dataset of `spec` in a thread. `set_values` changes the recipe in Set up."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "turn(1)", "Tab", tooltip="the next tab", priority=True),
        Binding("shift+tab", "turn(-1)", "Tab back", show=False, tooltip="the tab before", priority=True),
        Binding("escape", "leave", "Back", tooltip="back to Set up"),
    ]

    def __init__(
        self, state: AppState, commands: Commands, spec: RunSpec, set_values: Callable[[dict[str, Value]], None]
    ) -> None:
        super().__init__(state, commands)
        self._spec, self._set_values = spec, set_values
        self.control = RunControl()
        self._session: DataSession | None = None

    def compose(self) -> ComposeResult:
        yield ModeBar("setup")
        yield Static(id="title", markup=False)
        with TabbedContent(id="tabs"):
            for title, name, pane in (
                ("Classes", "classes", ClassesPane()),
                ("Images", "images", ImagesPane()),
                ("Augmented", "augmented", AugmentedPane()),
                ("Findings", "findings", FindingsPane()),
                ("Pairs", "pairs", PairsPane()),
                ("Left out", "left-out", LeftOutPane()),
            ):
                with TabPane(title, id=name):
                    yield pane
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one(Tabs).can_focus = False
        self._say("loading torch and the images …")
        self._focus_pane()
        self.load()

    @property
    def is_open(self) -> bool:
        """Whether the dataset is loaded and audited."""
        return self._session is not None

    def on_unmount(self) -> None:
        self.control.stop()

    def _say(self, text: str) -> None:
        self.query_one("#title", Static).update(plain_content(f"{dataset_title(self._spec.dataset)}: {text}", "bold"))

    # --- opening -----------------------------------------------------------------------------------------------------

    @work(exclusive=True, group="open")
    async def load(self) -> None:
        """Load and audit in a thread; leaving the screen stops it."""
        look, spec, control = self.state.lab.look, self._spec, self.control
        try:
            opened = await self.commands.run_in_thread(lambda: self._run(look.open(spec, control)))
            decisions = look.decisions()
        except LoadingStopped:
            return
        except ReslabError as error:
            self._say(str(error))
            return
        if self.is_attached:
            self._show(DataSession(opened, spec, decisions))

    def _run(self, opening: Generator[Progress, None, OpenDataset]) -> OpenDataset:
        """In the thread."""
        while True:
            try:
                progress = next(opening)
            except StopIteration as end:
                opened: OpenDataset = end.value
                return opened
            self.app.call_later(self._show_progress, progress)

    def _show_progress(self, progress: Progress) -> None:
        if self.is_attached and self._session is None:
            total = f" of {progress.total:,}" if progress.total else ""
            self._say(f"{progress.stage} {progress.done:,}{total} {progress.unit} … · esc: back")

    def _show(self, session: DataSession) -> None:
        self._session, audit = session, session.opened.audit
        kinds = ", ".join(f"{kind.name} {kind.number:,}" for kind in (*audit.sizes[:2], *audit.modes[:4]))
        channels, height, width = audit.shape
        self._say(f"{counted(audit.num_images, 'image')}, used at {height}×{width}×{channels} · {kinds}")
        for pane in self.query(LookPane):
            pane.show(session)
        self._name_tabs()

    def _name_tabs(self) -> None:
        """How much there is behind a tab, in its title."""
        assert self._session is not None
        tabs, audit = self.query_one(TabbedContent), self._session.opened.audit
        numbers = {
            "findings": self.query_one(FindingsPane).number, "pairs": self.query_one(PairsPane).num_undecided,
            "left-out": len(audit.left_out),
        }  # fmt: skip
        for name, title in (("findings", "Findings"), ("pairs", "Pairs"), ("left-out", "Left out")):
            tabs.get_tab(name).label = f"{title} {numbers[name]:,}" if numbers[name] else title

    # --- tabs --------------------------------------------------------------------------------------------------------

    @property
    def _pane(self) -> LookPane:
        active = self.query_one(TabbedContent).active_pane
        assert active is not None
        return active.query_one(LookPane)

    def action_turn(self, by: int) -> None:
        tabs = self.query_one(TabbedContent)
        names = [pane.id or "" for pane in tabs.query(TabPane)]
        self._open_tab(names[(names.index(tabs.active) + by) % len(names)])

    def _open_tab(self, name: str) -> None:
        if name == "augmented":
            self.query_one(AugmentedPane).image = self.query_one(ImagesPane).image
            self.query_one(AugmentedPane).refresh_pane()
        self.query_one(TabbedContent).active = name
        self.call_after_refresh(self._focus_pane)

    @on(TabbedContent.TabActivated)
    def _focus_pane(self) -> None:
        pane = self._pane
        pane.query_one(pane.focus_on).focus()
        self.refresh_bindings()

    @on(ClassesPane.Opened)
    def _class_opened(self, event: ClassesPane.Opened) -> None:
        self.query_one(ImagesPane).list_class(event.class_name)
        self._open_tab("images")

    @on(FindingsPane.Opened)
    def _finding_opened(self, event: FindingsPane.Opened) -> None:
        self.query_one(ImagesPane).list_finding(event.title, event.images)
        self._open_tab("images")

    # --- decisions ---------------------------------------------------------------------------------------------------

    @on(PairsPane.Decided)
    def _pair_decided(self, event: PairsPane.Decided) -> None:
        session = self._session
        assert session is not None
        try:
            self.state.lab.look.decide(event.pair.key, event.decision)
        except ReslabError as error:
            self.commands.report(str(error), "error")
            return
        session.decisions = self.state.lab.look.decisions()
        self.query_one(PairsPane).decided()
        self.query_one(FindingsPane).refresh_pane()
        self._name_tabs()

    @on(ImagesPane.ExcludeRequested)
    def _exclude(self) -> None:
        """Leave the marked images out of the next runs; without marks, take back what was left out here."""
        session = self._session
        if session is None or not (session.marked or session.excluded):
            self.commands.report("mark images with space, then x leaves them out of the next runs", "warning")
            return
        excluded = {**session.excluded, **session.marked} if session.marked else {}
        try:
            path = self.state.lab.look.exclude(self._spec, excluded.values()) if excluded else self._spec.exclude
        except ReslabError as error:
            self.commands.report(str(error), "error")
            return
        session.excluded, session.marked = excluded, {}
        self._set_values({"exclude": path})
        self.query_one(ImagesPane).redraw()
        number = counted(len(excluded), "image")
        again = "x again takes them back"
        self.commands.report(
            f"{number} left out of the next runs: exclude is {path}; {again}" if excluded else "no image left out here"
        )

    def action_leave(self) -> None:
        if not self.query_one(ClassesPane).clear_filter():
            self.app.pop_screen()
