"""The gallery: pixels become half-block cells, pages turn, and a run shows the images it got wrong."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import numpy as np
import pytest
from textual.app import App, ComposeResult
from textual.widgets import Static, TabbedContent

from engine.lab import Lab
from engine.spec import RunSpec
from tests.tui.conftest import Compare, MakeApp, at_every_size, drawn, text_of, until
from tui.widgets.gallery import Gallery, Picture, half_blocks


def test_a_cell_holds_the_pixel_above_and_the_pixel_below() -> None:
    pixels = np.zeros((3, 4, 4), np.uint8)
    pixels[:, 0, 0] = (255, 0, 0)
    pixels[:, 1, 0] = (0, 0, 255)
    lines = half_blocks(pixels, 4)
    assert (len(lines), len(lines[0])) == (2, 4)
    style = lines[0][0].style
    assert style is not None
    assert style.color is not None
    assert style.bgcolor is not None
    assert style.color.triplet == (255, 0, 0)
    assert style.bgcolor.triplet == (0, 0, 255)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 200, 120), (1, 1, 1), (3, 30, 300)])
def test_every_shape_fits_into_the_square(shape: tuple[int, int, int]) -> None:
    lines = half_blocks(np.full(shape, 9, np.uint8), 16)
    assert [len(line) for line in lines] == [16] * 8


class GalleryApp(App[None]):
    def compose(self) -> ComposeResult:
        yield Gallery(id="gallery")


async def test_pages_show_every_picture_once() -> None:
    app = GalleryApp()
    async with app.run_test(size=(80, 24)) as pilot:
        gallery = app.query_one(Gallery)
        gallery.show([Picture(np.zeros((1, 8, 8), np.uint8), (f"[red]{n}", "")) for n in range(20)])
        seen = ""
        for _ in range(4):
            await pilot.pause()
            seen += "".join(strip.text for strip in gallery._strips)
            gallery.action_page(1)
        assert all(f"[red]{n} " in seen for n in range(20))
        gallery.action_page(1)
        await pilot.pause()
        assert "of 20" in gallery._strips[-1].text
        gallery.show((), "nothing here")
        await pilot.pause()
        assert gallery._strips[0].text == "nothing here"


@at_every_size
async def test_a_run_shows_the_images_it_got_wrong(
    size: tuple[int, int], make_app: MakeApp, compare_screen: Compare
) -> None:
    app = make_app()
    spec = RunSpec("digits", "resnet20", epochs=1)
    await asyncio.to_thread(lambda: list(Lab(app.state.folders).train(spec).events()))
    async with app.run_test(size=size) as pilot:
        app.open_run(1)
        await drawn(pilot)
        app.screen.query_one(TabbedContent).active = "mistakes"
        await until(pilot, lambda: " of 2" in text_of(app))
        assert "is " in text_of(app)
        first = text_of(app)
        await pilot.press("n")
        await until(pilot, lambda: text_of(app) != first)


async def test_images_that_are_gone_are_one_sentence(make_app: MakeApp) -> None:
    from engine.store.store import Store
    from tests.fakes import events_of

    spec = RunSpec("digits", "resnet18")
    app = make_app()
    with Store(app.state.folders.database) as store:
        number = store.create_run(spec)
        for event in events_of(spec, number):
            store.record(event)
    async with app.run_test(size=(120, 30)) as pilot:
        app.open_run(number)
        await drawn(pilot)
        app.screen.query_one(TabbedContent).active = "mistakes"
        await until(pilot, lambda: "have changed, or" in text_of(app))


async def test_where_the_terminal_has_pixels_a_widget_lies_over_every_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for textual-image's widget: one for each picture of the page, at its place, in its shape."""
    made: list[object] = []

    def make(image: object) -> Static:
        made.append(image)
        return Static("sharp")

    monkeypatch.setattr(Gallery, "sharp", staticmethod(make))
    app = GalleryApp()
    async with app.run_test(size=(80, 24)) as pilot:
        gallery = app.query_one(Gallery)
        gallery.show([Picture(np.full((1, 8, 4), shade, np.uint8), ("", "")) for shade in range(10)])
        await pilot.pause()
        await pilot.pause()
        widgets = list(gallery.query(".sharp"))
        assert len(widgets) == 8
        assert [widget.region.offset for widget in widgets][:5] == [(0, 0), (18, 0), (36, 0), (54, 0), (0, 11)]
        assert widgets[0].size == (8, 8)
        assert made[3].getpixel((0, 0)) == (3, 3, 3)  # type: ignore[attr-defined]
        gallery.action_page(1)
        await pilot.pause()
        await pilot.pause()
        assert len(gallery.query(".sharp")) == 2


async def test_below_every_mistake_stand_the_classes_and_the_file(make_app: MakeApp, tmp_path: Path) -> None:
    """Folders 0 to 11, whose classes are sorted as text: number 2 is folder 10."""
    from tests.engine.test_naming import make_numbered

    spec = RunSpec(f"folder:{make_numbered(tmp_path / 'numbers')}", "resnet20", epochs=1, test_share=0.5)
    app = make_app()
    await asyncio.to_thread(lambda: list(Lab(app.state.folders).train(spec).events()))
    async with app.run_test(size=(120, 36)) as pilot:
        app.open_run(1)
        await drawn(pilot)
        app.screen.query_one(TabbedContent).active = "mistakes"
        await until(pilot, lambda: " of 2" in text_of(app))
        named = re.findall(r"\bis (\d+) ", text_of(app))
        files = re.findall(r"\b(\d+)/\1-\d\.png", text_of(app))
        assert named
        assert files == named


async def test_pictures_with_a_file_have_a_line_more(make_app: MakeApp) -> None:
    app = GalleryApp()
    async with app.run_test(size=(80, 24)) as pilot:
        pictures = [
            Picture(np.zeros((1, 8, 8), np.uint8), ("cat 98 %", "is dog", "sure"), f"some/folder/dog.{n:05}.jpg")
            for n in range(4)
        ]
        app.query_one(Gallery).show([*pictures, Picture(pictures[0].pixels, ("", "is hen"))])
        await pilot.pause()
        below = [strip.text for strip in app.query_one(Gallery)._strips][8:12]
        assert [line.split("  ")[0].strip() for line in below] == ["cat 98 %", "is dog", "sure", "…r/dog.00000.jpg"]
