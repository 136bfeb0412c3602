"""The queue in the app: added by keys, run one after another, held, reordered, offered again after a restart."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Sequence

import pytest
from textual.widgets import Input

from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import ScriptedRun
from tests.tui.conftest import Compare, MakeApp, at_every_size, drawn, text_of, told, until
from tests.waiting import WITHIN_S
from tui.screens.queue import QueueScreen
from tui.widgets.menu import Menu

WAITING = [RunSpec("digits", name, epochs=3) for name in ("resnet18", "plain18", "resnet34")]


def names(script: ScriptedRun) -> list[str]:
    return [f"{spec.model} {spec.dataset} {spec.seed}" for spec in script.specs]


async def test_all_marked_pairs_run_one_after_another(make_app: MakeApp) -> None:
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("space", "space", "enter", "space", "space")
        await drawn(pilot)
        assert "● digits" in text_of(app)
        await pilot.press("a")
        await until(pilot, lambda: len(script.specs) == 4 and app.live and app.live.over)
        assert "● digits" not in text_of(app)
        assert app.current_mode == "setup"
    assert names(script) == ["resnet18 digits 0", "resnet34 digits 0", "resnet18 mnist 0", "resnet34 mnist 0"]


async def test_seeds_are_asked_for(make_app: MakeApp) -> None:
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("A")
        await until(pilot, lambda: isinstance(app.focused, Input))
        await pilot.press("backspace", "0", "enter")
        await pilot.pause()
        assert "expected a whole number from 1 to 100" in text_of(app)
        await pilot.press("backspace", "3", "enter")
        await until(pilot, lambda: len(script.specs) == 3 and app.live and app.live.over)
    assert [spec.seed for spec in script.specs] == [0, 1, 2]


async def test_t_queues_the_twins_and_overlays_their_curves(make_app: MakeApp) -> None:
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(120, 36)) as pilot:
        await pilot.press("t")
        await until(pilot, lambda: len(script.specs) == 2 and app.live and app.live.over)
        await pilot.press("2")
        await drawn(pilot)
        assert "─ resnet18" in text_of(app)
    assert names(script) == ["resnet18 digits 0", "plain18 digits 0"]


async def test_o_queues_a_report(make_app: MakeApp) -> None:
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("o")
        await until(pilot, lambda: app.focused is not None and app.focused.id == "choices")
        assert "part3: ResNet-18 against ResNet-50" in text_of(app)
        await pilot.press("down", "down", "enter")
        await until(pilot, lambda: len(script.specs) == 6 and app.live and app.live.over)
    assert script.specs[0].model == "plain20"


async def test_a_stop_by_hand_holds_the_queue(make_app: MakeApp) -> None:
    script = ScriptedRun(hold_at=5)
    app = make_app(script, specs=WAITING)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.live and app.live.version == 5 and len(app.queue.waiting) == 2)
        await pilot.press("s")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press("y")
        await until(pilot, lambda: app.live and app.live.over and not app.queue.is_active)
        assert len(script.specs) == 1
        script.release.set()
        await pilot.press("u")
        await drawn(pilot)
        assert "2 on hold · g resumes" in text_of(app)
        await pilot.press("g", "escape")
        await until(pilot, lambda: len(script.specs) == 3 and app.live and app.live.over)


async def test_what_waits_can_be_moved_and_removed(make_app: MakeApp, folders: Folders) -> None:
    script = ScriptedRun(hold_at=5)
    app = make_app(script, specs=WAITING)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: len(app.queue.waiting) == 2)
        await pilot.press("u")
        await until(pilot, lambda: app.focused is not None and app.focused.id == "waiting")
        await pilot.press("down", "K")
        await until(pilot, lambda: [item.spec.model for item in app.queue.waiting] == ["resnet34", "plain18"])
        screen = app.screen
        assert isinstance(screen, QueueScreen)
        screen.redraw()
        screen.query_one(Menu).highlighted = 1
        await pilot.press("d")
        await until(pilot, lambda: len(app.queue.waiting) == 1)
        await pilot.press("escape")
        script.release.set()
        await until(pilot, lambda: len(script.specs) == 2 and app.live and app.live.over)
    assert [spec.model for spec in script.specs] == ["resnet18", "resnet34"]


@pytest.mark.parametrize("answer", ["y", "n"])
async def test_a_queue_from_the_last_time_is_offered(answer: str, make_app: MakeApp, folders: Folders) -> None:
    with Store(folders.database) as store:
        store.enqueue(WAITING)
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: "3 runs wait in the queue" in text_of(app))
        await pilot.press(answer)
        if answer == "y":
            await until(pilot, lambda: len(script.specs) == 3 and app.live and app.live.over)
        else:
            await drawn(pilot)
            assert script.specs == []
            assert len(app.queue.waiting) == 3


async def test_an_entry_that_cannot_be_read_is_reported_once_and_stays(make_app: MakeApp, folders: Folders) -> None:
    newer = json.dumps({"format": 3, "plan": "digits"})
    with Store(folders.database) as store:
        store.enqueue(WAITING[:1])
    with sqlite3.connect(folders.database) as other:
        other.execute("INSERT INTO queue (place, spec) VALUES (0, ?)", (newer,))
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: "1 run waits in the queue" in text_of(app))
        await pilot.press("y")
        await until(pilot, lambda: len(script.specs) == 1 and app.live and app.live.over)
        said = "queue entry 2 cannot be read and stays in the queue: the entry has format 3, this reslab reads"
        assert told(app).count(said) == 1
    with sqlite3.connect(folders.database) as other:
        assert other.execute("SELECT spec FROM queue").fetchall() == [(newer,)]


async def test_quitting_keeps_what_waits(make_app: MakeApp, folders: Folders) -> None:
    app = make_app(ScriptedRun(hold_at=5), specs=WAITING)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.live and app.live.version == 5 and len(app.queue.waiting) == 2)
        await pilot.press("q")
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press("y")
        await until(pilot, lambda: not app.is_running)
    with Store(folders.database) as store:
        assert [item.spec for item in store.waiting()] == WAITING[1:]


async def test_with_exit_the_app_leaves_after_the_last(make_app: MakeApp) -> None:
    script = ScriptedRun()
    app = make_app(script, specs=WAITING, exit_when_done=True)
    async with app.run_test() as pilot:
        await until(pilot, lambda: not app.is_running)
    assert len(script.specs) == 3
    assert app.return_code == 0


async def test_a_first_run_that_is_quicker_than_the_record_leaves_none_behind(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, late, enqueue = ScriptedRun(), threading.Event(), Store.enqueue

    def slowly(store: Store, specs: Sequence[RunSpec]) -> None:
        late.wait(WITHIN_S)
        enqueue(store, specs)

    monkeypatch.setattr(Store, "enqueue", slowly)
    app = make_app(script, specs=WAITING, exit_when_done=True)
    async with app.run_test() as pilot:
        await until(pilot, lambda: app.live and app.live.over and not app.session.live)
        for _ in range(5):
            await pilot.pause()
        late.set()
        await until(pilot, lambda: not app.is_running)
    assert [spec.model for spec in script.specs] == ["resnet18", "plain18", "resnet34"]


@at_every_size
async def test_the_queue_as_a_picture(size: tuple[int, int], make_app: MakeApp, compare_screen: Compare) -> None:
    app = make_app(ScriptedRun(hold_at=5), specs=WAITING)
    async with app.run_test(size=size) as pilot:
        await until(pilot, lambda: app.live and app.live.version == 5 and len(app.queue.waiting) == 2)
        await pilot.press("1")
        await drawn(pilot)
        app.state.update_status()
        await pilot.press("u")
        await until(pilot, lambda: app.focused is not None and app.focused.id == "waiting")
        await drawn(pilot)
        compare_screen(app, "queue")


async def test_entries_that_are_added_at_once_are_all_trained(make_app: MakeApp, folders: Folders) -> None:
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        for spec in WAITING:
            app.queue.add([spec])
        await until(pilot, lambda: len(script.specs) == 3 and app.live and app.live.over)
        await drawn(pilot)
    assert sorted(spec.model for spec in script.specs) == sorted(spec.model for spec in WAITING)
    with Store(folders.database) as store:
        assert store.waiting() == []


async def test_keys_on_a_queue_that_is_still_being_read_do_nothing(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await pilot.press("u")
        await until(pilot, lambda: isinstance(app.screen, QueueScreen))
        assert isinstance(app.screen, QueueScreen)
        app.screen.action_remove()
        app.screen.action_move(1)
        await drawn(pilot)


async def test_whoever_looks_at_a_run_is_not_offered_the_queue(make_app: MakeApp, folders: Folders) -> None:
    """It may be running on a cluster at that moment."""
    with Store(folders.database) as store:
        store.enqueue(WAITING)
        app = make_app(attached=store.create_run(WAITING[0]))
        async with app.run_test(size=(100, 30)) as pilot:
            await until(pilot, lambda: "belongs to the terminal" in told(app))
            await drawn(pilot)
            assert not app.screen.is_modal


async def test_a_declined_queue_does_not_run_with_what_is_added(make_app: MakeApp, folders: Folders) -> None:
    with Store(folders.database) as store:
        store.enqueue(WAITING)
    script = ScriptedRun()
    app = make_app(script)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press("n", "down", "tab", "t")
        await until(pilot, lambda: len(script.specs) == 2 and app.live and app.live.over and not app.session.live)
        await drawn(pilot)
        assert names(script) == ["resnet18 mnist 0", "plain18 mnist 0"]
        assert "5 in the queue, 3 of them on hold" in told(app)
        assert "3 on hold" in text_of(app).splitlines()[0]
        await pilot.press("2")
        await drawn(pilot)
        assert "3 runs on hold · u: queue, then g: resume" in text_of(app)
        await pilot.press("u", "g", "escape")
        await until(pilot, lambda: len(script.specs) == 5 and app.live and app.live.over)
    assert [spec.model for spec in script.specs[2:]] == ["resnet18", "plain18", "resnet34"]


async def test_train_says_that_the_queue_is_on_hold_before_any_run(make_app: MakeApp, folders: Folders) -> None:
    with Store(folders.database) as store:
        store.enqueue(WAITING[:1])
    app = make_app()
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.screen.is_modal)
        await pilot.press("n", "2")
        await drawn(pilot)
        assert "no run yet · 1: set one up · 1 run on hold · u: queue, then g: resume" in text_of(app)


async def test_what_waits_stays_on_hold_while_what_is_added_runs(make_app: MakeApp) -> None:
    script = ScriptedRun(hold_at=5)
    app = make_app(script, specs=WAITING)
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.live and app.live.version == 5 and len(app.queue.waiting) == 2)
        await pilot.press("u", "h", "escape", "1", "a")
        await until(pilot, lambda: len(app.queue.waiting) == 3)
        await pilot.press("u")
        await drawn(pilot)
        assert "1 waiting, 2 on hold · g resumes" in text_of(app)
        assert text_of(app).count("on hold  ") == 2
        await pilot.press("escape")
        script.release.set()
        await until(pilot, lambda: len(script.specs) == 2 and app.live and app.live.over and not app.session.live)
        await drawn(pilot)
        assert len(script.specs) == 2
        assert app.state.queue.value.summary == "2 on hold"


async def test_one_of_a_thing_is_not_many(make_app: MakeApp) -> None:
    app = make_app(ScriptedRun(hold_at=5), specs=[RunSpec("digits", "resnet18", epochs=1, seed=n) for n in range(2)])
    async with app.run_test(size=(100, 30)) as pilot:
        await until(pilot, lambda: app.live and app.live.version == 5 and len(app.queue.waiting) == 1)
        await pilot.press("u")
        await drawn(pilot)
        assert "1 epoch " in text_of(app)
