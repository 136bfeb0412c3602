"""A run goes on with the images that it has seen so far, or says that they are others and touches nothing."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from engine.errors import StoreError
from engine.paths import Folders
from tests.engine.test_resume import SPEC, cut, resume_with

pytestmark = pytest.mark.usefixtures("few_digits")


def test_other_images_are_refused(folders: Folders) -> None:
    cut(folders, 2)
    with sqlite3.connect(folders.database) as other:
        other.execute("UPDATE runs SET started = replace(started, '\"num_train\":180', '\"num_train\":140')")
        other.execute("UPDATE runs SET seal = NULL")
    before = record_of(folders)
    with pytest.raises(StoreError, match="the images are not those that the run began with"):
        resume_with(folders, 1)
    assert record_of(folders) == before  # nothing is touched, and the run can go on once the images are back


def record_of(folders: Folders) -> list[str]:
    with sqlite3.connect(folders.database) as db:
        return [line for line in db.iterdump() if "beat_at" not in line]


def images_in(folder: Path, swapped: bool) -> None:
    """Two classes of twelve images; `swapped` exchanges two training images between them."""
    draws = np.random.default_rng(0)
    for part, name in ((part, name) for part in ("train", "test") for name in ("a", "b")):
        (folder / part / name).mkdir(parents=True, exist_ok=True)
        for number in range(12):
            Image.fromarray(draws.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / part / name / f"{number}.png")
    if swapped:
        one, other = (folder / "train" / name / "3.png" for name in ("a", "b"))
        held = one.read_bytes()
        one.write_bytes(other.read_bytes())
        other.write_bytes(held)


def test_two_training_images_that_change_places_are_noticed(folders: Folders, tmp_path: Path) -> None:
    images_in(tmp_path / "images", swapped=False)
    cut(folders, 1, SPEC.replace(dataset=f"folder:{tmp_path / 'images'}", batch_size=8))
    manifest = folders.run_folder(1) / "manifest.csv"
    before, listed = record_of(folders), manifest.read_bytes()
    images_in(tmp_path / "images", swapped=True)
    with pytest.raises(StoreError, match="the images are not those that the run began with"):
        resume_with(folders, 1)
    assert (record_of(folders), manifest.read_bytes()) == (before, listed)
    images_in(tmp_path / "images", swapped=False)
    assert resume_with(folders, 1)[-1].status == "completed"  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_run_goes_on_without_the_weights_that_it_began_with(folders: Folders, tmp_path: Path) -> None:
    from torchvision.models import resnet18

    path = tmp_path / "mine.safetensors"
    save_file(resnet18().state_dict(), path)
    cut(folders, 2, SPEC.replace(model="resnet18", weights=str(path)))
    path.unlink()
    assert resume_with(folders, 1)[-1].status == "completed"  # type: ignore[union-attr]
