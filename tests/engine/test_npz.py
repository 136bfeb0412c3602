"""Arrays in an .npz file, in MedMNIST's form: read as they are, or refused before memory is taken."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.catalog.datasets import absolute_dataset
from engine.control import RunControl
from engine.data import npz
from engine.data.depth import PixelRange
from engine.data.loading import load_dataset
from engine.data.survey import survey_now
from engine.errors import DatasetError
from engine.paths import Folders
from engine.progress import LoadingStopped
from engine.spec import RunSpec
from tests.engine.test_archives import folders, load, packed
from tests.fakes import drain

__all__ = ["folders"]

Arrays = dict[str, NDArray[Any]]


def arrays(sizes: dict[str, int], shape: tuple[int, ...] = (8, 8, 3), num_classes: int = 3) -> Arrays:
    """Different images with the labels 0, 1, 2, 0, …"""
    rng = np.random.default_rng(0)
    found: Arrays = {}
    for part, size in sizes.items():
        found[f"{part}_images"] = rng.integers(0, 256, (size, *shape), np.uint8)
        found[f"{part}_labels"] = (np.arange(size) % num_classes)[:, None].astype(np.uint8)
    return found


def saved(path: Path, content: Arrays) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **content)  # type: ignore[arg-type]
    return path


def test_medmnists_form_is_read_as_it_is(tmp_path: Path, folders: Folders) -> None:
    content = arrays({"train": 9, "val": 6, "test": 3})
    data = load(absolute_dataset(str(saved(tmp_path / "set.npz", content))), folders)
    assert data.class_names == ("0", "1", "2")
    assert data.val is not None
    for part, split in (("train", data.train), ("val", data.val), ("test", data.test)):
        assert torch.equal(split.images, torch.from_numpy(content[f"{part}_images"]).permute(0, 3, 1, 2))
        assert split.labels.tolist() == content[f"{part}_labels"][:, 0].tolist()
    found = survey_now(RunSpec(f"npz:{tmp_path}/set.npz", "resnet20"), folders)
    assert (found.shape, found.num_train, found.num_val, found.num_test) == (data.shape, 9, 6, 3)


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_single_other_part_is_the_test_set_and_that_is_said(part: str, tmp_path: Path, folders: Folders) -> None:
    data = load(f"npz:{saved(tmp_path / 'set.npz', arrays({'train': 9, part: 3}))}", folders)
    assert (len(data.train), data.val, len(data.test)) == (9, None, 3)
    assert data.notes == (f"train → training, {part} → test",)


@pytest.mark.parametrize(
    "names", [("train_images", "train_labels"), ("images", "labels"), ("X", "y"), ("x_train", "y_train")]
)
def test_without_other_parts_it_is_split_and_copies_stay_together(
    names: tuple[str, str], tmp_path: Path, folders: Folders
) -> None:
    content = arrays({"train": 60})
    content["train_images"][30:] = content["train_images"][:30]
    content["train_labels"][30:] = content["train_labels"][:30]
    path = saved(tmp_path / "set.npz", dict(zip(names, content.values(), strict=True)))
    data = load(f"npz:{path}", folders, test_share=0.2)
    assert (len(data.train), len(data.test), data.shared) == (48, 12, {})
    found = survey_now(RunSpec(f"npz:{path}", "resnet20"), folders)
    assert (found.num_train, found.num_test) == (48, 12)
    assert len(load(f"npz:{path}", folders, val_share=0.25).val or ()) == 12


def test_labels_are_numbers_in_order_or_texts(tmp_path: Path, folders: Folders) -> None:
    content = arrays({"train": 6, "test": 3})
    for labels, names in (
        ([10, 9, -2], ("-2", "9", "10")),
        (["b", "a", "ü"], ("a", "b", "ü")),
        ([b"b", b"a", b"c"], ("a", "b", "c")),
        ([True, False, True], ("False", "True")),
    ):
        content["train_labels"], content["test_labels"] = np.array(labels * 2), np.array(labels)
        data = load(f"npz:{saved(tmp_path / 'set.npz', content)}", folders)
        assert data.class_names == names
        assert [names[label] for label in data.test.labels] == [str(np.array(n).astype(str)) for n in labels]


@pytest.mark.parametrize(
    ("dtype", "highest", "pixel_range"),
    [(np.uint16, 4e3, PixelRange(4095)), (np.int32, 60000, PixelRange(65535)), (np.float32, 1.0, PixelRange(None, 1.0)),
     (np.float64, 255.0, PixelRange(None, 255.0)), (np.int8, 127, PixelRange(255)), (">u2", 1000, PixelRange(1023))],
)  # fmt: skip
def test_other_depths_become_8_bits_by_the_rule_for_files(
    dtype: Any, highest: float, pixel_range: PixelRange, tmp_path: Path, folders: Folders
) -> None:
    content = arrays({"train": 9, "test": 3}, (8, 8))
    exact = {part: content[f"{part}_images"] / 255 * highest for part in ("train", "test")}
    exact["test"][0, 0, 0] = highest  # the range is that of all parts
    for part in exact:
        content[f"{part}_images"] = exact[part].astype(dtype)
    data = load(f"npz:{saved(tmp_path / 'set.npz', content)}", folders)
    assert data.pixel_range == pixel_range
    high = pixel_range.integers or pixel_range.floats or 0
    expected = np.round(content["train_images"].astype(np.float64) * 255 / high)
    assert np.abs(data.train.images[:, 0].numpy() - expected).max() <= 1  # in float32, half-way cases
    flags = {
        name: (values > 100 if "images" in name else values) for name, values in arrays({"train": 9, "test": 3}).items()
    }
    assert set(load(f"npz:{saved(tmp_path / 'flags.npz', flags)}", folders).train.images.flatten().tolist()) == {0, 255}


def test_a_class_that_another_part_lacks_is_named(tmp_path: Path, folders: Folders) -> None:
    content = arrays({"train": 9, "val": 3, "test": 3})
    content["val_labels"][:] = 1
    content["test_labels"][:] = 2
    notes = load(f"npz:{saved(tmp_path / 'set.npz', content)}", folders).notes[1:]
    assert [note.partition(":")[0] for note in notes] == ["no validation image of 0, 2", "no test image of 0, 1"]


def test_arrays_in_columns_first_order_are_read(tmp_path: Path, folders: Folders) -> None:
    content = arrays({"train": 9, "test": 3})
    plain = load(f"npz:{saved(tmp_path / 'one.npz', content)}", folders)
    turned = {name: np.asfortranarray(values) for name, values in content.items()}
    np.savez(tmp_path / "two.npz", **turned)  # type: ignore[arg-type]
    assert load(f"npz:{tmp_path}/two.npz", folders).test_sha256 == plain.test_sha256


def changed(**other: object) -> Arrays:
    content = {**arrays({"train": 9, "test": 3}), **other}
    return {name: np.asarray(values) for name, values in content.items() if values is not None}


REFUSED: dict[str, tuple[Arrays, str]] = {
    "several labels": (changed(train_labels=np.zeros((9, 14), np.uint8)), "reslab classifies images into one"),
    "no labels": (changed(test_labels=None), "has test_images, but not its counterpart"),
    "no images": (changed(train_images=None), "has train_labels, but not its counterpart"),
    "no training part": (changed(train_images=None, train_labels=None), "has no training part"),
    "other names": ({"a": np.zeros(3), "b": np.zeros(3)}, "has the arrays a, b; expected train_images"),
    "too few labels": (changed(train_labels=np.zeros(8, np.uint8)), "one whole number or text for each of 9 images"),
    "labels with fractions": (changed(train_labels=np.zeros(9)), "one whole number or text"),
    "one label": (changed(train_labels=np.zeros(9, np.uint8), test_labels=np.zeros(3, np.uint8)), "has one label, 0"),
    "a label without images": (changed(test_labels=np.array([0, 1, 7])), "test_labels has 7, of which there is no"),
    "channels first": (changed(train_images=np.zeros((9, 3, 8, 8), np.uint8)), "or × 1 or 3 channels"),
    "volumes": (changed(train_images=np.zeros((9, 8, 8, 8), np.uint8)), "or × 1 or 3 channels"),
    "texts": (changed(train_images=np.full((9, 8, 8), "x")), "expected numbers"),
    "two sizes": (changed(test_images=np.zeros((3, 9, 9, 3), np.uint8)), "expected images of one size"),
    "nothing": (changed(test_images=np.zeros((0, 8, 8, 3)), test_labels=np.zeros(0, int)), "at least one image"),
    "negative": (changed(train_images=np.full((9, 8, 8, 3), -1)), "from -1 to -1; expected 0 to 31 bits"),
    "NaN": (changed(train_images=np.full((9, 8, 8, 3), np.nan)), "from nan to nan; expected 0 to 1 or 0 to 255"),
    "objects": (changed(train_labels=np.array([print] * 9, object)), "which reslab never unpickles"),
    "both": (changed(images=np.zeros((3, 8, 8)), labels=np.zeros(3, int)), "has the arrays images, labels, test_"),
    "twice": (changed(x_train=np.zeros((9, 8, 8))), "mean the same"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_dataset_is_refused_in_a_sentence(name: str, tmp_path: Path, folders: Folders) -> None:
    content, says = REFUSED[name]
    with pytest.raises(DatasetError, match=says) as refused:
        load(f"npz:{saved(tmp_path / 'set.npz', content)}", folders)
    assert str(refused.value).startswith(f"{tmp_path}/set.npz")
    assert "\n" not in str(refused.value)


def lying(path: Path, shape: str, content: bytes = b"") -> Path:
    """An .npz whose training images have the header `shape`, and only `content`."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("train_images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content)
        for name, values in arrays({"train": 9, "test": 3}).items():
            if name != "train_images":
                file = io.BytesIO()
                np.save(file, values)
                made.writestr(f"{name}.npy", file.getvalue())
    return path


