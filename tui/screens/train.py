"""Train: the live run's curves and figures, the memory, and what to do after the run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.reactive import reactive, var
from textual.widgets import Button, Static

from engine.analysis.tables import duration
from engine.catalog.models import short_model
from engine.memory.freeing import Freed
from engine.text import memory_size
from tui.commands import Commands
from tui.live import LiveRun
from tui.pace import Pace
from tui.screens.base import LabScreen, follow
from tui.series import Series
from tui.state import AppState
from tui.text import clock, plain_content
from tui.widgets.bars import Bar, Title
from tui.widgets.chart import Chart, Line, align
from tui.widgets.figures import FiguresTable
from tui.widgets.gradients import GradientBars
from tui.widgets.key_bar import KeyBar
from tui.widgets.memory import MemoryStrip
from tui.widgets.mode_bar import ModeBar

if TYPE_CHECKING:
    from tui.messages import GaugesRead

TRAIN_COLOUR, TEST_COLOUR, VAL_COLOUR, TWIN_COLOUR = "#56B4E9", "#E69F00", "#009E73", "#CC79A7"  # Okabe and Ito


class TrainScreen(LabScreen[None]):
    """Redraws the live run at a pace that hardly slows training, and only what has changed.

    Keys, evaluations and the end of the run are drawn at once.
    """

    AUTO_FOCUS = ""
    drawn_state: var[tuple[object, ...]] = var((), init=False)
    """Everything that the drawing depends on."""
    key_state: reactive[tuple[object, ...]] = reactive((), repaint=False, bindings=True, init=False)
    """Everything that the enabled keys depend on."""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Pause/resume", tooltip="pause or resume the run"),
        Binding("s", "stop", "Stop", tooltip="stop the run; its figures and weights are kept"),
        Binding("f", "free", "Free memory", tooltip="unload what no live run needs; empty torch's cache"),
        Binding("F", "choose_free", "Choose", show=False, tooltip="choose what to free"),
        Binding("g", "gradients", "Gradients", tooltip="switch between memory and gradients by depth"),
        Binding("pagedown", "scroll_memory(1)", "Down", show=False, tooltip="scroll the memory of many GPUs"),
        Binding("pageup", "scroll_memory(-1)", "Up", show=False, tooltip="scroll the memory back"),
        Binding("enter", "open_run", "Open the run", tooltip="open the finished run's results", priority=True),
    ]

    def compose(self) -> ComposeResult:
        yield ModeBar("train")
        yield Title("title")
        with Horizontal(id="live"):
            with Vertical(id="charts"):
                yield Chart("loss", id="loss")
                yield Chart("accuracy", (0.0, 1.0), lambda value: f"{100 * value:.0f} %", id="accuracy")
            with VerticalScroll(id="memory", classes="pane", can_focus=False):
                yield GradientBars(id="gradients")
                yield MemoryStrip(id="strip")
                yield Button("Free memory  f", id="free", compact=True)
                yield Static(id="freed", markup=False)
        yield Bar("epoch-bar")
        yield Bar("run-bar")
        yield FiguresTable("figures")
        yield KeyBar()

    def __init__(self, state: AppState, commands: Commands) -> None:
        super().__init__(state, commands)
        self._pace = Pace()

    def on_mount(self) -> None:
        align(*self.query(Chart))
        self.query_one("#memory").border_title = "Memory"
        follow(self, self.state.run_changed, lambda live: self.redraw())
        self.state.gauges.subscribe(self, self._add_gauges)
        self.state.freed.subscribe(self, self._show_freed)
        self._redraw_regularly()

    def _redraw_regularly(self) -> None:
        self.redraw()
        live = self.live
        running = live is not None and not live.over
        self.set_timer(self._pace.wait_s(running and live is not None and live.on_cpu), self._redraw_regularly)

    def on_screen_resume(self) -> None:
        self.redraw()

    def on_resize(self) -> None:
        self.set_reactive(TrainScreen.drawn_state, ())  # forces the next redraw

    def on_key(self) -> None:
        self.redraw()

    @property
    def live(self) -> LiveRun | None:
        return self.state.live.value

    def redraw(self) -> None:
        """Draw the live run if anything has changed and the screen is current."""
        if not self.is_current:
            return
        self.commands.take_events()
        live = self.live
        moved = (live.version, live.stopping, live.pausing) if live else ()
        others = (id(self.state.gauges.value), self.size, self.state.queue.value.summary, self.has_class("gradients"))
        self.drawn_state = (id(live), *moved, *others)

    def watch_drawn_state(self) -> None:
        began = time.thread_time()
        self._draw()
        self.call_after_refresh(lambda: self._pace.add_cost(time.thread_time() - began))

    def _draw(self) -> None:
        live = self.live
        self.key_state = (live, live and (live.over, live.stopping, live.ended))
        self.state.update_status()
        self.query_one("#title", Title).text = _title(live, self.state.queue.value.hint)
        if (gauges := self.state.gauges.value) is not None:
            self.query_one(MemoryStrip).show(gauges.reading, gauges.holdings, gauges.nodes)
        if live is None:
            return
        self._draw_charts(live)
        self._draw_bars(live)
        if self.has_class("gradients"):
            self._draw_gradients(live)
        self.query_one(FiguresTable).figures = (live.untrained, live.latest, live.latest_name)

    def _draw_charts(self, live: LiveRun) -> None:
        x_max = max(live.num_steps, 1)
        ticks = epoch_ticks(live.spec.epochs, live.steps_per_epoch)
        for name in ("loss", "accuracy"):
            train, test, val = (getattr(live, f"{split}_{name}") for split in ("train", "test", "val"))
            lines = [Line("train", TRAIN_COLOUR, train.x, train.y), Line("test", TEST_COLOUR, test.x, test.y, "●")]
            if len(val):
                lines.insert(1, Line("val", VAL_COLOUR, val.x, val.y, "◆"))
            if live.twin is not None:
                before: Series = getattr(live.twin, f"train_{name}")
                lines.append(Line(live.twin.spec.model, TWIN_COLOUR, before.x, before.y))
            self.query_one(f"#{name}", Chart).draw(lines, x_max, ticks)

    def _draw_bars(self, live: LiveRun) -> None:
        epoch_bar, run_bar = self.query_one("#epoch-bar", Bar), self.query_one("#run-bar", Bar)
        if live.over:
            epoch_bar.show_text(_ending(live))
            run_bar.show_text(self.state.queue.value.hint or "enter: results · 1: set up another run · 3: all runs")
            return
        speed = f"{live.images_per_s:,.0f} img/s" if live.images_per_s else ""
        if live.paused:
            epoch_bar.show("paused · p resumes", live.epoch_share, "")
        elif live.activity == "training":
            figures = f"{clock(live.epoch_left_s)} left  {speed}"
            epoch_bar.show(f"epoch {live.epoch}/{live.spec.epochs}", live.epoch_share, figures)
        else:
            epoch_bar.show(f"{live.activity} …", live.activity_share, speed)
        left = "" if live.paused else f"{clock(live.run_left_s)} left"
        run_bar.show(f"run   step {live.step:,}/{live.num_steps:,}", live.run_share, left)

    def _add_gauges(self, gauges: GaugesRead | None) -> None:
        """Add the gauges to the history; while a run is live, they are drawn with the rest."""
        if gauges is not None:
            self.query_one(MemoryStrip).add_reading(gauges.reading, gauges.nodes)
        if self.is_current and not self.state.is_running:
            self.redraw()

    def _show_freed(self, freed: Freed) -> None:
        self.query_one("#freed", Static).update(plain_content(freed_text(freed)))

    @on(Button.Pressed, "#free")
    def _free_pressed(self) -> None:
        self.action_free()
        self.set_focus(None)

    def action_free(self) -> None:
        self.query_one("#freed", Static).update(plain_content("freeing …"))
        self.commands.free_memory()

    @work
    async def action_choose_free(self) -> None:
        from tui.screens.dialogs import FreeQuestion

        numbers = await self.app.push_screen_wait(FreeQuestion(self.state.ledger.holdings()))
        if numbers is not None:
            self.query_one("#freed", Static).update(plain_content("freeing …"))
            self.commands.free_memory(numbers)

    def _draw_gradients(self, live: LiveRun) -> None:
        twin = live.twin
        self.query_one(GradientBars).show(
            short_model(live.spec.model),
            live.gradients,
            twin.spec.model if twin else "",
            twin.gradients if twin else None,
        )

    def action_scroll_memory(self, by: int) -> None:
        memory = self.query_one("#memory", VerticalScroll)
        memory.scroll_relative(y=by * memory.size.height // 2, animate=False)

    def action_gradients(self) -> None:
        self.toggle_class("gradients")
        self.query_one("#memory").border_title = "Gradients" if self.has_class("gradients") else "Memory"
        self.redraw()

    def action_pause(self) -> None:
        self.commands.toggle_pause()
        self.redraw()

    @work
    async def action_stop(self) -> None:
        live = self.live
        stop = await self.commands.ask("Stop this run? Its figures and weights are kept.")
        if stop and live is self.live:  # otherwise another run has started meanwhile
            self.commands.stop_run()

    def action_open_run(self) -> None:
        if self.live is not None and self.live.run is not None:
            self.commands.open_run(self.live.run)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Disable the keys that do nothing now."""
        over = self.live is None or self.live.over
        if action in ("pause", "stop"):
            return None if over or (self.live and self.live.stopping) else True
        if action == "open_run":
            return bool(self.live and self.live.ended) or None
        return True


