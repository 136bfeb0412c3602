"""The presets: the report's own settings and figures, and the tables beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.errors import SpecError
from engine.reports import PRESETS, find_preset
from tests.engine.test_cats_dogs import pet_images
from tests.engine.test_cli import reslab


def test_part_2_is_the_reports_experiment() -> None:
    preset = find_preset("part2", {})
    (spec,) = preset.specs
    assert (spec.dataset, spec.model, spec.image_size, spec.epochs, spec.batch_size) == (
        "mnist",
        "resnet18",
        8,
        10,
        128,
    )
    (published,) = preset.published
    assert published is not None
    assert (published.untrained, published.accuracy, published.f1) == (0.1135, 0.9745, 0.974231)


def test_part_3_compares_two_networks_that_were_three_images_apart() -> None:
    preset = find_preset("part3", {})
    assert [spec.model for spec in preset.specs] == ["resnet18", "resnet50"]
    assert {(spec.dataset, spec.epochs, spec.weights) for spec in preset.specs} == {("cats-dogs", 3, "imagenet")}
    right = [round(7500 * found.accuracy) for found in preset.published if found and found.accuracy]
    assert right == [7363, 7360]
    assert preset.caveat is None


def test_another_experiment_is_said_to_be_one() -> None:
    assert "random ones: not the same experiment" in str(find_preset("part3", {"weights": "random"}).caveat)
    assert "another experiment" in str(find_preset("degradation", {}).caveat)
    assert find_preset("degradation", {"dataset": "cifar10"}).caveat is None


def test_degradation_tests_each_plain_network_against_its_twin() -> None:
    preset = find_preset("degradation", {"seed": 3})
    for first, second in preset.pairs:
        assert preset.specs[first].model.replace("plain", "resnet") == preset.specs[second].model
    assert {spec.seed for spec in preset.specs} == {3}


def test_an_unknown_report_names_those_that_there_are() -> None:
    with pytest.raises(SpecError, match=", ".join(PRESETS)):
        find_preset("part9", {})


@pytest.mark.slow
def test_part_3_runs_to_its_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pet_images(tmp_path / "pets" / "PetImages")
    options = ["--data-dir", str(tmp_path / "pets"), "--weights", "random", "--image-size", "16", "--epochs", "1"]
    assert reslab("report", "part3", *options) == 0
    text = capsys.readouterr().out
    assert "PUBLISHED: UNTRAINED" in text
    assert "98.173 %" in text
    assert "98.133 %" in text
    assert "not the same experiment" in text
    assert "exact McNemar p" in text or "very same images right" in text


def test_compare_gives_scipys_figures_of_the_printed_predictions(capsys: pytest.CaptureFixture[str]) -> None:
    import csv
    import io

    from scipy.stats import binomtest

    right = []
    for run, seed in ((1, "0"), (2, "1")):
        assert reslab("train", "digits", "resnet20", "--epochs", "1", "--seed", seed) == 0
        capsys.readouterr()
        assert reslab("predictions", str(run)) == 0
        rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
        right.append([row["true"] == row["predicted"] for row in rows])
    only_a = sum(a and not b for a, b in zip(*right, strict=True))
    only_b = sum(b and not a for a, b in zip(*right, strict=True))
    assert reslab("compare", "1", "2", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["only_a_right"], found["only_b_right"]) == (only_a, only_b)
    assert found["difference"] == pytest.approx((only_b - only_a) / 360)
    assert found["mcnemar_p"] == pytest.approx(binomtest(only_a, only_a + only_b, 0.5).pvalue)
    assert found["interval_95"][0] < found["difference"] < found["interval_95"][1]
    assert str(only_b) in found["verdict"]


def test_without_imagenet_weights_part_3_says_what_else_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.request

    def offline(*arguments: object, **named: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    pet_images(tmp_path / "pets" / "PetImages")
    assert reslab("report", "part3", "--data-dir", str(tmp_path / "pets"), "--image-size", "16") == 1
    assert "use --weights random or --weights FILE" in capsys.readouterr().err
