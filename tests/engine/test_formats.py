"""What older versions wrote is read for ever, what newer ones wrote is refused with a sentence."""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.analysis.comparison import differing_settings
from engine.analysis.seeds import group_by_seed
from engine.analysis.tables import facts
from engine.control import RunControl
from engine.errors import CheckpointError, ReslabError, SpecError, StoreError
from engine.events import RunContinued, RunPaused, plain, to_json_dict
from engine.export.plain_files import details_as_json, export_run
from engine.forecast.duration import estimate_run
from engine.from_plain import from_plain
from engine.lab import Lab
from engine.launch import wire
from engine.launch.follow import follow
from engine.launch.stream import stream_path
from engine.paths import Folders
from engine.spec import RunSpec
from engine.spec_files import read_spec_file
from engine.store.store import Store
from engine.training import checkpoint
from engine.training.checkpoint import load_checkpoint, write_checkpoint
from engine.training.position import EpochSums, MemoryState, Position
from engine.training.resume import Resume
from tests.engine.test_cli import output_of, reslab
from tests.fakes import RESOLVED, DetachedRun, events_of, started
from tests.running import run_until

POSITION = Position(7, 1, True, 896, 1.5, 2.25, EpochSums(128, 0.1, 64, 1.25), MemoryState(32, True, calm_steps=3))


def written(folder: Path, header: dict[str, Any]) -> dict[str, Any]:
    saved = write_checkpoint(folder, {"model.weight": torch.zeros(2)}, header)
    return load_checkpoint(folder / saved.name, saved.sha256).header


def test_a_position_comes_back_as_it_was(tmp_path: Path) -> None:
    header = written(tmp_path, {**POSITION.to_dict(), "spec": {"model": "resnet20"}})
    assert header["format"] == checkpoint.FORMAT
    assert Position.from_dict(header) == POSITION


@pytest.mark.parametrize("part", [None, "epoch", "memory"])
def test_a_checkpoint_from_before_a_field_was_there_has_its_default(part: str | None) -> None:
    """Every field but the step was new once."""
    values = POSITION.to_dict()
    fields = dataclasses.fields(Position if part is None else type(getattr(POSITION, part)))
    for item in fields:
        if item.name in ("step", "epoch", "memory"):
            continue
        older = {**values, **({} if part is None else {part: dict(values[part])})}
        del (older if part is None else older[part])[item.name]
        found = Position.from_dict(older)
        assert getattr(found if part is None else getattr(found, part), item.name) == item.default
        assert found.step == 7


@pytest.mark.parametrize("values", [{}, {"step": 3}, {**POSITION.to_dict(), "epoch": 4}])
def test_one_that_does_not_say_at_which_step_it_was_written_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match="does not say at which step it was written"):
        Position.from_dict(values)


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    saved = write_checkpoint(tmp_path, {"model.weight": torch.zeros(2)}, POSITION.to_dict())
    monkeypatch.setattr(checkpoint, "FORMAT", 1)
    with pytest.raises(CheckpointError, match="has format 2, this reslab reads formats up to 1; update reslab"):
        load_checkpoint(tmp_path / saved.name, saved.sha256)


def test_a_run_from_before_a_setting_was_there_does_not_differ_in_it() -> None:
    newer = RunSpec("digits", "resnet20", learning_rate=0.1).to_dict()
    older = {name: value for name, value in newer.items() if name not in ("compile", "checkpoint_every")}
    assert differing_settings([older, newer]) == {}
    assert differing_settings([older, {**newer, "compile": True}]) == {"compile": (False, True)}
    gone = {**older, "a_setting_that_is_gone": 3}
    assert differing_settings([gone, newer]) == {"a_setting_that_is_gone": (3, None)}


# --- specs: in files and in rows -------------------------------------------------------------------------------------

SPEC = RunSpec("digits", "resnet20", epochs=2)
UNKNOWN = {"mixup": 0.2, "a_mode_[red]\x1b": "fast"}


@pytest.fixture
def home(folders: Folders) -> Folders:
    """Two completed runs of one spec, which the tests rewrite as another version would have written it."""
    with Store(folders.database) as store:
        for _ in range(2):
            number = store.create_run(SPEC)
            for event in events_of(SPEC, number):
                store.record(event)
    return folders


