"""Runs on each kind of the user's own datasets: trained, stopped, resumed to the same end, compared, looked into."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.control import RunControl
from engine.events import RunEnded
from engine.lab import Lab
from engine.paths import Folders
from engine.spec import RunSpec
from tests.engine.test_archives import packed
from tests.engine.test_cli import reslab
from tests.engine.test_folders import pictures
from tests.engine.test_npz import arrays, saved
from tests.engine.test_resume import cut, details_of
from tests.engine.test_tables import table

pytestmark = pytest.mark.slow

KINDS = ["folder", "csv", "npz", "folder.zip", "csv.tgz", "npz.tar"]


def dataset(kind: str, place: Path) -> str:
    """One dataset of this kind below `place`: the same 24 training and 8 test images as files, others as arrays."""
    root = pictures(place / "mine", {"train/a": 12, "train/b": 12, "test/a": 4, "test/b": 4})
    name, _, ending = kind.partition(".")
    if name == "csv":
        rows = [(p.relative_to(root), p.parts[-2], p.parts[-3]) for p in sorted(root.rglob("*.png"))]
        table(root / "set.csv", ("path", "label", "split"), rows)
    if name == "npz":
        saved(place / "arrays" / "set.npz", arrays({"train": 24, "val": 8, "test": 8}, (8, 8), 2))
    folder = place / ("arrays" if name == "npz" else "mine")
    if ending:
        return f"{name}:{packed(folder, place / f'set.{ending}')}"
    return {"folder": f"folder:{root}", "csv": f"csv:{root}/set.csv", "npz": f"npz:{folder}/set.npz"}[name]


def spec_of(name: str, **settings: object) -> RunSpec:
    return RunSpec(name, "resnet20", epochs=2, batch_size=8, dtype="float32", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_stopped_resumed_to_the_same_end_and_looked_into(kind: str, folders: Folders, tmp_path: Path) -> None:
    lab, name = Lab(folders), dataset(kind, tmp_path)
    whole = lab.train(spec_of(name)).wait()
    assert whole is not None
    assert whole.status == "completed"
    cut(folders, 2, spec_of(name))
    ended = lab.resume(2).wait()
    assert ended is not None
    assert (ended.status, ended.final) == ("completed", whole.final)
    compared = lab.compare([1, 2])
    assert compared.comparison.no_verdict is None
    details = details_of(folders, 1)
    is_of_files = not kind.startswith("npz")
    files = [prediction.file for prediction in lab.predictions(1)]
    assert all(file is not None and file.startswith("test/") for file in files) if is_of_files else not any(files)
    for label in (0, 1):
        found, images = lab.mistakes(details, (label, 1 - label), lambda progress: None, RunControl())
        assert len(found) == len(images)
        assert all(mistake.file.startswith("test/") for mistake in found) or not is_of_files
    assert lab.left_out(1) == ([] if is_of_files else None)
    guesses = list(lab.predict(1, [tmp_path / "mine" / "test"]))
    assert [guess.error for guess in guesses] == [None] * 8


def test_the_same_images_are_the_same_whichever_way_they_are_given(folders: Folders, tmp_path: Path) -> None:
    lab = Lab(folders)
    kinds = ["folder", "csv", "folder.zip", "csv.tgz"]
    for seed, kind in enumerate(kinds):
        lab.train(spec_of(dataset(kind, tmp_path / kind.replace(".", "-")), seed=seed)).wait()
    compared = lab.compare([1, 2, 3, 4])
    assert compared.comparison.no_verdict is None
    assert [group.runs for group in compared.groups] == [(1, 2, 3, 4)]


def test_a_run_goes_on_with_images_that_are_now_of_another_kind(
    folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = dataset("folder", tmp_path)
    cut(folders, 1, spec_of(name))
    archive = packed(tmp_path / "mine", tmp_path / "set.zip")
    shutil.rmtree(tmp_path / "mine")
    assert reslab("resume", "1") == 2
    assert "if it has moved, use reslab resume 1 --dataset folder:PATH" in capsys.readouterr().err
    assert reslab("resume", "1", "--dataset", str(archive)) == 0
    assert f"{archive} is read as folder:{archive}" in capsys.readouterr().err
    record = details_of(folders, 1).record
    assert (record.status, record.dataset) == ("completed", f"folder:{archive}")


def test_a_stop_while_unpacking_ends_the_run_as_stopped(folders: Folders, tmp_path: Path) -> None:
    control = RunControl()
    control.stop()
    *_, last = Lab(folders).train(spec_of(dataset("folder.zip", tmp_path)), control).events()
    assert isinstance(last, RunEnded)
    assert last.status == "stopped"
