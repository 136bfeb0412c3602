"""A run that was cut off goes on: the same run to the last bit, or a sentence that says what differs."""

from __future__ import annotations

import json
import random
import sqlite3
from typing import Any

import pytest
import torch

from engine.control import RunControl
from engine.errors import CheckpointError, StoreError
from engine.events import (
    CheckpointFailed,
    CheckpointSaved,
    EpochEnded,
    Evaluated,
    Event,
    MemoryRecovered,
    RunContinued,
    RunEnded,
    RunStarted,
    StepsCompleted,
)
from engine.lab import Lab
from engine.paths import Folders
from engine.records import HUNG_UP, RunDetails
from engine.spec import RunSpec
from engine.store.store import Store
from engine.training.checkpoint import Checkpoint, load_checkpoint, write_checkpoint
from engine.training.position import Position
from engine.training.saving import Saver
from tests.fakes import events_of
from tests.running import run_until

pytestmark = pytest.mark.usefixtures("few_digits", "one_thread")
SPEC = RunSpec("digits", "resnet20", epochs=3, batch_size=32)
STEPS = 6  # an epoch


def of(events: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def losses_of(events: list[Event]) -> list[float]:
    return [loss for event in of(events, StepsCompleted) for loss in event.losses]


def all_of(folders: Folders, spec: RunSpec = SPEC) -> list[Event]:
    return list(Lab(folders).train(spec).events())


def cut(folders: Folders, step: int, spec: RunSpec = SPEC, reason: str | None = None) -> list[Event]:
    """A run that is stopped as soon as `step` steps are done, or in the evaluation after them."""
    return run_until(lambda event: isinstance(event, StepsCompleted) and event.last_step >= step, folders, spec, reason)


def resume_with(folders: Folders, number: int) -> list[Event]:
    return list(Lab(folders).resume(number).events())


def details_of(folders: Folders, number: int) -> RunDetails:
    with Store(folders.database) as store:
        return store.details(number)


def state_of(folders: Folders, number: int) -> Checkpoint:
    weights = details_of(folders, number).weights
    assert weights is not None
    return load_checkpoint(folders.run_folder(number) / weights.file, weights.sha256)


@pytest.fixture(autouse=True)
def _each_step_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.training.step_metrics.READ_EVERY_S", 0.0)


def assert_same(folders: Folders, one: int, other: int) -> None:
    """Weights, statistics, optimizer, losses, epochs, evaluations and predictions, to the last bit."""
    mine, theirs = state_of(folders, one), state_of(folders, other)
    for name, value in theirs.model.items():
        assert mine.model[name].equal(value), name
    assert mine.optimizer.keys() == theirs.optimizer.keys()
    for index, state in theirs.optimizer.items():
        for name, value in state.items():
            assert mine.optimizer[index][name].equal(value), (index, name)
    a, b = details_of(folders, one), details_of(folders, other)
    assert a.curve == b.curve
    assert [(e.epoch, e.train_loss, e.train_accuracy) for e in a.epochs] == [
        (e.epoch, e.train_loss, e.train_accuracy) for e in b.epochs
    ]
    assert [(e.split, e.moment, e.step, e.metrics) for e in a.evaluations] == [
        (e.split, e.moment, e.step, e.metrics) for e in b.evaluations
    ]
    with Store(folders.database) as store:
        assert store.predictions(one) == store.predictions(other)
        assert store.intact(one) is True


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({}, 1), pytest.param({}, 5, marks=pytest.mark.slow), ({}, STEPS),
        pytest.param({}, 2 * STEPS, marks=pytest.mark.slow), pytest.param({}, 3 * STEPS, marks=pytest.mark.slow),
        pytest.param({"optimizer": "adamw", "schedule": "cosine", "learning_rate": 0.001}, 9, marks=pytest.mark.slow),
        ({"val_share": 0.2, "schedule": "one-cycle", "nesterov": True, "flip": True, "crop_padding": 1}, 7),
        pytest.param(
            {"model": "squeezenet1_1", "image_size": 32, "learning_rate": 0.001, "epochs": 1}, 3, marks=pytest.mark.slow
        ),
    ],
    ids=["first", "middle", "epoch", "second-epoch", "last", "adamw", "validation", "dropout"],
)  # fmt: skip
def test_it_is_the_run_that_was_never_cut_off(folders: Folders, changes: dict[str, Any], step: int) -> None:
    spec = SPEC.replace(**changes)
    all_of(folders, spec)
    ended = cut(folders, step, spec)[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status == "stopped"
    events = resume_with(folders, 2)
    assert events[-1].status == "completed"  # type: ignore[union-attr]
    assert [(event.step, event.differs) for event in of(events, RunContinued)] == [(ended.steps, ())]
    assert_same(folders, 2, 1)


def test_it_can_be_cut_off_again_and_again(folders: Folders) -> None:
    all_of(folders)
    cut(folders, 2)
    draws = random.Random(0)
    for _ in range(4):
        control, wanted = RunControl(), draws.randint(1, 3)
        for event in Lab(folders).resume(2, control).events():
            if isinstance(event, RunContinued):
                wanted += event.step
            if isinstance(event, StepsCompleted) and event.last_step >= wanted:
                control.stop()
    resume_with(folders, 2)
    assert_same(folders, 2, 1)
    assert len(details_of(folders, 2).resumes) == 5


def test_its_past_is_told_again(folders: Folders) -> None:
    before = cut(folders, 9)
    events = resume_with(folders, 1)
    continued = next(index for index, event in enumerate(events) if isinstance(event, RunContinued))
    past = events[:continued]
    assert losses_of(past) == losses_of(before)
    assert [event.epoch for event in of(past, EpochEnded)] == [1]
    assert [event.moment for event in of(past, Evaluated)] == ["untrained", "epoch"]
    steps = [event.last_step for event in of(events, StepsCompleted)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 3 * STEPS
    speeds = [event.images / event.train_s for event in of(events[continued:], StepsCompleted)]
    assert all(speed > 0 for speed in speeds)
    assert events[-1].elapsed_s > before[-1].elapsed_s  # type: ignore[union-attr]


def test_a_process_that_is_gone_loses_what_came_after_its_checkpoint(folders: Folders) -> None:
    """Killed at step 14, with a checkpoint before that and the points after it recorded."""
    all_of(folders)
    events = Lab(folders).train(SPEC.replace(checkpoint_every=1)).events()
    for event in events:
        if isinstance(event, StepsCompleted) and event.last_step == 14:
            break
    frozen = folders.database.read_bytes()  # as the record of a process that was killed looks
    files = {path: path.read_bytes() for path in folders.run_folder(2).glob("step-*")}
    events.close()
    folders.database.write_bytes(frozen)
    for path in folders.run_folder(2).glob("step-*"):
        path.unlink()
    for path, data in files.items():
        path.write_bytes(data)
    with sqlite3.connect(folders.database) as other:
        other.execute("UPDATE runs SET pid = 999999999 WHERE run = 2")
    found = resume_with(folders, 2)
    (continued,) = of(found, RunContinued)
    assert continued.step <= 14
    assert_same(folders, 2, 1)


def test_a_damaged_checkpoint_is_left_for_the_one_before_it(folders: Folders) -> None:
    all_of(folders)
    cut(folders, 2 * STEPS + 2, SPEC.replace(checkpoint_every=1))
    with Store(folders.database) as store:
        newest, older = store.checkpoints(2)
    path = folders.run_folder(2) / newest.file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    (continued,) = of(resume_with(folders, 2), RunContinued)
    assert continued.step == older.step < newest.step
    assert_same(folders, 2, 1)


def test_where_no_checkpoint_is_whole_nothing_is_thrown_away(folders: Folders) -> None:
    cut(folders, 8)
    before = details_of(folders, 1)
    for path in folders.run_folder(1).glob("step-*"):
        path.rename(path.with_suffix(".away"))
    with pytest.raises(CheckpointError, match="no usable checkpoint: cannot read weights"):
        resume_with(folders, 1)
    assert details_of(folders, 1) == before


def test_a_run_whose_end_was_not_recorded_ends(folders: Folders) -> None:
    """It was cut off between its last checkpoint and the row that says that it is complete."""
    all_of(folders)
    events = Lab(folders).train(SPEC).events()
    for event in events:
        if isinstance(event, CheckpointSaved) and event.step == 3 * STEPS:
            break
    events.close()
    found = resume_with(folders, 2)
    assert of(found, RunEnded)[0].status == "completed"
    assert of(found, RunContinued)[0].step == 3 * STEPS
    assert_same(folders, 2, 1)


def test_a_resume_that_is_stopped_at_once_keeps_the_figures(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = cut(folders, 8)[-1]
    control = RunControl()
    control.stop()
    *_, stopped = Lab(folders).resume(1, control).events()
    assert isinstance(ended, RunEnded)
    assert isinstance(stopped, RunEnded)
    assert (stopped.status, stopped.steps, stopped.untrained) == ("stopped", ended.steps, ended.untrained)
    with Store(folders.database) as store:
        assert len(store.predictions(1).labels) == 45


def test_a_run_cut_off_in_its_first_evaluation_begins_anew(folders: Folders) -> None:
    all_of(folders)
    run_until(RunStarted, folders, SPEC)
    resume_with(folders, 2)
    assert_same(folders, 2, 1)


def test_what_differs_is_said(folders: Folders) -> None:
    cut(folders, 8)
    with sqlite3.connect(folders.database) as other:
        ((text,),) = other.execute("SELECT started FROM runs").fetchall()
        started = json.loads(text)
        started["resolved"]["versions"]["torch"] = "1.0.0"
        started["resolved"]["device_name"] = "an abacus"
        other.execute("UPDATE runs SET started = ?, seal = NULL", (json.dumps(started),))
    (continued,) = of(resume_with(folders, 1), RunContinued)
    assert any(part.startswith("device ") and part.endswith("instead of an abacus") for part in continued.differs)
    assert any(part.startswith("torch ") and part.endswith("instead of 1.0.0") for part in continued.differs)
    caveat = details_of(folders, 1).caveat
    assert caveat is not None
    assert "resumed from step" in caveat


def test_the_number_of_threads_is_kept(folders: Folders) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        cut(folders, 8)
        torch.set_num_threads(2)
        (started,) = of(resume_with(folders, 1), RunStarted)
        assert started.resolved.num_threads == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("UPDATE runs SET status = 'completed'", "is complete"),
        ("UPDATE runs SET status = 'diverged'", "diverged and would again"),
        ("UPDATE runs SET steps = 3", "was changed after it ended"),
        ("UPDATE runs SET status = 'running', seal = NULL, place = 'another', beat_at = 9e9", "is still running"),
    ],
)
def test_what_cannot_go_on_is_one_sentence(folders: Folders, change: str, words: str) -> None:
    cut(folders, 2)
    with sqlite3.connect(folders.database) as other:
        other.execute(change)
    with pytest.raises(StoreError, match=words):
        resume_with(folders, 1)


def test_less_room_than_before_cuts_the_batches_and_says_so(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(folders, 1, SPEC.replace(batch_size=256))
    monkeypatch.setenv("RESLAB_MEMORY_GIB", "0.015")
    events = resume_with(folders, 1)
    assert events[-1].status == "completed"  # type: ignore[union-attr]
    assert any("micro-batches" in event.action for event in of(events, MemoryRecovered))
    assert "micro-batches" in str(details_of(folders, 1).caveat)


def test_a_checkpoint_comes_due_in_an_evaluation_too(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    saved, epoch_over = [], False
    begin = Saver.begin

    def noted(saver: Saver, learner: Any, position: Position) -> None:
        saved.append((position.step, position.evaluated))
        begin(saver, learner, position)

    monkeypatch.setattr(Saver, "begin", noted)
    monkeypatch.setattr(Saver, "worth_it", False)
    monkeypatch.setattr(Saver, "due", property(lambda saver: epoch_over and saver._writer is None))
    monkeypatch.setattr("engine.training.evaluation.REPORT_EVERY_S", 0.0)
    for event in Lab(folders).train(SPEC.replace(epochs=1, batch_size=16)).events():
        epoch_over = epoch_over or isinstance(event, EpochEnded)
    assert saved == [(12, False)]  # before the figures were there


def test_a_record_cannot_lead_out_of_the_folder_of_its_run(folders: Folders) -> None:
    cut(folders, 2)
    with sqlite3.connect(folders.database) as other:
        other.execute("UPDATE weights SET file = '../../../../../../dev/zero'")
        other.execute("UPDATE runs SET seal = NULL")
    with pytest.raises(CheckpointError, match="there is no such file"):
        resume_with(folders, 1)


def test_checkpoints_come_in_time_and_two_are_kept(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.training.saving.EARLY", 0.0)  # always due
    saved: list[int] = []
    kept = set()
    for event in Lab(folders).train(SPEC).events():
        if isinstance(event, CheckpointSaved):
            saved.append(event.step)
        if isinstance(event, StepsCompleted):
            kept.add(len(list(folders.run_folder(1).glob("step-*"))))
    assert len(saved) >= 6
    assert saved == sorted(set(saved))
    assert max(kept) in (2, 3)  # the third is written and not yet told of
    assert [path.name for path in folders.run_folder(1).glob("*step-*")] == [f"step-{3 * STEPS:08d}.safetensors"]
    assert [weights.step for weights in Store(folders.database).checkpoints(1)] == [3 * STEPS]


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_run(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.training import saving

    monkeypatch.setattr(saving, "EARLY", 0.0)
    original, calls = write_checkpoint, 0

    def full(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise CheckpointError("cannot write weights (No space left on device); is the disk full or read-only?")
        return original(*arguments)

    monkeypatch.setattr(saving, "write_checkpoint", full)
    events = all_of(folders)
    assert len(of(events, CheckpointFailed)) == 2
    assert events[-1].status == "completed"  # type: ignore[union-attr]


def test_the_last_checkpoint_has_to_be_written(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> Any:
        raise CheckpointError("cannot write weights (No space left on device); is the disk full or read-only?")

    monkeypatch.setattr("engine.training.saving.write_checkpoint", full)
    ended = all_of(folders)[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status == "failed"
    assert "No space left" in str(ended.error)


def test_a_run_that_the_terminal_left_says_so(folders: Folders) -> None:
    cut(folders, 2, reason=HUNG_UP)
    record = details_of(folders, 1).record
    assert (record.status, record.error, record.cut_off) == ("stopped", HUNG_UP, True)
    resume_with(folders, 1)
    record = details_of(folders, 1).record
    assert (record.status, record.error, record.cut_off) == ("completed", None, False)


def test_an_older_record_keeps_its_weights_and_its_seals(folders: Folders) -> None:
    from engine.store.migrations import STEPS as LAYOUTS

    folders.home.mkdir(parents=True)
    with sqlite3.connect(folders.database) as old:
        old.executescript("".join(LAYOUTS[:4]) + "PRAGMA user_version = 4;")
        old.execute(
            "INSERT INTO runs (run, dataset, model, spec, status, created_at, pid, pid_started) "
            "VALUES (1, 'digits', 'resnet20', ?, 'completed', 0, 1, 0)", (SPEC.to_json(),)
        )  # fmt: skip
        old.execute("INSERT INTO weights VALUES (1, 'step-00000007.safetensors', 'abc', 1, 7, 99)")
    with Store(folders.database) as store:
        (weights,) = store.checkpoints(1)
        assert (weights.file, weights.step, weights.num_bytes) == ("step-00000007.safetensors", 7, 99)
        number = store.create_run(SPEC)
        for event in events_of(SPEC, number):
            store.record(event)
        assert store.intact(number) is True