def rewrite(folders: Folders, run: int, **settings: Any) -> None:
    with sqlite3.connect(folders.database) as db:
        ((text,),) = db.execute("SELECT spec FROM runs WHERE run = ?", (run,)).fetchall()
        spec = {**json.loads(text), **settings}
        db.execute("UPDATE runs SET spec = ?, seal = NULL WHERE run = ?", (json.dumps(spec), run))


def stored_spec(folders: Folders, run: int) -> dict[str, Any]:
    with sqlite3.connect(folders.database) as db:
        ((text,),) = db.execute("SELECT spec FROM runs WHERE run = ?", (run,)).fetchall()
    found: dict[str, Any] = json.loads(text)
    return found


def test_what_is_written_carries_its_number(home: Folders) -> None:
    assert stored_spec(home, 1)["format"] == 1
    assert json.loads(SPEC.to_json())["format"] == 1
    assert SPEC.to_toml().startswith("format = 1\n")
    with Store(home.database) as store:
        store.enqueue([SPEC])
        assert "format" not in store.run(1).spec  # settings alone, in lists, tables and JSON
    with sqlite3.connect(home.database) as db:
        ((text,),) = db.execute("SELECT spec FROM queue").fetchall()
    assert json.loads(text) == {"format": 2, "spec": {"format": 1, **SPEC.to_dict()}}


def test_the_json_of_a_run_is_what_its_row_holds(home: Folders) -> None:
    with sqlite3.connect(home.database) as db:
        ((text,),) = db.execute("SELECT started FROM runs WHERE run = 1").fetchall()
    with Store(home.database) as store:
        found = details_as_json(store.details(1))
    assert json.dumps(found["started"]) == json.dumps(json.loads(text))  # names in their order, too
    assert found["spec"] == SPEC.to_dict()


def test_a_spec_without_a_number_is_of_the_first_format(tmp_path: Path) -> None:
    assert RunSpec.from_json(json.dumps(SPEC.to_dict())) == SPEC
    assert RunSpec.from_mapping(SPEC.to_dict()) == SPEC
    (tmp_path / "spec.toml").write_text('dataset = "digits"\nmodel = "resnet20"\nepochs = 2\n')
    assert RunSpec.from_mapping(read_spec_file(tmp_path / "spec.toml")) == SPEC


@pytest.mark.parametrize("number", [2, 0, -1, "1", True, None, 1.0])
def test_a_spec_of_another_format_is_refused(number: object, tmp_path: Path) -> None:
    for read in (RunSpec.from_mapping, RunSpec.from_stored):
        with pytest.raises(SpecError, match="this reslab reads formats up to 1; update reslab") as refused:
            read({**SPEC.to_dict(), "format": number, "what_is_this": 1})
        assert f"the spec has format {number!r}" in str(refused.value)


def test_a_spec_file_of_a_newer_version_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "newer.toml"
    file.write_text('format = 2\ndataset = "digits"\nnetwork = "resnet20"\n')
    assert reslab("train", "--spec", str(file)) == 2
    said = capsys.readouterr().err
    assert said == f"reslab: {file} has format 2, this reslab reads formats up to 1; update reslab\n"


def test_a_spec_file_with_its_number_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.toml").write_text(SPEC.to_toml())
    forecast = output_of(capsys, "forecast", "--spec", str(tmp_path / "spec.toml"), "--json")
    assert forecast


