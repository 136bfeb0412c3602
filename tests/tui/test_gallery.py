"""The gallery: pixels become half-block cells, pages turn, and a run shows the images it got wrong."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from textual.app import App, ComposeResult
from textual.widgets import Static, TabbedContent

from engine.control import RunControl
from engine.runs import Lab, run
from engine.spec import RunSpec
from tests.tui.conftest import SIZES, Compare, MakeApp, drawn, text_of, until
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


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
async def test_a_run_shows_the_images_it_got_wrong(
    size: tuple[int, int], make_app: MakeApp, compare_screen: Compare
) -> None:
    app = make_app()
    await asyncio.to_thread(lambda: list(run(RunSpec("digits", "resnet20", epochs=1), Lab(app.places), RunControl())))
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
    from engine.results.store import Store
    from tests.fakes import events_of

    spec = RunSpec("digits", "resnet18")
    app = make_app()
    with Store(app.places.database) as store:
        number = store.create_run(spec)
        for event in events_of(spec, number):
            store.record(event)
    async with app.run_test(size=(120, 30)) as pilot:
        app.open_run(number)
        await drawn(pilot)
        app.screen.query_one(TabbedContent).active = "mistakes"
        await until(pilot, lambda: "have changed since" in text_of(app))


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
