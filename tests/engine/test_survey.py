"""What is forecast is what is loaded: files are counted and headers read where the loader finds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.control import RunControl
from engine.data import decoding, sizing
from engine.data.loading import load_dataset
from engine.data.survey import Survey, survey_now
from engine.errors import DatasetError
from engine.events import MemoryForecasted
from engine.forecast.step_memory import resident_bytes
from engine.lab import Lab
from engine.paths import Folders
from engine.progress import LoadingStopped
from engine.shape import DataShape
from engine.spec import RunSpec
from tests.engine.test_cats_dogs import pet_images
from tests.engine.test_cli import output_of, reslab
from tests.engine.test_datasets import make_folder
from tests.engine.test_folders import picture, pictures
from tests.fakes import drain

FOLDERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "small": ({"size": (12, 10)}, {}),
    "grey": ({"size": (32, 32), "mode": "L"}, {"test_share": 0.3}),
    "large": ({"size": (640, 520)}, {}),
    "tiny": ({"size": (3, 3)}, {"val_share": 0.2}),
    "asked": ({"size": (640, 520)}, {"image_size": 16}),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_survey_says_what_is_then_loaded(tmp_path: Path, folders: Folders, name: str) -> None:
    look, settings = FOLDERS[name]
    root = make_folder(tmp_path / "images", {"a": 10, "b": 7, "c": 4}, **look)
    spec = RunSpec(f"folder:{root}", "resnet20", **settings)
    found = survey_now(spec, folders)
    data = drain(load_dataset(spec, folders, RunControl()))[1]
    assert found.shape == data.shape
    num_val = len(data.val) if data.val else 0
    assert (found.num_train, found.num_val, found.num_test) == (len(data.train), num_val, len(data.test))
    assert found.notes == data.notes


def test_given_parts_and_mixed_sizes_are_surveyed_as_they_are_loaded(tmp_path: Path, folders: Folders) -> None:
    root = pictures(tmp_path / "images", {"train/a/x": 5, "train/b": 6, "valid/a": 2, "valid/b": 2, "test/b": 3})
    picture(root / "train" / "a" / "odd.png", 99, (30, 20))
    spec = RunSpec(f"folder:{root}", "resnet20")
    found, data = survey_now(spec, folders), drain(load_dataset(spec, folders, RunControl()))[1]
    assert (found.shape, found.num_train, found.num_val, found.num_test) == (DataShape(3, 224, 224, 2), 12, 4, 3)
    assert (found.shape, found.num_images) == (data.shape, len(data.train) + len(data.val) + len(data.test))
    assert found.counts == "2 classes, about train 12, validation 4, test 3"


def test_the_command_forecasts_the_run_that_follows(
    tmp_path: Path, folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    root = pictures(tmp_path / "images", {"train/a": 16, "train/b": 16, "test/a": 4, "test/b": 4})
    said = output_of(capsys, "forecast", f"folder:{root}", "resnet20", "--json")
    assert said["images"]["shape"] == {"channels": 3, "height": 8, "width": 8, "num_classes": 2}
    assert said["dataset_bytes"] == resident_bytes(40, DataShape(3, 8, 8, 2))
    events = Lab(folders).train(RunSpec(f"folder:{root}", "resnet20", epochs=1)).events()
    recorded = next(event for event in events if isinstance(event, MemoryForecasted))
    events.close()
    assert recorded.activations_bytes == said["activations_bytes"]
    assert reslab("forecast", f"folder:{root}", "resnet20") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["images 8×8×3, 2 classes, about train 32, test 8", "train → training, test → test"]


def test_cats_and_dogs_are_those_that_lie_there(folders: Folders) -> None:
    spec = RunSpec("cats-dogs", "resnet18", val_share=0.1)
    assert survey_now(spec, None).num_images == 25_000
    assert "not in" in survey_now(spec, folders).notes[0]
    pet_images(folders.data / "PetImages", number=20)
    found = survey_now(spec, folders)
    data = drain(load_dataset(spec.replace(image_size=16), folders, RunControl()))[1]
    assert (found.num_train, found.num_val, found.num_test) == (len(data.train), len(data.val), len(data.test))
    assert found.notes == (f"40 files in {folders.data / 'PetImages'}",)


def test_real_cats_and_dogs_are_counted(real_data: Path, folders: Folders) -> None:
    found = survey_now(RunSpec("cats-dogs", "resnet18"), Folders(folders.home, real_data, folders.cache))
    assert (found.num_train, found.num_test) == (1755, 752)  # of 2,507: Thumbs.db is no photograph


def test_headers_are_read_until_they_have_decided_and_not_twice(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = pictures(tmp_path / "images", {"a": 40, "b": 40})
    read: list[Path] = []
    real = decoding.read_header
    monkeypatch.setattr(sizing, "read_header", lambda path: read.append(path) or real(path))  # type: ignore[func-returns-value]
    spec = RunSpec(f"folder:{root}", "resnet20")
    survey_now(spec, folders)
    assert len(read) == 80  # all of one size: only all of them can say so
    drain(load_dataset(spec, folders, RunControl()))
    assert len(read) == 80
    picture(root / "a" / "0.png", 7, (30, 20))
    assert survey_now(spec, folders).shape.height == 224
    assert len(read) == 82


def test_of_very_many_files_some_headers_are_read_from_all_over(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.data.survey.MOST_HEADERS", 10)
    read: list[Path] = []
    real = decoding.read_header
    monkeypatch.setattr(sizing, "read_header", lambda path: read.append(path) or real(path))  # type: ignore[func-returns-value]
    survey_now(RunSpec(f"folder:{pictures(tmp_path / 'images', {'a': 30, 'b': 30})}", "resnet20"), folders)
    assert (len(read), {path.parent.name for path in read}) == (10, {"a", "b"})


def test_looking_shows_progress_and_hears_of_a_stop(tmp_path: Path, folders: Folders) -> None:
    from engine.data.survey import survey

    control = RunControl()
    looking = survey(RunSpec(f"folder:{pictures(tmp_path / 'images', {'a': 3, 'b': 3})}", "resnet20"), folders, control)
    assert (next(looking).stage, json.dumps(control.stop_requested)) == ("look", "false")
    control.stop()
    looking = survey(RunSpec(f"folder:{pictures(tmp_path / 'more', {'a': 3, 'b': 3})}", "resnet20"), folders, control)
    with pytest.raises(LoadingStopped):
        drain(looking)


def test_a_folder_without_an_image_is_refused_by_the_forecast_too(tmp_path: Path, folders: Folders) -> None:
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "1.txt").write_text("no picture")
    with pytest.raises(DatasetError, match="no image in"):
        survey_now(RunSpec(f"folder:{tmp_path / 'images'}", "resnet20"), folders)


def test_published_numbers_are_exact() -> None:
    found = survey_now(RunSpec("mnist", "resnet18", image_size=8), None)
    assert found == Survey(DataShape(1, 8, 8, 10), 60_000, 0, 10_000)
    assert found.counts == "train 60,000, test 10,000"
