"""The app and runs in other processes: followed, paused, stopped, left; and the gauges of other machines."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from engine.control import RunControl
from engine.errors import ClusterError
from engine.events import RunContinued, RunEnded, StepsCompleted
from engine.launch.backend import Job
from engine.launch.detached import Order
from engine.launch.ray import Cluster
from engine.memory.node_gauges import NodeReading
from engine.paths import Folders
from engine.records import RunSummary
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import GPU_READING, HOST_READING, DetachedRun, ScriptedRun, events_of, metrics
from tests.tui.conftest import Compare, MakeApp, at_every_size, drawn, text_of, told, until
from tui.app import ReslabApp
from tui.live import LiveRun
from tui.messages import GaugesRead

SPEC = RunSpec("digits", "resnet18", epochs=10)


@pytest.fixture
def detached(folders: Folders) -> Iterator[DetachedRun]:
    with closing(DetachedRun(SPEC, folders)) as made:
        yield made


async def test_a_detached_run_is_followed_paused_and_left(make_app: MakeApp, detached: DetachedRun) -> None:
    sent = events_of(SPEC, detached.run)
    detached.emit(*sent[:6])
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        await pilot.press("W")
        await until(pilot, lambda: app.current_mode == "train" and app.live and app.live.version == 6)
        await drawn(pilot)
        assert f"run {detached.run}: resnet18 on digits" in text_of(app)
        await pilot.press("p")
        await until(pilot, lambda: detached.control.pause_requested)
        await pilot.press("p")
        await until(pilot, lambda: not detached.control.pause_requested)
        await pilot.press("q")
        await until(pilot, lambda: "continues without this window" in text_of(app))
        await pilot.press("y")
        await until(pilot, lambda: not app.is_running)
    app.session.wait()
    assert not detached.control.stop_requested


async def test_the_app_can_begin_with_it_and_stop_it(make_app: MakeApp, detached: DetachedRun) -> None:
    sent = events_of(SPEC, detached.run)
    detached.emit(*sent[:6])
    app = make_app(attached=detached.run)
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.current_mode == "train" and app.live and app.live.version == 6)
        await pilot.press("s")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press("y")
        await until(pilot, lambda: detached.control.stop_requested)
        detached.emit(RunEnded(detached.run, "stopped", metrics(0.1), None, 3.0, 1234.0, 18))
        await until(pilot, lambda: app.live and app.live.ended is not None)
        await drawn(pilot)
        assert "stopped after" in text_of(app)


async def test_from_one_to_another(make_app: MakeApp, detached: DetachedRun, folders: Folders) -> None:
    detached.emit(*events_of(SPEC, detached.run)[:6])
    with closing(DetachedRun(SPEC.replace(model="resnet34"), folders)) as other:
        other.emit(*events_of(SPEC, other.run)[:3])
        app = make_app(attached=detached.run)
        async with app.run_test(size=(120, 36)) as pilot:
            await until(pilot, lambda: app.live and app.live.version == 6)
            app.watch_run(other.run)
            await until(pilot, lambda: app.live and app.live.run == other.run and app.live.version == 3)
            assert app.live is not None
            assert app.live.spec.model == "resnet34"
            detached.emit(*events_of(SPEC, detached.run)[6:8])
            other.emit(*events_of(SPEC, other.run)[3:5])
            await until(pilot, lambda: app.live and app.live.version == 5)
            assert app.live.run == other.run


async def test_what_cannot_be_watched_is_said(make_app: MakeApp, folders: Folders) -> None:
    with Store(folders.database) as store:
        number = store.create_run(SPEC)
        app = make_app()
        async with app.run_test(size=(120, 36)) as pilot:
            app.watch_run(number)
            await until(pilot, lambda: "belongs to the terminal" in text_of(app))


async def test_an_ended_run_does_not_replace_the_followed_one(
    make_app: MakeApp, detached: DetachedRun, folders: Folders
) -> None:
    detached.emit(*events_of(SPEC, detached.run)[:6])
    with Store(folders.database) as store:
        done = store.create_run(SPEC)
        for event in events_of(SPEC, done):
            store.record(event)
    app = make_app(attached=detached.run)
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.live and app.live.version == 6)
        app.watch_run(done)
        await until(pilot, lambda: f"run {done} is completed" in told(app))
        assert app.live is not None
        assert (app.live.run, app.live.over) == (detached.run, False)
        app.resume_run(store_run(folders, done))
        await until(pilot, lambda: "nothing to resume" in told(app))
        assert app.live.run == detached.run


def store_run(folders: Folders, number: int) -> RunSummary:
    with Store(folders.database) as store:
        return store.run(number)


async def test_while_a_run_is_live_here_none_is_watched(make_app: MakeApp, detached: DetachedRun) -> None:
    script = ScriptedRun(hold_at=5)
    app = make_app(script, specs=[SPEC])
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.live and app.live.version == 5)
        app.watch_run(detached.run)
        await until(pilot, lambda: any("live in this window" in str(note.message) for note in app._notifications))
        assert app.live is not None
        assert app.live.run == 1
        script.release.set()


class FakeProcess:
    """Stands in for the process: its runs are those of the test."""

    made: list[FakeProcess]

    def __init__(self, order: Order) -> None:
        self.order = order
        FakeProcess.made.append(self)

    def first(self, control: RunControl) -> int | None:
        return next(self.runs())

    def runs(self, least: int = 1) -> Iterator[int]:
        with Store(self.order.folders.database) as store:
            specs = [job.spec for job in self.order.jobs] or [item.spec for item in store.waiting()]
            for _ in range(len(specs) - len(self.order.jobs)):
                store.take_next()
        for spec in specs:
            detached = DetachedRun(spec, self.order.folders)
            detached.emit(*events_of(spec, detached.run))
            yield detached.run
            detached.close()
        if not specs:
            raise ClusterError("cannot reach Ray")


async def test_on_a_cluster_the_queue_is_carried_as_a_whole(
    make_app: MakeApp, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeProcess.made = []
    monkeypatch.setattr("engine.launch.detached.DetachedProcess", FakeProcess)
    specs = [SPEC.replace(seed=seed) for seed in range(3)]
    app = make_app(specs=specs, cluster=Cluster("10.0.0.5:6379"), exit_when_done=True)
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: not app.is_running)
    assert app.return_code == 0
    (process,) = FakeProcess.made
    assert process.order.cluster == Cluster("10.0.0.5:6379")
    with Store(folders.database) as store:
        assert [(run.status, run.spec["seed"]) for run in store.runs()] == [("completed", seed) for seed in (2, 1, 0)]
        assert store.waiting() == []


async def test_a_single_run_on_a_cluster_is_carried_too(
    make_app: MakeApp, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    FakeProcess.made = []
    monkeypatch.setattr("engine.launch.detached.DetachedProcess", FakeProcess)
    app = make_app(cluster=Cluster(None, 2))
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: "on Ray, on this machine: 2 workers per run" in text_of(app))
    app = make_app(specs=[SPEC], cluster=Cluster(None, 2))
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.live and app.live.ended is not None)
        assert app.live is not None
        assert (app.live.run, app.live.refused) == (1, None)
    assert [made.order.jobs for made in FakeProcess.made if made.order.jobs] == [(Job(SPEC),)]


def test_the_curves_go_back_where_workers_were_lost() -> None:
    live = LiveRun(SPEC)
    for event in events_of(SPEC)[:9]:
        live.add(event)
    before = live.step
    assert before > 14
    live.add(RunContinued(1, 14, (), 1, True))
    assert (live.step, len(live.train_loss), live.train_loss.x[-1]) == (14, 14, 14.0)
    assert list(live.test_loss.x) == [0.0, 12.0]
    assert live.note == "workers were lost: resumed from step 14"
    live.add(StepsCompleted(1, 2, 15, (0.5,) * 10, (0.9,) * 10, 0.01, 3000, 2.0))
    assert list(live.train_loss.x) == [float(step) for step in range(1, 25)]


def _shows(app: ReslabApp, num_events: int) -> bool:
    return app.current_mode == "train" and app.live is not None and app.live.version == num_events


def _stands(app: ReslabApp, *words: str) -> bool:
    text = text_of(app)
    return all(word in text for word in words)


NODES = (
    NodeReading("gpu-17", tuple(replace(GPU_READING.gpus[0], index=number) for number in range(2)), GPU_READING.host),
    NodeReading("cpu-03", (), HOST_READING.host),
)


@at_every_size
async def test_other_machines_have_gauges_too(
    size: tuple[int, int], make_app: MakeApp, detached: DetachedRun, compare_screen: Compare
) -> None:
    detached.emit(*events_of(SPEC, detached.run)[:8])
    app = make_app(attached=detached.run)
    async with app.run_test(size=size) as pilot:
        await until(pilot, functools.partial(_shows, app, 8))
        app.post_message(GaugesRead(HOST_READING, (), NODES))
        await until(pilot, functools.partial(_stands, app, "node gpu-17", "24.0 / 64.0 GiB"))  # in one line
        await drawn(pilot)
        compare_screen(app, "nodes")


async def test_gauges_of_other_machines_scroll_on_a_small_screen(make_app: MakeApp, detached: DetachedRun) -> None:
    detached.emit(*events_of(SPEC, detached.run)[:8])
    app = make_app(attached=detached.run)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, functools.partial(_shows, app, 8))
        app.post_message(GaugesRead(HOST_READING, (), NODES))
        await until(pilot, functools.partial(_stands, app, "node gpu-17", "24.0 / 64.0 GiB"))
        await drawn(pilot)
        assert "cpu-03" not in text_of(app)
        await pilot.press("pagedown", "pagedown", "pagedown", "pagedown")
        await drawn(pilot)
        assert "cpu-03" in text_of(app)