def test_a_run_of_a_newer_version_is_listed_beside_the_others(
    home: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(home, 1, format=2, epochs={"at_most": 3})
    with sqlite3.connect(home.database) as db:  # renamed there
        db.execute("UPDATE runs SET spec = json_remove(spec, '$.batch_size') WHERE run = 1")
    words = ("--home", str(home.home))
    listed = output_of(capsys, *words, "runs", "--json")
    assert [(run["run"], run["status"]) for run in listed] == [(2, "completed"), (1, "completed")]
    assert (listed[0]["spec"], listed[1]["spec"]["format"]) == (SPEC.to_dict(), 2)
    assert reslab(*words, "runs") == 0
    for command in (("show", "1"), ("compare", "1", "2"), ("predict", "1", "x.png")):
        capsys.readouterr()
        assert reslab(*words, *command) == 2
        said = capsys.readouterr().err
        assert said == "reslab: the spec of run 1 has format 2, this reslab reads formats up to 1; update reslab\n"
    assert reslab(*words, "show", "2") == 0
    with Store(home.database) as store:
        estimate = estimate_run(SPEC, store.runs())
    assert estimate is not None
    assert estimate.run == 2
    assert reslab(*words, "delete", "1") == 0


def test_an_interrupted_run_of_a_newer_version_stays_as_it_is(home: Folders) -> None:
    rewrite(home, 1, format=2)
    with sqlite3.connect(home.database) as db:
        db.execute("UPDATE runs SET status = 'stopped' WHERE run = 1")
    before = stored_spec(home, 1)
    with pytest.raises(ReslabError, match="the spec of run 1 has format 2"):
        list(Lab(home).resume(1).events())
    assert stored_spec(home, 1) == before


def test_unknown_settings_are_kept_and_shown(home: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(home, 1, **UNKNOWN)
    words = ("--home", str(home.home))
    assert reslab(*words, "show", "1") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unknown")]
    assert line.split("  ", 1)[1].strip() == "mixup 0.2, a mode [red]␛ fast: settings unknown to this version of reslab"
    assert output_of(capsys, *words, "show", "1", "--json")["spec"] == {**SPEC.to_dict(), **UNKNOWN}
    compared = output_of(capsys, *words, "compare", "1", "2", "--json")
    assert compared["differing"] == {"mixup": [0.2, None], "a_mode_[red]\x1b": ["fast", None]}
    assert compared["groups"] == []  # they are not two seeds of one spec
    assert reslab(*words, "compare", "1", "2") == 0
    assert "mixup" in capsys.readouterr().out
    with Store(home.database) as store:
        export_run(store, 1, home.run_folder(1), tmp_path / "out")
        assert ("unknown", "mixup 0.2") not in facts(store.details(2), tmp_path)
    toml = (tmp_path / "out" / "spec.toml").read_text()
    assert RunSpec.from_toml(toml) == SPEC
    assert "# unknown setting: mixup = 0.2\n" in toml


def test_runs_that_differ_in_an_unknown_setting_are_no_seeds_of_one_spec(home: Folders) -> None:
    for run, seed in ((1, 0), (2, 1)):
        rewrite(home, run, seed=seed)
    with Store(home.database) as store:
        assert [group.runs for group in group_by_seed(store.runs())] == [(1, 2)]
    rewrite(home, 1, mixup=0.2)
    with Store(home.database) as store:
        assert [group.runs for group in group_by_seed(store.runs())] == [(2,), (1,)]
    rewrite(home, 2, mixup=0.2)
    with Store(home.database) as store:
        assert [group.runs for group in group_by_seed(store.runs())] == [(1, 2)]


@pytest.mark.usefixtures("few_digits")
def test_a_run_with_unknown_settings_is_resumed_without_them_and_says_so(folders: Folders) -> None:
    run_until(lambda event: getattr(event, "last_step", 0) >= 1, folders, SPEC.replace(batch_size=64))
    rewrite(folders, 1, mixup=0.2)
    with sqlite3.connect(folders.database) as db:
        ((text,),) = db.execute("SELECT started FROM runs").fetchall()
        recorded = json.loads(text)
        recorded["spec"]["mixup"] = 0.2
        db.execute("UPDATE runs SET started = ?", (json.dumps(recorded),))
    events = list(Lab(folders).resume(1).events())
    (continued,) = [event for event in events if isinstance(event, RunContinued)]
    assert continued.differs == ("the setting mixup ignored (it was 0.2)",)
    assert stored_spec(folders, 1)["mixup"] == 0.2
    with Store(folders.database) as store:
        assert store.details(1).caveat == f"resumed from step {continued.step} with {continued.differs[0]}"


# --- the queue -------------------------------------------------------------------------------------------------------


def enqueued(folders: Folders, *texts: str) -> None:
    with sqlite3.connect(folders.database) as db:
        for place, text in enumerate(texts):
            db.execute("INSERT INTO queue (place, spec) VALUES (?, ?)", (place, text))


def test_a_queue_entry_of_each_format_is_read(folders: Folders) -> None:
    first = json.dumps(SPEC.to_dict())  # until 1bc4224 and later: the bare spec
    second = json.dumps({"format": 2, "spec": SPEC.replace(seed=1).to_stored()})
    Store(folders.database).close()
    enqueued(folders, first, second)
    with Store(folders.database) as store:
        assert [entry.spec.seed for entry in store.waiting()] == [0, 1]
        assert store.unreadable_waiting() == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (json.dumps({"format": 3, "spec": SPEC.to_stored()}), "the entry has format 3, this reslab reads"),
        (json.dumps({"format": 2, "spec": {**SPEC.to_dict(), "format": 2}}), "the spec has format 2"),
        (json.dumps({"format": 2, "spec": {**SPEC.to_dict(), "mixup": 0.2}}), "unknown setting 'mixup'"),
        (json.dumps({"format": 2, "spec": "digits"}), "not a spec: digits; expected settings"),
        ("{rubbish", "not JSON"),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_read_stays_and_is_reported(text: str, problem: str, folders: Folders) -> None:
    Store(folders.database).close()
    enqueued(folders, text, json.dumps(SPEC.to_dict()))
    with Store(folders.database) as store:
        (entry,) = store.unreadable_waiting()
        assert problem in entry.problem
        assert store.take_next() == SPEC
        assert store.take_next() is None
        assert [item.number for item in store.unreadable_waiting()] == [entry.number]
    with sqlite3.connect(folders.database) as db:
        assert db.execute("SELECT spec FROM queue").fetchall() == [(text,)]


# --- the event stream ------------------------------------------------------------------------------------------------


def test_a_line_without_a_number_is_of_the_first_format() -> None:
    event = RunPaused(1, 5)
    assert wire.event_from(json.loads(json.dumps(to_json_dict(event)))) == event
    assert json.loads(wire.to_line(event)) == {"format": 1, **to_json_dict(event)}


def test_a_stream_of_a_newer_version_is_refused_by_who_follows(folders: Folders) -> None:
    run = DetachedRun(SPEC, folders)
    try:
        with stream_path(run.folder).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"format": 2, "what": "run_paused"}) + "\n")
        said = "the run's event stream has format 2, this reslab reads formats up to 1; update reslab"
        with pytest.raises(StoreError, match=said):
            list(follow(run.run, folders, RunControl()))
    finally:
        run.close()


