"""A run's guesses about files: the same as its test predictions, whatever the file's size and mode; file by file."""

from __future__ import annotations

import io
import json
import os
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engine.cli.parser import columns
from engine.control import RunControl
from engine.data.depth import PixelRange
from engine.data.images import ImageData
from engine.data.loading import load_dataset
from engine.data.resizing import Reading
from engine.lab import Lab
from engine.paths import Folders
from engine.predicting import _MOST_AT_ONCE, Network, find_files, predict, read_reading
from engine.records import Predictions, RunDetails
from engine.spec import RunSpec
from engine.store.store import Store
from tests.engine.deep_files import png16, scaled
from tests.engine.test_cli import reslab
from tests.fakes import drain

SPEC = RunSpec("digits", "resnet20", epochs=1, image_size=5, dtype="float32")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """A home with one run, of the digits at 5×5."""
    root = tmp_path_factory.mktemp("lab")
    folders = Folders(home=root / "home", data=root / "data", cache=root / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESLAB_TUNE", "0")
        list(Lab(folders).train(SPEC).events())
    return folders


@pytest.fixture(scope="module")
def digits(lab: Folders, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The test images as files, at their own size of 8×8."""
    data = load(SPEC.replace(image_size=None), lab)
    folder = tmp_path_factory.mktemp("digits")
    files = [folder / f"{number:03}.png" for number in range(len(data.test))]
    for file, image in zip(files, data.test.images.numpy(), strict=True):
        Image.fromarray(image[0]).save(file)
    return files


def load(spec: RunSpec, folders: Folders) -> ImageData:
    data: ImageData = drain(load_dataset(spec, folders, RunControl()))[1]
    return data


def recorded(folders: Folders) -> tuple[RunDetails, Predictions]:
    with Store(folders.database) as store:
        return store.details(1), store.predictions(1)


def predicted(lab: Folders, capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert reslab("--home", str(lab.home), "predict", "1", *map(str, words)) == status
    out, err = capsys.readouterr()
    return out, err


def test_files_of_the_test_images_give_the_pixels_that_the_run_was_tested_on(lab: Folders, digits: list[Path]) -> None:
    details, _ = recorded(lab)
    reading, tested = read_reading(details), load(SPEC, lab).test.images
    for file, image in zip(digits, tested, strict=True):
        found = reading.read_file(file)
        assert isinstance(found, Tensor)
        assert torch.equal(found, image)


def test_guesses_about_the_test_images_are_the_recorded_predictions(
    lab: Folders, digits: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = predicted(lab, capsys, *digits, "--json")
    found = json.loads(out)
    _, known = recorded(lab)
    assert [int(item["guesses"][0]["class_name"]) for item in found] == list(known.predictions)
    confidences = [item["guesses"][0]["confidence"] for item in found]
    assert confidences == pytest.approx(list(known.confidences), abs=1e-4)
    assert all(item["error"] is None and len(item["guesses"]) == 5 for item in found)
    assert [json.loads(line.rstrip(",")) for line in out.splitlines()[1:-1]] == found  # a line a file
    assert err == ""


def test_a_run_that_is_older_than_the_record_of_its_resampler_has_that_of_its_dataset(
    lab: Folders, digits: list[Path]
) -> None:
    details, _ = recorded(lab)
    assert details.started is not None
    older = replace(details.started, pixel_range=(None, None), resampler="")
    reading = read_reading(replace(details, started=older))
    assert reading == read_reading(details)
    assert reading.resampler == "tensor"
    assert read_reading(replace(details, started=older, record=replace(details.record, dataset="folder:x"))) == replace(
        reading, resampler="pillow"
    )


def test_a_large_colour_photograph_is_fitted_to_a_small_grey_network(
    lab: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph = tmp_path / "[red]photo.jpg"
    for size in ((300, 200), (2000, 1500)):
        Image.new("CMYK", size).save(photograph)
        out, _ = predicted(lab, capsys, photograph)
        assert str(photograph) in out
        assert out.count("%") == 5


@pytest.mark.parametrize(("content", "says"), [(None, "cannot read"), (b"", "empty"), (b"text", "no image")])
def test_what_is_no_image_is_one_sentence(
    content: bytes | None, says: str, lab: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.jpg"
    if content is not None:
        file.write_bytes(content)
    _, err = predicted(lab, capsys, file, status=2)
    assert says in err
    assert len(err.splitlines()) == 1
    assert reslab("--home", str(lab.home), "predict", "99", str(file)) == 2


def test_one_unusable_file_has_a_line_of_its_own_and_stops_no_other(
    lab: Folders, digits: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut, gone = tmp_path / "cut.png", tmp_path / "gone.png"
    cut.write_bytes(digits[0].read_bytes()[:50])
    os.mkfifo(pipe := tmp_path / "pipe")
    files = [digits[0], cut, digits[1], gone, pipe, digits[2]]
    out, err = predicted(lab, capsys, *files, "--json", status=1)
    found = json.loads(out)
    assert [item["file"] for item in found] == [str(file) for file in files]
    assert [len(item["guesses"]) for item in found] == [5, 0, 5, 0, 0, 5]
    problems = [item["error"] for item in found]
    assert problems[0] is problems[2] is problems[5] is None
    assert "damaged" in problems[1]
    assert problems[3:5] == ["cannot read it (No such file or directory)", "not a regular file"]
    assert "not usable: 3 of 6 images" in err
    out, _ = predicted(lab, capsys, *files, status=1)
    assert f"{cut}\n  not usable: damaged" in out
    assert out.count("%") == 15


def test_a_folder_is_looked_through_and_what_is_no_image_there_is_counted(
    lab: Folders, digits: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("a.png", "deep/er/b.png", ".hidden/c.png", "__MACOSX/d.png", ".e.png"):
        file = tmp_path / "own" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(digits[0].read_bytes())
    (tmp_path / "own" / "notes.txt").write_text("about them")
    (tmp_path / "own" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "own" / "round").symlink_to(tmp_path / "own")
    out, err = predicted(lab, capsys, tmp_path / "own", "--json")
    assert [Path(item["file"]).name for item in json.loads(out)] == ["a.png", "b.png"]
    assert err == "reslab: skipped 2 files that are not images\n"
    (tmp_path / "own" / "z.png").write_bytes(digits[0].read_bytes()[:50])
    out, err = predicted(lab, capsys, tmp_path / "own", "--json")
    assert [item["error"] is None for item in json.loads(out)] == [True, False, True]
    assert "not usable: 1 of 3 images" in err


def test_a_folder_without_an_image_is_refused(lab: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("about nothing")
    out, err = predicted(lab, capsys, tmp_path, "--json", status=2)
    assert json.loads(out) == []
    assert f"no image in {tmp_path}" in err


def test_memory_is_bounded_no_more_than_a_batch_is_read_before_it_is_answered(
    lab: Folders, digits: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, read, at_most = [], 0, 0
    forward, read_file = Network.forward, Reading.read_file

    def counted(self: Reading, path: Path) -> Tensor | str:
        nonlocal read, at_most
        read += 1
        at_most = max(at_most, read - answered)
        return read_file(self, path)

    def measured(self: Network, images: Tensor) -> Tensor:
        sizes.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Reading, "read_file", counted)
    monkeypatch.setattr(Network, "forward", measured)
    details, _ = recorded(lab)
    answered = 0
    for _ in predict(details, lab, digits):
        answered += 1
    assert answered == 360
    assert max(sizes) == at_most == _MOST_AT_ONCE


def test_where_a_batch_does_not_fit_each_image_is_tried_alone(
    lab: Folders, digits: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Network.forward

    def short(self: Network, images: Tensor) -> Tensor:
        if len(images) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, images)

    monkeypatch.setattr(Network, "forward", short)
    details, known = recorded(lab)
    found = [item.guesses[0].class_name for item in predict(details, lab, digits[:20])]
    assert array("H", map(int, found)) == known.predictions[:20]


def test_a_photograph_that_lies_on_its_side_is_predicted_upright(lab: Folders, digits: list[Path]) -> None:
    details, _ = recorded(lab)
    upright = Image.open(digits[7])
    exif = Image.Exif()
    exif[0x0112] = 6
    file = digits[0].parent / "turned.tiff"
    upright.transpose(Image.Transpose.ROTATE_90).save(file.with_suffix(".png"), exif=exif)
    turned, straight = predict(details, lab, [file.with_suffix(".png"), digits[7]])
    assert turned.guesses == straight.guesses
    shown = read_reading(details).picture(file.with_suffix(".png"), 8)
    assert not isinstance(shown, str)
    assert np.array_equal(shown[0], np.asarray(upright))


def test_a_file_is_read_by_the_range_of_the_run_and_not_by_its_own(tmp_path: Path, folders: Folders) -> None:
    draws = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for number in range(6):
            samples = draws.integers(0, 4096, (8, 8, 1)).astype(np.uint16)
            samples[0, 0] = 4095
            (tmp_path / "d" / name / f"{number}.png").write_bytes(png16(samples))
    list(Lab(folders).train(RunSpec(f"folder:{tmp_path / 'd'}", "resnet20", epochs=1)).events())
    details, _ = recorded(folders)
    reading = read_reading(details)
    assert reading.pixel_range == PixelRange(integers=4095)
    dark = draws.integers(0, 300, (8, 8, 1)).astype(np.uint16)  # its own bits would be ten
    found = reading.read(png16(dark))
    assert isinstance(found, Tensor)
    assert np.array_equal(found[0].numpy(), scaled(dark[..., 0], 0, 4095))
    found = reading.read(png16(dark * 200))
    assert isinstance(found, str)
    assert "not the scale of the others, 0 to 4,095" in found


def test_16_bits_are_refused_by_a_run_that_has_no_range_for_them(lab: Folders) -> None:
    details, _ = recorded(lab)
    problem = read_reading(details).read(png16(np.full((8, 8, 1), 9000, np.uint16)))
    assert isinstance(problem, str)
    assert "integers up to 9,000, and no range for more than 8 bits was recorded" in problem


@pytest.mark.parametrize("size", [(12, 10), (40, 20), (7, 30)])
def test_images_of_another_shape_are_cut_to_that_of_the_run_and_not_squeezed(size: tuple[int, int]) -> None:
    """A run of a folder whose images all had 12×10 pixels."""
    reading = Reading(3, 10, 12, "pillow", PixelRange())
    image = np.zeros((size[1], size[0], 3), np.uint8)
    image[..., 0] = 200
    image[size[1] // 2 :, :, 1] = 200
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG")
    found: Any = reading.read(data.getvalue())
    assert found.shape == (3, 10, 12)
    assert (found[0] == 200).all()
    assert (found[1, 0] == 0).all()
    assert (found[1, -1] == 200).all()


def test_files_are_found_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.png", "a/3.png", "0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([tmp_path / "b" / "2.png", tmp_path])
    assert [str(file.path.relative_to(tmp_path)) for file in found] == [
        "b/2.png", "0.png", "a/3.png", "b/1.png", "b/2.png",
    ]  # fmt: skip
    assert [file.named for file in found] == [True, False, False, False, False]


def test_columns_line_up() -> None:
    assert columns([("a", "1"), ("bb", "10")], right=(1,)) == "a    1\nbb  10"