@pytest.mark.parametrize(
    ("shape", "says"),
    [("(1000000, 100000, 100000)", "train_images is 1000000 × 100000 × 100000 of uint8, but holds 0 bytes"),
     ("(-1, 8, 8)", "is damaged"), ("(9, 8, 8)", "is damaged"), ("(True, 'x')", "cannot read"),
     ("__import__('os').system('false')", "cannot read"),
     ("(" * 500 + ")" * 500, "cannot read"), ("(9, 8, 8" * 5000, "cannot read")],
)  # fmt: skip
def test_a_header_is_checked_before_memory_is_taken(shape: str, says: str, tmp_path: Path, folders: Folders) -> None:
    with pytest.raises(DatasetError, match=says):
        load(f"npz:{lying(tmp_path / 'set.npz', shape)}", folders)


def test_more_than_the_memory_holds_is_refused_before_it_is_taken(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path / "set.npz", arrays({"train": 9, "test": 3}))
    monkeypatch.setattr(npz, "container_headroom", lambda: 1000)
    monkeypatch.setattr(npz, "read_array", lambda *args: pytest.fail("memory was taken"))
    with pytest.raises(DatasetError, match=r"set.npz takes 0.0 MiB of memory, 0.0 MiB are free; free some, or save"):
        load(f"npz:{path}", folders)