# --- rows of earlier versions ----------------------------------------------------------------------------------------

LATER_FIELDS = {"train_sha256", "notes", "left_out", "shared", "data_rules", "pixel_range", "resampler"}
LATER_RESOLVED = {"images", "gain", "workers", "threads_reason"}


def test_a_start_recorded_before_a_field_was_there_has_its_default() -> None:
    newest = plain(started(SPEC))
    older = {name: value for name, value in newest.items() if name not in LATER_FIELDS}
    older["resolved"] = {name: value for name, value in older["resolved"].items() if name not in LATER_RESOLVED}
    found = from_plain(type(started(SPEC)), older)
    assert found == started(SPEC)  # whose later fields are at their defaults
    assert (found.data_rules, found.resolved.images) == (1, "resident")


def test_a_start_that_lacks_what_it_always_had_is_a_damaged_row(home: Folders) -> None:
    with sqlite3.connect(home.database) as db:
        db.execute("UPDATE runs SET started = json_remove(started, '$.class_names'), seal = NULL WHERE run = 1")
    with Store(home.database) as store:
        with pytest.raises(StoreError, match="run 1 cannot be read: its rows in the database are damaged"):
            store.details(1)
        assert store.details(2).started == started(SPEC, 2)


def test_what_was_not_recorded_yet_is_no_difference() -> None:
    before = replace(started(SPEC), resolved=replace(RESOLVED, versions={"torch": "2.15.0"}))
    now = replace(RESOLVED, versions={"torch": "2.15.0", "numpy": "2.5"}, threads_reason="others are at work")
    assert Resume(before).differences(now) == ()
    assert Resume(before).differences(replace(now, workers="2")) == ("workers 2 instead of one",)
