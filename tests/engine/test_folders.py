"""A folder as people lay it out: parts by whatever name, nested classes, clutter, classes that lack images."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine.control import RunControl
from engine.data.images import FIRST_RULES, ImageData
from engine.data.layout import find_layout, part_by_name
from engine.data.loading import check_dataset, load_dataset
from engine.errors import DatasetError
from engine.paths import find_folders
from engine.spec import RunSpec
from tests.engine.test_cli import output_of, reslab
from tests.fakes import drain


def picture(path: Path, seed: int, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def pictures(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    """So many different images in each of these folders, which may be nested."""
    for name, count in counts.items():
        for _ in range(count):
            picture(root / name / f"{first}.png", first)
            first += 1
    return root


def load(root: Path, rules: int | None = None, **settings: object) -> ImageData:
    spec = RunSpec(f"folder:{root}", "resnet20", **settings)  # type: ignore[arg-type]
    more = {} if rules is None else {"rules": rules}
    data: ImageData = drain(load_dataset(spec, find_folders(), RunControl(), **more))[1]
    return data


def sizes(data: ImageData) -> tuple[int, int, int]:
    return len(data.train), len(data.val) if data.val else 0, len(data.test)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Apart from the caches of the test."""
    return tmp_path / "images"


def test_images_in_sub_folders_of_a_class_belong_to_it(root: Path) -> None:
    pictures(root, {"a": 4, "a/x": 8, "a/x/deep/er": 12, "b/y": 24})
    data = load(root)
    assert sum(sizes(data)) == 48
    assert Counter(Path(record.file).parts[0] for record in data.manifest) == {"a": 24, "b": 24}


def test_all_images_may_be_nested_in_folders_of_the_same_names(root: Path) -> None:
    pictures(root, {"a/2020": 3, "a/2021": 3, "b/2020": 3, "b/2021": 3})
    data = load(root)
    assert (data.class_names, sum(sizes(data))) == (("a", "b"), 12)


def test_a_circle_of_links_comes_to_an_end_and_broken_links_are_counted(root: Path) -> None:
    pictures(root, {"a": 5, "b": 5})
    (root / "a" / "again").symlink_to(root / "a")
    (root / "a" / "up").symlink_to(root)
    (root / "b" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "b" / "itself.png").symlink_to(root / "b" / "itself.png")
    data = load(root)
    assert Counter(record.class_name for record in data.manifest if record.problem is None)["b"] == 5
    assert Counter(record.problem for record in data.manifest)["broken link"] >= 2


def test_what_systems_and_tools_leave_behind_is_no_image_and_no_class(root: Path) -> None:
    pictures(root, {"a": 5, "b": 5, "__MACOSX/a": 2, ".ipynb_checkpoints": 1, "a/.ipynb_checkpoints": 2, ".git": 1})
    (root / "empty" / "er").mkdir(parents=True)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        (root / "a" / name).write_bytes(b"no picture")
    (root / "only").mkdir()
    (root / "only" / ".DS_Store").touch()
    data = load(root)
    assert (data.class_names, sum(sizes(data))) == (("a", "b"), 10)
    assert Counter(record.problem for record in data.manifest if record.problem) == {"system file": 4}
    assert "empty folders, not used as classes: empty, only" in data.notes


def test_files_of_which_none_is_an_image_are_said_to_be_unreadable(root: Path) -> None:
    for name in ("a", "b"):
        (root / name / "deep").mkdir(parents=True)
        (root / name / "deep" / "1.png").write_text("no picture")
    with pytest.raises(DatasetError, match=r"no image in .* can be read"):
        load(root)


PARTS = [
    ({"train": 6, "valid": 3, "test": 2}, (12, 6, 4)),  # Roboflow
    ({"train": 6, "validation": 3, "test": 2}, (12, 6, 4)),
    ({"train": 6, "val": 3, "test": 2}, (12, 6, 4)),
    ({"Training": 6, "Dev": 3, "Testing": 2}, (12, 6, 4)),
    ({"train": 6, "held back": 3, "test": 2}, (12, 6, 4)),  # beside these two, whatever its name
    ({"train": 6, "val": 3, "held back": 2}, (12, 6, 4)),
    ({"Train": 6, "Test": 3}, (12, 0, 6)),
    ({"TRAIN": 6, "valid": 3}, (12, 0, 6)),  # ImageNet: a single other part is the test set
    ({"training": 6, "validation": 3}, (12, 0, 6)),
    ({"train": 6, "held back": 3}, (12, 0, 6)),
    ({"training_set": 6, "test_set": 3}, (12, 0, 6)),  # Kaggle's
    ({"seg_train": 6, "seg_test": 3}, (12, 0, 6)),
    ({"train2017": 6, "val2017": 3}, (12, 0, 6)),
]


