"""Datasets: loaded once to uint8, split the same way every time, or refused in one sentence."""

from __future__ import annotations

import gzip
import struct
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engine.control import RunControl
from engine.data.images import ImageData
from engine.data.loading import IMAGENET_MEAN, check_dataset, load_dataset
from engine.data.splits import stratified
from engine.errors import DatasetError, FetchError
from engine.events import RunStarted
from engine.lab import Lab
from engine.paths import Folders, find_folders
from engine.progress import LoadingStopped
from engine.spec import RunSpec
from tests.fakes import drain


def load(spec: RunSpec, data_dir: Path | None = None) -> ImageData:
    folders = find_folders(data_dir=str(data_dir) if data_dir else None)
    data: ImageData = drain(load_dataset(spec, folders, RunControl()))[1]
    return data


def spec_of(dataset: str, **settings: Any) -> RunSpec:
    return RunSpec(dataset, "resnet18", **settings)


def test_digits_are_scikit_learns_split_80_to_20() -> None:
    from sklearn.datasets import load_digits

    data = load(spec_of("digits"))
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.train.images.shape == (1437, 1, 8, 8)
    assert data.train.images.dtype == torch.uint8
    everything = torch.cat([data.train.images, data.test.images]).reshape(1797, -1)
    original = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, everything.numpy())) == sorted(map(bytes, original))
    assert load(spec_of("digits", seed=5, split_seed=5)).test_sha256 == data.test_sha256


def test_moments_are_those_of_the_training_part() -> None:
    data = load(spec_of("digits", val_share=0.25))
    pixels = data.train.images.numpy() / 255
    assert data.mean[0] == pytest.approx(pixels.mean(), abs=1e-9)
    assert data.std[0] == pytest.approx(pixels.std(), abs=1e-9)
    assert data.val is not None
    assert len(data.train) + len(data.val) == 1437


def test_imagenet_weights_get_imagenets_moments() -> None:
    data = load(spec_of("digits", weights="imagenet"))
    assert data.mean[0] == pytest.approx(sum(IMAGENET_MEAN) / 3)


def test_a_resized_image_keeps_its_mean_grey() -> None:
    native, half = load(spec_of("digits")), load(spec_of("digits", image_size=4))
    assert half.test.images.shape[2:] == (4, 4)
    difference = half.test.images.float().mean((1, 2, 3)) - native.test.images.float().mean((1, 2, 3))
    assert difference.abs().max() < 8


@given(st.lists(st.integers(2, 40), min_size=2, max_size=6), st.floats(0.1, 0.9), st.integers(0, 2**32 - 1))
def test_a_split_is_stratified_disjoint_complete_and_repeatable(sizes: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    try:
        rest, chosen = stratified(labels, share, seed, "test")
    except DatasetError:
        num_chosen = int(np.ceil(share * len(labels)))
        assert min(num_chosen, len(labels) - num_chosen) < len(sizes)
        return
    assert sorted([*rest, *chosen]) == list(range(len(labels)))
    counts = np.bincount(labels[chosen], minlength=len(sizes))
    fair = len(chosen) * np.array(sizes) / len(labels)
    assert len(chosen) == np.ceil(share * len(labels))
    assert np.abs(counts - fair).max() < 1
    again = stratified(labels, share, seed, "test")
    assert (again[0] == rest).all()
    assert (again[1] == chosen).all()


def write_idx_files(raw: Path, images: np.ndarray, labels: np.ndarray, prefix: str) -> None:
    raw.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">iiii", 2051, *images.shape)
    (raw / f"{prefix}-images-idx3-ubyte").write_bytes(head + images.tobytes())
    (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, len(labels)) + labels.tobytes())


def test_mnist_is_read_from_raw_files_that_lie_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for prefix, number in (("train", 40), ("t10k", 20)):
        images = rng.integers(0, 256, (number, 28, 28), dtype=np.uint8)
        labels = np.arange(number, dtype=np.uint8) % 10
        write_idx_files(tmp_path / "MNIST" / "raw", images, labels, prefix)
    data = load(spec_of("mnist"), tmp_path)
    assert data.train.images.shape == (40, 1, 28, 28)
    assert (data.test.images[:, 0].numpy() == images).all()
    assert data.class_names[3] == "3"


def test_without_network_and_files_one_sentence_says_where_they_are_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*arguments: Any, **named: Any) -> None:
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    for name, folder in (
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "FashionMNIST/raw"),
        ("cifar10", "cifar-10-batches-py"),
    ):
        with pytest.raises(DatasetError) as missing:
            load(spec_of(name), tmp_path)
        assert f"expected its files in {tmp_path / folder}" in str(missing.value)
        assert "--data-dir" in str(missing.value)
        assert "\n" not in str(missing.value)


def test_a_download_shows_progress_checks_the_md5_and_leaves_no_part(tmp_path: Path) -> None:
    import hashlib

    from engine.fetching import fetch

    source = tmp_path / "there" / "file.gz"
    source.parent.mkdir()
    source.write_bytes(gzip.compress(np.random.default_rng(0).bytes(700_000)))
    md5 = hashlib.md5(source.read_bytes()).hexdigest()
    target = tmp_path / "here" / "file.gz"
    seen, _ = drain(fetch(["file:///nowhere", source.as_uri()], target, md5, RunControl()))
    assert target.read_bytes() == source.read_bytes()
    assert seen[-1].done == len(source.read_bytes())
    assert list(target.parent.iterdir()) == [target]
    with pytest.raises(FetchError, match="sent another file"):
        drain(fetch([source.as_uri()], tmp_path / "here" / "other.gz", "0" * 32, RunControl()))
    assert list(target.parent.iterdir()) == [target]


