"""The data before training: beside the plan in Set up, and on a screen of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from textual.app import App
from textual.widgets import TabbedContent

from engine.control import RunControl
from engine.data.audit.hashing import looks_of
from engine.data.exclusion import read_list
from engine.lab import Lab
from engine.paths import Folders
from engine.spec import RunSpec
from tests.engine.test_audit import scenes
from tests.fakes import drain
from tests.tui.conftest import Compare, MakeApp, at_every_size, drawn, text_of, told, until
from tui.app import ReslabApp
from tui.screens.data import DataScreen
from tui.screens.data_images import Enlarged, ImagesPane
from tui.screens.setup import SetupScreen
from tui.widgets.gallery import Picture
from tui.widgets.picker import LazyPictures, Picker

SIDE = 48


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures with a test image in training, a smaller copy of another, and files that are none. PNG alone: the same
    pixels with every version of Pillow.
    """
    root = scenes(tmp_path / "photographs", {"train/cat": 14, "train/dog": 9, "test/cat": 4, "test/dog": 4})
    (root / "train/cat/same.png").write_bytes((root / "test/cat/0.png").read_bytes())
    with Image.open(root / "test/dog/1.png") as opened:
        opened.resize((40, 40), Image.Resampling.BILINEAR).save(root / "train/dog/small.png")
    (root / "train/cat/empty.png").touch()
    (root / "train/dog/text.png").write_text("no image")
    return root


def spec_of(root: Path, **changes: Any) -> RunSpec:
    return RunSpec(f"folder:{root}", "resnet20", **{"image_size": 32, **changes})


async def open_data(app: ReslabApp, pilot: Any, spec: RunSpec) -> DataScreen:
    """Set up with this spec, then v."""
    setup = app.screen
    assert isinstance(setup, SetupScreen)
    setup.show_spec(spec)
    await pilot.press("v")
    await until(pilot, lambda: isinstance(app.screen, DataScreen) and app.screen.is_open)
    await drawn(pilot)
    screen = app.screen
    assert isinstance(screen, DataScreen)
    return screen


@at_every_size
async def test_the_data_screen(size: tuple[int, int], make_app: MakeApp, compare_screen: Compare, root: Path) -> None:
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await open_data(app, pilot, spec_of(root, flip=True, crop_padding=4))
        compare_screen(app, "data-classes")
        await pilot.press("tab", "right", "space", "right")
        await drawn(pilot)
        compare_screen(app, "data-images")
        for name in ("augmented", "findings", "pairs", "left-out"):
            await pilot.press("tab")
            await drawn(pilot)
            compare_screen(app, f"data-{name}")


@at_every_size
async def test_set_up_shows_the_data_beside_the_plan(
    size: tuple[int, int], make_app: MakeApp, compare_screen: Compare, root: Path, folders: Folders
) -> None:
    drain(Lab(folders).audit(spec_of(root)))
    app = make_app()
    async with app.run_test(size=size) as pilot:
        setup = app.screen
        assert isinstance(setup, SetupScreen)
        setup.show_spec(spec_of(root))
        if size[0] >= 100:
            await until(pilot, lambda: "33 usable, 2 files left out" in text_of(app))
            assert "4 findings of the audit" in text_of(app)
        else:
            await until(pilot, lambda: "v: look at the data" in text_of(app))
        await until(pilot, lambda: "fc 10→2 classes" in text_of(app))
        await drawn(pilot)
        compare_screen(app, "setup-data")


@pytest.mark.slow
async def test_without_an_audit_set_up_lists_the_files_and_shows_some(make_app: MakeApp, root: Path) -> None:
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        setup = app.screen
        assert isinstance(setup, SetupScreen)
        setup.show_spec(spec_of(root))
        await until(pilot, lambda: "about 35 usable" in text_of(app))
        assert "▀" in text_of(app)
        setup.show_spec(RunSpec("mnist", "resnet20"))
        await until(pilot, lambda: "as published" in text_of(app) and "60,000" in text_of(app))


@pytest.mark.slow
async def test_classes_are_filtered_sorted_and_opened(make_app: MakeApp, root: Path) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_data(app, pilot, spec_of(root))
        assert text_of(app).index("cat  ") < text_of(app).index("dog  ")
        await pilot.press("slash", *"do")
        await drawn(pilot)
        assert "1 of 2 classes" in text_of(app)
        await pilot.press("escape")  # ends the filter, not the screen
        await drawn(pilot)
        assert "2 of 2 classes" in text_of(app)
        await pilot.press("o")
        await drawn(pilot)
        assert "train ↓" in text_of(app)
        await pilot.press("down", "enter")
        await drawn(pilot)
        assert screen.query_one(TabbedContent).active == "images"
        assert "all parts · dog: 14 images" in text_of(app)
        await pilot.press("p", "p")
        await drawn(pilot)
        assert "test · dog: 4 images" in text_of(app)
        assert "test 4 · dog" in text_of(app)
        assert "test/dog/0.png" in text_of(app)
        await pilot.press("enter")
        assert isinstance(app.screen, Enlarged)
        await pilot.press("escape", "escape")
        assert isinstance(app.screen, SetupScreen)


