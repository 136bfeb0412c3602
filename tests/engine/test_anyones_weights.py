"""Weights as people have them: in checkpoints of any trainer, in any precision, for other channels and classes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.errors import ModelError
from engine.lab import Lab
from engine.models.building import build_model
from engine.models.state import load_state
from engine.models.unpickle import Found, find_state
from engine.models.weights import read_weights
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec

SHAPE = DataShape(3, 32, 32, 10)
CLASSES = tuple("abcdefghij")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Of a network for ten classes of RGB images, with statistics that are not those of a new one."""
    return random_state("resnet20")


def random_state(model: str) -> dict[str, Tensor]:
    found = build_model(RunSpec("cifar10", model, stem="small", seed=7), SHAPE).state_dict()
    return {name: torch.linspace(0.5, 1, len(value)) if "running" in name else value for name, value in found.items()}


def loaded(path: Path, shape: DataShape = SHAPE, names: tuple[str, ...] = (), **settings: Any) -> nn.Module:
    spec = RunSpec("cifar10", **{"model": "resnet20", "stem": "small", "weights": str(path), **settings})
    return build_model(spec, shape, class_names=names)


def saved(folder: Path, state: dict[str, Tensor]) -> Path:
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "theirs.safetensors")
    return folder / "theirs.safetensors"


def without(state: dict[str, Tensor], *parts: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not any(part in name for part in parts)}


def line_of(network: nn.Module) -> str:
    (line,) = network.notes  # type: ignore[misc]
    return str(line)


WEIGHT = {"fc.weight": torch.ones(2, 3)}
OTHER = {"fc.weight": torch.zeros(2, 3)}


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "ema", "teacher", "anything"])
def test_a_state_dict_is_found_under_its_key(key: str) -> None:
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2, 3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    found = find_state({"epoch": 3, "best": 0.9, "optimizer": optimizer, "args": {"lr": 0.1}, key: WEIGHT})
    assert isinstance(found, Found)
    assert (found.key, found.beside) == (key, ())
    assert found.tensors["fc.weight"] is WEIGHT["fc.weight"]


def test_the_usual_key_comes_first_and_the_others_are_named() -> None:
    found = find_state({"ema": OTHER, "model": {"state_dict": WEIGHT, "epoch": 1}, "teacher": OTHER})
    assert isinstance(found, Found)
    assert (found.key, found.beside) == ("model/state_dict", ("ema", "teacher"))
    assert found.tensors["fc.weight"] is WEIGHT["fc.weight"]
    bare = find_state({**WEIGHT, "epoch": 3, 5: torch.ones(1), "sparse": torch.ones(2, 2).to_sparse()})
    assert isinstance(bare, Found)
    assert (bare.key, [*bare.tensors]) == ("", ["fc.weight"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"a": WEIGHT, "b\x1b": OTHER},
            "holds 2 state dicts (a, b␛); its weights are looked for under state_dict, model",
        ),
        ({"epoch": 3}, "holds no state dict (epoch)"),
        ({}, "holds no state dict (it is empty)"),
        ([WEIGHT], "holds no state dict of names and tensors"),
        ({"model": {"model": {"model": {"model": WEIGHT}}}}, "holds no state dict"),
    ],
)
def test_what_holds_no_state_dict_or_several_is_refused(content: Any, says: str) -> None:
    assert says in str(find_state(content))


@pytest.mark.slow
def test_a_checkpoint_of_lightning_is_read_as_far_as_it_is_tensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    inner = {f"model.{name}": value for name, value in state.items()} | {"criterion.weight": torch.ones(10)}
    content = {
        "epoch": 4, "global_step": 100, "pytorch-lightning_version": "2.5", "state_dict": inner, "callbacks": {},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}], "lr_schedulers": [],
    }  # fmt: skip
    torch.save({**content, "hyper_parameters": {"lr": 0.1, "name": "resnet18"}}, tmp_path / "last.ckpt")
    network = loaded(tmp_path / "last.ckpt")
    assert line_of(network) == (
        "weights last.ckpt (from state_dict, without model.): 97 tensors kept; "
        "fc kept: 10 classes, names unknown; 1 tensor beside the network left out"
    )
    assert network.get_parameter("layer3.1.conv2.weight").equal(state["layer3.1.conv2.weight"])
    torch.save({**content, "hyper_parameters": argparse.Namespace(lr=0.1)}, tmp_path / "last.ckpt")
    with pytest.raises(
        ModelError, match=r"code or objects of Python \(argparse\.Namespace\).*none of it was executed; "
    ):
        loaded(tmp_path / "last.ckpt")


