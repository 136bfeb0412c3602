"""Folders mean the same from everywhere, moved images are known by their hash, seeds are grouped by their images."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.analysis.seeds import group_by_seed, images_of
from engine.catalog.datasets import absolute_dataset
from engine.cli.parser import build_parser, specs_from
from engine.control import RunControl
from engine.errors import DatasetError, StoreError
from engine.events import plain
from engine.lab import Lab
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.engine.test_cli import reslab
from tests.engine.test_datasets import write_idx_files
from tests.engine.test_folders import pictures
from tests.engine.test_resume import cut, details_of

SPEC = RunSpec("digits", "resnet20", epochs=2, batch_size=8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return pictures(tmp_path / "images", {"train/a": 12, "train/b": 12, "test/a": 3, "test/b": 3})


def test_a_folder_is_stored_with_its_whole_path(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(root)
    whole = f"folder:{root}"
    (tmp_path / "recipe.toml").write_text('dataset = "folder:."\nmodel = "resnet18"\n')
    lines = (["folder:.", "resnet18"], ["folder:../images", "resnet18"], ["--spec", str(tmp_path / "recipe.toml")])
    for words in lines:
        assert [spec.dataset for spec in specs_from(build_parser().parse_args(["train", *words]))] == [whole]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert absolute_dataset("folder:~/images") == whole
    assert [absolute_dataset(name) for name in ("mnist", "folder:", "folder: ")] == ["mnist", "folder:", "folder: "]


def test_a_run_from_python_is_stored_so_too(root: Path, monkeypatch: pytest.MonkeyPatch, folders: Folders) -> None:
    monkeypatch.chdir(root)
    control = RunControl()
    control.stop()
    list(Lab(folders).train(SPEC.replace(dataset="folder:."), control).events())
    assert details_of(folders, 1).record.dataset == f"folder:{root}"


def test_what_is_stored_already_is_left_as_it_is() -> None:
    assert RunSpec.from_json('{"dataset": "folder:.", "model": "resnet18"}').dataset == "folder:."


def test_a_run_goes_on_from_anywhere_with_images_that_have_moved(
    folders: Folders, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root.parent)
    cut(folders, 1, SPEC.replace(dataset="folder:images"))
    moved = root.rename(tmp_path / "elsewhere")
    assert reslab("resume", "1") == 2
    assert "if it has moved, use reslab resume 1 --dataset folder:PATH" in capsys.readouterr().err
    monkeypatch.chdir(moved)
    assert reslab("resume", "1", "--dataset", "folder:.") == 0
    record = details_of(folders, 1).record
    assert (record.status, record.dataset, record.spec["dataset"]) == ("completed", *[f"folder:{moved}"] * 2)


def test_other_images_are_no_moved_ones(folders: Folders, root: Path, tmp_path: Path) -> None:
    cut(folders, 1, SPEC.replace(dataset=f"folder:{root}"))
    other = shutil.copytree(root, tmp_path / "other")
    picture = other / "train" / "a" / "0.png"
    picture.write_bytes((other / "train" / "b" / "12.png").read_bytes())
    with pytest.raises(StoreError, match="the images are not those that the run began with"):
        list(Lab(folders).resume(1, RunControl(), f"folder:{other}").events())
    with pytest.raises(DatasetError, match="no folder"):
        list(Lab(folders).resume(1, RunControl(), f"folder:{tmp_path / 'nowhere'}").events())
    assert details_of(folders, 1).record.dataset == f"folder:{root}"


def test_what_a_run_has_not_seen_cannot_be_checked(folders: Folders, root: Path) -> None:
    cut(folders, 1, SPEC.replace(dataset=f"folder:{root}"))
    with sqlite3.connect(folders.database) as db:
        db.execute("UPDATE runs SET started = NULL, seal = NULL")
    with pytest.raises(StoreError, match="ended before it loaded its images"):
        list(Lab(folders).resume(1, RunControl(), f"folder:{root}").events())


def test_a_run_on_a_dataset_of_the_data_folder_goes_on_from_another_one(tmp_path: Path, folders: Folders) -> None:
    rng = np.random.default_rng(0)
    for prefix, number in (("train", 40), ("t10k", 20)):
        images = rng.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        write_idx_files(folders.data / "MNIST" / "raw", images, np.arange(number, dtype=np.uint8) % 10, prefix)
    cut(folders, 1, SPEC.replace(dataset="mnist", batch_size=16, image_size=8))
    moved = folders.data.rename(tmp_path / "moved")
    assert reslab("resume", "1", "--data-dir", str(moved)) == 0
    assert details_of(folders, 1).record.status == "completed"


def test_a_run_that_began_by_the_first_rules_goes_on_by_them(folders: Folders, tmp_path: Path) -> None:
    """Its validation images are chosen one by one, and what lies in sub-folders is passed over, as when it began."""
    root = pictures(tmp_path / "images", {"a": 20, "b": 20})
    for number in range(8):
        (root / "a" / f"copy{number}.png").write_bytes((root / "a" / f"{number}.png").read_bytes())
    spec = SPEC.replace(dataset=f"folder:{root}", val_share=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.training.resume.NEWEST_RULES", 1)
        cut(folders, 1, spec)
    cut(folders, 1, spec)
    one, other = details_of(folders, 1), details_of(folders, 2)
    assert one.started is not None
    assert other.started is not None
    assert one.started.train_sha256 != other.started.train_sha256
    pictures(root, {"b/nested": 1}, first=90)
    with sqlite3.connect(folders.database) as db:  # as an earlier version wrote it
        later = ("data_rules", "notes", "shared")
        started = {name: value for name, value in plain(one.started).items() if name not in later}
        db.execute("UPDATE runs SET started = ?, seal = NULL WHERE run = 1", (json.dumps(started),))
    assert list(Lab(folders).resume(1).events())[-1].status == "completed"  # type: ignore[union-attr]
    with pytest.raises(StoreError, match="the images are not those"):
        list(Lab(folders).resume(2).events())


def test_seeds_are_grouped_by_the_images_that_they_saw(
    folders: Folders, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two datasets in one place after another are two; one dataset in two places is one."""
    other = pictures(tmp_path / "other", {"train/a": 9, "train/b": 9, "test/a": 3, "test/b": 3}, first=500)
    copy = shutil.copytree(root, tmp_path / "copy")
    spec, lab = SPEC.replace(dataset=f"folder:{root}", epochs=1), Lab(folders)
    list(lab.train(spec).events())
    list(lab.train(spec.replace(seed=1, dataset=f"folder:{copy}")).events())
    shutil.rmtree(root)
    other.rename(root)
    for seed in (0, 1):
        list(lab.train(spec.replace(seed=seed)).events())
    with Store(folders.database) as store:
        compared = [store.details(number) for number in (1, 2, 3, 4)]
    images = {details.record.run: images_of(details) for details in compared}
    groups = group_by_seed([details.record for details in compared], images=images)
    assert [group.runs for group in groups] == [(1, 2), (3, 4)]
    assert len({group.name for group in groups}) == 2
    assert reslab("compare", "1", "2", "3", "4", "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert [group["runs"] for group in found["groups"]] == [[1, 2], [3, 4]]
