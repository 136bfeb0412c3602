"""The weights file of a run as another run's weights: taken whole, fitted, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import ModelError
from engine.events import Evaluated, RunEnded
from engine.lab import Lab
from engine.models.building import build_model
from engine.models.form import form_of
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.store.store import Store
from tests.engine.test_shortcuts import GREY, begun, notes_of, spec_with

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunEnded]:
    """The weights file of a run, and how the run ended."""
    root = tmp_path_factory.mktemp("own")
    folders = Folders(root / "home", root / "data", root / "cache")
    spec = RunSpec("digits", "resnet18", epochs=1, dtype="float32", stem="small")
    *_, ended = Lab(folders).train(spec).events()
    with Store(folders.database) as store:
        weights = store.details(1).weights
    assert weights is not None
    assert isinstance(ended, RunEnded)
    return folders.run_folder(1) / weights.file, ended


def test_a_runs_own_weights_are_taken_whole(folders: Folders, own: tuple[Path, RunEnded]) -> None:
    path, ended = own
    events = begun(folders, spec_with(path, "resnet18", stem="small"))
    assert notes_of(events) == ("weights of run 1: 102 tensors kept; fc kept: the same 10 classes",)
    assert ended.final is not None
    # The last layer is kept, for the classes are as many, and the images are normalised as they were.
    assert next(event for event in events if isinstance(event, Evaluated)).metrics == ended.final


def test_a_runs_own_weights_are_fitted_to_other_images(own: tuple[Path, RunEnded]) -> None:
    path, _ = own
    network = build_model(spec_with(path, "resnet18", stem="small"), DataShape(3, 32, 32, 2))
    theirs = load_file(path)
    assert network.get_parameter("conv1.weight").sum(1).allclose(theirs["model.conv1.weight"][:, 0], atol=1e-6)
    assert network.get_parameter("layer4.1.conv2.weight").equal(theirs["model.layer4.1.conv2.weight"])
    assert network.get_parameter("fc.weight").shape == (2, 512)


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        ("resnet34", {"stem": "small"}, "from run 1, which trained resnet18; expected resnet34"),
        ("resnet18", {"stem": "small", "norm": "group"}, "with norm=batch; expected norm=group"),
        ("resnet18", {"stem": "imagenet"}, "with stem=small; expected stem=imagenet: set stem to small"),
    ],
)
def test_a_runs_own_weights_for_something_else_are_refused(
    own: tuple[Path, RunEnded], model: str, settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ModelError, match=expected):
        build_model(spec_with(own[0], model, **settings), GREY)


def _own_file(folder: Path, spec: RunSpec, header: dict[str, Any] | None = None) -> Path:
    """As a run of `spec` on grey digits leaves it, untrained."""
    path = folder / "own.safetensors"
    state = {f"model.{name}": value for name, value in build_model(spec, GREY).state_dict().items()}
    save_file(state, path, {"reslab": json.dumps({"run": 1, "spec": spec.to_dict(), **(header or {})})})
    return path


def test_weights_for_the_large_stem_are_not_cut_to_the_small_one(tmp_path: Path) -> None:
    path = _own_file(tmp_path, RunSpec("digits", "resnet18", stem="imagenet"))
    for stem in ("small", "auto"):
        with pytest.raises(ModelError, match="with stem=imagenet; expected stem=small: set stem to imagenet"):
            build_model(spec_with(path, "resnet18", stem=stem), GREY)
    assert build_model(spec_with(path, "resnet18", stem="imagenet"), GREY)


def test_a_runs_weights_are_not_those_of_its_twin(tmp_path: Path) -> None:
    for model, twin in (("resnet20", "plain20"), ("plain20", "resnet20")):
        path = _own_file(tmp_path, RunSpec("digits", model))
        with pytest.raises(ModelError, match=f"from run 1, which trained {model}; expected {twin}"):
            build_model(spec_with(path, twin), GREY)
    assert build_model(spec_with(path, "plain20", shortcut_padding="both-sides"), GREY)


def test_weights_of_a_run_from_before_the_padding_was_said_are_padded_at_the_end(tmp_path: Path) -> None:
    old = RunSpec("digits", "resnet20").to_dict()
    del old["shortcut_padding"]
    path = _own_file(tmp_path, RunSpec("digits", "resnet20"), {"spec": old})
    assert form_of(build_model(spec_with(path), GREY)) == {"shortcut_padding": "end"}


def test_a_relative_path_means_the_same_from_everywhere(
    folders: Folders, own: tuple[Path, RunEnded], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own[0].parent)
    spec = RunSpec("digits", "resnet18", epochs=1, stem="small", weights=own[0].name)
    begun(folders, spec)  # from Python and from the app, as by the command line
    with Store(folders.database) as store:
        assert store.run(1).spec["weights"] == str(own[0])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"format": 99}, "has format 99, this reslab reads formats up to 1; update reslab"),
        ({"form": {"shortcut_padding": "left"}}, "does not know networks with shortcut_padding='left'; update"),
        ({"form": {"shortcut_padding": []}}, r"does not know networks with shortcut_padding=\[\]; update"),
        ({"form": {"activation": "gelu"}}, "does not know networks with activation='gelu'; update"),
        ({"run": "\x1b[2J"}, "does not say which reslab run"),
    ],
)
def test_a_header_that_says_more_than_is_known_is_refused(
    tmp_path: Path, header: dict[str, Any], expected: str
) -> None:
    path = _own_file(tmp_path, RunSpec("digits", "resnet20"), header)
    with pytest.raises(ModelError, match=expected):
        build_model(spec_with(path), GREY)


def test_group_norms_of_others_do_not_say_how_many_groups_they_have(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file(build_model(RunSpec("cifar10", "resnet20", norm="group"), DataShape(3, 32, 32, 10)).state_dict(), path)
    with pytest.raises(ModelError, match="do not say how many groups"):
        build_model(spec_with(path, norm="group"), GREY)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "[]",
        "{}",
        '{"spec": {"model": 3}}',
        '{"spec": {"model": "resnet18"}, "form": 1}',
        "[" * 20_000,
        *(
            json.dumps({"spec": {"model": "resnet18"}, "normalization": {"mean": [mean], "std": [1]}})
            for mean in (10**400, "0.5", True, float("nan"))
        ),
    ],
)
def test_a_header_that_is_none_of_a_run_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"model.fc.bias": torch.zeros(10)}, path, {"reslab": header})
    with pytest.raises(ModelError, match="does not say which reslab run it is from"):
        build_model(spec_with(path, "resnet18"), GREY)


def test_googlenets_own_weights_say_whether_it_scales_its_input(tmp_path: Path) -> None:
    """A run from random weights did not; weights that are given make torchvision's do."""
    shape = DataShape(3, 32, 32, 10)
    network = build_model(RunSpec("cifar10", "googlenet"), shape)
    assert form_of(network) == {"transform_input": False}
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    for number, (form, spec) in enumerate(
        (({"form": form_of(network)}, {"weights": "x.pth"}), ({}, {"weights": "random"}), ({}, {"weights": "imagenet"}))
    ):
        path = tmp_path / f"{number}.safetensors"
        header = {"run": 1, "spec": {"model": "googlenet", **spec}, **form}
        save_file({name: value.contiguous() for name, value in state.items()}, path, {"reslab": json.dumps(header)})
        found = build_model(RunSpec("cifar10", "googlenet", weights=str(path)), shape)
        assert form_of(found) == {"transform_input": number == 2}
    grey = build_model(RunSpec("mnist", "googlenet", weights=str(path), image_size=32), DataShape(1, 32, 32, 10))
    assert form_of(grey) == {"transform_input": False}  # the layer for it needs three channels
    with torch.no_grad():
        assert grey.eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
