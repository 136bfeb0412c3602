"""The store of runs: sealed, settled, and never lost because of late curve points."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from engine.errors import StoreError
from engine.events import Evaluated, StepsCompleted
from engine.export.plain_files import export_run
from engine.forecast.duration import estimate_run
from engine.paths import Folders
from engine.records import LOST
from engine.spec import RunSpec
from engine.store import heartbeat as heartbeat
from engine.store.store import Store
from tests.fakes import events_of
from tests.waiting import join

SPEC = RunSpec("digits", "resnet18", epochs=3)


@pytest.fixture
def store(folders: Folders) -> Store:
    return Store(folders.database)


def record_run(store: Store, spec: RunSpec = SPEC) -> int:
    run = store.create_run(spec)
    for event in events_of(spec, run):
        store.record(event)
    return run


def test_a_recorded_run_comes_back_whole(store: Store) -> None:
    run = record_run(store)
    details = store.details(run)
    events = events_of(SPEC, run)
    assert RunSpec.from_mapping(details.record.spec) == SPEC
    losses = [loss for event in events if isinstance(event, StepsCompleted) for loss in event.losses]
    assert list(details.curve.losses) == losses
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    assert [item.metrics for item in details.evaluations] == [event.metrics for event in evaluations]
    assert details.evaluations[-1].confusion == evaluations[-1].confusion
    assert details.intact is True
    assert details.class_names == ("cat", "dog")


def test_predictions_are_the_last_evaluations(store: Store) -> None:
    predictions = store.predictions(record_run(store))
    assert list(predictions.labels) == [0, 1]
    assert list(predictions.confidences) == [0.5, 0.5]


def test_the_untrained_predictions_are_not_given_for_final_ones(store: Store) -> None:
    run = store.create_run(SPEC)
    for event in events_of(SPEC, run)[:4]:
        store.record(event)
    with pytest.raises(StoreError, match="not evaluated on the test set after training"):
        store.predictions(run)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE runs SET final = replace(final, '0.', '0.9')",
        "UPDATE runs SET started = replace(started, '1437', '1438')",
        "UPDATE evaluations SET predictions = x'00000000' WHERE moment = 'final'",
        "UPDATE steps SET losses = x'00' WHERE first_step = 1",
        "DELETE FROM epochs WHERE epoch = 2",
    ],
)
def test_a_change_after_the_end_is_noticed(change: str, store: Store, folders: Folders) -> None:
    run = record_run(store)
    with sqlite3.connect(folders.database) as other:
        other.execute(change)
    assert store.intact(run) is False
    with pytest.raises(StoreError, match="was changed after it ended"):
        store.predictions(run)


def test_a_column_that_comes_later_breaks_no_seal(store: Store, folders: Folders) -> None:
    run = record_run(store)
    with sqlite3.connect(folders.database) as other:
        for (table,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            if not table.startswith("sqlite_"):
                other.execute(f"ALTER TABLE {table} ADD COLUMN later TEXT DEFAULT 'new'")
    assert store.intact(run) is True


def test_a_number_is_never_given_twice(store: Store) -> None:
    first = record_run(store)
    store.delete(first)
    assert record_run(store) == first + 1
    with pytest.raises(StoreError, match=f"no run {first}"):
        store.details(first)


def test_a_running_run_cannot_be_deleted(store: Store) -> None:
    run = store.create_run(SPEC)
    with pytest.raises(StoreError, match="still running"):
        store.delete(run)


def status_after(store: Store, folders: Folders, **row: object) -> str:
    """What a run of which the record says this is taken for."""
    run = store.create_run(SPEC)
    with sqlite3.connect(folders.database) as other:
        columns = ", ".join(f"{name} = ?" for name in row)
        other.execute(f"UPDATE runs SET {columns} WHERE run = ?", (*row.values(), run))
    store.settle_lost_runs()
    return store.runs()[0].status


def test_a_run_whose_process_is_gone_has_failed(store: Store, folders: Folders) -> None:
    run = store.create_run(SPEC)
    for event in events_of(SPEC, run)[:8]:
        store.record(event)
    store.settle_lost_runs()
    assert store.runs()[0].status == "running"
    with sqlite3.connect(folders.database) as other:
        other.execute("UPDATE runs SET pid = 999999999")
    store.settle_lost_runs()
    record = store.runs()[0]
    assert (record.status, record.error) == ("failed", LOST)
    assert record.untrained is not None
    assert store.intact(run) is True


def test_a_process_with_the_same_number_is_another_one(store: Store, folders: Folders) -> None:
    parent = os.getppid()
    assert status_after(store, folders, pid=parent, pid_started=heartbeat.started(parent)) == "running"
    assert status_after(store, folders, pid=parent, pid_started=12.0) == "failed"


def test_a_process_that_nobody_has_buried_yet_is_dead() -> None:
    with subprocess.Popen((sys.executable, "-c", "input()"), stdin=subprocess.PIPE) as process:
        assert heartbeat.started(process.pid) is not None
        assert process.stdin is not None
        process.stdin.close()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert heartbeat.started(process.pid) is None


def test_a_run_of_another_machine_is_known_by_its_beat(store: Store, folders: Folders) -> None:
    now = time.time()
    assert status_after(store, folders, place="another", pid=1, beat_at=now - 60) == "running"
    assert status_after(store, folders, place="another", pid=1, beat_at=now - 200) == "failed"


def test_a_run_whose_end_could_not_be_recorded_is_lost_though_the_process_lives(folders: Folders) -> None:
    with Store(folders.database) as reader:
        with Store(folders.database) as writer:
            writer.create_run(SPEC)
            reader.settle_lost_runs()
            assert reader.runs()[0].status == "running"
        reader.settle_lost_runs()
        assert reader.runs()[0].status == "failed"


def test_a_run_gives_signs_of_life_though_nothing_is_told_of_it(store: Store, folders: Folders) -> None:
    store.create_run(SPEC)
    with sqlite3.connect(folders.database) as other:
        other.execute("UPDATE runs SET beat_at = 0")
    seen = []

    class Thrice(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            seen.append(beat_of(folders))
            return len(seen) > 3

    store._heartbeat._beat(Thrice())
    assert seen[0] == 0
    assert seen[1] == pytest.approx(time.time(), abs=30)
    assert seen[1] < seen[2] < seen[3]


def test_its_thread_ends_with_the_run(folders: Folders) -> None:
    others = set(threading.enumerate())
    with Store(folders.database) as store:
        run = store.create_run(SPEC)
        (heart,) = set(threading.enumerate()) - others
        for event in events_of(SPEC, run):
            store.record(event)
        join(heart)


def test_what_another_place_said_of_a_living_run_is_taken_back(store: Store, folders: Folders) -> None:
    run = store.create_run(SPEC)
    *events, ended = events_of(SPEC, run)
    with sqlite3.connect(folders.database) as other:
        other.execute("UPDATE runs SET status = 'failed', error = 'lost', seal = 'x'")
    for event in events:
        store.record(event)
    assert (store.runs()[0].status, store.runs()[0].error, store.intact(run)) == ("running", None, None)
    store.record(ended)
    assert store.intact(run) is True


def test_a_run_that_goes_on_elsewhere_is_left_to_it(store: Store, folders: Folders) -> None:
    run = store.create_run(SPEC)
    with sqlite3.connect(folders.database) as other:
        other.execute("UPDATE runs SET place = 'another', beat_at = ?", (time.time(),))
    with pytest.raises(StoreError, match="another process has resumed it"):
        store.record(events_of(SPEC, run)[0])
    assert store.details(run).started is None


def test_without_a_proc_a_process_is_known_by_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.store.heartbeat.PROC", Path("/nowhere"))
    assert heartbeat.started(os.getpid()) == pytest.approx(time.time(), abs=86_400)
    assert heartbeat.started(999_999_999) is None


def test_a_schema_of_somebody_else_is_not_trusted(store: Store) -> None:
    assert store._db.execute("PRAGMA trusted_schema").fetchone() == (0,)


def beat_of(folders: Folders) -> float:
    with sqlite3.connect(folders.database) as other:
        return float(other.execute("SELECT beat_at FROM runs").fetchone()[0])


def test_who_may_only_read_sees_a_lost_run_as_it_was_left(folders: Folders) -> None:
    with Store(folders.database) as store:
        store.create_run(SPEC)
    with Store(folders.database) as reader:
        reader._db.execute("PRAGMA query_only = ON")
        reader.settle_lost_runs()
        assert reader.runs()[0].status == "running"


def test_a_locked_record_delays_points_and_loses_none(
    store: Store, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.store.store.COMMIT_EVERY_S", 0.0)
    store._db.execute("PRAGMA busy_timeout = 1")
    run = store.create_run(SPEC)
    events = events_of(SPEC, run)
    blocker = sqlite3.connect(folders.database, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    for event in events:
        if isinstance(event, StepsCompleted):
            store.record(event)
    blocker.execute("ROLLBACK")
    store.record(events[-1])
    assert len(store.details(run).curve.losses) == 36


def test_two_connections_write_side_by_side(store: Store, folders: Folders) -> None:
    with Store(folders.database) as other:
        first, second = store.create_run(SPEC), other.create_run(SPEC.replace(seed=1))
        for one, two in zip(events_of(SPEC, first), events_of(SPEC, second), strict=True):
            store.record(one)
            other.record(two)
        assert [store.intact(run) for run in (first, second)] == [True, True]


def test_a_new_record_can_be_opened_by_many_at_once(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    for attempt in range(10):
        path = tmp_path / str(attempt) / "runs.db"

        def open_and_list(path: Path = path) -> int:
            with Store(path) as store:
                return len(store.runs())

        with ThreadPoolExecutor(8) as pool:
            assert [future.result() for future in [pool.submit(open_and_list) for _ in range(8)]] == [0] * 8


def test_an_older_layout_is_brought_up_to_date(folders: Folders) -> None:
    from engine.store.migrations import STEPS

    folders.home.mkdir(parents=True)
    with sqlite3.connect(folders.database) as old:
        old.executescript(STEPS[0] + "PRAGMA user_version = 1;")
    with Store(folders.database) as store:
        record_run(store)
        assert store.waiting() == []


def test_a_newer_layout_is_refused(folders: Folders, store: Store) -> None:
    with sqlite3.connect(folders.database) as other:
        other.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="update reslab"):
        Store(folders.database)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs.db").write_text("these are no runs " * 100)
    with pytest.raises(StoreError, match="choose another folder with --home"):
        Store(tmp_path / "runs.db")


def test_an_export_can_be_read_without_reslab(store: Store, tmp_path: Path) -> None:
    import csv
    import json

    run = record_run(store)
    folder = export_run(store, run, tmp_path / str(run), tmp_path / "out")
    assert json.loads((folder / "run.json").read_text())["final"]["accuracy"] == store.runs()[0].final.accuracy  # type: ignore[union-attr]
    assert RunSpec.from_toml((folder / "spec.toml").read_text()) == SPEC
    with (folder / "steps.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 36
    with (folder / "predictions.csv").open() as file:
        assert next(csv.DictReader(file)) == {
            "index": "0", "file": "", "true": "cat", "predicted": "cat", "true_class_index": "0",
            "predicted_class_index": "0", "confidence": "0.5",
        }  # fmt: skip


def test_an_estimate_scales_an_earlier_run_by_its_epochs(store: Store) -> None:
    run = record_run(store)
    records = store.runs()
    found = estimate_run(SPEC.replace(epochs=30, seed=9), records)
    assert found is not None
    assert found.run == run
    assert found.seconds == pytest.approx(131.0)
    assert estimate_run(SPEC.replace(model="resnet50"), records) is None
    mnist = estimate_run(RunSpec("mnist", "resnet18", image_size=8), records)
    assert mnist is not None
    assert mnist.seconds == pytest.approx((10 * 60_000 + 11 * 10_000 / 3) / 1234)


@pytest.mark.parametrize(
    "change",
    [
        "spec = '{\"dataset'", "spec = '[]'", "elapsed_s = 'long'", "final = '{}'", "status = x'00ff'",
        "untrained = '{\"accuracy\": \"high\"}'", "created_at = 'once'",
    ],
)  # fmt: skip
def test_a_damaged_row_hides_no_other(store: Store, folders: Folders, change: str) -> None:
    first, second = record_run(store), record_run(store)
    with sqlite3.connect(folders.database) as other:
        other.execute(f"UPDATE runs SET {change} WHERE run = ?", (second,))
    assert [(record.run, record.status) for record in store.runs()] == [(second, "damaged"), (first, "completed")]
    assert "is damaged" in str(store.runs()[0].error)
    for read in (store.details, store.predictions):
        with pytest.raises(StoreError, match=f"run {second} cannot be read"):
            read(second)
    store.delete(first)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE evaluations SET per_class = '{'", "UPDATE evaluations SET confusion = '3'",
        "UPDATE steps SET losses = x'00'", "UPDATE runs SET started = 'x'",
    ],
)  # fmt: skip
def test_other_damaged_rows_of_a_run_are_a_sentence(store: Store, folders: Folders, change: str) -> None:
    run = record_run(store)
    with sqlite3.connect(folders.database) as other:
        other.execute(change)
    with pytest.raises(StoreError, match=f"run {run} cannot be read: its rows in the database are damaged"):
        store.details(run)
