"""Names beside numbers: the classes and the file of every prediction, in the commands and in the export."""

from __future__ import annotations

import csv
import io
import json
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.analysis.mistakes import Mistake, find_mistakes, with_files
from engine.analysis.naming import test_files as files_of
from engine.data.images import ImageData
from engine.data.manifest import FileRecord, write_manifest
from engine.export.plain_files import export_run
from engine.paths import Folders, find_folders
from engine.spec import RunSpec
from engine.store.store import Store
from engine.text import safe_path
from tests.engine.test_cli import reslab
from tests.engine.test_datasets import load
from tests.fakes import evaluated, events_of, started

CLASSES = [str(number) for number in range(12)]  # as text: 0, 1, 10, 11, 2 …


def make_numbered(root: Path) -> Path:
    """Folders 0 to 11 of four pictures each, every one of a grey of its own, and a broken file in the first."""
    for number, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for index in range(4):
            Image.new("L", (8, 8), 5 * (4 * number + index)).save(root / name / f"{name}-{index}.png")
    (root / "0" / "broken.png").write_bytes(b"no image")
    return root


@pytest.fixture
def numbered(tmp_path: Path) -> tuple[Path, ImageData]:
    """A run of such a folder as recorded, every test image taken for the class after its own; and its images."""
    root, folders = make_numbered(tmp_path / "numbers"), find_folders()
    spec = RunSpec(f"folder:{root}", "resnet20", epochs=1, test_share=0.5)
    data = load(spec)
    labels = data.test.labels.numpy().astype("<u2")
    guesses = ((labels + 1) % 12).astype("<u2")
    with Store(folders.database) as store:
        run = store.create_run(spec)
        final = replace(
            evaluated(run, 1, 0.5, "final"),
            labels=labels.tobytes(),
            predictions=guesses.tobytes(),
            confidences=np.linspace(0.5, 0.9, len(labels), dtype="<f4").tobytes(),
        )
        for event in (started(spec, run, data.class_names), final, events_of(spec, run)[-1]):
            store.record(event)
    write_manifest(folders.run_folder(run) / "manifest.csv", data.manifest)
    return root, data


def test_predictions_name_the_classes_and_the_file(
    numbered: tuple[Path, ImageData], capsys: pytest.CaptureFixture[str]
) -> None:
    root, data = numbered
    assert reslab("predictions", "1") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 24
    assert [int(row["index"]) for row in rows] == list(range(24))
    for row, pixels in zip(rows, data.test.take(torch.arange(24)).images, strict=True):
        assert Path(row["file"]).parent.name == row["true"]  # the folder is the class
        assert np.asarray(Image.open(root / row["file"]))[0, 0] == pixels[0, 0, 0]  # and the file is that very image
        true, predicted = int(row["true_class_index"]), int(row["predicted_class_index"])
        assert (data.class_names[true], data.class_names[predicted]) == (row["true"], row["predicted"])
    assert data.class_names[2] == "10"
    assert {row["true"] for row in rows if row["true_class_index"] == "2"} == {"10"}


def test_json_and_export_say_the_same(
    numbered: tuple[Path, ImageData], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert reslab("predictions", "1") == 0
    printed = capsys.readouterr().out
    assert reslab("predictions", "1", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [{name: str(value) for name, value in row.items()} for row in rows] == list(
        csv.DictReader(io.StringIO(printed))
    )
    folders = find_folders()
    with Store(folders.database) as store:
        folder = export_run(store, 1, folders.run_folder(1), tmp_path / "out")
    assert (folder / "predictions.csv").read_text(encoding="utf-8") == printed


def test_datasets_without_files_leave_the_file_empty(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    spec = RunSpec("digits", "resnet20")
    with Store(find_folders().database) as store:
        run = store.create_run(spec)
        for event in events_of(spec, run):
            store.record(event)
    assert reslab("predictions", "1") == 0
    first = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert (first["file"], first["true"], first["predicted"]) == ("", "cat", "cat")
    assert reslab("predictions", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["file"] is None


RECORDS = [FileRecord(f"{name}/{n}.png", "", name, "test", None) for name in ("a", "b") for n in range(2)]


@pytest.mark.parametrize(
    "records",
    [RECORDS[:3], RECORDS[::-1], [replace(RECORDS[0], split="train"), *RECORDS[1:]], []],
    ids=["one less", "another order", "another split", "none"],
)
def test_a_manifest_of_other_images_names_none(tmp_path: Path, records: list[FileRecord]) -> None:
    write_manifest(tmp_path / "manifest.csv", records)
    assert files_of(tmp_path, ("a", "b"), array("H", [0, 0, 1, 1])) == []


def test_a_manifest_that_cannot_be_read_names_none(tmp_path: Path) -> None:
    for text in ("", "file\na\n", "\x00"):
        (tmp_path / "manifest.csv").write_text(text)
        assert files_of(tmp_path, ("a", "b"), array("H", [0])) == []


def test_mistakes_carry_their_files(numbered: tuple[Path, ImageData]) -> None:
    folders = find_folders()
    with Store(folders.database) as store:
        details, predictions = store.details(1), store.predictions(1)
    found = with_files(
        find_mistakes(predictions), files_of(folders.run_folder(1), details.class_names, predictions.labels)
    )
    assert len(found) == 24
    assert all(Path(item.file).parent.name == details.class_names[item.label] for item in found)
    assert with_files([Mistake(0, 0, 1, 0.5)], []) == [Mistake(0, 0, 1, 0.5, "")]


def test_the_end_of_a_long_path_is_kept() -> None:
    assert safe_path("a/very/long/folder/cat.0012.jpg", 13) == "…cat.0012.jpg"
    assert safe_path("cat.jpg", 13) == "cat.jpg"
    assert safe_path("\x1b.jpg", 13) == "␛.jpg"
