"""Networks in TOML files: every count and shape against torch, and one sentence for every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from engine.catalog.described import fit_layers
from engine.catalog.layers import LAYERS
from engine.catalog.models import count_parameters, find_model, misfit
from engine.errors import ModelError, SpecError
from engine.lab import Lab
from engine.models.building import build_model
from engine.models.whole import check_model
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from tests.own_files import LAYERS as TEXT
from tests.own_files import write

GREY = DataShape(1, 8, 8, 10)
HEAD = '\n[[layers]]\ntype = "Flatten"\n[[layers]]\ntype = "Linear"\nout_features = "classes"\n'
EVERY = {
    "Conv2d": "out_channels = 6\nkernel_size = [3, 2]\nstride = [2, 1]\npadding = 1\ngroups = 2\nbias = false",
    "Linear": "out_features = 12\nbias = false",
    "BatchNorm2d": "eps = 1e-3\nmomentum = 0.2",
    "BatchNorm1d": "affine = false",
    "GroupNorm": "num_groups = 2\neps = 1e-4",
    "LeakyReLU": "negative_slope = 0.2",
    "ELU": "alpha = 0.5",
    "GELU": 'approximate = "tanh"',
    "MaxPool2d": "kernel_size = 3\nstride = 2\npadding = 1\nceil_mode = true",
    "AvgPool2d": "kernel_size = [2, 3]\nceil_mode = true\ncount_include_pad = false\npadding = [1, 0]",
    "AdaptiveAvgPool2d": "output_size = [2, 3]",
    "AdaptiveMaxPool2d": "output_size = 2",
    "Flatten": "start_dim = 1\nend_dim = -1",
    "Dropout": "p = 0.3",
    "Dropout2d": "p = 0",
}
FLAT = ("Linear", "BatchNorm1d")


def network_of(folder: Path, text: str, shape: DataShape) -> nn.Module:
    return build_model(RunSpec("digits", str(write(folder / "net.toml", text))), shape)


@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_of_layer_has_torchs_shape_and_count(kind: str, tmp_path: Path) -> None:
    before = '[[layers]]\ntype = "Flatten"\n' if kind in FLAT else ""
    shape = DataShape(4, 9, 7, 5)
    network = network_of(tmp_path, f'{before}[[layers]]\ntype = "{kind}"\n{EVERY.get(kind, "")}\n{HEAD}', shape)
    assert network(torch.zeros(2, 4, 9, 7)).shape == (2, 5)
    counted = count_parameters(find_model(str(tmp_path / "net.toml")), shape, "own")
    assert counted == sum(values.numel() for values in network.parameters())


@settings(max_examples=20)
@given(
    kernel=st.integers(1, 5), stride=st.integers(1, 4), padding=st.integers(0, 2), dilation=st.integers(1, 3),
    ceil=st.booleans(), height=st.integers(1, 12), width=st.integers(1, 12), pools=st.booleans(),
)  # fmt: skip
def test_windows_are_torchs(
    tmp_path_factory: pytest.TempPathFactory, kernel: int, stride: int, padding: int, dilation: int, ceil: bool,
    height: int, width: int, pools: bool,
) -> None:  # fmt: skip
    """The shape is torch's, or both refuse."""
    numbers = f"kernel_size = {kernel}\nstride = {stride}\npadding = {padding}\ndilation = {dilation}\n"
    kind = f'"MaxPool2d"\nceil_mode = {str(ceil).lower()}' if pools else '"Conv2d"\nout_channels = 2'
    path = write(tmp_path_factory.mktemp("net") / "net.toml", f"[[layers]]\ntype = {kind}\n{numbers}{HEAD}")
    arguments: dict[str, Any] = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    layer = nn.MaxPool2d(**arguments, ceil_mode=ceil) if pools else nn.Conv2d(1, 2, **arguments)
    try:
        expected = layer(torch.zeros(1, 1, height, width)).flatten(1).shape[1]
    except RuntimeError:
        expected = 0
    try:
        found = fit_layers(path, DataShape(1, height, width, 3))[-1].arguments["in_features"]
    except SpecError:
        found = 0
    assert found == expected