@pytest.mark.parametrize("harm", ["cut", "rubbish", "empty", "missing", "flipped"])
def test_a_damaged_file_is_said_to_be_so(harm: str, tmp_path: Path, folders: Folders) -> None:
    path = saved(tmp_path / "set.npz", arrays({"train": 9, "test": 3}))
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    harmed: dict[str, bytes] = {
        "cut": bytes(content[:400]),
        "rubbish": b"rubbish" * 99,
        "empty": b"",
        "flipped": bytes(content),
    }
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(harmed[harm])
    with pytest.raises(DatasetError, match="no file" if harm == "missing" else "cannot read"):
        load(f"npz:{path}", folders)


def test_an_archive_with_one_is_that_one(tmp_path: Path, folders: Folders) -> None:
    path = saved(tmp_path / "mine" / "set.npz", arrays({"train": 9, "test": 3}))
    archive = packed(path.parent, tmp_path / "set.tgz", "top")
    assert absolute_dataset(str(archive)) == f"npz:{archive}"
    assert load(f"npz:{archive}", folders).test_sha256 == load(f"npz:{path}", folders).test_sha256


def test_reading_hears_a_stop_and_a_second_validation_part_is_refused(tmp_path: Path, folders: Folders) -> None:
    path = saved(tmp_path / "set.npz", {**arrays({"train": 9, "val": 3, "test": 3}), "extra": np.zeros(3)})
    assert load(f"npz:{path}", folders).notes[1] == "arrays not used: extra"
    control = RunControl()
    control.stop()
    with pytest.raises(LoadingStopped):
        drain(load_dataset(RunSpec(f"npz:{path}", "resnet20"), folders, control))
    with pytest.raises(DatasetError, match="has a validation part of its own, val_images"):
        load(f"npz:{path}", folders, val_share=0.2)
