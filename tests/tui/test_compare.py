"""Compare: marked in Results, side by side, with a verdict or the reason why there is none."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from engine.events import Evaluated, RunStarted
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import events_of
from tests.tui.conftest import Compare, MakeApp, at_every_size, drawn, text_of, until


def record(store: Store, spec: RunSpec, num_wrong: int, sha: str = "same") -> int:
    """A run of 360 test images of which the first `num_wrong` are taken for another class."""
    run = store.create_run(spec)
    labels = np.zeros(360, "<u2")
    predictions = (np.arange(360) < num_wrong).astype("<u2")
    for event in events_of(spec, run):
        if isinstance(event, Evaluated):
            event = replace(
                event,
                labels=labels.tobytes(),
                predictions=predictions.tobytes(),
                confidences=np.ones(360, "<f4").tobytes(),
            )
        elif isinstance(event, RunStarted):
            event = replace(event, test_sha256=sha)
        store.record(event)
    return run


@pytest.fixture(autouse=True)
def _runs(folders: Folders) -> None:
    with Store(folders.database) as store:
        record(store, RunSpec("digits", "resnet18"), 18)
        record(store, RunSpec("digits", "resnet50", epochs=6, learning_rate=0.1), 13)
        record(store, RunSpec("digits", "resnet34"), 60)
        record(store, RunSpec("mnist", "resnet18"), 3, sha="other")


@at_every_size
async def test_two_marked_runs_are_compared(size: tuple[int, int], make_app: MakeApp, compare_screen: Compare) -> None:
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        await pilot.press("end", "space", "up", "space", "c")
        await drawn(pilot)
        assert app.current_mode == "compare"
        assert app.state.compared.value == (1, 2)
        compare_screen(app, "compare")
        await pilot.press("o")
        await drawn(pilot)
        compare_screen(app, "compare-curves")
        await pilot.press("escape")
        await drawn(pilot)
        assert app.current_mode == "results"


async def test_the_verdict_is_in_words(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(200, 40)) as pilot:
        app.compare((1, 3))
        await drawn(pilot)
        await drawn(pilot)
        text = " ".join(text_of(app).split())
        assert "0 images only resnet34 #3 gets right, 42 only resnet18 #1" in text
        assert "resnet18 #1 is better on images like these" in text
        assert "model resnet18 resnet34" in text


async def test_runs_on_other_images_get_no_verdict_but_stand_side_by_side(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(160, 40)) as pilot:
        app.compare((1, 4))
        await drawn(pilot)
        await drawn(pilot)
        text = text_of(app)
        assert "no verdict: the runs were tested on different datasets (digits, mnist)" in text
        assert "*" not in text
        assert "difference" not in text


async def test_compare_without_marks_says_how_to_choose(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("4")
        await drawn(pilot)
        assert app.current_mode == "setup"
        assert any("space, then press c" in str(note.message) for note in app._notifications)
        await pilot.press("3")
        await drawn(pilot)
        await pilot.press("space", "c")
        await drawn(pilot)
        assert app.current_mode == "results"


async def test_the_images_on_which_two_runs_differ(make_app: MakeApp) -> None:
    import asyncio

    from engine.lab import Lab

    app = make_app()

    def train() -> None:
        for seed in (0, 1):
            list(Lab(app.state.folders).train(RunSpec("digits", "resnet20", epochs=1, seed=seed)).events())

    await asyncio.to_thread(train)
    async with app.run_test(size=(120, 36)) as pilot:
        app.compare((5, 6))
        await until(pilot, lambda: "McNemar" in text_of(app))
        await pilot.press("i")
        await until(pilot, lambda: "1 to " in text_of(app))
        text = text_of(app)
        assert "#5 ✓" in text
        assert "#6 ✗" in text


async def test_runs_that_cannot_be_compared_have_no_images(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        app.compare((1, 4))
        await drawn(pilot)
        await drawn(pilot)
        await pilot.press("i")
        await drawn(pilot)
        assert "comparing images needs two runs on the same test images" in text_of(app)


async def test_several_seeds_of_one_spec_stand_with_their_mean_and_spread(make_app: MakeApp, folders: Folders) -> None:
    with Store(folders.database) as store:
        for seed in (7, 8):
            spec = RunSpec("digits", "resnet34", seed=seed)
            number = store.create_run(spec)
            for event in events_of(spec, number):
                store.record(event)
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        app.compare((number - 1, number))
        await until(pilot, lambda: "seeds of one spec" in text_of(app))
        assert "resnet34 on digits" in text_of(app)
        assert re.search(r"7, 8 +91\.\d+ % +0\.000 % +91\.", text_of(app))
