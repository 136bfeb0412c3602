"""Results: sorted, filtered, opened, exported and deleted by keys."""

from __future__ import annotations

import sqlite3

import pytest
from textual.widgets import Static

from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import events_of
from tests.tui.conftest import MakeApp, drawn, text_of, told, until

HOSTILE = ["[red]x", "[@click=app.quit]x", "\x1b]52;c;aGFjaw==\x07", "a[/]b"]


@pytest.fixture(autouse=True)
def _three_runs(folders: Folders) -> None:
    with Store(folders.database) as store:
        for spec in (
            RunSpec("digits", "resnet18"),
            RunSpec("mnist", "resnet50", epochs=2),
            RunSpec("folder:/tmp/[@click=app.quit]\x1b]52;c;x\x07[red]", "resnet34", epochs=1),
        ):
            run = store.create_run(spec)
            for event in events_of(spec, run, HOSTILE[:2] if run == 3 else ("cat", "dog")):
                store.record(event)


def order(app: object) -> list[str]:
    tables = app.screen.query("#runs")  # type: ignore[attr-defined]
    return [str(run) for table in tables for run in table.ids]


async def test_newest_first_then_by_any_column(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(140, 30)) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        assert order(app) == ["3", "2", "1"]
        await pilot.press("S")
        assert order(app) == ["1", "2", "3"]
        await pilot.press("s")
        assert order(app) == ["1", "3", "2"]
        assert "dataset ↑" in text_of(app)


async def test_a_filter_narrows_and_escape_clears_it(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(140, 30)) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        await pilot.press("slash", *"mnist res", "enter")
        await drawn(pilot)
        assert order(app) == ["2"]
        assert "1 shown" in text_of(app)
        await pilot.press("escape")
        await drawn(pilot)
        assert len(order(app)) == 3


async def test_delete_asks_first(make_app: MakeApp, folders: Folders) -> None:
    app = make_app()
    folders.run_folder(3).mkdir(parents=True)
    async with app.run_test(size=(140, 30)) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        await pilot.press("d")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press("n")
        await drawn(pilot)
        assert len(order(app)) == 3
        await pilot.press("d")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press("y")
        await until(pilot, lambda: order(app) == ["2", "1"])
        assert not folders.run_folder(3).exists()


async def test_export_writes_files(make_app: MakeApp, folders: Folders) -> None:
    app = make_app()
    async with app.run_test(size=(140, 30)) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        await pilot.press("down", "e")
        await drawn(pilot)
        assert (folders.home / "exports" / "2" / "metrics.csv").exists()


async def test_a_run_opens_to_all_its_tables(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(140, 30)) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        await pilot.press("j", "enter")
        await drawn(pilot)
        expected = [
            "balanced accuracy",
            "precision",
            "true╲predicted",
            "mnist is not on this machine",
            "accuracy",
            "not a folder of image files",
            "epochs 2, otherwise defaults",
        ]
        for words in expected:
            assert words in text_of(app)
            await pilot.press("right")
            await drawn(pilot)
        assert "run 2: resnet50 on mnist, completed" in text_of(app)


async def test_3_goes_back_to_the_list_from_an_opened_run(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(140, 30)) as pilot:
        for run in (1, 2, 2):
            app.open_run(run)
            await drawn(pilot)
        assert len(app.screen_stack) == 2
        await pilot.press("2", "3")
        await drawn(pilot)
        assert len(app.screen_stack) == 1
        assert order(app) == ["3", "2", "1"]


async def test_a_deleted_run_is_not_opened(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(140, 30)) as pilot:
        app.open_run(99)
        await drawn(pilot)
        await drawn(pilot)
        assert len(app.screen_stack) == 1
        assert any("there is no run 99" in str(note.message) for note in app._notifications)


async def test_a_run_that_was_changed_says_so(make_app: MakeApp, folders: Folders) -> None:
    with sqlite3.connect(folders.database) as other:
        other.execute("UPDATE runs SET final = replace(final, '0.', '0.9') WHERE run = 3")
    app = make_app()
    async with app.run_test(size=(140, 30)) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        await pilot.press("enter")
        await drawn(pilot)
        assert "changed after the run ended: do not trust these figures" in text_of(app)


async def test_settings_of_another_version_are_shown(make_app: MakeApp, folders: Folders) -> None:
    with sqlite3.connect(folders.database) as other:
        other.execute("UPDATE runs SET spec = json_set(spec, '$.mixup', 0.2), seal = NULL WHERE run = 3")
        other.execute("UPDATE runs SET spec = json_set(spec, '$.format', 2), seal = NULL WHERE run = 2")
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        assert order(app) == ["3", "2", "1"]
        await pilot.press("enter")
        await drawn(pilot)
        facts = str(app.screen.query_one("#facts", Static).render())
        assert "mixup 0.2: settings unknown to this version of reslab" in facts
        await pilot.press("escape")
        app.open_run(2)
        await drawn(pilot)
        await until(pilot, lambda: "the spec of run 2 has format 2" in told(app))


async def test_hostile_names_are_harmless_in_every_tab(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(200, 40)) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        seen = [text_of(app)]
        await pilot.press("enter")
        await drawn(pilot)
        for _ in range(5):
            seen.append(text_of(app))
            await pilot.press("right")
            await drawn(pilot)
        assert app.is_running
    everything = "\n".join(seen)
    assert not any(char in everything for char in "\x1b\x07")
    assert "[red]x" in everything
    assert "[@click=app.quit]x"[:13] in everything
    assert "folder:/tmp/[@click=app.quit]␛]52;c;x␇[red]" in everything


async def test_a_broken_record_is_one_sentence(make_app: MakeApp, folders: Folders) -> None:
    folders.database.write_text("no database " * 1000)
    app = make_app()
    async with app.run_test(size=(140, 30)) as pilot:
        await pilot.press("3")
        await drawn(pilot)
        assert "no runs yet" in text_of(app)
        assert "sorted by" not in text_of(app)
        assert any("choose another folder with --home" in str(note.message) for note in app._notifications)