@pytest.mark.parametrize(("parts", "expected"), PARTS, ids=lambda value: "-".join(map(str, value)))
def test_the_parts_are_what_their_names_say(root: Path, parts: dict[str, int], expected: tuple[int, int, int]) -> None:
    for number, (part, count) in enumerate(parts.items()):
        pictures(root / part, {"cat": count, "dog": count}, first=100 * number)
    data = load(root)
    assert sizes(data) == expected
    said = data.notes[0]
    assert all(f"{part} → " in said for part in parts)
    assert ("→ validation" in said) == bool(expected[1])


def test_a_part_packed_into_a_folder_of_its_own_name_is_found(root: Path) -> None:
    pictures(root, {"training_set/training_set/a": 5, "training_set/training_set/b": 5})
    pictures(root, {"test_set/test_set/a": 2, "test_set/test_set/b": 2}, first=50)
    pictures(root / "__MACOSX", {"a": 2})
    assert sizes(load(root)) == (10, 0, 4)


@pytest.mark.parametrize("train", ["train", "train/steam"])
def test_a_class_may_be_called_train(root: Path, train: str) -> None:
    pictures(root, {train: 6, "bus": 6, "car": 6})
    data = load(root)
    assert (data.class_names, sum(sizes(data))) == (("bus", "car", "train"), 18)


AMBIGUOUS = [
    ({"train/a": 2, "train/b": 2, "bus/single": 2}, "two parts or two classes"),
    ({"train/a": 2, "train/b": 2, "one/a": 2, "two/a": 2}, "one and two could be parts or not"),
    ({"train/a": 2, "train/b": 2, "val/a": 2, "valid/a": 2}, "val and valid could each be the validation part"),
    ({"train/a": 2, "Train/b": 2}, "Train and train could each be the training part"),
    ({"train": 2, "test": 2}, "hold images directly"),
    ({"train/a": 2, "train/b": 2, "test": 2}, "holds images directly"),
    ({"val/a": 2, "val/b": 2, "test/a": 2, "test/b": 2}, "no training part"),
]


@pytest.mark.parametrize(("folders", "says"), AMBIGUOUS, ids=lambda value: "-".join(value) if len(value) < 9 else "")
def test_what_could_be_either_is_refused_in_a_sentence(root: Path, folders: dict[str, int], says: str) -> None:
    pictures(root, folders)
    with pytest.raises(DatasetError, match=says) as refused:
        check_dataset(RunSpec(f"folder:{root}", "resnet20"))
    assert "\n" not in str(refused.value)


def test_names_of_parts_are_known_in_any_case_and_filling() -> None:
    names = {"Train": "train", "TRAINING SET": "train", "val-images": "val", "dev": "val", "Test1": "test", "car": None}
    assert {name: part_by_name(name) for name in names} == names


def test_a_share_for_validation_beside_a_validation_part_is_refused(root: Path) -> None:
    for number, part in enumerate(("train", "valid", "test")):
        pictures(root / part, {"a": 4, "b": 4}, first=100 * number)
    with pytest.raises(DatasetError, match="has a validation part of its own, valid; set val share to 0"):
        check_dataset(RunSpec(f"folder:{root}", "resnet20", val_share=0.2))


def test_a_class_without_training_images_is_refused_by_name(root: Path) -> None:
    pictures(root, {"train/a": 4, "train/b": 4, "train/c": 4, "test/a": 2, "test/b": 2, "test/d": 2, "test/e": 2})
    with pytest.raises(DatasetError, match="no image of d, e, which"):
        check_dataset(RunSpec(f"folder:{root}", "resnet20"))
    for name in ("d", "e"):
        for path in (root / "test" / name).iterdir():
            path.unlink()
    for path in (root / "train" / "c").iterdir():
        path.write_text("no picture")
    with pytest.raises(DatasetError, match=r"too few training images in .*: c \(0\); expected at least one"):
        load(root)


def test_a_part_that_lacks_a_class_goes_on_and_names_it(root: Path) -> None:
    pictures(root, {"train/a": 4, "train/b": 4, "train/c": 4, "val/a": 2, "val/b": 2, "test/a": 2, "test/c": 2})
    data = load(root)
    assert sizes(data) == (12, 4, 4)
    assert "no validation image of c: no recall, and not in the averages" in data.notes
    assert "no test image of b: no recall, and not in the averages" in data.notes


