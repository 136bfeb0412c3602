"""Looking at mistakes: the heat map by keys, one cell's images, the files left out, and one's own image."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from textual.app import App, ComposeResult
from textual.widgets import Input, Static, TabbedContent

from engine.lab import Lab
from engine.paths import Folders
from engine.spec import RunSpec
from tests.tui.conftest import MakeApp, drawn, text_of, until
from tui.screens.predict import PredictScreen, complete_path
from tui.widgets.confusion import ConfusionMap

NAMES = ("ant", "bee", "cat")
COUNTS = ((8, 2, 0), (0, 10, 0), (1, 4, 5))


class MapApp(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.chosen: list[tuple[int, int]] = []

    def compose(self) -> ComposeResult:
        yield ConfusionMap("map")

    def on_confusion_map_chosen(self, event: ConfusionMap.Chosen) -> None:
        self.chosen.append((event.true, event.predicted))


def lines_of(shown: ConfusionMap) -> list[str]:
    return [shown.render_line(y).text for y in range(shown.size.height)]


async def test_the_cursor_starts_at_the_worst_confusion_and_goes_on_to_the_next() -> None:
    app = MapApp()
    async with app.run_test(size=(60, 12)) as pilot:
        shown = app.query_one(ConfusionMap)
        shown.show(NAMES, COUNTS)
        shown.focus()
        assert "true cat → bee: 4 of 10, 40.0 %" in lines_of(shown)[-1]
        await pilot.press("n")
        assert "true ant → bee: 2 of 10" in lines_of(shown)[-1]
        await pilot.press("n", "n")
        assert shown.cursor == (2, 1)
        await pilot.press("b", "enter", "k", "h", "h", "h", "enter")
        assert app.chosen == [(2, 0), (1, 0)]
        assert "true bee → ant: 0 of 10" in lines_of(shown)[-1]


@pytest.mark.parametrize(("number", "width"), [(3, 60), (10, 60), (100, 80), (100, 200), (1000, 80)])
async def test_the_cell_under_the_cursor_is_always_on_the_screen(number: int, width: int) -> None:
    counts = np.diag(np.full(number, 50)) + np.eye(number, k=1, dtype=int)
    app = MapApp()
    async with app.run_test(size=(width, 24)):
        shown = app.query_one(ConfusionMap)
        shown.show([f"class {place}" for place in range(number)], counts.tolist())
        for cursor in ((0, 0), (number - 1, number - 1), (number // 2, number // 2)):
            shown.cursor = cursor
            lines = lines_of(shown)
            assert all(len(line) <= width for line in lines)
            assert any(line.startswith(f"class {cursor[0]} ") for line in lines[1:-1])
            reversed_cells = [
                segment
                for y in range(24)
                for segment in shown.render_line(y)
                if segment.style and segment.style.reverse
            ]
            assert len(reversed_cells) == 1


async def test_nothing_is_evaluated_yet() -> None:
    app = MapApp()
    async with app.run_test(size=(60, 12)) as pilot:
        await pilot.press("enter", "n", "j")
        assert "not evaluated" in lines_of(app.query_one(ConfusionMap))[0]
        assert app.chosen == []


async def test_a_cell_opens_to_its_images_and_one_s_own_image_is_looked_at(
    make_app: MakeApp, folders: Folders, tmp_path: Path
) -> None:
    def train() -> None:
        list(Lab(folders).train(RunSpec("digits", "resnet20", epochs=1)).events())

    await asyncio.to_thread(train)
    picture = tmp_path / "own.png"
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(picture)
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        app.open_run(1)
        await drawn(pilot)
        app.screen.query_one(TabbedContent).active = "confusion"
        await drawn(pilot)
        shown = app.screen.query_one(ConfusionMap)
        true, predicted = shown.cursor
        count = shown._counts[true][predicted]
        await pilot.press("down", "enter")
        await until(pilot, lambda: f"of {count}" in text_of(app) and "▀" in text_of(app))
        assert f"{true} classified as {predicted}" in text_of(app)
        await pilot.press("m")
        await until(pilot, lambda: "misclassified test images" in text_of(app) and f"of {count}" not in text_of(app))
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, PredictScreen))
        app.screen.query_one(Input).value = str(tmp_path / "gone.png")
        await pilot.press("enter")
        await until(pilot, lambda: "cannot read" in text_of(app))
        app.screen.query_one(Input).value = str(picture)
        await pilot.press("enter")
        await until(pilot, lambda: str(app.screen.query_one("#guesses", Static).content).count(" %") == 5)
        await pilot.press("escape", "escape")
        await until(pilot, lambda: len(app.screen_stack) == 1)


def test_a_path_is_completed_to_the_first_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "b.jpg").touch()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    assert complete_path("c") == "cats/"
    assert complete_path(f"{tmp_path}/ca") == f"{tmp_path}/cats/"
    assert complete_path("cats/") == "cats/b.jpg"
    assert complete_path(".h") == ".hidden"
    assert complete_path("nothing") is None
    assert complete_path("~nobody-of-this-name/x") is None


async def test_a_network_behind_more_is_found_by_typing_and_trained(make_app: MakeApp) -> None:
    from tests.fakes import ScriptedRun

    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("down", "enter", "end", "a")
        await until(pilot, lambda: any("choose an architecture" in str(note.message) for note in app._notifications))
        await pilot.press("enter")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press(*"nosuch")
        await drawn(pilot)
        assert "no matching architecture" in text_of(app)
        await pilot.press("enter", "ctrl+u", *"shuffle", "down", "enter")
        await until(pilot, lambda: not app.screen.is_modal)
        await drawn(pilot)
        assert "conv1.0 3→1 channels" in text_of(app)
        await pilot.press("enter")
        await until(pilot, lambda: app.live and app.live.over)
    assert script.specs[0].model == "shufflenet_v2_x1_0"


async def test_images_too_small_for_a_network_are_said_before_it_trains(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("enter", "end", "enter")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press(*"alexnet", "enter")
        await until(pilot, lambda: not app.screen.is_modal)
        await drawn(pilot)
        assert "at least 63 pixels" in text_of(app)


async def test_a_folder_of_one_s_own_is_looked_through(make_app: MakeApp, folders: Folders, tmp_path: Path) -> None:
    def train() -> None:
        list(Lab(folders).train(RunSpec("digits", "resnet20", epochs=1)).events())

    await asyncio.to_thread(train)
    (tmp_path / "own" / "inner").mkdir(parents=True)
    for number in range(20):
        place = tmp_path / "own" / ("inner" if number % 2 else ".") / f"{number:02}.png"
        Image.fromarray(np.full((20, 20), number, np.uint8)).save(place)
    (tmp_path / "own" / "notes.txt").write_text("no image")
    app = make_app()
    async with app.run_test(size=(140, 40)) as pilot:
        app.open_run(1)
        await drawn(pilot)
        await pilot.press("p")
        await until(pilot, lambda: isinstance(app.screen, PredictScreen))
        app.screen.query_one(Input).value = str(tmp_path / "empty")
        (tmp_path / "empty").mkdir()
        await pilot.press("enter")
        await until(pilot, lambda: "no image in" in text_of(app))
        app.screen.query_one(Input).value = str(tmp_path / "own")
        await pilot.press("enter")
        await until(pilot, lambda: "20 images:" in text_of(app))
        assert "left out 1 other file " in text_of(app)
        assert "00.png" in text_of(app)
        first = text_of(app)
        await pilot.press("n")
        await until(pilot, lambda: text_of(app) != first)
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, PredictScreen))