@pytest.mark.slow
def test_a_pickle_keeps_the_order_of_its_layers(tmp_path: Path) -> None:
    """With shortcut for downsample, as some have it; matched by order, which safetensors has not."""
    state = random_state("resnet18")
    theirs = {name.replace("downsample", "shortcut").replace("fc", "linear"): value for name, value in state.items()}
    torch.save({"net": {f"module.{name}": value for name, value in theirs.items()}, "acc": 95.0}, tmp_path / "ckpt.pth")
    network = loaded(tmp_path / "ckpt.pth", model="resnet18")
    assert line_of(network) == (
        "weights ckpt.pth (from net, without module.): 102 tensors matched by order and shape, their names "
        "differ; fc kept: 10 classes, names unknown"
    )
    assert all(value.equal(state[name]) for name, value in network.state_dict().items())
    with pytest.raises(ModelError, match=r"with 0 epochs nothing trains the rest.*only names count"):
        loaded(saved(tmp_path, theirs), model="resnet18", epochs=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(dtype: torch.dtype, tmp_path: Path, state: dict[str, Tensor]) -> None:
    theirs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    network = loaded(saved(tmp_path, without(theirs, "num_batches_tracked")))  # as before torch 0.4.1
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            assert value.equal(state[name].to(dtype).float())


def test_the_first_layer_is_summed_to_grey_and_repeated_to_colour(tmp_path: Path, state: dict[str, Tensor]) -> None:
    grey = loaded(saved(tmp_path, state), DataShape(1, 32, 32, 10))
    assert grey.get_parameter("conv1.weight").allclose(state["conv1.weight"].sum(1, keepdim=True))
    assert line_of(grey).endswith("conv1 3→1 channels, filters summed")
    theirs = {**state, "conv1.weight": state["conv1.weight"][:, :1].clone()}
    colour = loaded(saved(tmp_path, theirs))
    assert colour.get_parameter("conv1.weight").allclose(theirs["conv1.weight"].expand(-1, 3, -1, -1) / 3)
    assert line_of(colour).endswith("conv1 1→3 channels, filters repeated and scaled")


@pytest.mark.parametrize(
    ("head", "number", "is_kept", "says"),
    [
        ("auto", 10, True, "fc kept: 10 classes, names unknown"),
        ("keep", 10, True, "fc kept: 10 classes, names unknown"),
        ("new", 10, False, "fc new: 10 classes, as set"),
        ("auto", 4, False, "fc new: 10→4 classes"),
        ("new", 4, False, "fc new: 10→4 classes"),
    ],
)
def test_the_head_is_kept_or_new(
    head: str, number: int, is_kept: bool, says: str, tmp_path: Path, state: dict[str, Tensor]
) -> None:
    network = loaded(saved(tmp_path, state), DataShape(3, 32, 32, number), CLASSES[:number], head=head)
    assert f"{97 if is_kept else 95} tensors kept; {says}" in line_of(network)
    assert network.get_parameter("fc.weight").shape == (number, 64)
    if number == 10:
        assert network.get_parameter("fc.weight").equal(state["fc.weight"]) == is_kept
    assert network.get_parameter("layer1.0.conv1.weight").equal(state["layer1.0.conv1.weight"])


def test_a_head_that_cannot_be_kept_or_evaluated_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path, four = saved(tmp_path, state), DataShape(3, 32, 32, 4)
    with pytest.raises(ModelError, match=r"head keep: the last layer cannot be kept \(10→4 classes\)"):
        loaded(path, four, head="keep")
    with pytest.raises(
        ModelError, match=r"does not fit these classes \(10→4 classes\), and with 0 epochs nothing trains"
    ):
        loaded(path, four, epochs=0)
    backbone = saved(tmp_path, without(state, "fc."))
    assert "95 tensors kept; fc new: the weights have none" in line_of(loaded(backbone))
    with pytest.raises(ModelError, match="the weights have none"):
        loaded(backbone, head="keep")


def test_what_is_new_and_what_is_left_out_is_said(tmp_path: Path, state: dict[str, Tensor]) -> None:
    theirs = {**without(state, "layer1.0.bn1"), "layer1.0.extra": torch.ones(3), "layer1.0.more": torch.ones(3)}
    network = loaded(saved(tmp_path, theirs | {"layer1.1.most": torch.ones(3)}))
    assert "93 tensors kept" in line_of(network)
    assert "new: layer1.0.bn1.weight, layer1.0.bn1.bias and 2 more" in line_of(network)
    assert "left out: layer1.0.extra, layer1.0.more and 1 more" in line_of(network)


def test_a_network_with_shortcuts_is_not_taken_for_one_without(tmp_path: Path) -> None:
    """Its other tensors are 98 % of it, and have the same names. Nor are 3×3 filters for the large stem."""
    state = random_state("resnet18")
    with pytest.raises(ModelError, match="they are from a network with shortcuts; choose resnet18"):
        loaded(saved(tmp_path, state), model="plain18")
    with pytest.raises(ModelError, match="a first layer of 3×3 filters; set stem to small"):
        loaded(tmp_path / "theirs.safetensors", model="resnet18", stem="imagenet")
    plain = without(state, "downsample")
    with pytest.raises(ModelError, match="they are from a network without shortcuts; choose plain18"):
        loaded(saved(tmp_path, plain), model="resnet18")


def test_too_little_is_refused_with_the_nearest_names(tmp_path: Path, state: dict[str, Tensor]) -> None:
    theirs = {**without(state, "layer3"), "layer3.0.conv1.weight": torch.ones(64, 32, 1, 1)}
    with pytest.raises(ModelError) as refused:
        loaded(saved(tmp_path, theirs))
    said = str(refused.value)
    assert "24." in said.split(" % of the values match, expected at least 90 % (")[0]
    assert "90 % (layer3.0.conv1.weight is (64, 32, 1, 1) instead of (64, 32, 3, 3)" in said
    assert said.count("is missing") == 4
    assert "\n" not in said


def test_a_last_layer_whose_bias_has_other_classes_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with pytest.raises(ModelError, match=r"fc.bias is \(7\) instead of \(10\)|fc.bias is \(7,\) instead of \(10,\)"):
        loaded(saved(tmp_path, {**state, "fc.bias": torch.ones(7)}))


def test_a_checkpoint_with_optimizer_state_is_not_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    save_file({f"part{number}": torch.zeros(2**20) for number in range(7)}, path)
    assert len(read_weights(path, 2**22).state) == 7


def test_networks_that_ask_for_a_version_of_their_tensors_are_loaded(folders: Folders, tmp_path: Path) -> None:
    """MNASNet does, when its weights are given, and when a run of it is resumed or predicts."""
    network = build_model(RunSpec("cifar10", "mnasnet0_5"), SHAPE)
    state = {name: value + 1 for name, value in network.state_dict().items()}
    load_state(network, state)
    assert network.get_parameter("layers.0.weight").equal(state["layers.0.weight"])
    theirs = build_model(RunSpec("cifar10", "mnasnet0_5", weights=str(saved(tmp_path, state))), SHAPE)
    assert theirs.get_parameter("layers.0.weight").equal(state["layers.0.weight"])


@pytest.mark.slow
def test_a_run_of_such_a_network_predicts(folders: Folders, tmp_path: Path) -> None:
    from PIL import Image

    Lab(folders).evaluate(RunSpec("digits", "mnasnet0_5", image_size=32)).wait()
    Image.new("L", (32, 32), 200).save(tmp_path / "grey.png")
    (found,) = Lab(folders).predict(1, [tmp_path / "grey.png"])
    assert found.error is None
    assert len(found.guesses) == 5


_OWN = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.top = nn.Linear(8, num_classes)
"""


def test_weights_for_a_network_of_ones_own_are_matched_in_the_same_way(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(_OWN)
    model = f"{tmp_path}/net.py:Net"
    theirs = build_model(RunSpec("cifar10", model), SHAPE).state_dict()
    other = {f"module.{name.replace('top', 'linear')}": value + 1 for name, value in theirs.items()}
    path = saved(tmp_path, other)
    kept = loaded(path, model=model, stem="imagenet", epochs=0)
    assert line_of(kept) == (
        "weights theirs.safetensors (without module.): 8 tensors kept; "
        "top (linear in the file) kept: 10 classes, names unknown"
    )
    assert kept.get_parameter("top.weight").equal(theirs["top.weight"] + 1)
    grey = loaded(path, DataShape(1, 32, 32, 3), model=model, stem="imagenet")
    assert "top (linear in the file) new: 10→3 classes; stem 3→1 channels, filters summed" in line_of(grey)
    assert grey.get_parameter("stem.weight").allclose((theirs["stem.weight"] + 1).sum(1, keepdim=True))
    with pytest.raises(ModelError, match=r"10→3 classes.*with 0 epochs nothing trains a new one"):
        loaded(path, DataShape(1, 32, 32, 3), model=model, stem="imagenet", epochs=0)
    with pytest.raises(ModelError, match="of the values match, expected at least 90 %"):
        loaded(saved(tmp_path, {"a.weight": torch.ones(3)}), model=model, stem="imagenet")
