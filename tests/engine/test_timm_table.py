"""What the table of timm's networks says without timm."""

from __future__ import annotations

import pytest

from engine.catalog import timm_table
from engine.catalog.models import count_parameters, find_model
from engine.catalog.own_models import timm_models
from engine.catalog.timm_table import timm_rows
from engine.cli import main
from engine.errors import ModelError, SpecError
from engine.lab import Lab
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec


@pytest.fixture
def without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_table, "find_spec", lambda name: None)
    monkeypatch.setattr("engine.models.timm_models.is_timm_installed", lambda: False)


def test_counts_are_published_ones() -> None:
    """timm's own table of results (results/results-imagenet.csv), in millions."""
    published = {"resnet18": 11.69, "vit_tiny_patch16_224": 5.72, "convnext_tiny": 28.59, "efficientnet_b0": 5.29}
    for name, millions in published.items():
        number = timm_rows()[name].num_parameters
        assert number is not None
        assert round(number / 1e6, 2) == millions


def test_classes_and_channels_count() -> None:
    grey = DataShape(1, 8, 8, 10)
    ours = count_parameters(find_model("resnet18"), grey, "imagenet")
    assert count_parameters(find_model("timm:resnet18"), grey, "own") == ours
    assert count_parameters(find_model("timm:resnet18.a1_in1k"), grey, "own") == ours
    assert count_parameters(find_model("timm:of_a_newer_timm"), grey, "own") is None
    assert count_parameters(find_model("timm:vit_tiny_patch16_224"), grey, "own") is None  # depends on the size


def test_every_name_is_a_spec_and_has_a_row() -> None:
    assert len(timm_models()) > 1000
    for info in timm_models():
        assert RunSpec("digits", info.name).model == info.name
    with pytest.raises(SpecError, match="expected timm: and a network's name"):
        RunSpec("digits", "timm:")


@pytest.mark.usefixtures("without_timm")
def test_without_timm_one_sentence_says_how_to_install_it(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "timm"], lambda opening: 0) == 2
    assert "timm is not installed; uv pip install timm" in capsys.readouterr().err
    with pytest.raises(ModelError, match="timm is not installed; uv pip install timm"):
        Lab(folders).train(RunSpec("digits", "timm:resnet10t")).wait()
    assert Lab(folders).runs() == []