async def test_marked_images_are_left_out_of_the_next_runs_and_taken_back(
    make_app: MakeApp, root: Path, folders: Folders
) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await open_data(app, pilot, spec_of(root))
        await pilot.press("tab", "x")
        assert "mark images with space" in told(app)
        await pilot.press("space", "right", "space", "x")
        await drawn(pilot)
        setup = app.screen_stack[0]
        assert isinstance(setup, SetupScreen)
        path = excluded(setup)
        assert isinstance(path, str)
        first = screen.query_one(ImagesPane)
        hashes = {hashlib.sha256((root / f"train/cat/{name}.png").read_bytes()).hexdigest() for name in ("0", "1")}
        assert read_list(Path(path)).hashes == hashes
        assert "2 left out ✗" in text_of(app)
        assert "✗ train 0" in text_of(app)
        assert first.image is not None
        await pilot.press("x")
        assert excluded(setup) is None
        await pilot.press("space", "x", "escape")
        await drawn(pilot)
        chosen = excluded(setup)
        assert isinstance(chosen, str)
    data = drain(Lab(folders).look.open(spec_of(root, exclude=chosen), RunControl()))[1]
    assert [part.total for part in data.audit.parts] == [24, 8]


def excluded(setup: SetupScreen) -> object:
    return setup.recipe.values["exclude"]


@pytest.mark.slow
async def test_a_finding_opens_its_images(make_app: MakeApp, root: Path) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await open_data(app, pilot, spec_of(root))
        await pilot.press("tab", "tab", "tab")
        await drawn(pilot)
        assert "1 of 8 test images also lies in the training set" in " ".join(text_of(app).split())
        await pilot.press("enter")
        await drawn(pilot)
        assert "identical images in two parts: 1 image" in text_of(app)
        assert "test/cat/0.png" in text_of(app)
        await pilot.press("a")
        await drawn(pilot)
        assert "1 marked ●" in text_of(app)


@pytest.mark.slow
async def test_a_person_decides_on_pairs(make_app: MakeApp, root: Path, folders: Folders) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await open_data(app, pilot, spec_of(root))
        await pilot.press("tab", "tab", "tab", "tab")
        await drawn(pilot)
        assert "pair 1 of 1" in text_of(app)
        assert "in two parts · undecided" in text_of(app)
        assert "Pairs 1" in text_of(app)
        await pilot.press("s")
        await drawn(pilot)
        assert "✓ the same · 0 undecided" in text_of(app)
        assert list(Lab(folders).look.decisions().values()) == ["same"]
        assert "Pairs 1" not in text_of(app)
        await pilot.press("shift+tab")
        await drawn(pilot)
        assert "near-duplicates in two parts, confirmed as the same" in text_of(app)
        await pilot.press("tab", "d", "z")
        await drawn(pilot)
        assert Lab(folders).look.decisions() == {}


@pytest.mark.slow
async def test_augmentation_draws_again(make_app: MakeApp, root: Path) -> None:
    app = make_app()
    async with app.run_test(size=(120, 36)) as pilot:
        await open_data(app, pilot, spec_of(root, crop_padding=8))
        await pilot.press("tab", "right", "tab")
        await drawn(pilot)
        assert "train/cat/1.png with crop padding 8" in text_of(app)
        assert "draw 1 " in text_of(app)
        before = text_of(app)
        await pilot.press("n")
        await drawn(pilot)
        assert "draw 25" in text_of(app)
        assert text_of(app) != before


@pytest.mark.slow
async def test_leaving_stops_the_scan_at_once(
    make_app: MakeApp, root: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scan waits until the screen is gone, and then finds that it is to stop."""
    stopped: list[bool] = []
    whole = looks_of

    def slow(images: Any) -> Any:
        screen = app.screen_stack[-1]
        if isinstance(screen, DataScreen):
            while not screen.control.stop_requested:
                screen.control.wait(0.01)
            stopped.append(True)
        return whole(images)

    monkeypatch.setattr("engine.data.audit.scan.looks_of", slow)
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        setup = app.screen
        assert isinstance(setup, SetupScreen)
        setup.show_spec(spec_of(root))
        await pilot.press("v")
        await until(pilot, lambda: "esc: back" in text_of(app))
        await pilot.press("escape")
        assert isinstance(app.screen, SetupScreen)
        await until(pilot, lambda: stopped)
    assert Lab(folders).look.kept(spec_of(root)) is None


async def test_a_folder_that_cannot_be_read_is_said_and_left(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app()
    (tmp_path / "photographs/a").mkdir(parents=True)
    (tmp_path / "photographs/b").mkdir()
    async with app.run_test(size=(80, 24)) as pilot:
        setup = app.screen
        assert isinstance(setup, SetupScreen)
        setup.show_spec(spec_of(tmp_path / "photographs"))
        await pilot.press("v")
        await until(pilot, lambda: "photographs: " in text_of(app) and "loading" not in text_of(app))
        await pilot.press("o", "tab", "x", "space", "tab", "n", "tab", "tab", "s", "escape")
        assert isinstance(app.screen, SetupScreen)


async def test_a_hundred_thousand_pictures_are_read_only_where_they_are_drawn() -> None:
    made: list[int] = []

    def make(index: int) -> Picture:
        made.append(index)
        return Picture(np.zeros((1, 8, 8), np.uint8), (f"image {index}",))

    class PickerApp(App[None]):
        def compose(self) -> Any:
            yield Picker("picker")

    app = PickerApp()
    async with app.run_test(size=(80, 24)) as pilot:
        picker = app.query_one(Picker)
        picker.show(LazyPictures(100_000, make))
        picker.focus()
        await pilot.press("end")
        await pilot.pause()
        assert picker.cursor == 99_999
        assert 99_999 in made
        assert len(set(made)) < 50
