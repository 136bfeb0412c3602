"""Every event goes to JSON, over the stream and through the store, and comes back as it was."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import events
from engine.cli.side_by_side import Lines
from engine.errors import StoreError
from engine.events import Event, to_json_dict
from engine.launch import wire
from engine.launch.stream import Stream, stream_path
from engine.launch.wire import event_from, to_line
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import OTHER_EVENTS, evaluated, events_of, without_bytes
from tui.live import LiveRun

SPEC = RunSpec("digits", "resnet20", epochs=3)
ALL = (*events_of(SPEC)[:-1], *OTHER_EVENTS, events_of(SPEC)[-1])
FORECAST = next(event for event in OTHER_EVENTS if isinstance(event, events.MemoryForecasted))


def of_past(kind: type[Any]) -> Callable[[Store], list[Event]]:
    return lambda store: [event for event in store.past(1) if isinstance(event, kind)]


def checkpoints(store: Store) -> list[Event]:
    return [
        events.CheckpointSaved(1, item.file, item.sha256, item.epoch, item.step, item.num_bytes)
        for item in store.checkpoints(1)
    ]


def continued(store: Store) -> list[Event]:
    """Of a resume the store keeps where it began and what differed, not what it took back."""
    return [events.RunContinued(1, item.step, item.differs, 1, True) for item in store.details(1).resumes]


def started(store: Store) -> list[Event]:
    found = store.details(1).started
    return [found] if found else []


def forecast(store: Store) -> list[Event]:
    found = store.details(1).memory.forecast
    return [found] if found else []


def tuned(store: Store) -> list[Event]:
    return [replace(item, measured_at=0.0) for item in store.autotune_choices(1).values()]


def checked(store: Store) -> list[Event]:
    """What a run's speed says is kept with the choice that it is about."""
    return [
        events.TuningChecked(1, item.key, item.images_per_s, None, not item.due)
        for item in store.autotune_choices(1).values()
        if item.images_per_s is not None
    ]


def ended(store: Store) -> list[Event]:
    details = store.details(1)
    run = details.record
    return [
        events.RunEnded(
            1, run.status, run.untrained, run.final, run.elapsed_s or 0.0, run.train_images_per_s, run.steps or 0,  # type: ignore[arg-type]
            run.error, details.memory.peak_bytes, details.memory.context_bytes,
        )
    ]  # fmt: skip


FROM_STORE: dict[type[Event], Callable[[Store], list[Event]] | None] = {
    events.RunStarted: started,
    events.Evaluated: of_past(events.Evaluated),
    events.StepsCompleted: of_past(events.StepsCompleted),
    events.EpochEnded: of_past(events.EpochEnded),
    events.CheckpointSaved: checkpoints,
    events.RunContinued: continued,
    events.SettingsTuned: tuned,
    events.TuningChecked: checked,
    events.MemoryForecasted: forecast,
    events.MemoryRecovered: lambda store: list(store.details(1).memory.recoveries),
    events.RunEnded: ended,
    # For live views alone: the store keeps none of them.
    events.DatasetProgressed: None,
    events.EvaluationProgressed: None,
    events.GradientsMeasured: None,
    events.CheckpointFailed: None,
    events.RunPaused: None,
    events.RunResumed: None,
}


def test_there_is_one_of_every_event() -> None:
    assert {type(event) for event in ALL} == set(get_args(Event)) == set(FROM_STORE)


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: kind.__name__)
def test_an_event_comes_back_from_json_stream_and_store_as_it_was(kind: type[Event], folders: Folders) -> None:
    sent = [event for event in ALL if isinstance(event, kind)]
    assert sent
    expected = [without_bytes(event) for event in sent]
    assert [event_from(json.loads(json.dumps(to_json_dict(event)))) for event in sent] == expected
    assert over_stream(sent, folders.run_folder(1)) == expected
    read_back = FROM_STORE[kind]
    with Store(folders.database) as store:
        assert through_store(store, sent, read_back) == (expected if read_back else [])


def over_stream(sent: list[Event], folder: Path) -> list[Event]:
    """What a follower reads of them."""
    stream = Stream(folder)
    for event in sent:
        stream.write(event)
    lines = stream_path(folder).read_text(encoding="utf-8").splitlines()
    stream.close()
    assert all(json.loads(line)["format"] == wire.FORMAT for line in lines)
    return [event_from(json.loads(line)) for line in lines]


