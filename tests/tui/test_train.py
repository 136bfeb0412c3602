"""Train: stop, pause, quit in the middle, a failing run, a resize; and what is said of each."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from textual.app import App, ComposeResult

from engine.analysis.tables import _loss
from engine.errors import DatasetError
from engine.events import Evaluated, GradientsMeasured, MemoryRecovered, RunEnded
from engine.memory.allocator import AllocatorReading
from engine.memory.gauges import MemoryReading
from engine.memory.ledger import Holding, HoldingPart
from engine.paths import Folders
from engine.spec import RunSpec
from tests.fakes import GPU_READING, HOST_READING, ScriptedRun, events_of, metrics
from tests.tui.conftest import MakeApp, drawn, text_of, until
from tests.waiting import WITHIN_S, join
from tui.app import ReslabApp
from tui.session import Session
from tui.widgets.chart import Chart, Line
from tui.widgets.gradients import GradientBars
from tui.widgets.memory import MemoryStrip


def hold() -> ScriptedRun:
    """A run that stands still in its second epoch."""
    return ScriptedRun(hold_at=7)


async def start(pilot: object, app: ReslabApp) -> None:
    await pilot.press("enter", "enter")  # type: ignore[attr-defined]
    await until(pilot, lambda: app.live and app.live.version == 7)  # type: ignore[arg-type]
    await drawn(pilot)  # type: ignore[arg-type]


async def test_stop_asks_and_keeps_the_figures(make_app: MakeApp) -> None:
    app = make_app(hold())
    async with app.run_test() as pilot:
        await start(pilot, app)
        await pilot.press("s")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.pause()
        assert "Stop this run?" in text_of(app)
        await pilot.press("n")
        await until(pilot, lambda: not app.screen.is_modal)
        assert app.live
        assert not app.live.stopping
        await pilot.press("s")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press("y")
        await until(pilot, lambda: app.live and app.live.over)
        await drawn(pilot)
        assert app.live.ended
        assert app.live.ended.status == "stopped"
        assert "stopped after 3.0 s" in text_of(app)
        assert len(app.live.train_loss) == 18


async def test_pause_and_resume(make_app: MakeApp) -> None:
    script = hold()
    app = make_app(script)
    async with app.run_test() as pilot:
        await start(pilot, app)
        await pilot.press("p")
        assert app.live
        assert app.live.pausing
        await until(pilot, lambda: app.live and app.live.paused)
        await drawn(pilot)
        assert "run 1: resnet18 on digits, paused" in text_of(app)
        await pilot.press("p")
        await until(pilot, lambda: app.live and not app.live.paused)
        script.release.set()
        await until(pilot, lambda: app.live and app.live.over)
        assert app.live
        assert app.live.ended
        assert app.live.ended.status == "completed"


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+q"])
async def test_quit_in_the_middle_asks_then_stops_then_leaves(key: str, make_app: MakeApp) -> None:
    app = make_app(hold())
    async with app.run_test() as pilot:
        await start(pilot, app)
        await pilot.press(key)
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.pause()
        assert "Stop it and quit?" in text_of(app)
        await pilot.press("escape")
        await pilot.pause()
        assert app.is_running
        assert app.session.live
        await pilot.press("q")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press("y")
        await until(pilot, lambda: not app.is_running)
    assert app.live
    assert app.live.ended
    assert app.live.ended.status == "stopped"
    assert app.return_code == 0


async def test_a_hang_up_stops_the_run_then_leaves(make_app: MakeApp) -> None:
    import os
    import signal

    app = make_app(hold())
    with app.shutdown.on_signals():
        async with app.run_test() as pilot:
            await start(pilot, app)
            os.kill(os.getpid(), signal.SIGHUP)
            await until(pilot, lambda: not app.is_running)
    assert app.live
    assert app.live.ended
    assert app.live.ended.status == "stopped"


async def test_what_a_run_says_while_the_app_is_left_does_no_harm(make_app: MakeApp) -> None:
    script = hold()
    app = make_app(script)
    async with app.run_test() as pilot:
        await start(pilot, app)
        app.exit()
        await until(pilot, lambda: not app.is_running)
    script.release.set()
    app.session.wait()
    assert not app.screen_stack
    assert app.session.events
    app.take_events()
    app.state.update_status()
    assert app.live
    assert app.live.over


def test_leaving_waits_for_nothing_that_is_made_aside(folders: Folders) -> None:
    """A forecast takes seconds, and the event loop's own threads would be waited for."""
    session, over = Session(folders, print), threading.Event()

    async def leave() -> None:
        task = asyncio.create_task(session.run_in_thread(lambda: over.wait(WITHIN_S)))
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(leave())
    assert session.busy
    over.set()
    for thread in session._task_threads:
        join(thread)
    assert not session.busy


