"""A run's guesses about files: the same as its test predictions, whatever the file's size and mode."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from engine.cli.parser import columns
from engine.control import RunControl
from engine.datasets.loading import load_dataset
from engine.paths import Places
from engine.results.store import Store
from engine.spec import RunSpec
from tests.engine.test_cli import output_of, reslab
from tests.fakes import drain


def test_guesses_about_the_test_images_are_the_recorded_predictions(
    places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reslab("train", "digits", "resnet20", "--epochs", "1") == 0
    _, data = drain(load_dataset(RunSpec("digits", "resnet20"), places, RunControl()))
    files = []
    for index in range(12):
        files.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(data.test.images[index, 0].numpy()).save(files[-1])
    found = output_of(capsys, "predict", "1", *files, "--json")
    with Store(places.database) as store:
        recorded = store.predictions(1)
    assert [int(item["guesses"][0]["class_name"]) for item in found] == list(recorded.predictions[:12])
    confidences = [item["guesses"][0]["confidence"] for item in found]
    assert confidences == pytest.approx(list(recorded.confidences[:12]), abs=1e-4)
    assert all(len(item["guesses"]) == 5 for item in found)


def test_a_large_colour_photograph_is_fitted_to_a_small_grey_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reslab("train", "digits", "resnet20", "--epochs", "1") == 0
    photograph = tmp_path / "[red]photo.jpg"
    Image.new("CMYK", (300, 200)).save(photograph)
    capsys.readouterr()
    assert reslab("predict", "1", str(photograph)) == 0
    text = capsys.readouterr().out
    assert str(photograph) in text
    assert text.count("%") == 5


@pytest.mark.parametrize(("content", "says"), [(None, "cannot read"), (b"", "empty"), (b"text", "no image")])
def test_what_is_no_image_is_one_sentence(
    content: bytes | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reslab("train", "digits", "resnet20", "--epochs", "1") == 0
    file = tmp_path / "x.jpg"
    if content is not None:
        file.write_bytes(content)
    capsys.readouterr()
    assert reslab("predict", "1", str(file)) == 2
    assert says in capsys.readouterr().err
    assert reslab("predict", "99", str(file)) == 2


def test_columns_line_up() -> None:
    assert columns([("a", "1"), ("bb", "10")], right=(1,)) == "a    1\nbb  10"
