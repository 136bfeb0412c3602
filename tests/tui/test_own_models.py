"""Networks of one's own, of timm and of installed packages, in Set up's menus."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual.widgets import Input

from engine.catalog import timm_table
from tests.fakes import ScriptedRun
from tests.installing import example_installed
from tests.own_files import LAYERS, NET, write
from tests.tui.conftest import MakeApp, drawn, text_of, until
from tui.app import ReslabApp
from tui.screens.dialogs import ModelQuestion
from tui.screens.menu_rows import MORE
from tui.widgets.menu import Menu


async def open_more(app: ReslabApp, pilot: object) -> None:
    models = app.screen.query_one("#models", Menu)
    models.focus()
    models.choose(MORE)
    await pilot.press("enter")  # type: ignore[attr-defined]
    await until(pilot, lambda: isinstance(app.screen, ModelQuestion))  # type: ignore[arg-type]


async def test_layers_in_a_file_are_chosen_by_its_path_and_counted(make_app: MakeApp, tmp_path: Path) -> None:
    path = write(tmp_path / "net.toml", LAYERS)
    app = make_app()
    async with app.run_test(size=(200, 36)) as pilot:
        await open_more(app, pilot)
        app.screen.query_one(Input).value = str(path)
        await drawn(pilot)
        assert "enter: accept · esc: cancel" in text_of(app)
        await pilot.press("enter")
        await until(pilot, lambda: "built for 1 channel and 10 classes · 426 parameters" in text_of(app))
        assert "net.toml" in text_of(app)
        assert "is code" not in text_of(app)
        write(path, LAYERS.replace('"classes"', "11"))
        app.screen.query_one("#datasets", Menu).choose("mnist")
        await until(pilot, lambda: "ends with 11 values per image" in text_of(app))


async def test_that_a_file_is_code_is_said_before_it_runs(make_app: MakeApp, tmp_path: Path) -> None:
    path = write(tmp_path / "net.py", NET)
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(200, 36)) as pilot:
        await open_more(app, pilot)
        app.screen.query_one(Input).value = "nothing/of/the/kind"
        await drawn(pilot)
        assert "✗ no matching architecture · your own: ~/net.toml" in text_of(app)
        await pilot.press("enter")
        await drawn(pilot)
        assert isinstance(app.screen, ModelQuestion)
        app.screen.query_one(Input).value = f"{path}:Net"
        await drawn(pilot)
        assert "enter: accept; it is code and runs with all your rights" in text_of(app)
        await pilot.press("enter")
        await until(pilot, lambda: "net.py:Net is code: it runs on this machine with all your rights" in text_of(app))
        assert "parameters counted when it is built" in text_of(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.live and app.live.over)
    assert [spec.model for spec in script.specs] == [f"{path}:Net"]


@pytest.mark.parametrize("is_installed", [pytest.param(True, marks=pytest.mark.slow), False])
async def test_timms_networks_are_searched_where_it_is_installed(
    is_installed: bool, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timm_table, "find_spec", lambda name: is_installed or None)
    app = make_app()
    async with app.run_test(size=(240, 36)) as pilot:
        app.screen.query_one("#models", Menu).choose(MORE)
        await until(pilot, lambda: ("all of timm" if is_installed else "uv pip install timm") in text_of(app))
        await open_more(app, pilot)
        app.screen.query_one(Input).value = "timm resnet10t"
        await drawn(pilot)
        assert ("timm:resnet10t" in text_of(app)) == is_installed
        if is_installed:
            await pilot.press("enter")
            await until(pilot, lambda: "built for 1 channel and 10 classes · 4,927,186 parameters" in text_of(app))
            assert "5.4 M" in text_of(app)


async def test_what_packages_bring_is_in_the_menus(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with example_installed(tmp_path / "site", monkeypatch):
        app = make_app()
        async with app.run_test(size=(240, 36)) as pilot:
            models = app.screen.query_one("#models", Menu)
            models.choose(MORE)
            await until(pilot, lambda: "reslab-spots:spotnet" in models.ids)
            assert models.chosen == MORE  # the cursor stays where it was
            assert "reslab-spots:spots" in app.screen.query_one("#datasets", Menu).ids
