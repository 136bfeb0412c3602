"""Datasets given by code: what a function may return, and one sentence for everything else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.catalog.datasets import CODE, absolute_dataset, find_dataset
from engine.control import RunControl
from engine.data.images import ImageData
from engine.data.loading import check_dataset, load_dataset
from engine.data.survey import survey_now
from engine.errors import DatasetError
from engine.lab import Lab
from engine.paths import Folders
from engine.spec import RunSpec
from tests.own_files import DATA, NET, write

BEGINNING = "import numpy as np\nimport torch\n"


def load(folder: Path, text: str, folders: Folders, **changes: object) -> ImageData:
    path = write(folder / "data.py", BEGINNING + text)
    loading = load_dataset(RunSpec(f"code:{path}:load", "resnet20", **changes), folders, RunControl())  # type: ignore[arg-type]
    while True:
        try:
            next(loading)
        except StopIteration as end:
            data: ImageData = end.value
            return data


def returning(value: str) -> str:
    return f"def load():\n    n = np.arange(40) % 2\n    return {value}\n"


GREY = "np.zeros((40, 6, 8), np.uint8)"


def test_a_path_is_a_dataset_and_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("./data.py:load", "data.py:load", "code:data.py:load"):
        assert absolute_dataset(name) == f"code:{tmp_path}/data.py:load"
    assert find_dataset("code:data.py:load") is CODE


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (GREY, (1, 6, 8)),
        ("np.zeros((40, 6, 8, 3), np.uint8)", (3, 6, 8)),
        ("torch.zeros(40, 3, 6, 8, dtype=torch.uint8)", (3, 6, 8)),
        ("np.zeros((40, 7, 6, 8), np.uint8)", (7, 6, 8)),
    ],
)
def test_images_of_all_layouts(images: str, shape: tuple[int, ...], tmp_path: Path, folders: Folders) -> None:
    text = returning(f"{{'train_images': {images}, 'train_labels': n.tolist(), 'class_names': ['cat', 'dog']}}")
    data = load(tmp_path, text, folders, test_share=0.25)
    assert data.train.images.shape == (30, *shape)
    assert len(data.test) == 10
    assert data.class_names == ("cat", "dog")
    assert data.train.images.is_contiguous()


def test_an_object_with_attributes_and_all_three_parts(tmp_path: Path, folders: Folders) -> None:
    text = f"""
from dataclasses import dataclass

@dataclass
class Images:
    train_images = val_images = test_images = {GREY}
    train_labels = val_labels = test_labels = torch.arange(40) % 4

def load(data_dir):
    assert str(data_dir).endswith("data")
    return Images()
"""
    data = load(tmp_path, text, folders)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (40, 40, 40)
    assert data.class_names == ("0", "1", "2", "3")
    with pytest.raises(DatasetError, match="its own validation images; set val share to 0"):
        load(tmp_path, text, folders, val_share=0.5)


MISTAKES = {
    "nothing": ("None", "returned a NoneType; expected a mapping"),
    "pair": ("(1, 2)", "returned a tuple; expected a mapping"),
    "no images": ("{}", "returned no train_images"),
    "no labels": (f"{{'train_images': {GREY}}}", "returned no train_labels; expected train_images and train_labels"),
    "floats": ("{'train_images': np.zeros((40, 6, 8)), 'train_labels': n}", "train_images are float64; expected uint8"),
    "shape": ("{'train_images': np.zeros(40, np.uint8), 'train_labels': n}", r"have the shape \(40,\)"),
    "empty": ("{'train_images': np.zeros((0, 6, 8), np.uint8), 'train_labels': n[:0]}", "have the shape"),
    "number": (f"{{'train_images': {GREY}, 'train_labels': n[:39]}}", "40 images and 39 labels"),
    "label floats": (f"{{'train_images': {GREY}, 'train_labels': n / 2}}", "train_labels are float64 of shape"),
    "label text": (f"{{'train_images': {GREY}, 'train_labels': ['a'] * 40}}", "no arrays of numbers"),
    "negative": (f"{{'train_images': {GREY}, 'train_labels': n - 1}}", "labels from -1 to 0; expected from 0 upwards"),
    "names": (f"{{'train_images': {GREY}, 'train_labels': n + 1, 'class_names': 'ab'}}", "labels from 1 to 2"),
    "one class": (f"{{'train_images': {GREY}, 'train_labels': n * 0}}", "there is only one class"),
    "same names": (f"{{'train_images': {GREY}, 'train_labels': n, 'class_names': 'aa'}}", "have the same name"),
    "parts": (f"{{'train_images': {GREY}, 'train_labels': n, 'test_images': {GREY}[:, 1:], 'test_labels': n}}",
              "images of different shapes .train 1×6×8, test 1×5×8.; expected one shape"),
    "raises": ("1 / 0", r"data.py, line 5: ZeroDivisionError: division by zero"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_sentence(mistake: str, tmp_path: Path, folders: Folders) -> None:
    value, words = MISTAKES[mistake]
    with pytest.raises(DatasetError, match=words) as refused:
        load(tmp_path, returning(value), folders)
    assert "\n" not in str(refused.value)
    assert "data.py" in str(refused.value)


def test_what_can_be_seen_at_once_leaves_no_run(tmp_path: Path, folders: Folders) -> None:
    for name, words in (
        ("none.py:load", "no file .*none.py"),
        ("data.py:none", "no function or class none; it has load"),
    ):
        write(tmp_path / "data.py", DATA)
        with pytest.raises(DatasetError, match=words):
            Lab(folders).train(RunSpec(f"code:{tmp_path}/{name}", "resnet20")).wait()
    with pytest.raises(DatasetError, match="after a colon, its function"):
        check_dataset(RunSpec(f"code:{tmp_path}/data.py", "resnet20"))
    assert Lab(folders).runs() == []


@pytest.mark.slow
def test_it_is_surveyed_trained_and_resized(
    tmp_path: Path, folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data.py", "print('loading')\n" + DATA)
    write(tmp_path / "net.py", NET)
    spec = RunSpec(f"code:{tmp_path}/data.py:load", f"{tmp_path}/net.py:Net", epochs=1, image_size=6, val_share=0.25)
    found = survey_now(spec, folders)
    assert (found.num_train, found.num_val, found.num_test) == (240, 80, 80)
    assert (found.shape.channels, found.shape.height, found.shape.num_classes) == (1, 6, 10)
    ended = Lab(folders).train(spec).wait()
    assert ended is not None
    assert ended.status == "completed", ended.error
    assert capsys.readouterr().out == ""
    started = Lab(folders).run(1).started
    assert started is not None
    assert (started.num_train, started.num_val, started.num_test, started.image_shape) == (240, 80, 80, (1, 6, 6))
    assert torch.tensor(started.mean).numel() == 1