async def test_what_is_made_aside_comes_back_or_fails_as_it_would(folders: Folders) -> None:
    session = Session(folders, print)
    assert await session.run_in_thread(lambda: 7) == 7
    with pytest.raises(DatasetError, match="no images"):
        await session.run_in_thread(lambda: (_ for _ in ()).throw(DatasetError("no images")))


async def test_a_question_about_one_run_does_not_stop_the_next(make_app: MakeApp) -> None:
    script = hold()
    app = make_app(script)
    async with app.run_test() as pilot:
        await start(pilot, app)
        await pilot.press("s")
        await until(pilot, lambda: app.screen.is_modal)
        first = app.live
        script.release.set()
        await until(pilot, lambda: first and first.over and not app.session.live)
        script.release.clear()
        assert app.start_run(RunSpec("digits", "resnet34"), show=False)
        await pilot.press("y")
        await until(pilot, lambda: not app.screen.is_modal)
        await drawn(pilot)
        assert app.live is not first
        assert app.live is not None
        assert not app.live.stopping
        script.release.set()


async def test_an_evaluation_that_is_not_finite_is_shown(make_app: MakeApp) -> None:
    """A network can blow up between its last step and the evaluation."""
    events = [
        replace(event, metrics=replace(event.metrics, loss=float(worst))) if isinstance(event, Evaluated) else event
        for worst, event in zip(
            itertools.cycle(("nan", "inf")), events_of(RunSpec("digits", "resnet18", epochs=3)), strict=False
        )
    ]
    app = make_app(ScriptedRun(events=events))
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("enter", "enter")
        await until(pilot, lambda: app.live and app.live.over)
        await drawn(pilot)
        assert "completed" in text_of(app)
        chart = app.screen.query(Chart).first()
        chart.draw([Line("test", "red", np.arange(3.0), np.array([1.0, float("nan"), float("inf")]), "●")], 3.0, {})
        gradients = app.screen.query_one(GradientBars)
        gradients.show("a", GradientsMeasured(1, 1, ("stem", "fc"), (1.0, float("inf")), (0.1, float("nan"))), "", None)
    assert _loss(metrics(0.5)) == "1.1500"
    assert _loss(replace(metrics(0.5), loss=float("nan"))) == _loss(None) == "–"


async def test_validation_figures_are_called_so(make_app: MakeApp) -> None:
    from dataclasses import replace

    from engine.events import Evaluated

    spec = RunSpec("digits", "resnet18", epochs=2)
    events = [
        replace(event, split="val") if isinstance(event, Evaluated) and event.moment == "epoch" else event
        for event in events_of(spec)
    ]
    script = ScriptedRun(hold_at=7, events=events)
    app = make_app(script)
    async with app.run_test() as pilot:
        await start(pilot, app)
        assert "now, on val" in text_of(app)
        script.release.set()
        await until(pilot, lambda: app.live and app.live.over)
        await drawn(pilot)
        assert "trained" in text_of(app).splitlines()[-2]
        assert "on val" not in text_of(app)


async def test_quit_without_a_run_does_not_ask(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test() as pilot:
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)


