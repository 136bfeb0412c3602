"""The app's state: subscribers hear each change once, and screens reach the app only through what they are given."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.app import App
from textual.screen import Screen
from textual.widget import Widget

from engine.memory.ledger import Ledger
from engine.paths import Folders
from engine.records import QueueEntry
from engine.spec import RunSpec
from tests.fakes import ScriptedRun
from tests.tui.conftest import MakeApp, drawn, until
from tui.live import LiveRun
from tui.screens.base import follow
from tui.screens.train import TrainScreen
from tui.state import AppState, Cache, Observable, QueueState, Settings, Signal
from tui.widgets.mode_bar import ModeBar

TUI = Path(__file__).parents[2] / "tui"
SPEC = RunSpec("digits", "resnet18")


def sources(*folders: str) -> list[Path]:
    found = sorted(path for folder in folders for path in (TUI / folder).rglob("*.py"))
    assert found
    return found


def reaches_into_the_app(tree: ast.AST) -> Iterator[str]:
    """Names in `self.app.<name>` and `<anything>.app.<name>` that Textual's App does not have."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Attribute(attr="app"), attr=name) if name not in dir(App):
                yield name


def probes(tree: ast.AST) -> Iterator[int]:
    """Lines that mention `hasattr`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "hasattr":
            yield node.lineno


@pytest.mark.parametrize("path", sources("screens", "widgets"), ids=lambda path: path.name)
def test_a_screen_asks_textuals_own_app_alone(path: Path) -> None:
    assert list(reaches_into_the_app(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize("path", sources("."), ids=lambda path: path.name)
def test_no_object_is_probed_for_an_attribute(path: Path) -> None:
    assert list(probes(ast.parse(path.read_text()))) == []


def test_the_checks_notice_what_they_look_for() -> None:
    tree = ast.parse("self.app.session.live\nself.app.exit()\nhasattr(screen, 'load')")
    assert (list(reaches_into_the_app(tree)), list(probes(tree))) == (["session"], [3])


async def test_a_subscriber_hears_each_change_once_and_no_equal_value() -> None:
    value, heard = Observable("a"), list[str]()
    app: App[None] = App()
    async with app.run_test():
        value.subscribe(app.screen, heard.append)
        for text in ("a", "b", "b", "".join("b"), "c"):
            value.value = text
    assert heard == ["b", "c"]


async def test_a_subscriber_hears_nothing_after_it_is_unmounted() -> None:
    signal, heard = Signal[int](), list[tuple[str, int]]()
    app: App[None] = App()
    async with app.run_test():
        stays, goes = Widget(), Widget()
        await app.mount(stays, goes)
        signal.subscribe(stays, lambda number: heard.append(("stays", number)))
        signal.subscribe(goes, lambda number: heard.append(("goes", number)))
        signal.publish(1)
        await goes.remove()
        signal.publish(2)
    signal.publish(3)
    assert heard == [("stays", 1), ("goes", 1), ("stays", 2)]


async def test_a_screen_that_was_left_hears_nothing() -> None:
    signal, heard = Signal[int](), list[int]()
    app: App[None] = App()
    async with app.run_test():
        screen = Screen[None]()
        await app.push_screen(screen)
        signal.subscribe(screen, heard.append)
        signal.publish(1)
        await app.pop_screen()
        signal.publish(2)
    assert heard == [1]


async def test_a_screen_that_is_covered_hears_again_once_it_is_seen() -> None:
    signal, heard = Signal[int](), list[int]()
    app: App[None] = App()
    async with app.run_test():
        below = app.screen
        follow(below, signal, heard.append)
        await app.push_screen(Screen())
        await app.push_screen(Screen())
        signal.publish(1)
        await app.pop_screen()
        await app.pop_screen()
        signal.publish(2)
    assert heard == [2]


async def test_what_a_subscriber_raises_is_not_swallowed() -> None:
    signal = Signal[int]()
    app: App[None] = App()
    async with app.run_test():
        signal.subscribe(app.screen, lambda number: 1 // number)
        with pytest.raises(ZeroDivisionError):
            signal.publish(0)


async def test_a_cache_publishes_what_is_new_and_forgets_in_silence() -> None:
    cache, heard = Cache[str, int](), list[int]()
    app: App[None] = App()
    async with app.run_test():
        cache.subscribe(app.screen, heard.append)
        cache.add("a", 1)
        assert cache.get("a") == 1
        cache.clear()
        assert cache.get("a") is None
    assert heard == [1]


def test_a_queue_says_how_many_wait_and_how_many_are_on_hold() -> None:
    entries = tuple(QueueEntry(number, SPEC) for number in range(3))
    assert QueueState().summary == ""
    assert QueueState(entries).summary == "3 waiting"
    state = QueueState(entries, on_hold=frozenset({0, 2, 9}))
    assert [item.number for item in state.held] == [0, 2]
    assert state.summary == "1 waiting, 2 on hold"
    assert state.hint == "2 runs on hold · u: queue, then g: resume"


def test_the_status_tells_of_the_live_run_and_of_the_queue(folders: Folders) -> None:
    state = AppState(Settings(folders), Ledger())
    state.update_status()
    assert (state.status.value, state.is_running) == ("", False)
    state.live.value = LiveRun(SPEC)
    state.queue.value = QueueState((QueueEntry(1, SPEC),))
    state.update_status()
    assert (state.status.value, state.is_running) == ("loading torch · 1 waiting", True)


async def test_the_bar_of_a_screen_that_is_not_seen_is_left_alone(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test() as pilot:
        hidden = app.screen.query_one(ModeBar)
        await pilot.press("3")
        await drawn(pilot)
        app.state.status.value = "training"
        assert (hidden.status, app.screen.query_one(ModeBar).status) == ("", "training")
        app.state.status.value = ""


async def test_train_draws_once_for_what_it_hears(make_app: MakeApp) -> None:
    script = ScriptedRun(hold_at=7)
    app = make_app(script, specs=[SPEC])
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.live and app.live.version == 7)
        await drawn(pilot)
        screen, draws = app.screen, list[object]()
        assert isinstance(screen, TrainScreen)
        assert app.live is not None
        screen.watch(screen, "drawn_state", lambda state: draws.append(state), init=False)
        app.live.version += 1
        app.state.run_changed.publish(app.live)
        app.state.run_changed.publish(app.live)
        assert len(draws) == 1
        script.release.set()
        await until(pilot, lambda: app.live and app.live.over)
