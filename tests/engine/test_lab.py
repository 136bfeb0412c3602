"""The Python interface: every use case of the command line and the app, from one object."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from engine import Lab, RunControl, RunSpec, find_folders
from engine.cli import main
from engine.errors import StoreError
from engine.events import StepsCompleted
from engine.paths import Folders

SPEC = RunSpec("digits", "resnet20", epochs=1, dtype="float32")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Two seeds of one spec, and a run that was stopped."""
    root = tmp_path_factory.mktemp("lab")
    lab = Lab(Folders(root / "home", root / "data", root / "cache"))
    for seed in (0, 1):
        ended = lab.train(SPEC.replace(seed=seed)).wait()
        assert ended is not None
        assert ended.status == "completed", ended.error
    control = RunControl()
    for event in lab.train(SPEC.replace(model="plain20"), control).events():
        if isinstance(event, StepsCompleted):
            control.stop()
    return lab


def test_runs_are_listed_newest_first_and_chosen_by_what_they_are(lab: Lab) -> None:
    assert [run.run for run in lab.runs()] == [3, 2, 1]
    assert [run.run for run in lab.runs(status="completed")] == [2, 1]
    assert [run.run for run in lab.runs(model="plain20", dataset="digits")] == [3]
    assert lab.runs(dataset="mnist") == []


def test_a_run_is_opened_with_its_typed_figures(lab: Lab) -> None:
    details = lab.run(1)
    final = details.evaluation("final")
    assert final is not None
    assert final.metrics == details.record.final
    assert len(list(lab.predictions(1))) == 360
    with pytest.raises(StoreError, match="no run 9"):
        lab.run(9)


def test_runs_are_compared_and_seeds_are_a_group(lab: Lab) -> None:
    found = lab.compare([1, 2])
    assert [details.record.run for details in found.runs] == [1, 2]
    (verdict,) = found.comparison.verdicts
    assert verdict.num_images == 360
    (group,) = found.groups
    assert group.runs == (1, 2)


def test_a_stopped_run_is_resumed_to_its_end(lab: Lab) -> None:
    ended = lab.resume(3).wait()
    assert ended is not None
    assert (ended.run, ended.status) == (3, "completed")


def test_images_are_predicted_with_a_run(lab: Lab, tmp_path: Path) -> None:
    Image.new("L", (8, 8), 40).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    first, second = lab.predict(1, [tmp_path])
    assert len(first.guesses) == 5
    assert first.error is None
    assert second.error is not None


def test_memory_is_forecast_without_a_run(lab: Lab) -> None:
    plan = lab.forecast(SPEC)
    assert plan.words == "fits"
    assert plan.forecast is not None
    assert plan.forecast.peak_bytes > 0


def test_a_run_is_exported_as_plain_files(lab: Lab, tmp_path: Path) -> None:
    folder = lab.export(1, tmp_path / "out")
    assert folder == tmp_path / "out"
    record = json.loads((folder / "run.json").read_text())
    assert record["final"]["accuracy"] == lab.run(1).record.final.accuracy
    assert tomllib.loads((folder / "spec.toml").read_text())["model"] == "resnet20"
    with (folder / "steps.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 12
    with (folder / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 360
    assert lab.export(2) == lab.folders.home / "exports" / "2"


def test_the_command_exports_and_says_where(lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(lab.folders.home)]
    assert main([*home, "export", "1", "--to", str(tmp_path / "here")], lambda opening: 0) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "here")
    assert "metrics.csv" in err
    assert main([*home, "export", "1", "--to", str(tmp_path / "here"), "--json"], lambda opening: 0) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said["files"]) == {"run.json", "spec.toml", "metrics.csv", "steps.csv", "predictions.csv"}
    (tmp_path / "file").touch()
    assert main([*home, "export", "1", "--to", str(tmp_path / "file")], lambda opening: 0) == 2
    assert "choose a folder that is writable" in capsys.readouterr().err
    assert main([*home, "export", "77"], lambda opening: 0) == 2


def test_a_deleted_run_is_gone_and_its_export_is_not(lab: Lab) -> None:
    lab.train(SPEC.replace(seed=5)).wait()
    folder = lab.export(4)
    lab.delete(4)
    assert 4 not in [run.run for run in lab.runs()]
    assert not lab.folders.run_folder(4).exists()
    assert (folder / "run.json").is_file()


def test_what_needs_no_torch_loads_none() -> None:
    code = (
        "from engine import Lab, RunSpec; lab = Lab(); lab.runs(); lab.queue(); lab.autotune_choices(); "
        "lab.enqueue([RunSpec('digits', 'resnet18')]); handle = lab.train(RunSpec('digits', 'resnet18')); "
        "import sys; print([name for name in ('torch', 'numpy', 'sklearn', 'textual') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_folders_it_takes_those_of_the_person() -> None:
    assert Lab().folders == find_folders()