def test_a_stop_is_heard_during_a_download(tmp_path: Path) -> None:
    from engine.fetching import fetch

    source = tmp_path / "file"
    source.write_bytes(b"x" * 600_000)
    control = RunControl()
    control.stop()
    with pytest.raises(LoadingStopped):
        drain(fetch([source.as_uri()], tmp_path / "copy", "0" * 32, control))
    assert not (tmp_path / "copy").exists()


def make_folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (12, 10), mode: str = "RGB") -> Path:
    """Pictures of one grey tone a class, so that a test can tell them apart."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for index in range(count):
            tone = 20 + 40 * number + index
            colour: Any = tone if mode == "L" else (tone, tone, tone)
            Image.new(mode, size, colour).save(root / name / f"{index:03}.png")
    return root


def test_a_folder_of_classes_is_split_by_its_share_and_seed(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"cat": 20, "dog": 30})
    data = load(spec_of(f"folder:{root}", test_share=0.4))
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.test)) == (30, 20)
    assert data.test.labels.bincount().tolist() == [8, 12]
    assert data.train.images.shape[1:] == (3, 10, 12)
    other = load(spec_of(f"folder:{root}", test_share=0.4, split_seed=1))
    assert other.test_sha256 != data.test_sha256


@pytest.mark.parametrize("part", ["test", "val"])
def test_train_and_test_folders_are_taken_as_they_are(tmp_path: Path, part: str) -> None:
    make_folder(tmp_path / "train", {"a": 6, "b": 5}, mode="L")
    make_folder(tmp_path / part, {"a": 3, "b": 2}, mode="L")
    data = load(spec_of(f"folder:{tmp_path}"))
    assert (len(data.train), len(data.test)) == (11, 5)
    assert data.train.images.shape[1] == 1


def test_what_does_not_decode_is_counted_and_left_out(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", {"cat": 9, "dog": 9})
    (root / "cat" / "empty.jpg").touch()
    (root / "cat" / "notes.txt").write_text("not a picture")
    whole = (root / "dog" / "000.png").read_bytes()
    (root / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    data = load(spec_of(f"folder:{root}"))
    assert data.num_unusable == 3
    assert len(data.train) + len(data.test) == 18


def test_images_of_many_sizes_and_modes_become_one(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 4}, size=(300, 200))
    make_folder(tmp_path, {"b": 4}, size=(100, 400))
    Image.new("L", (90, 90), 7).save(tmp_path / "a" / "grey.jpg")
    Image.new("CMYK", (90, 90)).save(tmp_path / "a" / "cmyk.jpg")
    Image.new("P", (90, 90)).save(tmp_path / "b" / "gif named jpg.jpg", format="GIF")
    data = load(spec_of(f"folder:{tmp_path}", image_size=32))
    assert data.train.images.shape[1:] == (3, 32, 32)
    assert data.num_unusable == 0


def test_a_folder_that_is_none_is_refused_before_a_run_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no folder"):
        check_dataset(spec_of(f"folder:{tmp_path}/none"))
    make_folder(tmp_path, {"only": 1})
    with pytest.raises(DatasetError, match="1 class folder; expected one folder a class"):
        check_dataset(spec_of(f"folder:{tmp_path}"))


def test_real_cats_and_dogs_decode(real_data: Path) -> None:
    data = load(spec_of(f"folder:{real_data / 'PetImages'}", image_size=64))
    assert data.class_names == ("Cat", "Dog")
    assert data.train.images.shape[1:] == (3, 64, 64)
    assert 0.3 < data.mean[0] < 0.6


def test_real_mnist_is_found(real_data: Path) -> None:
    data = load(spec_of("mnist"), real_data)
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert data.mean[0] == pytest.approx(0.1307, abs=1e-4)  # torch's own MNIST example
    assert data.std[0] == pytest.approx(0.3081, abs=1e-4)


def test_a_folder_that_has_changed_is_loaded_anew_in_the_same_session(tmp_path: Path, folders: Folders) -> None:
    root = make_folder(tmp_path / "pets", {"cat": 20, "dog": 30}, size=(8, 8))
    lab = Lab(folders)
    spec = RunSpec(f"folder:{root}", "resnet20", epochs=1, dtype="float32")
    before = next(event for event in lab.train(spec).events() if isinstance(event, RunStarted))
    make_folder(tmp_path / "more", {"cat": 40}, size=(8, 8))
    for file in (tmp_path / "more" / "cat").iterdir():
        file.replace(root / "cat" / f"new-{file.name}")
    after = next(event for event in lab.train(spec).events() if isinstance(event, RunStarted))
    assert (before.num_train + before.num_test, after.num_train + after.num_test) == (50, 90)


def test_a_home_of_nobody_is_a_folder_that_is_not_there() -> None:
    with pytest.raises(DatasetError, match=r"no folder .*~nosuchuser/pictures"):
        check_dataset(RunSpec("folder:~nosuchuser/pictures", "resnet18"))
