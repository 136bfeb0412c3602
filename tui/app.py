"""The app: modes, keys, theme. Wires state, session and screens together. Loads torch only after the first paint."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from textual import on, work
from textual.app import App, SystemCommand
from textual.binding import ActiveBinding, Binding, BindingType
from textual.driver import Driver
from textual.events import Event, Key, Paste
from textual.screen import Screen

from engine.errors import SpecError
from engine.launch.backend import Job
from engine.launch.in_process import InProcess
from engine.log import write_report
from engine.paths import Folders
from engine.spec import RunSpec
from engine.text import safe_text
from tui.commands import Severity
from tui.leaving import Leaving
from tui.messages import (
    EventsArrived,
    GaugesRead,
    MemoryFreed,
    QueueCarried,
    RunCarried,
    RunRefused,
    TerminalLost,
    TorchLoaded,
)
from tui.modes import THEME, modes, setup_screen
from tui.queue import Queue
from tui.session import BackendOf, Session
from tui.state import AppState, Settings
from tui.typed import Typed
from tui.watching import Watcher

if TYPE_CHECKING:
    from engine.launch.ray import Cluster
    from engine.launch.scheduler import Turn
    from engine.records import RunSummary
    from tui.listing import Listing
    from tui.live import LiveRun

T = TypeVar("T")


class ReslabApp(App[None]):
    """The first of `specs` is started at once, the others wait; with `exit_when_done` it leaves when all have ended."""

    TITLE = "reslab"
    DEFAULT_MODE = "setup"
    CSS_PATH = "styles/reslab.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (64, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (18, "-high")]  # noqa: RUF012
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
        folders: Folders,
        specs: Sequence[RunSpec] = (),
        exit_when_done: bool = False,
        backend_of: BackendOf = InProcess,
        cluster: Cluster | None = None,
        attached: int | None = None,
    ) -> None:
        super().__init__()
        self.register_theme(THEME)
        self.set_reactive(App.theme, THEME.name)  # set on the running app, it has every style read anew
        self.stylesheet.set_variables(self.get_css_variables())
        self.animation_level = "none"  # each frame would be taken from the training, and sent through SSH
        self.session = Session(folders, self.post_message, backend_of, cluster)
        first = specs[0] if specs and not (self.session.side_by_side and len(specs) > 1) else None
        settings = Settings(folders, first, attached, exit_when_done, cluster)
        self.state = AppState(settings, self.session.ledger)
        self.queue = Queue(self, self.state, self.session, list(specs))
        self._watcher = Watcher(self, self.state, self.session)
        self.leaving = Leaving(self, self.state, self.session)
        self._typed = Typed(self)
        self._worst = 0
        self._reading = asyncio.Lock()

    @property
    def live(self) -> LiveRun | None:
        return self.state.live.value

    def get_driver_class(self) -> type[Driver]:
        """Textual's own driver does not survive a terminal that goes away."""
        from tui.terminal import driver_class

        return driver_class(super().get_driver_class())

    def get_default_screen(self) -> Screen[Any]:
        """Set up, so that the app begins with one screen and not with an empty one below it."""
        return setup_screen(self.state, self)

    def on_mount(self) -> None:
        for mode, make_screen in modes(self.state, self).items():
            self.add_mode(mode, make_screen)
        sys.setswitchinterval(0.001)  # beside a busy Python thread the loop lags 1.2 ms instead of 5.2
        self.set_interval(1.0, self._take_unseen_events)
        self.call_after_refresh(self._begin)

    def on_unmount(self) -> None:
        self.session.stop_all()

    def _begin(self) -> None:
        """After the first paint."""
        gc.enable()
        self.session.watch_memory()
        self._read_records()
        if self.state.settings.first_spec is not None:
            self.start_run(self.state.settings.first_spec)
        if self.state.settings.attached is not None:
            self.watch_run(self.state.settings.attached)
        else:
            self.session.load_torch()
        self.queue.open()
        self._typed.open()

    async def on_event(self, event: Event) -> None:
        """Keys go on one at a time."""
        if isinstance(event, (Key, Paste)) and not event.is_forwarded and not self._typed.take(event):
            return
        await super().on_event(event)

    @work
    async def _read_records(self) -> None:
        """Earlier runs, for the estimate and the list; without them there is none."""
        from engine.errors import StoreError

        try:
            settings, first = self.state.settings, self.state.listing.value is None
            await self.read_listing()
            if first and settings.first_spec is None and settings.attached is None:
                self._offer_to_resume()
        except StoreError as error:
            self.report(str(error), "warning")

    @work
    async def _offer_to_resume(self) -> None:
        """At the start: where the latest run was interrupted, it can be resumed."""
        from engine.records import CUT_OFF

        newest = next(iter(self.state.records), None)
        if newest is None or not newest.cut_off:
            return
        why = (newest.error or "").removeprefix(CUT_OFF)  # in the record these words stand for ever
        what = f"Run {newest.run}, {newest.model} on {newest.dataset}, was interrupted{why}."
        if await self.ask(f"{safe_text(what)} Resume it?"):
            self.resume_run(newest)

    def resume_run(self, record: RunSummary) -> None:
        """Go on with a run from its last checkpoint, or say why it cannot."""
        if record.status in ("completed", "running"):
            return self.report(f"run {record.run} is {record.status}: there is nothing to resume", "warning")
        try:
            self.start_run(RunSpec.from_stored(record.spec), resumed=record.run)
        except SpecError as error:  # of a dataset or a network that there is no more
            self.report(str(error), "error")

    async def read_listing(self) -> Listing:
        """The runs as they are now, read in another thread, for a locked file keeps one waiting; one reading at a time.

        Raises:
            StoreError: the record cannot be read.
        """
        from tui.listing import EMPTY, read_listing

        async with self._reading:
            known = self.state.listing.value or EMPTY
            listing = await asyncio.to_thread(read_listing, self.state.folders, known)
            self.state.listing.value = listing
        return listing

    def start_run(self, spec: RunSpec, show: bool = True, resumed: int | None = None) -> bool:
        """Start a run now, or go on with run `resumed`; `show` goes to its live screen. Or say why not, and False."""
        if not self.session.start(Job(spec, resumed)):
            self.report("a run is live: wait for it, or stop it with s on Train", "warning")
            return False
        self._show_live(spec, show, resumed)
        return True

    def start_turn(self, turn: Turn, show: bool) -> None:
        """Start the run whose turn it is in the queue; `show` goes to its live screen."""
        self.session.start_turn(turn)
        self._show_live(turn.entry.spec, show)

    def _show_live(self, spec: RunSpec, show: bool, resumed: int | None = None) -> None:
        from tui.live import LiveRun  # numpy: 0.17 s that the first paint need not wait for

        self.state.forecasts.clear()
        self.state.surveys.clear()
        self.state.live.value = LiveRun(spec, None if resumed else self.live)
        if show:
            self.switch_mode("train")

    @on(RunCarried)
    def _run_carried(self, message: RunCarried) -> None:
        self.queue.has_begun(message.run)
        self._watcher.has_begun(message.run)

    @on(QueueCarried)
    def _queue_carried(self, message: QueueCarried) -> None:
        if message.error is not None:
            self.report(message.error, "error")
        self.queue.has_ended(well=message.error is None)

    def stop_run(self, reason: str | None = None) -> None:
        """Stop the live run after its step; `reason` where no person asked."""
        if self.live is not None and not self.live.over and self.session.control is not None:
            self.live.stopping = True
            self.session.control.stop(reason)

    def toggle_pause(self) -> None:
        """Pause the live run, or resume it."""
        live, control = self.live, self.session.control
        if live is not None and control is not None:
            live.pausing = not control.pause_requested
            control.pause() if live.pausing else control.resume()

    def _take_unseen_events(self) -> None:
        """Train takes them itself, at its own pace."""
        if self.current_mode != "train":
            self.take_events()

    @on(EventsArrived)
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
        elif self.current_mode != "train":  # which shows it with the rest
            self.state.update_status()
        self.state.run_changed.publish(live)

    @on(RunRefused)
    def _run_refused(self, message: RunRefused) -> None:
        self.take_events()
        assert self.live is not None
        self.live.refuse(message.error)
        self.report(message.error, "error")
        self._run_over(2)
        self.state.run_changed.publish(self.live)

    def _run_over(self, return_code: int) -> None:
        self.state.forecasts.clear()  # the headroom has changed
        self.state.update_status()
        self._read_records()
        self._worst = max(self._worst, return_code)
        if self.leaving.begun:
            self.exit(return_code=0)
        else:
            self.queue.go_on()

    def queue_is_empty(self) -> None:
        """Nothing waits any more."""
        if self.state.settings.exit_when_done:
            self.exit(return_code=max(self._worst, self.queue.worst))

    @on(GaugesRead)
    def _gauges_read(self, message: GaugesRead) -> None:
        self.state.gauges.value = message

    @on(MemoryFreed)
    def _memory_freed(self, message: MemoryFreed) -> None:
        self.state.forecasts.clear()
        self.state.freed.publish(message.freed)

    @on(TorchLoaded)
    def _torch_loaded(self, message: TorchLoaded) -> None:
        self.state.torch_loaded.value = message.error is None
        if message.error is not None:
            self.report(message.error, "error")

    def free_memory(self, numbers: frozenset[int] | None = None) -> None:
        self.session.free_memory(numbers)

    async def run_in_thread(self, work: Callable[[], T]) -> T:
        return await self.session.aside(work)

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call in the thread of the event loop; any thread may ask."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed: the app is being left
                self._loop.call_soon_threadsafe(callback, *arguments)

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
        if mode == "compare" and not self.state.compared.value:
            self.compare(())
        elif mode == "results":
            self._to_list()
        else:
            self.switch_mode(mode)

    def watch_run(self, run: int) -> None:
        self._watcher.watch(run)

    def open_run(self, run: int) -> None:
        from tui.screens.run import RunScreen

        self._to_list()
        self.push_screen(RunScreen(self.state, self, run))

    def _to_list(self) -> None:
        """Results, with no run opened over it."""
        self.switch_mode("results")
        while len(self.screen_stack) > 1:
            self.pop_screen()

    def compare(self, runs: Sequence[int]) -> None:
        """Compare these runs, or say how to choose some."""
        if len(runs) < 2:
            self.report("mark two or more runs in Results with space, then press c")
            return
        self.state.compared.value = tuple(runs)
        self.switch_mode("compare")

    def action_queue(self) -> None:
        from tui.screens.queue import QueueScreen

        if not self.screen.is_modal:
            self.push_screen(QueueScreen(self.state, self))

    def action_keys(self) -> None:
        from tui.screens.dialogs import Keys

        self.push_screen(Keys(self.screen))

    async def action_quit(self) -> None:
        if not self.state.is_running:
            self.exit()
        elif not self.screen.is_modal:
            self.run_worker(self.leaving.ask(), group="leave")

    @on(TerminalLost)
    def _terminal_lost(self) -> None:
        self.leaving.terminal_lost()

    async def ask(self, question: str) -> bool:
        from tui.screens.dialogs import Question

        return await self.push_screen_wait(Question(question))

    def report(self, text: str, severity: Severity = "information") -> None:
        """A passing note; `text` may come from anywhere."""
        self.notify(safe_text(text), severity=severity, markup=False, timeout=8)

    def _handle_exception(self, error: Exception) -> None:
        """A defect of the app's own: the full report to the log, one sentence to the person."""
        written = write_report(self.state.folders.log, error, "the app broke off")
        if self.is_headless:
            super()._handle_exception(error)
            return
        where = f"; the full report is in {self.state.folders.log}" if written else ""
        self.exit(return_code=1, message=f"reslab broke off: {type(error).__name__}{where}")
