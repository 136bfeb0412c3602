"""The chart, the series behind it, and text for the screens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.app import App, ComposeResult
from textual.geometry import Size
from textual.widget import Widget

from engine.text import memory_size
from tests.fakes import metrics
from tui.series import Series, envelope, nice_ticks
from tui.text import aligned, clock, counted, gib
from tui.widgets.bars import Bar
from tui.widgets.chart import Chart, Line, align
from tui.widgets.confusion import ConfusionMap
from tui.widgets.figures import FiguresTable
from tui.widgets.mode_bar import ModeBar

floats = st.floats(-1e6, 1e6)


@given(st.lists(floats, min_size=1, max_size=400), st.integers(2, 120))
def test_an_envelope_keeps_the_extremes_and_at_most_one_column_each(values: list[float], num_columns: int) -> None:
    x, y = np.arange(len(values), dtype=float), np.array(values)
    found = envelope(x, y, max(x[-1], 1.0), num_columns)
    assert len(found.columns) <= num_columns
    assert (np.diff(found.columns) > 0).all()
    assert (found.low.min(), found.high.max()) == (y.min(), y.max())
    folders = x * (num_columns - 1) / max(x[-1], 1.0)
    for column, low, high in zip(found.columns, found.low, found.high, strict=True):
        inside = y[np.abs(folders - column) <= 0.5 + 1e-6]
        assert inside.min() <= low <= high <= inside.max()


@given(st.lists(st.lists(floats, max_size=50), max_size=60))
def test_a_series_keeps_every_point(parts: list[list[float]]) -> None:
    series, everything = Series(), list[float]()
    for part in parts:
        series.extend(len(everything) + 1, part)
        everything += part
    assert series.y.tolist() == everything
    assert series.x.tolist() == list(range(1, len(everything) + 1))


@given(floats, st.floats(1e-3, 1e6), st.integers(2, 12))
def test_ticks_are_few_inside_and_evenly_apart(low: float, span: float, most: int) -> None:
    ticks = nice_ticks(low, low + span, most)
    assert 1 <= len(ticks) <= most
    slack = 1e-6 * (abs(low) + span)
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)
    if len(ticks) > 2:
        assert np.ptp(np.diff(ticks)) < slack


class ChartApp(App[None]):
    def compose(self) -> ComposeResult:
        yield Chart("loss", id="chart")


@pytest.mark.parametrize("dots", [1, 2, 5000])
async def test_a_falling_line_runs_from_top_left_to_bottom_right(dots: int) -> None:
    app = ChartApp()
    async with app.run_test(size=(60, 12)) as pilot:
        chart = app.query_one(Chart)
        x = np.linspace(0, 10, dots)
        chart.draw([Line("train", "#56B4E9", x, 10 - x)], 10, {0: "0", 10: "end"})
        await pilot.pause()
        lines = [strip.text for strip in chart._strips]
    assert all(len(line) == 60 for line in lines)
    drawn = [
        (row, column)
        for row, line in enumerate(lines)
        for column, char in enumerate(line)
        if 0x2800 < ord(char) < 0x2900
    ]
    assert drawn[0][0] == 0
    if dots > 2:
        rows, columns = np.array(drawn).T
        assert rows[columns == columns.max()].max() == len(lines) - 2
        assert np.corrcoef(rows, columns)[0, 1] > 0.95
    assert lines[-1].rstrip().endswith("end")


async def test_a_marker_stands_where_its_point_is() -> None:
    app = ChartApp()
    async with app.run_test(size=(60, 12)) as pilot:
        chart = app.query_one(Chart)
        chart.draw([Line("test", "#E69F00", np.array([10.0]), np.array([1.0]), "●")], 10, {})
        await pilot.pause()
        assert any(strip.text.endswith("●") for strip in chart._strips)


async def test_nothing_is_drawn_anew_without_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    app = ChartApp()
    async with app.run_test(size=(60, 12)) as pilot:
        chart = app.query_one(Chart)
        count = 0
        draw = chart.draw_lines

        def counted(width: int, height: int) -> object:
            nonlocal count
            count += 1
            return draw(width, height)

        monkeypatch.setattr(chart, "draw_lines", counted)
        chart.draw([Line("train", "red", np.arange(5.0), np.arange(5.0))], 5, {})
        await pilot.pause()
        chart.refresh()
        await pilot.pause()
        assert count == 1


class LinesApp(App[None]):
    def compose(self) -> ComposeResult:
        yield Bar("bar")
        yield FiguresTable("figures")
        yield ModeBar("train")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (Bar, lambda widget, value: widget.show("epoch", value, "img/s")),
        (Bar, lambda widget, value: widget.show_text(f"ended after {value}")),
        (FiguresTable, lambda widget, value: setattr(widget, "figures", (metrics(value), None, "now"))),
        (ModeBar, lambda widget, value: setattr(widget, "status", f"epoch {value}")),
    ],
    ids=["share", "sentence", "figures", "status"],
)
async def test_a_line_is_drawn_for_a_change_alone(
    kind: type[Widget], change: Callable[[Any, float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = LinesApp()
    async with app.run_test(size=(60, 12)) as pilot:
        widget, draws = app.query_one(kind), list[object]()
        monkeypatch.setattr(widget, "refresh", lambda *regions, **how: draws.append(how))
        for value in (0.25, 0.25, 0.5):
            change(widget, value)
            await pilot.pause()
    assert len(draws) == 2


@pytest.mark.parametrize("tiny", [Size(3, 2), Size(0, 0), Size(10, 1)])
def test_a_chart_without_room_is_empty(tiny: Size) -> None:
    assert Chart("loss").draw_lines(tiny.width, tiny.height) == []


def test_units_are_written_as_people_read_them() -> None:
    assert (clock(12), clock(245), clock(7809), clock(None)) == ("0:12", "4:05", "2:10:09", "–:––")
    assert (gib(6 * 2**30), gib(None)) == ("6.0", "–")
    assert (memory_size(2**20), memory_size(3 * 2**30)) == ("1.0 MiB", "3.0 GiB")


def test_aligned_columns_have_one_width() -> None:
    table = aligned([["a", "1"], ["\x1b long", "100"]])
    assert table == [["a     ", "  1"], ["␛ long", "100"]]


class ChartsApp(App[None]):
    def compose(self) -> ComposeResult:
        yield Chart("loss", id="loss")
        yield Chart("accuracy", (0.0, 1.0), lambda value: f"{100 * value:.0f} %", id="accuracy")

    def on_mount(self) -> None:
        align(*self.query(Chart))


@pytest.mark.parametrize("height", [12, 24, 60])
@pytest.mark.parametrize("top", [2.3, 0.00002, 123456.0])
async def test_charts_one_above_the_other_have_one_x_axis(height: int, top: float) -> None:
    app = ChartsApp()
    async with app.run_test(size=(80, height)) as pilot:
        loss, accuracy = app.query(Chart)
        x, ticks = np.arange(1.0, 11.0), {float(place): str(place) for place in range(0, 11, 2)}
        accuracy.draw([Line("test", "red", x, x / 10, "●")], 10, ticks)
        for scale in (top, 3.0, top):
            loss.draw([Line("test", "red", x, scale / x, "●")], 10, ticks)
            await pilot.pause()
            axes = [chart.render_line(chart.size.height - 1).text for chart in (loss, accuracy)]
            assert axes[0] == axes[1]
            at = []
            for chart in (loss, accuracy):
                lines = [chart.render_line(y).text for y in range(chart.size.height - 1)]
                at.append({column for line in lines for column, letter in enumerate(line) if letter == "●"})
            assert at[0] == at[1]
        await pilot.resize_terminal(120, 40)
        await pilot.pause()
        axes = [chart.render_line(chart.size.height - 1).text for chart in (loss, accuracy)]
        assert axes[0] == axes[1]


class MapApp(App[None]):
    def compose(self) -> ComposeResult:
        yield ConfusionMap("map")


CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.mark.parametrize(
    ("names", "width", "whole"),
    [
        (CIFAR, 200, True),
        (CIFAR, 125, True),
        (CIFAR, 80, False),
        (["Persian longhair cat", "dog"], 80, True),
        (["cat", "Shetland sheepdog of the north"], 120, True),
        (["猫の写真です", "犬"], 60, True),
    ],
)
async def test_a_confusion_header_is_cut_only_where_there_is_no_room(names: list[str], width: int, whole: bool) -> None:
    app = MapApp()
    async with app.run_test(size=(width, 20)) as pilot:
        shown = app.query_one(ConfusionMap)
        shown.show(names, [[12] * len(names) for _ in names])
        await pilot.pause()
        header = shown.render_line(0)
        assert header.cell_length <= width
        assert header.cell_length == shown.render_line(1).cell_length
        assert all(name in header.text for name in names) == whole
        assert all(name in shown.render_line(1 + row).text for row, name in enumerate(names))


def test_one_is_counted_as_one() -> None:
    assert [counted(number, "run") for number in (0, 1, 2, 1000)] == ["0 runs", "1 run", "2 runs", "1,000 runs"]
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]
