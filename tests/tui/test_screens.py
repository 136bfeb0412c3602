"""Every mode as a picture at three sizes. Look at the SVGs before storing new ones."""

from __future__ import annotations

import pytest

from engine.paths import Places
from engine.results.store import Store
from engine.spec import RunSpec
from tests.fakes import ScriptedRun, events_of
from tests.tui.conftest import SIZES, Compare, MakeApp, drawn, until

SPEC = RunSpec("digits", "resnet18")
at_every_size = pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")


def record_runs(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter(1_764_000_000.0 + 3600 * hour for hour in range(100))
    monkeypatch.setattr("engine.results.store.time.time", lambda: next(moments))
    with Store(places.database) as store:
        for spec in (SPEC, SPEC.replace(seed=1), RunSpec("mnist", "resnet50", image_size=8, epochs=3)):
            run = store.create_run(spec)
            for event in events_of(spec, run):
                store.record(event)


@at_every_size
async def test_set_up(size: tuple[int, int], make_app: MakeApp, compare_screen: Compare) -> None:
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await drawn(pilot)
        compare_screen(app, "setup")


@at_every_size
async def test_train_live(size: tuple[int, int], make_app: MakeApp, compare_screen: Compare) -> None:
    script = ScriptedRun(hold_at=17)
    app = make_app(script)
    async with app.run_test(size=size) as pilot:
        await pilot.press("enter", "enter")
        await until(pilot, lambda: app.live and app.live.version == 17)
        await drawn(pilot)
        compare_screen(app, "train")
        script.release.set()
        await until(pilot, lambda: app.live and app.live.over)
        await drawn(pilot)
        compare_screen(app, "train-ended")


@at_every_size
async def test_results_and_an_opened_run(
    size: tuple[int, int], make_app: MakeApp, compare_screen: Compare, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_runs(places, monkeypatch)
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        compare_screen(app, "results")
        await pilot.press("enter")
        await drawn(pilot)
        compare_screen(app, "run")
        for _ in range(4):
            await pilot.press("right")
        await drawn(pilot)
        compare_screen(app, "run-curves")


async def test_the_dialogs(make_app: MakeApp, compare_screen: Compare) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("question_mark")
        await drawn(pilot)
        compare_screen(app, "keys")
        await pilot.press("escape", "end", "enter")
        await pilot.press(*"/nowhere", "enter")
        await pilot.pause()
        compare_screen(app, "folder")