async def test_escape_never_quits(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test() as pilot:
        for key in ("1", "2", "3"):
            await pilot.press(key, "escape", "escape")
            assert app.is_running


async def test_a_failing_run_says_why(make_app: MakeApp) -> None:
    spec = RunSpec("digits", "resnet18")
    end = RunEnded(1, "failed", metrics(0.1), None, 2.0, None, 3, "RuntimeError: [red]boom[/]\x1b[2J; see reslab.log")
    app = make_app(ScriptedRun(events=[*events_of(spec)[:4], end]))
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("enter", "enter")
        await until(pilot, lambda: app.live and app.live.over)
        await drawn(pilot)
        assert "failed: RuntimeError: [red]boom[/]␛[2J; see reslab.log" in text_of(app)


async def test_a_refused_run_says_why_and_another_can_start(make_app: MakeApp) -> None:
    script = ScriptedRun(hold_at=0)
    script.error = DatasetError("no folder /pets; expected one folder a class")
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("enter", "enter")
        await until(pilot, lambda: app.live and app.live.over)
        await drawn(pilot)
        assert "no folder /pets" in text_of(app)
        script.hold_at = None
        await until(pilot, lambda: not app.session.live)
        await pilot.press("1", "enter")
        await until(pilot, lambda: app.live and app.live.ended)
        assert app.live
        assert app.live.ended
        assert app.live.ended.status == "completed"


async def test_an_unexpected_error_leaves_the_app_standing(make_app: MakeApp) -> None:
    script = ScriptedRun(hold_at=0)
    script.error = ZeroDivisionError("a defect")
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("enter", "enter")
        await until(pilot, lambda: app.live and app.live.refused)
        assert app.live
        assert str(app.state.folders.log) in str(app.live.refused)
        assert "a defect" in app.state.folders.log.read_text()


async def test_a_resize_during_a_run_loses_nothing(make_app: MakeApp) -> None:
    app = make_app(hold())
    async with app.run_test(size=(80, 24)) as pilot:
        await start(pilot, app)
        for size in ((200, 60), (80, 24), (40, 10), (120, 36)):
            await pilot.resize_terminal(*size)
            await drawn(pilot)
        for chart in app.screen.query(Chart):
            assert len(chart._strips) == chart.size.height
            assert all(strip.cell_length == chart.size.width for strip in chart._strips)
        assert "step 18/120" in text_of(app)


async def test_g_shows_gradients_by_depth_and_the_memory_again(make_app: MakeApp) -> None:
    stages = ("stem", "layer1", "fc")
    measured = GradientsMeasured(1, 5, stages, (1e-4, 1e-2, 1.0), (1e-5, 1e-3, 1e-2))
    events = events_of(RunSpec("digits", "resnet18"))
    app = make_app(ScriptedRun(hold_at=7, events=[*events[:3], measured, *events[3:]]))
    async with app.run_test(size=(100, 30)) as pilot:
        await start(pilot, app)
        await pilot.press("g")
        await drawn(pilot)
        lines = {
            line.split("│")[-2].split()[0]: line.count("█")
            for line in text_of(app).splitlines()
            if "e-0" in line or "e+" in line
        }
        assert lines["stem"] < lines["layer1"] < lines["fc"]
        await pilot.press("g")
        await drawn(pilot)
        assert "GPU 0" in text_of(app)


async def test_a_second_run_is_refused_while_one_is_live(make_app: MakeApp) -> None:
    script = hold()
    app = make_app(script)
    async with app.run_test() as pilot:
        await start(pilot, app)
        await pilot.press("1", "enter")
        await pilot.pause()
        assert len(script.specs) == 1
        assert app.current_mode == "setup"


async def test_the_live_run_is_told_of_in_every_mode(make_app: MakeApp) -> None:
    app = make_app(hold())
    async with app.run_test() as pilot:
        await start(pilot, app)
        for mode in ("1", "3", "2"):
            await pilot.press(mode)
            await drawn(pilot)
            assert "epoch 2/10" in text_of(app).splitlines()[0]


async def test_what_cannot_be_done_does_nothing(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test() as pilot:
        await pilot.press("2", "p", "s", "enter", "x", "f12", "space")
        await pilot.pause()
        assert app.current_mode == "train"
        assert not app.screen.is_modal


async def test_enter_opens_the_tables_of_the_ended_run(make_app: MakeApp) -> None:
    from engine.store.store import Store
    from tui.screens.run import RunScreen

    app = make_app()
    with Store(app.state.folders.database) as store:
        run = store.create_run(RunSpec("digits", "resnet18"))
        for event in events_of(RunSpec("digits", "resnet18"), run):
            store.record(event)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("enter", "enter")
        await until(pilot, lambda: app.live and app.live.over)
        await drawn(pilot)
        await pilot.press("enter")
        await drawn(pilot)
        assert isinstance(app.screen, RunScreen)
        assert "macro precision" in text_of(app)
        await pilot.press("escape")
        assert app.current_mode == "results"


async def test_free_memory_reports_what_came_free(make_app: MakeApp) -> None:
    import numpy as np

    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        big = np.ones(100 * 2**20 // 8)
        app.session.ledger.hold("x", big, Holding("dataset", "[red]big", 1, (("dataset", big.nbytes),), live=False))
        del big
        await pilot.press("2", "f")
        await until(pilot, lambda: "; freed: " in text_of(app))
        assert "[red]big" in text_of(app).replace("\n", "")
        assert app.session.ledger.holdings() == ()


@pytest.mark.parametrize("reading", [HOST_READING])
async def test_without_a_gpu_the_hosts_memory_is_shown_and_says_so(make_app: MakeApp, reading: MemoryReading) -> None:
    app = make_app()
    async with app.run_test() as pilot:
        await pilot.press("2")
        app.session.watch_memory()
        await drawn(pilot)
        assert "host memory" in text_of(app)
        assert "no NVIDIA GPU (no driver)" in text_of(app)
        assert "24.0 / 64.0 GiB" in text_of(app)


@pytest.mark.parametrize(("status", "code"), [("completed", 0), ("failed", 1)])
async def test_with_exit_the_app_leaves_when_the_run_ends(make_app: MakeApp, status: str, code: int) -> None:
    spec = RunSpec("digits", "resnet18", epochs=2)
    end = RunEnded(1, status, metrics(0.1), metrics(0.9), 2.0, 100.0, 24, None)  # type: ignore[arg-type]
    app = make_app(ScriptedRun(events=[*events_of(spec)[:-1], end]), specs=[spec], exit_when_done=True)
    async with app.run_test() as pilot:
        await until(pilot, lambda: not app.is_running)
    assert app.return_code == code


async def test_what_to_free_is_chosen_and_what_is_live_stays(make_app: MakeApp) -> None:
    app = make_app()
    ledger = app.session.ledger
    parts: tuple[tuple[HoldingPart, int], ...] = (("parameters", 40 * 2**20), ("gradients", 40 * 2**20))
    ledger.hold("a", object(), Holding("model", "resnet18", 1, parts[:1], live=False))
    ledger.hold("b", object(), Holding("model", "resnet34", 2, parts[:1], live=False))
    ledger.hold("c", object(), Holding("model", "resnet50", 3, parts, live=True))
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("2", "F")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press("space", "enter")  # the live one: neither marks nor frees
        await drawn(pilot)
        assert app.screen.is_modal
        assert "parameters 40.0 MiB · gradients 40.0 MiB" in text_of(app)
        await pilot.press("down", "enter")
        await until(pilot, lambda: "unloaded resnet34" in text_of(app))
    assert [item.label for item in ledger.holdings()] == ["resnet50", "resnet18"]


async def test_recovering_is_said_while_it_happens(make_app: MakeApp) -> None:
    spec = RunSpec("digits", "resnet18", epochs=2)
    recovered = MemoryRecovered(1, 7, "training in micro-batches of 64", 64, False, 0)
    events = [*events_of(spec)[:4], recovered, *events_of(spec)[4:]]
    app = make_app(ScriptedRun(events=events), specs=[spec])
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.live and app.live.over)
        await drawn(pilot)
        assert "memory ran out: training in micro-batches of 64" in text_of(app)


async def test_the_gauge_shows_its_history_and_torchs_own_figures() -> None:
    gpu = replace(
        GPU_READING.gpus[0], others=(("Xorg", 2**30),), throttled="too hot", notes=("MIG",),
        allocator=AllocatorReading(4 * 2**30, 5 * 2**30, 2**29),
    )  # fmt: skip
    app = StripApp()
    async with app.run_test(size=(60, 20)) as pilot:
        strip = app.query_one(MemoryStrip)
        for used in (6, 12, 24):
            strip.show(MemoryReading((replace(gpu, used_bytes=used * 2**30),), GPU_READING.host, None), ())
        await pilot.pause()
        shown = str(strip.content)
    assert "▃▅█" in shown
    assert "torch 4.0 of 5.0 reserved, 0.5 in one piece" in shown
    assert "the driver counts torch's reserved memory and context" in shown
    assert "1.0 GiB Xorg" in shown
    assert "throttled: too hot" in shown
    assert "MIG" in shown


class StripApp(App[None]):
    def compose(self) -> ComposeResult:
        yield MemoryStrip()


@pytest.mark.slow
def test_two_threads_that_want_torch_wait_for_each_other(tmp_path: Path) -> None:
    """In a process of its own: enter pressed twice before torch is loaded once refused the run."""
    program = """
import threading, sys
from engine.control import RunControl
from engine.memory.ledger import Ledger
from engine.paths import Folders
from engine.spec import RunSpec
from pathlib import Path
from engine.launch.backend import Job
from engine.launch.in_process import InProcess
from tui.session import Session
session = Session(Folders(*[Path(sys.argv[1])] * 3), print)
session.load_torch()
while "torchvision" not in sys.modules:
    pass
control = RunControl()
control.stop()
events = list(InProcess(session.folders).start(Job(RunSpec("digits", "resnet20")), control).events())
print(type(events[-1]).__name__)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["RunEnded"], done.stderr


async def test_on_a_small_terminal_the_chart_has_the_room(make_app: MakeApp) -> None:
    app = make_app(hold())
    async with app.run_test(size=(40, 10)) as pilot:
        await start(pilot, app)
        loss = app.screen.query_one("#loss", Chart)
        assert (loss.size.width, loss.size.height >= 4) == (40, True)
        assert "●" in text_of(app)
        assert "epoch 2/10" in text_of(app)
        await pilot.press("g")
        await drawn(pilot)
        assert app.screen.query_one(GradientBars).size.width > 30
        await pilot.press("1")
        await drawn(pilot)
        assert "digits" in text_of(app)
        await pilot.press("2", "g")
        await pilot.resize_terminal(80, 24)
        await drawn(pilot)
        assert {chart.id for chart in app.screen.query(Chart) if chart.size.height > 2} == {"loss", "accuracy"}
        assert "GPU 0" in text_of(app)
