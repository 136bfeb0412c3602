"""Lists that draw only what is seen: keys, mouse, wide characters; the key bar; the pace of the live screen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.binding import Binding

from tui.pace import Pace
from tui.series import envelope
from tui.text import fitted
from tui.widgets.key_bar import KeyBar
from tui.widgets.menu import Menu, Row
from tui.widgets.table import Table


class TableApp(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []

    def compose(self) -> ComposeResult:
        yield Table("table", left=(1,), markable=True)

    def fill(self, ids: Sequence[int], marked: Sequence[int] = ()) -> Table:
        table = self.query_one(Table)
        rows = [(run, (str(run), "数字" if run % 2 else "digits", "x" * 40)) for run in ids]
        table.show(("run", "name", "rest"), (6, 6, 40), rows, marked)
        table.focus()
        return table

    def on_rows_selected(self, message: Table.Selected) -> None:
        self.told.append(self.query_one(Table).chosen)

    def on_table_header_selected(self, message: Table.HeaderSelected) -> None:
        self.told.append(f"column {message.column}")


def lines(table: Table) -> list[str]:
    return [table.render_line(y).text for y in range(table.size.height)]


async def test_a_table_of_a_hundred_thousand_rows_is_gone_through_by_keys() -> None:
    app = TableApp()
    async with app.run_test(size=(40, 11)) as pilot:
        table = app.fill(range(100_000))
        await pilot.press("pagedown", "down", "j", "k", "up")
        assert table.chosen == table._num_visible - 1
        await pilot.press("end")
        await pilot.pause()
        assert table.chosen == 99_999
        assert "99999" in lines(table)[table._num_visible]
        await pilot.press("down", "home", "up", "enter")
        assert (table.chosen, app.told) == (0, [0])


async def test_the_cursor_stays_on_its_row_when_the_order_changes() -> None:
    app = TableApp()
    async with app.run_test(size=(40, 11)) as pilot:
        table = app.fill(range(50))
        await pilot.press("down", "down", "down")
        app.fill(range(49, -1, -1), marked=[3])
        await pilot.pause()
        assert table.chosen == 3
        assert any("●" in line and " 3 " in line for line in lines(table))
        app.fill([7, 8])
        assert table.chosen in (7, 8)
        app.fill([])
        assert table.chosen is None


async def test_the_first_column_and_the_header_stay() -> None:
    app = TableApp()
    async with app.run_test(size=(30, 11)) as pilot:
        table = app.fill(range(1000, 1100))
        await pilot.pause()  # the bar to scroll with comes with the layout
        await pilot.press("right", "end")
        await pilot.pause()
        shown = lines(table)
        assert shown[0].lstrip().startswith("run")
        assert "name" not in shown[0]
        assert "1099" in shown[table._num_visible]
        assert all(cell_len(line) == table.scrollable_content_region.width for line in shown)


class PathsApp(App[None]):
    def compose(self) -> ComposeResult:
        yield Table("table", left=(0, 1))


@pytest.mark.parametrize(("path", "stays"), [("cat/数字.jpg", True), ("cat/" + 30 * "数字" + ".jpg", False)])
async def test_a_first_column_of_more_than_half_the_width_scrolls_too(path: str, stays: bool) -> None:
    app = PathsApp()
    async with app.run_test(size=(40, 6)) as pilot:
        table = app.query_one(Table)
        table.show(("left out", "why"), (cell_len(path), 60), [(0, (path, "empty"))])
        table.focus()
        await pilot.pause()
        assert lines(table)[1].startswith(f" {path[:6]}")
        await pilot.press(*["right"] * 20)
        await pilot.pause()
        assert lines(table)[1].startswith(f" {path[:6]}") == stays
        assert all(cell_len(line) == table.scrollable_content_region.width for line in lines(table))


async def test_a_click_opens_a_row_and_a_click_on_a_title_tells_its_column() -> None:
    app = TableApp()
    async with app.run_test(size=(80, 11)) as pilot:
        app.fill(range(10, 20))
        await pilot.pause()
        await pilot.click(Table, offset=(3, 4))
        await pilot.click(Table, offset=(12, 0))
        await pilot.pause()
        assert app.told == [13, "column 1"]


class MenuApp(App[None]):
    BINDINGS = [  # noqa: RUF012  # as in Textual
        Binding("a", "do", "Do it"),
        Binding("b", "not_now", "Not now"),
        Binding("z", "never", "Never"),
    ]
    done = 0

    def compose(self) -> ComposeResult:
        yield Menu([Row("a", ("数字データ集合", "1")), Row("b", ("b", "22"))], id="menu")
        yield KeyBar()

    def action_do(self) -> None:
        self.done += 1

    def action_not_now(self) -> None:
        self.done += 100

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return {"not_now": None, "never": False}.get(action, True)


async def test_wide_characters_are_measured_in_cells() -> None:
    app = MenuApp()
    async with app.run_test(size=(12, 6)):
        menu = app.query_one(Menu)
        shown = [menu.render_line(y).text for y in range(2)]
        assert [cell_len(line) for line in shown] == [12, 12]
        assert "…" in shown[0]


async def test_the_key_bar_shows_and_does_what_can_be_done_now() -> None:
    app = MenuApp()
    async with app.run_test(size=(60, 6)) as pilot:
        await pilot.pause()
        strip = app.query_one(KeyBar).render_line(0)
        assert "a Do it" in strip.text
        assert "Never" not in strip.text
        dim = {segment.text.strip(): bool(segment.style and segment.style.dim) for segment in strip}
        assert (dim["Do it"], dim["Not now"]) == (False, True)
        await pilot.click(KeyBar, offset=(strip.text.index("Do it"), 0))
        await pilot.click(KeyBar, offset=(strip.text.index("Not now"), 0))
        await pilot.pause()
        assert app.done == 1


async def test_a_narrow_key_bar_leaves_out_what_cannot_be_done_first() -> None:
    app = MenuApp()
    async with app.run_test(size=(16, 6)) as pilot:
        await pilot.pause()
        text = app.query_one(KeyBar).render_line(0).text
        assert "Do it" in text
        assert "Not now" not in text


@given(st.text(), st.integers(1, 30), st.booleans())
def test_fitted_text_is_as_wide_as_was_asked(text: str, width: int, right: bool) -> None:
    safe = "".join(char for char in text if char.isalnum())
    assert cell_len(fitted(safe, width, right)) == width


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=300), st.integers(2, 60))
def test_an_envelope_keeps_the_least_and_the_greatest_of_every_column(values: list[float], num_columns: int) -> None:
    x, y = np.arange(len(values), dtype=float), np.array(values)
    x_max = max(x[-1], 1.0)
    found = envelope(x, y, x_max, num_columns)
    columns = np.round(x * ((num_columns - 1) / x_max)).astype(int)
    assert found.columns.tolist() == sorted(set(columns.tolist()))
    for column, low, high in zip(found.columns, found.low, found.high, strict=True):
        assert (low, high) == (y[columns == column].min(), y[columns == column].max())


@pytest.mark.parametrize(("cost_s", "on_cpu", "wait_s"), [(0.1, True, 2.0), (0.1, False, 2.0), (0.02, False, 0.4)])
def test_a_dear_drawing_is_made_seldom(cost_s: float, on_cpu: bool, wait_s: float) -> None:
    pace = Pace()
    for _ in range(40):
        pace.add_cost(cost_s)
    assert pace.wait_s(on_cpu) == pytest.approx(wait_s, rel=0.01)
