"""The app: modes, keys, theme; owner of the session and of the live run. Loads torch only after the first paint."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from textual import on, work
from textual.app import App, SystemCommand
from textual.binding import ActiveBinding, Binding, BindingType
from textual.driver import Driver
from textual.events import Event, Key, Paste
from textual.screen import Screen

from engine.errors import SpecError
from engine.log import write_report
from engine.paths import Places
from engine.spec import RunSpec
from engine.text import safe_text
from tui.leaving import Leaving
from tui.messages import (
    EventsArrived,
    GaugesRead,
    MemoryFreed,
    QueueCarried,
    RunCarried,
    RunMoved,
    RunRefused,
    TerminalLost,
    TorchLoaded,
)
from tui.modes import MODES, THEME, first_screen
from tui.queue import Queue
from tui.session import RunFunction, Session, engine_run
from tui.typed import Typed
from tui.watching import Watcher
from tui.widgets.mode_bar import ModeBar

if TYPE_CHECKING:
    from engine.data.survey import Survey
    from engine.launch.ray import Cluster
    from engine.records import RunRecord
    from tui.listing import Listing
    from tui.live import LiveRun


class ReslabApp(App[None]):
    """The first of `specs` is started at once, the others wait; with `exit_when_done` it leaves when all have ended."""

    TITLE = "reslab"
    DEFAULT_MODE = "setup"
    CSS_PATH = "styles/reslab.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (64, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (18, "-high")]  # noqa: RUF012
    MODES = MODES  # type: ignore[assignment]  # Textual allows a function that makes the screen
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "mode('setup')", "Set up", show=False, tooltip="pick what to train"),
        Binding("2", "mode('train')", "Train", show=False, tooltip="watch the live run"),
        Binding("3", "mode('results')", "Results", show=False, tooltip="all runs ever made"),
        Binding("4", "mode('compare')", "Compare", show=False, tooltip="runs side by side, and the verdict"),
        Binding("u", "queue", "Queue", show=False, tooltip="what waits in the queue"),
        Binding("question_mark", "keys", "Keys", key_display="?", tooltip="this list of keys"),
        Binding("q,ctrl+q,ctrl+c", "quit", "Quit", tooltip="leave; asks while a run is live", key_display="q"),
    ]

    def __init__(
        self,
        places: Places,
        specs: Sequence[RunSpec] = (),
        exit_when_done: bool = False,
        run_function: RunFunction = engine_run,
        cluster: Cluster | None = None,
        attached: int | None = None,
    ) -> None:
        super().__init__()
        self.register_theme(THEME)
        self.set_reactive(App.theme, THEME.name)  # set on the running app, it has every style read anew
        self.stylesheet.set_variables(self.get_css_variables())
        self.animation_level = "none"  # each frame would be taken from the training, and sent through SSH
        self.places = places
        self.session = Session(places, self.post_message, run_function, cluster)
        self.live: LiveRun | None = None
        self.gauges: GaugesRead | None = None
        self.compared: tuple[int, ...] = ()
        self.torch_loaded = False
        self.forecasts: dict[RunSpec, str] = {}
        self.surveys: dict[tuple[object, ...], Survey | str] = {}  # by what decides which images are loaded
        self.first_spec = specs[0] if specs and not (self.session.side_by_side and len(specs) > 1) else None
        self.attached = attached
        self.queue = Queue(self, list(specs))
        self.watcher = Watcher(self)
        self._exit_when_done = exit_when_done
        self.leaving = Leaving(self)
        self.typed = Typed(self)
        self._worst = 0
        self._reading = asyncio.Lock()
        self.listing: Listing | None = None  # the runs as they were when they were last read

    def get_driver_class(self) -> type[Driver]:
        """Textual's own driver does not survive a terminal that goes away."""
        from tui.terminal import driver_class

        return driver_class(super().get_driver_class())

    def get_default_screen(self) -> Screen[Any]:
        """Set up, so that the app begins with one screen and not with an empty one below it."""
        return first_screen()

    def on_mount(self) -> None:
        self.add_mode("setup", first_screen)
        sys.setswitchinterval(0.001)  # beside a busy Python thread the loop lags 1.2 ms instead of 5.2
        self.set_interval(1.0, self.take_events)
        self.call_after_refresh(self._begin)

    def on_unmount(self) -> None:
        self.session.stop_all()

    def _begin(self) -> None:
        """After the first paint."""
        gc.enable()
        self.session.watch_memory()
        self._read_records()
        if self.first_spec is not None:
            self.start_run(self.first_spec)
        if self.attached is not None:
            self.watcher.watch(self.attached)
        else:
            self.session.load_torch()
        self.queue.open()
        self.typed.open()

    async def on_event(self, event: Event) -> None:
        """Keys go on one at a time."""
        if isinstance(event, (Key, Paste)) and not event.is_forwarded and not self.typed.take(event):
            return
        await super().on_event(event)

    @work
    async def _read_records(self) -> None:
        """Earlier runs, for the estimate and the list; without them there is none."""
        from engine.errors import StoreError

        try:
            first = self.listing is None
            await self.read_listing()
            self._show_records()
            if first and self.first_spec is None and self.attached is None:
                self._offer_to_resume()
        except StoreError as error:
            self.tell(str(error), "warning")

    @work
    async def _offer_to_resume(self) -> None:
        """At the start: where the latest run was interrupted, it can be resumed."""
        from engine.records import CUT_OFF
        from tui.screens.dialogs import Question

        newest = self.listing.runs[0].record if self.listing and self.listing.runs else None
        if newest is None or not newest.cut_off:
            return
        why = (newest.error or "").removeprefix(CUT_OFF)  # in the record these words stand for ever
        what = f"Run {newest.run}, {newest.model} on {newest.dataset}, was interrupted{why}."
        if await self.push_screen_wait(Question(f"{safe_text(what)} Resume it?")):
            self.resume_run(newest)

    def resume_run(self, record: RunRecord) -> None:
        """Go on with a run from its last checkpoint, or say why it cannot."""
        if record.status in ("completed", "running"):
            return self.tell(f"run {record.run} is {record.status}: there is nothing to resume", "warning")
        try:
            self.start_run(RunSpec.from_stored(record.spec), resumed=record.run)
        except SpecError as error:  # of a dataset or a network that there is no more
            self.tell(str(error), "error")

    async def read_listing(self) -> Listing:
        """The runs as they are now, read in another thread, for a locked file keeps one waiting; one reading at a time.

        Raises:
            StoreError: the record cannot be read.
        """
        from tui.listing import EMPTY

        def read() -> Listing:
            from tui.record import read_listing  # SQLite

            return read_listing(self.places, self.listing or EMPTY)

        async with self._reading:
            self.listing = await asyncio.to_thread(read)
        return self.listing

    def _show_records(self) -> None:
        """In what is shown of them: the estimate on Set up, the list, an opened run."""
        screen: Any = self.screen_stack[-1] if self.screen_stack else None  # none while the app is being left
        if self.current_mode == "setup" and hasattr(screen, "show_plan"):
            screen.show_plan()
        elif self.current_mode == "results" and hasattr(screen, "load"):
            screen.load()

    def estimate(self, spec: RunSpec) -> str:
        """How long a run will take here, as text for Set up."""
        from tui.text import estimate_text

        return estimate_text(spec, [listed.record for listed in self.listing.runs] if self.listing else ())

    def start_run(self, spec: RunSpec, show: bool = True, resumed: int | None = None) -> bool:
        """Start a run now, or go on with run `resumed`; `show` goes to its live screen. Or say why not, and False."""
        from tui.live import LiveRun  # numpy: 0.17 s that the first paint need not wait for

        if not self.session.start(spec, resumed):
            self.tell("a run is live: wait for it, or stop it with s on Train", "warning")
            return False
        self.forecasts.clear()
        self.surveys.clear()
        self.live = LiveRun(spec, None if resumed else self.live)
        if show:
            self.switch_mode("train")
        return True

    @on(RunCarried)
    def _run_carried(self, message: RunCarried) -> None:
        self.queue.has_begun(message.run)
        self.watcher.has_begun(message.run)

    @on(QueueCarried)
    def _queue_carried(self, message: QueueCarried) -> None:
        if message.error is not None:
            self.tell(message.error, "error")
        self.queue.has_ended(well=message.error is None)

    def stop_run(self, reason: str | None = None) -> None:
        """Stop the live run after its step; `reason` where no person asked."""
        if self.live is not None and not self.live.over and self.session.control is not None:
            self.live.stopping = True
            self.session.control.stop(reason)

    @on(EventsArrived)
    def _events_arrived(self) -> None:
        """Something that a person waits for: a start, an evaluation, a pause, the end."""
        self.take_events()
        if self.current_mode == "train" and self.screen_stack:  # none while the app is being left
            self.screen_stack[0].post_message(RunMoved())

    def take_events(self) -> None:
        """Bring the live run up to what its thread has yielded."""
        live, events = self.live, self.session.events
        if live is None or not events:
            return
        was_over = live.ended is not None
        while events:
            live.add(events.popleft())
        if live.ended is not None and not was_over:
            self._run_over(1 if live.ended.status in ("failed", "diverged") else 0)
        elif self.current_mode != "train":
            self.show_status()

    @on(RunRefused)
    def _run_refused(self, message: RunRefused) -> None:
        self.take_events()
        assert self.live is not None
        self.live.refuse(message.error)
        self.tell(message.error, "error")
        self._run_over(2)

    def _run_over(self, return_code: int) -> None:
        self.forecasts.clear()  # the room is another now
        self.show_status()
        self._read_records()
        self._worst = max(self._worst, return_code)
        if self.leaving.begun:
            self.exit(return_code=0)
        else:
            self.queue.go_on()

    def queue_is_empty(self) -> None:
        """Nothing waits any more."""
        if self._exit_when_done:
            self.exit(return_code=max(self._worst, self.queue.worst))

    def show_status(self) -> None:
        """What the live run is at, in the bar of the screen on top."""
        live = self.live
        text = live.state if live else ""
        if live and live.doing == "training" and not live.over:
            text = f"epoch {live.epoch}/{live.spec.epochs}{' paused' if live.paused else ''}"
        if self.queue.waiting:
            text += f"{' · ' if text else ''}{self.queue.words}"
        if self.screen_stack:  # none while the app is being left
            for bar in self.screen.query(ModeBar):
                bar.show_live(text)

    @on(GaugesRead)
    def _keep_gauges(self, message: GaugesRead) -> None:
        self.gauges = message

    @on(GaugesRead)
    @on(MemoryFreed)
    def _pass_on(self, message: GaugesRead | MemoryFreed) -> None:
        if isinstance(message, MemoryFreed):
            self.forecasts.clear()
        with suppress(KeyError):  # Train was not opened yet
            for screen in self.get_screen_stack("train")[:1]:
                screen.post_message(message)

    @on(TorchLoaded)
    def _torch_loaded(self, message: TorchLoaded) -> None:
        self.torch_loaded = message.error is None
        if message.error is not None:
            self.tell(message.error, "error")
        self._show_records()

    def delay_update(self, delay: float = 0.001) -> None:
        """Textual holds all drawing for 50 ms at each change of mode; this app's screens stand at once."""
        super().delay_update(delay)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: reslab's own keys first, then Textual's commands, less its own list of keys."""
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.tooltip and active.enabled and not binding.action.startswith(("cycle", "tab(", "scroll")):
                yield SystemCommand(binding.description, binding.tooltip, partial(self._run_bound, active))
        yield from (command for command in super().get_system_commands(screen) if command.title not in ("Keys", "Quit"))

    def _run_bound(self, active: ActiveBinding) -> None:
        self.call_later(self.run_action, active.binding.action, active.node)

    def action_mode(self, mode: str) -> None:
        if self.screen.is_modal:
            return
        if mode == "compare" and not self.compared:
            self.compare(())
        elif mode == "results":
            self._to_list()
        else:
            self.switch_mode(mode)

    def open_run(self, run: int) -> None:
        from tui.screens.run import RunScreen

        self._to_list()
        self.push_screen(RunScreen(run))

    def _to_list(self) -> None:
        """Results, with no run opened over it."""
        self.switch_mode("results")
        while len(self.screen_stack) > 1:
            self.pop_screen()

    def compare(self, runs: Sequence[int]) -> None:
        """Compare these runs, or say how to choose some."""
        if len(runs) < 2:
            self.tell("mark two or more runs in Results with space, then press c")
            return
        self.compared = tuple(runs)
        self.switch_mode("compare")

    def action_queue(self) -> None:
        from tui.screens.queue import QueueScreen

        if not self.screen.is_modal:
            self.push_screen(QueueScreen())

    def action_keys(self) -> None:
        from tui.screens.dialogs import Keys

        self.push_screen(Keys(self.screen))

    async def action_quit(self) -> None:
        if self.live is None or self.live.over:
            self.exit()
        elif not self.screen.is_modal:
            self.run_worker(self.leaving.ask(), group="leave")

    @on(TerminalLost)
    def _terminal_lost(self) -> None:
        self.leaving.terminal_lost()

    def tell(self, text: str, severity: Literal["information", "warning", "error"] = "information") -> None:
        """A passing note; `text` may come from anywhere."""
        self.notify(safe_text(text), severity=severity, markup=False, timeout=8)

    def _handle_exception(self, error: Exception) -> None:
        """A defect of the app's own: the full report to the log, one sentence to the person."""
        written = write_report(self.places.log, error, "the app broke off")
        if self.is_headless:
            super()._handle_exception(error)
            return
        where = f"; the full report is in {self.places.log}" if written else ""
        self.exit(return_code=1, message=f"reslab broke off: {type(error).__name__}{where}")