POOL = '[[layers]]\ntype = "AdaptiveAvgPool2d"\noutput_size = [1, 10]\n'
MISTAKES = {
    "not TOML": ("layers = [", "is not TOML"),
    "no layers": ("", r"expected \[\[layers\]\], each with a type"),
    "unknown key": ("name = 1\n" + TEXT, "unknown key name; expected only layers"),
    "no type": ("[[layers]]\np = 1\n", "layer 1: expected a type"),
    "unknown type": ('[[layers]]\ntype = "Conv3d"\n', r"layer 1 \(Conv3d\): unknown type; expected one of Conv2d"),
    "code": ('[[layers]]\ntype = "__import__"\n', "unknown type"),
    "unknown argument": (TEXT.replace("padding =", "paddding ="), r"layer 1 \(Conv2d\): unknown argument paddding"),
    "missing": (TEXT.replace("kernel_size = 3\n", ""), r"layer 1 \(Conv2d\): kernel_size is missing; expected a whole"),
    "too small": (TEXT.replace("kernel_size = 3", "kernel_size = 0"), "kernel_size: 0 is not valid; expected"),
    "too large": (TEXT.replace("out_channels = 8", "out_channels = 99999999"), "out_channels: 99999999 is not valid"),
    "no number": (TEXT.replace("p = 0.2", "p = nan"), r"layer 6 \(Dropout\): p: nan is not valid; expected a number"),
    "switch": (TEXT.replace("kernel_size = 3", "kernel_size = 3\nbias = 1"), "bias: 1 is not valid; expected true"),
    "channels": (TEXT.replace("out_channels", "in_channels = 3\nout_channels"), "in_channels is 3, but it gets 1"),
    "linear": (TEXT.replace('[[layers]]\ntype = "Flatten"\n', ""), r"layer 6 \(Linear\): it gets images of 8×2×2"),
    "end": (TEXT.replace('"classes"', "7"), r"layer 7 \(Linear\): the network ends with 7 values per image"),
    "groups": (TEXT.replace("padding =", "groups = 3\npadding ="), "groups: 3 does not divide 1 channels in and 8 out"),
    "reach": (TEXT.replace("kernel_size = 3\npadding = \"same\"", "kernel_size = 9"), "reaches over 9 pixels"),
    "nothing": (POOL + HEAD.partition("[[layers]]\ntype = \"Linear")[0], "nothing to train"),
    "huge": ('[[layers]]\ntype = "Conv2d"\nout_channels = 65536\nkernel_size = 250\npadding = 125\n', "more than 2"),
    "many": ('[[layers]]\ntype = "Identity"\n' * 1001, "it has 1,001 layers; expected at most 1,000"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_one_sentence_that_names_layer_and_argument(mistake: str, tmp_path: Path) -> None:
    text, words = MISTAKES[mistake]
    path = write(tmp_path / "net.toml", text)
    problem = misfit(find_model(str(path)), GREY)
    assert problem is not None
    assert problem.startswith(f"{path}")
    assert "\n" not in problem
    with pytest.raises(SpecError, match=words):
        fit_layers(path, GREY)
    with pytest.raises(ModelError):
        build_model(RunSpec("digits", str(path)), GREY)


def test_a_missing_file_is_a_sentence_and_leaves_no_run(tmp_path: Path, folders: Folders) -> None:
    spec = RunSpec("digits", str(tmp_path / "none.toml"))
    with pytest.raises(SpecError, match=r"cannot read .*none\.toml"):
        check_model(spec, None)
    with pytest.raises((SpecError, ModelError), match=r"cannot read .*none\.toml"):
        Lab(folders).train(spec).wait()
    assert Lab(folders).runs() == []


def test_random_bytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    path.write_bytes(bytes(range(256)))
    assert "is not TOML" in str(misfit(find_model(str(path)), GREY))
    path.write_bytes(b"#" * (2**20 + 1))
    assert "expected at most 1.0 MiB" in str(misfit(find_model(str(path)), GREY))


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    first, second = (network_of(tmp_path, TEXT, GREY).state_dict() for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)
