"""Runs that were cut off: offered at the start, and gone on with from Results."""

from __future__ import annotations

import sqlite3

import pytest

from engine.events import Event, RunContinued, RunEnded
from engine.paths import Folders
from engine.records import HUNG_UP
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import ScriptedRun, events_of
from tests.tui.conftest import Compare, MakeApp, at_every_size, drawn, text_of, until
from tui.screens.dialogs import Question

SPEC = RunSpec("digits", "resnet18", epochs=2)


def record(folders: Folders, error: str | None) -> None:
    """One run that has ended after its first epoch."""
    with Store(folders.database) as store:
        run = store.create_run(SPEC)
        for event in events_of(SPEC, run)[:6]:
            store.record(event)
        store.record(RunEnded(run, "stopped", None, None, 3.0, 1000.0, 12, error))


def continued() -> list[Event]:
    """The script of a run that goes on: its past, then the rest."""
    events = events_of(SPEC)
    return [*events[:6], RunContinued(1, 12, ("torch 2.15 instead of 2.14",), 1, True), *events[6:]]


async def test_a_run_that_was_cut_off_is_offered_at_the_start(make_app: MakeApp, folders: Folders) -> None:
    record(folders, HUNG_UP)
    script = ScriptedRun(hold_at=8, events=continued())
    app = make_app(script)
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, Question))
        await drawn(pilot)
        assert "Run 1, resnet18 on digits, was interrupted" in text_of(app)
        await pilot.press("y")
        await until(pilot, lambda: app.live is not None and app.live.step == 18)
        assert (script.resumed, script.specs) == (1, [SPEC])
        assert app.current_mode == "train"
        await drawn(pilot)
        assert "resumed from step 12; changed since: torch 2.15 instead of 2.14" in text_of(app)
        assert app.live is not None
        assert list(app.live.train_loss.x) == list(range(1, 19))
        script.release.set()
        await until(pilot, lambda: app.live is not None and app.live.over)


@pytest.mark.parametrize("error", [None, "memory ran out"])
async def test_other_endings_are_not_offered(make_app: MakeApp, folders: Folders, error: str | None) -> None:
    record(folders, error)
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: app.state.listing.value is not None)
        await drawn(pilot)
        assert not isinstance(app.screen, Question)


async def test_a_run_whose_process_is_gone_is_offered_and_can_be_left(make_app: MakeApp, folders: Folders) -> None:
    with Store(folders.database) as store:
        run = store.create_run(SPEC)
        for event in events_of(SPEC, run)[:6]:
            store.record(event)
    with sqlite3.connect(folders.database) as other:
        other.execute("UPDATE runs SET pid = 999999999")
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(120, 36)) as pilot:
        await until(pilot, lambda: isinstance(app.screen, Question))
        await pilot.press("n")
        await drawn(pilot)
        assert script.specs == []
        assert app.current_mode == "setup"


async def test_results_goes_on_with_a_stopped_run(make_app: MakeApp, folders: Folders) -> None:
    record(folders, None)
    script = ScriptedRun(events=continued())
    app = make_app(script)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        await pilot.press("R")
        await until(pilot, lambda: app.live is not None and app.live.over)
        assert script.resumed == 1
        assert app.live is not None
        assert isinstance(app.live.ended, RunEnded)
        assert list(app.live.train_loss.x) == list(range(1, 25))


@at_every_size
async def test_the_question_and_the_run_that_goes_on_as_pictures(
    size: tuple[int, int], make_app: MakeApp, folders: Folders, compare_screen: Compare
) -> None:
    record(folders, HUNG_UP)
    script = ScriptedRun(hold_at=8, events=continued())
    app = make_app(script)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: isinstance(app.screen, Question))
        await drawn(pilot)
        compare_screen(app, "resume-question")
        await pilot.press("y")
        await until(pilot, lambda: app.live is not None and app.live.step == 18)
        await drawn(pilot)
        compare_screen(app, "train-resumed")
        script.release.set()
        await until(pilot, lambda: app.live is not None and app.live.over)
