"""What starts next, and what does not, with a backend whose runs are scripted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from engine.control import RunControl
from engine.errors import ClusterError, SpecError
from engine.events import Event, RunEnded, RunStarted
from engine.launch.backend import Limit, Slot
from engine.launch.scheduler import ListSource, Scheduler, StoredQueue, Turn
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import ScriptedRun
from tests.waiting import until

SPEC = RunSpec("digits", "resnet18", epochs=1)
SPECS = [SPEC.replace(seed=seed) for seed in range(3)]


class Crowd(Limit):
    """Room for two at once, and for none of seed 1."""

    def __init__(self) -> None:
        super().__init__(2)

    def reserve(self, spec: RunSpec, is_wanted: Callable[[], bool]) -> Slot | None:
        if spec.seed == 1:
            raise ClusterError("there is no such node")
        return super().reserve(spec, is_wanted)


def test_a_list_is_started_in_its_order(folders: Folders) -> None:
    script = ScriptedRun()
    events = list(Scheduler(ListSource(SPECS), script, Limit(), folders).events(RunControl()))
    assert script.specs == SPECS
    assert [event.run for event in events if isinstance(event, RunEnded)] == [1, 2, 3]


def test_a_stop_ends_the_run_and_starts_no_more(folders: Folders) -> None:
    script, control = ScriptedRun(), RunControl()
    for event in Scheduler(ListSource(SPECS), script, Limit(), folders).events(control):
        if isinstance(event, RunStarted):
            control.stop()
    assert isinstance(event, RunEnded)
    assert event.status == "stopped"
    assert script.specs == SPECS[:1]


def test_one_that_left_waits_for_no_other(folders: Folders) -> None:
    script, control = ScriptedRun(), RunControl()
    for event in Scheduler(ListSource(SPECS), script, Limit(), folders).events(control):
        if isinstance(event, RunEnded):
            control.leave()
    assert script.specs == SPECS[:1]


def test_what_is_on_hold_waits(folders: Folders) -> None:
    with Store(folders.database) as store:
        store.enqueue(SPECS)
        first, second, _ = store.waiting()
    queue, script = StoredQueue(folders), ScriptedRun()
    queue.on_hold = frozenset({first.number, second.number})
    list(Scheduler(queue, script, Limit(), folders).events(RunControl()))
    assert script.specs == SPECS[2:]
    with Store(folders.database) as store:
        assert [entry.spec for entry in store.waiting()] == SPECS[:2]


def test_the_first_of_a_long_queue_is_all_that_is_read(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(folders.database) as store:
        store.enqueue([SPEC] * 1000)
    read = []
    whole = RunSpec.from_mapping

    def counted(values: Mapping[str, Any]) -> RunSpec:
        read.append(values)
        return whole(values)

    monkeypatch.setattr(RunSpec, "from_mapping", counted)
    assert StoredQueue(folders).first() is not None
    assert len(read) == 1


def test_two_processes_get_different_entries(folders: Folders) -> None:
    with Store(folders.database) as store:
        store.enqueue(SPECS)
    one, other = StoredQueue(folders), StoredQueue(folders)
    entry = one.first()
    assert entry is not None
    assert other.take(entry.number)
    assert not one.take(entry.number)


def test_a_turn_waits_for_its_slot(folders: Folders) -> None:
    capacity, control, turns = Limit(), RunControl(), list[Turn | RunEnded | None]()
    scheduler = Scheduler(ListSource(SPECS), ScriptedRun(), capacity, folders)
    slot = capacity.reserve_now()
    assert slot is not None
    assert capacity.reserve_now() is None
    thread = threading.Thread(target=lambda: turns.append(scheduler.take_turn(control)))
    thread.start()
    thread.join(0.3)
    assert turns == []
    capacity.release(slot)
    thread.join()
    (turn,) = turns
    assert isinstance(turn, Turn)
    assert turn.job.spec == SPECS[0]
    control.stop()
    assert scheduler.take_turn(control) is None  # nobody wants it any more


def test_side_by_side_all_run_and_what_cannot_is_recorded(folders: Folders) -> None:
    script = ScriptedRun()
    events = list(Scheduler(ListSource(SPECS), script, Crowd(), folders).events(RunControl()))
    assert script.specs == [SPECS[0], SPECS[2]]
    failed = [event for event in events if isinstance(event, RunEnded) and event.status == "failed"]
    assert [event.error for event in failed] == ["there is no such node"]
    with Store(folders.database) as store:
        assert [(run.status, run.spec["seed"]) for run in store.runs()] == [("failed", 1)]


def test_side_by_side_a_stop_reaches_every_run(folders: Folders) -> None:
    script, control, seen = ScriptedRun(hold_at=2), RunControl(), list[Event]()
    specs = [SPECS[0], SPECS[2]]
    scheduler = Scheduler(ListSource(specs), script, Crowd(), folders)
    for event in scheduler.events(control):
        seen.append(event)
        if len([item for item in seen if isinstance(item, RunStarted)]) == 2:
            control.stop("enough")
    assert [event.status for event in seen if isinstance(event, RunEnded)] == ["stopped", "stopped"]


def test_side_by_side_a_run_that_breaks_off_before_its_first_event_is_recorded(folders: Folders) -> None:
    script = ScriptedRun(hold_at=0)
    script.error = SpecError("no such thing; try another")
    events = list(Scheduler(ListSource(SPECS[:1]), script, Crowd(), folders).events(RunControl()))
    (end,) = events
    assert isinstance(end, RunEnded)
    assert (end.status, end.error) == ("failed", "no such thing; try another")
    with Store(folders.database) as store:
        until(lambda: [run.status for run in store.runs()] == ["failed"])
