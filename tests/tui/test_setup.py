"""Set up: enter, enter trains; the form refuses at the field; a folder becomes a dataset."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from textual.widgets import Static

from engine.lab import Lab
from engine.recipes import find_recipe
from engine.spec import RunSpec
from tests.engine.test_datasets import make_folder
from tests.fakes import ScriptedRun
from tests.tui.conftest import MakeApp, drawn, text_of, until
from tui.messages import TorchLoaded
from tui.screens.setup import SetupScreen
from tui.widgets.menu import Menu
from tui.widgets.recipe import RecipeForm


def setup_of(app: object) -> SetupScreen:
    screen = app.screen  # type: ignore[attr-defined]
    assert isinstance(screen, SetupScreen)
    return screen


async def test_enter_enter_trains_the_first_pair(make_app: MakeApp) -> None:
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test() as pilot:
        await pilot.press("enter", "enter")
        await until(pilot, lambda: app.live and app.live.over)
        assert app.current_mode == "train"
    (spec,) = script.specs
    assert (spec.dataset, spec.model, spec.epochs, spec.batch_size) == ("digits", "resnet18", 10, 128)


async def test_arrows_and_letters_choose_the_pair(make_app: MakeApp) -> None:
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test() as pilot:
        await pilot.press("down", "enter", "j", "down", "k", "enter")
        await until(pilot, lambda: app.live and app.live.over)
    assert (script.specs[0].dataset, script.specs[0].model) == ("mnist", "resnet34")


async def test_the_plan_follows_the_cursor(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await drawn(pilot)
        assert "conv1 3→1 channels · fc 1000→10 classes · 11,175,370 parameters" in text_of(app)
        assert "the small stem, which preserves resolution" in text_of(app)
        await pilot.press("s")
        await drawn(pilot)
        assert "conv1 7×7/2→3×3/1, no max-pool" in text_of(app)
        assert "the small stem, which preserves resolution" not in text_of(app)
        app.screen.query_one("#datasets", Menu).choose("cifar100")
        await drawn(pilot)
        assert "fc 1000→100 classes" in text_of(app)


async def test_a_number_is_edited_in_place_and_refused_at_the_field(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("tab", "tab", "enter")
        await pilot.press("backspace", "backspace", "minus", "1", "enter")
        await drawn(pilot)
        assert "✗ epochs: -1 is not valid" in text_of(app)
        recipe = setup_of(app).recipe
        assert (recipe.has_class("editing"), recipe.values["epochs"]) == (True, 10)
        await pilot.press("backspace", "backspace", "3", "enter")
        await drawn(pilot)
        assert (recipe.has_class("editing"), recipe.values["epochs"]) == (False, 3)
        assert "• 3" in text_of(app)


async def test_escape_leaves_a_field_unchanged(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test() as pilot:
        await pilot.press("tab", "tab", "enter", "9", "escape")
        await drawn(pilot)
        recipe = setup_of(app).recipe
        assert not recipe.editing
        assert recipe.values["epochs"] == 10
        assert app.focused is recipe.menu


async def test_leaving_a_field_takes_what_was_typed(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test() as pilot:
        await pilot.press("tab", "tab", "enter", "backspace", "backspace", "7", "tab")
        await drawn(pilot)
        recipe = setup_of(app).recipe
        assert (recipe.has_class("editing"), recipe.values["epochs"]) == (False, 7)
        await pilot.press("shift+tab", "enter", "x", "tab")
        await drawn(pilot)
        assert (recipe.has_class("editing"), recipe.values["epochs"]) == (False, 7)
        assert any("expected a whole number" in str(note.message) for note in app._notifications)


async def test_a_spec_from_the_command_line_stands_in_the_form(make_app: MakeApp) -> None:
    spec = RunSpec("mnist", "resnet34", epochs=4, learning_rate=0.02, val_share=0.2)
    app = make_app(specs=[spec])
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.live and app.live.over)
        await pilot.press("1")
        setup = setup_of(app)
        assert RunSpec(setup.dataset, setup.model, **setup.recipe.values) == spec  # type: ignore[arg-type]


async def test_choices_are_gone_through_and_put_back(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test() as pilot:
        await pilot.press("tab", "tab")
        recipe = setup_of(app).recipe
        recipe.menu.choose("optimizer")
        await pilot.press("right")
        assert recipe.values["optimizer"] == "adam"
        await pilot.press("enter")
        assert recipe.values["optimizer"] == "adamw"
        await pilot.press("left", "left")
        assert recipe.values["optimizer"] == "sgd"
        await pilot.press("right", "backspace")
        assert recipe.values["optimizer"] == "sgd"


async def test_two_settings_that_exclude_each_other_are_refused(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("tab", "tab")
        recipe = setup_of(app).recipe
        recipe.set_values({"momentum": 0.0})
        recipe.menu.choose("nesterov")
        await pilot.press("enter")
        await drawn(pilot)
        assert recipe.values["nesterov"] is False
        assert "needs a momentum above 0" in str(recipe.query_one("#about", Static).content)


async def test_a_folder_becomes_a_dataset(make_app: MakeApp, tmp_path: Path) -> None:
    root = make_folder(tmp_path / "[red]pets", {"cat": 3, "dog": 3})
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("end", "enter")
        await pilot.press(*"/nowhere", "enter")
        await drawn(pilot)
        assert "✗ no folder /nowhere" in text_of(app)
        app.screen.query_one("Input").value = str(root)  # type: ignore[attr-defined]
        await pilot.press("enter")
        await drawn(pilot)
        assert "[red]pets" in text_of(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.live and app.live.over)
    assert script.specs[0].dataset == f"folder:{root}"


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        pytest.param("set.csv", "csv", marks=pytest.mark.slow),
        pytest.param("set.npz", "npz", marks=pytest.mark.slow),
        ("set.zip", "folder"),
    ],
)
async def test_a_table_arrays_or_an_archive_become_a_dataset(
    typed: str, shown: str, make_app: MakeApp, tmp_path: Path
) -> None:
    from tests.engine.test_archives import packed
    from tests.engine.test_npz import arrays, saved
    from tests.engine.test_tables import flat, table

    rows = [(file, n % 2) for n, file in enumerate(flat(tmp_path, 6))]
    table(tmp_path / "set.csv", ("where", "kind"), rows)
    saved(tmp_path / "set.npz", arrays({"train": 6, "test": 3}))
    packed(make_folder(tmp_path / "pets", {"cat": 3, "dog": 3}), tmp_path / "set.zip")
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        setup = app.screen
        await pilot.press("end", "enter")
        await drawn(pilot)
        app.screen.query_one("Input").value = str(tmp_path / typed)  # type: ignore[attr-defined]
        await pilot.press("enter")
        await drawn(pilot)
        if shown == "csv":
            assert "has the columns where, kind" in text_of(app).replace("\n", " ")
            await pilot.press("escape")
            setup.query_one(RecipeForm).set_values({"columns": "path=where,label=kind"})
            await pilot.press("enter", *str(tmp_path / typed), "enter")
            await drawn(pilot)
        menu = setup.query_one("#datasets", Menu)
        assert menu.chosen == f"{shown}:{tmp_path / typed}"
        assert menu.rows[menu.highlighted or 0].cells == (typed, shown, "")
        await until(pilot, lambda: "classes, about train" in text_of(app))


@pytest.mark.slow
async def test_medmnists_sets_can_be_named(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("end", "enter", *"medmnist:breast:64", "enter")
        await drawn(pilot)
        assert "images 64×64×1 · train 546, validation 78, test 156" in text_of(app)


async def test_datasets_of_earlier_runs_are_offered_the_latest_first(make_app: MakeApp, tmp_path: Path) -> None:
    from engine.store.store import Store

    app = make_app()
    pets, gone, later = (make_folder(tmp_path / name, {"cat": 2, "dog": 2}) for name in ("pets", "gone", "later"))
    with Store(app.state.folders.database) as store:
        for root in (pets, gone, later, pets, later):
            store.create_run(RunSpec(f"folder:{root}", "resnet18"))
        store.create_run(RunSpec("digits", "resnet18"))
    shutil.rmtree(gone)
    async with app.run_test(size=(100, 30)) as pilot:
        menu = app.screen.query_one("#datasets", Menu)
        await until(pilot, lambda: f"folder:{pets}" in menu.ids)
        assert menu.ids[-3:] == [f"folder:{later}", f"folder:{pets}", "your folder …"]
        assert menu.chosen == "digits"


async def test_an_earlier_run_tells_how_long(make_app: MakeApp) -> None:
    from engine.store.store import Store
    from tests.fakes import events_of
    from tests.tui.test_screens import SPEC

    app = make_app()
    with Store(app.state.folders.database) as store:
        run = store.create_run(SPEC)
        for event in events_of(SPEC, run):
            store.record(event)
    async with app.run_test(size=(100, 30)) as pilot:
        await drawn(pilot)
        assert "about 13 s here, based on run 1" in text_of(app)


async def test_the_plan_says_whether_it_fits_once_the_cursor_rests(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def forecast(lab: Lab, spec: RunSpec) -> str:
        asked.append(spec)
        return f"memory 171.3 MiB of 9.0 GiB: fits · {spec.model}"

    monkeypatch.setattr(Lab, "forecast", forecast)
    monkeypatch.setattr("tui.screens.setup.plan_text", str)
    app = make_app()
    async with app.run_test(size=(100, 36)) as pilot:
        await drawn(pilot)
        assert "memory" not in text_of(app)  # not before torch is there
        app.post_message(TorchLoaded(None))
        await until(pilot, lambda: "memory 171.3 MiB of 9.0 GiB: fits · resnet18" in text_of(app))
        models = app.screen.query_one("#models", Menu)
        for _ in range(2):  # not by keys: on a busy machine the cursor would rest between two of them
            models.action_cursor(1)
        await until(pilot, lambda: "fits · resnet50" in text_of(app))
        for _ in range(2):
            models.action_cursor(-1)
        await until(pilot, lambda: "fits · resnet18" in text_of(app))
    assert [spec.model for spec in asked] == ["resnet18", "resnet50"]  # what was passed over is not asked for


async def test_the_plan_is_forecast_again_once_a_run_is_over(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    forecasts = iter(("fits not beside a run", "fits now"))
    monkeypatch.setattr(Lab, "forecast", lambda lab, spec: next(forecasts))
    monkeypatch.setattr("tui.screens.setup.plan_text", str)
    script = ScriptedRun(hold_at=5)
    app = make_app(script)
    async with app.run_test(size=(100, 36)) as pilot:
        await drawn(pilot)
        assert app.start_run(RunSpec("digits", "resnet18"), show=False)
        app.post_message(TorchLoaded(None))
        await until(pilot, lambda: "fits not beside a run" in text_of(app))
        script.release.set()
        await until(pilot, lambda: "fits now" in text_of(app))


async def test_r_takes_the_recipe_fast_and_the_defaults_again(make_app: MakeApp) -> None:
    app = make_app(ScriptedRun())
    async with app.run_test() as pilot:
        form = setup_of(app).recipe
        before = dict(form.values)
        form.set_values({"seed": 7})
        await pilot.press("r")
        assert {name: form.values[name] for name in find_recipe("fast")} == find_recipe("fast")
        assert form.values["seed"] == 7
        await pilot.press("r")
        assert form.values == {**before, "seed": 7}


async def test_the_plan_says_what_lies_in_a_folder(make_app: MakeApp, tmp_path: Path) -> None:
    from tests.engine.test_folders import pictures

    root = pictures(
        tmp_path / "images", {"train/a": 4, "train/b": 4, "valid/a": 2, "valid/b": 2, "test/a": 2, "test/b": 2}
    )
    app = make_app(specs=[RunSpec(f"folder:{root}", "resnet18")])
    async with app.run_test(size=(100, 36)) as pilot:
        await until(pilot, lambda: app.live and app.live.over)
        await pilot.press("1")
        await until(pilot, lambda: "train 8, validation 4, test 4" in text_of(app))
        assert "images 8×8×3 · 2 classes" in text_of(app)
        assert "train → training, valid → validation, test → test" in text_of(app)
        (root / "test" / "extra").mkdir()
        pictures(root, {"test/extra": 1}, first=90)
        await pilot.press("2", "1")
        await until(pilot, lambda: "no image of extra, which" in " ".join(text_of(app).replace("│", " ").split()))


async def test_the_plan_says_how_many_cats_and_dogs_are_there(make_app: MakeApp) -> None:
    from tests.engine.test_cats_dogs import pet_images

    app = make_app()
    pet_images(app.state.folders.data / "PetImages", number=10)
    async with app.run_test(size=(100, 36)) as pilot:
        await drawn(pilot)
        app.screen.query_one("#datasets", Menu).choose("cats-dogs")
        await until(pilot, lambda: "train 14, test 6" in text_of(app))
        assert "17,500" not in text_of(app)
        assert "20 files in" in text_of(app)  # and the path, which may be broken anywhere


async def test_enter_trains_what_is_marked(make_app: MakeApp) -> None:
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("space", "space", "enter", "space", "down", "down")
        await drawn(pilot)
        assert "2 runs marked: digits, mnist × resnet18" in text_of(app)
        assert "enter on Architecture: train one after another · a: add to the queue" in text_of(app)
        await pilot.press("enter")
        await until(pilot, lambda: len(script.specs) == 2 and app.live and app.live.over)
        assert app.current_mode == "train"
        await pilot.press("1")
        await drawn(pilot)
        assert "marked" not in text_of(app)
    assert [(spec.dataset, spec.model) for spec in script.specs] == [("digits", "resnet18"), ("mnist", "resnet18")]


async def test_marks_count_where_the_cursor_asks_for_a_folder(make_app: MakeApp) -> None:
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("space", "end", "tab", "enter")
        await until(pilot, lambda: app.live and app.live.over)
    assert [(spec.dataset, spec.model) for spec in script.specs] == [("digits", "resnet18")]


async def test_t_takes_the_marked_with_their_twins_each_once(make_app: MakeApp) -> None:
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        menu = app.screen.query_one("#models", Menu)
        await pilot.press("tab")
        for model in ("resnet18", "plain18", "resnet20"):
            menu.choose(model)
            await pilot.press("space")
        await pilot.press("t")
        await until(pilot, lambda: len(script.specs) == 4 and app.live and app.live.over)
    assert [spec.model for spec in script.specs] == ["resnet18", "plain18", "resnet20", "plain20"]


async def test_a_mark_that_cannot_be_trained_is_said_before_enter(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        setup = setup_of(app)
        setup.recipe.set_values({"batch_size": 0})
        await pilot.press("space")
        await drawn(pilot)
        assert "batch size" in str(setup.query_one("#plan", Static).content)
