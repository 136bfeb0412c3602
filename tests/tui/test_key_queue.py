"""Keys that are typed at once, or early: each goes where it would have gone had the person waited."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from textual.events import Key, Paste
from textual.widget import Widget

from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import ScriptedRun, events_of
from tests.tui.conftest import MakeApp, drawn, until
from tui.app import ReslabApp
from tui.screens.setup import SetupScreen
from tui.screens.train import TrainScreen
from tui.widgets.field import Field

RUN = RunSpec("digits", "resnet18", epochs=2)


def type_at_once(app: ReslabApp, *keys: str) -> None:
    """All of them before the first is dealt with, as from a paste or a busy terminal."""
    for key in keys:
        app.post_message(Key(key, key if len(key) == 1 else None))


def record(folders: Folders, number: int = 2) -> None:
    with Store(folders.database) as store:
        for _ in range(number):
            for event in events_of(RUN, store.create_run(RUN)):
                store.record(event)


async def test_the_first_edit_of_a_recipe_keeps_its_keys(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        type_at_once(app, "tab", "tab", "enter", "ctrl+u", "7", "enter")
        recipe = app.screen.query_one("#recipe")
        await until(pilot, lambda: recipe.values["epochs"] == 7)  # type: ignore[attr-defined]
        type_at_once(app, "down", "enter", "ctrl+u", "3", "2", "enter", "up", "enter", "9", "escape")
        await until(pilot, lambda: recipe.values["batch_size"] == 32)  # type: ignore[attr-defined]
        assert recipe.values["epochs"] == 7  # type: ignore[attr-defined]


async def test_a_pasted_text_keeps_its_place_among_the_keys(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        type_at_once(app, "tab", "tab", "enter", "ctrl+u")
        app.post_message(Paste("41"))
        type_at_once(app, "2", "enter")
        recipe = app.screen.query_one("#recipe")
        await until(pilot, lambda: recipe.values["epochs"] == 412)  # type: ignore[attr-defined]


async def test_an_answer_may_be_typed_with_the_key_that_asks(make_app: MakeApp) -> None:
    script = ScriptedRun(hold_at=7)
    app = make_app(script, specs=[RUN])
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.live and app.live.version == 7)
        type_at_once(app, "s", "n", "s", "y")
        await until(pilot, lambda: app.live and app.live.ended)
        assert app.live
        assert app.live.ended
        assert app.live.ended.status == "stopped"


async def test_a_run_is_opened_as_soon_as_its_list_is_read(make_app: MakeApp, folders: Folders) -> None:
    record(folders)
    app = make_app()
    async with app.run_test() as pilot:
        type_at_once(app, "3", "down", "enter")
        await until(pilot, lambda: getattr(app.screen, "run", None) == 1)
        await drawn(pilot)  # Textual's tabs do not bear it that the app is left while they are mounted


async def test_what_is_typed_leads_through_screens_and_dialogs_and_out(make_app: MakeApp, folders: Folders) -> None:
    record(folders)
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        type_at_once(app, "u", "escape", "question_mark", "escape", "3", "slash", *"resnet18", "enter", "q")
        await until(pilot, lambda: not app.is_running)


async def test_a_screen_that_never_comes_to_rest_does_not_keep_the_keys(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.key_queue.SETTLE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(SetupScreen, "is_mounted", False)
    app = make_app()
    async with app.run_test() as pilot:
        type_at_once(app, "2", "1", "q")
        await until(pilot, lambda: not app.is_running)


def hidden_and_focusable(app: ReslabApp) -> Iterator[Widget]:
    """Fields where nobody would see what is typed into them."""
    for field in app.screen.query(Field):
        if field.focusable and not all(widget.display for widget in field.ancestors_with_self if widget.is_attached):
            yield field


@pytest.mark.slow
async def test_no_hidden_field_takes_the_focus_on_any_screen(make_app: MakeApp, folders: Folders) -> None:
    record(folders)
    app = make_app(ScriptedRun())
    ways = (
        ["tab", "tab", "enter", "escape", "tab"], ["2", "g", "g"], ["3", "slash", "x", "escape"], ["3", "slash", "tab"],
        ["3", "escape", "enter"], ["right", "right", "down"], ["escape", "escape"],
        ["space", "space", "c", "o", "i", "v"], ["1", "u", "escape"], ["question_mark", "escape"], ["A", "escape"],
        ["o", "escape"], ["3", "1"],
    )  # fmt: skip
    async with app.run_test(size=(100, 30)) as pilot:
        for key in (key for way in ways for key in way):
            await pilot.press(key)
            await drawn(pilot)
            focused = app.focused
            assert focused is None or all(item.display for item in focused.ancestors_with_self), key
            assert not list(hidden_and_focusable(app)), key


async def test_a_filter_that_is_not_shown_is_not_typed_into(make_app: MakeApp, folders: Folders) -> None:
    record(folders)
    app = make_app()
    async with app.run_test() as pilot:
        await pilot.press("3")
        await drawn(pilot)
        field = app.screen.query_one(Field)
        field.focus()
        await pilot.press("j", "k")
        assert (field.value, field.has_focus) == ("", False)


async def test_a_key_on_a_screen_without_a_focus_still_counts(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test() as pilot:
        type_at_once(app, "2", "g")
        await until(pilot, lambda: isinstance(app.screen, TrainScreen) and app.screen.has_class("gradients"))