def _title(live: LiveRun | None, on_hold: str) -> str:
    if live is None:
        return f"no run yet · 1: set one up{' · ' if on_hold else ''}{on_hold}"
    number = f"run {live.run}: " if live.run is not None else ""
    why = live.refused or (live.ended.error or "; ".join(live.ended.remarks) if live.ended else None)
    title = f"{number}{short_model(live.spec.model)} on {live.spec.dataset}, {live.state}"
    if live.note is not None:
        title += f" · {live.note}"
    if live.recovered is not None:
        title += f" · memory ran out: {live.recovered.action}"
    return f"{title}: {why}" if why else title


def epoch_ticks(epochs: int, steps_per_epoch: int) -> dict[float, str]:
    """Ticks of the x axis: at most eleven epochs, evenly spaced."""
    apart = max(-(-epochs // 10), 1)
    return {float(epoch * steps_per_epoch): str(epoch) for epoch in range(0, epochs + 1, apart)}


def _ending(live: LiveRun) -> str:
    if live.ended is None:
        return "nothing was trained"
    speed = f", {live.ended.train_images_per_s:,.0f} img/s" if live.ended.train_images_per_s else ""
    return f"{live.ended.status} after {duration(live.ended.elapsed_s)}{speed}"


def freed_text(freed: Freed) -> str:
    """What was unloaded, what each measurement says was freed, and what could not be unloaded."""
    dropped = ", ".join(holding.label for holding in freed.dropped) or "nothing idle"
    measured = [f"host {memory_size(freed.host_bytes)}"]
    if freed.allocator_bytes is not None:
        measured.append(f"torch {memory_size(freed.allocator_bytes)}")
    if freed.driver_bytes is not None:
        measured.append(f"NVML {memory_size(freed.driver_bytes)}")
    return "; ".join([f"unloaded {dropped}; freed: {', '.join(measured)}", *freed.kept])