def through_store(store: Store, sent: list[Event], read_back: Callable[[Store], list[Event]] | None) -> list[Event]:
    """What the store has of them, in a run of nothing else but what they presuppose."""
    store.create_run(SPEC)
    presupposed: dict[type[Any], tuple[Event, ...]] = {
        events.EpochEnded: tuple(event for event in ALL if isinstance(event, events.StepsCompleted)),
        events.RunEnded: (evaluated(1, 0, 0.1135, "untrained"), evaluated(1, 3, 0.91, "final"), FORECAST),
        events.TuningChecked: tuple(event for event in ALL if isinstance(event, events.SettingsTuned)),
    }
    for event in (*presupposed.get(type(sent[0]), ()), *sent):
        store.record(event)
    store.record(events.RunPaused(1, 5))  # ignored
    if read_back is None:
        return []
    if isinstance(sent[0], events.StepsCompleted):  # committed once a second, or with what comes next
        store.record(events.EpochEnded(1, 3, 0.1, 0.9, 1.0, 100.0))
    return read_back(store)


def test_what_is_kept_of_predictions_is_what_was_sent(folders: Folders) -> None:
    sent = next(event for event in reversed(ALL) if isinstance(event, events.Evaluated))
    with Store(folders.database) as store:
        store.create_run(SPEC)
        store.record(sent)
        found = store.predictions(1)
    columns = (found.labels.tobytes(), found.predictions.tobytes(), found.confidences.tobytes())
    assert columns == (sent.labels, sent.predictions, sent.confidences)


def any_value(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type; bytes do not go to JSON."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{item.name: any_value(hints[item.name]) for item in fields(kind)})
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        if inner[-1] is Ellipsis:
            return st.lists(any_value(inner[0]), max_size=3).map(tuple)
        return st.tuples(*map(any_value, inner))
    if origin is dict:
        return st.dictionaries(
            st.text(max_size=5), st.integers() if inner[1] is Any else any_value(inner[1]), max_size=3
        )
    if origin is Literal:
        return st.sampled_from(inner)
    if inner:
        return st.one_of(*map(any_value, inner))
    plain_types: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(), bool: st.booleans(), str: st.text(max_size=8), bytes: st.just(b""), type(None): st.none(),
        float: st.floats(allow_nan=False, allow_infinity=False),
    }  # fmt: skip
    return plain_types[kind]


@pytest.mark.parametrize("kind", get_args(Event), ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_whatever_stands_in_an_event_comes_back_from_its_line(kind: type[Event], data: st.DataObject) -> None:
    event = data.draw(any_value(kind))
    line = to_line(event)
    assert line.count("\n") == 1
    assert event_from(json.loads(line)) == event


def test_a_number_that_is_not_finite_comes_back_as_no_number() -> None:
    sent = events.GradientsMeasured(1, 5, ("stem", "layer1"), (0.1, float("inf")), (1e-3, 2e-3))
    back = event_from(json.loads(json.dumps(to_json_dict(sent))))
    assert isinstance(back, events.GradientsMeasured)
    assert back.norms[0] == 0.1
    assert math.isnan(back.norms[1])


def test_whoever_shows_or_keeps_events_takes_every_one(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of a run: none is left over, and what went wrong is said."""
    spec = SPEC.replace(epochs=1)
    live, lines = LiveRun(spec), Lines()
    with Store(folders.database) as store:
        number = store.create_run(spec)
        seen = events_of(spec, number)
        for event in (*seen[:-1], *OTHER_EVENTS, seen[-1]):
            event = replace(event, run=number)
            live.add(event)
            lines.show(event)
            store.record(event)
        assert store.run(number).status == "completed"
    assert live.ended is not None
    assert "run 1: step 5 could not be saved, the run continues: no space left" in capsys.readouterr().err


@pytest.mark.parametrize(
    "values",
    [
        {}, [], {"event": "run_flew"}, {"event": "run_paused", "run": 1}, {"event": "steps_completed"},
        {"event": "run_paused", "run": "1", "step": 5}, {"event": "run_ended", "run": 1, "status": "burnt"},
        {"event": "evaluation_progressed", "run": 1, "split": "holiday", "done": 1, "total": 2},
        {"event": "gradients_measured", "run": 1, "step": 1, "stages": "stem", "norms": [], "ratios": []},
    ],
)  # fmt: skip
def test_what_is_no_event_is_one_sentence(values: Any) -> None:
    with pytest.raises(StoreError, match="not an event of this version"):
        event_from(values)