def test_two_images_of_a_class_suffice_and_one_is_refused_by_name(root: Path) -> None:
    pictures(root, {"many": 20, "pair": 2, "couple": 2})
    data = load(root)
    assert data.train.labels.bincount().tolist() == [1, 16, 1]
    assert data.test.labels.bincount().tolist() == [1, 4, 1]
    pictures(root, {"single": 1, "lone": 1}, first=100)
    with pytest.raises(DatasetError, match=r"lone \(1\), single \(1\); expected at least two in every class"):
        load(root)


def test_a_class_of_one_image_and_its_copy_is_refused_by_name(root: Path) -> None:
    pictures(root, {"a": 6, "b": 6, "twice": 1})
    (original,) = (root / "twice").iterdir()
    (root / "twice" / "copy.png").write_bytes(original.read_bytes())
    with pytest.raises(DatasetError, match="of the images of twice as the test set"):
        load(root)


def test_large_images_of_one_size_are_resized_unless_a_size_was_asked_for(root: Path) -> None:
    for number in range(8):
        picture(root / "ab"[number % 2] / f"{number}.png", number, (640, 520))
    data = load(root)
    assert data.train.images.shape[1:] == (3, 224, 224)
    assert "images are 640×520, their shorter side over 512 pixels: resized to 224×224" in " ".join(data.notes)
    assert load(root, rules=FIRST_RULES).train.images.shape[1:] == (3, 520, 640)
    asked = load(root, image_size=32)
    assert (asked.train.images.shape[1:], asked.notes) == ((3, 32, 32), ())


def test_images_of_one_moderate_size_stay_as_they_are(root: Path) -> None:
    for number in range(8):
        picture(root / "ab"[number % 2] / f"{number}.png", number, (600, 512))
    assert (load(root).train.images.shape[1:], load(root).notes) == ((3, 512, 600), ())


def test_a_run_that_began_by_the_first_rules_finds_its_images_again(root: Path) -> None:
    pictures(root, {"train/a": 6, "train/b": 6, "train/a/nested": 3, "val/a": 2, "val/b": 2, "test/a": 2, "test/b": 2})
    assert sizes(load(root, rules=FIRST_RULES)) == (12, 0, 4)
    assert sizes(load(root)) == (15, 4, 4)


def test_a_folder_that_cannot_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(root, {"a": 2, "b/locked": 2})
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DatasetError, match=r"cannot read .*/b/locked .Permission denied"):
        find_layout(root)


def untidy(root: Path) -> Path:
    """Three parts of two classes, an image in two of them, and five files that are no usable image."""
    for number, part in enumerate(("train", "valid", "test")):
        pictures(root / part, {"a": 6, "b": 6}, first=100 * number)
    (root / "test" / "a" / "leak.png").write_bytes((root / "train" / "a" / "0.png").read_bytes())
    whole = (root / "train" / "a" / "1.png").read_bytes()
    (root / "train" / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "train" / "a" / "list.txt").write_text("no picture")
    (root / "train" / "b" / "list.txt").write_text("no picture")
    (root / "train" / "b" / "Thumbs.db").write_bytes(b"x")
    picture(root / "stray.png", 999)
    return root


SAYS = (
    "train → training, valid → validation, test → test",
    "1 image is in both train and test",
    "5 files left out: 2 no image, 1 damaged, 1 outside the class folders, 1 system file",
)


def test_the_command_line_says_what_became_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = untidy(tmp_path / "images")
    assert reslab("train", f"folder:{root}", "resnet20", "--epochs", "1") == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line in SAYS] == list(SAYS)
    assert any("12 training, 12 validation and 13 test images" in line for line in said)
    started = output_of(capsys, "show", "1", "--json")["started"]
    assert started["notes"] == list(SAYS[:2])
    assert started["left_out"] == {"no image": 2, "damaged": 1, "outside the class folders": 1, "system file": 1}
    assert (started["shared"], started["data_rules"]) == ({"train and test": 1}, 2)
    assert reslab("show", "1") == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in SAYS)


def test_json_carries_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also that a class without a test image has no recall there, nor in the averages."""
    root = untidy(tmp_path / "images")
    for path in (root / "test" / "b").iterdir():
        path.unlink()
    assert reslab("train", f"folder:{root}", "resnet20", "--epochs", "1", "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (started,) = [event for event in events if event["event"] == "run_started"]
    assert started["left_out"]["damaged"] == 1
    final = [event for event in events if event["event"] == "evaluated" and event["split"] == "test"][-1]
    assert final["per_class"][1]["recall"] is None
    assert final["metrics"]["recall"] == final["metrics"]["balanced_accuracy"] == final["metrics"]["accuracy"]
    assert reslab("show", "1") == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("b ")]
    assert row.split()[-3:] == ["–", "–", "0"]
