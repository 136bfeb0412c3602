"""The app: modes, keys and theme. Wires state, session and screens; loads torch only after the first paint."""

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

from engine.catalog.models import short_model
from engine.errors import SpecError
from engine.launch.backend import Job
from engine.launch.in_process import InProcess
from engine.log import write_report
from engine.paths import Folders
from engine.spec import RunSpec
from engine.text import safe_text
from tui.commands import Severity
from tui.key_queue import KeyQueue
from tui.messages import (
    EventsArrived,
    GaugesRead,
    MemoryFreed,
    QueueProcessEnded,
    QueueRunStarted,
    RunRefused,
    TerminalLost,
    TorchLoaded,
)
from tui.modes import THEME, modes, setup_screen
from tui.queue import Queue
from tui.session import BackendOf, Session
from tui.shutdown import Shutdown
from tui.state import AppState, Settings
from tui.watching import Watcher

if TYPE_CHECKING:
    from engine.launch.ray import Cluster
    from engine.launch.scheduler import Turn
    from engine.records import RunSummary
    from tui.listing import Listing
    from tui.live import LiveRun

T = TypeVar("T")


class ReslabApp(App[None]):
    """Starts the first of `specs` at once and queues the others; with `exit_when_done` it exits when all have ended."""

    TITLE = "reslab"
    DEFAULT_MODE = "setup"
    CSS_PATH = "styles/reslab.tcss"
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (64, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-low"), (18, "-high")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "mode('setup')", "Set up", show=False, tooltip="pick what to train"),
        Binding("2", "mode('train')", "Train", show=False, tooltip="watch the live run"),
        Binding("3", "mode('results')", "Results", show=False, tooltip="all runs"),
        Binding("4", "mode('compare')", "Compare", show=False, tooltip="runs side by side, and the verdict"),
        Binding("u", "queue", "Queue", show=False, tooltip="the runs in the queue"),
        Binding("question_mark", "keys", "Keys", key_display="?", tooltip="this list of keys"),
        Binding("q,ctrl+q,ctrl+c", "quit", "Quit", tooltip="quit; asks first while a run is live", key_display="q"),
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
        self.set_reactive(App.theme, THEME.name)  # setting it on a running app reloads every style
        self.stylesheet.set_variables(self.get_css_variables())
        self.animation_level = "none"  # every frame costs training time and SSH traffic
        self.session = Session(folders, self.post_message, backend_of, cluster)
        first = specs[0] if specs and not (self.session.side_by_side and len(specs) > 1) else None
        settings = Settings(folders, first, attached, exit_when_done, cluster)
        self.state = AppState(settings, self.session.ledger)
        self.queue = Queue(self, self.state, self.session, list(specs))
        self._watcher = Watcher(self, self.state, self.session)
        self.shutdown = Shutdown(self, self.state, self.session)
        self._key_queue = KeyQueue(self)
        self._exit_code = 0
        self._listing_lock = asyncio.Lock()

    @property
    def live(self) -> LiveRun | None:
        return self.state.live.value

    def get_driver_class(self) -> type[Driver]:
        """Textual's own driver does not survive losing the terminal."""
        from tui.terminal import driver_class

        return driver_class(super().get_driver_class())

    def get_default_screen(self) -> Screen[Any]:
        """Set up, instead of Textual's empty default screen below it."""
        return setup_screen(self.state, self)

    def on_mount(self) -> None:
        for mode, make_screen in modes(self.state, self).items():
            self.add_mode(mode, make_screen)
        sys.setswitchinterval(0.001)  # next to a busy Python thread the event loop lags 1.2 ms, not 5.2 ms
        self.set_interval(1.0, self._take_unseen_events)
        self.call_after_refresh(self._after_first_paint)

    def on_unmount(self) -> None:
        self.session.stop_all()

    def _after_first_paint(self) -> None:
        """After the first paint."""
        gc.set_threshold(
            20_000, 20, 20
        )  # a full collection looks through all of torch: not in the middle of a key press
        gc.enable()
        self.session.watch_memory()
        self._read_runs()
        if self.state.settings.first_spec is not None:
            self.start_run(self.state.settings.first_spec)
        if self.state.settings.attached is not None:
            self.watch_run(self.state.settings.attached)
        else:
            self.session.load_torch()
        self.queue.open()
        self._key_queue.open()

    async def on_event(self, event: Event) -> None:
        """Handle keys one at a time."""
        if isinstance(event, (Key, Paste)) and not event.is_forwarded and not self._key_queue.take(event):
            return
        await super().on_event(event)

    @work
    async def _read_runs(self) -> None:
        """Read earlier runs, which the list and the duration estimate need."""
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
        """At startup: offer to resume the latest run if it was interrupted."""
        from engine.records import CUT_OFF

        newest = next(iter(self.state.summaries), None)
        if newest is None or not newest.cut_off:
            return
        why = (newest.error or "").removeprefix(CUT_OFF)  # stored runs keep this prefix
        what = f"Run {newest.run}, {short_model(newest.model)} on {newest.dataset}, was interrupted{why}."
        if await self.ask(f"{safe_text(what)} Resume it?"):
            self.resume_run(newest)

    def resume_run(self, summary: RunSummary) -> None:
        """Resume a run from its last checkpoint, or report why it cannot be resumed."""
        if summary.status in ("completed", "running"):
            return self.report(f"run {summary.run} is {summary.status}: nothing to resume", "warning")
        try:
            self.start_run(RunSpec.from_stored(summary.spec), resumed=summary.run)
        except SpecError as error:  # its dataset or network no longer exists
            self.report(str(error), "error")

    async def read_listing(self) -> Listing:
        """Read the runs in a thread, because a locked database blocks; one read at a time.

        Raises:
            StoreError: the database cannot be read.
        """
        from tui.listing import EMPTY, read_listing

        async with self._listing_lock:
            known = self.state.listing.value or EMPTY
            listing = await asyncio.to_thread(read_listing, self.state.folders, known)
            self.state.listing.value = listing
        return listing

    def start_run(self, spec: RunSpec, show: bool = True, resumed: int | None = None) -> bool:
        """Start a run, or resume run `resumed`; report and return False if another is live. `show` opens Train."""
        if not self.session.start(Job(spec, resumed)):
            self.report("a run is live: wait for it, or stop it with s on Train", "warning")
            return False
        self._show_live(spec, show, resumed)
        return True

    def start_turn(self, turn: Turn, show: bool) -> None:
        """Start the queue's next run; `show` switches to Train."""
        self.session.start_turn(turn)
        self._show_live(turn.entry.spec, show)

    def _show_live(self, spec: RunSpec, show: bool, resumed: int | None = None) -> None:
        from tui.live import LiveRun  # numpy: keeps 0.17 s out of the first paint

        self.state.forecasts.clear()
        self.state.surveys.clear()
        self.state.live.value = LiveRun(spec, None if resumed else self.live)
        if show:
            self.switch_mode("train")

    @on(QueueRunStarted)
    def _queue_run_started(self, message: QueueRunStarted) -> None:
        self.queue.run_started(message.run)
        self._watcher.queue_run_started(message.run)

    @on(QueueProcessEnded)
    def _queue_process_ended(self, message: QueueProcessEnded) -> None:
        if message.error is not None:
            self.report(message.error, "error")
        self.queue.process_ended(succeeded=message.error is None)

    def stop_run(self, reason: str | None = None) -> None:
        """Stop the live run after its current step. Give `reason` if no user asked for it."""
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
        """Take events in all modes but Train, which takes them at its own pace."""
        if self.current_mode != "train":
            self.take_events()

    @on(EventsArrived)
    def take_events(self) -> None:
        """Apply all events that the run's thread has yielded to the live run."""
        live, events = self.live, self.session.events
        if live is None or not events:
            return
        was_over = live.ended is not None
        while events:
            live.add(events.popleft())
        if live.ended is not None and not was_over:
            self._run_ended(1 if live.ended.status in ("failed", "diverged") else 0)
        elif self.current_mode != "train":  # Train updates it when it draws
            self.state.update_status()
        self.state.run_changed.publish(live)

    @on(RunRefused)
    def _run_refused(self, message: RunRefused) -> None:
        self.take_events()
        assert self.live is not None
        self.live.refuse(message.error)
        self.report(message.error, "error")
        self._run_ended(2)
        self.state.run_changed.publish(self.live)

    def _run_ended(self, return_code: int) -> None:
        self.state.forecasts.clear()  # free memory has changed
        self.state.update_status()
        self._read_runs()
        self._exit_code = max(self._exit_code, return_code)
        if self.shutdown.in_progress:
            self.exit(return_code=0)
        else:
            self.queue.run_ended()

    def queue_is_empty(self) -> None:
        """The queue is empty."""
        if self.state.settings.exit_when_done:
            self.exit(return_code=max(self._exit_code, self.queue.exit_code))

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
        return await self.session.run_in_thread(work)

    def call_soon(self, callback: Callable[..., object], *arguments: object) -> None:
        """Call `callback` in the event loop's thread. Safe from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the app is exiting
                self._loop.call_soon_threadsafe(callback, *arguments)

    def delay_update(self, delay: float = 0.001) -> None:
        """Wait 1 ms before drawing a new mode, not 50 ms as Textual does: screens are complete at once."""
        super().delay_update(delay)

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """The palette: reslab's own keys first, then Textual's commands without its key list."""
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.tooltip and active.enabled and not binding.action.startswith(("cycle", "tab(", "scroll")):
                yield SystemCommand(binding.description, binding.tooltip, partial(self._run_binding, active))
        yield from (command for command in super().get_system_commands(screen) if command.title not in ("Keys", "Quit"))

    def _run_binding(self, active: ActiveBinding) -> None:
        self.call_later(self.run_action, active.binding.action, active.node)

    def action_mode(self, mode: str) -> None:
        if self.screen.is_modal:
            return
        if mode == "compare" and not self.state.compared.value:
            self.compare(())
        elif mode == "results":
            self._show_results()
        else:
            self.switch_mode(mode)

    def watch_run(self, run: int) -> None:
        self._watcher.watch(run)

    def open_run(self, run: int) -> None:
        from tui.screens.run import RunScreen

        self._show_results()
        self.push_screen(RunScreen(self.state, self, run))

    def _show_results(self) -> None:
        """Show Results without an open run."""
        self.switch_mode("results")
        while len(self.screen_stack) > 1:
            self.pop_screen()

    def compare(self, runs: Sequence[int]) -> None:
        """Compare these runs, or report how to choose some."""
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
            self.run_worker(self.shutdown.confirm(), group="leave")

    @on(TerminalLost)
    def _terminal_lost(self) -> None:
        self.shutdown.terminal_lost()

    async def ask(self, question: str) -> bool:
        from tui.screens.dialogs import Question

        return await self.push_screen_wait(Question(question))

    def report(self, text: str, severity: Severity = "information") -> None:
        """Show a notification; `text` may come from outside."""
        self.notify(safe_text(text), severity=severity, markup=False, timeout=8)

    def _handle_exception(self, error: Exception) -> None:
        """On a bug in the app: write the full report to the log and show one sentence."""
        written = write_report(self.state.folders.log, error, "the app crashed")
        if self.is_headless:
            super()._handle_exception(error)
            return
        where = f"; the full report is in {self.state.folders.log}" if written else ""
        self.exit(return_code=1, message=f"reslab crashed: {type(error).__name__}{where}")
