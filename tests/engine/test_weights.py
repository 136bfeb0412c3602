"""Weights files of others: read where they can do no harm, refused in a sentence where something is wrong with them."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.errors import ModelError
from engine.models.building import build_model
from engine.models.weights import check_fit, read_weights
from engine.shape import DataShape
from engine.spec import RunSpec

SHAPE = DataShape(3, 32, 32, 10)


def state_of(name: str = "resnet18") -> dict[str, Tensor]:
    from torchvision import models

    network: nn.Module = getattr(models, name)(weights=None)
    return network.state_dict()


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as told:
        read_weights(path, 100 * 2**20)
    assert "\n" not in str(told.value)
    assert str(path) in str(told.value)
    return str(told.value)


@pytest.mark.parametrize("ending", [pytest.param(".pth", marks=pytest.mark.slow), ".safetensors"])
def test_a_state_dict_comes_back_whole(tmp_path: Path, ending: str) -> None:
    state, path = state_of(), tmp_path / f"own{ending}"
    torch.save(state, path) if ending == ".pth" else save_file(state, path)
    found = read_weights(path, 100 * 2**20).state
    assert found.keys() == state.keys()
    assert all(found[name].equal(value) for name, value in state.items())


class _Harmful:
    """A pickle that would run a command."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._mark}",)


def test_a_pickle_with_code_in_it_runs_nothing(tmp_path: Path) -> None:
    mark, path = tmp_path / "was-here", tmp_path / "bad.pth"
    torch.save({"conv1.weight": _Harmful(mark)}, path)
    said = refused(path)
    assert "it holds code or objects of Python (posix.system) instead of only tensors; none of it was executed" in said
    assert "expected a state dict" in said
    path.write_bytes(pickle.dumps(_Harmful(mark)))
    assert not mark.exists()
    for text in (said, refused(path)):
        assert not advises_to_run_it(text)
    assert not mark.exists()


def advises_to_run_it(text: str) -> bool:
    """As torch's own words do."""
    return "weights_only" in text or "succeed" in text


@pytest.mark.slow
def test_a_whole_network_and_a_text_are_no_state_dict(tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    assert "(torch.nn.modules.linear.Linear)" in refused(path)
    path.write_text("hello")
    assert not advises_to_run_it(refused(path))


@pytest.mark.slow
def test_a_pickle_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.pth"
    torch.save([torch.zeros(3)], path)
    assert "holds no state dict" in refused(path)


@pytest.mark.slow
def test_a_small_file_cannot_ask_for_much_memory(tmp_path: Path) -> None:
    """Forty times a tensor of 400 MB that is one number, repeated: 200 bytes each in the file, 16 GB as copies."""
    path = tmp_path / "bomb.pth"
    torch.save({f"layer{number}": torch.zeros(1).expand(10**8) for number in range(40)}, path)
    assert path.stat().st_size < 2**20
    refused(path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "header would be"),
        ((2**40).to_bytes(8, "little") + b"{}", "header would be"),
        ((2).to_bytes(8, "little") + b"no", "not JSON"),
        ((2).to_bytes(8, "little") + b"[]", "not a JSON object"),
        (None, "outside the file"),
    ],
    ids=["empty", "endless", "no-json", "list", "beyond"],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, data: bytes | None, words: str) -> None:
    path = tmp_path / "bad.safetensors"
    if data is None:
        header = json.dumps({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}).encode()
        data = len(header).to_bytes(8, "little") + header + b"\0" * 64
    path.write_bytes(data)
    assert words in refused(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    state, path = state_of(), tmp_path / "bad.safetensors"
    state["layer3.0.conv1.weight"][0, 0, 0, 0] = value
    save_file(state, path)
    assert "not finite in layer3.0.conv1.weight" in refused(path)


def test_names_shapes_and_kinds_are_checked_against_the_network() -> None:
    from torchvision import models

    network = models.resnet18(weights=None)
    state = state_of()
    assert check_fit(state, network) is None
    counts = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert check_fit(counts, network) is None  # as files from before torch 0.4.1
    network.load_state_dict(counts)
    assert check_fit({**state, "extra": torch.zeros(1)}, network) == "it has unknown extra"
    assert "lacks fc.bias" in str(check_fit({k: v for k, v in state.items() if k != "fc.bias"}, network))
    assert check_fit({**state, "fc.bias": torch.zeros(3)}, network) == "fc.bias is (3,) instead of (1000,)"
    whole = torch.zeros(1000, dtype=torch.int64)
    assert "fc.bias holds torch.int64" in str(check_fit({**state, "fc.bias": whole}, network))


def test_densenets_published_names_fit(tmp_path: Path) -> None:
    state = state_of("densenet121")
    published = {
        name.replace("norm1.", "norm.1.").replace("norm2.", "norm.2.").replace("conv1.", "conv.1.").replace(
            "conv2.", "conv.2."
        ) if "denselayer" in name else name: value
        for name, value in state.items()
    }  # fmt: skip
    path = tmp_path / "densenet.safetensors"
    save_file(published, path)
    build_model(RunSpec("digits", "densenet121", weights=str(path), image_size=32), SHAPE)


def test_a_file_that_is_far_too_large_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole: it takes nothing on the disk
    with pytest.raises(ModelError, match=r"take 1024\.0 GiB; expected at most"):
        read_weights(path, 2**20)


def test_numbers_that_float32_cannot_hold_are_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "double.safetensors"
    save_file({"a": torch.tensor([1e300], dtype=torch.float64)}, path)
    assert "not finite in a" in refused(path)


def test_a_torch_that_lies_in_the_current_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "resource", "engine"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(2)}, path)
    monkeypatch.chdir(tmp_path)
    assert read_weights(path, 2**20).state["a"].tolist() == [1.0, 1.0]
    assert not (tmp_path / "ran").exists()
